import { describe, expect, test } from "vitest";
import { decimate } from "../../src/store/decimate.ts";

describe("decimation", () => {
  const x = Array.from({ length: 100_000 }, (_, index) => index);
  const y = x.map((value) => Math.sin(value / 500) + (value === 54_321 ? 50 : value === 12_345 ? -50 : 0));

  test("keeps the highest and the lowest of all, the first and the last", () => {
    const out = decimate(x, y, 400);
    expect(out.x.length).toBeLessThanOrEqual(500);
    expect(out.x[0]).toBe(0);
    expect(out.x.at(-1)).toBe(99_999);
    expect(out.y[out.x.indexOf(54_321)]).toBe(y[54_321]);
    expect(out.y[out.x.indexOf(12_345)]).toBe(y[12_345]);
  });

  test("keeps time in order and gives no point twice", () => {
    const out = decimate(x, y, 400);
    for (let index = 1; index < out.x.length; index++) expect(out.x[index]).toBeGreaterThan(out.x[index - 1] as number);
  });

  test("leaves few points as they are", () => {
    expect(decimate([1, 2, 3], [4, Number.NaN, 6], 400)).toEqual({ x: [1, 2, 3], y: [4, Number.NaN, 6] });
  });

  test("keeps gaps", () => {
    const holes = y.map((value, index) => (index > 40_000 && index < 60_000 ? Number.NaN : value));
    expect(decimate(x, holes, 400).y.some(Number.isNaN)).toBe(true);
  });
});
