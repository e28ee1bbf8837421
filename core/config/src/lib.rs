//! The configuration file: what may stand in it, what is wrong with it.
//!
//! TOML; unknown keys are refused with their line and the nearest key there is. A file is read into [`Config`] whole or not
//! at all, and everything that is wrong with it is told at once. Knows no runtime and no protocol.

#![forbid(unsafe_code)]

mod auth;
mod error;
pub mod hba;
mod http;
mod key;
mod listing;
mod log;
pub mod pgbouncer;
mod promise;
mod read;
mod secret;
mod statistics;
mod timeout;
mod tls;
mod upstream;
mod userlist;
mod value;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use auth::{Auth, AuthQuery, Kinds, Known, Password, UserList};
pub use error::{ConfigError, ConfigErrors};
pub use http::Http;
pub use key::reference;
pub use listing::{Diff, Difference, Effect, Entry};
pub use log::{Log, LogConnections, LogFormat, LogLevel};
pub use promise::{SequenceState, ServerClean};
pub use statistics::Stats;
pub use timeout::{Timeout, TimeoutOverrides, Timeouts};
pub use tls::{ListenTls, Proof, ProofList, ServerProtocol, ServerTls, TlsMode};
pub use upstream::{Dns, Host, SessionAttrs, Upstream, look_up};
use zeroize::Zeroizing;

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// What the process runs on.
    pub runtime: Runtime,
    /// Bounds on clients.
    pub limits: Limits,
    /// What server connections are like unless their database differs.
    pub server: ServerTls,
    /// How host names are looked up.
    pub dns: Dns,
    /// What every pool is like unless its database or user differs; see [`Config::pool_for`].
    pub pool: Pool,
    /// Where statistics are given out.
    pub stats: Stats,
    /// Where metrics and the dashboard are looked at.
    pub http: Http,
    /// What is logged.
    pub log: Log,
    /// Who may come in, and how.
    pub auth: Auth,
    /// Who may use the console.
    pub admin: Admin,
    /// Databases clients may ask for.
    pub databases: Vec<Database>,
    /// Users that may log in.
    pub users: Vec<User>,
}

/// `[listen]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// TCP addresses. Default `127.0.0.1:6432`.
    pub addresses: Vec<SocketAddr>,
    /// Directory of the Unix socket. Default: none.
    pub unix_socket_dir: Option<PathBuf>,
    /// Connections the kernel holds until they are accepted. Default 1024.
    pub backlog: u32,
    /// Encryption.
    pub tls: ListenTls,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 6432))],
            unix_socket_dir: None,
            backlog: 1024,
            tls: ListenTls::default(),
        }
    }
}

impl Listen {
    /// The file of the Unix socket: `.s.PGSQL.<port>` in [`Listen::unix_socket_dir`], with the port of the first TCP
    /// address, or 6432 where there is none.
    #[must_use]
    pub fn unix_socket(&self) -> Option<PathBuf> {
        let port = self.addresses.first().map_or(6432, SocketAddr::port);
        self.unix_socket_dir.as_ref().map(|dir| dir.join(format!(".s.PGSQL.{port}")))
    }
}

/// `[runtime]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Runtime {
    /// Cores to pin shards to, ascending. Default: all this process may use.
    pub cores: Option<Vec<u16>>,
}

/// `[limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Client connections at once, all shards together. Default 10000.
    pub max_client_connections: u32,
    /// A client that has not logged in by then is closed. Default 10s.
    pub auth_timeout: Duration,
    /// How long transactions may go on after SIGTERM. Default 30s.
    pub shutdown_timeout: Duration,
    /// Bytes in all buffers together. Default: no bound.
    pub memory: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_client_connections: 10_000,
            auth_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(30),
            memory: None,
        }
    }
}

/// Names of databases that mean the console.
pub const CONSOLE_DATABASES: [&str; 2] = ["optimacore", "pgbouncer"];

/// `[admin]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Admin {
    /// Users who may use every command.
    pub admin_users: Vec<String>,
    /// Users who may only look.
    pub stats_users: Vec<String>,
}

/// How long a session keeps a server connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolMode {
    /// For a request, which may not leave a transaction open.
    Statement,
    /// For a transaction.
    Transaction,
    /// For its life.
    Session,
}

impl PoolMode {
    /// As it is written in the file: `transaction`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Statement => "statement",
        }
    }
}

/// Whether requests of several sessions may travel interleaved on one server connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// Those that cannot notice may.
    On,
    /// None may.
    Off,
}

