// What views ask a run: sums of series by label, rates, gauges and histograms, tick by tick.
//
// Answers are kept and carried on with the ticks that have come since, so that a live second costs a second's work.

import type { Labels } from "../source/schema.ts";
import { Histogram } from "./histogram.ts";
import { entry, PREFIX, type Run, type Series } from "./run.ts";

/** Labels that a series must have, as far as the metric has them at all. */
export interface Filter {
  database?: string;
  user?: string;
  shard?: string;
  statement?: string;
}

export type Join = "sum" | "max";

/** Values by tick. */
export interface Answer {
  name: string;
  values: number[];
}

const scratch = new Histogram();

export function matches(labels: Labels, filter: Filter): boolean {
  for (const name of ["database", "user", "shard", "statement"] as const) {
    const wanted = filter[name];
    const label = labels[name];
    if (wanted !== undefined && label !== undefined && label !== wanted) return false;
  }
  return true;
}

function fits(labels: Labels, fixed: Labels): boolean {
  for (const name in fixed) if (labels[name] !== fixed[name]) return false;
  return true;
}

interface Kept {
  epoch: number;
  ticks: number;
  series: number;
  answers: Answer[];
}

interface Moving {
  epoch: number;
  series: number;
  from: number;
  to: number;
  histogram: Histogram;
}

function addRange(series: Series[], from: number, to: number, into: Histogram, how: "add" | "remove" = "add"): void {
  for (const one of series) {
    if (one.kind !== "histogram") continue;
    for (let at = one.tick.lowerBound(from); at < one.tick.length && one.tick.at(at) < to; at++) {
      const [first, last] = entry(one, at);
      for (let index = first; index < last; index++) into[how](one.bucket.at(index), one.count.at(index));
    }
  }
}

export class Query {
  private readonly moving = new Map<string, Moving>();
  private readonly kept = new Map<string, Kept>();

  constructor(readonly run: Run) {}

  /** Series of a metric (its name without the prefix) that pass. */
  select(metric: string, filter: Filter, fixed: Labels = {}): Series[] {
    return this.run.seriesOf(PREFIX + metric).filter((one) => matches(one.labels, filter) && fits(one.labels, fixed));
  }

  has(metric: string): boolean {
    return this.run.seriesOf(PREFIX + metric).length > 0;
  }

  /** Values of a label, in the order of names (numbers by size). */
  valuesOf(metric: string, label: string, filter: Filter = {}): string[] {
    const values = new Set(this.select(metric, filter).map((series) => series.labels[label] ?? ""));
    values.delete("");
    return [...values].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  }

  /** Added per second, by the values of some labels. */
  rate(metric: string, by: string[], filter: Filter, fixed: Labels = {}): Answer[] {
    const key = `rate ${metric} ${by} ${JSON.stringify([filter, fixed])}`;
    return this.keep(key, metric, filter, fixed, by, (series, from, to, values) => {
      for (let tick = values.length; tick < to; tick++) values.push(0);
      for (const one of series) {
        for (let at = one.tick.lowerBound(from); at < one.tick.length && one.tick.at(at) < to; at++) {
          const tick = one.tick.at(at);
          const seconds = this.run.dt.at(tick);
          if (seconds > 0) values[tick] = (values[tick] as number) + amount(one, at) / seconds;
        }
      }
    });
  }

  /** Values of gauges, by the values of some labels, several joined into one. */
  gauge(metric: string, by: string[], filter: Filter, join: Join = "sum", fixed: Labels = {}): Answer[] {
    const key = `gauge ${join} ${metric} ${by} ${JSON.stringify([filter, fixed])}`;
    return this.keep(key, metric, filter, fixed, by, (series, from, to, values) => {
      for (let tick = values.length; tick < to; tick++) values.push(Number.NaN);
      for (const one of series) {
        let at = one.tick.lowerBound(from + 1) - 1;
        for (let tick = from; tick < to; tick++) {
          while (at + 1 < one.tick.length && one.tick.at(at + 1) <= tick) at++;
          if (at < 0) continue;
          const value = one.value.at(at);
          const before = values[tick] as number;
          if (Number.isNaN(before)) values[tick] = value;
          else values[tick] = join === "sum" ? before + value : Math.max(before, value);
        }
      }
    });
  }

  /** Quantiles of histograms in seconds, one answer a share. */
  quantiles(metric: string, shares: number[], filter: Filter, fixed: Labels = {}): Answer[] {
    const key = `quantiles ${metric} ${shares} ${JSON.stringify([filter, fixed])}`;
    const kept = this.fresh(key, metric, filter, fixed);
    const series = this.select(metric, filter, fixed);
    if (series.length === 0) return [];
    if (kept.answers.length === 0) kept.answers = shares.map((share) => ({ name: quantileName(share), values: [] }));
    for (let tick = kept.ticks; tick < this.run.ticks; tick++) {
      scratch.clear();
      for (const one of series) {
        const at = one.tick.lowerBound(tick);
        if (at < one.tick.length && one.tick.at(at) === tick) addEntry(one, at, scratch);
      }
      scratch.quantiles(shares).forEach((value, index) => {
        (kept.answers[index] as Answer).values.push(value / 1e6);
      });
    }
    kept.ticks = this.run.ticks;
    return kept.answers;
  }

