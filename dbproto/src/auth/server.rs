//! Authenticating those who connect to us: MD5 and SCRAM-SHA-256, against the secrets PostgreSQL keeps in `rolpassword`.
//!
//! An unknown user gets a [`Secret::mock`]: the exchange then has the same steps, does the same work and fails in the same
//! words as one with a wrong password. Salts and nonces are arguments; nothing random is made here.
//!
//! Source: "SASL Authentication" in the protocol chapter, RFC 5802 section 5 and RFC 7677.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut as _, BytesMut};
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use crate::auth::keys::{Credentials, ScramKeys};
use crate::message::error::{ErrorReport, Severity, write_error};
use crate::message::{cstr, put_cstr, write_short};

const MECHANISM: &str = "SCRAM-SHA-256";
const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The binding header of a client that binds to the server's certificate (RFC 5929 section 4).
const HEADER_PLUS: &str = "p=tls-server-end-point,,";
/// Longest password message that is looked at.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Longest nonce of a client's that is accepted; drivers send 18 to 36 characters.
const NONCE_LEN_MAX: usize = 1024;
const SALT_LEN_MAX: usize = 1024;
/// PostgreSQL's `scram_iterations` unless it is changed; also what a mock secret claims.
pub const SCRAM_ITERATIONS: u32 = 4096;

/// What a user must prove to know. As `rolpassword` of `pg_authid` holds it.
#[derive(Clone)]
pub enum Secret {
    /// Nothing: the user is let in.
    Trust,
    /// `md5` and 32 hexadecimal digits: MD5 of password and user name.
    Md5(Md5Hash),
    /// A SCRAM-SHA-256 verifier.
    Scram(ScramVerifier),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "Trust",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
        })
    }
}

/// The methods that ask for a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// AuthenticationMD5Password.
    Md5,
    /// AuthenticationSASL with SCRAM-SHA-256.
    Scram,
}

impl Secret {
    /// Reads a `rolpassword`: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` or `md5<32 digits>`.
    ///
    /// # Errors
    /// [`SecretError`] for anything else, a password in clear text among it.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        if let Some(rest) = text.strip_prefix(MECHANISM).and_then(|rest| rest.strip_prefix('$')) {
            return ScramVerifier::parse(rest).map(Self::Scram).ok_or(SecretError::BadVerifier);
        }
        let digits = text.strip_prefix("md5").and_then(|digits| <[u8; 32]>::try_from(digits.as_bytes()).ok());
        match digits.filter(|digits| digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'))) {
            Some(digits) => Ok(Self::Md5(Md5Hash { digits, proves: 1 })),
            None => Err(SecretError::NotHashed),
        }
    }

    /// The secret of a user there is not. It can be asked for but never proven. `key` belongs to the server and must stay
    /// the same for its life, so that an unknown user is shown the same salt at every attempt, as a known one is.
    #[must_use]
    pub fn mock(method: Method, key: &[u8; 32], user: &[u8]) -> Self {
        let derive = |what: &[u8]| derive(key, what, user);
        match method {
            Method::Md5 => {
                Self::Md5(Md5Hash { digits: hex(derive(b"md5").first_chunk().unwrap_or(&[0; 16])), proves: 0 })
            }
            Method::Scram => Self::Scram(ScramVerifier {
                iterations: SCRAM_ITERATIONS,
                salt: salt_of(key, user).to_vec(),
                stored_key: derive(b"stored"),
                server_key: derive(b"server"),
                proves: 0,
            }),
        }
    }
}

fn derive(key: &[u8; 32], what: &[u8], user: &[u8]) -> [u8; 32] {
    hmac(key, &[what, b"\0", user])
}

/// The salt that a mock secret shows for a user. Verifiers that are made of passwords on the way should have it too, so that
/// nobody can tell one from the other.
#[must_use]
pub fn salt_of(key: &[u8; 32], user: &[u8]) -> [u8; 16] {
    *derive(key, b"salt", user).first_chunk().unwrap_or(&[0; 16])
}

/// The hash of an MD5 secret.
#[derive(Clone)]
pub struct Md5Hash {
    digits: [u8; 32],
    /// 0 in a mock: what it is compared with is ignored.
    proves: u8,
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(..)")
    }
}

/// What a server keeps of a SCRAM password (RFC 5802 section 3).
#[derive(Clone)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
    /// 0 in a mock: what it is compared with is ignored.
    proves: u8,
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(..)")
    }
}

