// Is it well? The specification's figures against their goals, and what is wrong right now, in words.

import { format, lasting, seconds, type Unit } from "../format.ts";
import type { Filter, Query } from "../store/query.ts";
import { poolUse, type Scene } from "./panel.ts";

export type Level = "good" | "warn" | "bad" | "none";

export interface Figure {
  id: string;
  title: string;
  value: number;
  unit: Unit;
  goal: number;
  goalText: string;
  /** The goal is a ceiling, or a mark to reach. */
  below: boolean;
  level: Level;
  note: string;
}

export interface Alarm {
  level: "warn" | "bad";
  text: string;
  /** Section that shows more. */
  section: string;
}

const PARTS = ["queue", "pipe_wait", "server", "proxy"];

function ceiling(value: number, goal: number): Level {
  if (!Number.isFinite(value)) return "none";
  if (value <= goal) return "good";
  return value <= goal * 1.5 ? "warn" : "bad";
}

/** A quantile of whole requests: measured where it is, else the parts' quantiles added, which errs upwards. */
function whole(query: Query, filter: Filter, share: number, from: number, to: number): number {
  const measured = query.sliding("request_seconds", filter, { phase: "total" }, from, to);
  if (measured.count > 0) return measured.quantile(share) / 1e6;
  let sum = 0;
  let found = false;
  for (const part of PARTS) {
    const histogram = query.sliding("request_seconds", filter, { phase: part }, from, to);
    if (histogram.count === 0) continue;
    found = true;
    sum += histogram.quantile(share) / 1e6;
  }
  return found ? sum : Number.NaN;
}

/** Queue and server time of the statements that travelled shared, which are the reads; of all requests where none are known. */
function reads(query: Query, filter: Filter, share: number, from: number, to: number): number {
  const ids = new Set(
    query.select("statement_calls_total", filter, { path: "shared" }).map((series) => series.labels.statement ?? ""),
  );
  let sum = 0;
  let found = false;
  for (const part of ["queue", "server"]) {
    const histogram = query.sliding("statement_seconds", filter, { phase: part }, from, to, ids);
    if (histogram.count === 0) continue;
    found = true;
    sum += histogram.quantile(share) / 1e6;
  }
  return found ? sum : whole(query, filter, share, from, to);
}

/** Highest and over-all mean use of a pool in these ticks. */
function use(query: Query, filter: Filter, from: number, to: number): { name: string; value: number } {
  let worst = { name: "", value: Number.NaN };
  for (const answer of poolUse(query, filter)) {
    const values = answer.values.slice(from, to).filter(Number.isFinite);
    if (values.length === 0) continue;
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    if (!(mean <= worst.value)) worst = { name: answer.name, value: mean };
  }
  return worst;
}

export function figures(scene: Scene): Figure[] {
  const { query, filter } = scene;
  const [from, to] = query.range(scene.from, scene.to);
  let time = 0;
  for (let tick = from; tick < to; tick++) time += query.run.dt.at(tick);
  const done =
    query.has("requests_total") && time > 0 ? query.total("requests_total", filter, {}, from, to) / time : Number.NaN;
  const p99 = whole(query, filter, 0.99, from, to);
  const p95 = reads(query, filter, 0.95, from, to);
  const busy = use(query, filter, from, to);
  return [
    {
      id: "operations",
      title: "Operations a second",
      value: done,
      unit: "rate",
      goal: 100_000,
      goalText: "goal 100\u2009000/s at full load",
      below: false,
      level: !Number.isFinite(done) ? "none" : done >= 100_000 ? "good" : "none",
      note: done >= 100_000 ? "reached" : "offered load, not a fault",
    },
    {
      id: "p99",
      title: "p99 of requests",
      value: p99,
      unit: "seconds",
      goal: 0.01,
      goalText: "goal below 10 ms",
      below: true,
      level: ceiling(p99, 0.01),
      note: "",
    },
    {
      id: "p95",
      title: "p95 of reads",
      value: p95,
      unit: "seconds",
      goal: 0.005,
      goalText: "goal below 5 ms",
      below: true,
      level: ceiling(p95, 0.005),
      note: "",
    },
    {
      id: "use",
      title: "Fullest pool",
      value: busy.value,
      unit: "ratio",
      goal: 0.8,
      goalText: "goal below 80 %",
      below: true,
      level: !Number.isFinite(busy.value) ? "none" : busy.value < 0.8 ? "good" : busy.value < 0.9 ? "warn" : "bad",
      note: busy.name,
    },
  ];
}

/** What is wrong at the end of what is shown: the last ten seconds of it. */
export function alarms(scene: Scene, values: Figure[]): Alarm[] {
  const { query, filter } = scene;
  const out: Alarm[] = [];
  const [from, to] = query.range(Math.max(scene.from, scene.to - 10_000), scene.to);
  if (to <= from) return out;
  const waiting = query.last("pool_clients", filter, "sum", { state: "waiting" }, to);
  const longest = query.last("pool_client_maxwait_seconds", filter, "max", {}, to);
  if (longest >= 1 || waiting >= 20) {
    const level = longest >= 15 ? "bad" : "warn";
    out.push({
      level,
      text: `${format(waiting, "count")} clients wait, the longest for ${seconds(longest)}`,
      section: "waiting",
    });
  }
  for (const answer of poolUse(query, filter)) {
    const recent = answer.values.slice(from, to).filter(Number.isFinite);
    const mean = recent.reduce((a, b) => a + b, 0) / Math.max(1, recent.length);
    if (mean >= 0.8)
      out.push({
        level: mean >= 0.9 ? "bad" : "warn",
        text: `pool ${answer.name} is ${format(mean, "ratio")} busy`,
        section: "pools",
      });
  }
  const p99 = values.find((figure) => figure.id === "p99");
  if (p99 && (p99.level === "warn" || p99.level === "bad")) {
    out.push({ level: p99.level, text: `p99 is ${seconds(p99.value)}, above its goal of 10 ms`, section: "latency" });
  }
  const errors = query.select("errors_total", filter);
  const classes = new Map<string, number>();
  for (const series of errors) {
    const sum = query.total("errors_total", { ...filter }, series.labels, from, to);
    const name = `${series.labels.class ?? ""} ${series.labels.source ?? ""}`.trim();
    classes.set(name, (classes.get(name) ?? 0) + sum);
  }
  const bad = [...classes].filter(([, sum]) => sum > 0).sort((a, b) => b[1] - a[1]);
  if (bad.length > 0) {
    const sum = bad.reduce((total, [, count]) => total + count, 0);
    const span = lasting(query.run.t.at(to - 1) - query.run.t.at(from) + query.run.dt.at(from) * 1000);
    const serious = bad.some(([name]) => /^(08|53|57|58|XX)/.test(name));
    out.push({
      level: serious ? "bad" : "warn",
      text: `${format(sum, "count")} errors in ${span}, most of class ${bad[0]?.[0]}`,
      section: "errors",
    });
  }
  const failures = query.total("server_connect_failures_total", filter, {}, from, to);
  if (failures > 0) out.push({ level: "bad", text: `${failures} connections to PostgreSQL failed`, section: "churn" });
  const busy = query.rate("shard_busy_seconds_total", ["shard"], filter);
  for (const answer of busy) {
    const recent = answer.values.slice(from, to);
    const mean = recent.reduce((a, b) => a + b, 0) / Math.max(1, recent.length);
    if (mean > 0.9)
      out.push({ level: "warn", text: `core ${answer.name} is ${format(mean, "ratio")} busy`, section: "balance" });
  }
  return out.sort((a, b) => (a.level === b.level ? 0 : a.level === "bad" ? -1 : 1));
}
