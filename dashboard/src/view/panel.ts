// The charts, in the order in which an operator asks. Each says what it shows, from which metrics, and makes its model.

import type { Line, Model, TimeModel } from "../chart/model.ts";
import type { Unit } from "../format.ts";
import type { Labels } from "../source/schema.ts";
import type { Part } from "../state.ts";
import { boundOf, Histogram } from "../store/histogram.ts";
import type { Answer, Filter, Join, Query } from "../store/query.ts";

/** What a view is made from: a run, what of it, and the run it is compared with, whose times are moved by `shift`. */
export interface Scene {
  query: Query;
  second: { query: Query; shift: number } | null;
  filter: Filter;
  statement: string | null;
  part: Part;
  from: number;
  to: number;
}

export interface Panel {
  id: string;
  title: string;
  /** Metrics it is made from, without their prefix. */
  metrics: string[];
  /** Takes the whole width of the page. */
  wide?: boolean;
  model(scene: Scene): Model;
}

export interface Section {
  id: string;
  question: string;
  /** What to do when it looks bad. */
  advice: string;
  panels: Panel[];
}

export const PART_NAMES: Record<string, string> = {
  queue: "queue",
  pipe_wait: "pipe wait",
  server: "server",
  proxy: "proxy",
  total: "all of it",
};

const SHARES = [0.5, 0.95, 0.99, 0.999];
const LINES_MAX = 6;
export const POOL = ["database", "user"];

type Ask = (query: Query, filter: Filter) => Answer[];

/** Keeps the largest lines and adds the rest up, so that a chart of 200 pools can be read. */
function largest(answers: Answer[], join: Join): Answer[] {
  if (answers.length <= LINES_MAX) return answers;
  const sum = (answer: Answer) =>
    answer.values.reduce((total, value) => total + (Number.isFinite(value) ? value : 0), 0);
  const sorted = [...answers].sort((a, b) => sum(b) - sum(a));
  const rest = sorted.slice(LINES_MAX - 1);
  const values = (rest[0] as Answer).values.map((_, tick) => {
    const all = rest.map((answer) => answer.values[tick] as number).filter(Number.isFinite);
    return join === "sum" ? all.reduce((a, b) => a + b, 0) : Math.max(...all, 0);
  });
  return [...sorted.slice(0, LINES_MAX - 1), { name: `${rest.length} others`, values }];
}

function time(
  scene: Scene,
  unit: Unit,
  ask: Ask,
  more: Partial<TimeModel> & { join?: Join; cores?: boolean } = {},
): TimeModel {
  const { join = "sum", cores: _, ...rest } = more;
  const lines: Line[] = [];
  const add = (query: Query, shift: number, second: boolean) => {
    const x = query.run.t.view();
    const moved = shift === 0 ? x : x.map((value) => value + shift);
    const first = query.run.first;
    largest(ask(query, scene.filter), join).forEach((answer, index) => {
      const style = second ? lines.find((line) => line.name === nameOf(answer))?.style : index;
      lines.push({
        name: nameOf(answer),
        x: moved.subarray(first),
        y: first === 0 ? answer.values : answer.values.slice(first),
        style: style ?? index,
        second,
      });
    });
  };
  const nameOf = (answer: Answer) => (more.cores ? `core ${answer.name}` : answer.name || "all");
  add(scene.query, 0, false);
  if (scene.second) add(scene.second.query, scene.second.shift, true);
  const events = scene.query.run.events.filter((event) => event.t >= scene.from && event.t <= scene.to);
  return { kind: "time", unit, from: scene.from, to: scene.to, lines, limits: [], events, ...rest };
}

const rate =
  (metric: string, by: string[], fixed: Labels = {}): Ask =>
  (query, filter) =>
    query.rate(metric, by, filter, fixed);

const gauge =
  (metric: string, by: string[], join: Join = "sum", fixed: Labels = {}): Ask =>
  (query, filter) =>
    query.gauge(metric, by, filter, join, fixed);

function named(answers: Answer[], name: string): Answer[] {
  return answers.map((answer) => ({
    ...answer,
    name: answer.name === "" ? name : `${name} ${answer.name}`.trim(),
  }));
}

/** Several metrics as lines of one chart. */
const together =
  (...parts: [string, Ask][]): Ask =>
  (query, filter) =>
    parts.flatMap(([name, ask]) => named(ask(query, filter), name));

