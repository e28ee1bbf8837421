//! Letting a client in: start-up packet, proof of who it is, the welcome.

use std::rc::Rc;

use bytes::{Buf as _, BytesMut};
use dbproto::auth::Credentials;
use dbproto::message::backend::{self, TransactionStatus};
use dbproto::startup::{self, MINOR_MAX, Startup, StartupMessage};

use crate::admin::Role;
use crate::bound::{Seat, Whose};
use crate::cancel::{self, SecretLen};
use crate::dress::{Dress, startup_settings};
use crate::error::{Failure, Limited};
use crate::pipe::ServerId;
use crate::pool::{Parameter, PoolId};
use crate::replication::{self, Replication};
use crate::session::secure::{HANDSHAKE, Request, judge_transport};
use crate::session::{Phase, Reading, SessionId, Start};
use crate::shard::{Admission, Shard, World};

impl Shard {
    /// Takes a start-up packet, if it is there; gives whether there may be more to do.
    pub(super) fn on_startup_bytes(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let mut input = std::mem::take(&mut session.input);
        if input.first() == Some(&HANDSHAKE) && self.on_direct_tls(io, id, &input) {
            return false;
        }
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let (packet, used) = match startup::parse(&input) {
            Ok(None) => {
                session.input = input;
                return false;
            }
            Ok(Some(found)) => found,
            Err(error) => {
                self.end_session(io, id, Some(&Failure::Protocol { what: error.to_string() }));
                return false;
            }
        };
        let go_on = match packet {
            Startup::Ssl | Startup::GssEnc => {
                // what came behind the request was not encrypted: nobody may take it for what comes after
                if used < input.len() {
                    let what = "received unencrypted data after an encryption request".to_owned();
                    self.end_session(io, id, Some(&Failure::Protocol { what }));
                    return false;
                }
                let request = if packet == Startup::Ssl { Request::Ssl } else { Request::GssEnc };
                self.on_encryption_request(io, id, request);
                false
            }
            Startup::Cancel { process_id, secret } => {
                self.route_cancel(io, process_id, secret);
                self.end_session(io, id, None);
                return false;
            }
            Startup::Start(message)
                if session.admission == Admission::Refused && !is_for_admin(&self.config, &message) =>
            {
                let limit = self.config.limits.max_client_connections;
                self.end_session(io, id, Some(&Failure::TooManyClients { limit }));
                return false;
            }
            Startup::Start(message) => {
                let start = judge_transport(session, self.config.listen.tls.mode)
                    .and_then(|()| read_start(&message, &self.config.auth.ignored_parameters));
                match start {
                    Ok(start) => {
                        negotiate(&message, io.output(session.socket));
                        self.authenticate(io, id, start)
                    }
                    Err(failure) => {
                        self.end_session(io, id, Some(&failure));
                        return false;
                    }
                }
            }
        };
        input.advance(used);
        if let Some(session) = self.sessions.get_mut(id) {
            session.input = input;
        }
        go_on
    }

