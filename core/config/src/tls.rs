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
    /// The certificate and private key that we show.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Not of TLS, but of the same tables.
    pub protocol: ServerProtocol,
}

/// Which version of the protocol PostgreSQL is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerProtocol {
    /// The one that everybody knows.
    V3_0,
    /// The one with long cancel keys, or what the other side makes of it.
    #[default]
    V3_2,
}

impl ServerProtocol {
    /// As it is written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V3_0 => "3.0",
            Self::V3_2 => "3.2",
        }
    }

    /// Its minor version.
    #[must_use]
    pub const fn minor(self) -> u16 {
        match self {
            Self::V3_0 => 0,
            Self::V3_2 => 2,
        }
    }
}