impl ScramVerifier {
    fn parse(text: &str) -> Option<Self> {
        let (cost, keys) = text.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty() && salt.len() <= SALT_LEN_MAX)?;
        let iterations = iterations.parse::<i32>().ok().filter(|count| *count > 0)?;
        Some(Self {
            iterations: iterations.unsigned_abs(),
            salt,
            stored_key: BASE64.decode(stored_key).ok()?.try_into().ok()?,
            server_key: BASE64.decode(server_key).ok()?.try_into().ok()?,
            proves: 1,
        })
    }
}

/// Why a text is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretError {
    /// It begins like a SCRAM verifier and is none.
    BadVerifier,
    /// It is neither a verifier nor a hash: most likely the password itself.
    NotHashed,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadVerifier => "not a valid SCRAM-SHA-256 verifier",
            Self::NotHashed => "neither a SCRAM-SHA-256 verifier nor an MD5 hash",
        })
    }
}

impl std::error::Error for SecretError {}

/// The random part of one login; must be unpredictable and never the same twice.
#[derive(Clone, Copy)]
pub struct Challenge {
    /// Salt of an MD5 login.
    pub salt: [u8; 4],
    /// Our part of the SCRAM nonce, before base64.
    pub nonce: [u8; 18],
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenge(..)")
    }
}

/// Where a login stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// What was written must be sent; the client's next message must be a `p`.
    Continue,
    /// The client is who it says. What was written goes first, then AuthenticationOk, which is left to the caller.
    Done,
    /// It is not. The FATAL that says so has been written; send it and close.
    Failed,
}

/// One login of a client's.
pub struct ServerAuth {
    user: Vec<u8>,
    state: State,
    /// What a login that succeeded has shown.
    shown: Credentials,
}

impl fmt::Debug for ServerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerAuth")
    }
}

enum State {
    ExpectMd5 { hash: Md5Hash, salt: [u8; 4] },
    ExpectScramFirst { verifier: ScramVerifier, nonce: [u8; 18], channel: Option<Vec<u8>> },
    ExpectScramFinal(Box<ScramFinal>),
    Over,
}

/// What the first half of SCRAM leaves for the second.
struct ScramFinal {
    verifier: ScramVerifier,
    /// The client's binding header, and what it binds to, in base64.
    binding: String,
    /// Both sides' nonce.
    nonce: String,
    /// `client-first-message-bare "," server-first-message`.
    transcript: String,
}

impl ServerAuth {
    /// Begins a login: writes what asks for the proof. [`Step::Done`] at once for [`Secret::Trust`].
    #[must_use]
    pub fn start(secret: &Secret, user: &[u8], challenge: Challenge, out: &mut BytesMut) -> (Self, Step) {
        Self::start_bound(secret, user, challenge, None, out)
    }

    /// As [`ServerAuth::start`], over TLS: `channel` is what both sides know of it, the hash of our certificate
    /// (`tls-server-end-point`), to which a client may bind its proof.
    #[must_use]
    pub fn start_bound(
        secret: &Secret,
        user: &[u8],
        challenge: Challenge,
        channel: Option<&[u8]>,
        out: &mut BytesMut,
    ) -> (Self, Step) {
        let (state, step) = match secret {
            Secret::Trust => (State::Over, Step::Done),
            Secret::Md5(hash) => {
                write_request(out, 5, &challenge.salt);
                (State::ExpectMd5 { hash: hash.clone(), salt: challenge.salt }, Step::Continue)
            }
            Secret::Scram(verifier) => {
                write_short(out, b'R', |out| {
                    out.put_u32(10);
                    if channel.is_some() {
                        put_cstr(out, MECHANISM_PLUS.as_bytes());
                    }
                    put_cstr(out, MECHANISM.as_bytes());
                    out.put_u8(0);
                });
                let channel = channel.map(<[u8]>::to_vec);
                (
                    State::ExpectScramFirst { verifier: verifier.clone(), nonce: challenge.nonce, channel },
                    Step::Continue,
                )
            }
        };
        (Self { user: user.to_vec(), state, shown: Credentials::None }, step)
    }

    /// Whether the next message is what the login stands or falls with.
    #[must_use]
    pub fn awaits_proof(&self) -> bool {
        match self.state {
            State::ExpectMd5 { .. } | State::ExpectScramFinal(_) => true,
            State::ExpectScramFirst { .. } | State::Over => false,
        }
    }

    /// What a login that has succeeded has shown: enough to log in where the same secret is kept.
    #[must_use]
    pub fn take_credentials(&mut self) -> Credentials {
        std::mem::take(&mut self.shown)
    }

