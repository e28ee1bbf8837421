// What a chart shows, apart from how: from one model come the picture on the screen, its exports, its table and its description.

import { clock, day, format, type Unit } from "../format.ts";
import type { Event } from "../store/run.ts";

export interface Line {
  name: string;
  x: ArrayLike<number>;
  y: ArrayLike<number>;
  /** Place in the palette of colours and dashes. */
  style: number;
  /** Belongs to the run that is compared with. */
  second?: boolean;
}

export interface Limit {
  value: number;
  label: string;
}

export interface TimeModel {
  kind: "time";
  unit: Unit;
  from: number;
  to: number;
  lines: Line[];
  limits: Limit[];
  events: Event[];
  /** Top of the scale that is shown at least. */
  atLeast?: number;
}

export interface HeatModel {
  kind: "heat";
  from: number;
  to: number;
  columns: number[];
  /** Upper bounds of the rows, in seconds. */
  rows: number[];
  cells: [number, number, number][];
}

export interface Curve {
  name: string;
  /** Shares and the values in seconds below which they lie. */
  shares: number[];
  values: number[];
  style: number;
  second?: boolean;
}

export interface CurveModel {
  kind: "curve";
  curves: Curve[];
  limits: Limit[];
}

export interface BarModel {
  kind: "bars";
  unit: Unit;
  groups: string[];
  bars: { name: string; values: number[]; style: number }[];
}

export type Model = TimeModel | HeatModel | CurveModel | BarModel;

export interface Table {
  columns: string[];
  rows: (string | number)[][];
}

export function isEmpty(model: Model): boolean {
  switch (model.kind) {
    case "time":
      return model.lines.every((line) => {
        for (let index = 0; index < line.y.length; index++) if (Number.isFinite(line.y[index])) return false;
        return true;
      });
    case "heat":
      return model.cells.length === 0;
    case "curve":
      return model.curves.every((curve) => curve.values.length === 0);
    case "bars":
      return model.groups.length === 0;
  }
}

/** First position whose time is at least this. */
export function position(x: ArrayLike<number>, time: number): number {
  let low = 0;
  let high = x.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((x[middle] as number) < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The value that holds at a time; NaN where the line has none near. */
export function valueAt(line: Line, time: number): number {
  const at = Math.min(position(line.x, time), line.x.length - 1);
  return at < 0 ? Number.NaN : (line.y[at] as number);
}

export function nameOf(line: { name: string; second?: boolean }): string {
  return line.second ? `${line.name} (B)` : line.name;
}

/** The numbers behind the picture, in base units, as exports and tables have them. */
export function tableOf(model: Model): Table {
  switch (model.kind) {
    case "time":
      return timeTable(model);
    case "heat":
      return {
        columns: ["time", "up_to_seconds", "count"],
        rows: model.cells.map(([column, row, count]) => [
          new Date(model.columns[column] as number).toISOString(),
          model.rows[row] as number,
          count,
        ]),
      };
    case "curve": {
      const shares = [...new Set(model.curves.flatMap((curve) => curve.shares))].sort((a, b) => a - b);
      return {
        columns: ["share", ...model.curves.map(nameOf)],
        rows: shares.map((share) => [
          share,
          ...model.curves.map((curve) => {
            const at = curve.shares.indexOf(share);
            return at < 0 ? "" : (curve.values[at] as number);
          }),
        ]),
      };
    }
    case "bars":
      return {
        columns: ["name", ...model.bars.map((bar) => bar.name)],
        rows: model.groups.map((group, index) => [group, ...model.bars.map((bar) => bar.values[index] ?? "")]),
      };
  }
}

function timeTable(model: TimeModel): Table {
  const times = new Set<number>();
  for (const line of model.lines) {
    for (let at = position(line.x, model.from); at < line.x.length && (line.x[at] as number) <= model.to; at++) {
      times.add(line.x[at] as number);
    }
  }
  const sorted = [...times].sort((a, b) => a - b);
  return {
    columns: ["time", ...model.lines.map(nameOf)],
    rows: sorted.map((time) => [
      new Date(time).toISOString(),
      ...model.lines.map((line) => {
        const at = position(line.x, time);
        const value = line.x[at] === time ? (line.y[at] as number) : Number.NaN;
        return Number.isFinite(value) ? value : "";
      }),
    ]),
  };
}

/** The unit of the numbers in a model's table, for its formatting on the screen. */
export function unitOf(model: Model): Unit {
  return model.kind === "time" || model.kind === "bars" ? model.unit : "seconds";
}

/** The chart in words, for who does not see it. */
export function describe(title: string, model: Model): string {
  if (isEmpty(model)) return `${title}: no data.`;
  switch (model.kind) {
    case "time": {
      const parts = model.lines.map((line) => {
        let low = Number.POSITIVE_INFINITY;
        let high = Number.NEGATIVE_INFINITY;
        let last = Number.NaN;
        for (let at = position(line.x, model.from); at < line.x.length && (line.x[at] as number) <= model.to; at++) {
          const value = line.y[at] as number;
          if (!Number.isFinite(value)) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
          last = value;
        }
        const { unit } = model;
        return `${nameOf(line)} now ${format(last, unit)}, between ${format(low, unit)} and ${format(high, unit)}`;
      });
      return `${title}, ${day(model.from)} ${clock(model.from)} to ${clock(model.to)}: ${parts.join("; ")}.`;
    }
    case "heat":
      return `${title}: how many requests took how long, ${clock(model.from)} to ${clock(model.to)}.`;
    case "curve":
      return `${title}: ${model.curves
        .map((curve) => {
          const at = curve.shares.findLastIndex((share) => share <= 0.9901);
          return `${nameOf(curve)} 99 % within ${format(curve.values[at] ?? Number.NaN, "seconds")}`;
        })
        .join("; ")}.`;
    case "bars":
      return `${title}: ${model.groups
        .map(
          (group, index) =>
            `${group} ${model.bars.map((bar) => format(bar.values[index] ?? Number.NaN, model.unit)).join(", ")}`,
        )
        .join("; ")}.`;
  }
}
