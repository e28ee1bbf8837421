//! Logging in to Postgres.

use std::sync::Arc;

use dbproto::auth::{AuthError, ClientAuth, Step};
use dbproto::frame;
use dbproto::message::backend::{self, Authentication, ErrorFields, TransactionStatus};
use dbproto::message::frontend;

use crate::error::Failure;
use crate::pipe::{List, ServerId};
use crate::pool::{Parameter, PoolId, Target};
use crate::session::{Phase, SessionId};
use crate::shard::{Shard, World};
use crate::upstream::unfit;

/// Longest message of a login.
const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// Postgres' own words for refusing us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

impl Refusal {
    /// Whether it may let us in a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.sqlstate.as_str(), "57P03" | "53300" | "57P01" | "57P02")
    }
}

/// Why a login cannot go on.
enum Fault {
    /// What is at the other end does not do what PostgreSQL does; perhaps it is only about to.
    Broken(String),
    /// It will be the same the next time.
    Lasting(String),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

/// A login that is under way.
pub(crate) struct ServerLogin {
    pub(super) auth: ClientAuth,
    pub(crate) refusal: Option<Refusal>,
    /// What is still to be run before clients may have the connection.
    connect_query: Option<Arc<str>>,
    stage: Stage,
}

/// How far a new connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It proves who it is and is told the server's parameters.
    Login,
    /// `connect_query` runs.
    ConnectQuery,
}

impl ServerLogin {
    pub(crate) fn new(target: &Target) -> Self {
        Self { auth: target.login(), refusal: None, connect_query: target.connect_query.clone(), stage: Stage::Login }
    }
}

/// What the server reports a parameter to be.
fn parameter_of<'p>(parameters: &'p [Parameter], name: &str) -> Option<&'p [u8]> {
    parameters.iter().find(|(own, _)| **own == *name.as_bytes()).map(|(_, value)| &**value)
}

