//! What a client asks for: where its request ends, whether it is answered here, joins a pipe or needs one of its own.

use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use dbproto::frame;
use dbproto::message::backend::{self, TransactionStatus};
use dbproto::message::frontend::{Named, Target, tag};
use runtime::Closed;

use crate::admin::State;
use crate::error::{Disposition, Failure};
use crate::pipe::{Cancel, Flow, List, Owner, ServerId, Tail};
use crate::server::CLIENT_HIGH_WATER;
use crate::session::parting::Coming;
use crate::session::{
    Barrier, Deallocating, Healing, Left, Phase, Pin, Place, Resetting, Session, SessionId, Skip, Unnamed,
};
use crate::shard::{Shard, World};
use crate::tally::Account;

/// Longest request that is waited for until it is complete; longer ones are passed on while they arrive.
pub(crate) const REQUEST_LEN_MAX: usize = 16 * 1024;
/// Bytes of a client that are held before it is not read from any more.
const INPUT_HIGH_WATER: usize = 64 * 1024;

/// What stands at the front of an idle session's input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scan {
    /// Nothing whole, or nothing that asks for an answer yet.
    Incomplete,
    /// A whole request of so many bytes.
    Request(usize),
    /// So many bytes that need no server: a Sync, closed statements, late COPY messages.
    Local(usize),
    /// Something that needs a server connection before it is complete.
    Stream,
    /// The client says goodbye.
    Terminate,
    /// A message no client sends.
    Broken(u8),
}

/// How a client leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parting {
    /// With a Terminate behind its last request.
    Goodbye,
    /// Without.
    Cut,
}

/// Finds the request at the front of `input`.
pub(crate) fn scan(input: &[u8]) -> Result<Scan, frame::FrameError> {
    let mut at = 0;
    let mut local = true;
    loop {
        let rest = input.get(at..).unwrap_or_default();
        let Some(head) = frame::head(rest)? else {
            return Ok(if at > REQUEST_LEN_MAX { Scan::Stream } else { Scan::Incomplete });
        };
        if !is_frontend(head.tag) {
            return Ok(Scan::Broken(head.tag));
        }
        if head.len > rest.len() {
            return Ok(if at + head.len > REQUEST_LEN_MAX { Scan::Stream } else { Scan::Incomplete });
        }
        at += head.len;
        match head.tag {
            tag::TERMINATE => return Ok(Scan::Terminate),
            tag::SYNC if local => return Ok(Scan::Local(at)),
            tag::SYNC | tag::QUERY | tag::FUNCTION_CALL => return Ok(Scan::Request(at)),
            tag::FLUSH if local => return Ok(Scan::Local(at)),
            tag::FLUSH => return Ok(Scan::Stream),
            // Postgres ignores what is left of a COPY that has failed
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL if local => return Ok(Scan::Local(at)),
            tag::CLOSE => {
                let body = rest.get(frame::HEAD_LEN..head.len).unwrap_or_default();
                local &=
                    Named::read(body).is_ok_and(|close| close.target == Target::Statement && !close.name.is_empty());
            }
            _ => local = false,
        }
    }
}

/// Whether frontends send messages with this tag after start-up.
pub(crate) const fn is_frontend(tag: u8) -> bool {
    matches!(
        tag,
        tag::BIND
            | tag::CLOSE
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_FAIL
            | tag::DESCRIBE
            | tag::EXECUTE
            | tag::FLUSH
            | tag::FUNCTION_CALL
            | tag::PARSE
            | tag::QUERY
            | tag::SYNC
            | tag::TERMINATE
    )
}

impl Session {
    pub(crate) fn is_ready(session: &Self) -> bool {
        matches!(session.phase, Phase::Ready)
    }

    /// Whether the message at the front is one that must be there whole, however long it is.
    fn awaits_rest(&self) -> bool {
        let exclusive =
            matches!(self.place, Place::Exclusive(_)) && self.barrier == Barrier::Open && self.stream_left == 0;
        exclusive
            && matches!(frame::head(&self.input), Ok(Some(head)) if head.tag == tag::PARSE && head.len > self.input.len())
    }

    /// The session holds no server connection any more.
    pub(crate) fn leave_server(session: &mut Self) {
        session.place = Place::Idle;
        session.pin = Pin::No;
        session.home = None;
        session.left = Left::Unlikely;
        session.barrier = Barrier::Open;
        session.healing = Healing::No;
        // what was promised last is taken back first
        for change in std::mem::take(&mut session.changes).into_iter().rev() {
            change.undo(session);
        }
        session.deallocating = Deallocating::No;
        session.resetting = Resetting::No;
        session.settings.clear();
        session.settings_done = 0;
        session.stream_left = 0;
        session.account = Account::default();
        if matches!(session.unnamed, Unnamed::OnServer) {
            session.unnamed = Unnamed::Absent;
        }
    }
}

