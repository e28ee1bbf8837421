//! The statistics of the data plane: what is counted, how counts of several shards and moments combine, and the bytes in
//! which a snapshot travels.
//!
//! Each shard counts into its own [`ShardStats`] and [`PoolStats`]; a [`Snapshot`] gathers them. From it come the texts for Prometheus
//! ([`text`]), the lines of the series ([`series`]) and the files of a directory ([`export`]), all by the one table of metrics
//! ([`metric`]). Knows no sockets and no clocks: times are arguments.

#![forbid(unsafe_code)]

mod codec;
pub mod counter;
#[cfg(test)]
mod example;
pub mod export;
pub mod hist;
pub mod machine;
pub mod metric;
pub mod series;
pub mod statement;
pub mod text;

pub use codec::{DecodeError, MAGIC, VERSION, decode, encode, frame, read, write};
pub use counter::{ClassCount, LimitCount, PinCount, PoolStats, ShardStats};
pub use hist::{Grade, Hist};
pub use statement::{Sketch, StatementStats};

use rkyv::{Archive, Deserialize, Serialize};

/// All statistics of a process at one moment.
#[derive(Clone, PartialEq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct Snapshot {
    /// Version of the program.
    pub version: String,
    /// What it was built from; empty if nobody said so.
    pub commit: String,
    /// The hash of the configuration it began with, without secrets.
    pub config_sha256: String,
    /// Its process id.
    pub pid: u32,
    /// When it began: microseconds since 1970 began.
    pub started_unix_us: u64,
    /// Microseconds since its start; in the result of [`Snapshot::since`], since the earlier snapshot.
    pub uptime_us: u64,
    /// When it was taken: microseconds since 1970 began.
    pub taken_unix_us: u64,
    /// How many clients may be connected.
    pub client_connections_max: u64,
    /// How often what is measured could not be written into its directory.
    pub export_failures: u64,
    /// What the kernel knows of the process.
    pub process: machine::ProcessStats,
    /// What the kernel knows of the machine.
    pub host: machine::HostStats,
    /// One per shard.
    pub shards: Vec<ShardStats>,
    /// One per pool and shard.
    pub pools: Vec<PoolStats>,
    /// One per statement, pool and shard; not counted singly are those that there was no room for.
    pub statements: Vec<StatementStats>,
}

impl Snapshot {
    /// What happened between an earlier snapshot and this one: counters are differences, gauges are this one's. `None` when
    /// they are not of the same run of the same process, or in the wrong order.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        if self.pid != earlier.pid || self.uptime_us <= earlier.uptime_us {
            return None;
        }
        let mut out = self.clone();
        out.uptime_us = self.uptime_us - earlier.uptime_us;
        for shard in &mut out.shards {
            if let Some(before) = earlier.shards.iter().find(|before| before.shard == shard.shard) {
                shard.subtract(before);
            }
        }
        for pool in &mut out.pools {
            if let Some(before) = earlier.pools.iter().find(|before| before.key() == pool.key()) {
                pool.subtract(before);
            }
        }
        let before = statement::total(&earlier.statements);
        out.statements = statement::total(&self.statements);
        for statement in &mut out.statements {
            if let Some(before) = before.iter().find(|before| before.is_same(statement)) {
                statement.subtract(before);
            }
        }
        out.statements.retain(|statement| statement.calls > 0);
        Some(out)
    }

    /// The shards as one; `shard` and `core` are the first's.
    #[must_use]
    pub fn shards_total(&self) -> ShardStats {
        let mut shards = self.shards.iter();
        let mut total = shards.next().cloned().unwrap_or_default();
        shards.for_each(|shard| total.add(shard));
        total
    }

    /// The pools, each with all its shards' parts put together, by database and user.
    #[must_use]
    pub fn pools_total(&self) -> Vec<PoolStats> {
        let mut out: Vec<PoolStats> = Vec::new();
        for part in &self.pools {
            let same = |pool: &&mut PoolStats| (&pool.database, &pool.user) == (&part.database, &part.user);
            match out.iter_mut().find(same) {
                Some(pool) => pool.add(part),
                None => out.push(part.clone()),
            }
        }
        out.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
        out
    }

    /// How often something counted happened per second of [`Snapshot::uptime_us`].
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
    pub fn per_second(&self, count: u64) -> f64 {
        if self.uptime_us == 0 { 0.0 } else { count as f64 * 1e6 / self.uptime_us as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(shard: u16, user: &str, requests: u64) -> PoolStats {
        let mut pool = PoolStats { shard, database: "db".into(), user: user.into(), ..PoolStats::default() };
        pool.requests_shared = requests;
        pool.pool_size = 20;
        pool.permits_held = 3;
        pool.count_error(b"23505");
        pool.count_pin("LISTEN");
        pool.count_limit("query_timeout");
        pool.queue_time.record_us(requests);
        pool
    }

    fn snapshot(uptime_us: u64, requests: u64) -> Snapshot {
        let shard = |shard, clients| ShardStats { shard, clients, logins: requests, ..ShardStats::default() };
        Snapshot {
            pid: 7,
            uptime_us,
            shards: vec![shard(0, 5), shard(1, 6)],
            pools: vec![pool(1, "b", requests), pool(0, "b", requests), pool(0, "a", requests)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn parts_of_a_pool_are_put_together_and_its_size_is_not_added() {
        let pools = snapshot(1, 10).pools_total();
        let [a, b] = &pools[..] else { panic!("{pools:?}") };
        assert_eq!((a.user.as_str(), a.requests()), ("a", 10));
        assert_eq!((b.user.as_str(), b.requests(), b.pool_size, b.permits_held), ("b", 20, 20, 6));
        assert_eq!(b.errors, [ClassCount { class: *b"23", count: 2 }]);
        assert_eq!(b.pins, [PinCount { reason: "LISTEN".into(), count: 2 }]);
        assert_eq!(b.limits, [LimitCount { limit: "query_timeout".into(), count: 2 }]);
        assert_eq!(b.queue_time.count(), 2);
        assert_eq!(snapshot(1, 10).shards_total().clients, 11);
        assert_eq!(Snapshot::default().shards_total(), ShardStats::default());
    }

    #[test]
    fn what_happened_between_two_snapshots_is_their_difference() {
        let (earlier, mut later) = (snapshot(1_000_000, 10), snapshot(3_000_000, 50));
        later.pools[0].queue_time.record_us(7);
        later.pools.push(pool(1, "new", 4));
        let delta = later.since(&earlier).unwrap();
        assert_eq!(delta.uptime_us, 2_000_000);
        assert_eq!(delta.shards[0].logins, 40);
        assert_eq!(delta.shards[0].clients, 5);
        assert_eq!(delta.pools[0].requests(), 40);
        assert_eq!(delta.pools[3].requests(), 4);
        assert!(delta.pools[1].errors.is_empty());
        assert_eq!(delta.per_second(delta.pools[0].requests()), 20.0);
    }

    #[test]
    fn another_run_has_no_difference() {
        let earlier = snapshot(5, 1);
        assert_eq!(snapshot(4, 1).since(&earlier), None);
        assert_eq!(Snapshot { pid: 8, ..snapshot(9, 1) }.since(&earlier), None);
        assert_eq!(earlier.since(&earlier), None);
    }
}
