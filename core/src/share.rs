//! Shared pipes: self-contained reads of many sessions, back to back on one server connection.
//!
//! A request shares only when its text and the catalog prove that it reads, waits for nobody and leaves nothing behind
//! ([`crate::verdict`]), when its kind has been seen to be fast and small ([`crate::pace`]), and when it is whole in our
//! buffer. It stays there until its reply is complete, so that it can be issued again elsewhere: when the request before it
//! takes too long or answers too much, when a neighbour is cancelled, when the connection dies.

use std::time::Duration;

use dbproto::frame;
use dbproto::message::frontend::{Bind, Named, Parse, Target, query_text, tag};
use dbproto::sql::Backslash;

use crate::catalog::Catalog;
use crate::error::Failure;
use crate::pipe::{Cancel, Delivery, Flow, InFlight, List, Luggage, Owner, Server, ServerId, Soil};
use crate::pool::{Pool, PoolId};
use crate::session::request::REQUEST_LEN_MAX;
use crate::session::write::known::describes_itself;
use crate::session::write::{Writer, is_query, write_shared};
use crate::session::{Carrying, Pin, Place, Reading, Session, SessionId, Shareable, Weight};
use crate::shard::{Shard, World};
use crate::statement::Statement;
use crate::verdict::{Sharing, Verdict, judge};

/// A request that has been at the head for longer gives way: those behind it go elsewhere.
const HEAD_MAX: Duration = Duration::from_millis(20);
/// Unsent bytes of a pipe above which it takes no more.
const PIPE_HIGH_WATER: usize = 128 * 1024;
/// Object numbers from here on are users' own.
const OID_FIRST_USER: u32 = 16_384;

/// Busy shared pipes per shard, unless the configuration says: twice as many as a core keeps running, so that one always has
/// work while another's reply is read.
const PIPES_PER_SHARD: usize = 2;

/// Reads that could be shared and are not because of what their session may have left, before that is asked for.
const DIRTY_READS_MAX: u32 = 8;
/// Requests on a pipe from which on another pipe helps; below, waking another backend costs more than waiting.
const PIPE_DEPTH_GOOD: usize = 8;
/// What settings that travel with a request cost, in requests.
const LUGGAGE_COST: usize = 1;
/// From this release on PostgreSQL begins an implicit transaction block for what comes before a Query without a Sync, and does
/// not end it behind the Query.
const MAJOR_WITHOUT_MIXING: u32 = 18;

