// One run: everything known about one process over one stretch of time, whichever way its lines come.
//
// A series keeps only the ticks at which it said something, as the stream does. When there are more ticks than `ticksMax`,
// the older half is rolled up in pairs: counters and histograms are added, of gauges the higher value stays. So memory is
// bounded and the past becomes coarser instead of vanishing.

import known from "../generated/metrics.json" with { type: "json" };
import type { Complaint, Header, Kind, Labels, Line, Metric, Value } from "../source/schema.ts";
import { Doubles, Integers } from "./grow.ts";
import { bucketOf } from "./histogram.ts";

export interface Statement {
  id: string;
  database: string;
  user: string;
  text: string;
}

export interface Event {
  event: string;
  t: number;
  text: string;
}

/** One combination of labels of a metric. `offset` is where a histogram's buckets of each entry begin. */
export interface Series {
  metric: string;
  kind: Kind;
  labels: Labels;
  tick: Integers;
  value: Doubles;
  offset: Integers;
  bucket: Integers;
  count: Doubles;
}

/** The data plane's own table of metrics, for sources that bring none. */
const KNOWN = new Map((known.metrics as Metric[]).map((metric) => [metric.name, metric]));

/** Prefix of every metric; views leave it out. */
export const PREFIX = "optimacore_";
const SECONDS = 1e6;

export class Run {
  header: Header | null = null;
  readonly events: Event[] = [];
  readonly statements = new Map<string, Statement>();
  readonly complaints: Complaint[] = [];
  /** Ends of the ticks in milliseconds since 1970, and their lengths in seconds. */
  readonly t = new Doubles(1024);
  readonly dt = new Doubles(1024);
  /** Changes whenever older ticks have been rolled up, so that what was computed from them is computed again. */
  epoch = 0;
  /** Facts of run.json, when there was one. */
  facts: Record<string, unknown> | null = null;
  /** The samples are one moment's, not a course of time (a .prom file). */
  moment = false;

  private readonly byId = new Map<number, Series>();
  private readonly byKey = new Map<string, Series>();
  private readonly byMetric = new Map<string, Series[]>();
  private readonly metrics = new Map<string, Metric>();
  private readonly unknownIds = new Set<number>();

  constructor(
    readonly name: string,
    private readonly ticksMax = 7200,
  ) {}

  get ticks(): number {
    return this.t.length;
  }

  /** The first tick that is part of the course of time; the one before it holds everything since the start. */
  get first(): number {
    return this.ticks > 1 && this.isBaseline(0) ? 1 : 0;
  }

  /** Milliseconds since 1970 of the beginning and the end. */
  get span(): [number, number] {
    if (this.ticks === 0) return [Number.NaN, Number.NaN];
    const first = this.first;
    const from = first > 0 ? this.t.at(first - 1) : this.t.at(0) - this.dt.at(0) * 1000;
    return [from, this.t.at(this.ticks - 1)];
  }

  get intervalSeconds(): number {
    return (this.header?.interval_us ?? SECONDS) / SECONDS;
  }

  metric(name: string): Metric | undefined {
    return this.metrics.get(name) ?? KNOWN.get(name);
  }

  seriesOf(metric: string): readonly Series[] {
    return this.byMetric.get(metric) ?? [];
  }

  *all(): Generator<Series> {
    for (const list of this.byMetric.values()) yield* list;
  }

  /** Takes one line. A header in a later file or after a reconnect goes on with the same run. */
  accept(line: Line): void {
    switch (line.kind) {
      case "header":
        this.begin(line.header);
        break;
      case "series":
        this.byId.set(line.id, this.declare(line.metric, line.labels));
        break;
      case "statement":
        this.statements.set(line.id, { id: line.id, database: line.database, user: line.user, text: line.text });
        break;
      case "event":
        this.mark({ event: line.event, t: line.t / 1000, text: line.text });
        break;
      case "tick":
        this.tick(line.t / 1000, line.dt / SECONDS, line.values);
        break;
      case "unknown":
        break;
    }
  }

