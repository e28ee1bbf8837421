//! What is enough to log in to a server: a password, or what a login of a client's has shown.
//!
//! SCRAM shows the ClientKey to the one who verifies a proof (RFC 5802 section 3). Who has it and the ServerKey can log in
//! wherever the same verifier is kept, without ever knowing the password; the hash of an MD5 login is as good.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::server::hmac;

/// Longest message of a server's that is looked at.
const MESSAGE_LEN_MAX: usize = 8 * 1024;

/// What we log in with. Its memory is overwritten when it is dropped, and nothing prints it.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// Nothing.
    #[default]
    None,
    /// The password.
    Password(Zeroizing<Vec<u8>>),
    /// The 32 digits of the MD5 of password and user name.
    Md5(Zeroizing<[u8; 32]>),
    /// The keys of a SCRAM-SHA-256 verifier.
    Scram(ScramKeys),
}

impl Credentials {
    /// A password, if there is one.
    #[must_use]
    pub fn of_password(password: Option<&[u8]>) -> Self {
        password.map_or(Self::None, |password| Self::Password(Zeroizing::new(password.to_vec())))
    }

    /// The hash that a `rolpassword` of MD5 holds; none for other texts.
    #[must_use]
    pub fn of_md5(text: &str) -> Self {
        let digits = text.strip_prefix("md5").and_then(|digits| <[u8; 32]>::try_from(digits.as_bytes()).ok());
        digits.map_or(Self::None, |digits| Self::Md5(Zeroizing::new(digits)))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
        })
    }
}

/// The two keys that SCRAM-SHA-256 needs on the client's side.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    client_key: Zeroizing<[u8; 32]>,
    server_key: Zeroizing<[u8; 32]>,
}

impl ScramKeys {
    pub(super) fn new(client_key: [u8; 32], server_key: [u8; 32]) -> Self {
        Self { client_key: Zeroizing::new(client_key), server_key: Zeroizing::new(server_key) }
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

/// A login by SCRAM-SHA-256 with keys in the place of a password.
pub(super) struct KeyExchange {
    keys: ScramKeys,
    /// Ours, in base64.
    nonce: String,
    /// `AuthMessage`, once it is known.
    transcript: Option<String>,
}

impl KeyExchange {
    pub(super) fn new(keys: ScramKeys, nonce: [u8; 18]) -> Self {
        Self { keys, nonce: BASE64.encode(nonce), transcript: None }
    }

    /// `client-first-message`: no channel binding, and the user is the one of the start-up packet.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.first_bare())
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// `server-first-message` in, `client-final-message` out. Salt and iterations are the verifier's and not needed.
    pub(super) fn answer(&mut self, data: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(data).ok().filter(|text| text.len() <= MESSAGE_LEN_MAX)?;
        let nonce = text.split(',').next()?.strip_prefix("r=")?;
        let fresh = nonce.strip_prefix(self.nonce.as_str()).is_some_and(|own| !own.is_empty());
        if self.transcript.is_some() || !fresh || !text.contains(",s=") || !text.contains(",i=") {
            return None;
        }
        // "biws" is the header "n,,"
        let unproven = format!("c=biws,r={nonce}");
        let transcript = format!("{},{text},{unproven}", self.first_bare());
        let stored_key: [u8; 32] = Sha256::digest(*self.keys.client_key).into();
        let mut proof = hmac(&stored_key, &[transcript.as_bytes()]);
        proof.iter_mut().zip(&*self.keys.client_key).for_each(|(byte, key)| *byte ^= key);
        self.transcript = Some(transcript);
        Some(format!("{unproven},p={}", BASE64.encode(proof)))
    }

    /// Whether `server-final-message` proves that the server has the verifier.
    pub(super) fn is_proven(&self, data: &[u8]) -> bool {
        let Some(transcript) = &self.transcript else { return false };
        let signature = data.strip_prefix(b"v=").and_then(|signature| BASE64.decode(signature).ok());
        let own = hmac(&self.keys.server_key, &[transcript.as_bytes()]);
        signature.is_some_and(|signature| bool::from(own.as_slice().ct_eq(&signature)))
    }
}

#[cfg(test)]
mod tests;
