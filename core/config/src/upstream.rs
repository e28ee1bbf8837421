//! Where PostgreSQL is: hosts, how their names are looked up, and what a server there must be like.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[dns]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dns {
    /// How long what was found for a name is believed. Default 15s.
    pub max_ttl: Duration,
    /// How long a name that was not found is not looked up again. Default 15s.
    pub nxdomain_ttl: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Self { max_ttl: Duration::from_secs(15), nxdomain_ttl: Duration::from_secs(15) }
    }
}

/// One of the hosts of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// An IP address or host name, or the directory of a Unix socket.
    pub name: String,
    /// Its port, where it is not the database's.
    pub port: Option<u16>,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.name.contains(':') => write!(f, "[{}]:{port}", self.name),
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Where a host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upstream {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
    /// To be looked up.
    Named(String, u16),
}

impl Upstream {
    /// The name that is to be looked up.
    #[must_use]
    pub fn name(&self) -> Option<&String> {
        match self {
            Self::Named(name, _) => Some(name),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

impl Host {
    /// Where it is, with the database's port.
    #[must_use]
    pub fn upstream(&self, port: u16) -> Upstream {
        let port = self.port.unwrap_or(port);
        if self.name.starts_with('/') {
            return Upstream::Unix(Path::new(&self.name).join(format!(".s.PGSQL.{port}")));
        }
        match self.name.parse::<IpAddr>() {
            Ok(ip) => Upstream::Tcp(SocketAddr::new(ip, port)),
            Err(_) => Upstream::Named(self.name.clone(), port),
        }
    }
}

/// Asks the system's resolver for a name, and may block for as long as that does.
///
/// # Errors
/// When the name is not known, or nobody can be asked.
pub fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in (name, 0).to_socket_addrs()? {
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    if found.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(found) }
}

/// What a server must be like to be used, in the words of libpq's `target_session_attrs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionAttrs {
    /// Whatever.
    #[default]
    Any,
    /// Transactions may write unless they say otherwise.
    ReadWrite,
    /// They may not.
    ReadOnly,
    /// It is no standby.
    Primary,
    /// It is one.
    Standby,
}

impl SessionAttrs {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Any, Self::ReadWrite, Self::ReadOnly, Self::Primary, Self::Standby];

    /// As it is written in the file: `read-write`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
        }
    }
}
