//! Where a request's time goes: waiting for a server connection, waiting on it for others' requests, PostgreSQL, us.
//!
//! | Span | From | To |
//! |---|---|---|
//! | queue | the request's arrival | its being written to a server connection |
//! | pipe wait | then | the end of the reply that was ahead of it there, if one was |
//! | server | the later of these two | the end of its own reply |
//! | proxy | | all the rest, until its reply is handed to the client's socket |
//!
//! The clock is read twice per turn of the shard's loop, however many requests a turn has: when the shard wakes, and when what
//! it has put out is about to be handed to the kernel. What is done in a turn happens to all of its requests together (none
//! leaves before the turn ends), so what lies between the two readings is the proxy's part of each of them. So:
//! - A request arrives, and a reply ends, when the shard wakes to read it. What lies in the kernel before counts as the network
//!   does: before a request as nobody's, before a reply as the server's. It is a turn at most, and what the shard sleeps to
//!   wait for several replies ([`runtime::Expectation`]).
//! - Replies that are read in one turn from one connection came since the turn before, one after the other; when each, nobody
//!   saw. They are taken to have come evenly over the last millisecond at most, which is as long as a shard sleeps for several;
//!   what the earlier ones have lain there is the proxy's. So server times add up to the time the connection worked.
//! - What the kernel takes to send counts as the server's for a request, and is not counted for a reply.
//!
//! A request that is issued again is measured from its arrival to its last writing, which is where its queue ends. What its
//! client was not answered by PostgreSQL is not measured. Who sends several requests at once: the later ones arrive when the
//! last bytes that came do.
//!
//! Lives on one shard; its time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dbproto::pipeline::Expect;

use crate::pipe::ServerId;
use crate::pool::PoolId;
use crate::session::SessionId;
use crate::tally::Tag;

/// Replies that are read together have come within so long.
const TOGETHER_MAX: Duration = Duration::from_millis(1);

/// A request that is under way on a server connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flight {
    /// When its first message was written; from the end of that turn on, when it was handed to the kernel.
    pub(crate) written: Instant,
    pub(crate) queue_us: u32,
    /// What was left of the turn in which it was written.
    lag_us: u32,
}

impl Flight {
    pub(crate) const fn new(written: Instant, queue_us: u32) -> Self {
        Self { written, queue_us, lag_us: 0 }
    }
}

/// Requests of one connection that each are owed a ReadyForQuery, in their order. Those that are alike are one entry, so what
/// a client sends in one turn is no more than a few.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    runs: VecDeque<(Flight, u32)>,
    len: usize,
    /// The request whose messages are being written and whose end was not.
    begun: Option<Flight>,
}

impl Flights {
    /// A message is written that is owed this. Gives how long its request has waited.
    pub(crate) fn begin(&mut self, expect: Expect, now: Instant, arrived: Instant) -> u64 {
        if matches!(expect, Expect::CopyEnd | Expect::CopyData) {
            return 0;
        }
        let flight = self.begun.get_or_insert_with(|| Flight::new(now, short(now.saturating_duration_since(arrived))));
        u64::from(flight.queue_us)
    }

    /// That message ended its request, and a ReadyForQuery is owed for it.
    pub(crate) fn end(&mut self) {
        let Some(flight) = self.begun.take() else { return };
        self.len += 1;
        match self.runs.back_mut() {
            Some((last, count)) if *last == flight && *count < u32::MAX => *count += 1,
            Some(_) | None => self.runs.push_back((flight, 1)),
        }
    }

    /// A ReadyForQuery has come, and so many more are owed: whose it is. Requests that an error has skipped, or a COPY swallowed,
    /// stood in front of it.
    pub(crate) fn pop(&mut self, owed: usize) -> Option<Flight> {
        while self.len > owed + 1 {
            self.pop_front();
        }
        if self.len == owed + 1 { self.pop_front() } else { None }
    }

    fn pop_front(&mut self) -> Option<Flight> {
        let (flight, count) = self.runs.front_mut()?;
        let flight = *flight;
        self.len -= 1;
        *count -= 1;
        if *count == 0 {
            self.runs.pop_front();
        }
        Some(flight)
    }

