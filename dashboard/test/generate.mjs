// Writes series streams as the contract of docs/ has them, for tests: a made-up plane with pools, statements, a slow minute and errors.

/** Numbers that look random and are the same every time. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const COUNTER = "counter";
const GAUGE = "gauge";
const HISTOGRAM = "histogram";

const POOL = ["database", "user", "shard"];
const METRICS = [
  ["build_info", "info", "count", ["version"]],
  ["process_start_timestamp_seconds", GAUGE, "seconds", []],
  ["process_resident_memory_bytes", GAUGE, "bytes", []],
  ["process_cpu_seconds_total", COUNTER, "seconds", []],
  ["process_open_fds", GAUGE, "count", []],
  ["process_max_fds", GAUGE, "count", []],
  ["host_cpu_busy_ratio", GAUGE, "ratio", []],
  ["host_memory_available_bytes", GAUGE, "bytes", []],
  ["shard_clients", GAUGE, "count", ["shard", "core"]],
  ["shard_buffer_bytes", GAUGE, "bytes", ["shard", "core"]],
  ["shard_busy_seconds_total", COUNTER, "seconds", ["shard", "core"]],
  ["shard_logins_total", COUNTER, "count", ["shard", "core"]],
  ["shard_login_failures_total", COUNTER, "count", ["shard", "core"]],
  ["shard_messages_total", COUNTER, "count", ["shard", "core", "direction"]],
  ["shard_bytes_total", COUNTER, "bytes", ["shard", "core", "direction"]],
  ["shard_ring_messages_total", COUNTER, "count", ["shard", "core", "direction"]],
  ["shard_handed_over_total", COUNTER, "count", ["shard", "core"]],
  ["pool_clients", GAUGE, "count", [...POOL, "state"]],
  ["pool_client_maxwait_seconds", GAUGE, "seconds", POOL],
  ["pool_server_connections", GAUGE, "count", [...POOL, "state"]],
  ["pool_server_connections_max", GAUGE, "count", ["database", "user"]],
  ["pool_busy_seconds_total", COUNTER, "seconds", POOL],
  ["requests_total", COUNTER, "count", [...POOL, "path"]],
  ["requests_relayed_total", COUNTER, "count", POOL],
  ["transactions_total", COUNTER, "count", POOL],
  ["request_seconds", HISTOGRAM, "seconds", [...POOL, "phase"]],
  ["errors_total", COUNTER, "count", [...POOL, "class", "source"]],
  ["limits_reached_total", COUNTER, "count", [...POOL, "limit"]],
  ["pins_total", COUNTER, "count", [...POOL, "reason"]],
  ["cleanings_total", COUNTER, "count", POOL],
  ["probes_total", COUNTER, "count", POOL],
  ["settings_replayed_total", COUNTER, "count", POOL],
  ["prepared_total", COUNTER, "count", [...POOL, "event"]],
  ["server_connects_total", COUNTER, "count", POOL],
  ["server_connect_failures_total", COUNTER, "count", POOL],
  ["server_bytes_total", COUNTER, "bytes", [...POOL, "direction"]],
  ["statement_calls_total", COUNTER, "count", ["database", "user", "statement", "path"]],
  ["statement_rows_total", COUNTER, "count", ["database", "user", "statement"]],
  ["statement_errors_total", COUNTER, "count", ["database", "user", "statement"]],
  ["statement_seconds", HISTOGRAM, "seconds", ["database", "user", "statement", "phase"]],
];

export const STATEMENTS = [
  "select abalance from pgbench_accounts where aid = $1",
  "update pgbench_accounts set abalance = abalance + $1 where aid = $2",
  "select o.id, o.total, c.name from orders o join customers c on c.id = o.customer_id where o.created_at > $1 order by o.created_at desc limit $2",
  "insert into events (kind, payload) values ($1, $2)",
  "select '<script>window.broken = true</script>' as \"<img src=x onerror=alert(1)>\"",
  "select count(*) from заказы where имя = $1 and βαθμός >= $2",
  "begin",
  "commit",
];

/** Upper bound of the HdrHistogram bucket (3 digits, microseconds) of a value. */
function bound(value) {
  if (value < 2048) return Math.floor(value);
  const shift = Math.floor(Math.log2(value)) - 10;
  return (Math.floor(value / 2 ** shift) + 1) * 2 ** shift - 1;
}

