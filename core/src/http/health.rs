//! Whether we are alive, and whether it makes sense to send clients here.

use serde::Serialize;
use stats::Snapshot;

/// The answer to `/healthz` or `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    pub(super) status: Status,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Failing,
}

/// What is known about our health.
#[derive(Debug, Default)]
pub(super) struct Health {
    shards: Shards,
    /// Attempts to connect to PostgreSQL until the last look: good ones, and others.
    dials: (u64, u64),
    last_dial: Dial,
    servers: u64,
    end: End,
}

/// Whether every shard answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Shards {
    #[default]
    Unknown,
    Answer,
    Hang,
}

/// How the last attempt to connect to PostgreSQL went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Dial {
    #[default]
    None,
    Good,
    Failed,
}

/// Whether the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum End {
    #[default]
    Far,
    Begun,
}

impl Health {
    /// Looks at a snapshot that should be of so many shards.
    pub(super) fn look(&mut self, snapshot: &Snapshot, shards: usize) {
        if snapshot.shards.len() < shards {
            self.shards = Shards::Hang;
            return;
        }
        self.shards = Shards::Answer;
        let sum = |of: fn(&stats::PoolStats) -> u64| snapshot.pools.iter().map(of).sum::<u64>();
        let dials = (sum(|pool| pool.connects), sum(|pool| pool.connect_failures));
        if dials.0 > self.dials.0 {
            self.last_dial = Dial::Good;
        } else if dials.1 > self.dials.1 {
            self.last_dial = Dial::Failed;
        }
        self.dials = dials;
        self.servers = sum(|pool| {
            pool.servers_idle
                + pool.servers_busy_shared
                + pool.servers_exclusive
                + pool.servers_pinned
                + pool.servers_cleaning
        });
    }

    /// The end has begun.
    pub(super) fn end(&mut self) {
        self.end = End::Begun;
    }

    /// Whether every shard goes on.
    pub(super) fn alive(&self) -> Report {
        let hangs = self.shards != Shards::Answer;
        report("optimacore.health/1", hangs.then_some("a shard does not answer"))
    }

    /// Whether clients may be sent here: shards answer, the end has not begun, and PostgreSQL is connected to or was not out of
    /// reach when it was tried last.
    pub(super) fn ready(&self) -> Report {
        let reason = match (self.shards, self.end) {
            (Shards::Unknown | Shards::Hang, _) => Some("a shard does not answer"),
            (Shards::Answer, End::Begun) => Some("stopping"),
            (Shards::Answer, End::Far) if self.servers == 0 && self.last_dial == Dial::Failed => {
                Some("PostgreSQL cannot be reached")
            }
            (Shards::Answer, End::Far) => None,
        };
        report("optimacore.ready/1", reason)
    }
}

fn report(schema: &'static str, reason: Option<&'static str>) -> Report {
    let status = if reason.is_some() { Status::Failing } else { Status::Ok };
    Report { schema, status, reason }
}

#[cfg(test)]
mod tests {
    use stats::{PoolStats, ShardStats};

    use super::*;

    fn snapshot(connects: u64, failures: u64, idle: u64) -> Snapshot {
        let pool = PoolStats { connects, connect_failures: failures, servers_idle: idle, ..PoolStats::default() };
        Snapshot { shards: vec![ShardStats::default(); 2], pools: vec![pool], ..Snapshot::default() }
    }

    #[test]
    fn we_are_ready_unless_the_last_attempt_to_connect_failed_and_no_connection_is_left() {
        let mut health = Health::default();
        assert_eq!(health.ready().reason, Some("a shard does not answer"), "nobody has looked yet");
        for (connects, failures, idle, ready) in [
            (0, 0, 0, true),
            (0, 1, 0, false),
            (0, 1, 0, false),
            (1, 1, 1, true),
            (1, 2, 1, true),
            (1, 2, 0, false),
            (2, 3, 0, true),
        ] {
            health.look(&snapshot(connects, failures, idle), 2);
            assert_eq!(health.ready().status == Status::Ok, ready, "{connects} {failures} {idle}");
            assert_eq!(health.alive().status, Status::Ok);
        }
        health.end();
        assert_eq!(health.ready().reason, Some("stopping"));
        health.look(&snapshot(2, 3, 0), 3);
        assert_eq!(health.alive().status, Status::Failing);
    }
}
