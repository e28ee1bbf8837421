// Charts of durations: quantiles of each part of a request's time, how many took how long, percentile curves.

import type { Model, TimeModel } from "../chart/model.ts";
import type { Part } from "../state.ts";
import { boundOf, Histogram } from "../store/histogram.ts";
import type { Filter, Query } from "../store/query.ts";
import { PART_NAMES, type Panel, type Scene, time } from "./panel.ts";

const SHARES = [0.5, 0.95, 0.99, 0.999];

/** Where latency is read: of requests, or of the statement that is looked at. */
export function latencyMetric(scene: Scene): { metric: string; filter: Filter } {
  if (scene.statement === null) return { metric: "request_seconds", filter: scene.filter };
  return { metric: "statement_seconds", filter: { ...scene.filter, statement: scene.statement } };
}

export function partQuantiles(scene: Scene, part: string): TimeModel {
  const { metric, filter } = latencyMetric(scene);
  return time(scene, "seconds", (query) => query.quantiles(metric, SHARES, filter, { phase: part }), { join: "max" });
}

/** The parts on one scale, so that they can be compared at a glance. */
export function partPanel(part: Part): Panel {
  return {
    id: `latency-${part.replace("_", "-")}`,
    title: `${(PART_NAMES[part] as string).replace(/^./, (char) => char.toUpperCase())}`,
    metrics: ["request_seconds", "statement_seconds"],
    model: (scene) => partQuantiles(scene, part),
  };
}

export function partsTogether(scene: Scene, share: number): TimeModel {
  const { metric, filter } = latencyMetric(scene);
  return time(
    scene,
    "seconds",
    (query) =>
      ["queue", "pipe_wait", "server", "proxy"].flatMap((part) =>
        query
          .quantiles(metric, SHARES, filter, { phase: part })
          .filter((answer) => answer.name === `p${share * 100}`)
          .map((answer) => ({ name: PART_NAMES[part] as string, values: answer.values })),
      ),
    { join: "max", limits: share === 0.99 ? [{ value: 0.01, label: "goal 10 ms" }] : [] },
  );
}

const HEAT_COLUMNS = 100;
/** Upper bounds of the rows, in microseconds: six to a power of ten. */
const ROWS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((step) =>
  [1, 1.5, 2, 3, 5, 7].map((factor) => factor * step),
);

function rowOf(microseconds: number): number {
  const row = ROWS.findIndex((bound) => bound >= microseconds);
  return row < 0 ? ROWS.length - 1 : row;
}

export function heat(scene: Scene): Model {
  const { metric, filter } = latencyMetric(scene);
  const { query } = scene;
  const [from, to] = query.range(scene.from, scene.to);
  const every = Math.max(1, Math.ceil((to - from) / HEAT_COLUMNS));
  const columns: number[] = [];
  const raw: [number, number, number][] = [];
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  // columns stand still while time goes on: they begin at multiples of their width, and whole ones are counted once
  for (let tick = from - (from % every); tick < to; tick += every) {
    const [first, last] = [Math.max(from, tick), Math.min(to, tick + every)];
    for (const [row, count] of heatColumn(query, metric, filter, scene.part, [first, last])) {
      raw.push([columns.length, row, count]);
      low = Math.min(low, row);
      high = Math.max(high, row);
    }
    columns.push(query.run.t.at(first));
  }
  const rows = raw.length === 0 ? [] : ROWS.slice(low, high + 1).map((bound) => bound / 1e6);
  const cells = raw.map(([x, y, count]): [number, number, number] => [x, y - low, count]);
  return { kind: "heat", from: scene.from, to: scene.to, columns, rows, cells };
}

type HeatColumn = [number, number][];
const heatColumns = new WeakMap<Query, { epoch: number; columns: Map<string, HeatColumn> }>();
const heatSum = new Histogram();

function heatColumn(query: Query, metric: string, filter: Filter, phase: Part, ticks: [number, number]): HeatColumn {
  const { epoch } = query.run;
  let kept = heatColumns.get(query);
  if (!kept || kept.epoch !== epoch || kept.columns.size > 2000) {
    kept = { epoch, columns: new Map() };
    heatColumns.set(query, kept);
  }
  const key = `${metric} ${phase} ${ticks} ${query.select(metric, filter, { phase }).length} ${JSON.stringify(filter)}`;
  const known = kept.columns.get(key);
  if (known) return known;
  query.histogram(metric, filter, { phase }, ticks[0], ticks[1], heatSum);
  const sums = new Map<number, number>();
  for (const [bucket, count] of heatSum.entries()) {
    const row = rowOf(boundOf(bucket));
    sums.set(row, (sums.get(row) ?? 0) + count);
  }
  const column = [...sums];
  kept.columns.set(key, column);
  return column;
}

/** Shares at which percentile curves are drawn: ever closer to 1, as far as the count bears it. */
function sharesFor(count: number): number[] {
  const shares: number[] = [];
  for (let nines = 0; 10 ** nines <= count && nines < 7; nines++) {
    for (const part of [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85]) {
      const share = 1 - 10 ** -nines * (1 - part);
      if (share < 1 && 1 / (1 - share) <= count) shares.push(Number(share.toFixed(9)));
    }
  }
  return shares;
}

export function curve(scene: Scene): Model {
  const { metric, filter } = latencyMetric(scene);
  const curves = [];
  const runs: [Query, number, boolean][] = [[scene.query, 0, false]];
  if (scene.second) runs.push([scene.second.query, scene.second.shift, true]);
  for (const [query, shift, second] of runs) {
    const [from, to] = query.range(scene.from - shift, scene.to - shift);
    for (const [style, part] of ["queue", "pipe_wait", "server", "proxy", "total"].entries()) {
      const histogram = query.sliding(metric, filter, { phase: part }, from, to);
      if (histogram.count === 0) continue;
      const shares = sharesFor(histogram.count);
      const values = histogram.quantiles(shares).map((value) => value / 1e6);
      curves.push({ name: PART_NAMES[part] as string, shares, values, style, second });
    }
  }
  return { kind: "curve" as const, curves, limits: [{ value: 0.01, label: "goal 10 ms" }] };
}