    /// The client is who it says: it gets its pool, and is told the server's parameters as soon as they are known.
    pub(super) fn settle_in(&mut self, io: &mut World<'_>, id: SessionId, start: Start) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.secret.fit(start.secret_len);
        }
        if config::CONSOLE_DATABASES.contains(&start.database.as_str()) {
            self.settle_console(io, id, start);
            return;
        }
        if self.levers.disabled.contains(&start.database) {
            self.end_session(io, id, Some(&Failure::DatabaseDisabled { database: start.database }));
            return;
        }
        if matches!(start.replication, Replication::Wanted(..)) {
            self.settle_replica(io, id, start);
            return;
        }
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        let pool_id = match self.pool_with(shards, &start.user, &start.database, &start.shown) {
            Ok(pool_id) => pool_id,
            Err(failure) => {
                self.end_session(io, id, Some(&failure));
                return;
            }
        };
        self.watch_catalog(pool_id);
        let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
        if pool.permit_state.fair == 0 {
            // a pool smaller than the number of shards lives on some of them only
            let owner = self.permit_owner(shards, &start.user, &start.database);
            self.hand_on(io, id, owner, start);
            return;
        }
        if !self.take_seat(io, id, pool_id, &start) {
            return;
        }
        let (Some(pool), Some(session)) = (self.pools.get(pool_id.0 as usize), self.sessions.get(id)) else { return };
        match pool.welcomes.get(&session.dress.fingerprint()) {
            // it has a connection of its own from the beginning, whose process id it is told
            _ if pool.settings.mode == config::PoolMode::Session => self.acquire(io, id),
            Some(parameters) => {
                let parameters = Rc::clone(parameters);
                self.welcome(io, id, &parameters);
            }
            None => self.acquire(io, id),
        }
    }

    /// The client becomes one of its pool's, if it may; otherwise it is told why not.
    pub(crate) fn take_seat(&mut self, io: &mut World<'_>, id: SessionId, pool_id: PoolId, start: &Start) -> bool {
        let Some(bound) = self.pool(pool_id).map(|pool| pool.supply.bound) else { return false };
        let seat = match Seat::take(&self.board, bound) {
            Ok(seat) => seat,
            Err(whose) => {
                let failure = self.seat_failure(pool_id, whose, start);
                self.end_session(io, id, Some(&failure));
                return false;
            }
        };
        let Some(session) = self.sessions.get_mut(id) else { return false };
        session.seat = Some(seat);
        session.pool = pool_id;
        session.user = start.user.as_str().into();
        let settings = start.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        session.login_dress = Rc::new(Dress::from_startup(settings));
        session.dress = Rc::clone(&session.login_dress);
        true
    }

    /// Who has no business with the console is not told that there is one.
    fn settle_console(&mut self, io: &mut World<'_>, id: SessionId, start: Start) {
        let Some(role) = Role::of(&self.config, &start.user) else {
            self.end_session(io, id, Some(&Failure::UnknownDatabase { database: start.database }));
            return;
        };
        if let Some(session) = self.sessions.get_mut(id) {
            let settings = start.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            session.dress = Rc::new(Dress::from_startup(settings));
            session.user = start.user.into();
        }
        self.welcome_console(io, id, role);
    }

    /// Why a client finds no place.
    fn seat_failure(&mut self, pool_id: PoolId, whose: Whose, start: &Start) -> Failure {
        if let Some(pool) = self.pool_mut(pool_id) {
            pool.stats.count_limit("max_client_connections");
        }
        let bound = self.pool(pool_id).map(|pool| pool.supply.bound).unwrap_or_default();
        let (what, limit) = match whose {
            Whose::Database => {
                let database = self.config.databases.get(bound.database);
                (format!("database \"{}\"", start.database), database.and_then(|d| d.max_client_connections))
            }
            Whose::User => {
                let user = self.config.user(&start.user);
                (format!("role \"{}\"", start.user), user.and_then(|user| user.max_client_connections))
            }
        };
        Failure::Limited(Limited::Clients { what, limit: limit.unwrap_or(u32::MAX) })
    }

    /// A client that another shard has let in.
    pub(crate) fn settle_newcomer(&mut self, io: &mut World<'_>, id: SessionId, start: Start) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Welcoming;
        }
        self.settle_in(io, id, start);
    }

    /// A server connection wears the client's settings: what it reports is what the client is told.
    pub(crate) fn welcome_from(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId) {
        let (Some(session), Some(server)) = (self.sessions.get(id), self.servers.get(server_id)) else { return };
        let parameters: crate::pool::Parameters = server.parameters.clone().into();
        let (fingerprint, pool) = (session.dress.fingerprint(), session.pool);
        let process_id = server.key.as_ref().map(|(process_id, _)| *process_id);
        let mut mode = config::PoolMode::Transaction;
        if let Some(pool) = self.pool_mut(pool) {
            pool.remember_welcome(fingerprint, Rc::clone(&parameters));
            mode = pool.settings.mode;
        }
        if let Some(process_id) = process_id.filter(|_| mode == config::PoolMode::Session) {
            self.tell(id, process_id);
        }
        self.welcome(io, id, &parameters);
        // not here: the next who waits would be welcomed inside this call, and so on
        self.done_with.push_back(server_id);
    }

    fn welcome(&mut self, io: &mut World<'_>, id: SessionId, parameters: &crate::pool::Parameters) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.phase = Phase::Ready;
        session.reading = reading(parameters);
        self.write_welcome(io, id, parameters);
        self.watch_client(io, id);
    }

    /// Tells a client that it is let in.
    pub(crate) fn write_welcome(&mut self, io: &mut World<'_>, id: SessionId, parameters: &[Parameter]) {
        let Some(session) = self.sessions.get(id) else { return };
        let process_id = session.told.unwrap_or_else(|| cancel::process_id(io.shard(), id));
        let out = io.output(session.socket);
        backend::write_authentication_ok(out);
        for (name, value) in parameters {
            backend::write_parameter_status(out, name, value);
        }
        backend::write_backend_key_data(out, process_id, session.secret.as_bytes());
        backend::write_ready_for_query(out, TransactionStatus::Idle);
        self.stats.logins += 1;
        self.tell_login(id);
        self.ready.push_back(id);
    }
}

