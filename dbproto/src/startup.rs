//! The first packets of a connection: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.
//!
//! Source: "Message Formats" of the protocol chapter. These packets have no tag; the limit of 10,000 bytes is Postgres'.

use std::fmt;

use bytes::{BufMut as _, BytesMut};

/// The largest start-up packet, as in Postgres.
pub const LEN_MAX: u32 = 10_000;
const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;
/// Longest secret of a cancel key (protocol 3.2).
pub const SECRET_LEN_MAX: usize = 256;
/// The newest minor version of protocol 3 that is spoken here.
pub const MINOR_MAX: u16 = 2;

/// A start-up packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Startup<'a> {
    /// The client asks for TLS.
    Ssl,
    /// The client asks for GSSAPI encryption.
    GssEnc,
    /// The client asks for another connection's statement to be cancelled.
    Cancel {
        /// The process id of that connection's BackendKeyData.
        process_id: u32,
        /// Its secret.
        secret: &'a [u8],
    },
    /// The client begins a session.
    Start(StartupMessage<'a>),
}

/// A StartupMessage: protocol version and parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartupMessage<'a> {
    /// Major protocol version.
    pub major: u16,
    /// Minor protocol version.
    pub minor: u16,
    /// Name, NUL, value, NUL ...; checked to be complete pairs for protocol 3.
    pairs: &'a [u8],
}

/// Why bytes are no start-up packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartupError {
    /// The length word is outside 8 ..= [`LEN_MAX`], or not the one its request code has.
    BadLength(u32),
    /// The parameters of a version 3 packet are not NUL-terminated pairs with a final NUL.
    BadLayout,
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLength(len) => write!(f, "invalid length of startup packet: {len}"),
            Self::BadLayout => f.write_str("invalid startup packet layout: expected terminator as last byte"),
        }
    }
}

impl std::error::Error for StartupError {}

impl<'a> StartupMessage<'a> {
    /// All parameters in the order sent, protocol options (`_pq_.`) included.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut words = self.pairs.split(|byte| *byte == 0);
        std::iter::from_fn(move || Some((words.next().filter(|name| !name.is_empty())?, words.next()?)))
    }

    /// The last value given for a parameter; the last wins, as in Postgres.
    #[must_use]
    pub fn parameter(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.parameters().filter(|(n, _)| *n == name).last().map(|(_, value)| value)
    }

    /// Names of protocol options, which a server that does not know them lists in NegotiateProtocolVersion.
    pub fn protocol_options(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.parameters().map(|(name, _)| name).filter(|name| name.starts_with(b"_pq_."))
    }
}

/// Reads a start-up packet and how many bytes it took; `None` while it is incomplete.
///
/// # Errors
/// When the length or the layout cannot be true. A wrong length is reported from the first four bytes on.
pub fn parse(bytes: &[u8]) -> Result<Option<(Startup<'_>, usize)>, StartupError> {
    let Some((len, _)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*len);
    if !(8..=LEN_MAX).contains(&len) {
        return Err(StartupError::BadLength(len));
    }
    let Some(packet) = bytes.get(..len as usize) else {
        return Ok(None);
    };
    let rest = packet.get(4..).unwrap_or_default();
    let Some((code, body)) = rest.split_first_chunk::<4>() else {
        return Err(StartupError::BadLength(len));
    };
    let startup = match (u32::from_be_bytes(*code), body.len()) {
        (SSL_CODE, 0) => Startup::Ssl,
        (GSSENC_CODE, 0) => Startup::GssEnc,
        (CANCEL_CODE, _) => cancel(body).ok_or(StartupError::BadLength(len))?,
        (SSL_CODE | GSSENC_CODE, _) => return Err(StartupError::BadLength(len)),
        (version, _) => start(version, body)?,
    };
    Ok(Some((startup, packet.len())))
}

fn cancel(body: &[u8]) -> Option<Startup<'_>> {
    let (process_id, secret) = body.split_first_chunk::<4>()?;
    if secret.len() < 4 || secret.len() > SECRET_LEN_MAX {
        return None;
    }
    Some(Startup::Cancel { process_id: u32::from_be_bytes(*process_id), secret })
}

fn start(version: u32, body: &[u8]) -> Result<Startup<'_>, StartupError> {
    let [a, b, c, d] = version.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let pairs = if major == 3 { check_pairs(body)? } else { &[] };
    Ok(Startup::Start(StartupMessage { major, minor, pairs }))
}

fn check_pairs(body: &[u8]) -> Result<&[u8], StartupError> {
    let Some((0, pairs)) = body.split_last() else {
        return Err(StartupError::BadLayout);
    };
    if pairs.is_empty() {
        return Ok(pairs);
    }
    let Some((0, _)) = pairs.split_last() else {
        return Err(StartupError::BadLayout);
    };
    // an empty name would end the list early and hide what follows
    let mut count: usize = 0;
    for (index, word) in pairs.split(|byte| *byte == 0).enumerate() {
        if index.is_multiple_of(2) && word.is_empty() && index != count_words(pairs) {
            return Err(StartupError::BadLayout);
        }
        count = index;
    }
    if count.is_multiple_of(2) { Ok(pairs) } else { Err(StartupError::BadLayout) }
}

