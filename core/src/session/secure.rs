//! Encryption towards a client: asked for, begun, refused or demanded.

use config::TlsMode;
use runtime::{Agreed, TlsSide};

use crate::error::Failure;
use crate::session::{Session, SessionId};
use crate::shard::{Shard, World};
use crate::tls::{ALPN, Clients, certified_name};

/// The first byte of a TLS handshake; no start-up packet begins with it.
pub(super) const HANDSHAKE: u8 = 0x16;

/// What a client's bytes travel in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// Nothing but TCP or the Unix socket; what the client has asked for and was refused.
    Clear(Asked),
    /// A handshake is under way.
    Handshaking(Approach),
    /// TLS.
    Secured,
}

/// Which requests for encryption have been refused: each may be made once, as in PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Nothing,
    Ssl,
    GssEnc,
    Both,
}

/// How a client came to TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Approach {
    /// By an SSLRequest.
    Negotiated,
    /// At once; then it must say that it means PostgreSQL (ALPN).
    Direct,
}

/// A request for encryption.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Ssl,
    GssEnc,
}

impl Asked {
    /// What it is after one more; none when that one was made before.
    fn and(self, request: Request) -> Option<Self> {
        match (self, request) {
            (Self::Nothing, Request::Ssl) => Some(Self::Ssl),
            (Self::Nothing, Request::GssEnc) => Some(Self::GssEnc),
            (Self::GssEnc, Request::Ssl) | (Self::Ssl, Request::GssEnc) => Some(Self::Both),
            (Self::Ssl, Request::Ssl) | (Self::GssEnc, Request::GssEnc) | (Self::Both, _) => None,
        }
    }
}

impl Shard {
    /// Answers a request for encryption with which nothing else came.
    pub(super) fn on_encryption_request(&mut self, io: &mut World<'_>, id: SessionId, request: Request) {
        let tls = self.tls.clients.clone();
        let Some(session) = self.sessions.get_mut(id) else { return };
        let asked = match session.transport {
            Transport::Clear(asked) => asked.and(request),
            Transport::Handshaking(_) | Transport::Secured => None,
        };
        let Some(asked) = asked else {
            let code = if request == Request::Ssl { "1234.5679" } else { "1234.5680" };
            let what = format!("unsupported frontend protocol {code}: server supports 3.0 to 3.2");
            self.end_session(io, id, Some(&Failure::Unsupported { what }));
            return;
        };
        // who is on this machine needs none
        let wanted = request == Request::Ssl && session.peer.is_some();
        match tls.filter(|_| wanted) {
            Some(tls) => {
                io.output(session.socket).extend_from_slice(b"S");
                self.begin_tls(io, id, Approach::Negotiated, (tls, &[]));
            }
            None => {
                session.transport = Transport::Clear(asked);
                io.output(session.socket).extend_from_slice(b"N");
            }
        }
    }

    /// A client that begins with a handshake; gives whether TLS is spoken here.
    pub(super) fn on_direct_tls(&mut self, io: &mut World<'_>, id: SessionId, received: &[u8]) -> bool {
        let Some(tls) = self.tls.clients.clone() else { return false };
        let Some(session) = self.sessions.get(id) else { return false };
        if session.peer.is_none() || session.transport != Transport::Clear(Asked::Nothing) {
            return false;
        }
        self.begin_tls(io, id, Approach::Direct, (tls, received));
        true
    }

    fn begin_tls(&mut self, io: &mut World<'_>, id: SessionId, approach: Approach, (tls, received): (Clients, &[u8])) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.transport = Transport::Handshaking(approach);
        session.channel = tls.channel;
        if let Err(error) = io.start_tls(session.socket, TlsSide::Server(tls.config), received) {
            tracing::error!(%error, "TLS cannot be spoken with clients");
            self.end_session(io, id, None);
        }
    }

    /// A client's handshake is complete.
    pub(crate) fn on_client_secured(&mut self, io: &mut World<'_>, id: SessionId, agreed: &Agreed) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.certified = agreed.certificate.as_deref().and_then(certified_name);
        let before = std::mem::replace(&mut session.transport, Transport::Secured);
        if before == Transport::Handshaking(Approach::Direct) && agreed.alpn.as_deref() != Some(ALPN) {
            let what = "received direct TLS connection request without ALPN protocol negotiation extension".to_owned();
            self.end_session(io, id, Some(&Failure::Protocol { what }));
        }
    }
}

/// Whether a client may log in over what its bytes travel in.
pub(super) fn judge_transport(session: &Session, mode: TlsMode) -> Result<(), Failure> {
    match mode {
        TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer => Ok(()),
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let may = session.peer.is_none() || session.transport == Transport::Secured;
            may.then_some(()).ok_or(Failure::TlsRequired)
        }
    }
}
