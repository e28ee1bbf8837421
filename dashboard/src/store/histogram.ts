// Histograms of microseconds in the buckets of HdrHistogram (2048 to a power of two), and what is asked of them.
//
// A bucket is known by its index, so adding histograms is adding arrays; a quantile is the upper bound of the bucket it falls into.

/** Buckets up to 2^32 microseconds, more than an hour; what is above counts in the last one. */
const HALF = 1024;
const SHIFT_MAX = 21;
export const BUCKETS = (SHIFT_MAX + 2) * HALF;

/** The bucket that a value falls into. */
export function bucketOf(microseconds: number): number {
  const value = microseconds < 0 ? 0 : Math.floor(microseconds);
  if (value < 2 * HALF) return value;
  const shift = 31 - Math.clz32(Math.min(value, 0xffff_ffff) >>> 0) - 10;
  if (shift > SHIFT_MAX || value > 0xffff_ffff) return BUCKETS - 1;
  return shift * HALF + Math.floor(value / 2 ** shift);
}

/** The highest value that falls into a bucket. */
export function boundOf(bucket: number): number {
  if (bucket < 2 * HALF) return bucket;
  const shift = Math.floor(bucket / HALF) - 1;
  return (bucket - shift * HALF + 1) * 2 ** shift - 1;
}

/** A sum of histograms. One of these is filled, asked and cleared again and again. */
export class Histogram {
  count = 0;
  private readonly counts = new Float64Array(BUCKETS);
  private touched: number[] = [];
  private readonly known = new Set<number>();
  private sorted = true;

  add(bucket: number, count: number): void {
    if (count <= 0) return;
    if (this.counts[bucket] === 0 && !this.known.has(bucket)) {
      this.known.add(bucket);
      const last = this.touched[this.touched.length - 1];
      if (last !== undefined && last > bucket) this.sorted = false;
      this.touched.push(bucket);
    }
    this.counts[bucket] = (this.counts[bucket] as number) + count;
    this.count += count;
  }

  /** Takes back what was added. */
  remove(bucket: number, count: number): void {
    this.counts[bucket] = (this.counts[bucket] as number) - count;
    this.count -= count;
  }

  clear(): void {
    for (const bucket of this.touched) this.counts[bucket] = 0;
    this.touched = [];
    this.known.clear();
    this.sorted = true;
    this.count = 0;
  }

  /** Buckets that hold something, ascending, as pairs of index and count. */
  *entries(): Generator<[number, number]> {
    this.sort();
    for (const bucket of this.touched) {
      if (this.counts[bucket] !== 0) yield [bucket, this.counts[bucket] as number];
    }
  }

  /** The values below which these shares of all lie, in microseconds; NaN where nothing was counted. Shares ascend. */
  quantiles(shares: readonly number[]): number[] {
    if (this.count === 0) return shares.map(() => Number.NaN);
    this.sort();
    const out: number[] = [];
    let seen = 0;
    let position = 0;
    for (const share of shares) {
      const wanted = Math.max(1, Math.ceil(share * this.count - 1e-9));
      while (
        position < this.touched.length &&
        seen + (this.counts[this.touched[position] as number] as number) < wanted
      ) {
        seen += this.counts[this.touched[position] as number] as number;
        position++;
      }
      out.push(boundOf(this.touched[Math.min(position, this.touched.length - 1)] as number));
    }
    return out;
  }

  quantile(share: number): number {
    return this.quantiles([share])[0] as number;
  }

  /** By the middles of the buckets. */
  mean(): number {
    let sum = 0;
    for (const bucket of this.touched) {
      const low = bucket === 0 ? 0 : boundOf(bucket - 1) + 1;
      sum += ((low + boundOf(bucket)) / 2) * (this.counts[bucket] as number);
    }
    return this.count === 0 ? Number.NaN : sum / this.count;
  }

  private sort(): void {
    if (this.sorted) return;
    this.touched.sort((a, b) => a - b);
    this.sorted = true;
  }
}
