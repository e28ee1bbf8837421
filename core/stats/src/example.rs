//! A snapshot in which everything has been counted, for tests.

use crate::machine::{HostStats, ProcessStats};
use crate::{PoolStats, ShardStats, Snapshot, StatementStats};

/// Two shards, two users, three statements; the figures are made up.
pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        version: "0.1.0".into(),
        commit: "0123456789ab".into(),
        config_sha256: "c0ffee".into(),
        pid: 42,
        started_unix_us: 1_700_000_000_000_000,
        uptime_us: 5_000_000,
        taken_unix_us: 1_700_000_005_000_000,
        client_connections_max: 10_000,
        export_failures: 1,
        process: ProcessStats { resident_bytes: 64 << 20, cpu_us: 1_234_567, open_fds: 77, max_fds: 20_000 },
        host: HostStats {
            name: "db1".into(),
            kernel: "6.1.0".into(),
            cpus: 2,
            memory_bytes: 8 << 30,
            memory_available_bytes: 3 << 30,
            cpu_busy_ppm: 250_000,
            load1_hundredths: 42,
        },
        shards: (0..2).map(shard).collect(),
        pools: vec![pool(0, "ann"), pool(1, "ann"), pool(0, "bob")],
        statements: vec![
            statement(0x00f3_0000_0000_0001, Some("select * from t where id = $1"), 100),
            statement(0x00f3_0000_0000_0002, Some("update t set a = $1\n-- \"all\""), 10),
            statement(0, None, 5),
        ],
    }
}

fn shard(shard: u16) -> ShardStats {
    let mut stats = ShardStats { shard, core: shard * 2, clients: 7, ..ShardStats::default() };
    stats.clients_waiting = 1;
    stats.buffer_bytes = 65_536;
    stats.logins = 20;
    stats.login_failures = 2;
    (stats.messages_in, stats.messages_out) = (3000, 4000);
    (stats.bytes_in, stats.bytes_out) = (100_000, 900_000);
    stats.handed_over = 3;
    stats.busy_us = 700_000;
    stats.ring_messages_in = 9;
    stats.count_error(b"28P01");
    stats
}

fn pool(shard: u16, user: &str) -> PoolStats {
    let mut pool = PoolStats { shard, database: "shop".into(), user: user.into(), ..PoolStats::default() };
    pool.pool_size = 20;
    pool.permits_held = 4;
    pool.servers_idle = 2;
    pool.clients_active = 3;
    pool.maxwait_us = 1500;
    pool.requests_shared = 1000;
    pool.requests_exclusive = 100;
    pool.transactions = 90;
    pool.query_us = 2_500_000;
    pool.target = "10.0.0.5:5432".into();
    pool.busy_us = 3_000_000;
    pool.count_error(b"23505");
    pool.count_plane_error(b"57014");
    pool.count_pin("temporary table");
    pool.count_limit("query_timeout");
    (1..=1000).for_each(|us| pool.server_time.record_us(us * 20));
    (1..=1000).for_each(|us| pool.queue_time.record_us(us));
    pool
}

fn statement(fingerprint: u64, text: Option<&str>, calls: u64) -> StatementStats {
    let mut one = StatementStats {
        database: "shop".into(),
        user: "ann".into(),
        fingerprint,
        statement: text.map(str::to_owned),
        calls,
        rows: calls * 2,
        errors: 1,
        shared: calls,
        server_us: calls * 300,
        ..StatementStats::default()
    };
    (0..calls).for_each(|call| one.server_time.record_us(call * 6));
    (0..calls).for_each(|call| one.queue_time.record_us(call));
    one
}
