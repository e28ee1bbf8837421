// The statements of a stretch of time: how often, how long, what share of all time, and a line of their calls.

import { Histogram } from "../store/histogram.ts";
import { addEntry, matches, totalOf } from "../store/query.ts";
import { PREFIX, type Series } from "../store/run.ts";
import type { Scene } from "./panel.ts";

export interface Row {
  id: string;
  text: string;
  database: string;
  calls: number;
  /** Calls a second. */
  rate: number;
  /** Seconds in PostgreSQL, all calls together, and their part of all statements' seconds. */
  time: number;
  share: number;
  mean: number;
  p50: number;
  p99: number;
  queue: number;
  rows: number;
  errors: number;
  spark: number[];
}

export type Column = "text" | "share" | "rate" | "mean" | "p50" | "p99" | "queue" | "rows" | "errors";

const SPARK = 24;

interface Group {
  calls: Series[];
  rows: Series[];
  errors: Series[];
  server: Series[];
  queue: Series[];
}

function groups(scene: Scene): Map<string, Group> {
  const { run } = scene.query;
  const out = new Map<string, Group>();
  const into = (metric: string, pick: (group: Group, series: Series) => Series[] | null) => {
    for (const series of run.seriesOf(PREFIX + metric)) {
      const id = series.labels.statement;
      if (id === undefined || !matches(series.labels, scene.filter)) continue;
      let group = out.get(id);
      if (!group) {
        group = { calls: [], rows: [], errors: [], server: [], queue: [] };
        out.set(id, group);
      }
      pick(group, series)?.push(series);
    }
  };
  into("statement_calls_total", (group) => group.calls);
  into("statement_rows_total", (group) => group.rows);
  into("statement_errors_total", (group) => group.errors);
  into("statement_seconds", (group, series) =>
    series.labels.phase === "server" ? group.server : series.labels.phase === "queue" ? group.queue : null,
  );
  return out;
}

const sum = (list: Series[], from: number, to: number) =>
  list.reduce((total, one) => total + totalOf(one, from, to), 0);
const histogram = new Histogram();

function fill(list: Series[], from: number, to: number): Histogram {
  histogram.clear();
  for (const one of list) {
    if (one.kind !== "histogram") continue;
    for (let at = one.tick.lowerBound(from); at < one.tick.length && one.tick.at(at) < to; at++)
      addEntry(one, at, histogram);
  }
  return histogram;
}

function spark(list: Series[], from: number, to: number): number[] {
  const out = new Array<number>(Math.min(SPARK, Math.max(1, to - from))).fill(0);
  for (const one of list) {
    for (let at = one.tick.lowerBound(from); at < one.tick.length && one.tick.at(at) < to; at++) {
      const place = Math.floor(((one.tick.at(at) - from) / Math.max(1, to - from)) * out.length);
      out[place] = (out[place] ?? 0) + one.value.at(at);
    }
  }
  return out;
}

export function statementRows(scene: Scene): Row[] {
  const { query } = scene;
  const [from, to] = query.range(scene.from, scene.to);
  let seconds = 0;
  for (let tick = from; tick < to; tick++) seconds += query.run.dt.at(tick);
  const rows: Row[] = [];
  let all = 0;
  for (const [id, group] of groups(scene)) {
    const calls = sum(group.calls, from, to);
    const server = fill(group.server, from, to);
    if (calls === 0 && server.count === 0) continue;
    const mean = server.mean() / 1e6;
    const time = server.count === 0 ? 0 : mean * server.count;
    const [p50, p99] = server.quantiles([0.5, 0.99]) as [number, number];
    all += time;
    const known = query.run.statements.get(id);
    rows.push({
      id,
      text: known?.text ?? id,
      database: known?.database ?? group.calls[0]?.labels.database ?? "",
      calls,
      rate: seconds > 0 ? calls / seconds : Number.NaN,
      time,
      share: 0,
      mean,
      p50: p50 / 1e6,
      p99: p99 / 1e6,
      queue: fill(group.queue, from, to).quantile(0.99) / 1e6,
      rows: calls > 0 ? sum(group.rows, from, to) / calls : Number.NaN,
      errors: sum(group.errors, from, to),
      spark: spark(group.calls, from, to),
    });
  }
  for (const row of rows) row.share = all > 0 ? row.time / all : Number.NaN;
  return rows;
}

export function sorted(rows: Row[], column: string, descending: boolean, search: string): Row[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows.filter((row) =>
    words.every((word) => `${row.text} ${row.id} ${row.database}`.toLowerCase().includes(word)),
  );
  const key = column as keyof Row;
  const number = (row: Row) => {
    const value = row[key];
    return typeof value === "number" && Number.isFinite(value) ? value : Number.NEGATIVE_INFINITY;
  };
  found.sort(
    (a, b) => (key === "text" ? b.text.localeCompare(a.text) : number(b) - number(a)) || a.id.localeCompare(b.id),
  );
  return descending ? found : found.reverse();
}
