// Fewer points for a line, the same picture: of each stretch the first, the lowest, the highest and the last stay.

export interface Points {
  x: number[];
  y: number[];
}

/** At most about `target` of the points; NaN marks a gap and stays one. */
export function decimate(x: ArrayLike<number>, y: ArrayLike<number>, target: number): Points {
  const length = Math.min(x.length, y.length);
  const out: Points = { x: [], y: [] };
  if (length <= target || target < 4) {
    for (let index = 0; index < length; index++) keep(out, x, y, index);
    return out;
  }
  const buckets = Math.max(1, Math.floor(target / 4));
  for (let bucket = 0; bucket < buckets; bucket++) {
    const from = Math.floor((bucket * length) / buckets);
    const to = Math.floor(((bucket + 1) * length) / buckets);
    let low = -1;
    let high = -1;
    let gap = -1;
    for (let index = from; index < to; index++) {
      const value = y[index] as number;
      if (Number.isNaN(value)) {
        if (gap < 0) gap = index;
      } else {
        if (low < 0 || value < (y[low] as number)) low = index;
        if (high < 0 || value > (y[high] as number)) high = index;
      }
    }
    const chosen = [from, low, high, gap, to - 1].filter((index) => index >= 0).sort((a, b) => a - b);
    chosen.forEach((index, position) => {
      if (index !== chosen[position - 1]) keep(out, x, y, index);
    });
  }
  return out;
}

function keep(out: Points, x: ArrayLike<number>, y: ArrayLike<number>, index: number): void {
  out.x.push(x[index] as number);
  out.y.push(y[index] as number);
}
