// What a chart of a view is, and how most are made: lines over time, bars per core.

import type { Line, Model, TimeModel } from "../chart/model.ts";
import type { Unit } from "../format.ts";
import type { Labels } from "../source/schema.ts";
import type { Part } from "../state.ts";
import type { Answer, Filter, Join, Query } from "../store/query.ts";

/** What a view is made from: a run, what of it, and the run it is compared with, whose times are moved by `shift`. */
export interface Scene {
  query: Query;
  second: { query: Query; shift: number } | null;
  filter: Filter;
  statement: string | null;
  part: Part;
  from: number;
  to: number;
}

export interface Panel {
  id: string;
  title: string;
  /** Metrics it is made from, without their prefix. */
  metrics: string[];
  /** Takes the whole width of the page. */
  wide?: boolean;
  model(scene: Scene): Model;
}

export interface Section {
  id: string;
  question: string;
  /** What to do when it looks bad. */
  advice: string;
  panels: Panel[];
}

export const PART_NAMES: Record<string, string> = {
  queue: "queue",
  pipe_wait: "pipe wait",
  server: "server",
  proxy: "proxy",
  total: "all of it",
};

const LINES_MAX = 6;
export const POOL = ["database", "user"];

type Ask = (query: Query, filter: Filter) => Answer[];

/** Keeps the largest lines and adds the rest up, so that a chart of 200 pools can be read. */
function largest(answers: Answer[], join: Join): Answer[] {
  if (answers.length <= LINES_MAX) return answers;
  const sum = (answer: Answer) =>
    answer.values.reduce((total, value) => total + (Number.isFinite(value) ? value : 0), 0);
  const sorted = [...answers].sort((a, b) => sum(b) - sum(a));
  const rest = sorted.slice(LINES_MAX - 1);
  const values = (rest[0] as Answer).values.map((_, tick) => {
    const all = rest.map((answer) => answer.values[tick] as number).filter(Number.isFinite);
    return join === "sum" ? all.reduce((a, b) => a + b, 0) : Math.max(...all, 0);
  });
  return [...sorted.slice(0, LINES_MAX - 1), { name: `${rest.length} others`, values }];
}

export function time(
  scene: Scene,
  unit: Unit,
  ask: Ask,
  more: Partial<TimeModel> & { join?: Join; cores?: boolean } = {},
): TimeModel {
  const { join = "sum", cores: _, ...rest } = more;
  const lines: Line[] = [];
  const add = (query: Query, shift: number, second: boolean) => {
    const x = query.run.t.view();
    const moved = shift === 0 ? x : x.map((value) => value + shift);
    const first = query.run.first;
    largest(ask(query, scene.filter), join).forEach((answer, index) => {
      const style = second ? lines.find((line) => line.name === nameOf(answer))?.style : index;
      lines.push({
        name: nameOf(answer),
        x: moved.subarray(first),
        y: first === 0 ? answer.values : answer.values.slice(first),
        style: style ?? index,
        second,
      });
    });
  };
  const nameOf = (answer: Answer) => (more.cores ? `core ${answer.name}` : answer.name || "all");
  add(scene.query, 0, false);
  if (scene.second) add(scene.second.query, scene.second.shift, true);
  const events = scene.query.run.events.filter((event) => event.t >= scene.from && event.t <= scene.to);
  return { kind: "time", unit, from: scene.from, to: scene.to, lines, limits: [], events, ...rest };
}

export const rate =
  (metric: string, by: string[], fixed: Labels = {}): Ask =>
  (query, filter) =>
    query.rate(metric, by, filter, fixed);

export const gauge =
  (metric: string, by: string[], join: Join = "sum", fixed: Labels = {}): Ask =>
  (query, filter) =>
    query.gauge(metric, by, filter, join, fixed);

function named(answers: Answer[], name: string): Answer[] {
  return answers.map((answer) => ({
    ...answer,
    name: answer.name === "" ? name : `${name} ${answer.name}`.trim(),
  }));
}

/** Several metrics as lines of one chart. */
export const together =
  (...parts: [string, Ask][]): Ask =>
  (query, filter) =>
    parts.flatMap(([name, ask]) => named(ask(query, filter), name));

/** One answer over another, tick by tick, by name. */
export function divide(above: Answer[], below: Answer[]): Answer[] {
  return above.map((answer) => {
    const other = below.find((one) => one.name === answer.name) ?? (below.length === 1 ? below[0] : undefined);
    return {
      name: answer.name,
      values: answer.values.map((value, tick) => {
        const size = other?.values[tick] ?? Number.NaN;
        return size > 0 ? value / size : Number.NaN;
      }),
    };
  });
}

const withoutShard = (filter: Filter): Filter => {
  const { shard: _, ...rest } = filter;
  return rest;
};

/** Busy time of server connections against the pool's limit. */
export function poolUse(query: Query, filter: Filter): Answer[] {
  return divide(
    query.rate("pool_busy_seconds_total", POOL, filter),
    query.gauge("pool_server_connections_max", POOL, withoutShard(filter), "max"),
  );
}

export function perCore(scene: Scene, unit: Unit, names: [string, string, Labels][]): Model {
  const { query, filter } = scene;
  const [from, to] = query.range(scene.from, scene.to);
  const shards = query.valuesOf(names[0]?.[1] ?? "", "shard", filter);
  let seconds = 0;
  for (let tick = from; tick < to; tick++) seconds += query.run.dt.at(tick);
  return {
    kind: "bars",
    unit,
    groups: shards.map((shard) => `core ${shard}`),
    bars: names.map(([name, metric, fixed], style) => ({
      name,
      style,
      values: shards.map(
        (shard) => query.total(metric, { ...filter, shard }, fixed, from, to) / Math.max(seconds, 1e-9),
      ),
    })),
  };
}