impl Shard {
    /// Bytes came from a client.
    pub(crate) fn on_client_bytes(&mut self, io: &mut World<'_>, id: SessionId, bytes: &[u8]) {
        self.stats.bytes_in += bytes.len() as u64;
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.input.extend_from_slice(bytes);
        session.record.requested_at = io.now();
        session.record.bytes_in += bytes.len() as u64;
        session.active_at = io.now();
        session.came_at = io.now();
        if matches!(session.place, Place::Exclusive(_)) {
            session.arrived_at = session.came_at;
        }
        self.process(io, id);
    }

    /// Does what can be done for a session now.
    pub(crate) fn process(&mut self, io: &mut World<'_>, id: SessionId) {
        loop {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let go_on = match (&session.phase, session.place) {
                (Phase::Startup, _) => self.on_startup_bytes(io, id),
                (Phase::Authenticating(_), _) => self.on_password_bytes(io, id),
                (Phase::Console(_), _) => self.on_console_bytes(io, id),
                (Phase::Welcoming | Phase::Leaving(_), _) => false,
                (Phase::Ready | Phase::Replicating(_), _) if self.levers.state == State::Suspended => false,
                (Phase::Replicating(_), Place::Exclusive(server)) => {
                    self.relay_to_server(io, id, server);
                    false
                }
                (Phase::Replicating(_), _) => false,
                (Phase::Ready, Place::Idle) => self.begin_request(io, id),
                (Phase::Ready, Place::Exclusive(server)) => {
                    self.pass_on(io, id, server);
                    false
                }
                (Phase::Ready, Place::Waiting | Place::Promised(_) | Place::Shared(_)) => false,
            };
            if !go_on {
                break;
            }
        }
        self.bound_input(io, id);
        self.count_input(id);
    }

    /// A client that sends faster than it is served is not read from.
    fn bound_input(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.input.is_empty() {
            session.input = BytesMut::new();
        }
        let slow = io.output_len(session.socket) > CLIENT_HIGH_WATER;
        let full = slow || (session.input.len() > INPUT_HIGH_WATER && !session.awaits_rest());
        if slow {
            io.notify_drained(session.socket);
        }
        let server = match session.place {
            Place::Exclusive(server) => self.servers.get(server).map(|server| server.socket),
            Place::Idle | Place::Waiting | Place::Promised(_) | Place::Shared(_) => None,
        };
        let server = server.filter(|socket| io.output_len(*socket) > runtime::reactor::LOW_WATER);
        match (full, session.flow) {
            (true, Flow::Open) => {
                session.flow = Flow::Paused;
                io.pause(session.socket);
            }
            (_, Flow::Paused) if let Some(socket) = server => io.notify_drained(socket),
            (false, Flow::Paused) => {
                session.flow = Flow::Open;
                io.resume(session.socket);
            }
            (true, Flow::Paused) | (false, Flow::Open) => {}
        }
    }

    /// Looks at the front of an idle session's input; gives whether there may be more to do.
    fn begin_request(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if io.output_len(session.socket) > CLIENT_HIGH_WATER {
            // it does not read what it is answered
            return false;
        }
        if session.skip != Skip::No && !self.skip(io, id) {
            return false;
        }
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if self.draining.is_some() && session.input.is_empty() {
            self.end_session(io, id, Some(&Failure::Shutdown));
            return false;
        }
        session.arrived_at = session.came_at;
        match scan(&session.input) {
            Ok(Scan::Incomplete) => false,
            Ok(Scan::Request(len)) => {
                if self.sweep(io, id, len) {
                    return true;
                }
                self.note_wish(id, Some(len));
                if !self.share_or_note(io, id, len) {
                    self.acquire(io, id);
                }
                true
            }
            Ok(Scan::Stream) => {
                session.shareable = None;
                session.kind = 0;
                self.note_wish(id, None);
                self.acquire(io, id);
                true
            }
            Ok(Scan::Local(len)) => {
                self.answer_locally(io, id, len);
                true
            }
            Ok(Scan::Terminate) => {
                self.end_session(io, id, None);
                false
            }
            Ok(Scan::Broken(tag)) => {
                let what = format!("invalid frontend message type {tag}");
                self.end_session(io, id, Some(&Failure::Protocol { what }));
                false
            }
            Err(error) => {
                self.end_session(io, id, Some(&Failure::Protocol { what: error.to_string() }));
                false
            }
        }
    }

