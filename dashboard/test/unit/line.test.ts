import { describe, expect, test } from "vitest";
import { LineError, readLine } from "../../src/source/line.ts";

const HEADER =
  '{"schema":"optimacore.series/1","version":"0.1.0","commit":"c","pid":1,"start_us":5,"interval_us":1000000,"host":{},"metrics":[]}';

describe("a line", () => {
  test("is told apart by its first key", () => {
    expect(readLine(HEADER)).toMatchObject({ kind: "header", header: { pid: 1 } });
    expect(readLine('{"series":7,"metric":"m","labels":{"a":"b"}}')).toEqual({
      kind: "series",
      id: 7,
      metric: "m",
      labels: { a: "b" },
    });
    expect(readLine('{"statement":"00ff","database":"d","user":"u","text":"select 1"}')).toMatchObject({
      kind: "statement",
      text: "select 1",
    });
    expect(readLine('{"event":"reload","t":1,"text":"x"}')).toMatchObject({ kind: "event", event: "reload" });
    expect(readLine('{"t":1,"dt":2,"v":{"7":12,"9":[[100,3]]}}')).toMatchObject({ kind: "tick", t: 1, dt: 2 });
  });

  test("of an unknown kind is passed over", () => {
    expect(readLine('{"weather":"fine"}')).toEqual({ kind: "unknown" });
    expect(readLine("{}")).toEqual({ kind: "unknown" });
  });

  test.each([
    ["nonsense", "it is no JSON"],
    ['{"t":1,"dt":', "it is cut off or no JSON"],
    ["[1]", "it is no JSON object"],
    ['{"t":1,"dt":-1,"v":{}}', '"dt" is below zero'],
    ['{"t":"1","dt":1,"v":{}}', '"t" should be a number'],
    ['{"t":1,"dt":1,"v":[]}', '"v" should be an object'],
    ['{"t":1,"dt":1,"v":{"7":"x"}}', "the value of series 7 is neither a number nor a histogram"],
    ['{"t":1,"dt":1,"v":{"7":[1,2]}}', "the histogram of series 7 should hold pairs of numbers"],
    ['{"series":1.5,"metric":"m"}', '"series" should be a whole number'],
    [
      '{"schema":"optimacore.series/2","start_us":1}',
      'its schema is "optimacore.series/2"; this dashboard reads version 1',
    ],
    ['{"schema":"other/1"}', 'its schema is "other/1", not optimacore.series/1'],
    ['{"event":"x"}', '"t" should be a number'],
  ])("%s is refused with its reason", (line, reason) => {
    expect(() => readLine(line)).toThrow(new LineError(reason));
  });

  test("cannot reach the prototype of its labels", () => {
    const line = readLine('{"series":1,"metric":"m","labels":{"__proto__":"x","a":"b"}}');
    expect(line).toMatchObject({ labels: { a: "b" } });
    expect(({} as Record<string, unknown>).a).toBeUndefined();
  });
});