/** One answer over another, tick by tick, by name. */
export function divide(above: Answer[], below: Answer[]): Answer[] {
  return above.map((answer) => {
    const other = below.find((one) => one.name === answer.name) ?? (below.length === 1 ? below[0] : undefined);
    return {
      name: answer.name,
      values: answer.values.map((value, tick) => {
        const size = other?.values[tick] ?? Number.NaN;
        return size > 0 ? value / size : Number.NaN;
      }),
    };
  });
}

const withoutShard = (filter: Filter): Filter => {
  const { shard: _, ...rest } = filter;
  return rest;
};

/** Busy time of server connections against the pool's limit. */
export function poolUse(query: Query, filter: Filter): Answer[] {
  return divide(
    query.rate("pool_busy_seconds_total", POOL, filter),
    query.gauge("pool_server_connections_max", POOL, withoutShard(filter), "max"),
  );
}

/** Where latency is read: of requests, or of the statement that is looked at. */
export function latencyMetric(scene: Scene): { metric: string; filter: Filter } {
  if (scene.statement === null) return { metric: "request_seconds", filter: scene.filter };
  return { metric: "statement_seconds", filter: { ...scene.filter, statement: scene.statement } };
}

function partQuantiles(scene: Scene, part: string): TimeModel {
  const { metric, filter } = latencyMetric(scene);
  return time(scene, "seconds", (query) => query.quantiles(metric, SHARES, filter, { phase: part }), { join: "max" });
}

/** The parts on one scale, so that they can be compared at a glance. */
function partPanel(part: Part): Panel {
  return {
    id: `latency-${part.replace("_", "-")}`,
    title: `${(PART_NAMES[part] as string).replace(/^./, (char) => char.toUpperCase())}`,
    metrics: ["request_seconds", "statement_seconds"],
    model: (scene) => partQuantiles(scene, part),
  };
}

function partsTogether(scene: Scene, share: number): TimeModel {
  const { metric, filter } = latencyMetric(scene);
  return time(
    scene,
    "seconds",
    (query) =>
      ["queue", "pipe_wait", "server", "proxy"].flatMap((part) =>
        query
          .quantiles(metric, SHARES, filter, { phase: part })
          .filter((answer) => answer.name === `p${share * 100}`)
          .map((answer) => ({ name: PART_NAMES[part] as string, values: answer.values })),
      ),
    { join: "max", limits: share === 0.99 ? [{ value: 0.01, label: "goal 10 ms" }] : [] },
  );
}

const HEAT_COLUMNS = 100;
/** Upper bounds of the rows, in microseconds: six to a power of ten. */
const ROWS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].flatMap((step) =>
  [1, 1.5, 2, 3, 5, 7].map((factor) => factor * step),
);

function rowOf(microseconds: number): number {
  const row = ROWS.findIndex((bound) => bound >= microseconds);
  return row < 0 ? ROWS.length - 1 : row;
}

function heat(scene: Scene): Model {
  const { metric, filter } = latencyMetric(scene);
  const { query } = scene;
  const [from, to] = query.range(scene.from, scene.to);
  const every = Math.max(1, Math.ceil((to - from) / HEAT_COLUMNS));
  const columns: number[] = [];
  const raw: [number, number, number][] = [];
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  // columns stand still while time goes on: they begin at multiples of their width, and whole ones are counted once
  for (let tick = from - (from % every); tick < to; tick += every) {
    const [first, last] = [Math.max(from, tick), Math.min(to, tick + every)];
    for (const [row, count] of heatColumn(query, metric, filter, scene.part, [first, last])) {
      raw.push([columns.length, row, count]);
      low = Math.min(low, row);
      high = Math.max(high, row);
    }
    columns.push(query.run.t.at(first));
  }
  const rows = raw.length === 0 ? [] : ROWS.slice(low, high + 1).map((bound) => bound / 1e6);
  const cells = raw.map(([x, y, count]): [number, number, number] => [x, y - low, count]);
  return { kind: "heat", from: scene.from, to: scene.to, columns, rows, cells };
}

type HeatColumn = [number, number][];
const heatColumns = new WeakMap<Query, { epoch: number; columns: Map<string, HeatColumn> }>();
const heatSum = new Histogram();