    /// Sync, Flush, and closed statements need no server while nothing is under way.
    fn answer_locally(&mut self, io: &mut World<'_>, id: SessionId, len: usize) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let bytes = session.input.split_to(len.min(session.input.len()));
        let out = io.output(session.socket);
        let mut rest = &bytes[..];
        while let Ok(Some((message, after))) = frame::split(rest) {
            rest = after;
            match message.tag {
                tag::SYNC | tag::FLUSH if !message.body.is_empty() => {
                    let what = "invalid message format".to_owned();
                    Failure::Protocol { what }.write(out, Disposition::Keep);
                    if message.tag == tag::SYNC {
                        backend::write_ready_for_query(out, TransactionStatus::Idle);
                    } else {
                        session.skip = Skip::ToSync;
                    }
                }
                tag::SYNC => backend::write_ready_for_query(out, TransactionStatus::Idle),
                tag::CLOSE => {
                    if let Ok(close) = Named::read(message.body) {
                        session.statements.remove(close.name);
                    }
                    backend::write_close_complete(out);
                }
                _ => {}
            }
        }
    }

    /// Passes over what is left of a request that was answered with an error; gives whether its end was found.
    fn skip(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if session.stream_left > 0 {
            let len = session.stream_left.min(session.input.len());
            session.input.advance(len);
            session.stream_left -= len;
        }
        if session.skip == Skip::Message && session.stream_left == 0 {
            session.skip = Skip::No;
            return true;
        }
        while session.stream_left == 0 {
            match frame::head(&session.input) {
                Ok(Some(head)) => {
                    if head.tag == tag::TERMINATE {
                        session.skip = Skip::No;
                        return true;
                    }
                    let len = head.len.min(session.input.len());
                    session.input.advance(len);
                    session.stream_left = head.len - len;
                    if head.tag == tag::SYNC {
                        session.skip = Skip::No;
                        backend::write_ready_for_query(io.output(session.socket), TransactionStatus::Idle);
                        return true;
                    }
                }
                Ok(None) => return false,
                Err(error) => {
                    self.end_session(io, id, Some(&Failure::Protocol { what: error.to_string() }));
                    return false;
                }
            }
        }
        false
    }

    /// Answers the request at the front of the input with an error; nothing of it was written to a server.
    pub(crate) fn fail_request(&mut self, io: &mut World<'_>, id: SessionId, failure: &Failure) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.place = Place::Idle;
        session.losses = 0;
        session.active_at = io.now();
        if !Session::is_ready(session) || failure.disposition() == Disposition::Close {
            self.end_session(io, id, Some(failure));
            return;
        }
        failure.write(io.output(session.socket), Disposition::Keep);
        self.count_failure(id, failure);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let len = match scan(&session.input) {
            Ok(Scan::Request(len)) => Some(len),
            Ok(Scan::Stream) => match frame::head(&session.input) {
                Ok(Some(head)) if matches!(head.tag, tag::QUERY | tag::FUNCTION_CALL) => Some(head.len),
                Ok(_) | Err(_) => None,
            },
            Ok(Scan::Incomplete | Scan::Local(_) | Scan::Terminate | Scan::Broken(_)) | Err(_) => None,
        };
        match len {
            Some(len) => {
                let there = len.min(session.input.len());
                session.input.advance(there);
                if there < len {
                    // the rest of a long Query is passed over as it comes, and its ReadyForQuery then stands already
                    session.stream_left = len - there;
                    session.skip = Skip::Message;
                }
                backend::write_ready_for_query(io.output(session.socket), TransactionStatus::Idle);
            }
            None => session.skip = Skip::ToSync,
        }
        self.tell_rest(io, id);
        self.ready.push_back(id);
    }

    /// A request on a shared pipe has been answered.
    pub(crate) fn finish_shared(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.losses = 0;
        session.active_at = now;
        if let Some(shareable) = session.shareable.take() {
            session.input.advance(shareable.len.min(session.input.len()));
        }
        session.place = Place::Idle;
        if !session.input.is_empty() || session.flow == Flow::Paused || self.draining.is_some() {
            self.ready.push_back(id);
        }
    }

    /// Ends a session: says why if there is a reason, and lets go of what it holds.
    pub(crate) fn end_session(&mut self, io: &mut World<'_>, id: SessionId, failure: Option<&Failure>) {
        let Some(session) = self.sessions.get(id) else { return };
        let (socket, goodbye) = (session.socket, session.coming.farewell());
        if let Some(failure) = failure.filter(|_| !self.is_within_message(id)) {
            failure.write(io.output(socket), Disposition::Close);
            self.count_failure(id, failure);
        }
        self.note_farewell(id, || failure.map_or_else(|| goodbye.to_owned(), ToString::to_string));
        io.close_after_output(socket);
        self.leave(io, id);
    }