    /// Takes the body of a `p` message.
    pub fn handle_password(&mut self, body: &[u8], out: &mut BytesMut) -> Step {
        let next = if body.len() > MESSAGE_LEN_MAX {
            None
        } else {
            match std::mem::replace(&mut self.state, State::Over) {
                State::ExpectMd5 { hash, salt } => check_md5(&hash, salt, body).then(|| {
                    self.shown = Credentials::Md5(zeroize::Zeroizing::new(hash.digits));
                    State::Over
                }),
                State::ExpectScramFirst { verifier, nonce, channel } => {
                    scram_first(verifier, (nonce, channel), body, out)
                }
                State::ExpectScramFinal(scram) => scram_final(&scram, body, out).map(|keys| {
                    self.shown = Credentials::Scram(keys);
                    State::Over
                }),
                State::Over => None,
            }
        };
        match next {
            Some(State::Over) => Step::Done,
            Some(state) => {
                self.state = state;
                Step::Continue
            }
            None => {
                self.state = State::Over;
                write_refusal(out, &self.user);
                Step::Failed
            }
        }
    }
}

/// Appends the FATAL 28P01 of a failed login: the same words whatever was wrong.
pub fn write_refusal(out: &mut BytesMut, user: &[u8]) {
    let message = format!("password authentication failed for user \"{}\"", String::from_utf8_lossy(user));
    let report =
        ErrorReport { severity: Severity::Fatal, sqlstate: "28P01", message: &message, detail: None, hint: None };
    write_error(out, &report);
}

/// Appends AuthenticationCleartextPassword.
pub fn write_cleartext_request(out: &mut BytesMut) {
    write_request(out, 3, b"");
}

fn write_request(out: &mut BytesMut, code: u32, data: &[u8]) {
    write_short(out, b'R', |out| {
        out.put_u32(code);
        out.extend_from_slice(data);
    });
}

fn check_md5(hash: &Md5Hash, salt: [u8; 4], body: &[u8]) -> bool {
    let Ok((answer, [])) = cstr(body) else { return false };
    let mut md5 = Md5::new();
    md5.update(hash.digits);
    md5.update(salt);
    let right: [u8; 32] = hex(&md5.finalize().into());
    let equal = answer.strip_prefix(b"md5").map_or_else(|| Choice::from(0), |digits| right.ct_eq(digits));
    bool::from(equal & Choice::from(hash.proves))
}

/// `client-first-message` in, `server-first-message` out.
fn scram_first(
    verifier: ScramVerifier,
    (nonce, channel): ([u8; 18], Option<Vec<u8>>),
    body: &[u8],
    out: &mut BytesMut,
) -> Option<State> {
    let (mechanism, rest) = cstr(body).ok()?;
    let (len, data) = rest.split_first_chunk::<4>()?;
    let headers: &[&str] = match &channel {
        Some(_) if mechanism == MECHANISM_PLUS.as_bytes() => &[HEADER_PLUS],
        // "y" says that the client would bind if we could: we can, so somebody between us has changed what was offered
        Some(_) if mechanism == MECHANISM.as_bytes() => &["n,,"],
        None if mechanism == MECHANISM.as_bytes() => &["n,,", "y,,"],
        Some(_) | None => return None,
    };
    if usize::try_from(u32::from_be_bytes(*len)) != Ok(data.len()) {
        return None;
    }
    let (header, bare, client_nonce) = read_client_first(data, headers)?;
    let nonce = format!("{client_nonce}{}", BASE64.encode(nonce));
    let reply = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
    write_request(out, 11, reply.as_bytes());
    let transcript = format!("{bare},{reply}");
    let bound = channel.filter(|_| header == HEADER_PLUS).unwrap_or_default();
    let binding = BASE64.encode([header.as_bytes(), &bound].concat());
    Some(State::ExpectScramFinal(Box::new(ScramFinal { verifier, binding, nonce, transcript })))
}

/// The binding header, what follows it, and the nonce (RFC 5802 section 7, `client-first-message`).
fn read_client_first<'a>(data: &'a [u8], headers: &[&'a str]) -> Option<(&'a str, &'a str, &'a str)> {
    let text = read_text(data)?;
    // an authorization identity is not spoken, as in PostgreSQL
    let header = headers.iter().copied().find(|header| text.starts_with(header))?;
    let bare = text.strip_prefix(header)?;
    // the user was named in the start-up message; this one is ignored, as in PostgreSQL
    let (_user, rest) = bare.strip_prefix("n=")?.split_once(',')?;
    let mut attributes = rest.split(',');
    let nonce = attributes.next()?.strip_prefix("r=")?;
    let printable = nonce.bytes().all(|byte| byte.is_ascii_graphic());
    let sound = printable && !nonce.is_empty() && nonce.len() <= NONCE_LEN_MAX && attributes.all(is_attribute);
    sound.then_some((header, bare, nonce))
}

