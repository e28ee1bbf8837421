//! What deserves a mark on a time axis: errors that were not there before, connections that cannot be made or are given up.
//!
//! Found by comparing a snapshot with the one before. The same is told again only when it has not happened for a minute.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use stats::{PoolStats, Snapshot};

/// What has not happened for so long is news when it happens again.
const QUIET: Duration = Duration::from_secs(60);

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Incident {
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// What has been seen.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Counters as they were.
    before: HashMap<Sort, u64>,
    /// When each rose last.
    risen: HashMap<Sort, Instant>,
}

/// One kind of incident in one pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sort {
    database: String,
    user: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    /// Errors of an SQLSTATE class, PostgreSQL's.
    Error([u8; 2]),
    /// The same of ours.
    Refusal([u8; 2]),
    ConnectFailure,
    CloseInDoubt,
}

impl Watch {
    /// What is new in a snapshot.
    pub(super) fn compare(&mut self, now: Instant, snapshot: &Snapshot) -> Vec<Incident> {
        let mut out = Vec::new();
        for pool in snapshot.pools_total() {
            for (kind, count) in counters(&pool) {
                let sort = Sort { database: pool.database.clone(), user: pool.user.clone(), kind };
                let before = self.before.insert(sort.clone(), count).unwrap_or_default();
                if count <= before {
                    continue;
                }
                let last = self.risen.insert(sort.clone(), now);
                if last.is_none_or(|last| now.saturating_duration_since(last) > QUIET) {
                    out.push(sort.incident(count - before));
                }
            }
        }
        self.risen.retain(|_, last| now.saturating_duration_since(*last) <= QUIET);
        out
    }
}

fn counters(pool: &PoolStats) -> impl Iterator<Item = (Kind, u64)> {
    let errors = pool.errors.iter().map(|error| (Kind::Error(error.class), error.count));
    let refusals = pool.plane_errors.iter().map(|error| (Kind::Refusal(error.class), error.count));
    let own = [(Kind::ConnectFailure, pool.connect_failures), (Kind::CloseInDoubt, pool.closes_in_doubt)];
    errors.chain(refusals).chain(own)
}

impl Sort {
    fn incident(&self, count: u64) -> Incident {
        let times = if count == 1 { String::new() } else { format!(", {count} times") };
        let Self { database, user, kind } = self;
        let (name, what) = match kind {
            Kind::Error(class) => ("error", format!("errors of class {}", String::from_utf8_lossy(class))),
            Kind::Refusal(class) => {
                ("error", format!("the data plane's own errors of class {}", String::from_utf8_lossy(class)))
            }
            Kind::ConnectFailure => ("connect_failure", "PostgreSQL cannot be reached or refuses us".to_owned()),
            Kind::CloseInDoubt => ("close_in_doubt", "a server connection in doubt was closed".to_owned()),
        };
        Incident { name, text: format!("{what}: database {database}, user {user}{times}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(errors: u64, failures: u64) -> Snapshot {
        let mut pool = PoolStats { database: "shop".into(), user: "ann".into(), ..PoolStats::default() };
        (0..errors).for_each(|_| pool.count_error(b"23505"));
        pool.connect_failures = failures;
        Snapshot {
            pools: vec![pool.clone(), PoolStats { shard: 1, errors: Vec::new(), ..pool }],
            ..Snapshot::default()
        }
    }

    fn told(watch: &mut Watch, now: Instant, snapshot: &Snapshot) -> Vec<(&'static str, String)> {
        watch.compare(now, snapshot).into_iter().map(|incident| (incident.name, incident.text)).collect()
    }

    #[test]
    fn the_first_is_told_and_the_same_only_after_a_minute_without() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(told(&mut watch, at(0), &snapshot(0, 0)).is_empty());
        let error = |times: &str| ("error", format!("errors of class 23: database shop, user ann{times}"));
        assert_eq!(told(&mut watch, at(1), &snapshot(3, 0)), [error(", 3 times")]);
        assert!(told(&mut watch, at(2), &snapshot(3, 0)).is_empty());
        assert!(told(&mut watch, at(59), &snapshot(4, 0)).is_empty());
        assert!(told(&mut watch, at(110), &snapshot(5, 0)).is_empty(), "it goes on happening");
        let failure = "PostgreSQL cannot be reached or refuses us: database shop, user ann, 2 times".to_owned();
        assert_eq!(told(&mut watch, at(180), &snapshot(6, 1)), [error(""), ("connect_failure", failure)]);
        assert!(told(&mut watch, at(400), &snapshot(6, 1)).is_empty());
    }
}
