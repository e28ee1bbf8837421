//! Who may come in and how it must prove who it is: rules in the order and with the meaning of PostgreSQL's `pg_hba.conf`.
//!
//! Rows are looked at from the top; the first whose transport, address, database and user fit decides. Pure but for the
//! reading of files and of this machine's addresses, which happens once, when the configuration is read.

use std::fmt;
use std::net::IpAddr;

use regex_lite::Regex;

pub(crate) mod file;
pub(crate) mod map;
pub(crate) mod own;
pub(crate) mod row;
pub(crate) mod token;

/// Rows in their order.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rows: Vec<Rule>,
    /// Addresses of this machine with their networks; empty unless a row asks for them.
    own: Vec<Network>,
    maps: map::Maps,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it stands, for the log: `pg_hba.conf:12`.
    pub place: String,
    /// What a client that it fits must do.
    pub method: Method,
    transport: Transport,
    databases: Vec<DatabaseName>,
    users: Vec<UserName>,
    from: From,
    /// Which map says as whom those may come in that a certificate or the operating system names. Without: as that name.
    map: Option<String>,
}

/// How a client proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It cannot: it is turned away.
    Reject,
    /// By SCRAM-SHA-256 and nothing else.
    Scram,
    /// By MD5, or by SCRAM-SHA-256 where that is what is known of the user.
    Md5,
    /// By its password in clear text.
    Password,
    /// By the name its operating system knows it under; Unix sockets only.
    Peer,
    /// By a certificate; TLS only.
    Cert,
}

impl Method {
    /// As it is written in a row.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::Scram => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Peer => "peer",
            Self::Cert => "cert",
        }
    }
}

/// The first word of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Local,
    Host,
    HostTls,
    HostPlain,
    /// GSS encryption, which nobody has here: such a row fits nobody.
    HostGss,
}

#[derive(Clone, Debug)]
pub(crate) enum DatabaseName {
    All,
    /// The database is called as the user is.
    SameUser,
    /// Physical replication, which is no database.
    Replication,
    Is(String),
    Fits(Regex),
}

#[derive(Clone, Debug)]
pub(crate) enum UserName {
    All,
    Is(String),
    Fits(Regex),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum From {
    /// Anywhere; also what a row for Unix sockets has.
    All,
    SameHost,
    SameNet,
    Network(Network),
}

/// An address and which of its bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network {
    pub(crate) address: IpAddr,
    pub(crate) mask: IpAddr,
}

impl Network {
    fn contains(self, other: IpAddr) -> bool {
        match (self.address, self.mask, other.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            _ => false,
        }
    }
}

/// Somebody who wants to come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor<'v> {
    /// As who.
    pub user: &'v str,
    /// To which database.
    pub database: &'v str,
    /// What for.
    pub purpose: Purpose,
    /// From where.
    pub origin: Origin,
}

/// What somebody comes for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The database, be it for its logical replication.
    Database,
    /// Physical replication, which is of no database.
    Replication,
}

/// From where somebody comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Through a Unix socket.
    Local,
    /// By TCP without encryption.
    Plain(IpAddr),
    /// By TCP with TLS.
    Tls(IpAddr),
}

impl fmt::Display for Visitor<'_> {
    /// As PostgreSQL names somebody it has no row for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, database, purpose, origin } = self;
        let (host, encryption) = match origin {
            Origin::Local => ("[local]".to_owned(), "no encryption"),
            Origin::Plain(ip) => (ip.to_string(), "no encryption"),
            Origin::Tls(ip) => (ip.to_string(), "SSL encryption"),
        };
        match purpose {
            Purpose::Database => {
                write!(f, "host \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
            }
            Purpose::Replication => {
                write!(f, "replication connection from host \"{host}\", user \"{user}\", {encryption}")
            }
        }
    }
}

impl Rules {
    pub(crate) fn new(rows: Vec<Rule>, maps: map::Maps) -> std::io::Result<Self> {
        let ask = rows.iter().any(|row| matches!(row.from, From::SameHost | From::SameNet));
        Ok(Self { own: if ask { own::networks()? } else { Vec::new() }, rows, maps })
    }

    /// The row that decides, if there is one.
    #[must_use]
    pub fn judge(&self, visitor: &Visitor<'_>) -> Option<&Rule> {
        self.rows.iter().find(|row| row.fits(visitor, &self.own))
    }

    /// Whether by this row somebody whom a certificate or the operating system names so may come in as this user.
    #[must_use]
    pub fn allow(&self, row: &Rule, system: &str, user: &str) -> bool {
        match &row.map {
            Some(map) => self.maps.allow(map, system, user),
            None => system == user,
        }
    }

    /// Names of maps that rows ask for and that are not there, each with the place of its row.
    pub(crate) fn missing_maps(&self) -> impl Iterator<Item = (&str, &str)> {
        let asked = self.rows.iter().filter_map(|row| Some((row.place.as_str(), row.map.as_deref()?)));
        asked.filter(|(_, map)| !self.maps.has(map))
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Rule] {
        &self.rows
    }
}

impl Rule {
    fn fits(&self, visitor: &Visitor<'_>, own: &[Network]) -> bool {
        let from = match (self.transport, visitor.origin) {
            (Transport::Local, Origin::Local) => true,
            (Transport::Host, Origin::Plain(ip) | Origin::Tls(ip))
            | (Transport::HostTls, Origin::Tls(ip))
            | (Transport::HostPlain, Origin::Plain(ip)) => self.from.contains(ip, own),
            _ => false,
        };
        from && self.databases.iter().any(|name| name.fits(visitor))
            && self.users.iter().any(|name| match name {
                UserName::All => true,
                UserName::Is(name) => name == visitor.user,
                UserName::Fits(pattern) => pattern.is_match(visitor.user),
            })
    }
}

impl DatabaseName {
    fn fits(&self, visitor: &Visitor<'_>) -> bool {
        if visitor.purpose == Purpose::Replication {
            return matches!(self, Self::Replication);
        }
        match self {
            Self::All => true,
            Self::SameUser => visitor.user == visitor.database,
            Self::Replication => false,
            Self::Is(name) => name == visitor.database,
            Self::Fits(pattern) => pattern.is_match(visitor.database),
        }
    }
}

impl From {
    fn contains(self, ip: IpAddr, own: &[Network]) -> bool {
        match self {
            Self::All => true,
            Self::SameHost => own.iter().any(|network| network.address == ip.to_canonical()),
            Self::SameNet => own.iter().any(|network| network.contains(ip)),
            Self::Network(network) => network.contains(ip),
        }
    }
}

#[cfg(test)]
mod tests;
