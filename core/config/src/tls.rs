//! What the file says of TLS, towards clients and towards PostgreSQL.

use std::path::PathBuf;

/// How much TLS there must be, in the words of libpq's `sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum TlsMode {
    /// None.
    #[default]
    Disable,
    /// Only where the other side will not do without.
    Allow,
    /// Where the other side knows it.
    Prefer,
    /// Always; whoever it is.
    Require,
    /// Always, with a certificate that a trusted authority has signed.
    VerifyCa,
    /// The same, and the certificate names whom we mean.
    VerifyFull,
}

impl TlsMode {
    /// As it is written in the file: `verify-ca`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether nothing is said in clear.
    #[must_use]
    pub fn is_required(self) -> bool {
        self >= Self::Require
    }

    /// Whether certificates are judged.
    #[must_use]
    pub fn verifies(self) -> bool {
        self >= Self::VerifyCa
    }
}

/// `[listen.tls]`: towards clients.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListenTls {
    /// Default `disable`.
    pub mode: TlsMode,
    /// Our certificate and those that lead to its authority. There is one unless the mode is `disable`.
    pub certificate: Option<PathBuf>,
    /// Its private key. There is one unless the mode is `disable`.
    pub key: Option<PathBuf>,
    /// Authorities of clients' certificates. There are some when the mode verifies.
    pub client_ca: Option<PathBuf>,
    /// What they have revoked.
    pub client_crl: Option<PathBuf>,
}

/// `[server]`, and over it the keys of the same names of a `[[database]]`: towards PostgreSQL.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerTls {
    /// Default `disable`. Without meaning on a Unix socket.
    pub mode: TlsMode,
    /// Authorities of PostgreSQL's certificate. There are some when the mode verifies.
    pub ca: Option<PathBuf>,
    /// What those authorities have revoked.
    pub crl: Option<PathBuf>,
    /// The certificate and private key that we show.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How PostgreSQL may have us prove who we are. Default: in any way.
    pub require_auth: Option<ProofList>,
}

/// A way to prove who we are to PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Proof {
    /// It does not ask.
    None,
    /// The password in clear.
    Password,
    /// MD5.
    Md5,
    /// SCRAM-SHA-256, bound to the connection or not.
    Scram,
}

/// Some of the ways, in the words of libpq's `require_auth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProofList {
    allowed: Vec<Proof>,
    text: String,
}

impl ProofList {
    /// Reads `scram-sha-256,md5` or `!password,!none`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // those that we do not speak may be ruled out
        const KNOWN: [(&str, Option<Proof>); 6] = [
            ("none", Some(Proof::None)),
            ("password", Some(Proof::Password)),
            ("md5", Some(Proof::Md5)),
            ("scram-sha-256", Some(Proof::Scram)),
            ("gss", None),
            ("sspi", None),
        ];
        let mut named = Vec::new();
        let mut negated = None;
        for word in text.split(',').map(str::trim) {
            let (word, not) = word.strip_prefix('!').map_or((word, false), |word| (word, true));
            if *negated.get_or_insert(not) != not {
                return Err("either all methods stand behind a \"!\" or none does".to_owned());
            }
            let found = KNOWN.iter().find(|(name, _)| *name == word);
            let (_, proof) = found.ok_or_else(|| {
                let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                format!("there is no method \"{word}\"; there are {}", names.join(", "))
            })?;
            if proof.is_none() && !not {
                return Err(format!("\"{word}\" is not spoken here"));
            }
            named.push(*proof);
        }
        let is_named = |proof: &Proof| named.contains(&Some(*proof));
        let all = [Proof::None, Proof::Password, Proof::Md5, Proof::Scram];
        let allowed = all.into_iter().filter(|proof| is_named(proof) != (negated == Some(true))).collect();
        Ok(Self { allowed, text: text.to_owned() })
    }

    /// As it is written in the file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether PostgreSQL may ask for this.
    #[must_use]
    pub fn allows(&self, proof: Proof) -> bool {
        self.allowed.contains(&proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_prove_oneself_are_listed_as_in_libpq() {
        let all = [Proof::None, Proof::Password, Proof::Md5, Proof::Scram];
        for (text, allowed) in [
            ("scram-sha-256", &all[3..]),
            ("scram-sha-256, md5", &all[2..]),
            ("none", &all[..1]),
            ("!password,!md5,!gss", &[Proof::None, Proof::Scram]),
            ("!none", &all[1..]),
        ] {
            let list = ProofList::parse(text).unwrap();
            assert_eq!(all.into_iter().filter(|proof| list.allows(*proof)).collect::<Vec<_>>(), allowed, "{text}");
        }
        for text in ["", "scram", "md5,!none", "!none,md5", "gss", "md5,", "MD5"] {
            assert!(ProofList::parse(text).is_err(), "{text}");
        }
    }
}