    /// Ends a session in the middle of a message: whatever were written now would be misread.
    pub(crate) fn cut_session(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        io.close(session.socket);
        self.note_farewell(id, || "cut off in the middle of a message, or because it does not read".to_owned());
        self.leave(io, id);
    }

    /// A client is gone.
    pub(crate) fn on_client_closed(&mut self, io: &mut World<'_>, id: SessionId, cause: &Closed) {
        self.note_farewell(id, || cause.to_string());
        self.leave(io, id);
    }

    fn leave(&mut self, io: &mut World<'_>, id: SessionId) {
        let (place, home) = (self.sessions.get(id).map(|session| session.place), self.home_of(id));
        let torn = self.sessions.get(id).is_some_and(|session| session.stream_left > 0 && session.skip == Skip::No);
        if let (Some(Place::Exclusive(server)), true) = (place, torn)
            && let Some(server) = self.servers.get_mut(server)
        {
            server.tail = Tail::Torn;
        }
        let parting = self.sessions.get(id).map_or(Parting::Cut, |session| match frame::head(&session.input) {
            Ok(Some(head)) if head.tag == tag::TERMINATE && session.coming != Coming::Unsaid => Parting::Goodbye,
            Ok(_) | Err(_) => Parting::Cut,
        });
        self.drop_session(io, id);
        match place {
            Some(Place::Exclusive(server)) => self.leave_exclusive(io, server, parting),
            Some(Place::Shared(server)) => self.orphan_requests_of(io, id, server),
            Some(Place::Idle | Place::Waiting | Place::Promised(_)) | None => {}
        }
        if let Some(home) = home {
            self.clean(io, home);
        }
    }

    fn leave_exclusive(&mut self, io: &mut World<'_>, id: ServerId, parting: Parting) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if server.list == List::Relaying {
            self.leave_relay(io, id);
            return;
        }
        server.holder = None;
        if server.list == List::Exclusive {
            if server.flow == Flow::Paused {
                server.flow = Flow::Open;
                io.resume(server.socket);
            }
            // what was asked for before a goodbye is done, as PostgreSQL does it; nobody hears of it
            let finishing = parting == Parting::Goodbye && server.is_finishing();
            if server.cancel == Cancel::None && !finishing {
                self.abandon(io, id);
            }
        }
    }

    fn orphan_requests_of(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId) {
        let Some(server) = self.servers.get_mut(server_id) else { return };
        for request in &mut server.in_flight {
            if request.owner == Owner::Session(id) {
                request.owner = Owner::Orphan;
            }
        }
        if server.flow == Flow::Paused {
            server.flow = Flow::Open;
            io.resume(server.socket);
        }
        let for_nobody = server.in_flight.iter().all(|request| request.owner == Owner::Orphan);
        if server.list == List::Draining && for_nobody {
            // it may take long, and nobody waits for it
            self.send_cancel(io, server_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for word in text.split(' ') {
            let (tag, body) = word.split_at(1);
            out.extend(tag.as_bytes());
            out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            out.extend(body.replace('_', "\0").as_bytes());
        }
        out
    }

    #[test]
    fn a_request_ends_where_a_ready_for_query_is_owed() {
        assert_eq!(scan(&frames("Qselect_")), Ok(Scan::Request(12)));
        assert_eq!(scan(&frames("Ps_x_ B__ S Q_")), Ok(Scan::Request(9 + 7 + 5)));
        assert_eq!(scan(&frames("Ps_x_ H")), Ok(Scan::Stream));
        assert_eq!(scan(&frames("Ps_x_")), Ok(Scan::Incomplete));
        assert_eq!(scan(&frames("S")), Ok(Scan::Local(5)));
        assert_eq!(scan(&frames("CSa_ S")), Ok(Scan::Local(8 + 5)));
        assert_eq!(scan(&frames("CPa_ S")), Ok(Scan::Request(13)));
        assert_eq!(scan(&frames("X")), Ok(Scan::Terminate));
        assert_eq!(scan(&frames("Y")), Ok(Scan::Broken(b'Y')));
        assert_eq!(scan(b"Q\x3f\xff\xff\xff"), Ok(Scan::Stream));
        assert!(scan(b"Q\xff\xff\xff\xff").is_err());
    }
}
