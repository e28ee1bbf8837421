//! Logging in to a Postgres server: trust, clear text, MD5, SCRAM-SHA-256.
//!
//! Source: "Authentication" in the protocol chapter, RFC 5802 and RFC 7677. The exchange itself is postgres-protocol's.

use std::fmt;

use bytes::{BufMut as _, BytesMut};
use md5::{Digest as _, Md5};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};

use crate::auth::keys::{Credentials, KeyExchange};
use crate::message::backend::Authentication;
use crate::message::{frontend, put_cstr};

/// Why a login cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthError {
    /// The server asks for a password and there is none.
    NoPassword,
    /// What is known instead of a password does not fit the method the server asks for.
    WrongKind,
    /// The server asks for a method that is not spoken here.
    UnsupportedMethod,
    /// The server's message fits no step of the exchange, or its proof is wrong.
    BadExchange,
    /// The server asks for this, and must not.
    Forbidden(Proof),
}

/// What a server may ask for before it lets us in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Nothing.
    None,
    /// The password in clear.
    Password,
    /// MD5.
    Md5,
    /// SCRAM-SHA-256, bound to the connection or not.
    Scram,
}

/// Some of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proofs(u8);

impl Proofs {
    /// All.
    pub const ALL: Self = Self(0b1111);

    /// Those of all that `allowed` is true of.
    #[must_use]
    pub fn of(allowed: impl Fn(Proof) -> bool) -> Self {
        let all = [Proof::None, Proof::Password, Proof::Md5, Proof::Scram];
        Self(all.into_iter().filter(|proof| allowed(*proof)).fold(0, |bits, proof| bits | proof.bit()))
    }
}

impl Proof {
    const fn bit(self) -> u8 {
        match self {
            Self::None => 1,
            Self::Password => 2,
            Self::Md5 => 4,
            Self::Scram => 8,
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPassword => "the server asks for a password and none is configured",
            Self::WrongKind => {
                "the server asks for another proof than the keys that the client's login has shown; a password is needed"
            }
            Self::UnsupportedMethod => "the server asks for an authentication method that is not supported",
            Self::BadExchange => "the server broke the authentication exchange",
            Self::Forbidden(Proof::None) => "the server asks for no proof, which require_auth does not allow",
            Self::Forbidden(Proof::Password) => {
                "the server asks for the password in clear, which require_auth does not allow"
            }
            Self::Forbidden(Proof::Md5) => "the server asks for MD5, which require_auth does not allow",
            Self::Forbidden(Proof::Scram) => "the server asks for SCRAM-SHA-256, which require_auth does not allow",
        })
    }
}

impl std::error::Error for AuthError {}

/// Most rounds of hashing that a server may ask for: about 50 ms of a core. PostgreSQL's own count is 4096.
const ITERATIONS_MAX: u32 = 100_000;

/// Whether a login has been accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// What was written, if anything, must be sent; the server speaks next.
    Continue,
    /// AuthenticationOk.
    Done,
}

/// One login.
pub struct ClientAuth {
    user: Vec<u8>,
    credentials: Credentials,
    /// Our part of the nonce where there are keys and no password.
    nonce: [u8; 18],
    channel: Option<Vec<u8>>,
    scram: Option<ScramSha256>,
    by_keys: Option<KeyExchange>,
    proven: bool,
    allowed: Proofs,
    /// What the server has asked for so far.
    asked: Proof,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientAuth")
    }
}

impl ClientAuth {
    /// A login of `user`.
    #[must_use]
    pub fn new(user: &[u8], password: Option<&[u8]>) -> Self {
        // without keys there is no use for a nonce of ours
        Self::with(user, Credentials::of_password(password), [0; 18])
    }

    /// A login of `user` with whatever there is; the nonce must be unpredictable and never the same twice.
    #[must_use]
    pub fn with(user: &[u8], credentials: Credentials, nonce: [u8; 18]) -> Self {
        Self {
            user: user.to_vec(),
            credentials,
            nonce,
            channel: None,
            scram: None,
            by_keys: None,
            proven: false,
            allowed: Proofs::ALL,
            asked: Proof::None,
        }
    }

    /// The server may ask for nothing but these.
    #[must_use]
    pub fn allowing(mut self, proofs: Proofs) -> Self {
        self.allowed = proofs;
        self
    }

    /// The server asks for this, or has asked for it and is content.
    fn allow(&self, proof: Proof) -> Result<(), AuthError> {
        if self.allowed.0 & proof.bit() == 0 { Err(AuthError::Forbidden(proof)) } else { Ok(()) }
    }

    /// The login goes over TLS: `channel` is the hash of the server's certificate (`tls-server-end-point`), to which the proof
    /// is bound if the server can do that and there is a password.
    pub fn bind(&mut self, channel: Vec<u8>) {
        self.channel = Some(channel);
    }

