import { describe, expect, test } from "vitest";
import { scale } from "../../src/chart/option.ts";
import { cut, pageBlocks } from "../../src/export/paper.ts";
import { csvOf, ndjsonOf } from "../../src/export/save.ts";
import { format, short } from "../../src/format.ts";
import { initial, parse, type State, write } from "../../src/state.ts";

describe("the state", () => {
  test("comes back from a link as it was", () => {
    const state: State = {
      window: { from: 1790000000000, to: 1790000060000 },
      database: "ápp/1&2",
      user: "",
      shard: "3",
      statement: "00ff",
      part: "queue",
      theme: "dark",
      paused: 1790000060000,
      sort: "p99",
      descending: false,
      search: "select *",
      run: 1,
      compare: 0,
      sources: ["a.ndjson", "b.ndjson?x=1"],
      hidden: ["latency-queue:p50"],
    };
    expect(parse(`#${write(state)}`)).toEqual({ ...state, user: null });
  });

  test("is the usual one for an empty or senseless link", () => {
    expect(write(initial())).toBe("");
    expect(parse("#from=9&to=3&theme=pink&part=x&last=-4&run=abc&paused=1e99")).toEqual(initial());
  });
});

describe("numbers", () => {
  test.each([
    [0.000012, "seconds", "12 µs"],
    [0.0042, "seconds", "4.2 ms"],
    [1.25, "seconds", "1.25 s"],
    [0.804, "ratio", "80.4 %"],
    [41788, "rate", "41\u2009788/s"],
    [1234567, "count", "1.23 M"],
    [3 * 2 ** 20, "bytes", "3 MiB"],
    [Number.NaN, "count", "–"],
  ] as const)("%d %s is written %s", (value, unit, text) => {
    expect(format(value, unit)).toBe(text);
  });

  test("on axes are short", () => {
    expect([short(40_000, "rate"), short(0, "seconds"), short(2_500_000, "count")]).toEqual(["40 k/s", "0", "2.5 M"]);
  });

  test("of a scale are round and even", () => {
    expect(scale(103, 4)).toEqual({ max: 150, interval: 50 });
    expect(scale(1, 4)).toEqual({ max: 1, interval: 0.25 });
    expect(scale(0, 4)).toEqual({ max: 1, interval: 1 });
  });
});

describe("exports", () => {
  const table = {
    columns: ["time", 'a "b"'],
    rows: [
      ["x,y", 1.5],
      ["line\nbreak", ""],
    ],
  };

  test("as CSV quote what needs it", () => {
    expect(csvOf(table)).toBe('time,"a ""b"""\r\n"x,y",1.5\r\n"line\nbreak",\r\n');
  });

  test("as NDJSON have a line a row", () => {
    expect(ndjsonOf(table, { chart: "c" })).toBe(
      '{"chart":"c","time":"x,y","a \\"b\\"":1.5}\n{"chart":"c","time":"line\\nbreak","a \\"b\\"":null}\n',
    );
  });

  test("cut texts that are too long", () => {
    expect(cut("select  1\nfrom t", 1000, 10)).toBe("select 1 from t");
    expect(cut("x".repeat(100), 62, 10)).toBe(`${"x".repeat(9)}…`);
  });

  test("of a page leave out questions without an answer", () => {
    const blocks = pageBlocks(
      [
        { kind: "heading", text: "A?" },
        { kind: "heading", text: "B?" },
        { kind: "statements", rows: [] },
      ],
      "s",
      500,
    );
    expect(blocks).toHaveLength(1);
  });
});