/// A client that asks for a later version than there is, or for options that nobody knows here, is told what there is.
fn negotiate(message: &StartupMessage<'_>, out: &mut BytesMut) {
    let options: Vec<&[u8]> = message.protocol_options().collect();
    if message.minor > MINOR_MAX || !options.is_empty() {
        backend::write_negotiate_protocol_version(out, message.minor.min(MINOR_MAX), options.into_iter());
    }
}

/// How texts read under these settings.
pub(crate) fn reading(parameters: &[Parameter]) -> Reading {
    let value = |name: &[u8]| parameters.iter().find(|(n, _)| **n == *name).map(|(_, value)| &**value);
    let usual = value(b"standard_conforming_strings") == Some(b"on")
        && value(b"client_encoding").is_some_and(dbproto::sql::is_ascii_safe);
    if usual { Reading::Usual } else { Reading::Unusual }
}

/// Whether an administrator asks for the console, who is let in when all places are taken.
fn is_for_admin(config: &config::Config, message: &StartupMessage<'_>) -> bool {
    let text = |name: &[u8]| message.parameter(name).map(String::from_utf8_lossy);
    let console = text(b"database").is_some_and(|name| config::CONSOLE_DATABASES.contains(&&*name));
    console && text(b"user").is_some_and(|user| Role::of(config, &user) == Some(Role::Admin))
}

/// What a start-up packet asks for, or why that cannot be had.
fn read_start(message: &StartupMessage<'_>, ignored: &[String]) -> Result<Start, Failure> {
    if message.major != 3 {
        let what = format!(
            "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{MINOR_MAX}",
            message.major, message.minor
        );
        return Err(Failure::Unsupported { what });
    }
    let text = |name: &[u8]| message.parameter(name).map(|value| String::from_utf8_lossy(value).into_owned());
    let user = text(b"user").filter(|user| !user.is_empty()).ok_or_else(|| Failure::InvalidStartup {
        what: "no PostgreSQL user name specified in startup packet".to_owned(),
    })?;
    let kind = message.parameter(b"replication").map_or(Ok(None), replication::wanted)?;
    let database = text(b"database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone());
    let is_ignored = |name: &[u8]| ignored.iter().any(|other| other.as_bytes().eq_ignore_ascii_case(name));
    let parameters = || message.parameters().filter(|(name, _)| !is_ignored(name));
    let replication = kind.map_or(Replication::No, |kind| Replication::of(kind, parameters()));
    let mut settings = match (startup_settings(parameters()), kind) {
        (Ok(settings), _) => settings,
        // PostgreSQL itself is told what they are
        (Err(_), Some(_)) => Vec::new(),
        (Err(switch), None) => {
            return Err(Failure::Unsupported {
                what: format!("the start-up packet's options contain \"{switch}\"; only -c name=value is supported"),
            });
        }
    };
    settings.retain(|(name, _)| !is_ignored(name.as_bytes()));
    let secret_len = SecretLen::of_minor(message.minor);
    Ok(Start { user, database, settings, shown: Credentials::None, secret_len, replication })
}
