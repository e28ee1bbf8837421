// The stated test of the comparison: Mann-Whitney's U, two-sided, with ties, by the normal approximation.

export interface Difference {
  count: [number, number];
  median: [number, number];
  /** Share of pairs in which the second run's value is the higher one, ties counted half: 0.5 is no difference. */
  superiority: number;
  /** How often chance alone would give a difference at least this large. */
  p: number;
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

export function mannWhitney(first: readonly number[], second: readonly number[]): Difference {
  const a = first.filter(Number.isFinite);
  const b = second.filter(Number.isFinite);
  const result = { count: [a.length, b.length], median: [median(a), median(b)] } as const;
  if (a.length === 0 || b.length === 0)
    return { ...result, superiority: Number.NaN, p: Number.NaN } as unknown as Difference;

  const all = [...a.map((value) => ({ value, second: false })), ...b.map((value) => ({ value, second: true }))];
  all.sort((x, y) => x.value - y.value);
  const n = all.length;
  let ranks = 0;
  let ties = 0;
  for (let from = 0; from < n; ) {
    let to = from;
    while (to < n && all[to]!.value === all[from]!.value) to++;
    const rank = (from + 1 + to) / 2;
    for (let index = from; index < to; index++) if (all[index]!.second) ranks += rank;
    const tied = to - from;
    ties += tied ** 3 - tied;
    from = to;
  }
  const u = ranks - (b.length * (b.length + 1)) / 2;
  const mean = (a.length * b.length) / 2;
  const variance = ((a.length * b.length) / 12) * (n + 1 - ties / (n * (n - 1)));
  const distance = Math.max(0, Math.abs(u - mean) - 0.5);
  const p = variance > 0 ? 2 * upperTail(distance / Math.sqrt(variance)) : 1;
  return {
    count: [a.length, b.length],
    median: [median(a), median(b)],
    superiority: u / (a.length * b.length),
    p: Math.min(1, p),
  };
}

/** The normal distribution's upper tail, by the continued fraction where it is far out and by the series where it is not. */
export function upperTail(z: number): number {
  if (z < 0) return 1 - upperTail(-z);
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  if (z > 3) {
    let fraction = z;
    for (let term = 60; term > 0; term--) fraction = z + term / fraction;
    return density / fraction;
  }
  let sum = z;
  let term = z;
  for (let odd = 3; odd < 200; odd += 2) {
    term *= (z * z) / odd;
    sum += term;
  }
  return 0.5 - density * sum;
}
