//! Encryption towards PostgreSQL: which way a connection goes, what PostgreSQL answers, the other way where that fails.

use std::sync::Arc;

use config::TlsMode;
use dbproto::startup;
use runtime::{Agreed, SocketId, TlsSide};

use crate::pipe::{List, ServerId};
use crate::pool::{Pool, PoolId};
use crate::server::login::Refusal;
use crate::shard::{Shard, World};
use crate::tls::binding::end_point;
use crate::tls::{TlsState, Upstream};

/// How far a connection to PostgreSQL has come with TLS.
#[derive(Clone, Debug)]
pub(crate) enum Hop {
    /// There is none.
    Clear,
    /// PostgreSQL has been, or will be, asked for it.
    Asking(Arc<Upstream>),
    /// A handshake is under way.
    Handshaking(Arc<Upstream>),
    /// It is encrypted.
    Secured(Arc<Upstream>),
}

/// Which way a pool's connections go where both are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Way {
    /// The one that the mode puts first.
    #[default]
    First,
    /// The other one, because the first did not do.
    Second,
}

/// What PostgreSQL says to an SSLRequest.
pub(crate) enum Answer {
    /// The handshake has begun.
    Begun,
    /// It knows no TLS and need not.
    Clear,
    /// The connection is of no use.
    Failed(String),
}

impl Hop {
    /// Where a new connection begins.
    pub(crate) fn first(tls: Option<&Arc<Upstream>>, way: Way) -> Self {
        match tls {
            None => Self::Clear,
            Some(tls) => match (tls.mode, way) {
                (TlsMode::Disable, _) | (TlsMode::Allow, Way::First) | (TlsMode::Prefer, Way::Second) => Self::Clear,
                (TlsMode::Allow, Way::Second)
                | (TlsMode::Prefer, Way::First)
                | (TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull, _) => Self::Asking(Arc::clone(tls)),
            },
        }
    }

    /// As another connection to the same server that is as well protected begins.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Clear => Self::Clear,
            Self::Asking(tls) | Self::Handshaking(tls) | Self::Secured(tls) => Self::Asking(Arc::clone(tls)),
        }
    }

    /// PostgreSQL was asked for TLS and has said this.
    pub(crate) fn on_answer(&mut self, io: &mut World<'_>, socket: SocketId, bytes: &[u8]) -> Answer {
        let Self::Asking(tls) = self else { return Answer::Failed("it spoke out of turn".to_owned()) };
        match (bytes, tls.mode.is_required()) {
            // what comes behind the answer in clear is not PostgreSQL's
            ([b'S' | b'N', _, ..], _) => {
                Answer::Failed("unencrypted data came behind its answer to the request for TLS".to_owned())
            }
            ([b'S'], _) => {
                let side = TlsSide::Client(Arc::clone(&tls.config), tls.name.clone());
                match io.start_tls(socket, side, &[]) {
                    Ok(()) => {
                        *self = Self::Handshaking(Arc::clone(tls));
                        Answer::Begun
                    }
                    Err(error) => Answer::Failed(format!("TLS failed: {error}")),
                }
            }
            ([b'N'], false) => {
                *self = Self::Clear;
                Answer::Clear
            }
            ([b'N'], true) => Answer::Failed(format!("it does not speak TLS, and tls = \"{}\"", tls.mode.name())),
            // whoever says it, it is not encrypted: its words are nobody's
            ([b'E', ..], _) => Answer::Failed("it answered the request for TLS with an error".to_owned()),
            _ => Answer::Failed("its answer to the request for TLS makes no sense".to_owned()),
        }
    }

    /// The handshake is complete.
    pub(crate) fn on_secured(&mut self) {
        if let Self::Handshaking(tls) = self {
            *self = Self::Secured(Arc::clone(tls));
        }
    }
}

impl Shard {
    /// The socket is connected, or said that it speaks no TLS: what goes out first.
    pub(super) fn open_login(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        let Some(pool) = self.pools.get(server.pool.0 as usize) else { return };
        match &server.hop {
            Hop::Asking(_) => startup::write_ssl_request(io.output(server.socket)),
            Hop::Clear | Hop::Secured(_) => {
                let mut parameters: Vec<(&[u8], &[u8])> =
                    vec![(b"user", pool.target.user.as_bytes()), (b"database", pool.target.database.as_bytes())];
                let settings = pool.target.settings.iter();
                parameters.extend(settings.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
                startup::write_startup(io.output(server.socket), &parameters);
            }
            Hop::Handshaking(_) => {}
        }
    }

    /// PostgreSQL answers an SSLRequest.
    pub(super) fn on_tls_answer(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let socket = server.socket;
        match server.hop.on_answer(io, socket, bytes) {
            Answer::Begun => {}
            Answer::Clear => self.open_login(io, id),
            Answer::Failed(what) => {
                io.close(socket);
                self.on_tls_failed(io, id, what);
                self.move_to(id, List::Closing);
                self.forget_server(io, id);
            }
        }
    }

    /// The handshake with PostgreSQL is complete.
    pub(crate) fn on_server_secured(&mut self, io: &mut World<'_>, id: ServerId, agreed: &Agreed) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.hop.on_secured();
        if let Some(login) = server.login.as_mut()
            && let Some(channel) = agreed.certificate.as_deref().and_then(end_point)
        {
            login.auth.bind(channel);
        }
        self.open_login(io, id);
    }

    /// TLS with PostgreSQL did not come about: it goes on in clear where that is allowed, and otherwise those who wait are told.
    pub(super) fn on_tls_failed(&mut self, io: &mut World<'_>, id: ServerId, what: String) {
        let Some(server) = self.servers.get(id) else { return };
        let (pool_id, address) = (server.pool, server.address.to_string());
        if self.turn_way(pool_id, Tried::Secured) {
            self.on_connect_failed(io, pool_id, what);
            return;
        }
        self.blame(io, id);
        if self.has_another_place(io, pool_id) {
            self.on_connect_failed(io, pool_id, what);
            return;
        }
        let message = format!("cannot connect to PostgreSQL at {address}: {what}");
        self.on_login_refused(io, pool_id, Refusal { sqlstate: "08006".to_owned(), message });
    }

    /// One way has failed: gives whether the other one is tried now.
    pub(super) fn turn_way(&mut self, pool_id: PoolId, tried: Tried) -> bool {
        let Some(pool) = self.pool_mut(pool_id) else { return false };
        let mode = pool.target.tls_mode();
        let turns = matches!((mode, tried), (TlsMode::Allow, Tried::Clear) | (TlsMode::Prefer, Tried::Secured));
        let turns = turns && pool.way == Way::First;
        pool.way = if turns { Way::Second } else { Way::First };
        turns
    }

    /// Certificates have changed: connections made from now on use the new ones.
    pub(crate) fn on_tls_state(&mut self, state: Arc<TlsState>) {
        for pool in &mut self.pools {
            renew(pool, &state);
        }
        self.tls = state;
    }
}

fn renew(pool: &mut Pool, state: &TlsState) {
    pool.target.tls = state.servers.get(pool.database.0).cloned().unwrap_or_default();
}

/// What a failed attempt went by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tried {
    Clear,
    Secured,
}

impl Tried {
    pub(super) fn of(hop: &Hop) -> Self {
        match hop {
            Hop::Clear => Self::Clear,
            Hop::Asking(_) | Hop::Handshaking(_) | Hop::Secured(_) => Self::Secured,
        }
    }
}