    /// The turn that began then ends: what was written in it leaves now.
    pub(crate) fn depart(&mut self, turn: Instant, now: Instant) {
        let lag_us = short(now.saturating_duration_since(turn));
        let ended = self.runs.iter_mut().rev().map(|(flight, _)| flight);
        let ended = ended.take_while(|flight| flight.written == turn);
        for flight in ended.chain(self.begun.iter_mut().filter(|flight| flight.written == turn)) {
            (flight.written, flight.lag_us) = (now, lag_us);
        }
    }
}

/// A request that PostgreSQL has answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) server: ServerId,
    pub(crate) pool: PoolId,
    /// Whose it is, unless the reply was for nobody: the request was issued again elsewhere, or its client has left.
    pub(crate) session: Option<SessionId>,
    pub(crate) flight: Flight,
    /// Since when it was the connection's turn to answer it.
    pub(crate) due: Instant,
    /// Its kind, for [`crate::pace`], and where it is counted.
    pub(crate) kind: u64,
    pub(crate) tag: Tag,
    /// Bytes and rows of the reply.
    pub(crate) len: usize,
    pub(crate) rows: u64,
}

/// Where a request's time went, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Spans {
    pub(crate) queue_us: u64,
    pub(crate) pipe_wait_us: u64,
    pub(crate) server_us: u64,
    pub(crate) proxy_us: u64,
}

/// See the module documentation.
pub(crate) struct Stopwatch {
    /// When this turn began, and the one before.
    turn: Instant,
    before: Instant,
    /// Connections that something was written to in this turn.
    fresh: Vec<ServerId>,
    ended: Vec<Ended>,
}

impl Stopwatch {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { turn: now, before: now, fresh: Vec::new(), ended: Vec::new() }
    }

    /// A turn goes on that began then.
    pub(crate) fn begin_turn(&mut self, now: Instant) {
        if self.turn != now {
            self.before = std::mem::replace(&mut self.turn, now);
        }
    }

    /// A request was written there.
    pub(crate) fn on_written(&mut self, server: ServerId) {
        if self.fresh.last() != Some(&server) {
            self.fresh.push(server);
        }
    }

    /// A request has been answered.
    pub(crate) fn on_ended(&mut self, ended: Ended) {
        self.ended.push(ended);
    }

    /// What was answered last is not what its client hears: the request is issued again.
    pub(crate) fn on_unheard(&mut self) {
        if let Some(last) = self.ended.last_mut() {
            last.session = None;
        }
    }

    /// The turn ends, and what it has put out leaves now. `depart` is told of each connection that something was written to, and
    /// when the turn began; `tell` of each request that was answered.
    pub(crate) fn end_turn(
        &mut self,
        now: Instant,
        mut depart: impl FnMut(ServerId, Instant),
        mut tell: impl FnMut(&Ended, Spans),
    ) {
        for server in self.fresh.drain(..) {
            depart(server, self.turn);
        }
        if self.ended.is_empty() {
            return;
        }
        // what came from one connection in several pieces belongs together; the order of each connection's stays
        if !self.ended.is_sorted_by_key(|ended| ended.server.index()) {
            self.ended.sort_by_key(|ended| ended.server.index());
        }
        let tail_us = micros(now.saturating_duration_since(self.turn));
        for together in self.ended.chunk_by(|a, b| a.server == b.server) {
            split(together, (self.before, self.turn), |ended, spans| {
                tell(ended, Spans { proxy_us: spans.proxy_us + tail_us, ..spans });
            });
        }
        self.ended.clear();
    }
}

/// Splits the times of requests whose replies were read together from one connection, between `before` and `now`.
fn split(together: &[Ended], (before, now): (Instant, Instant), mut tell: impl FnMut(&Ended, Spans)) {
    let Some(first) = together.first() else { return };
    let count = u32::try_from(together.len()).unwrap_or(u32::MAX);
    let recent = now.checked_sub(TOGETHER_MAX).unwrap_or(before);
    let since = first.due.max(before).max(recent).min(now);
    let each = now.saturating_duration_since(since) / count;
    let mut free = first.due;
    for (ended, place) in together.iter().zip(1..) {
        let written = ended.flight.written;
        let began = written.max(free);
        let end = if place == count { now } else { since + each * place }.max(began);
        free = end;
        tell(
            ended,
            Spans {
                queue_us: u64::from(ended.flight.queue_us),
                pipe_wait_us: micros(began.saturating_duration_since(written)),
                server_us: micros(end.saturating_duration_since(began)),
                proxy_us: u64::from(ended.flight.lag_us) + micros(now.saturating_duration_since(end)),
            },
        );
    }
}

/// In microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn short(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
