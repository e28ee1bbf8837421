// Reads Prometheus text (0.0.4, and OpenMetrics 1.0): one moment, everything counted since the start.

import { Run } from "../store/run.ts";
import type { Kind, Labels, Metric } from "./schema.ts";

export function looksLikeProm(text: string): boolean {
  return (
    /^# (HELP|TYPE|UNIT) \S+/m.test(text.slice(0, 8192)) ||
    /^[a-z_:][a-z0-9_:]*(\{.*\})? [-+\d.NaInf]+/im.test(text.slice(0, 4096))
  );
}

interface Sample {
  name: string;
  labels: Labels;
  value: number;
}

export function readProm(text: string, name: string, modified: number): Run {
  const run = new Run(name, Number.POSITIVE_INFINITY);
  run.moment = true;
  const metrics = new Map<string, Metric>();
  const samples: Sample[] = [];
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line === "# EOF") continue;
    try {
      if (line.startsWith("#")) describe(line, metrics);
      else samples.push(readSample(line));
    } catch (error) {
      run.complaints.push({ source: name, line: index + 1, reason: (error as Error).message });
    }
  }
  const find = (metric: string) => samples.find((sample) => sample.name.endsWith(metric))?.value;
  const start = find("process_start_timestamp_seconds");
  const taken = find("export_timestamp_seconds") ?? modified / 1000;
  const uptime = start !== undefined && taken > start ? taken - start : 1;
  run.accept({
    kind: "header",
    header: {
      schema: "optimacore.series/1",
      version: samples.find((sample) => sample.name.endsWith("build_info"))?.labels.version ?? "",
      commit: "",
      pid: 0,
      start_us: (start ?? taken - uptime) * 1e6,
      interval_us: Math.max(1, uptime * 1e6),
      host: {},
      metrics: [...metrics.values()],
    },
  });
  run.open(taken * 1000, uptime);
  fill(run, samples, metrics);
  return run;
}

function fill(run: Run, samples: Sample[], metrics: Map<string, Metric>): void {
  const histograms = new Map<string, { name: string; labels: Labels; bounds: [number, number][] }>();
  for (const sample of samples) {
    const base = sample.name.replace(/_(bucket|sum|count)$/, "");
    if (base !== sample.name && metrics.get(base)?.type === "histogram") {
      if (!sample.name.endsWith("_bucket")) continue;
      const { le, ...labels } = sample.labels;
      const key = base + JSON.stringify(Object.entries(labels).sort());
      const one = histograms.get(key) ?? { name: base, labels, bounds: [] };
      one.bounds.push([le === "+Inf" ? Number.POSITIVE_INFINITY : Number(le), sample.value]);
      histograms.set(key, one);
    } else {
      run.put(run.declare(sample.name, sample.labels), sample.value);
    }
  }
  for (const { name, labels, bounds } of histograms.values()) {
    bounds.sort((a, b) => a[0] - b[0]);
    let before = 0;
    let highest = 0;
    const pairs: [number, number][] = [];
    for (const [bound, count] of bounds) {
      if (Number.isFinite(bound)) highest = bound;
      if (count > before) pairs.push([Math.round((Number.isFinite(bound) ? bound : highest) * 1e6), count - before]);
      before = Math.max(before, count);
    }
    run.put(run.declare(name, labels), pairs);
  }
}

function describe(line: string, metrics: Map<string, Metric>): void {
  const found = /^# (HELP|TYPE|UNIT) (\S+) ?(.*)$/.exec(line);
  if (!found) return;
  const [, what, name = "", rest = ""] = found;
  const metric = metrics.get(name) ?? { name, type: "gauge", unit: "count", labels: [], help: "", normal: "" };
  if (what === "HELP") metric.help = rest;
  else if (what === "TYPE") metric.type = (["counter", "histogram", "info"].includes(rest) ? rest : "gauge") as Kind;
  metrics.set(name, metric);
  // OpenMetrics declares counters without their ending
  if (what === "TYPE" && rest === "counter" && !name.endsWith("_total")) {
    metrics.set(`${name}_total`, { ...metric, name: `${name}_total` });
  }
}

function readSample(line: string): Sample {
  const name = /^[A-Za-z_:][A-Za-z0-9_:]*/.exec(line)?.[0];
  if (!name) throw new Error("it is no sample: no name of a metric");
  let at = name.length;
  const labels: Labels = {};
  if (line[at] === "{") {
    at++;
    const label = /\s*([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"\s*,?/y;
    for (;;) {
      if (line[at] === "}") break;
      label.lastIndex = at;
      const found = label.exec(line);
      if (!found) throw new Error("its labels do not end as they should");
      const text = (found[2] ?? "").replace(/\\(.)/g, (_, char: string) => (char === "n" ? "\n" : char));
      if (found[1] !== "__proto__") labels[found[1] as string] = text;
      at = label.lastIndex;
    }
    at++;
  }
  const value = line.slice(at).trim().split(/\s+/)[0] ?? "";
  const number =
    value === "+Inf" ? Number.POSITIVE_INFINITY : value === "-Inf" ? Number.NEGATIVE_INFINITY : Number(value);
  if (value === "" || (Number.isNaN(number) && value !== "NaN"))
    throw new Error(`"${value.slice(0, 40)}" is no number`);
  return { name, labels, value: number };
}