  /** Everything counted in these ticks, put into a histogram of the caller's. */
  histogram(metric: string, filter: Filter, fixed: Labels, from: number, to: number, into = scratch): Histogram {
    into.clear();
    addRange(this.select(metric, filter, fixed), from, to, into);
    return into;
  }

  /**
   * The same, kept: when the stretch of time has moved on, only what came and what went is counted. What it answers belongs to the
   * query and holds until it is asked again.
   */
  sliding(
    metric: string,
    filter: Filter,
    fixed: Labels,
    from: number,
    to: number,
    statements?: Set<string>,
  ): Histogram {
    const key = `${metric} ${JSON.stringify([filter, fixed, statements !== undefined])}`;
    const all = this.select(metric, filter, fixed);
    const series = statements ? all.filter((one) => statements.has(one.labels.statement ?? "")) : all;
    const { epoch } = this.run;
    let kept = this.moving.get(key);
    const far = kept && (from < kept.from || from > kept.to || to < kept.to);
    if (!kept || kept.epoch !== epoch || kept.series !== series.length || far) {
      if (this.moving.size > 40) this.moving.clear();
      kept = { epoch, series: series.length, from, to: from, histogram: kept?.histogram ?? new Histogram() };
      kept.histogram.clear();
      this.moving.set(key, kept);
    }
    if (from > kept.from) addRange(series, kept.from, from, kept.histogram, "remove");
    addRange(series, kept.to, to, kept.histogram);
    kept.from = from;
    kept.to = to;
    return kept.histogram;
  }

  /** What was added in these ticks. */
  total(metric: string, filter: Filter, fixed: Labels, from: number, to: number): number {
    let sum = 0;
    for (const one of this.select(metric, filter, fixed)) sum += totalOf(one, from, to);
    return sum;
  }

  /** The last value before the end, joined; NaN where there is none. */
  last(metric: string, filter: Filter, join: Join = "sum", fixed: Labels = {}, to = this.run.ticks): number {
    let result = Number.NaN;
    for (const one of this.select(metric, filter, fixed)) {
      const at = one.tick.lowerBound(to) - 1;
      if (at < 0) continue;
      const value = one.value.at(at);
      if (Number.isNaN(result)) result = value;
      else result = join === "sum" ? result + value : Math.max(result, value);
    }
    return result;
  }

  /** Ticks that end in a stretch of time (milliseconds), as a half-open range. */
  range(from: number, to: number): [number, number] {
    const t = this.run.t;
    const search = (time: number) => {
      let low = this.run.first;
      let high = this.run.ticks;
      while (low < high) {
        const middle = (low + high) >>> 1;
        if (t.at(middle) <= time) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    return [search(from), search(to)];
  }

  private fresh(key: string, metric: string, filter: Filter, fixed: Labels): Kept {
    const series = this.select(metric, filter, fixed).length;
    const kept = this.kept.get(key);
    if (kept && kept.epoch === this.run.epoch && kept.series === series) return kept;
    if (this.kept.size > 400) this.kept.clear();
    const next = { epoch: this.run.epoch, ticks: 0, series, answers: [] };
    this.kept.set(key, next);
    return next;
  }

  private keep(
    key: string,
    metric: string,
    filter: Filter,
    fixed: Labels,
    by: string[],
    carryOn: (series: Series[], from: number, to: number, values: number[]) => void,
  ): Answer[] {
    const kept = this.fresh(key, metric, filter, fixed);
    if (kept.ticks === this.run.ticks && kept.answers.length > 0) return kept.answers;
    const groups = new Map<string, Series[]>();
    for (const one of this.select(metric, filter, fixed)) {
      const name = by.map((label) => one.labels[label] ?? "").join(" / ");
      const group = groups.get(name);
      if (group) group.push(one);
      else groups.set(name, [one]);
    }
    const names = [...groups.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    kept.answers = names.map((name, index) => kept.answers[index] ?? { name, values: [] });
    for (const answer of kept.answers) {
      carryOn(groups.get(answer.name) ?? [], kept.ticks, this.run.ticks, answer.values);
    }
    kept.ticks = this.run.ticks;
    return kept.answers;
  }
}

/** What an entry adds: a counter's value, a histogram's count. */
function amount(series: Series, at: number): number {
  if (series.kind !== "histogram") return series.value.at(at);
  const [from, until] = entry(series, at);
  let sum = 0;
  for (let index = from; index < until; index++) sum += series.count.at(index);
  return sum;
}

export function totalOf(series: Series, from: number, to: number): number {
  let sum = 0;
  for (let at = series.tick.lowerBound(from); at < series.tick.length && series.tick.at(at) < to; at++) {
    sum += amount(series, at);
  }
  return sum;
}

export function addEntry(series: Series, at: number, into: Histogram): void {
  const [from, until] = entry(series, at);
  for (let index = from; index < until; index++) into.add(series.bucket.at(index), series.count.at(index));
}

export function quantileName(share: number): string {
  return `p${Number((share * 100).toFixed(4))}`;
}
