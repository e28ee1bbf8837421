import { describe, expect, test } from "vitest";
import { BUCKETS, boundOf, bucketOf, Histogram } from "../../src/store/histogram.ts";

describe("a histogram", () => {
  test("has buckets no wider than a thousandth of their values, and every value within its bucket", () => {
    for (let value = 1; value < 4e9; value = Math.ceil(value * 1.0371)) {
      const bucket = bucketOf(value);
      const low = bucket === 0 ? 0 : boundOf(bucket - 1) + 1;
      expect(low).toBeLessThanOrEqual(value);
      expect(boundOf(bucket)).toBeGreaterThanOrEqual(value);
      expect(boundOf(bucket) - low).toBeLessThanOrEqual(value / 1000);
    }
  });

  test("gives back the upper bounds that HdrHistogram writes", () => {
    for (const bound of [0, 1, 2047, 2049, 4095, 4099, 60_030_975]) expect(boundOf(bucketOf(bound))).toBe(bound);
  });

  test("counts what lies outside in its first and last bucket", () => {
    expect(bucketOf(-5)).toBe(0);
    expect(bucketOf(1e15)).toBe(BUCKETS - 1);
  });

  test("gives quantiles as a sorted list does", () => {
    const histogram = new Histogram();
    const values = Array.from({ length: 1000 }, (_, index) => (index * 7919) % 1000);
    for (const value of values) histogram.add(bucketOf(value), 1);
    const sorted = [...values].sort((a, b) => a - b);
    for (const share of [0, 0.001, 0.5, 0.95, 0.99, 0.999, 1]) {
      expect(histogram.quantile(share)).toBe(sorted[Math.max(0, Math.ceil(share * 1000) - 1)]);
    }
    expect(histogram.mean()).toBeCloseTo(499.5);
  });

  test("says nothing when it is empty, and is empty when cleared", () => {
    const histogram = new Histogram();
    expect(histogram.quantile(0.5)).toBeNaN();
    histogram.add(5, 3);
    histogram.clear();
    expect(histogram.count).toBe(0);
    expect(histogram.mean()).toBeNaN();
  });
});
