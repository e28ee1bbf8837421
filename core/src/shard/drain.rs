//! How a shard ends.

use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::session::{Phase, Place};
use crate::shard::{Shard, World};

/// How long PostgreSQL may take at the end to hear that nobody wants any more what it does.
const LAST_CANCELS_MAX: Duration = Duration::from_secs(1);

impl Shard {
    /// Stops: nobody new, and who is in a transaction may finish it until then.
    pub(super) fn drain(&mut self, io: &mut World<'_>, until: Instant) {
        if let Some(before) = self.draining {
            // who asks again may mean sooner, never later
            self.draining = Some(before.min(until));
            self.hurry(io);
            return;
        }
        self.draining = Some(until);
        io.stop_listening();
        for id in self.sessions.keys() {
            let Some(session) = self.sessions.get(id) else { continue };
            match session.place {
                // what a replication client does has no end that could be waited for
                _ if matches!(session.phase, Phase::Replicating(_)) => {
                    self.end_session(io, id, Some(&Failure::Shutdown));
                }
                Place::Idle if matches!(session.phase, Phase::Console(_)) => {
                    self.end_session(io, id, Some(&Failure::Shutdown));
                }
                Place::Idle if session.input.is_empty() => self.end_session(io, id, Some(&Failure::Shutdown)),
                Place::Exclusive(server) => self.let_go_if_done(io, server),
                Place::Idle | Place::Waiting | Place::Promised(_) | Place::Shared(_) => {}
            }
        }
        for pool in 0..self.pools.len() {
            let idle = self.pools.get(pool).map(|pool| pool.idle.clone()).unwrap_or_default();
            for server in idle {
                self.retire(io, server);
            }
        }
        self.hurry(io);
    }

    pub(super) fn on_drain_tick(&mut self, io: &mut World<'_>) {
        let Some(until) = self.draining else { return };
        if io.now() >= until {
            for id in self.sessions.keys() {
                self.end_session(io, id, Some(&Failure::Shutdown));
            }
            if self.cancels.len() == 0 || io.now() >= until + LAST_CANCELS_MAX {
                io.stop();
            }
        } else if self.sessions.len() == 0 && self.servers.len() == 0 && self.board.is_empty() {
            // not before: another shard's last clients may wait for a permit of ours
            io.stop();
        }
    }
}
