// The charts, in the order in which an operator asks. Each says what it shows, from which metrics, and makes its model.

import { curve, heat, partPanel, partQuantiles, partsTogether } from "./latency.ts";
import { gauge, type Panel, POOL, perCore, poolUse, rate, type Scene, type Section, time, together } from "./panel.ts";

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