  /** Ids of the stream before mean nothing in the next one. */
  private begin(header: Header): void {
    const before = this.header;
    this.byId.clear();
    this.unknownIds.clear();
    this.header = header;
    for (const metric of header.metrics) this.metrics.set(metric.name, metric);
    if (before && before.start_us !== header.start_us) {
      const version = header.version === before.version ? "" : `, version ${before.version} to ${header.version}`;
      this.mark({ event: "restart", t: header.start_us / 1000, text: `another process${version}` });
    }
  }

  private mark(event: Event): void {
    const known = this.events.some((other) => other.t === event.t && other.event === event.event);
    if (!known) this.events.push(event);
    if (this.events.length > 2000) this.events.splice(0, 1000);
  }

  /** The series with these labels, made when it is new. */
  declare(metric: string, labels: Labels): Series {
    const key = `${metric}\n${Object.keys(labels)
      .sort()
      .map((name) => `${name}=${labels[name]}`)
      .join("\n")}`;
    const known = this.byKey.get(key);
    if (known) return known;
    const series: Series = {
      metric,
      kind: this.metric(metric)?.type ?? guess(metric),
      labels,
      tick: new Integers(),
      value: new Doubles(),
      offset: new Integers(),
      bucket: new Integers(),
      count: new Doubles(),
    };
    this.byKey.set(key, series);
    const list = this.byMetric.get(metric);
    if (list) list.push(series);
    else this.byMetric.set(metric, [series]);
    return series;
  }

  private tick(t: number, dt: number, values: Record<string, Value>): void {
    const last = this.ticks > 0 ? this.t.at(this.ticks - 1) : Number.NEGATIVE_INFINITY;
    if (t <= last) return;
    // a stream's first tick after a gap counts everything since the start, of which we have a part already
    const again = this.ticks > 0 && t - dt * 1000 < last - this.intervalSeconds * 500;
    const index = this.ticks;
    this.t.push(t);
    this.dt.push(again ? (t - last) / 1000 : dt);
    for (const name in values) {
      const series = this.byId.get(Number(name));
      if (!series) this.complainOf(Number(name));
      else if (!again || series.kind === "gauge" || series.kind === "info") put(series, index, values[name] as Value);
    }
    if (this.ticks > this.ticksMax) this.rollUp();
  }

  /** Puts a value by hand: what the readers of other formats use, after `open`. */
  put(series: Series, value: Value): void {
    put(series, this.ticks - 1, value);
  }

  /** Begins a tick by hand. */
  open(t: number, dt: number): void {
    this.t.push(t);
    this.dt.push(dt);
  }

  private complainOf(id: number): void {
    if (this.unknownIds.has(id) || this.unknownIds.size > 100) return;
    this.unknownIds.add(id);
    this.complaints.push({ source: this.name, reason: `series ${id} has values but was never declared` });
  }

  private isBaseline(tick: number): boolean {
    return this.dt.at(tick) > 5 * this.intervalSeconds;
  }

  private rollUp(): void {
    const first = this.first;
    const pairs = (this.ticksMax - first) >> 2;
    const until = first + 2 * pairs;
    const place = (tick: number) => (tick < first ? tick : tick < until ? first + ((tick - first) >> 1) : tick - pairs);
    for (const series of this.all()) rollUp(series, place, this.ticks);
    const length = this.ticks;
    for (let tick = first; tick < length; tick++) {
      const to = place(tick);
      const joins = tick < until && (tick - first) % 2 === 1;
      this.dt.set(to, joins ? this.dt.at(to) + this.dt.at(tick) : this.dt.at(tick));
      this.t.set(to, this.t.at(tick));
    }
    this.t.cut(length - pairs);
    this.dt.cut(length - pairs);
    this.epoch++;
  }
}

function guess(metric: string): Kind {
  if (metric.endsWith("_total")) return "counter";
  if (metric.endsWith("_info")) return "info";
  return "gauge";
}

