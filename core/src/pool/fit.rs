//! Which free connection a session gets, and how it is made fit for it: cleaned, dressed, handed over.

use std::rc::Rc;

use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};

use crate::cancel::process_id;
use crate::error::Failure;
use crate::listen::Hearing;
use crate::pipe::{List, Mark, ServerId, Soil, Work, WorkFailure};
use crate::pool::PoolId;
use crate::session::{Phase, Place, SessionId};
use crate::shard::{Shard, World};

/// Free connections that are looked at for the best.
const PICK_MAX: usize = 32;
/// What [`Shard::pick`] found.
pub(super) enum Pick {
    Fit(ServerId),
    /// The session's own, which is being asked just now.
    BeingAsked(ServerId),
    /// Another session's home.
    Ask(ServerId),
    Nothing,
}

impl Shard {
    /// Which free connection a session gets: its home; one that needs least to be fit for it; one that holds what nobody
    /// misses. If there are only others' homes, one of them is asked.
    pub(super) fn pick(&self, pool_id: PoolId, front: SessionId) -> Pick {
        if let Some(home) = self.home_of(front) {
            let asked =
                self.servers.get(home).is_some_and(|server| server.findings.is_some() || server.passage.is_some());
            return if asked { Pick::BeingAsked(home) } else { Pick::Fit(home) };
        }
        let (Some(pool), Some(session)) = (self.pool(pool_id), self.sessions.get(front)) else { return Pick::Nothing };
        let dress = session.dress.fingerprint();
        let mut best: Option<(u8, ServerId)> = None;
        let mut home = None;
        for id in pool.idle.iter().rev().take(PICK_MAX) {
            let Some(server) = self.servers.get(*id) else { continue };
            let own = server.last_session == Some(front);
            let work = match server.soil {
                Soil::Unknown if self.is_home(*id) => {
                    home = Some(*id);
                    continue;
                }
                Soil::Sequences if own => 0,
                Soil::Clean | Soil::Sequences if server.dress.fingerprint() != dress => 2,
                Soil::Clean => 1,
                Soil::Sequences => 3,
                Soil::Unknown => 4,
            };
            if best.is_none_or(|(least, _)| work < least) {
                best = Some((work, *id));
            }
        }
        match (best, home) {
            (Some((_, server)), _) => Pick::Fit(server),
            (None, Some(home)) => Pick::Ask(home),
            (None, None) => Pick::Nothing,
        }
    }