impl Shard {
    /// Takes what whole messages there are; gives how many bytes they took.
    pub(super) fn on_login_bytes(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let (tag, body, len) = match frame::split(rest) {
                Ok(Some((message, _))) => (message.tag, message.body, message.bytes.len()),
                Ok(None) if rest.len() > MESSAGE_LEN_MAX => {
                    self.break_login(io, id, "it sent a login message that is too long");
                    return bytes.len();
                }
                Ok(None) => return at,
                Err(error) => {
                    self.break_login(io, id, &error.to_string());
                    return bytes.len();
                }
            };
            at += len;
            match self.on_login_message(io, id, tag, body) {
                Ok(true) => return at,
                Ok(false) => {}
                Err(Fault::Broken(what)) => {
                    self.break_login(io, id, &what);
                    return bytes.len();
                }
                Err(Fault::Lasting(what)) => {
                    self.refuse_login(io, id, what);
                    return bytes.len();
                }
            }
        }
    }

    /// Whether the login is done.
    fn on_login_message(&mut self, io: &mut World<'_>, id: ServerId, tag: u8, body: &[u8]) -> Result<bool, Fault> {
        let Some(server) = self.servers.get_mut(id) else { return Ok(true) };
        let Some(login) = server.login.as_mut() else { return Ok(true) };
        match tag {
            b'R' => {
                let request = Authentication::read(body).map_err(|error| error.to_string())?;
                let _step: Step =
                    login.auth.handle(request, io.output(server.socket)).map_err(|error| match error {
                        AuthError::Forbidden(_) => Fault::Lasting(error.to_string()),
                        AuthError::NoPassword
                        | AuthError::WrongKind
                        | AuthError::UnsupportedMethod
                        | AuthError::BadExchange => Fault::Broken(error.to_string()),
                    })?;
            }
            b'S' => {
                let (name, value) = backend::parameter_status(body).map_err(|error| error.to_string())?;
                server.set_parameter(name, value);
            }
            b'K' => {
                let (process_id, secret) = backend::backend_key_data(body).map_err(|error| error.to_string())?;
                server.key = Some((process_id, secret.to_vec()));
            }
            b'E' => {
                let fields = ErrorFields::new(body);
                let text = |code| String::from_utf8_lossy(fields.get(code).unwrap_or_default()).into_owned();
                login.refusal = Some(Refusal { sqlstate: text(b'C'), message: text(b'M') });
            }
            b'N' | b'v' => {}
            // the answer to connect_query, but not a COPY
            b'T' | b'D' | b'C' | b'I' if login.stage == Stage::ConnectQuery => {}
            b'Z' => return self.on_login_ready(io, id, body),
            other => return Err(Fault::Broken(format!("it sent '{}' during login", other.escape_ascii()))),
        }
        Ok(false)
    }

    /// Postgres waits for what comes next: `connect_query`, or the first client.
    fn on_login_ready(&mut self, io: &mut World<'_>, id: ServerId, body: &[u8]) -> Result<bool, Fault> {
        let Some(server) = self.servers.get_mut(id) else { return Ok(true) };
        let Some(login) = server.login.as_mut() else { return Ok(true) };
        if let Some(refusal) = login.refusal.take() {
            return Err(Fault::Broken(format!("connect_query failed: {} ({})", refusal.message, refusal.sqlstate)));
        }
        if body.first().copied().and_then(TransactionStatus::from_byte) != Some(TransactionStatus::Idle) {
            let what = match login.stage {
                Stage::Login => "it does not begin idle",
                Stage::ConnectQuery => "connect_query leaves a transaction open",
            };
            return Err(Fault::Broken(what.to_owned()));
        }
        if login.stage == Stage::Login
            && let Some(pool) = self.pools.get(server.pool.0 as usize)
            && let Some(why) = unfit(pool.target.attrs, |name| parameter_of(&server.parameters, name))
        {
            return Err(Fault::Broken(why.to_owned()));
        }
        if let Some(query) = login.connect_query.take() {
            login.stage = Stage::ConnectQuery;
            frontend::write_query(io.output(server.socket), query.as_bytes()).map_err(|error| error.to_string())?;
            return Ok(false);
        }
        server.login = None;
        server.give_up_at = None;
        server.opened_at = io.now();
        let pool = server.pool;
        let lifetime = self.pools.get(pool.0 as usize).map(|pool| pool.settings.server_lifetime);
        server.early = lifetime.unwrap_or_default().mul_f64(self.rng.f64() / 10.0);
        let parameters = server.parameters.clone().into();
        if let Some(pool) = self.pools.get_mut(pool.0 as usize) {
            pool.remember_welcome(0, parameters);
            pool.fates.succeeded(&server.address);
        }
        self.on_connect_done(pool);
        self.release(io, id);
        Ok(true)
    }

    fn break_login(&mut self, io: &mut World<'_>, id: ServerId, what: &str) {
        let Some(server) = self.servers.get(id) else { return };
        let pool = server.pool;
        io.close(server.socket);
        self.blame(io, id);
        self.on_connect_failed(io, pool, what.to_owned());
        self.move_to(id, List::Closing);
        self.forget_server(io, id);
    }

    /// We refuse to log in there: those who wait are told.
    fn refuse_login(&mut self, io: &mut World<'_>, id: ServerId, message: String) {
        let Some(server) = self.servers.get(id) else { return };
        let pool = server.pool;
        io.close(server.socket);
        self.on_login_refused(io, pool, Refusal { sqlstate: "28000".to_owned(), message });
        self.move_to(id, List::Closing);
        self.forget_server(io, id);
    }

    /// Postgres refused our login. For reasons that pass, it is tried again; otherwise those who wait are told.
    pub(super) fn on_login_refused(&mut self, io: &mut World<'_>, pool_id: PoolId, refusal: Refusal) {
        if refusal.sqlstate == "28P01" {
            self.forget_secret_of(pool_id);
        }
        let passing = refusal.is_passing();
        self.on_connect_failed(io, pool_id, format!("{} ({})", refusal.message, refusal.sqlstate));
        if passing {
            return;
        }
        let Some(pool) = self.pool_mut(pool_id) else { return };
        let address = pool.target.whereabouts();
        let last_error = pool.last_error.clone().unwrap_or_default();
        let waiting: Vec<SessionId> = pool.waiting.take_all();
        let refused = Failure::UpstreamRefused { sqlstate: refusal.sqlstate, message: refusal.message };
        let down = Failure::UpstreamDown { address, last_error };
        for id in waiting {
            let welcoming = self.sessions.get(id).is_some_and(|session| matches!(session.phase, Phase::Welcoming));
            self.fail_request(io, id, if welcoming { &refused } else { &down });
        }
    }
}