    fn password(&self) -> Result<&[u8], AuthError> {
        match &self.credentials {
            Credentials::Password(password) => Ok(password),
            Credentials::None => Err(AuthError::NoPassword),
            Credentials::Md5(_) | Credentials::Scram(_) => Err(AuthError::WrongKind),
        }
    }

    /// Answers a request of the server's.
    ///
    /// # Errors
    /// When the login cannot go on; the connection must be closed.
    pub fn handle(&mut self, request: Authentication<'_>, out: &mut BytesMut) -> Result<Step, AuthError> {
        self.asked = match request {
            Authentication::Cleartext => Proof::Password,
            Authentication::Md5 { .. } => Proof::Md5,
            Authentication::Sasl { .. } => Proof::Scram,
            Authentication::Ok
            | Authentication::SaslContinue { .. }
            | Authentication::SaslFinal { .. }
            | Authentication::Other(_) => self.asked,
        };
        self.allow(self.asked)?;
        match request {
            // a server that began SCRAM must prove itself before it is believed
            Authentication::Ok if (self.scram.is_some() || self.by_keys.is_some()) && !self.proven => {
                Err(AuthError::BadExchange)
            }
            Authentication::Ok => Ok(Step::Done),
            Authentication::Cleartext => {
                let password = self.password()?;
                send(out, |body| put_cstr(body, password))
            }
            Authentication::Md5 { salt } => {
                let hash = match &self.credentials {
                    Credentials::Md5(digits) => salt_md5(digits, salt),
                    Credentials::None | Credentials::Password(_) | Credentials::Scram(_) => {
                        md5_hash(&self.user, self.password()?, salt)
                    }
                };
                send(out, |body| put_cstr(body, hash.as_bytes()))
            }
            Authentication::Sasl { mechanisms } => self.begin_scram(mechanisms, out),
            Authentication::SaslContinue { data } if let Some(exchange) = &mut self.by_keys => {
                let message = exchange.answer(data).ok_or(AuthError::BadExchange)?;
                send(out, |body| body.extend_from_slice(message.as_bytes()))
            }
            Authentication::SaslContinue { data } => {
                let scram = self.scram.as_mut().ok_or(AuthError::BadExchange)?;
                if iterations(data).is_none_or(|count| count > ITERATIONS_MAX) {
                    return Err(AuthError::BadExchange);
                }
                scram.update(data).map_err(|_| AuthError::BadExchange)?;
                let message = scram.message().to_vec();
                send(out, |body| body.extend_from_slice(&message))
            }
            Authentication::SaslFinal { data } if let Some(exchange) = &self.by_keys => {
                self.proven = exchange.is_proven(data);
                if self.proven { Ok(Step::Continue) } else { Err(AuthError::BadExchange) }
            }
            Authentication::SaslFinal { data } => {
                let scram = self.scram.as_mut().ok_or(AuthError::BadExchange)?;
                scram.finish(data).map_err(|_| AuthError::BadExchange)?;
                self.proven = true;
                Ok(Step::Continue)
            }
            Authentication::Other(_) => Err(AuthError::UnsupportedMethod),
        }
    }

    fn begin_scram(&mut self, mechanisms: &[u8], out: &mut BytesMut) -> Result<Step, AuthError> {
        if self.scram.is_some() || self.by_keys.is_some() {
            return Err(AuthError::BadExchange);
        }
        let offers = |wanted: &str| mechanisms.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes());
        let (mechanism, message) = if let Credentials::Scram(keys) = &self.credentials {
            if !offers(SCRAM_SHA_256) {
                return Err(AuthError::UnsupportedMethod);
            }
            let exchange = self.by_keys.insert(KeyExchange::new(keys.clone(), self.nonce));
            (SCRAM_SHA_256, exchange.first().into_bytes())
        } else {
            let (mechanism, binding) = match &self.channel {
                Some(channel) if offers(SCRAM_SHA_256_PLUS) => {
                    (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(channel.clone()))
                }
                _ if !offers(SCRAM_SHA_256) => return Err(AuthError::UnsupportedMethod),
                // a server that did offer it, whatever came through to us, refuses this
                Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
                None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
            };
            let scram = ScramSha256::new(self.password()?, binding);
            (mechanism, self.scram.insert(scram).message().to_vec())
        };
        send(out, |body| {
            put_cstr(body, mechanism.as_bytes());
            body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            body.extend_from_slice(&message);
        })
    }
}