impl Share {
    /// As it is written in the file: `on`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// `[pool]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Default `transaction`.
    pub mode: PoolMode,
    /// Server connections per (database, user), all shards together. Default 20.
    pub size: u32,
    /// How long a client waits for one. Default 120s.
    pub query_wait_timeout: Duration,
    /// How long connecting and logging in to PostgreSQL may take. Default 5s.
    pub server_connect_timeout: Duration,
    /// An idle server connection is closed then. Default 10min.
    pub server_idle_timeout: Duration,
    /// An older server connection is closed as soon as it is free; some are up to a tenth younger. Default 1h.
    pub server_lifetime: Duration,
    /// Server connections that are kept, all shards together. Default 0.
    pub min_pool_size: u32,
    /// Server connections beyond `size` for clients that have waited for `reserve_pool_timeout`. Default 0.
    pub reserve_pool_size: u32,
    /// Default 5s.
    pub reserve_pool_timeout: Duration,
    /// Requests that may wait for a server connection, all shards together. Default: no bound.
    pub queue_max: Option<u32>,
    /// Bounds on what clients do. Default: none.
    pub timeouts: Timeouts,
    /// Prepared statements kept per server connection. Default 500.
    pub prepared_statements: u32,
    /// Default `on`; without meaning in session mode.
    pub share: Share,
    /// How many server connections are shared at most. Default: chosen by load.
    pub share_pipes: Option<u32>,
    /// Requests in flight at once on one shared server connection. Default 64.
    pub share_depth: u32,
    /// Default `strict`.
    pub server_clean: ServerClean,
    /// Default `shared`.
    pub sequence_state: SequenceState,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 20,
            query_wait_timeout: Duration::from_secs(120),
            server_connect_timeout: Duration::from_secs(5),
            server_idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3600),
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: Duration::from_secs(5),
            queue_max: None,
            timeouts: Timeouts::default(),
            prepared_statements: 500,
            share: Share::On,
            share_pipes: None,
            share_depth: 64,
            server_clean: ServerClean::Strict,
            sequence_state: SequenceState::Shared,
        }
    }
}

/// Keys of [`Pool`] that a database or user has of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Pool")]
pub struct PoolOverrides {
    pub mode: Option<PoolMode>,
    pub size: Option<u32>,
    pub query_wait_timeout: Option<Duration>,
    pub server_connect_timeout: Option<Duration>,
    pub server_idle_timeout: Option<Duration>,
    pub server_lifetime: Option<Duration>,
    pub min_pool_size: Option<u32>,
    pub reserve_pool_size: Option<u32>,
    pub reserve_pool_timeout: Option<Duration>,
    pub queue_max: Option<u32>,
    pub timeouts: TimeoutOverrides,
    pub prepared_statements: Option<u32>,
    pub share: Option<Share>,
    pub share_pipes: Option<u32>,
    pub share_depth: Option<u32>,
    pub server_clean: Option<ServerClean>,
    pub sequence_state: Option<SequenceState>,
}

impl PoolOverrides {
    /// What comes of a pool when these keys are put over it.
    #[must_use]
    pub fn over(&self, pool: Pool) -> Pool {
        Pool {
            mode: self.mode.unwrap_or(pool.mode),
            size: self.size.unwrap_or(pool.size),
            query_wait_timeout: self.query_wait_timeout.unwrap_or(pool.query_wait_timeout),
            server_connect_timeout: self.server_connect_timeout.unwrap_or(pool.server_connect_timeout),
            server_idle_timeout: self.server_idle_timeout.unwrap_or(pool.server_idle_timeout),
            server_lifetime: self.server_lifetime.unwrap_or(pool.server_lifetime),
            min_pool_size: self.min_pool_size.unwrap_or(pool.min_pool_size),
            reserve_pool_size: self.reserve_pool_size.unwrap_or(pool.reserve_pool_size),
            reserve_pool_timeout: self.reserve_pool_timeout.unwrap_or(pool.reserve_pool_timeout),
            queue_max: self.queue_max.or(pool.queue_max),
            timeouts: self.timeouts.over(pool.timeouts),
            prepared_statements: self.prepared_statements.unwrap_or(pool.prepared_statements),
            share: self.share.unwrap_or(pool.share),
            share_pipes: self.share_pipes.or(pool.share_pipes),
            share_depth: self.share_depth.unwrap_or(pool.share_depth),
            server_clean: self.server_clean.unwrap_or(pool.server_clean),
            sequence_state: self.sequence_state.unwrap_or(pool.sequence_state),
        }
    }
}

