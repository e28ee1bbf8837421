//! The two ends of a turn, at which the clock is read; see [`crate::stopwatch`].

use std::time::Instant;

use crate::log::STATEMENT;
use crate::shard::{Shard, World};
use crate::stopwatch::micros;

impl Shard {
    /// The time is the turn's.
    pub(super) fn note_turn(&mut self, io: &World<'_>) {
        self.now = io.now();
        self.times.begin_turn(self.now);
    }

    /// The turn is over: counts how long the requests took that have ended in it.
    pub(super) fn settle_times(&mut self, now: Instant) {
        let slow_us = self.config.log.slow_statements.duration().map(micros);
        let Self { times, servers, pools, paces, tallies, sessions, slow_log, .. } = self;
        times.end_turn(
            now,
            |id, turn| {
                if let Some(server) = servers.get_mut(id) {
                    server.flights.depart(turn, now);
                }
            },
            |ended, spans| {
                tallies.on_time(ended.pool, ended.tag, spans.server_us);
                if ended.kind != 0 {
                    paces.note(ended.kind, spans.server_us, ended.len);
                }
                if let Some(pool) = pools.get_mut(ended.pool.0 as usize) {
                    pool.note_spans(ended, spans);
                    if slow_us.is_some_and(|us| spans.queue_us + spans.pipe_wait_us + spans.server_us >= us) {
                        let session = ended.session.and_then(|id| sessions.get(id));
                        slow_log.tell((now, &pool.name), session, tallies, (ended, spans));
                    }
                }
            },
        );
    }

    /// Slow statements that were left out are told of, when no other has come to do so.
    pub(super) fn on_slow_tick(&mut self) {
        if let Some(left_out) = self.slow_log.take_left_out(self.now) {
            tracing::warn!(target: STATEMENT, left_out, "slow statements were left out");
        }
    }
}
