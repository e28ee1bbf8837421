//! The configuration file: what may stand in it, what is wrong with it.
//!
//! TOML; unknown keys are refused with their line. A file is read into [`Config`] whole or not at all. Knows no runtime and
//! no protocol.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    #[serde(default)]
    pub listen: Listen,
    /// What the process runs on.
    #[serde(default)]
    pub runtime: Runtime,
    /// Bounds on clients.
    #[serde(default)]
    pub limits: Limits,
    /// What every pool is like.
    #[serde(default)]
    pub pool: Pool,
    /// Databases clients may ask for.
    #[serde(default, rename = "database")]
    pub databases: Vec<Database>,
    /// Users that may log in.
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
}

/// `[listen]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// TCP addresses. Default `127.0.0.1:6432`.
    pub addresses: Vec<SocketAddr>,
    /// Connections the kernel holds until they are accepted. Default 1024.
    pub backlog: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Self { addresses: vec![SocketAddr::from(([127, 0, 0, 1], 6432))], backlog: 1024 }
    }
}

/// `[runtime]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Cores to pin shards to, as in `0-3,8`. Default: all this process may use.
    #[serde(deserialize_with = "cpu_list")]
    pub cores: Option<Vec<u16>>,
}

/// `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Client connections at once, all shards together. Default 10000.
    pub max_client_connections: u32,
    /// A client that has not sent its start-up packet by then is closed. Default 10s.
    #[serde(deserialize_with = "duration")]
    pub auth_timeout: Duration,
    /// How long transactions may go on after SIGTERM. Default 30s.
    #[serde(deserialize_with = "duration")]
    pub shutdown_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_client_connections: 10_000,
            auth_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// How long a session keeps a server connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// For a transaction.
    Transaction,
    /// For its life.
    Session,
}

/// `[pool]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Default `transaction`.
    pub mode: PoolMode,
    /// Server connections per (database, user), all shards together. Default 20.
    pub size: u32,
    /// How long a client waits for one. Default 120s.
    #[serde(deserialize_with = "duration")]
    pub query_wait_timeout: Duration,
    /// An idle server connection is closed then. Default 10min.
    #[serde(deserialize_with = "duration")]
    pub server_idle_timeout: Duration,
    /// Prepared statements kept per server connection. Default 500.
    pub prepared_statements: u32,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 20,
            query_wait_timeout: Duration::from_secs(120),
            server_idle_timeout: Duration::from_secs(600),
            prepared_statements: 500,
        }
    }
}

/// One `[[database]]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The name clients ask for, or `*` for any.
    pub name: String,
    /// PostgreSQL's IP address, or the directory of its Unix socket.
    pub host: String,
    /// Its port. Default 5432.
    #[serde(default = "postgres_port")]
    pub port: u16,
    /// The name it has there. Default: the one asked for.
    #[serde(default)]
    pub dbname: Option<String>,
    /// The user we log in as there. Default: the client's.
    #[serde(default)]
    pub user: Option<String>,
    /// The password we log in with there.
    #[serde(default)]
    pub password: Option<String>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("name", &self.name).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Where a database's PostgreSQL is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upstream {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl Database {
    /// Where it is; `None` when `host` is neither an address nor an absolute path (refused by [`Config::parse`]).
    #[must_use]
    pub fn upstream(&self) -> Option<Upstream> {
        if self.host.starts_with('/') {
            return Some(Upstream::Unix(Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port))));
        }
        self.host.parse::<IpAddr>().ok().map(|ip| Upstream::Tcp(SocketAddr::new(ip, self.port)))
    }
}

/// One `[[user]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name.
    pub name: String,
    /// Address ranges (`10.0.0.0/8`, `127.0.0.1`) it may log in from without a password.
    pub trust: Vec<Range>,
}

/// A range of IP addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    address: IpAddr,
    prefix: u8,
}

impl Range {
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

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (address, prefix) = text.split_once('/').map_or((text.as_str(), None), |(a, p)| (a, Some(p)));
        let bad = || serde::de::Error::custom(format!("\"{text}\" is no address range such as 10.0.0.0/8"));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), str::parse).map_err(|_| bad())?;
        if prefix > most { Err(bad()) } else { Ok(Self { address, prefix }) }
    }
}

