import { createHash } from "node:crypto";
import { gzipSync } from "node:zlib";
import * as hdr from "hdr-histogram-js";
import { describe, expect, test } from "vitest";
import { open } from "../../src/source/file.ts";
import { Query } from "../../src/store/query.ts";
import { file } from "../generate.mjs";

const bytes = (text: string | Uint8Array): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(typeof text === "string" ? new TextEncoder().encode(text) : text);
const source = (name: string, content: string | Uint8Array) => ({ name, bytes: bytes(content) });

function hlog(count: number): string {
  let out = "#[Histogram log format version 1.3]\n#[StartTime: 1790000000.000 (seconds since epoch)]\n";
  out += '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n';
  for (let second = 0; second < count; second++) {
    for (const phase of ["queue", "server"]) {
      const histogram = hdr.build({
        lowestDiscernibleValue: 1,
        highestTrackableValue: 60_000_000,
        numberOfSignificantValueDigits: 3,
      });
      for (let value = 1; value <= 1000; value++) histogram.recordValue(phase === "queue" ? value : value * 37);
      out += `Tag=app/app/${phase},${1790000000 + second}.000,1.000,37.000,${hdr.encodeIntoCompressedBase64(histogram)}\n`;
    }
  }
  return out;
}

describe("files", () => {
  test("of series are read, plain and gzipped, and rotated ones of one process are one run", async () => {
    const text = file({ seconds: 40, trouble: [10, 20] });
    const plain = await open([source("a.ndjson", text)]);
    expect(plain.complaints).toEqual([]);
    expect(plain.runs[0]?.ticks).toBe(40);
    const [head, ...rest] = text.trimEnd().split("\n");
    const cut = rest.findIndex((line) => line.startsWith('{"t":')) + 1;
    const declared = rest.filter((line) => line.startsWith('{"series"') || line.startsWith('{"statement"'));
    const ticks = rest.filter((line) => line.startsWith('{"t":'));
    const first = [head, ...rest.slice(0, cut), ...ticks.slice(1, 20)].join("\n");
    const second = [head, ...declared, ...ticks.slice(20)].join("\n");
    // given in the wrong order, and one of them packed
    const both = await open([source("b.ndjson", second), source("a.ndjson.gz", gzipSync(first))]);
    expect(both.runs).toHaveLength(1);
    expect(both.runs[0]?.ticks).toBe(40);
    const total = (opened: typeof both) => new Query(opened.runs[0]!).total("requests_total", {}, {}, 0, 40);
    expect(total(both)).toBeCloseTo(total(plain), -4);
  });

  test("that are cut off or damaged are shown as far as they can be read, with the line and the reason", async () => {
    const text = file({ seconds: 30 });
    const broken = `${text.slice(0, text.length - 200)}\n`;
    const opened = await open([source("cut.ndjson", broken)]);
    expect(opened.runs[0]?.ticks).toBe(29);
    expect(opened.complaints).toEqual([
      { source: "cut.ndjson", line: broken.split("\n").length - 1, reason: "it is cut off or no JSON" },
    ]);
    const packed = gzipSync(text);
    const half = await open([source("cut.ndjson.gz", packed.subarray(0, packed.length - 2000))]);
    expect(half.runs[0]?.ticks).toBeGreaterThan(1);
    expect(half.complaints[0]?.reason).toMatch(/the gzip file is cut off or damaged; read as far as line \d+/);
  });

  test("that are none of ours are named", async () => {
    const opened = await open([
      source("cat.png", Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 1, 2, 3)),
      source("empty.ndjson", ""),
      source("other.json", '{"schema":"somebody.else/1"}'),
      source("newer.ndjson", '{"schema":"optimacore.series/9","start_us":1}\n'),
    ]);
    expect(opened.runs).toEqual([]);
    expect(opened.complaints.map((complaint) => complaint.reason)).toEqual([
      "cat.png is none of the files that OptimaCore writes (.ndjson, .ndjson.gz, .hlog, .prom, run.json)",
      "the file is empty",
      'its schema is "somebody.else/1", not optimacore.series/1',
      'its schema is "optimacore.series/9"; this dashboard reads version 1',
    ]);
  });

  test("full of mistakes name the first fifty and count the rest", async () => {
    const opened = await open([source("bad.ndjson", `${file({ seconds: 2 })}${"{\n".repeat(500)}`)]);
    expect(opened.complaints).toHaveLength(51);
    expect(opened.complaints.at(-1)?.reason).toBe("450 more lines could not be read");
  });

  test("of HdrHistogram give the quantiles of the library that wrote them", async () => {
    const opened = await open([source("run.hlog", hlog(5))]);
    expect(opened.complaints).toEqual([]);
    const run = opened.runs[0]!;
    expect(run.ticks).toBe(5);
    expect(run.t.at(0)).toBe(1790000001000);
    const query = new Query(run);
    const histogram = query.histogram("request_seconds", { database: "app", user: "app" }, { phase: "server" }, 0, 5);
    expect(histogram.count).toBe(5000);
    const reference = hdr.build({
      lowestDiscernibleValue: 1,
      highestTrackableValue: 60_000_000,
      numberOfSignificantValueDigits: 3,
    });
    for (let value = 1; value <= 1000; value++) reference.recordValue(value * 37);
    for (const share of [50, 95, 99, 99.9, 100])
      expect(histogram.quantile(share / 100)).toBe(reference.getValueAtPercentile(share));
  });

  test("of HdrHistogram with damaged lines keep the others", async () => {
    const lines = hlog(3).split("\n");
    lines[4] = `${(lines[4] as string).slice(0, -40)}`;
    lines[5] = "Tag=x,1,2";
    lines[8] = "Tag=app/app/queue,1790000001.0,1.0,1.0,AAAAAAAAAAAAAAAA";
    const opened = await open([source("run.hlog", lines.join("\n"))]);
    expect(opened.runs[0]?.ticks).toBe(3);
    expect(opened.complaints.map((complaint) => complaint.line)).toEqual([5, 6, 9]);
  });

  test("of Prometheus text are one moment since the start", async () => {
    const text = [
      "# TYPE optimacore_process_start_timestamp_seconds gauge",
      "optimacore_process_start_timestamp_seconds 1790000000",
      "optimacore_export_timestamp_seconds 1790000100",
      "# HELP optimacore_requests_total Requests.",
      "# TYPE optimacore_requests_total counter",
      'optimacore_requests_total{database="a\\"b",path="shared"} 500',
      "# TYPE optimacore_request_seconds histogram",
      'optimacore_request_seconds_bucket{phase="server",le="0.001"} 90',
      'optimacore_request_seconds_bucket{phase="server",le="0.002"} 99',
      'optimacore_request_seconds_bucket{phase="server",le="+Inf"} 100',
      'optimacore_request_seconds_sum{phase="server"} 0.2',
      'optimacore_request_seconds_count{phase="server"} 100',
      "this is not a sample {",
      "optimacore_bad nothing",
    ].join("\n");
    const opened = await open([source("optimacore.prom", text)]);
    expect(opened.complaints.map((complaint) => complaint.line)).toEqual([13, 14]);
    const query = new Query(opened.runs[0]!);
    expect(query.rate("requests_total", ["database"], {})).toEqual([{ name: 'a"b', values: [5] }]);
    const histogram = query.histogram("request_seconds", {}, { phase: "server" }, 0, 1);
    expect([histogram.count, histogram.quantile(0.5), histogram.quantile(0.95)]).toEqual([100, 1000, 2000]);
  });

  test("named in run.json are checked against their sums", async () => {
    const text = file({ seconds: 5 });
    const sum = createHash("sha256").update(text).digest("hex");
    const run = (sha256: string) =>
      JSON.stringify({
        schema: "optimacore.run/1",
        program: "optimacore",
        config_sha256: "aa",
        files: [{ name: "a.ndjson", bytes: text.length, sha256 }],
      });
    const good = await open([source("a.ndjson", text), source("run.json", run(sum))]);
    expect(good.complaints).toEqual([]);
    expect(good.runs[0]?.facts).toMatchObject({ program: "optimacore" });
    const bad = await open([source("a.ndjson", text), source("run.json", run("00"))]);
    expect(bad.complaints[0]?.reason).toContain("its checksum is not the one in run.json");
    const alone = await open([source("run.json", run(sum))]);
    expect(alone.complaints[0]?.reason).toContain("it describes a run");
  });

  test("of a whole directory are one run: its series say what the others say, and more", async () => {
    const opened = await open([
      source("optimacore.prom", "# TYPE optimacore_requests_total counter\noptimacore_requests_total 5\n"),
      source("a.ndjson", file({ seconds: 5, start: 1790000000000 })),
      source("a.hlog", hlog(3)),
    ]);
    expect(opened.runs.map((run) => run.name)).toEqual(["a.ndjson"]);
  });
});