/** A sparse histogram of about `count` values around a middle, with a tail. */
function histogram(next, count, middle, tail = 1) {
  const sums = new Map();
  const pieces = Math.min(40, Math.max(1, Math.round(count)));
  const each = Math.max(1, Math.round(count / pieces));
  for (let piece = 0; piece < pieces; piece++) {
    const spread = Math.exp((next() + next() + next() - 1.5) * 1.1);
    const value = middle * spread * (next() < 0.02 ? 4 * tail : 1);
    const key = bound(Math.max(1, value));
    sums.set(key, (sums.get(key) ?? 0) + each);
  }
  return [...sums].sort((a, b) => a[0] - b[0]);
}

export const DEFAULTS = {
  seed: 1,
  start: Date.UTC(2026, 9, 5, 9, 30, 0),
  seconds: 600,
  shards: 2,
  pools: [
    ["app", "app"],
    ["app", "report"],
    ["shop", "web"],
  ],
  load: 1,
  slow: 1,
  /** Seconds in which the first pool is full and clients wait. */
  trouble: [300, 360],
  name: "db-plane-1",
  /** Pairs of histogram buckets and the like are left out: only counters, for files of many points. */
  plain: false,
};

/** Lines of a stream: an iterator, so that a live server can send a tick a second. */
export function* lines(options = {}) {
  const o = { ...DEFAULTS, ...options };
  const next = random(o.seed);
  const startUs = o.start * 1000;
  yield {
    schema: "optimacore.series/1",
    version: "0.1.0",
    commit: "0123456789abcdef",
    pid: 4242 + o.seed,
    start_us: startUs,
    interval_us: 1000000,
    host: { name: o.name, kernel: "6.1.0", cpus: o.shards, memory_bytes: 16 * 2 ** 30 },
    metrics: METRICS.map(([name, type, unit, labels]) => ({
      name: `optimacore_${name}`,
      type,
      unit,
      labels,
      help: `What ${name.replaceAll("_", " ")} says.`,
      normal: "steady",
    })),
  };
  const ids = new Map();
  let lastId = 0;
  const before = new Map();
  let pending = [];
  let values = {};
  const idOf = (metric, labels) => {
    const key = metric + JSON.stringify(labels);
    let id = ids.get(key);
    if (id === undefined) {
      id = ++lastId;
      ids.set(key, id);
      pending.push({ series: id, metric: `optimacore_${metric}`, labels });
    }
    return id;
  };
  const count = (metric, labels, value) => {
    const whole = metric.endsWith("seconds_total") ? value : Math.round(value);
    if (whole !== 0) values[idOf(metric, labels)] = whole;
  };
  const gauge = (metric, labels, value) => {
    const id = idOf(metric, labels);
    if (before.get(id) === value) return;
    before.set(id, value);
    values[id] = value;
  };
  const observe = (metric, labels, pairs) => {
    if (!o.plain && pairs.length > 0) values[idOf(metric, labels)] = pairs;
  };
  STATEMENTS.forEach((text, index) => {
    pending.push({ statement: statementId(index), database: "app", user: "app", text });
  });
  for (let second = 0; second < o.seconds; second++) {
    const t = startUs + (second + 1) * 1e6;
    const wave = o.load * (1 + 0.25 * Math.sin(second / 40) + 0.08 * (next() - 0.5));
    const trouble = second >= o.trouble[0] && second < o.trouble[1];
    const slow = o.slow * (trouble ? 6 : 1);
    gauge("build_info", { version: "0.1.0" }, 1);
    gauge("process_start_timestamp_seconds", {}, startUs / 1e6);
    gauge("process_resident_memory_bytes", {}, 48 * 2 ** 20 + Math.round(next() * 64) * 4096);
    count("process_cpu_seconds_total", {}, 0.55 * wave * o.shards);
    gauge("process_open_fds", {}, 260 + Math.floor(next() * 12));
    gauge("process_max_fds", {}, 65536);
    gauge("host_cpu_busy_ratio", {}, Math.min(1, 0.6 * wave));
    gauge("host_memory_available_bytes", {}, 11 * 2 ** 30 - Math.round(next() * 1000) * 65536);
    for (let shard = 0; shard < o.shards; shard++) {
      const labels = { shard: String(shard), core: String(shard) };
      const share = wave * (1 + 0.15 * (shard % 2));
      gauge("shard_clients", labels, 100 + 12 * shard);
      gauge("shard_buffer_bytes", labels, 2 ** 20 * (3 + shard));
      count("shard_busy_seconds_total", labels, Math.min(1, 0.5 * share));
      count("shard_logins_total", labels, next() * 4);
      if (trouble) count("shard_login_failures_total", labels, next() * 2);
      count("shard_messages_total", { ...labels, direction: "in" }, 21000 * share);
      count("shard_messages_total", { ...labels, direction: "out" }, 32000 * share);
      count("shard_bytes_total", { ...labels, direction: "in" }, 1.9e6 * share);
      count("shard_bytes_total", { ...labels, direction: "out" }, 6.1e6 * share);
      count("shard_ring_messages_total", { ...labels, direction: "in" }, 120 * share);
      count("shard_ring_messages_total", { ...labels, direction: "out" }, 118 * share);
      count("shard_handed_over_total", labels, next() * 3);
      o.pools.forEach(([database, user], pool) => {
        const here = { database, user, shard: String(shard) };
        const part = share / (pool + 1);
        const full = trouble && pool === 0;
        gauge("pool_clients", { ...here, state: "active" }, Math.round(18 * part));
        gauge("pool_clients", { ...here, state: "waiting" }, full ? 6 + Math.floor(next() * 20) : 0);
        gauge("pool_client_maxwait_seconds", here, full ? Number((1.5 + next()).toFixed(3)) : 0);
        for (const [state, usual] of [
          ["idle", 4],
          ["shared", 3],
          ["exclusive", 2],
          ["pinned", 1],
        ]) {
          gauge(
            "pool_server_connections",
            { ...here, state },
            full && state === "idle" ? 0 : usual + (full && state === "exclusive" ? 4 : 0),
          );
        }
        if (shard === 0) gauge("pool_server_connections_max", { database, user }, 20);
        count("pool_busy_seconds_total", here, full ? 9.6 : 4.2 * part);
        count("requests_total", { ...here, path: "shared" }, 8200 * part);
        count("requests_total", { ...here, path: "exclusive" }, 2100 * part);
        count("requests_relayed_total", here, 14 * part);
        count("transactions_total", here, 2000 * part);
        observe("request_seconds", { ...here, phase: "queue" }, histogram(next, 10300 * part, full ? 9000 : 22));
        observe("request_seconds", { ...here, phase: "pipe_wait" }, histogram(next, 10300 * part, 60 * slow));
        observe(
          "request_seconds",
          { ...here, phase: "server" },
          histogram(next, 10300 * part, 310 * slow * (1 + pool), 2),
        );
        observe("request_seconds", { ...here, phase: "proxy" }, histogram(next, 10300 * part, 14));
        if (next() < (full ? 0.8 : 0.02))
          count(
            "errors_total",
            { ...here, class: full ? "53" : "23", source: full ? "plane" : "server" },
            1 + next() * 5,
          );
        if (full) count("limits_reached_total", { ...here, limit: "query_wait_timeout" }, next() * 4);
        if (next() < 0.2)
          count("pins_total", { ...here, reason: next() < 0.5 ? "temporary table" : "advisory lock" }, 1);
        count("cleanings_total", here, 30 * part);
        count("probes_total", here, 2 * part);
        count("settings_replayed_total", here, 11 * part);
        count("prepared_total", { ...here, event: "hit" }, 4000 * part);
        count("prepared_total", { ...here, event: "parse" }, 12 * part);
        if (next() < 0.1) count("server_connects_total", here, 1);
        count("server_bytes_total", { ...here, direction: "out" }, 0.7e6 * part);
        count("server_bytes_total", { ...here, direction: "in" }, 2.2e6 * part);
      });
    }
    STATEMENTS.forEach((_, index) => {
      const labels = { database: "app", user: "app", statement: statementId(index) };
      const calls = (9000 * wave) / (index + 1) ** 1.5;
      count("statement_calls_total", { ...labels, path: index % 2 === 0 ? "shared" : "exclusive" }, calls);
      count("statement_rows_total", labels, calls * (index + 1));
      if (trouble && index === 3) count("statement_errors_total", labels, 2);
      observe("statement_seconds", { ...labels, phase: "server" }, histogram(next, calls, 120 * (index + 1) * slow));
      observe("statement_seconds", { ...labels, phase: "queue" }, histogram(next, calls, trouble ? 4000 : 18));
    });
    yield* pending;
    pending = [];
    if (second === 120) yield { event: "reload", t, text: "the configuration was read again" };
    if (second === o.trouble[0]) yield { event: "error", t, text: "pool app/app is full" };
    yield { t, dt: 1000000, v: values };
    values = {};
  }
}

export function statementId(index) {
  return (0x9e3779b97f4a7c15n * BigInt(index + 1)).toString(16).padStart(16, "0").slice(-16);
}

/** A whole file of them. */
export function file(options = {}) {
  let out = "";
  for (const line of lines(options)) out += `${JSON.stringify(line)}\n`;
  return out;
}