impl Shard {
    /// Puts the request at the front of a session's input on a shared pipe, if it may go there and there is one. What was
    /// found out about it is noted.
    pub(crate) fn share_or_note(&mut self, io: &mut World<'_>, id: SessionId, len: usize) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(pool) = self.pools.get(session.pool.0 as usize) else { return false };
        session.shareable = None;
        session.kind = 0;
        session.waiting_since = io.now();
        let home = session.home;
        let state = self.interner.state(pool.catalog_state());
        let Some(verdict) = verdict_of(session, pool, len, state) else { return false };
        if verdict.sharing == Sharing::Impossible {
            return false;
        }
        // kinds of different pools are different kinds; 0 means none
        let kind = (verdict.kind ^ u64::from(session.pool.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1);
        session.kind = kind;
        if self.draining.is_some() || pool.paused {
            return false;
        }
        let weight = if self.paces.is_light(kind) { Weight::Light } else { Weight::Unknown };
        if home.is_some() {
            // only there is what it has left; but not for ever: once it is known what that is, the session can share again
            return weight == Weight::Light && self.ask_at_home(io, id);
        }
        session.shareable =
            Some(Shareable { len, kind, fingerprint: verdict.kind, weight, catalog_state: pool.catalog_state() });
        self.try_share(io, id)
    }

    /// After some reads in a row that could have been shared: asks what is left on the session's home. Its request waits.
    fn ask_at_home(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let Some(home) = self.home_of(id) else { return false };
        let Some(server) = self.servers.get_mut(home) else { return false };
        server.dirty_reads += 1;
        if server.dirty_reads < DIRTY_READS_MAX || server.list != List::Idle {
            return false;
        }
        self.begin_probe(io, home);
        self.promise(home, id);
        true
    }

    /// Puts a shareable request on a pipe: an idle one while few are busy, then the one with the shortest queue.
    pub(crate) fn try_share(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let light = |session: &&Session| session.shareable.as_ref().is_some_and(Shareable::is_light);
        let Some(session) = self.sessions.get(id).filter(light) else { return false };
        let Some(pool) = self.pools.get(session.pool.0 as usize) else { return false };
        let fits = |server: &Server| {
            let ready =
                server.soil != Soil::Unknown && server.reading == Reading::Usual && server.cancel == Cancel::None;
            if ready { distance(session, server) } else { None }
        };
        let depth_max = pool.settings.share_depth as usize;
        let mut best: Option<(usize, ServerId)> = None;
        for other in &pool.shared {
            if let Some(server) = self.servers.get(*other)
                && server.depth() < depth_max
                && best.is_none_or(|(cost, _)| server.depth() < cost)
                && let Some(distance) = fits(server)
                && best.is_none_or(|(cost, _)| server.depth() + distance < cost)
                && server.flow == Flow::Open
                && io.output_len(server.socket) < PIPE_HIGH_WATER
            {
                best = Some((server.depth() + distance, *other));
            }
        }
        let busy_max = pool
            .settings
            .share_pipes
            .map_or(PIPES_PER_SHARD, |pipes| (pipes as usize).div_ceil(io.shard_count().max(1)));
        let another = best.is_none_or(|(cost, _)| cost >= PIPE_DEPTH_GOOD && pool.shared.len() < busy_max);
        if another {
            let fitting = pool.idle.iter().rev().filter_map(|other| Some((fits(self.servers.get(*other)?)?, *other)));
            best = fitting.min_by_key(|(distance, _)| *distance).or(best);
        }
        best.is_some_and(|(_, server)| self.join(io, id, server))
    }

    /// What was proven of a waiting request by a catalog that has changed since counts for nothing.
    pub(crate) fn forget_old_proof(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let state = self.pools.get(session.pool.0 as usize).map(Pool::catalog_state);
        if session.shareable.is_some_and(|request| Some(request.catalog_state) != state) {
            session.shareable = None;
        }
    }

    /// Puts a proven read on a connection that was made fit for it. Others may join it there if it is light and the connection
    /// clean; else it is alone, and still can be issued again if the connection dies.
    pub(crate) fn occupy(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId) {
        let Some(server) = self.servers.get_mut(server_id) else { return };
        server.last_session = Some(id);
        let joinable = server.soil != Soil::Unknown && server.reading == Reading::Usual;
        let light =
            self.sessions.get(id).and_then(|session| session.shareable).is_some_and(|request| request.is_light());
        self.move_to(server_id, if joinable && light { List::Shared } else { List::Draining });
        self.join(io, id, server_id);
        self.hurry(io);
    }

    /// Writes a session's request behind what is on the pipe.
    fn join(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId) -> bool {
        let now = io.now();
        if self.servers.get(server_id).is_some_and(|server| server.list == List::Idle) {
            self.move_to(server_id, List::Shared);
            self.hurry(io);
            self.watch_server(io, server_id);
        }
        let Self { sessions, servers, interner, pools, stats, tallies, times, .. } = self;
        let (Some(session), Some(server)) = (sessions.get_mut(id), servers.get_mut(server_id)) else { return false };
        let (Some(pool), Some(shareable)) = (pools.get_mut(server.pool.0 as usize), session.shareable) else {
            return false;
        };
        if server.in_flight.is_empty() {
            server.head_since = now;
            server.timed_out = None;
        }
        let input = std::mem::take(&mut session.input);
        let out = io.output(server.socket);
        let before = out.len();
        let request = input.get(..shareable.len).unwrap_or_default();
        let brings = session.dress.luggage(&server.dress).is_some_and(|mut settings| settings.next().is_some());
        let written = write_shared(Writer::new(session, server, interner, (pool, tallies), now), out, request);
        times.on_written(server_id);
        let len = out.len().saturating_sub(before);
        session.input = input;
        session.kind = shareable.kind;
        session.place = Place::Shared(server_id);
        server.in_flight.push_back(InFlight {
            owner: Owner::Session(id),
            written_at: now,
            delivery: Delivery::Nothing,
            luggage: if brings { Luggage::Ahead } else { Luggage::Done },
        });
        if server.list == List::Shared {
            pool.stats.requests_shared += 1;
        } else {
            pool.stats.requests_exclusive += 1;
        }
        pool.stats.bytes_to_server += len as u64;
        pool.note_wait(now.saturating_duration_since(session.waiting_since));
        match written {
            Ok(counts) => {
                counts.add_to(&mut pool.stats);
                stats.messages_in += counts.messages;
            }
            // it was read once before it was found shareable: this cannot be, so nothing about the pipe is certain
            Err(_) => self.doubt(io, server_id, "a shared request could not be written"),
        }
        true
    }

    /// After replies on a pipe that carries shared requests: an empty one is free again, others may join one with room.
    pub(crate) fn after_shared(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        let pool = server.pool;
        if server.flow == Flow::Paused {
            let head = server.head_session().and_then(|id| self.sessions.get(id));
            let slow = head.is_some_and(|session| io.output_len(session.socket) > runtime::reactor::LOW_WATER);
            let socket = server.socket;
            if !slow && let Some(server) = self.servers.get_mut(id) {
                // it was held back for somebody who has its whole reply now
                server.flow = Flow::Open;
                io.resume(socket);
            }
        }
        let Some(server) = self.servers.get(id) else { return };
        if server.is_quiet() {
            self.release(io, id);
        } else if self.pool(pool).is_some_and(|pool| !pool.waiting.is_empty()) {
            self.serve(io, pool);
        }
    }

    /// Nobody joins this pipe any more, and those behind its head go elsewhere; their late replies are swallowed.
    pub(crate) fn evacuate(&mut self, id: ServerId) {
        self.move_to(id, List::Draining);
        let Some(server) = self.servers.get_mut(id) else { return };
        let mut moved = Vec::new();
        for request in server.in_flight.iter_mut().skip(1) {
            if let (Owner::Session(session), Delivery::Nothing) = (request.owner, request.delivery) {
                request.owner = Owner::Orphan;
                moved.push(session);
            }
        }
        for session in moved {
            self.issue_again(session);
        }
    }

    /// Pipes whose head takes too long, and pipes that are too old.
    pub(crate) fn on_share_tick(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        let now = io.now();
        let Some(pool) = self.pool(pool_id) else { return };
        let life = pool.settings.server_lifetime;
        for id in pool.shared.iter().chain(&pool.draining).copied().collect::<Vec<_>>() {
            let Some(server) = self.servers.get(id) else { continue };
            let since = server.in_flight.front().map_or(now, |request| request.written_at.max(server.head_since));
            if server.depth() > 1 && now.saturating_duration_since(since) > HEAD_MAX {
                self.evacuate(id);
            } else if server.list == List::Shared && server.is_older(now, life) {
                self.move_to(id, List::Draining);
            }
        }
    }

    /// A client cancels its shared request. Postgres is asked to stop it only when nothing of anybody else can be hit.
    pub(crate) fn cancel_shared(&mut self, io: &mut World<'_>, session: SessionId, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let position = server.in_flight.iter().position(|request| request.owner == Owner::Session(session));
        match position {
            Some(0) => {
                self.evacuate(id);
                self.send_cancel(io, id);
            }
            Some(position) => {
                if let Some(request) = server.in_flight.get_mut(position) {
                    request.owner = Owner::Orphan;
                }
                self.fail_request(io, session, &Failure::Cancelled);
            }
            None => {}
        }
    }
}

/// What it costs, in requests on a pipe, to bring a session's settings along to a connection that wears others: nothing if it
/// wears them. None if they cannot come.
fn distance(session: &Session, server: &Server) -> Option<usize> {
    if server.dress.fingerprint() == session.dress.fingerprint() {
        return Some(0);
    }
    // what comes before a Query without a Sync is one transaction with it, up to PostgreSQL 17; later ones get lost in it
    let fits = !is_query(&session.input) || server.major().is_some_and(|major| major < MAJOR_WITHOUT_MIXING);
    let travel = fits && session.carrying == Carrying::Along && session.dress.luggage(&server.dress).is_some();
    travel.then_some(LUGGAGE_COST)
}

/// What is known of a whole request; none where it is not one that can be shared.
fn verdict_of(session: &Session, pool: &Pool, len: usize, state: u64) -> Option<Verdict> {
    let settings = &pool.settings;
    let can = settings.share == config::Share::On
        && settings.mode != config::PoolMode::Session
        && session.pin == Pin::No
        && session.reading == Reading::Usual
        && session.changes.is_empty()
        && len <= REQUEST_LEN_MAX;
    let catalog = pool.catalog().filter(|_| can)?;
    let request = session.input.get(..len)?;
    let (first, rest) = frame::split(request).ok()??;
    match first.tag {
        tag::QUERY if rest.is_empty() => {
            let text = query_text(first.body).ok()?;
            Some(judge(text, Backslash::Literal, catalog))
        }
        tag::PARSE => {
            let parse = Parse::read(first.body).ok()?;
            if !parse.name.is_empty() || !are_builtin_types(parse.types) {
                return None;
            }
            let bound = runs_one(rest)?;
            bound.is_empty().then(|| judge(parse.query, Backslash::Literal, catalog))
        }
        tag::BIND => {
            // the unnamed statement of an earlier request may be gone from whatever pipe this would go to
            let bound = runs_one(request).filter(|name| !name.is_empty())?;
            let statement = session.statements.get(bound)?;
            if statement.knowledge.needs_proof(state) && describes_itself(request).is_none() {
                // what it gives may have changed, and nobody waits on a shared pipe to find out
                return None;
            }
            known_verdict(statement, catalog)
        }
        _ => None,
    }
}

fn known_verdict(statement: &Statement, catalog: &Catalog) -> Option<Verdict> {
    are_builtin_types(&statement.source.types).then(|| statement.verdict(catalog))
}

/// The statement that `Bind, Describe?, Execute, Sync` runs through the unnamed portal; none if it is anything else.
fn runs_one(request: &[u8]) -> Option<&[u8]> {
    let (bind, mut rest) = frame::split(request).ok()??;
    if bind.tag != tag::BIND {
        return None;
    }
    let bound = Bind::read(bind.body).ok().filter(|bind| bind.portal.is_empty())?;
    let mut executed = false;
    loop {
        let (message, after) = frame::split(rest).ok()??;
        match message.tag {
            tag::DESCRIBE if !executed => {
                let describe = Named::read(message.body).ok()?;
                let known = match describe.target {
                    Target::Portal => describe.name.is_empty(),
                    Target::Statement => describe.name == bound.statement,
                };
                known.then_some(())?;
            }
            tag::EXECUTE if !executed && message.body.first() == Some(&0) => executed = true,
            tag::SYNC if executed && after.is_empty() => return Some(bound.statement),
            _ => return None,
        }
        rest = after;
    }
}

/// Whether no parameter is of a type of a user's: reading its value could run code.
fn are_builtin_types(types: &[u8]) -> bool {
    types
        .get(2..)
        .unwrap_or_default()
        .chunks_exact(4)
        .all(|oid| oid.first_chunk().is_some_and(|oid| u32::from_be_bytes(*oid) < OID_FIRST_USER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use dbproto::message::frontend::{write_bind, write_describe, write_execute, write_parse, write_sync};

    fn request(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut out);
        write_sync(&mut out);
        out
    }

    #[test]
    fn only_one_statement_run_once_through_the_unnamed_portal_is_found() {
        let bind = |out: &mut BytesMut, portal: &[u8]| write_bind(out, portal, b"s", &[0, 0, 0, 0, 0, 0]).unwrap();
        let one = request(|out| {
            bind(out, b"");
            write_describe(out, Target::Portal, b"").unwrap();
            write_execute(out, b"", 0).unwrap();
        });
        assert_eq!(runs_one(&one), Some(&b"s"[..]));
        let named_portal = request(|out| {
            bind(out, b"p");
            write_execute(out, b"p", 0).unwrap();
        });
        assert_eq!(runs_one(&named_portal), None);
        let twice = request(|out| {
            bind(out, b"");
            write_execute(out, b"", 0).unwrap();
            write_execute(out, b"", 0).unwrap();
        });
        assert_eq!(runs_one(&twice), None);
        let never = request(|out| bind(out, b""));
        assert_eq!(runs_one(&never), None);
        let parse_between = request(|out| {
            bind(out, b"");
            write_parse(out, b"", b"select 1", &[0, 0]).unwrap();
            write_execute(out, b"", 0).unwrap();
        });
        assert_eq!(runs_one(&parse_between), None);
    }

    #[test]
    fn types_of_users_are_not_builtin() {
        assert!(are_builtin_types(&[0, 0]));
        assert!(are_builtin_types(&[0, 1, 0, 0, 0, 23]));
        assert!(!are_builtin_types(&[0, 2, 0, 0, 0, 23, 0, 0, 0x40, 0]));
    }
}
