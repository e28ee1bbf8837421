//! Who keeps pinning sessions: told in the log at most once a minute per database and reason.
//!
//! A shard counts pins as they begin and tells the desk at most once a minute; the desk puts all shards' counts together and
//! writes the line. So a pin costs nobody more than a counter, and the log says the same on one core and on many.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use crate::admin::Petition;
use crate::admin::survey::application_name;
use crate::dress::Dress;

/// Shortest time between two lines of the same database and reason.
const PAUSE: Duration = Duration::from_secs(60);
/// Applications that are told apart; the rest is counted all the same.
const APPLICATIONS_MAX: usize = 16;
/// Pairs of database and reason that are counted; databases of `*` may have any name.
const PAIRS_MAX: usize = 1024;

/// Pins of a database's sessions for one reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PinReport {
    pub(crate) database: String,
    pub(crate) reason: &'static str,
    pub(crate) count: u64,
    /// How many of them each application caused.
    pub(crate) applications: Vec<(String, u64)>,
}

#[derive(Debug, Default)]
struct Tally {
    told_at: Option<Instant>,
    count: u64,
    applications: Vec<(String, u64)>,
}

impl Tally {
    fn add(&mut self, application: String, count: u64) {
        if let Some((_, own)) = self.applications.iter_mut().find(|(name, _)| *name == application) {
            *own += count;
        } else if self.applications.len() < APPLICATIONS_MAX {
            self.applications.push((application, count));
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.count > 0 && self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE)
    }
}

/// What has been counted and not told.
#[derive(Debug, Default)]
pub(crate) struct PinLog {
    tallies: HashMap<(String, &'static str), Tally>,
}

impl PinLog {
    /// A session of a shard is pinned from now on; the desk is told when that is due.
    pub(crate) fn note(&mut self, desk: &Sender<Petition>, (database, dress): (&str, &Dress), reason: &'static str) {
        let (now, application) = (Instant::now(), application_name(dress));
        let report =
            PinReport { database: database.to_owned(), reason, count: 1, applications: vec![(application, 1)] };
        if let Some(report) = self.add(report, now) {
            // without a desk there is nobody to tell
            let _sent: Result<(), _> = desk.send(Petition::Pinned(report));
        }
    }

    /// Adds what has been counted; gives what is due to be told.
    pub(crate) fn add(&mut self, report: PinReport, now: Instant) -> Option<PinReport> {
        let key = (report.database, report.reason);
        if self.tallies.len() >= PAIRS_MAX && !self.tallies.contains_key(&key) {
            self.tallies.retain(|_, tally| tally.told_at.is_none_or(|at| now.saturating_duration_since(at) < PAUSE));
            if self.tallies.len() >= PAIRS_MAX {
                return None;
            }
        }
        let tally = self.tallies.entry(key.clone()).or_default();
        tally.count += report.count;
        report.applications.into_iter().for_each(|(application, count)| tally.add(application, count));
        tally.is_due(now).then(|| take(&key, tally, now))
    }

    /// All that is due to be told.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<PinReport> {
        let due = self.tallies.iter_mut().filter(|(_, tally)| tally.is_due(now));
        due.map(|(key, tally)| take(key, tally, now)).collect()
    }
}

fn take((database, reason): &(String, &'static str), tally: &mut Tally, now: Instant) -> PinReport {
    tally.told_at = Some(now);
    let (count, applications) = (std::mem::take(&mut tally.count), std::mem::take(&mut tally.applications));
    PinReport { database: database.clone(), reason, count, applications }
}

impl PinReport {
    /// Writes the line.
    pub(crate) fn log(&self) {
        let most = self.applications.iter().max_by_key(|(_, count)| *count);
        let (application, of_it) = most.map_or(("", 0), |(name, count)| (name.as_str(), *count));
        tracing::info!(
            database = self.database,
            reason = self.reason,
            application,
            of_it,
            pins = self.count,
            "sessions keep their server connections; docs/pins.md tells why"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(database: &str, reason: &'static str, application: &str, count: u64) -> PinReport {
        PinReport { database: database.to_owned(), reason, count, applications: vec![(application.to_owned(), count)] }
    }

    #[test]
    fn a_pair_is_told_at_once_and_then_once_a_minute_with_what_came_meanwhile() {
        let (mut log, start) = (PinLog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(log.add(report("a", "LISTEN", "web", 1), at(0)), Some(report("a", "LISTEN", "web", 1)));
        assert_eq!(log.add(report("a", "LISTEN", "web", 1), at(1)), None);
        assert_eq!(log.add(report("a", "LISTEN", "jobs", 4), at(2)), None);
        // others are told apart
        assert!(log.add(report("a", "LOAD", "web", 1), at(2)).is_some());
        assert!(log.add(report("b", "LISTEN", "web", 1), at(2)).is_some());
        assert_eq!(log.take_due(at(59)), []);
        let told = log.add(report("a", "LISTEN", "jobs", 1), at(60)).unwrap();
        assert_eq!(told.count, 6);
        assert_eq!(told.applications, [("web".to_owned(), 1), ("jobs".to_owned(), 5)]);
        assert_eq!(log.take_due(at(1000)), [], "nothing has come");
        log.add(report("a", "LISTEN", "jobs", 1), at(61));
        assert_eq!(log.take_due(at(121)), [report("a", "LISTEN", "jobs", 1)]);
    }

    #[test]
    fn names_that_clients_choose_do_not_fill_the_memory() {
        let (mut log, start) = (PinLog::default(), Instant::now());
        for number in 0..5000 {
            log.add(report(&number.to_string(), "LISTEN", "web", 1), start);
            log.add(report("a", "LISTEN", &number.to_string(), 1), start);
        }
        assert!(log.tallies.len() <= PAIRS_MAX, "{}", log.tallies.len());
        // later there is room again
        assert!(log.add(report("new", "LISTEN", "web", 1), start + PAUSE).is_some());
        assert!(log.tallies.values().all(|tally| tally.applications.len() <= APPLICATIONS_MAX));
    }
}
