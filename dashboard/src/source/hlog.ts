// Reads HdrHistogram logs (format 1.1 to 1.3, V2 with deflate): one interval histogram a line, its tag database/user/phase.

import { PREFIX, Run } from "../store/run.ts";
import type { Value } from "./schema.ts";

const COOKIE_COMPRESSED = 0x1c849304;
const COOKIE = 0x1c849303;
/** Largest a histogram of ours can be, unpacked, with room to spare. */
const UNPACKED_MAX = 4 << 20;

/** Four bits of a cookie tell the size of its words. */
function base(cookie: number): number {
  return (cookie & ~0xf0) >>> 0;
}

class Truncated extends Error {}

export function looksLikeHlog(text: string): boolean {
  const start = text.slice(0, 4096);
  return /^#\[.*(Histogram|StartTime)/m.test(start) || start.includes('"StartTimestamp"');
}

export async function readHlog(text: string, name: string): Promise<Run> {
  const run = new Run(name, Number.POSITIVE_INFINITY);
  const entries: { line: number; start: number; length: number; tag: string; value: Value }[] = [];
  const lines = text.split("\n");
  let origin = 0;
  let batch: Promise<void>[] = [];
  for (const [index, raw] of lines.entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith('"')) continue;
    if (line.startsWith("#")) {
      const found = /^#\[(?:StartTime|BaseTime): ([\d.]+)/.exec(line);
      if (found) origin = Number(found[1]);
      continue;
    }
    batch.push(
      readEntry(line).then(
        (entry) => {
          entries.push({ line: index + 1, ...entry });
        },
        (error: Error) => {
          run.complaints.push({ source: name, line: index + 1, reason: error.message });
        },
      ),
    );
    if (batch.length >= 64) {
      await Promise.all(batch);
      batch = [];
    }
  }
  await Promise.all(batch);
  run.complaints.sort((a, b) => (a.line ?? 0) - (b.line ?? 0));
  fill(run, entries, origin);
  return run;
}

function fill(run: Run, entries: { start: number; length: number; tag: string; value: Value }[], origin: number): void {
  entries.sort((a, b) => a.start - b.start || a.tag.localeCompare(b.tag));
  const lengths = entries.map((entry) => entry.length).sort((a, b) => a - b);
  const interval = lengths[lengths.length >> 1] ?? 1;
  // times below this are offsets from the log's start
  const offset = entries.length > 0 && (entries[0]?.start ?? 0) < 1e8 ? origin : 0;
  run.accept({
    kind: "header",
    header: {
      schema: "optimacore.series/1",
      version: "",
      commit: "",
      pid: 0,
      start_us: ((entries[0]?.start ?? 0) + offset) * 1e6,
      interval_us: Math.max(1, Math.round(interval * 1e6)),
      host: {},
      metrics: [],
    },
  });
  let last = Number.NEGATIVE_INFINITY;
  for (const { start, length, tag, value } of entries) {
    const end = start + offset + length;
    if (end * 1000 - last > interval * 500) {
      last = end * 1000;
      run.open(last, length);
    }
    run.put(run.declare(`${PREFIX}request_seconds`, labelsOf(tag)), value);
  }
}

function labelsOf(tag: string): Record<string, string> {
  const parts = tag.split("/");
  if (parts.length >= 3) {
    return { database: parts[0] ?? "", user: parts.slice(1, -1).join("/"), phase: parts[parts.length - 1] ?? "" };
  }
  return { database: tag || "all", user: "", phase: "total" };
}

async function readEntry(line: string): Promise<{ start: number; length: number; tag: string; value: Value }> {
  const fields = line.split(",");
  const tag = fields[0]?.startsWith("Tag=") ? (fields.shift() as string).slice(4) : "";
  const [start, length, , payload] = fields;
  if (payload === undefined)
    throw new Error("a line of a histogram log has start, length, highest value and histogram");
  const begin = Number(start);
  const seconds = Number(length);
  if (!Number.isFinite(begin) || !Number.isFinite(seconds)) throw new Error("start and length should be numbers");
  return { start: begin, length: seconds, tag, value: await decode(payload) };
}

/** One histogram as pairs of upper bound and count. */
export async function decode(base64: string): Promise<[number, number][]> {
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  } catch {
    throw new Error("the histogram is no base64: the line is cut off or damaged");
  }
  if (bytes.length < 8) throw new Error("the histogram is cut off");
  const outer = new DataView(bytes.buffer);
  if (base(outer.getUint32(0)) !== COOKIE_COMPRESSED) throw new Error("the histogram is not V2 with deflate");
  const length = outer.getUint32(4);
  if (length > bytes.length - 8) throw new Error("the histogram is cut off");
  return counts(await inflate(bytes.subarray(8, 8 + length)));
}

async function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const pieces: Uint8Array[] = [];
  let size = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > UNPACKED_MAX) {
        await reader.cancel();
        throw new Truncated("the histogram unpacks to more than it may");
      }
      pieces.push(value);
    }
  } catch (error) {
    throw error instanceof Truncated ? error : new Error("the histogram does not unpack: it is damaged");
  }
  const out = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/** The counts of an unpacked V2 histogram: zigzag LEB128, zeros as negative runs. */
function counts(bytes: Uint8Array): [number, number][] {
  if (bytes.length < 40) throw new Error("the histogram is cut off");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (base(view.getUint32(0)) !== COOKIE) throw new Error("the histogram is not V2");
  const end = Math.min(bytes.length, 40 + view.getUint32(4));
  const digits = view.getUint32(12);
  const lowest = Math.max(1, Number(view.getBigUint64(16)));
  if (digits > 5) throw new Error(`the histogram says it has ${digits} significant digits`);
  const unit = Math.floor(Math.log2(lowest));
  const sub = Math.ceil(Math.log2(2 * 10 ** digits));
  const half = 2 ** (sub - 1);
  const boundAt = (index: number) => {
    const group = Math.floor(index / half) - 1;
    const within = group < 0 ? index : (index % half) + half;
    return (within + 1) * 2 ** (Math.max(0, group) + unit) - 1;
  };
  const out: [number, number][] = [];
  let index = 0;
  let at = 40;
  while (at < end) {
    let value = 0n;
    let shift = 0n;
    for (let piece = 0; piece < 9; piece++) {
      if (at >= end) throw new Error("the histogram ends within a number");
      const byte = bytes[at++] as number;
      if (piece === 8) {
        value |= BigInt(byte) << shift;
        break;
      }
      value |= BigInt(byte & 0x7f) << shift;
      shift += 7n;
      if (byte < 0x80) break;
    }
    const signed = Number((value >> 1n) ^ -(value & 1n));
    if (signed < 0) index -= signed;
    else {
      if (signed > 0) out.push([boundAt(index), signed]);
      index++;
    }
    if (index > 1e7) throw new Error("the histogram has more buckets than it may");
  }
  return out;
}