    /// A session waits for what is being done on a connection.
    pub(crate) fn promise(&mut self, id: ServerId, session_id: SessionId) {
        if let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(session_id)) {
            server.promised = Some(session_id);
            session.place = Place::Promised(id);
        }
    }

    /// Makes an idle connection fit for a session: cleans it, dresses it, hands it over.
    pub(super) fn prepare(&mut self, io: &mut World<'_>, id: ServerId, session_id: SessionId) {
        let bring = self.channels_to_bring(io, id, session_id);
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(session_id)) else {
            return;
        };
        let stranger = server.last_session != Some(session_id);
        let connect_query = self.pools.get(server.pool.0 as usize).and_then(|pool| pool.target.connect_query.clone());
        // a setting falls back to what it was at login, not to what connect_query made of it
        let lost = connect_query.is_some() && session.dress.lacks_some_of(&server.dress);
        let clean = match server.soil {
            _ if lost => Some(&b"DISCARD ALL"[..]),
            Soil::Unknown if stranger => Some(&b"DISCARD ALL"[..]),
            Soil::Sequences if stranger => Some(&b"DISCARD SEQUENCES"[..]),
            Soil::Clean | Soil::Sequences | Soil::Unknown => None,
        };
        let worn = match clean {
            Some(b"DISCARD ALL") => Rc::default(),
            _ => Rc::clone(&server.dress),
        };
        let changes = session.dress.change_from(&worn);
        let (replayed, mut change) = (changes.len() as u64, changes.join("\n;"));
        if clean.is_none() && change.is_empty() && bring.is_none() {
            self.hand_over(io, id, session_id);
            return;
        }
        server.promised = Some(session_id);
        server.work_failure = None;
        session.place = Place::Promised(id);
        let mut query = |text: &[u8], mark: Mark| {
            // bounded: settings come from a start-up packet or a short statement
            if frontend::write_query(io.output(server.socket), text).is_ok() {
                server.pipeline.push(Owed::nobody(Expect::Query).marked(mark.encode()));
            }
        };
        if let Some(text) = clean {
            query(text, Mark::Clean);
            if let Some(text) = connect_query.filter(|_| text == b"DISCARD ALL") {
                query(text.as_bytes(), Mark::Clean);
            }
        }
        if !change.is_empty() {
            change.push_str("\n;");
            query(change.as_bytes(), Mark::Dress);
        }
        if let Some(text) = bring {
            query(&text, Mark::Dress);
        }
        let pool = server.pool;
        self.move_to(id, List::Working);
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.cleanings += u64::from(clean.is_some());
            pool.stats.settings_replayed += replayed;
        }
    }

    /// What [`Shard::prepare`] asked for has been answered.
    pub(crate) fn on_prepared(&mut self, io: &mut World<'_>, id: ServerId) {
        if self.go_on_passage(io, id) {
            return;
        }
        let Some(server) = self.servers.get_mut(id) else { return };
        if let Some(findings) = server.findings.take() {
            self.on_probed(io, id, *findings);
            return;
        }
        let promised = server.promised.take();
        server.holder = None;
        let failure = server.work_failure.take();
        let work = std::mem::replace(&mut server.work, Work::Other);
        // what the last session set may cut our own work short (`statement_timeout`); the next one is not to suffer from it
        let cut_short = |failure: &WorkFailure| failure.sqlstate == "57014" && !server.dress.settings().is_empty();
        if failure.as_ref().is_some_and(|failure| failure.during != Mark::Dress || cut_short(failure)) {
            tracing::warn!(?failure, "a server connection could not be cleaned and is closed");
            self.doubt(io, id, "it could not be cleaned");
            if let Some(session) = promised {
                self.acquire_again(io, session);
            }
            return;
        }
        let session = promised.and_then(|id| self.sessions.get(id).map(|session| (id, session)));
        let Some((session_id, session)) = session else {
            if server.soil == Soil::Unknown && work == Work::Clean {
                self.doubt(io, id, "it could not be cleaned");
            } else if server.soil == Soil::Unknown || promised.is_some() {
                // the client has left meanwhile; what the connection wears now is not known
                server.soil = Soil::Unknown;
                self.clean(io, id);
            } else {
                self.release(io, id);
            }
            return;
        };
        if let Some(failure) = failure {
            server.soil = Soil::Unknown;
            server.last_session = None;
            let refused = Failure::UpstreamRefused { sqlstate: failure.sqlstate, message: failure.message };
            self.release(io, id);
            self.end_session(io, session_id, Some(&refused));
            return;
        }
        server.dress = Rc::clone(&session.dress);
        if !self.come_home(io, id, session_id) {
            self.hand_over(io, id, session_id);
        }
    }

    /// Gives a session a connection that is fit for it.
    fn hand_over(&mut self, io: &mut World<'_>, id: ServerId, session_id: SessionId) {
        self.forget_old_proof(session_id);
        if self.sessions.get(session_id).is_some_and(|session| session.shareable.is_some()) {
            self.occupy(io, session_id, id);
            return;
        }
        self.move_to(id, List::Exclusive);
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(session_id)) else {
            return;
        };
        server.holder = Some(session_id);
        server.last_session = Some(session_id);
        server.head_since = io.now();
        server.idle_since = io.now();
        server.busy_since = None;
        server.timed_out = None;
        session.place = Place::Exclusive(id);
        let waited = io.now().saturating_duration_since(session.waiting_since);
        let welcoming = matches!(session.phase, Phase::Welcoming);
        let own = process_id(io.shard(), session_id);
        // what listens by the line can notify only where it is at home
        let may_notify = session.ears.as_ref().is_none_or(|ears| ears.hearing != Hearing::Line);
        let backend = server.key.as_ref().filter(|_| may_notify).map(|(backend, _)| *backend);
        if let Some(pool) = self.pools.get_mut(server.pool.0 as usize) {
            pool.note_wait(waited);
            // in session mode clients are told their backends' own
            if let Some(backend) = backend.filter(|_| pool.settings.mode != config::PoolMode::Session) {
                self.board.aliases.note((pool.database.0, backend), own);
            }
        }
        self.watch_server(io, id);
        if welcoming {
            self.welcome_from(io, session_id, id);
        } else {
            self.ready.push_back(session_id);
        }
    }
}