/// Everything that is wrong with a file, each with file and line where it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigErrors(vec![format!("{name}: {error}")]))?;
        Self::parse(&text, &name)
    }

    /// Reads text; `file` is what errors call it.
    ///
    /// # Errors
    /// A syntax error, unknown key or wrong type with its line; otherwise all values that make no sense.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigErrors> {
        let config: Self = toml::from_str(text)
            .map_err(|error| ConfigErrors(vec![format!("{file}: {}", error.to_string().trim())]))?;
        let errors: Vec<String> = config.contradictions().into_iter().map(|error| format!("{file}: {error}")).collect();
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// The database a client means.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|d| d.name == name).or_else(|| self.databases.iter().find(|d| d.name == "*"))
    }

    /// Whether a user may log in from an address without a password.
    #[must_use]
    pub fn trusts(&self, user: &str, from: IpAddr) -> bool {
        self.users.iter().any(|u| u.name == user && u.trust.iter().any(|range| range.contains(from)))
    }

    fn contradictions(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.listen.addresses.is_empty() {
            out.push("listen.addresses is empty".to_owned());
        }
        if self.pool.size == 0 {
            out.push("pool.size must be at least 1".to_owned());
        }
        if self.databases.is_empty() {
            out.push("there is no [[database]]".to_owned());
        }
        for (index, database) in self.databases.iter().enumerate() {
            if database.upstream().is_none() {
                out.push(format!(
                    "database \"{}\": host \"{}\" is neither an IP address nor an absolute path",
                    database.name, database.host
                ));
            }
            if self.databases.iter().take(index).any(|other| other.name == database.name) {
                out.push(format!("database \"{}\" stands there twice", database.name));
            }
        }
        for (index, user) in self.users.iter().enumerate() {
            if self.users.iter().take(index).any(|other| other.name == user.name) {
                out.push(format!("user \"{}\" stands there twice", user.name));
            }
        }
        out
    }
}

const fn postgres_port() -> u16 {
    5432
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).unwrap_or_default();
    let unit_ms = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(unit_ms)
        .and_then(|(n, ms)| n.checked_mul(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no duration such as 500ms, 30s, 10min or 1h")))
}

fn cpu_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u16>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_cpu_list(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no list of cores such as 0-3,8")))
}

fn parse_cpu_list(text: &str) -> Option<Vec<u16>> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.trim().split_once('-').unwrap_or_else(|| (part.trim(), part.trim()));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > 4096 {
            return None;
        }
        for core in first..=last {
            if !out.contains(&core) {
                out.push(core);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: &str = "[[database]]\nname = \"*\"\nhost = \"127.0.0.1\"\n";

    #[test]
    fn a_small_file_is_enough() {
        let config = Config::parse(DATABASE, "f").unwrap();
        assert_eq!(config.pool.size, 20);
        assert_eq!(config.database("any").unwrap().upstream(), Some(Upstream::Tcp("127.0.0.1:5432".parse().unwrap())));
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let error = Config::parse(&format!("{DATABASE}\n[pool]\nsise = 3\n"), "x.toml").unwrap_err().to_string();
        assert!(error.contains("line 6") && error.contains("sise") && error.contains("size"), "{error}");
    }

    #[test]
    fn all_contradictions_are_told_at_once() {
        let error = Config::parse("[pool]\nsize = 0\n", "x.toml").unwrap_err().to_string();
        assert_eq!(error, "x.toml: pool.size must be at least 1\nx.toml: there is no [[database]]");
        let text = format!("{DATABASE}{DATABASE}").replacen("127.0.0.1", "db.example", 1);
        let error = Config::parse(&text, "x").unwrap_err().to_string();
        assert!(error.contains("neither an IP address") && error.contains("twice"), "{error}");
    }

    #[test]
    fn durations_and_cores_have_their_syntax() {
        let text = format!("{DATABASE}[pool]\nquery_wait_timeout = \"500ms\"\n[runtime]\ncores = \"0-2,5\"\n");
        let config = Config::parse(&text, "x").unwrap();
        assert_eq!(config.pool.query_wait_timeout, Duration::from_millis(500));
        assert_eq!(config.runtime.cores, Some(vec![0, 1, 2, 5]));
        for bad in ["5", "s", "5 days", "99999999999999999999s"] {
            assert!(Config::parse(&format!("{DATABASE}[pool]\nquery_wait_timeout = \"{bad}\"\n"), "x").is_err());
        }
        assert_eq!(parse_cpu_list("3-1"), None);
    }

    #[test]
    fn ranges_contain_what_their_prefix_says() {
        let config =
            Config::parse(&format!("{DATABASE}[[user]]\nname = \"a\"\ntrust = [\"10.1.0.0/20\", \"::1\"]\n"), "x")
                .unwrap();
        assert!(config.trusts("a", "10.1.15.9".parse().unwrap()));
        assert!(config.trusts("a", "::ffff:10.1.15.9".parse().unwrap()));
        assert!(!config.trusts("a", "10.1.16.1".parse().unwrap()));
        assert!(config.trusts("a", "::1".parse().unwrap()));
        assert!(!config.trusts("b", "::1".parse().unwrap()));
    }
}
