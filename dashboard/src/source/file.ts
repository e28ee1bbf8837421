// Files of an export directory, told apart by what is in them, whatever their names: series, histogram logs, Prometheus text, run.json.

import { PREFIX, Run } from "../store/run.ts";
import { looksLikeHlog, readHlog } from "./hlog.ts";
import { LineError, readLine } from "./line.ts";
import { looksLikeProm, readProm } from "./prom.ts";
import type { Complaint } from "./schema.ts";

export interface Source {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
  modified?: number;
}

export interface Opened {
  runs: Run[];
  complaints: Complaint[];
}

/** More than this of one source is not unpacked. */
const UNPACKED_MAX = 1 << 30;
const COMPLAINTS_MAX = 50;

interface Facts {
  name: string;
  value: Record<string, unknown>;
}

/** Opens files that were given together: those of one process become one run. */
export async function open(sources: Source[]): Promise<Opened> {
  const complaints: Complaint[] = [];
  const series: { name: string; text: string; key: string; first: number }[] = [];
  const runs: Run[] = [];
  const facts: Facts[] = [];
  for (const source of sources) {
    const text = await unpack(source, complaints);
    if (text === null) continue;
    const head = text.slice(0, 4096).trimStart();
    if (head === "") complaints.push({ source: source.name, reason: "the file is empty" });
    else if (looksLikeHlog(text)) runs.push(await readHlog(text, source.name));
    else if (head.startsWith("{")) {
      const object = document(text);
      if (object && String(object.schema).startsWith("optimacore.run/"))
        facts.push({ name: source.name, value: object });
      else series.push({ name: source.name, text, ...peek(text) });
    } else if (looksLikeProm(text)) runs.push(readProm(text, source.name, source.modified ?? Date.now()));
    else complaints.push({ source: source.name, line: 1, reason: foreign(source.name) });
  }
  const whole = readSeries(series);
  // an export directory says the same thing in several forms: the series are the fullest
  const rest =
    whole.length === 0 ? runs : runs.filter((run) => !run.moment && !whole.some((other) => overlap(run, other)));
  runs.splice(0, runs.length, ...whole, ...rest);
  await attach(runs, facts, sources, complaints);
  for (const run of runs) complaints.push(...run.complaints.splice(0, run.complaints.length));
  return { runs: runs.filter((run) => run.ticks > 0 || run.events.length > 0), complaints };
}

function overlap(a: Run, b: Run): boolean {
  const [from, to] = a.span;
  const [begin, end] = b.span;
  return from < end && begin < to && b.seriesOf(`${PREFIX}request_seconds`).length > 0;
}

function foreign(name: string): string {
  return `${name} is none of the files that OptimaCore writes (.ndjson, .ndjson.gz, .hlog, .prom, run.json)`;
}

/** A JSON document, when the whole text is one. */
function document(text: string): Record<string, unknown> | null {
  if (text.length > 4 << 20) return null;
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return null;
  }
}

/** Which process wrote a file of series, and when it begins. */
function peek(text: string): { key: string; first: number } {
  const first = /^\{"t":(\d+)/m.exec(text);
  let key = text.slice(0, 200);
  try {
    const line = readLine(text.slice(0, text.indexOf("\n") + 1 || text.length));
    if (line.kind === "header") key = `${line.header.pid} ${line.header.start_us} ${line.header.host.name ?? ""}`;
  } catch {
    // it is said when the file is read
  }
  return { key, first: first ? Number(first[1]) : 0 };
}

function readSeries(files: { name: string; text: string; key: string; first: number }[]): Run[] {
  files.sort((a, b) => a.first - b.first);
  const runs = new Map<string, Run>();
  for (const file of files) {
    const run = runs.get(file.key) ?? new Run(file.name, 200_000);
    runs.set(file.key, run);
    readText(file.text, file.name, run);
  }
  return [...runs.values()];
}

/** Feeds a text of series lines to a run; what cannot be read is complained of, the rest is taken. */
export function readText(text: string, name: string, run: Run): void {
  let from = 0;
  let number = 0;
  let bad = 0;
  let headed = false;
  while (from < text.length) {
    let to = text.indexOf("\n", from);
    if (to < 0) to = text.length;
    number++;
    const line = text.slice(from, to).trim();
    from = to + 1;
    if (line === "") continue;
    try {
      const read = readLine(line);
      if (read.kind === "header") headed = true;
      else if (!headed) {
        headed = true;
        run.complaints.push({ source: name, line: number, reason: "no header comes before it" });
      }
      run.accept(read);
    } catch (error) {
      if (!(error instanceof LineError)) throw error;
      bad++;
      if (bad <= COMPLAINTS_MAX) run.complaints.push({ source: name, line: number, reason: error.message });
    }
  }
  if (bad > COMPLAINTS_MAX) {
    run.complaints.push({ source: name, reason: `${bad - COMPLAINTS_MAX} more lines could not be read` });
  }
}

async function unpack(source: Source, complaints: Complaint[]): Promise<string | null> {
  const { bytes, name } = source;
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return new TextDecoder().decode(bytes);
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  try {
    const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      text += decoder.decode(value, { stream: true });
      if (size > UNPACKED_MAX) {
        complaints.push({ source: name, reason: "it unpacks to more than 1 GiB; the rest was left" });
        await reader.cancel();
        break;
      }
    }
  } catch {
    const what = text === "" ? "nothing of it can be read" : `read as far as line ${text.split("\n").length}`;
    complaints.push({
      source: name,
      line: text.split("\n").length,
      reason: `the gzip file is cut off or damaged; ${what}`,
    });
  }
  return text === "" ? null : text;
}

/** run.json says which files belong to the run and what their checksums are. */
async function attach(runs: Run[], facts: Facts[], sources: Source[], complaints: Complaint[]): Promise<void> {
  for (const { name, value } of facts) {
    const files = Array.isArray(value.files) ? (value.files as { name?: unknown; sha256?: unknown }[]) : [];
    const names = files.map((file) => String(file.name));
    const mine = runs.filter((run) => names.includes(run.name));
    const target = mine.length > 0 ? mine : facts.length === 1 ? runs : [];
    for (const run of target) run.facts = value;
    if (runs.length === 0)
      complaints.push({ source: name, reason: "it describes a run; open its .ndjson or .hlog beside it" });
    for (const file of files) {
      const source = sources.find((one) => one.name === file.name);
      if (!source || typeof file.sha256 !== "string" || !globalThis.crypto?.subtle) continue;
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", source.bytes));
      const hex = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      if (hex !== file.sha256) {
        complaints.push({
          source: source.name,
          reason: `its checksum is not the one in ${name}: it was changed or is still being written`,
        });
      }
    }
  }
}
