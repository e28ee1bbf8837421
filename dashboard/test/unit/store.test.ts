import { describe, expect, test } from "vitest";
import { readLine } from "../../src/source/line.ts";
import { Query } from "../../src/store/query.ts";
import { Run } from "../../src/store/run.ts";

const METRICS = [
  { name: "optimacore_requests_total", type: "counter", unit: "count", labels: ["database", "shard"] },
  { name: "optimacore_pool_clients", type: "gauge", unit: "count", labels: ["database", "state"] },
  { name: "optimacore_request_seconds", type: "histogram", unit: "seconds", labels: ["database", "phase"] },
];

function feed(run: Run, ...lines: object[]): void {
  for (const line of lines) run.accept(readLine(JSON.stringify(line)));
}

function header(start = 0): object {
  return { schema: "optimacore.series/1", pid: 1, start_us: start, interval_us: 1e6, host: {}, metrics: METRICS };
}

const SERIES = [
  { series: 1, metric: "optimacore_requests_total", labels: { database: "a", shard: "0" } },
  { series: 2, metric: "optimacore_requests_total", labels: { database: "b", shard: "1" } },
  { series: 3, metric: "optimacore_pool_clients", labels: { database: "a", state: "waiting" } },
  { series: 4, metric: "optimacore_request_seconds", labels: { database: "a", phase: "server" } },
];

function tick(second: number, v: object, dt = 1e6): object {
  return { t: second * 1e6, dt, v };
}

function small(): Run {
  const run = new Run("test");
  feed(
    run,
    header(),
    ...SERIES,
    tick(1, { 1: 10, 3: 5, 4: [[100, 3]] }),
    tick(2, { 2: 4, 4: [[200, 1]] }),
    tick(3, { 1: 30, 3: 0 }),
  );
  return run;
}

describe("a run", () => {
  test("gives rates by label, zero where a counter was left out", () => {
    const query = new Query(small());
    expect(query.rate("requests_total", ["database"], {})).toEqual([
      { name: "a", values: [10, 0, 30] },
      { name: "b", values: [0, 4, 0] },
    ]);
    expect(query.rate("requests_total", [], { database: "b" })[0]?.values).toEqual([0, 4, 0]);
  });

  test("carries gauges on until they change", () => {
    expect(new Query(small()).gauge("pool_clients", [], {})[0]?.values).toEqual([5, 5, 0]);
  });

  test("gives quantiles in seconds and none where nothing was counted", () => {
    const values = new Query(small()).quantiles("request_seconds", [0.5], {}, { phase: "server" })[0]?.values;
    expect(values).toEqual([0.0001, 0.0002, Number.NaN]);
  });

  test("carries answers on with new ticks and new series", () => {
    const run = small();
    const query = new Query(run);
    query.rate("requests_total", ["database"], {});
    feed(
      run,
      { series: 9, metric: "optimacore_requests_total", labels: { database: "c", shard: "0" } },
      tick(4, { 9: 7, 1: 1 }),
    );
    expect(query.rate("requests_total", ["database"], {}).map((answer) => answer.values)).toEqual([
      [10, 0, 30, 1],
      [0, 4, 0, 0],
      [0, 0, 0, 7],
    ]);
  });

  test("leaves what was counted before its first second out of the course of time", () => {
    const run = new Run("test");
    feed(run, header(), ...SERIES, tick(100, { 1: 5000, 3: 2 }, 100e6), tick(101, { 1: 10 }));
    expect(run.first).toBe(1);
    expect(run.span).toEqual([100_000, 101_000]);
    const query = new Query(run);
    expect(query.total("requests_total", {}, {}, ...query.range(...run.span))).toBe(10);
    expect(query.last("pool_clients", {})).toBe(2);
  });

  test("goes on after a reconnect without counting anything twice", () => {
    const run = small();
    // the stream begins anew: other ids, the kept history again, then news
    feed(
      run,
      header(),
      { series: 1, metric: "optimacore_pool_clients", labels: { database: "a", state: "waiting" } },
      { series: 2, metric: "optimacore_requests_total", labels: { database: "a", shard: "0" } },
      tick(3, { 1: 0, 2: 50 }, 3e6),
      tick(4, { 2: 8 }),
    );
    expect(run.ticks).toBe(4);
    expect(new Query(run).rate("requests_total", [], {})[0]?.values).toEqual([10, 4, 30, 8]);
  });

  test("takes only gauges of a first tick that counts what it has already", () => {
    const run = small();
    feed(run, header(), ...SERIES, tick(60, { 1: 9999, 3: 7 }, 60e6), tick(61, { 1: 8 }));
    const query = new Query(run);
    expect(query.total("requests_total", {}, {}, 0, run.ticks)).toBe(10 + 4 + 30 + 8);
    expect(query.last("pool_clients", {})).toBe(7);
  });

  test("marks another process as a restart", () => {
    const run = small();
    feed(run, header(50e6));
    expect(run.events).toMatchObject([{ event: "restart", t: 50_000 }]);
  });

  test("names series without a declaration once", () => {
    const run = small();
    feed(run, tick(4, { 77: 1 }), tick(5, { 77: 1 }));
    expect(run.complaints).toEqual([{ source: "test", reason: "series 77 has values but was never declared" }]);
  });
});

describe("a long run", () => {
  function long(ticks: number): Run {
    const run = new Run("test", 1000);
    feed(run, header(), ...SERIES);
    for (let second = 1; second <= ticks; second++) {
      feed(run, tick(second, { 1: 1, 3: second === 77 ? 99 : 1, 4: [[100, 2]] }));
    }
    return run;
  }

  test("stays below its number of ticks, and loses no count and no time", () => {
    const run = long(5000);
    expect(run.ticks).toBeLessThanOrEqual(1000);
    const query = new Query(run);
    expect(query.total("requests_total", {}, {}, 0, run.ticks)).toBe(5000);
    expect(query.histogram("request_seconds", {}, {}, 0, run.ticks).count).toBe(10_000);
    let time = 0;
    for (let tick = 0; tick < run.ticks; tick++) time += run.dt.at(tick);
    expect(time).toBeCloseTo(5000);
    expect(run.t.at(run.ticks - 1)).toBe(5_000_000);
    for (let tick = 1; tick < run.ticks; tick++) expect(run.t.at(tick)).toBeGreaterThan(run.t.at(tick - 1));
  });

  test("keeps the peak of a gauge, and its value after the peak", () => {
    const values = new Query(long(5000)).gauge("pool_clients", [], {})[0]?.values ?? [];
    expect(Math.max(...values)).toBe(99);
    expect(values.at(-1)).toBe(1);
    expect(values.filter((value) => value === 99)).toHaveLength(1);
  });

  test("keeps its rates through the rolling up", () => {
    for (const rate of new Query(long(3000)).rate("requests_total", [], {})[0]?.values ?? [])
      expect(rate).toBeCloseTo(1);
  });
});