function put(series: Series, tick: number, value: Value): void {
  if (typeof value === "number") {
    series.tick.push(tick);
    series.value.push(value);
    return;
  }
  series.kind = "histogram";
  series.tick.push(tick);
  series.offset.push(series.bucket.length);
  for (const [bound, count] of value) {
    series.bucket.push(bucketOf(bound));
    series.count.push(count);
  }
}

/** Rewrites a series for its ticks' new places. */
function rollUp(series: Series, place: (tick: number) => number, ticks: number): void {
  if (series.kind === "histogram") rollUpHistogram(series, place);
  else if (series.kind === "counter") rollUpCounter(series, place);
  else rollUpGauge(series, place, ticks);
}

function rollUpCounter(series: Series, place: (tick: number) => number): void {
  const tick = new Integers(series.tick.length + 1);
  const value = new Doubles(series.tick.length + 1);
  for (let index = 0; index < series.tick.length; index++) {
    const to = place(series.tick.at(index));
    const last = tick.length - 1;
    if (last >= 0 && tick.at(last) === to) value.set(last, value.at(last) + series.value.at(index));
    else {
      tick.push(to);
      value.push(series.value.at(index));
    }
  }
  series.tick = tick;
  series.value = value;
}

/** Of ticks that fall together the highest value stays. */
function rollUpGauge(series: Series, place: (tick: number) => number, ticks: number): void {
  const tick = new Integers(series.tick.length + 1);
  const value = new Doubles(series.tick.length + 1);
  let at = -1;
  let to = -1;
  let highest = Number.NaN;
  const flush = () => {
    const last = tick.length - 1;
    if (to >= 0 && (last < 0 || value.at(last) !== highest)) {
      tick.push(to);
      value.push(highest);
    }
  };
  for (let from = Math.max(0, series.tick.length > 0 ? series.tick.at(0) : ticks); from < ticks; from++) {
    while (at + 1 < series.tick.length && series.tick.at(at + 1) <= from) at++;
    const current = series.value.at(at);
    if (place(from) === to) highest = Math.max(highest, current);
    else {
      flush();
      to = place(from);
      highest = current;
    }
  }
  flush();
  series.tick = tick;
  series.value = value;
}

function rollUpHistogram(series: Series, place: (tick: number) => number): void {
  const tick = new Integers(series.tick.length + 1);
  const offset = new Integers(series.tick.length + 1);
  const bucket = new Integers(series.bucket.length + 1);
  const count = new Doubles(series.bucket.length + 1);
  for (let index = 0; index < series.tick.length; index++) {
    const to = place(series.tick.at(index));
    const last = tick.length - 1;
    const [from, until] = entry(series, index);
    if (last >= 0 && tick.at(last) === to) {
      mergeInto(series, from, until, offset.at(last), bucket, count);
      continue;
    }
    tick.push(to);
    offset.push(bucket.length);
    for (let at = from; at < until; at++) {
      bucket.push(series.bucket.at(at));
      count.push(series.count.at(at));
    }
  }
  series.tick = tick;
  series.offset = offset;
  series.bucket = bucket;
  series.count = count;
}

/** Adds one more entry's buckets to the last entry of the new columns. */
function mergeInto(series: Series, from: number, until: number, start: number, bucket: Integers, count: Doubles): void {
  const sum = new Map<number, number>();
  for (let at = start; at < bucket.length; at++) sum.set(bucket.at(at), count.at(at));
  for (let at = from; at < until; at++) {
    const key = series.bucket.at(at);
    sum.set(key, (sum.get(key) ?? 0) + series.count.at(at));
  }
  bucket.cut(start);
  count.cut(start);
  for (const [key, value] of [...sum].sort((a, b) => a[0] - b[0])) {
    bucket.push(key);
    count.push(value);
  }
}

/** Where the buckets of a histogram's entry are. */
export function entry(series: Series, index: number): [number, number] {
  const from = series.offset.at(index);
  const until = index + 1 < series.offset.length ? series.offset.at(index + 1) : series.bucket.length;
  return [from, until];
}