function heatColumn(query: Query, metric: string, filter: Filter, phase: Part, ticks: [number, number]): HeatColumn {
  const { epoch } = query.run;
  let kept = heatColumns.get(query);
  if (!kept || kept.epoch !== epoch || kept.columns.size > 2000) {
    kept = { epoch, columns: new Map() };
    heatColumns.set(query, kept);
  }
  const key = `${metric} ${phase} ${ticks} ${query.select(metric, filter, { phase }).length} ${JSON.stringify(filter)}`;
  const known = kept.columns.get(key);
  if (known) return known;
  query.histogram(metric, filter, { phase }, ticks[0], ticks[1], heatSum);
  const sums = new Map<number, number>();
  for (const [bucket, count] of heatSum.entries()) {
    const row = rowOf(boundOf(bucket));
    sums.set(row, (sums.get(row) ?? 0) + count);
  }
  const column = [...sums];
  kept.columns.set(key, column);
  return column;
}

/** Shares at which percentile curves are drawn: ever closer to 1, as far as the count bears it. */
function sharesFor(count: number): number[] {
  const shares: number[] = [];
  for (let nines = 0; 10 ** nines <= count && nines < 7; nines++) {
    for (const part of [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85]) {
      const share = 1 - 10 ** -nines * (1 - part);
      if (share < 1 && 1 / (1 - share) <= count) shares.push(Number(share.toFixed(9)));
    }
  }
  return shares;
}

function curve(scene: Scene): Model {
  const { metric, filter } = latencyMetric(scene);
  const curves = [];
  const runs: [Query, number, boolean][] = [[scene.query, 0, false]];
  if (scene.second) runs.push([scene.second.query, scene.second.shift, true]);
  for (const [query, shift, second] of runs) {
    const [from, to] = query.range(scene.from - shift, scene.to - shift);
    for (const [style, part] of ["queue", "pipe_wait", "server", "proxy", "total"].entries()) {
      const histogram = query.sliding(metric, filter, { phase: part }, from, to);
      if (histogram.count === 0) continue;
      const shares = sharesFor(histogram.count);
      const values = histogram.quantiles(shares).map((value) => value / 1e6);
      curves.push({ name: PART_NAMES[part] as string, shares, values, style, second });
    }
  }
  return { kind: "curve" as const, curves, limits: [{ value: 0.01, label: "goal 10 ms" }] };
}

function perCore(scene: Scene, unit: Unit, names: [string, string, Labels][]): Model {
  const { query, filter } = scene;
  const [from, to] = query.range(scene.from, scene.to);
  const shards = query.valuesOf(names[0]?.[1] ?? "", "shard", filter);
  let seconds = 0;
  for (let tick = from; tick < to; tick++) seconds += query.run.dt.at(tick);
  return {
    kind: "bars",
    unit,
    groups: shards.map((shard) => `core ${shard}`),
    bars: names.map(([name, metric, fixed], style) => ({
      name,
      style,
      values: shards.map(
        (shard) => query.total(metric, { ...filter, shard }, fixed, from, to) / Math.max(seconds, 1e-9),
      ),
    })),
  };
}