/// NUL-terminated words in `pairs`.
fn count_words(pairs: &[u8]) -> usize {
    pairs.iter().filter(|byte| **byte == 0).count()
}

/// Writes a version 3.0 StartupMessage. Names and values must not contain NUL; what follows one is cut off.
pub fn write_startup(out: &mut BytesMut, parameters: &[(&[u8], &[u8])]) {
    write_startup_of(out, 0, parameters);
}

/// Writes a StartupMessage that asks for a minor version of protocol 3; otherwise as [`write_startup`].
pub fn write_startup_of(out: &mut BytesMut, minor: u16, parameters: &[(&[u8], &[u8])]) {
    let start = out.len();
    out.put_u32(0);
    out.put_u32((3 << 16) | u32::from(minor));
    for (name, value) in parameters {
        for word in [name, value] {
            out.extend(word.iter().take_while(|byte| **byte != 0));
            out.put_u8(0);
        }
    }
    out.put_u8(0);
    let len = u32::try_from(out.len().saturating_sub(start)).unwrap_or(u32::MAX);
    if let Some(word) = out.get_mut(start..).and_then(|packet| packet.first_chunk_mut::<4>()) {
        *word = len.to_be_bytes();
    }
}

/// Writes an SSLRequest.
pub fn write_ssl_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(SSL_CODE);
}

/// Writes a CancelRequest. Secrets longer than 256 bytes do not exist and are cut off.
pub fn write_cancel(out: &mut BytesMut, process_id: u32, secret: &[u8]) {
    let secret = secret.get(..SECRET_LEN_MAX).unwrap_or(secret);
    out.put_u32(u32::try_from(secret.len()).unwrap_or_default().saturating_add(12));
    out.put_u32(CANCEL_CODE);
    out.put_u32(process_id);
    out.extend_from_slice(secret);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(8 + body.len()).unwrap().to_be_bytes().to_vec();
        out.extend(code.to_be_bytes());
        out.extend(body);
        out
    }

    #[test]
    fn a_startup_message_comes_back_as_written() {
        let mut out = BytesMut::new();
        write_startup(&mut out, &[(b"user", b"alice"), (b"options", b""), (b"_pq_.x", b"1"), (b"user", b"bob")]);
        let Ok(Some((Startup::Start(message), len))) = parse(&out) else { panic!("{:?}", parse(&out)) };
        assert_eq!((message.major, message.minor, len), (3, 0, out.len()));
        assert_eq!(message.parameter(b"user"), Some(&b"bob"[..]));
        assert_eq!(message.parameter(b"options"), Some(&b""[..]));
        assert_eq!(message.parameter(b"database"), None);
        assert_eq!(message.protocol_options().collect::<Vec<_>>(), [b"_pq_.x"]);
        out.clear();
        write_startup_of(&mut out, 2, &[(b"user", b"alice")]);
        let Ok(Some((Startup::Start(message), _))) = parse(&out) else { panic!("{:?}", parse(&out)) };
        assert_eq!((message.major, message.minor), (3, 2));
    }

    #[test]
    fn a01_to_a07_lengths_that_cannot_be_true_are_refused_at_once() {
        for len in [0_u32, 4, 7, 10_001, 1 << 20, 0x7fff_ffff, u32::MAX] {
            assert_eq!(parse(&len.to_be_bytes()), Err(StartupError::BadLength(len)));
        }
    }

    #[test]
    fn a08_a09_parameters_must_be_whole_pairs() {
        for body in [&b""[..], b"user", b"user\0", b"user\0\0", b"user\0alice\0", b"user\0alice\0x\0\0", b"\0x\0\0"] {
            assert_eq!(parse(&packet(196_608, body)), Err(StartupError::BadLayout), "{}", body.escape_ascii());
        }
        assert!(parse(&packet(196_608, b"\0")).is_ok());
        assert!(parse(&packet(196_608, b"user\0alice\0\0")).is_ok());
    }

    #[test]
    fn s04_k02_requests_have_their_exact_length() {
        assert_eq!(parse(&packet(SSL_CODE, b"")), Ok(Some((Startup::Ssl, 8))));
        assert_eq!(parse(&packet(GSSENC_CODE, b"")), Ok(Some((Startup::GssEnc, 8))));
        assert!(parse(&packet(SSL_CODE, b"xxxx")).is_err());
        assert!(parse(&packet(CANCEL_CODE, b"1234")).is_err());
        assert!(parse(&packet(CANCEL_CODE, &[0; 300])).is_err());
        let mut out = BytesMut::new();
        write_ssl_request(&mut out);
        assert_eq!(parse(&out), Ok(Some((Startup::Ssl, 8))));
        let mut out = BytesMut::new();
        write_cancel(&mut out, 77, b"abcd");
        assert_eq!(parse(&out), Ok(Some((Startup::Cancel { process_id: 77, secret: b"abcd" }, 16))));
    }

    #[test]
    fn any_bytes_give_a_value() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..4)).collect();
            if let Some(last) = bytes.get_mut(3) {
                *last = rng.u8(8..40);
            }
            if let Ok(Some((Startup::Start(message), _))) = parse(&bytes) {
                let _count = message.parameters().count();
            }
        }
    }
}
