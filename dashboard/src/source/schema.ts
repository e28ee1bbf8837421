// What the lines of a series stream look like, once read and judged.

export type Kind = "counter" | "gauge" | "histogram" | "info";

export interface Metric {
  name: string;
  type: Kind;
  unit: string;
  labels: string[];
  help: string;
  normal: string;
}

export interface Host {
  name?: string;
  kernel?: string;
  cpus?: number;
  memory_bytes?: number;
}

export interface Header {
  schema: string;
  version: string;
  commit: string;
  pid: number;
  start_us: number;
  interval_us: number;
  host: Host;
  metrics: Metric[];
}

export type Labels = Record<string, string>;

/** Counters and gauges are numbers; histograms are pairs of upper bound (microseconds) and count. */
export type Value = number | [number, number][];

export type Line =
  | { kind: "header"; header: Header }
  | { kind: "series"; id: number; metric: string; labels: Labels }
  | { kind: "statement"; id: string; database: string; user: string; text: string }
  | { kind: "event"; event: string; t: number; text: string }
  | { kind: "tick"; t: number; dt: number; values: Record<string, Value> }
  | { kind: "unknown" };

/** Something in a source that could not be used, and where. */
export interface Complaint {
  source: string;
  line?: number;
  reason: string;
}
