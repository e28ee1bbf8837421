//! What the log tells of clients: who comes, who leaves and why, whose statements are slow.
//!
//! Nothing here holds what a client has sent but names and statements without their constants; no password, no key, no value.
//! Each kind is off unless the configuration asks for it.

use std::time::{Duration, Instant};

use config::LogConnections;

use crate::log::{CONNECTION, STATEMENT};
use crate::session::secure::Transport;
use crate::session::{Phase, Session, SessionId};
use crate::shard::Shard;
use crate::stopwatch::{Ended, Spans};
use crate::tally::Tallies;

/// What the console's database is called here.
const CONSOLE: &str = "optimacore";
/// Slow statements that a shard tells in a second.
const SLOW_PER_SECOND_MAX: u32 = 10;

/// How many slow statements have been told lately. Lives on one shard.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    since: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl SlowLog {
    /// One more: gives how many were left out before it, if it is to be told.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told >= SLOW_PER_SECOND_MAX {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// How many were left out, once nothing else tells it.
    pub(crate) fn take_left_out(&mut self, now: Instant) -> Option<u64> {
        let over = self.since.is_some_and(|since| now.saturating_duration_since(since) >= Duration::from_secs(1));
        (over && self.left_out > 0).then(|| std::mem::take(&mut self.left_out))
    }

    /// Tells of a request that took too long.
    pub(crate) fn tell(
        &mut self,
        (now, pool): (Instant, &str),
        session: Option<&Session>,
        tallies: &Tallies,
        (ended, spans): (&Ended, Spans),
    ) {
        let Some(session) = session else { return };
        let Some(left_out) = self.admit(now) else { return };
        let (fingerprint, text) = tallies.text(ended.pool, ended.tag).unwrap_or((0, "(not kept)"));
        tracing::warn!(
            target: STATEMENT,
            pool,
            client = address_of(session),
            id = session.record.id,
            queue_us = spans.queue_us,
            pipe_wait_us = spans.pipe_wait_us,
            server_us = spans.server_us,
            rows = ended.rows,
            fingerprint = format!("{fingerprint:016x}"),
            statement = text,
            left_out,
            "slow statement"
        );
    }
}

impl Shard {
    fn tells_connections(&self) -> bool {
        self.config.log.connections == LogConnections::On
    }

    /// A client has connected.
    pub(crate) fn tell_arrival(&self, id: SessionId) {
        if self.tells_connections()
            && let Some(session) = self.sessions.get(id)
        {
            tracing::info!(target: CONNECTION, id = session.record.id, client = address_of(session), "a client connects");
        }
    }

    /// A client is let in.
    pub(crate) fn tell_login(&self, id: SessionId) {
        if self.tells_connections()
            && let Some(session) = self.sessions.get(id)
        {
            let (user, database) = self.name_of(session);
            let tls = session.transport == Transport::Secured;
            let (id, client) = (session.record.id, address_of(session));
            tracing::info!(target: CONNECTION, id, client, user, database, tls, "a client is logged in");
        }
    }

    /// A client leaves, for this reason; the first that is given holds.
    pub(crate) fn note_farewell(&mut self, id: SessionId, why: impl FnOnce() -> String) {
        if self.tells_connections()
            && let Some(session) = self.sessions.get_mut(id)
        {
            session.farewell.get_or_insert_with(|| why().into());
        }
    }

    /// A client has left.
    pub(crate) fn tell_departure(&self, session: &Session) {
        if !self.tells_connections() {
            return;
        }
        let (user, database) = self.name_of(session);
        let record = &session.record;
        tracing::info!(
            target: CONNECTION,
            id = record.id,
            client = address_of(session),
            user,
            database,
            reason = session.farewell.as_deref().unwrap_or("not known"),
            seconds = self.now.saturating_duration_since(record.connected_at).as_secs_f64(),
            requests = record.requests,
            bytes_in = record.bytes_in,
            bytes_out = record.bytes_out,
            "a client leaves"
        );
    }

    /// User and database, as far as they are known.
    fn name_of<'s>(&'s self, session: &'s Session) -> (&'s str, &'s str) {
        match &session.phase {
            Phase::Authenticating(login) => (&login.start.user, &login.start.database),
            Phase::Console(_) => (&session.user, CONSOLE),
            Phase::Startup | Phase::Welcoming | Phase::Ready | Phase::Replicating(_) | Phase::Leaving(_) => {
                let pool = session.seat.as_ref().and_then(|_| self.pool(session.pool));
                (&session.user, pool.map_or("", |pool| &pool.stats.database))
            }
        }
    }
}

/// Where a client is.
fn address_of(session: &Session) -> String {
    session.peer.map_or_else(|| "local".to_owned(), |peer| peer.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_slow_statements_a_second_are_told_and_the_others_counted() {
        let (mut log, start) = (SlowLog::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let told = (0..500).filter(|ms| log.admit(at(*ms)).is_some()).count();
        assert_eq!(told, 10);
        assert_eq!(log.take_left_out(at(999)), None, "the next line may tell it");
        assert_eq!(log.admit(at(1000)), Some(490));
        assert_eq!(log.admit(at(1001)), Some(0));
        for ms in 1002..1100 {
            log.admit(at(ms));
        }
        assert_eq!(log.take_left_out(at(2000)), Some(90));
        assert_eq!((log.take_left_out(at(9000)), log.admit(at(9000))), (None, Some(0)));
    }
}
