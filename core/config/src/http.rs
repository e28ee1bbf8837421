//! What the file says of the HTTP endpoint: where metrics and the dashboard are looked at, and by whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::Password;

/// `[http]`.
#[derive(Clone, Debug, Default)]
pub struct Http {
    /// Where it listens. Default: there is none.
    pub listen: Option<SocketAddr>,
    /// What whoever asks must know. Default: nothing.
    pub token: Option<Password>,
    /// Our certificate and its private key. Default: no encryption.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Authorities of clients' certificates. Default: clients show none.
    pub client_ca: Option<PathBuf>,
    /// Names of hosts by which it may be asked, besides this machine's own; small letters, without a port.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may ask, besides the endpoint's own.
    pub allowed_origins: Vec<String>,
}