/// The answer to an MD5 request when only the hash is known.
fn salt_md5(digits: &[u8; 32], salt: [u8; 4]) -> String {
    let mut md5 = Md5::new();
    md5.update(digits);
    md5.update(salt);
    let salted: [u8; 16] = md5.finalize().into();
    salted.iter().fold("md5".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The iteration count of a `server-first-message` (RFC 5802 section 7).
fn iterations(data: &[u8]) -> Option<u32> {
    let count = data.split(|byte| *byte == b',').find_map(|attribute| attribute.strip_prefix(b"i="))?;
    std::str::from_utf8(count).ok()?.parse().ok()
}

fn send(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) -> Result<Step, AuthError> {
    let mut body = BytesMut::new();
    write(&mut body);
    frontend::write_password(out, &body).map_err(|_| AuthError::BadExchange)?;
    Ok(Step::Continue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_given_only_when_there_is_one() {
        let mut out = BytesMut::new();
        let mut auth = ClientAuth::new(b"a", None);
        assert_eq!(auth.handle(Authentication::Cleartext, &mut out), Err(AuthError::NoPassword));
        assert_eq!(auth.handle(Authentication::Ok, &mut out), Ok(Step::Done));
        assert!(out.is_empty());
        let mut auth = ClientAuth::new(b"a", Some(b"secret"));
        assert_eq!(auth.handle(Authentication::Cleartext, &mut out), Ok(Step::Continue));
        assert_eq!(&out[..], b"p\0\0\0\x0bsecret\0");
    }

    #[test]
    fn m02_a_server_that_began_scram_must_prove_itself() {
        let mut out = BytesMut::new();
        let mut auth = ClientAuth::new(b"a", Some(b"secret"));
        let offer = Authentication::Sasl { mechanisms: b"SCRAM-SHA-256\0\0" };
        assert_eq!(auth.handle(offer, &mut out), Ok(Step::Continue));
        assert_eq!(auth.handle(Authentication::Ok, &mut out), Err(AuthError::BadExchange));
        let wrong = Authentication::SaslContinue { data: b"r=x,s=eA==,i=4096" };
        assert_eq!(auth.handle(wrong, &mut out), Err(AuthError::BadExchange));
    }

    #[test]
    fn m02_a_server_cannot_ask_for_hours_of_hashing() {
        let offer = Authentication::Sasl { mechanisms: b"SCRAM-SHA-256\0\0" };
        for count in ["2147483647", "100001", "4294967296", "-1", ""] {
            let mut out = BytesMut::new();
            let mut auth = ClientAuth::new(b"a", Some(b"secret"));
            assert_eq!(auth.handle(offer, &mut out), Ok(Step::Continue));
            let nonce = out[..].split(|byte| *byte == b',').find_map(|part| part.strip_prefix(b"r=")).unwrap();
            let first = [b"r=", nonce, b"x,s=eA==,i=", count.as_bytes()].concat();
            let answer = auth.handle(Authentication::SaslContinue { data: &first }, &mut BytesMut::new());
            assert_eq!(answer, Err(AuthError::BadExchange), "{count}");
        }
    }

    #[test]
    fn m02_a_server_learns_nothing_by_a_method_that_it_must_not_ask_for() {
        let only_scram = Proofs::of(|proof| proof == Proof::Scram);
        let login = || ClientAuth::new(b"a", Some(b"secret")).allowing(only_scram);
        for (request, proof) in [
            (Authentication::Ok, Proof::None),
            (Authentication::Cleartext, Proof::Password),
            (Authentication::Md5 { salt: [0; 4] }, Proof::Md5),
        ] {
            let mut out = BytesMut::new();
            assert_eq!(login().handle(request, &mut out), Err(AuthError::Forbidden(proof)));
            assert!(out.is_empty());
        }
        let offer = Authentication::Sasl { mechanisms: b"SCRAM-SHA-256\0\0" };
        let mut auth = login();
        assert_eq!(auth.handle(offer, &mut BytesMut::new()), Ok(Step::Continue));
        // one that it has begun does not excuse another
        let mut out = BytesMut::new();
        assert_eq!(auth.handle(Authentication::Cleartext, &mut out), Err(AuthError::Forbidden(Proof::Password)));
        assert!(out.is_empty());
        let mut auth = ClientAuth::new(b"a", Some(b"secret")).allowing(Proofs::of(|proof| proof != Proof::Scram));
        assert_eq!(auth.handle(offer, &mut out), Err(AuthError::Forbidden(Proof::Scram)));
    }

    #[test]
    fn an_unknown_method_is_refused() {
        let mut out = BytesMut::new();
        let mut auth = ClientAuth::new(b"a", Some(b"secret"));
        assert_eq!(auth.handle(Authentication::Other(7), &mut out), Err(AuthError::UnsupportedMethod));
        let offer = Authentication::Sasl { mechanisms: b"NEWER\0\0" };
        assert_eq!(auth.handle(offer, &mut out), Err(AuthError::UnsupportedMethod));
    }
}
