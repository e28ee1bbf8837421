// Numbers and times as people read them. One place, so that a chart, a table and an export say the same.

export type Unit = "seconds" | "ratio" | "count" | "rate" | "bytes" | "byterate";

function round(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && size < 1) return String(Number(value.toPrecision(2)));
  return size >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

function scaled(value: number, steps: [number, string][]): string {
  const size = Math.abs(value);
  for (const [step, name] of steps) if (size >= step * 0.9995) return `${round(value / step)}${name}`;
  const [step, name] = steps[steps.length - 1] as [number, string];
  return `${round(value / step)}${name}`;
}

const COUNT: [number, string][] = [
  [1e9, " G"],
  [1e6, " M"],
  [1e4, ""],
  [1, ""],
];
const BYTES: [number, string][] = [
  [2 ** 40, " TiB"],
  [2 ** 30, " GiB"],
  [2 ** 20, " MiB"],
  [2 ** 10, " KiB"],
  [1, " B"],
];

function grouped(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

function count(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return scaled(value, COUNT);
  return size >= 1000 ? grouped(value) : round(value);
}

export function seconds(value: number): string {
  const size = Math.abs(value);
  if (size === 0) return "0 ms";
  if (size < 1e-3) return `${round(value * 1e6)} µs`;
  if (size < 0.9995) return `${round(value * 1e3)} ms`;
  if (size < 120) return `${round(value)} s`;
  return size < 7200 ? `${round(value / 60)} min` : `${round(value / 3600)} h`;
}

export function format(value: number, unit: Unit): string {
  if (!Number.isFinite(value)) return "–";
  switch (unit) {
    case "seconds":
      return seconds(value);
    case "ratio":
      return `${round(value * 100)} %`;
    case "count":
      return count(value);
    case "rate":
      return `${count(value)}/s`;
    case "bytes":
      return value === 0 ? "0 B" : scaled(value, BYTES);
    case "byterate":
      return value === 0 ? "0 B/s" : `${scaled(value, BYTES)}/s`;
  }
}

/** As short as it can be: labels of axes. */
export function short(value: number, unit: Unit): string {
  if ((unit === "count" || unit === "rate") && Math.abs(value) >= 1000) {
    const text = value >= 999_500 ? `${round(value / 1e6)} M` : `${round(value / 1000)} k`;
    return unit === "rate" ? `${text}/s` : text;
  }
  return value === 0 ? "0" : format(value, unit);
}

const two = (value: number) => String(value).padStart(2, "0");

/** Time of day, local. */
export function clock(ms: number): string {
  const date = new Date(ms);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export function day(ms: number): string {
  const date = new Date(ms);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** A length of time in words. */
export function lasting(ms: number): string {
  const total = Math.max(0, Math.round(ms / 1000));
  if (total < 120) return `${total} s`;
  if (total < 7200) return `${Math.round(total / 60)} min`;
  if (total < 172800) return `${round(total / 3600)} h`;
  return `${round(total / 86400)} days`;
}
