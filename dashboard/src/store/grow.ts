// Columns of numbers that grow: what series are kept in.

/** A column of doubles. */
export class Doubles {
  length = 0;
  private room: Float64Array;

  constructor(capacity = 16) {
    this.room = new Float64Array(capacity);
  }

  push(value: number): void {
    if (this.length === this.room.length) {
      const next = new Float64Array(this.room.length * 2);
      next.set(this.room);
      this.room = next;
    }
    this.room[this.length++] = value;
  }

  at(index: number): number {
    return this.room[index] as number;
  }

  set(index: number, value: number): void {
    this.room[index] = value;
  }

  cut(length: number): void {
    this.length = length;
  }

  view(from = 0, to = this.length): Float64Array {
    return this.room.subarray(from, to);
  }

  get bytes(): number {
    return this.room.byteLength;
  }
}

/** A column of whole numbers below 2^31. */
export class Integers {
  length = 0;
  private room: Int32Array;

  constructor(capacity = 16) {
    this.room = new Int32Array(capacity);
  }

  push(value: number): void {
    if (this.length === this.room.length) {
      const next = new Int32Array(this.room.length * 2);
      next.set(this.room);
      this.room = next;
    }
    this.room[this.length++] = value;
  }

  at(index: number): number {
    return this.room[index] as number;
  }

  set(index: number, value: number): void {
    this.room[index] = value;
  }

  cut(length: number): void {
    this.length = length;
  }

  /** The first position whose value is at least this; the column ascends. */
  lowerBound(value: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.room[middle] as number) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  get bytes(): number {
    return this.room.byteLength;
  }
}
