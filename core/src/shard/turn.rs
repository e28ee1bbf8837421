//! The two ends of a turn, at which the clock is read; see [`crate::stopwatch`].

use std::time::Instant;

use crate::shard::{Shard, World};

impl Shard {
    /// The time is the turn's.
    pub(super) fn note_turn(&mut self, io: &World<'_>) {
        self.now = io.now();
        self.times.begin_turn(self.now);
    }

    /// The turn is over: counts how long the requests took that have ended in it.
    pub(super) fn settle_times(&mut self, now: Instant) {
        let Self { times, servers, pools, paces, tallies, .. } = self;
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
                }
            },
        );
    }
}
