//! The table itself.

use super::Kind::{Counter, Gauge, Histogram, Info};
use super::Unit::{Bytes, Count, Ratio, Seconds};
use super::Value::{self, Micros, Real};
use super::{Metric, Put};
use crate::{ClassCount, PoolStats, Snapshot};

const NONE: &[&str] = &[];
const SHARD: &[&str] = &["shard", "core"];
const SHARD_DIRECTION: &[&str] = &["shard", "core", "direction"];
const POOL: &[&str] = &["database", "user", "shard"];
const STATEMENT: &[&str] = &["database", "user", "statement"];

/// Every metric there is, in the order in which they are shown.
pub static METRICS: &[Metric] = &[
    // the process
    Metric::new("optimacore_build_info", Info, Count)
        .means("The program's version.", "the same on all machines, but while one is brought up to date")
        .whole(&["version"], |all, put| put(&[&all.version], Value::Count(1))),
    Metric::new("optimacore_process_start_timestamp_seconds", Gauge, Seconds)
        .means("When the process began, in seconds since 1970.", "changes with a restart and never else")
        .whole(NONE, |all, put| put(&[], Micros(all.started_unix_us))),
    Metric::new("optimacore_process_resident_memory_bytes", Gauge, Bytes)
        .means("Memory that the process occupies.", "grows with clients and buffers and comes back; a steady climb is a fault")
        .whole(NONE, |all, put| put(&[], Value::Count(all.process.resident_bytes))),
    Metric::new("optimacore_process_cpu_seconds_total", Counter, Seconds)
        .means("Processor time that the process has used, all threads together.", "below one second a second and shard")
        .whole(NONE, |all, put| put(&[], Micros(all.process.cpu_us))),
    Metric::new("optimacore_process_open_fds", Gauge, Count)
        .means("Descriptors that are open: clients, servers, rings, files.", "well below optimacore_process_max_fds")
        .whole(NONE, |all, put| put(&[], Value::Count(all.process.open_fds))),
    Metric::new("optimacore_process_max_fds", Gauge, Count)
        .means("Descriptors that the process may have open.", "more than clients and servers together; see LimitNOFILE=")
        .whole(NONE, |all, put| put(&[], Value::Count(all.process.max_fds))),
    Metric::new("optimacore_export_failures_total", Counter, Count)
        .means("Ticks that could not be written to the export directory.", "0; the log says once a minute why")
        .whole(NONE, |all, put| put(&[], Value::Count(all.export_failures))),
    // the machine
    Metric::new("optimacore_host_cpu_busy_ratio", Gauge, Ratio)
        .means("Share of all processors' time that was used in the last second or so.", "below 0.8; above it queues grow everywhere")
        .whole(NONE, |all, put| put(&[], Real(f64::from(all.host.cpu_busy_ppm) / 1e6))),
    Metric::new("optimacore_host_memory_available_bytes", Gauge, Bytes)
        .means("Memory that programs on the machine could still have.", "above a tenth of the machine's")
        .whole(NONE, |all, put| put(&[], Value::Count(all.host.memory_available_bytes))),
    Metric::new("optimacore_host_cpus", Gauge, Count)
        .means("Processors of the machine.", "a fact")
        .whole(NONE, |all, put| put(&[], Value::Count(all.host.cpus.into()))),
    Metric::new("optimacore_host_load1", Gauge, Count)
        .means("The machine's load of the last minute.", "at most about optimacore_host_cpus")
        .whole(NONE, |all, put| put(&[], Real(f64::from(all.host.load1_hundredths) / 100.0))),
    // shards
    Metric::new("optimacore_client_connections_max", Gauge, Count)
        .means("Clients that may be connected at once (limits.max_client_connections).", "above the highest number of clients by a fifth")
        .whole(NONE, |all, put| put(&[], Value::Count(all.client_connections_max))),
    Metric::new("optimacore_shard_clients", Gauge, Count)
        .means("Clients connected.", "about the same on every shard")
        .shard(SHARD, |shard, put| put(&[], Value::Count(shard.clients))),
    Metric::new("optimacore_shard_clients_waiting", Gauge, Count)
        .means("Clients that wait for a server connection.", "0, or a few for moments; more than 20 for minutes is too small a pool or a slow server")
        .shard(SHARD, |shard, put| put(&[], Value::Count(shard.clients_waiting))),
    Metric::new("optimacore_shard_buffer_bytes", Gauge, Bytes)
        .means("Bytes of buffers in use.", "64 KiB a busy client at most, nothing for idle ones")
        .shard(SHARD, |shard, put| put(&[], Value::Count(shard.buffer_bytes))),
    Metric::new("optimacore_shard_logins_total", Counter, Count)
        .means("Clients that logged in.", "steady; many a second means that an application connects for each request")
        .shard(SHARD, |shard, put| put(&[], Value::Count(shard.logins))),
    Metric::new("optimacore_shard_login_failures_total", Counter, Count)
        .means("Clients that did not get in.", "0; else wrong passwords, rules that do not fit, or somebody who guesses")
        .shard(SHARD, |shard, put| put(&[], Value::Count(shard.login_failures))),
    Metric::new("optimacore_shard_messages_total", Counter, Count)
        .means("Messages of the protocol, in: from clients, out: to clients.", "about the same on every shard")
        .shard(SHARD_DIRECTION, |shard, put| both(put, [shard.messages_in, shard.messages_out])),
    Metric::new("optimacore_shard_bytes_total", Counter, Bytes)
        .means("Bytes, in: from clients, out: to clients.", "about the same on every shard")
        .shard(SHARD_DIRECTION, |shard, put| both(put, [shard.bytes_in, shard.bytes_out])),
    Metric::new("optimacore_shard_handed_over_total", Counter, Count)
        .means("Connections that were accepted and handed to another shard, which had fewer clients.", "rare where clients stay")
        .shard(SHARD, |shard, put| put(&[], Value::Count(shard.handed_over))),
    Metric::new("optimacore_shard_busy_seconds_total", Counter, Seconds)
        .means(
            "Processor time that the shard has used, work of the kernel's for it included.",
            "below 0.8 a second; the same on every shard",
        )
        .shard(SHARD, |shard, put| put(&[], Micros(shard.busy_us))),
    Metric::new("optimacore_shard_kept_waiting_seconds_total", Counter, Seconds)
        .means(
            "Time in which the shard could have worked and its core was given to others.",
            "near 0 where cores are its own",
        )
        .shard(SHARD, |shard, put| put(&[], Micros(shard.kept_waiting_us))),
    Metric::new("optimacore_shard_ring_messages_total", Counter, Count)
        .means("Messages between shards, in: from others, out: to others.", "far below the requests")
        .shard(SHARD_DIRECTION, |shard, put| both(put, [shard.ring_messages_in, shard.ring_messages_out])),
    Metric::new("optimacore_shard_errors_total", Counter, Count)
        .means(
            "Errors of ours that clients got before they had a pool, by SQLSTATE class.",
            "0; 28: who may not come in; 3D: a database that is not there; 53: too many clients",
        )
        .shard(&["shard", "core", "class"], |shard, put| {
            for error in &shard.errors {
                put(&[&String::from_utf8_lossy(&error.class)], Value::Count(error.count));
            }
        }),
    // pools
    Metric::new("optimacore_pool_info", Info, Count)
        .means("Where the pool's server connections go, as the configuration says.", "changes with a reload that moves a database")
        .pool(&["database", "user", "shard", "target"], |pool, put| put(&[&pool.target], Value::Count(1))),
    Metric::new("optimacore_pool_clients", Gauge, Count)
        .means(
            "Clients of the pool. active: with a request in flight or a server connection of their own; waiting: for a server connection; listening: on the connection that listens for all of a database.",
            "waiting: 0 but for moments",
        )
        .pool(&["database", "user", "shard", "state"], pool_clients),
    Metric::new("optimacore_pool_client_maxwait_seconds", Gauge, Seconds)
        .means("How long the client that waits longest has waited for a server connection until now.", "below a second; 15 s and more is an outage to its client")
        .pool(POOL, |pool, put| put(&[], Micros(pool.maxwait_us))),
    Metric::new("optimacore_pool_server_connections", Gauge, Count)
        .means(
            "Connections to PostgreSQL. idle: nothing in flight; shared: requests of any number of clients in flight; exclusive: one client's transaction; pinned: kept for what its session has left there; connecting; cleaning: being reset.",
            "idle ones are left at the busiest hour; pinned few, connecting and cleaning for moments",
        )
        .pool(&["database", "user", "shard", "state"], pool_servers),
    Metric::new("optimacore_pool_server_connections_max", Gauge, Count)
        .means("Connections to PostgreSQL that the pool may have, all shards together.", "four fifths of it busy at most")
        .whole(&["database", "user"], pool_sizes),
    Metric::new("optimacore_pool_permits", Gauge, Count)
        .means("The shard's part of the pool's size: connections it may have just now.", "moves to the shards that have work")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.permits_held))),
    Metric::new("optimacore_pool_busy_seconds_total", Counter, Seconds)
        .means(
            "Time in which server connections were in use, by sessions or being cleaned or dressed for them. Its rate over optimacore_pool_server_connections_max is the pool's utilisation.",
            "below 0.8 of optimacore_pool_server_connections_max a second, all shards together",
        )
        .pool(POOL, |pool, put| put(&[], Micros(pool.busy_us))),
    Metric::new("optimacore_pool_assignments_total", Counter, Count)
        .means(
            "How often a session was given a server connection, or a place on a shared one.",
            "about the requests outside of transactions, and the transactions",
        )
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.assignments))),
    // requests
    Metric::new("optimacore_requests_total", Counter, Count)
        .means("Requests. shared: on a connection with others' in flight; exclusive: on one of the session's own.", "what the applications ask for; reads mostly shared")
        .pool(&["database", "user", "shard", "path"], |pool, put| {
            put(&["shared"], Value::Count(pool.requests_shared));
            put(&["exclusive"], Value::Count(pool.requests_exclusive));
        }),
    Metric::new("optimacore_requests_relayed_total", Counter, Count)
        .means("Requests for which another shard gave up a server connection.", "a small share; more when the pool is smaller than the shards' load")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.requests_relayed))),
    Metric::new("optimacore_requests_retried_total", Counter, Count)
        .means("Requests sent a second time, because the first certainly had no effect.", "near 0")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.requests_retried))),
    Metric::new("optimacore_requests_cancelled_total", Counter, Count)
        .means("Requests cancelled by their client.", "near 0; applications' timeouts show here")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.requests_cancelled))),
    Metric::new("optimacore_transactions_total", Counter, Count)
        .means("Transactions that ended.", "what the applications ask for")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.transactions))),
    Metric::new("optimacore_transaction_seconds_total", Counter, Seconds)
        .means("Time in transactions, from the first request to the end.", "not much more than the time of their requests; else applications dawdle in transactions")
        .pool(POOL, |pool, put| put(&[], Micros(pool.xact_us))),
    Metric::new("optimacore_query_seconds_total", Counter, Seconds)
        .means("Time in which PostgreSQL worked on requests.", "what the applications ask for")
        .pool(POOL, |pool, put| put(&[], Micros(pool.query_us))),
    Metric::new("optimacore_client_wait_seconds_total", Counter, Seconds)
        .means("Time that clients waited for server connections.", "far below optimacore_query_seconds_total")
        .pool(POOL, |pool, put| put(&[], Micros(pool.wait_us))),
    Metric::new("optimacore_request_seconds", Histogram, Seconds)
        .means(
            "Where a request's time went, of those that PostgreSQL answered. queue: until it was written to a server connection; pipe_wait: until that was done with what was ahead of it; server: until the end of PostgreSQL's reply; proxy: the rest.",
            "p99 of queue and pipe_wait far below that of server, else the pool is too small; proxy below a millisecond, else cores are short",
        )
        .pool(&["database", "user", "shard", "phase"], |pool, put| {
            put(&["queue"], Value::Hist(&pool.queue_time));
            put(&["pipe_wait"], Value::Hist(&pool.pipe_wait_time));
            put(&["server"], Value::Hist(&pool.server_time));
            put(&["proxy"], Value::Hist(&pool.proxy_time));
        }),
    Metric::new("optimacore_errors_total", Counter, Count)
        .means("Errors that clients got, by SQLSTATE class. server: PostgreSQL's; plane: ours.", "23 and 40 as the applications have them; 53, 57, 58, XX: a human must look")
        .pool(&["database", "user", "shard", "class", "source"], |pool, put| {
            errors(put, &pool.errors, "server");
            errors(put, &pool.plane_errors, "plane");
        }),
    Metric::new("optimacore_limits_reached_total", Counter, Count)
        .means("Clients that reached a limit, by its key in the configuration.", "near 0; each is an error for somebody")
        .pool(&["database", "user", "shard", "limit"], pool_limits),
    // state on server connections
    Metric::new("optimacore_pins_total", Counter, Count)
        .means("How often a connection was kept for a session's state, by what it was.", "few; docs/pins.md tells what each means")
        .pool(&["database", "user", "shard", "reason"], |pool, put| {
            pool.pins.iter().for_each(|pin| put(&[&pin.reason], Value::Count(pin.count)));
        }),
    Metric::new("optimacore_cleanings_total", Counter, Count)
        .means("Resets of server connections between two sessions.", "far below the requests")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.cleanings))),
    Metric::new("optimacore_probes_total", Counter, Count)
        .means("Server connections asked what their session had left there.", "far below the requests")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.probes))),
    Metric::new("optimacore_settings_replayed_total", Counter, Count)
        .means("Settings of sessions that were applied on server connections, or sent along with requests.", "below the requests; sessions of one application with the same settings need none")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.settings_replayed))),
    Metric::new("optimacore_prepared_total", Counter, Count)
        .means(
            "Prepared statements on server connections. parse: prepared there for a client; hit: were there already; evict: dropped for want of room.",
            "nearly all hits; many evictions: raise prepared_statements",
        )
        .pool(&["database", "user", "shard", "event"], |pool, put| {
            put(&["parse"], Value::Count(pool.prepared_parses));
            put(&["hit"], Value::Count(pool.prepared_hits));
            put(&["evict"], Value::Count(pool.prepared_evicted));
        }),
    Metric::new("optimacore_client_parses_total", Counter, Count)
        .means("Statements that clients prepared.", "far below optimacore_client_binds_total where drivers prepare once")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.client_parses))),
    Metric::new("optimacore_client_binds_total", Counter, Count)
        .means("Prepared statements that clients readied for execution.", "what the applications ask for")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.client_binds))),
    // server connections
    Metric::new("optimacore_server_connects_total", Counter, Count)
        .means("Server connections made.", "steady and low: each costs PostgreSQL a new process")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.connects))),
    Metric::new("optimacore_server_connect_failures_total", Counter, Count)
        .means("Attempts to connect to PostgreSQL that failed.", "0; the log says why")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.connect_failures))),
    Metric::new("optimacore_server_closes_in_doubt_total", Counter, Count)
        .means("Server connections closed because their state was in doubt.", "near 0; clients that vanish in the middle of a request show here")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.closes_in_doubt))),
    Metric::new("optimacore_server_bytes_total", Counter, Bytes)
        .means("Bytes, in: from PostgreSQL, out: to PostgreSQL.", "what the applications ask for")
        .pool(&["database", "user", "shard", "direction"], |pool, put| {
            both(put, [pool.bytes_from_server, pool.bytes_to_server]);
        }),
    Metric::new("optimacore_notifications_total", Counter, Count)
        .means("Notifications told to clients.", "what the applications ask for")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.notifications))),
    Metric::new("optimacore_listens_moved_total", Counter, Count)
        .means("Sessions whose channels were taken over from their server connection.", "about once a session that listens")
        .pool(POOL, |pool, put| put(&[], Value::Count(pool.listens_moved))),
    // statements
    Metric::new("optimacore_statement_calls_total", Counter, Count)
        .means(
            "Executions of a statement, constants left out. statement: its id, the same on all machines; 0000000000000000: all that are not counted singly, and the past of those that had to make room.",
            "what the applications ask for",
        )
        .statement(&["database", "user", "statement", "path"], |statement, put| {
            put(&["shared"], Value::Count(statement.shared));
            put(&["exclusive"], Value::Count(statement.exclusive));
        }),
    Metric::new("optimacore_statement_rows_total", Counter, Count)
        .means("Rows that a statement gave or changed.", "what the applications ask for")
        .statement(STATEMENT, |statement, put| put(&[], Value::Count(statement.rows))),
    Metric::new("optimacore_statement_errors_total", Counter, Count)
        .means("Executions that failed.", "near 0")
        .statement(STATEMENT, |statement, put| put(&[], Value::Count(statement.errors))),
    Metric::new("optimacore_statement_seconds", Histogram, Seconds)
        .means("Where a statement's time went; phases as of optimacore_request_seconds.", "steady; a jump is a plan that changed or a missing index")
        .statement(&["database", "user", "statement", "phase"], |statement, put| {
            put(&["queue"], Value::Sketch(&statement.queue_time));
            put(&["server"], Value::Sketch(&statement.server_time));
        }),
];