/// `client-final-message` in, `server-final-message` out, and the keys that the client has shown.
fn scram_final(scram: &ScramFinal, body: &[u8], out: &mut BytesMut) -> Option<ScramKeys> {
    let text = read_text(body)?;
    let (unproven, proof) = text.rsplit_once(",p=")?;
    let mut attributes = unproven.split(',');
    let binding = attributes.next()?.strip_prefix("c=")?;
    let nonce = attributes.next()?.strip_prefix("r=")?;
    let proof: [u8; 32] = BASE64.decode(proof).ok()?.try_into().ok()?;
    if binding != scram.binding || nonce != scram.nonce || !attributes.all(is_attribute) {
        return None;
    }
    let verifier = &scram.verifier;
    let message: [&[u8]; 3] = [scram.transcript.as_bytes(), b",", unproven.as_bytes()];
    let mut client_key = hmac(&verifier.stored_key, &message);
    client_key.iter_mut().zip(proof).for_each(|(byte, other)| *byte ^= other);
    let stored_key: [u8; 32] = Sha256::digest(client_key).into();
    let server_signature = BASE64.encode(hmac(&verifier.server_key, &message));
    if !bool::from(stored_key.ct_eq(&verifier.stored_key) & Choice::from(verifier.proves)) {
        return None;
    }
    write_request(out, 12, format!("v={server_signature}").as_bytes());
    Some(ScramKeys::new(client_key, verifier.server_key))
}

/// Whether a password in clear text is the one that belongs to a secret. Hashes as long as the secret asks for, so it has no
/// place where others wait.
#[must_use]
pub fn check_password(secret: &Secret, user: &[u8], password: &[u8]) -> bool {
    match secret {
        Secret::Trust => true,
        Secret::Md5(hash) => {
            let mut md5 = Md5::new();
            md5.update(password);
            md5.update(user);
            let digits: [u8; 32] = hex(&md5.finalize().into());
            bool::from(digits.ct_eq(&hash.digits) & Choice::from(hash.proves))
        }
        Secret::Scram(verifier) => {
            let text = std::str::from_utf8(password).ok();
            let normalised = text.and_then(|text| stringprep::saslprep(text).ok());
            let bytes = normalised.as_ref().map_or(password, |text| text.as_bytes());
            let mut salted = zeroize::Zeroizing::new([0; 32]);
            pbkdf2::pbkdf2_hmac::<Sha256>(bytes, &verifier.salt, verifier.iterations, &mut *salted);
            let stored_key: [u8; 32] = Sha256::digest(hmac(&salted, &[b"Client Key"])).into();
            bool::from(stored_key.ct_eq(&verifier.stored_key) & Choice::from(verifier.proves))
        }
    }
}

fn read_text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok().filter(|text| !text.contains('\0'))
}

/// An extension that may be ignored: `x=value`. `m=` must be understood, and is not.
fn is_attribute(text: &str) -> bool {
    match text.as_bytes() {
        [b'm', ..] => false,
        [name, b'=', _, ..] => name.is_ascii_alphabetic(),
        _ => false,
    }
}

pub(super) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // a key of 32 bytes is one block at most, which HMAC-SHA-256 pads and does not hash
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8; 16]) -> [u8; 32] {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).and_then(|c| u8::try_from(c).ok()).unwrap_or(b'0');
    let mut out = [0; 32];
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    out
}

/// The SCRAM-SHA-256 verifier of a password, as PostgreSQL's `rolpassword` holds it. The password is normalised by
/// SASLprep where that is possible and taken as it is where not, as in PostgreSQL.
#[must_use]
pub fn build_scram_verifier(password: &str, salt: &[u8], iterations: u32) -> String {
    let normalised = stringprep::saslprep(password).unwrap_or_else(|_| password.into());
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(normalised.as_bytes(), salt, iterations, &mut salted);
    let stored_key = Sha256::digest(hmac(&salted, &[b"Client Key"]));
    let server_key = hmac(&salted, &[b"Server Key"]);
    let [salt, stored_key, server_key] = [salt, &stored_key, &server_key].map(|bytes| BASE64.encode(bytes));
    format!("{MECHANISM}${iterations}:{salt}${stored_key}:{server_key}")
}

/// The MD5 hash of a password, as PostgreSQL's `rolpassword` holds it.
#[must_use]
pub fn build_md5(password: &str, user: &str) -> String {
    let mut md5 = Md5::new();
    md5.update(password);
    md5.update(user);
    let digits = hex(&md5.finalize().into());
    format!("md5{}", digits.map(char::from).iter().collect::<String>())
}

#[cfg(test)]
mod tests;