export const SECTIONS: Section[] = [
  {
    id: "waiting",
    question: "Is anyone waiting?",
    advice:
      "Waiting for more than moments: the pool is too small, or its connections are held by long transactions or pins.",
    panels: [
      {
        id: "waiting-clients",
        title: "Clients waiting for a connection",
        metrics: ["pool_clients"],
        model: (scene) =>
          time(scene, "count", gauge("pool_clients", POOL, "sum", { state: "waiting" }), { atLeast: 4 }),
      },
      {
        id: "waiting-longest",
        title: "Longest wait",
        metrics: ["pool_client_maxwait_seconds"],
        model: (scene) =>
          time(scene, "seconds", gauge("pool_client_maxwait_seconds", POOL, "max"), {
            join: "max",
            atLeast: 0.01,
            limits: [{ value: 15, label: "15 s" }],
          }),
      },
    ],
  },
  {
    id: "pools",
    question: "How full are the pools?",
    advice: "Above 80 %: look for statements that take long, then raise the pool's size if PostgreSQL can bear it.",
    panels: [
      {
        id: "pool-use",
        title: "Pool utilisation: busy time against the limit",
        metrics: ["pool_busy_seconds_total", "pool_server_connections_max"],
        model: (scene) =>
          time(scene, "ratio", poolUse, {
            join: "max",
            atLeast: 1,
            limits: [
              { value: 0.8, label: "80 %" },
              { value: 0.9, label: "90 %" },
            ],
          }),
      },
      {
        id: "pool-core",
        title: "Busy server connections, by core",
        metrics: ["pool_busy_seconds_total"],
        model: (scene) => time(scene, "count", rate("pool_busy_seconds_total", ["shard"]), { cores: true }),
      },
      {
        id: "pool-servers",
        title: "Server connections, by state",
        metrics: ["pool_server_connections"],
        model: (scene) => time(scene, "count", gauge("pool_server_connections", ["state"])),
      },
      {
        id: "pool-clients",
        title: "Clients, by state",
        metrics: ["pool_clients"],
        model: (scene) => time(scene, "count", gauge("pool_clients", ["state"])),
      },
    ],
  },
  {
    id: "latency",
    question: "Where does the time go?",
    advice:
      "Queue: too few connections. Pipe wait: slow reads share pipes. Server: PostgreSQL itself. Proxy: this machine's cores.",
    panels: [
      {
        id: "latency-p99",
        title: "p99, by part",
        metrics: ["request_seconds"],
        wide: true,
        model: (scene) => partsTogether(scene, 0.99),
      },
      partPanel("queue"),
      partPanel("pipe_wait"),
      partPanel("server"),
      partPanel("proxy"),
      { id: "latency-heat", title: "How many took how long", metrics: ["request_seconds"], model: heat },
      { id: "latency-curve", title: "Percentile curve", metrics: ["request_seconds"], model: curve },
    ],
  },
  {
    id: "throughput",
    question: "How much is done?",
    advice: "A drop with nobody waiting is the application's; a drop with a queue is ours or PostgreSQL's.",
    panels: [
      {
        id: "throughput-requests",
        title: "Requests, by path",
        metrics: ["requests_total"],
        model: (scene) => time(scene, "rate", rate("requests_total", ["path"])),
      },
      {
        id: "throughput-transactions",
        title: "Transactions and special requests",
        metrics: ["transactions_total", "requests_relayed_total", "requests_retried_total", "requests_cancelled_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(
              ["transactions", rate("transactions_total", [])],
              ["relayed", rate("requests_relayed_total", [])],
              ["retried", rate("requests_retried_total", [])],
              ["cancelled", rate("requests_cancelled_total", [])],
            ),
          ),
      },
      {
        id: "throughput-bytes",
        title: "Traffic with clients and servers",
        metrics: ["shard_bytes_total", "server_bytes_total"],
        model: (scene) =>
          time(
            scene,
            "byterate",
            together(
              ["clients", rate("shard_bytes_total", ["direction"])],
              ["servers", rate("server_bytes_total", ["direction"])],
            ),
          ),
      },
    ],
  },
  {
    id: "errors",
    question: "What goes wrong?",
    advice:
      "Class 08 and 57: connections and shutdowns. 40: serialisation, retry. 53: limits. 42: the application's SQL.",
    panels: [
      {
        id: "errors-class",
        title: "Errors, by SQLSTATE class and source",
        metrics: ["errors_total", "shard_errors_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(
              ["", rate("errors_total", ["class", "source"])],
              ["before a pool", rate("shard_errors_total", ["class"])],
            ),
            { atLeast: 1 },
          ),
      },
      {
        id: "errors-limits",
        title: "Limits reached and logins refused",
        metrics: ["limits_reached_total", "shard_login_failures_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(
              ["", rate("limits_reached_total", ["limit"])],
              ["logins refused", rate("shard_login_failures_total", [])],
            ),
            { atLeast: 1 },
          ),
      },
    ],
  },
  {
    id: "statements",
    question: "Which statements?",
    advice: "Sort by share of time; a statement that waits in the queue suffers from others.",
    panels: [],
  },
  {
    id: "balance",
    question: "Are the cores in balance?",
    advice: "One core much busier than the others: few long connections landed there; reconnecting spreads them.",
    panels: [
      {
        id: "balance-busy",
        title: "Busy share of each core",
        metrics: ["shard_busy_seconds_total"],
        model: (scene) =>
          time(scene, "ratio", rate("shard_busy_seconds_total", ["shard"]), { join: "max", atLeast: 1, cores: true }),
      },
      {
        id: "balance-clients",
        title: "Clients of each core",
        metrics: ["shard_clients"],
        model: (scene) => time(scene, "count", gauge("shard_clients", ["shard"]), { cores: true }),
      },
      {
        id: "balance-messages",
        title: "Messages a second, by core, in this time",
        metrics: ["shard_messages_total"],
        model: (scene) =>
          perCore(scene, "rate", [
            ["from clients", "shard_messages_total", { direction: "in" }],
            ["to clients", "shard_messages_total", { direction: "out" }],
          ]),
      },
      {
        id: "balance-rings",
        title: "Between cores: messages and connections handed over",
        metrics: ["shard_ring_messages_total", "shard_handed_over_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(
              ["ring", rate("shard_ring_messages_total", ["direction"])],
              ["handed over", rate("shard_handed_over_total", [])],
            ),
          ),
      },
    ],
  },
  {
    id: "pins",
    question: "What keeps connections from being shared?",
    advice:
      "A pinned connection serves one session until it lets go; the reason names what to change in the application.",
    panels: [
      {
        id: "pins-reason",
        title: "Pins, by reason",
        metrics: ["pins_total"],
        model: (scene) => time(scene, "rate", rate("pins_total", ["reason"]), { atLeast: 1 }),
      },
      {
        id: "pins-clean",
        title: "Cleanings, probes, settings replayed",
        metrics: ["cleanings_total", "probes_total", "settings_replayed_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(
              ["cleanings", rate("cleanings_total", [])],
              ["probes", rate("probes_total", [])],
              ["settings replayed", rate("settings_replayed_total", [])],
            ),
          ),
      },
      {
        id: "pins-prepared",
        title: "Prepared statements: parsed, found, evicted",
        metrics: ["prepared_total"],
        model: (scene) => time(scene, "rate", rate("prepared_total", ["event"])),
      },
    ],
  },
  {
    id: "churn",
    question: "Do connections come and go?",
    advice:
      "Server connections made again and again: idle limits are too short, or something closes them. Failures: see the log.",
    panels: [
      {
        id: "churn-servers",
        title: "Server connections made, failed, closed in doubt",
        metrics: ["server_connects_total", "server_connect_failures_total", "server_closes_in_doubt_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(
              ["made", rate("server_connects_total", [])],
              ["failed", rate("server_connect_failures_total", [])],
              ["closed in doubt", rate("server_closes_in_doubt_total", [])],
            ),
            { atLeast: 1 },
          ),
      },
      {
        id: "churn-logins",
        title: "Logins of clients",
        metrics: ["shard_logins_total"],
        model: (scene) =>
          time(
            scene,
            "rate",
            together(["logins", rate("shard_logins_total", [])], ["refused", rate("shard_login_failures_total", [])]),
            { atLeast: 1 },
          ),
      },
    ],
  },
  {
    id: "host",
    question: "How is the machine?",
    advice:
      "Processor full and cores busy: this machine is the limit. Memory or open files near their limits: raise them.",
    panels: [
      {
        id: "host-cpu",
        title: "Processors: host busy, and this process in cores",
        metrics: ["host_cpu_busy_ratio", "process_cpu_seconds_total"],
        model: (scene) =>
          time(
            scene,
            "ratio",
            together(["host", gauge("host_cpu_busy_ratio", [])], ["process", rate("process_cpu_seconds_total", [])]),
            { join: "max", atLeast: 1 },
          ),
      },
      {
        id: "host-memory",
        title: "Memory",
        metrics: ["process_resident_memory_bytes", "shard_buffer_bytes", "host_memory_available_bytes"],
        model: (scene) =>
          time(
            scene,
            "bytes",
            together(
              ["process", gauge("process_resident_memory_bytes", [])],
              ["buffers", gauge("shard_buffer_bytes", [])],
              ["free on host", gauge("host_memory_available_bytes", [])],
            ),
          ),
      },
      {
        id: "host-files",
        title: "Open files",
        metrics: ["process_open_fds", "process_max_fds"],
        model: (scene) => time(scene, "count", together(["open", gauge("process_open_fds", [])])),
      },
    ],
  },
];

/** Panels of the statement that is looked at. */
export function statementPanels(): Panel[] {
  const filtered = (scene: Scene): Scene => ({
    ...scene,
    filter: { ...scene.filter, ...(scene.statement === null ? {} : { statement: scene.statement }) },
  });
  return [
    {
      id: "statement-calls",
      title: "Calls",
      metrics: ["statement_calls_total"],
      model: (scene) => time(filtered(scene), "rate", rate("statement_calls_total", ["path"])),
    },
    {
      id: "statement-server",
      title: "Time in PostgreSQL",
      metrics: ["statement_seconds"],
      model: (scene) => partQuantiles(scene, "server"),
    },
    {
      id: "statement-queue",
      title: "Time in the queue",
      metrics: ["statement_seconds"],
      model: (scene) => partQuantiles(scene, "queue"),
    },
  ];
}
