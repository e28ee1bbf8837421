import { describe, expect, test } from "vitest";
import { mannWhitney, median, upperTail } from "../../src/store/statistic.ts";

describe("the test of differences", () => {
  test("agrees with tables of the normal distribution", () => {
    expect(upperTail(0)).toBeCloseTo(0.5, 12);
    expect(upperTail(1.959964)).toBeCloseTo(0.025, 7);
    expect(upperTail(2.9999)).toBeCloseTo(upperTail(3.0001), 5);
    expect(upperTail(4)).toBeCloseTo(3.1671e-5, 9);
    expect(upperTail(-1)).toBeCloseTo(0.841345, 6);
  });

  test("gives U, ties and the correction for continuity as textbooks do", () => {
    // U of the second is 19 of 25; with the ties the variance is 22.083; z = (19 - 12.5 - 0.5) / 4.6993
    const result = mannWhitney([1, 2, 2, 3, 5], [2, 3, 4, 5, 6]);
    expect(result.superiority * 25).toBeCloseTo(19, 9);
    expect(result.p).toBeCloseTo(0.2017, 4);
  });

  test("finds no difference between equal runs and a clear one between shifted ones", () => {
    const a = Array.from({ length: 120 }, (_, index) => (index * 37) % 101);
    expect(mannWhitney(a, a).p).toBe(1);
    const moved = mannWhitney(
      a,
      a.map((value) => value + 40),
    );
    expect(moved.p).toBeLessThan(0.0001);
    expect(moved.superiority).toBeGreaterThan(0.7);
  });

  test("calls nothing a difference when all values are the same", () => {
    expect(mannWhitney([1, 1, 1], [1, 1, 1])).toMatchObject({ p: 1, superiority: 0.5 });
  });

  test("says nothing without values", () => {
    expect(mannWhitney([], [1]).p).toBeNaN();
    expect(median([])).toBeNaN();
    expect(median([3, 1, 2, 10])).toBe(2.5);
  });
});