fn both(put: &mut Put<'_>, [inward, outward]: [u64; 2]) {
    put(&["in"], Value::Count(inward));
    put(&["out"], Value::Count(outward));
}

fn errors(put: &mut Put<'_>, errors: &[ClassCount], source: &str) {
    for error in errors {
        put(&[&String::from_utf8_lossy(&error.class), source], Value::Count(error.count));
    }
}

fn pool_clients(pool: &PoolStats, put: &mut Put<'_>) {
    put(&["active"], Value::Count(pool.clients_active));
    put(&["waiting"], Value::Count(pool.clients_waiting));
    put(&["listening"], Value::Count(pool.clients_listening));
}

fn pool_servers(pool: &PoolStats, put: &mut Put<'_>) {
    put(&["idle"], Value::Count(pool.servers_idle));
    put(&["shared"], Value::Count(pool.servers_busy_shared));
    put(&["exclusive"], Value::Count(pool.servers_exclusive));
    put(&["pinned"], Value::Count(pool.servers_pinned));
    put(&["connecting"], Value::Count(pool.servers_connecting));
    put(&["cleaning"], Value::Count(pool.servers_cleaning));
}

/// The size is of all shards together, and each tells it.
fn pool_sizes(all: &Snapshot, put: &mut Put<'_>) {
    let mut sizes = std::collections::BTreeMap::new();
    for pool in &all.pools {
        let size: &mut u64 = sizes.entry((pool.database.as_str(), pool.user.as_str())).or_default();
        *size = pool.pool_size.max(*size);
    }
    for ((database, user), size) in sizes {
        put(&[database, user], Value::Count(size));
    }
}

fn pool_limits(pool: &PoolStats, put: &mut Put<'_>) {
    pool.limits.iter().for_each(|limit| put(&[&limit.limit], Value::Count(limit.count)));
    put(&["query_wait_timeout"], Value::Count(pool.wait_timeouts));
}
