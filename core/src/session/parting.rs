//! A client that has sent its last byte.
//!
//! It may still read: PostgreSQL answers what had come whole, and closes then. So a Terminate is put behind what it has sent, as
//! if it had said goodbye, and everything takes its course. But a process that has died, or has closed its connection, looks
//! the same until something is sent to it. What such a client asked for is not to run on for nobody: while its request
//! takes long it is told again a value that it knows, which means nothing to one that listens, and which the system of
//! one that does not answers with a reset. That ends the session as it ends others whose connection breaks.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use dbproto::frame;
use dbproto::message::frontend::tag;
use dbproto::message::{backend, frontend};

use crate::pipe::Streaming;
use crate::session::{Machine, Phase, Place, Session, SessionId};
use crate::shard::{Shard, World};

/// How long an answer may take before it is asked whether anybody waits for it; longer every time.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(5);
/// A value that never changes.
const KNOWN: &[u8] = b"server_version";

/// What is still to come from a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coming {
    /// More, as far as one knows.
    More,
    /// Nothing: it has said goodbye.
    Nothing,
    /// Nothing, and the goodbye behind what it has sent is ours.
    Unsaid,
}

impl Coming {
    /// What the log says of a client that has ended its session itself.
    pub(crate) const fn farewell(self) -> &'static str {
        match self {
            Self::More | Self::Nothing => "goodbye",
            Self::Unsaid => "hung up without a goodbye",
        }
    }
}

/// A client that may have gone.
pub(crate) struct Parting {
    session: SessionId,
    look_at: Instant,
    pause: Duration,
}

/// Where the last whole message of an input ends that begins with `left` bytes of an earlier one, and whether it is a
/// Terminate; none if that earlier one is not whole.
fn last_whole(input: &[u8], left: usize) -> Option<(usize, Coming)> {
    let mut rest = input.get(left..)?;
    let mut coming = Coming::Unsaid;
    while let Ok(Some(head)) = frame::head(rest)
        && head.len <= rest.len()
    {
        rest = rest.get(head.len..).unwrap_or_default();
        if head.tag == tag::TERMINATE {
            coming = Coming::Nothing;
            break;
        }
    }
    Some((input.len() - rest.len(), coming))
}

impl Session {
    /// Whether what it has sent is still to be answered.
    fn may_still_listen(&self) -> bool {
        match &self.phase {
            Phase::Ready => true,
            Phase::Replicating(_) => matches!(self.place, Place::Exclusive(_)),
            Phase::Welcoming => !self.input.is_empty(),
            Phase::Authenticating(login) => {
                !self.input.is_empty() && matches!(login.machine, Machine::Looking(_) | Machine::Checking)
            }
            // what has come whole has been done
            Phase::Startup | Phase::Console(_) | Phase::Leaving(_) => false,
        }
    }

    /// Puts a goodbye behind what has come whole; false if the client has left within a message.
    fn supply_goodbye(&mut self) -> bool {
        let Some((len, coming)) = last_whole(&self.input, self.stream_left) else { return false };
        self.input.truncate(len);
        if coming == Coming::Unsaid {
            let mut out = BytesMut::new();
            frontend::write_terminate(&mut out);
            self.input.extend_from_slice(&out);
        }
        self.coming = coming;
        true
    }
}

impl Shard {
    /// A client has sent its last byte.
    pub(crate) fn on_client_finished(&mut self, io: &mut World<'_>, id: SessionId) {
        let relayed = self.relayed_so_far(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let whole = relayed.is_none_or(|between| between);
        if !session.may_still_listen() || !whole || !session.supply_goodbye() {
            self.end_session(io, id, None);
            return;
        }
        let look_at = io.now() + LOOK_FIRST;
        self.process(io, id);
        if self.sessions.get(id).is_some() {
            self.parting.push(Parting { session: id, look_at, pause: LOOK_FIRST });
            self.tick_at(io, look_at);
        }
    }

    /// Those whose request takes long: are they there?
    pub(crate) fn on_parting_tick(&mut self, io: &mut World<'_>) {
        let now = io.now();
        for mut parting in std::mem::take(&mut self.parting) {
            if parting.look_at <= now {
                if self.sessions.get(parting.session).is_none() {
                    continue;
                }
                self.remind(io, parting.session);
                parting.look_at = now + parting.pause;
                parting.pause = (parting.pause * 3).min(LOOK_LAST);
            }
            self.parting.push(parting);
        }
        if let Some(at) = self.parting.iter().map(|parting| parting.look_at).min() {
            self.tick_at(io, at);
        }
    }

    /// Tells a client between two messages what it knows.
    fn remind(&self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id).filter(|session| Session::is_ready(session)) else { return };
        let torn = match session.place {
            Place::Exclusive(server) | Place::Shared(server) => self
                .servers
                .get(server)
                .is_some_and(|server| matches!(server.streaming, Streaming::Forward(to, left) if to == id && left > 0)),
            Place::Idle | Place::Waiting | Place::Promised(_) => false,
        };
        let told = self.pool(session.pool).and_then(|pool| pool.welcomes.values().next());
        let known = told.and_then(|told| told.iter().find(|(name, _)| **name == *KNOWN));
        if let Some((name, value)) = known.filter(|_| !torn && io.output_len(session.socket) == 0) {
            backend::write_parameter_status(io.output(session.socket), name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(input: &[u8], left: usize) -> Session {
        let secret = crate::cancel::CancelSecret::random();
        let mut session = Session::accepted(runtime::SocketId::NONE, secret, None, Instant::now());
        session.input.extend_from_slice(input);
        session.stream_left = left;
        session
    }

    #[test]
    fn what_has_come_whole_is_kept_and_a_goodbye_put_behind_it() {
        for (input, left, kept, coming) in [
            (&b""[..], 0, &b""[..], Coming::Unsaid),
            (b"S\0\0\0\x04", 0, b"S\0\0\0\x04", Coming::Unsaid),
            (b"S\0\0\0\x04Q\0\0\0\x09se", 0, b"S\0\0\0\x04", Coming::Unsaid),
            (b"S\0\0\0\x04Q\0", 0, b"S\0\0\0\x04", Coming::Unsaid),
            (b"abcS\0\0\0\x04", 3, b"abcS\0\0\0\x04", Coming::Unsaid),
            (b"S\0\0\0\x04X\0\0\0\x04S\0\0\0\x04", 0, b"S\0\0\0\x04X\0\0\0\x04", Coming::Nothing),
        ] {
            let mut session = session(input, left);
            assert!(session.supply_goodbye());
            assert_eq!(session.coming, coming);
            let mut whole = kept.to_vec();
            whole.extend_from_slice(if coming == Coming::Unsaid { b"X\0\0\0\x04" } else { b"" });
            assert_eq!(session.input, whole, "{}", input.escape_ascii());
        }
        assert!(!session(b"ab", 3).supply_goodbye(), "the rest of a message that has been begun never comes");
    }
}