/// One `[[database]]`.
#[derive(Clone)]
pub struct Database {
    /// The name clients ask for, or `*` for any.
    pub name: String,
    /// Where PostgreSQL is, the one to be tried first in front; at least one.
    pub hosts: Vec<Host>,
    /// Its port, where its host has none of its own. Default 5432.
    pub port: u16,
    /// What a server must be like to be used. Default `any`.
    pub target_session_attrs: SessionAttrs,
    /// The name it has there. Default: the one asked for.
    pub dbname: Option<String>,
    /// The user we log in as there. Default: the client's.
    pub user: Option<String>,
    /// The password we log in with there.
    pub password: Option<Password>,
    /// Server connections to it, all its pools together. Default: no bound.
    pub max_connections: Option<u32>,
    /// Encryption of the connections to it: its own keys over those of `[server]`.
    pub tls: ServerTls,
    /// Client connections to it at once. Default: no bound.
    pub max_client_connections: Option<u32>,
    /// SQL that is run on every new server connection before clients may have it. Default: none.
    pub connect_query: Option<String>,
    /// Settings that its server connections begin with. Default: none.
    pub settings: Vec<(String, String)>,
    /// How its pools differ.
    pub pool: PoolOverrides,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("name", &self.name)
            .field("hosts", &self.hosts)
            .field("port", &self.port)
            .field("target_session_attrs", &self.target_session_attrs)
            .field("tls", &self.tls)
            .field("dbname", &self.dbname)
            .field("user", &self.user)
            .field("max_connections", &self.max_connections)
            .field("max_client_connections", &self.max_client_connections)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Whether it is the same place, and asks the same of it.
    #[must_use]
    pub fn is_where(&self, other: &Self) -> bool {
        (&self.hosts, self.port, self.target_session_attrs) == (&other.hosts, other.port, other.target_session_attrs)
    }
}

/// What a user must prove to know: a `rolpassword` of PostgreSQL's, a SCRAM-SHA-256 verifier or an MD5 hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// Reads a verifier or hash; none if it is neither.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        value::verifier(text).ok()
    }

    /// The verifier or hash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One `[[user]]`.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// What the user must prove to know where it is not trusted. `None`: it is refused there.
    pub password: Option<Secret>,
    /// Address ranges (`10.0.0.0/8`, `127.0.0.1`) it may log in from without a password.
    pub trust: Vec<Range>,
    /// Whether it may log in through the Unix socket without a password.
    pub trust_local: bool,
    /// The user we log in as at PostgreSQL. Default: the same name.
    pub server_user: Option<String>,
    /// The password we log in with there.
    pub server_password: Option<Password>,
    /// Client connections of this user at once. Default: no bound.
    pub max_client_connections: Option<u32>,
    /// Server connections of all its pools together. Default: no bound.
    pub max_server_connections: Option<u32>,
    /// How its pools differ.
    pub pool: PoolOverrides,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("trust", &self.trust)
            .field("trust_local", &self.trust_local)
            .field("server_user", &self.server_user)
            .field("max_client_connections", &self.max_client_connections)
            .field("max_server_connections", &self.max_server_connections)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// A range of IP addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    address: IpAddr,
    prefix: u8,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Range {
    /// Reads `10.0.0.0/8`, `fd00::/8`, or one address.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok()).filter(|prefix| *prefix <= most)?;
        Some(Self { address, prefix })
    }

    /// Whether an address lies in it. IPv4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => same_prefix(own.octets(), other.octets(), self.prefix),
            (IpAddr::V6(own), IpAddr::V6(other)) => same_prefix(own.octets(), other.octets(), self.prefix),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn same_prefix<const N: usize>(a: [u8; N], b: [u8; N], prefix: u8) -> bool {
    let mut left = u32::from(prefix);
    a.iter().zip(b).all(|(a, b)| {
        let bits = left.min(8);
        left -= bits;
        let mask = u8::try_from(0xff00_u32 >> bits & 0xff).unwrap_or(0xff);
        a & mask == b & mask
    })
}

impl Config {
    /// Reads a file: our own, or a pgbouncer.ini.
    ///
    /// # Errors
    /// When it cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) if pgbouncer::is_ini(path, &text) => pgbouncer::Import::load(path)?.config(),
            Ok(text) => Self::parse(&text, &file),
            Err(error) => Err(ConfigErrors(vec![ConfigError { file, place: None, message: error.to_string() }])),
        }
    }

    /// Reads text; `file` is what errors call it.
    ///
    /// # Errors
    /// All errors of syntax; where there is none, all unknown keys, wrong types and values that make no sense.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        read::read(text, file)
    }

    /// The database a client means.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|d| d.name == name).or_else(|| self.databases.iter().find(|d| d.name == "*"))
    }

    /// The place of a client's database among [`Config::databases`].
    #[must_use]
    pub fn database_number(&self, name: &str) -> Option<usize> {
        let own = self.databases.iter().position(|d| d.name == name);
        own.or_else(|| self.databases.iter().position(|d| d.name == "*"))
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// What the pool of a database and a client's user is like: `[pool]`, over it the database's keys, over those the
    /// user's.
    #[must_use]
    pub fn pool_for(&self, database: &Database, user: &str) -> Pool {
        let pool = database.pool.over(self.pool);
        self.user(user).map_or(pool, |user| user.pool.over(pool))
    }

    /// Whether a user may log in from an address without a password.
    #[must_use]
    pub fn trusts(&self, user: &str, from: IpAddr) -> bool {
        self.user(user).is_some_and(|user| user.trust.iter().any(|range| range.contains(from)))
    }

    /// Whether a user may log in through the Unix socket without a password.
    #[must_use]
    pub fn trusts_local(&self, user: &str) -> bool {
        self.user(user).is_some_and(|user| user.trust_local)
    }
}

#[cfg(test)]
mod tests;
