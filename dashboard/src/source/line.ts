// Reads one line of a series stream (schema optimacore.series/1). Whatever the line is, this answers or throws a LineError.

import type { Header, Host, Kind, Labels, Line, Metric, Value } from "./schema.ts";

export class LineError extends Error {}

const SERIES_SCHEMA = "optimacore.series/";
const VERSION = 1;

function fail(reason: string): never {
  throw new LineError(reason);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function text(value: unknown, name: string): string {
  return typeof value === "string" ? value : fail(`"${name}" should be a string`);
}

function number(value: unknown, name: string): number {
  return typeof value === "number" && Number.isFinite(value) ? value : fail(`"${name}" should be a number`);
}

function labelsOf(value: unknown): Labels {
  if (!isObject(value)) fail('"labels" should be an object');
  const labels: Labels = {};
  for (const [name, label] of Object.entries(value)) {
    if (name !== "__proto__") labels[name] = text(label, `labels.${name}`);
  }
  return labels;
}

const KINDS: Kind[] = ["counter", "gauge", "histogram", "info"];

function metricOf(value: unknown): Metric {
  if (!isObject(value)) fail('"metrics" should hold objects');
  const type = text(value.type, "type") as Kind;
  if (!KINDS.includes(type)) fail(`"${type}" is no type of a metric`);
  return {
    name: text(value.name, "name"),
    type,
    unit: typeof value.unit === "string" ? value.unit : "count",
    labels: Array.isArray(value.labels) ? value.labels.filter((label) => typeof label === "string") : [],
    help: typeof value.help === "string" ? value.help : "",
    normal: typeof value.normal === "string" ? value.normal : "",
  };
}

function hostOf(value: unknown): Host {
  if (!isObject(value)) return {};
  const host: Host = {};
  if (typeof value.name === "string") host.name = value.name;
  if (typeof value.kernel === "string") host.kernel = value.kernel;
  if (typeof value.cpus === "number") host.cpus = value.cpus;
  if (typeof value.memory_bytes === "number") host.memory_bytes = value.memory_bytes;
  return host;
}

function headerOf(object: Record<string, unknown>): Header {
  const schema = text(object.schema, "schema");
  if (!schema.startsWith(SERIES_SCHEMA)) fail(`its schema is "${schema}", not ${SERIES_SCHEMA}${VERSION}`);
  if (Number(schema.slice(SERIES_SCHEMA.length)) !== VERSION) {
    fail(`its schema is "${schema}"; this dashboard reads version ${VERSION}`);
  }
  return {
    schema,
    version: typeof object.version === "string" ? object.version : "",
    commit: typeof object.commit === "string" ? object.commit : "",
    pid: typeof object.pid === "number" ? object.pid : 0,
    start_us: number(object.start_us, "start_us"),
    interval_us: typeof object.interval_us === "number" && object.interval_us > 0 ? object.interval_us : 1_000_000,
    host: hostOf(object.host),
    metrics: Array.isArray(object.metrics) ? object.metrics.map(metricOf) : [],
  };
}

function judge(name: string, value: unknown): void {
  if (typeof value === "number") return;
  if (!Array.isArray(value)) fail(`the value of series ${name} is neither a number nor a histogram`);
  for (const pair of value) {
    if (!Array.isArray(pair) || typeof pair[0] !== "number" || typeof pair[1] !== "number") {
      fail(`the histogram of series ${name} should hold pairs of numbers`);
    }
  }
}

function tickOf(object: Record<string, unknown>): Line {
  const t = number(object.t, "t");
  const dt = number(object.dt, "dt");
  if (dt < 0) fail('"dt" is below zero');
  if (!isObject(object.v)) fail('"v" should be an object');
  for (const name in object.v) judge(name, object.v[name]);
  return { kind: "tick", t, dt, values: object.v as Record<string, Value> };
}

export function readLine(line: string): Line {
  let object: unknown;
  try {
    object = JSON.parse(line);
  } catch {
    fail(line.trimStart().startsWith("{") ? "it is cut off or no JSON" : "it is no JSON");
  }
  if (!isObject(object)) fail("it is no JSON object");
  switch (Object.keys(object)[0]) {
    case "t":
      return tickOf(object);
    case "series": {
      const id = number(object.series, "series");
      if (!Number.isSafeInteger(id) || id < 0) fail('"series" should be a whole number');
      return { kind: "series", id, metric: text(object.metric, "metric"), labels: labelsOf(object.labels ?? {}) };
    }
    case "statement":
      return {
        kind: "statement",
        id: text(object.statement, "statement"),
        database: typeof object.database === "string" ? object.database : "",
        user: typeof object.user === "string" ? object.user : "",
        text: text(object.text, "text"),
      };
    case "event":
      return {
        kind: "event",
        event: text(object.event, "event"),
        t: number(object.t, "t"),
        text: typeof object.text === "string" ? object.text : "",
      };
    case "schema":
      return { kind: "header", header: headerOf(object) };
    default:
      return { kind: "unknown" };
  }
}
