//! Where a load goes: `postgres://user:password@host:port/database`, or less of it.

use std::fmt;
use std::net::ToSocketAddrs as _;

use anyhow::{Context as _, bail};
use runtime::Address;

/// A server's address and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: Address,
    /// The user.
    pub(crate) user: String,
    /// The database.
    pub(crate) database: String,
    /// What the user proves to be by.
    pub(crate) password: Option<String>,
    /// As it was said, without the password.
    pub(crate) shown: String,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.shown)
    }
}

impl Target {
    /// Reads an address; `password` is used where it has none.
    ///
    /// # Errors
    /// When it makes no sense or the host is not known.
    pub(crate) fn parse(text: &str, password: Option<String>) -> anyhow::Result<Self> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).unwrap_or(text);
        if rest.contains(['?', '#']) {
            bail!("{}: parameters behind a ? are not understood", shown(text));
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, own_password) = match who.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (who, None),
        };
        let user = if user.is_empty() { "postgres".to_owned() } else { decode(user)? };
        let database = if database.is_empty() { user.clone() } else { decode(database)? };
        let (host, port) = split_port(place).with_context(|| format!("{} is no address", shown(text)))?;
        let address = (host.as_str(), port)
            .to_socket_addrs()
            .with_context(|| format!("the host {host} is not known"))?
            .next()
            .with_context(|| format!("the host {host} has no address"))?;
        let shown = format!("postgres://{user}@{place}/{database}");
        Ok(Self { address: Address::Tcp(address), user, database, password: own_password.or(password), shown })
    }
}

fn shown(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, place)| place)
}

fn split_port(place: &str) -> Option<(String, u16)> {
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let port = port.map_or(Some(5432), |port| port.parse().ok())?;
    Some((if host.is_empty() { "127.0.0.1" } else { host }.to_owned(), port))
}

/// `%41` is A.
fn decode(text: &str) -> anyhow::Result<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            bail!("two digits must follow a % in an address");
        };
        out.push(u8::try_from(high * 16 + low)?);
    }
    String::from_utf8(out).context("an address is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_usual_value() {
        let target = Target::parse("127.0.0.1:7432", Some("secret".into())).unwrap();
        assert_eq!((target.user.as_str(), target.database.as_str()), ("postgres", "postgres"));
        assert_eq!(target.password.as_deref(), Some("secret"));
        assert_eq!(target.address, Address::Tcp("127.0.0.1:7432".parse().unwrap()));
        let target = Target::parse("postgres://a%40b:p%3Aw@[::1]/app", None).unwrap();
        assert_eq!((target.user.as_str(), target.database.as_str()), ("a@b", "app"));
        assert_eq!(target.password.as_deref(), Some("p:w"));
        assert_eq!(target.address, Address::Tcp("[::1]:5432".parse().unwrap()));
        assert!(!format!("{target:?}").contains("p:w"));
    }

    #[test]
    fn nonsense_is_refused_without_showing_the_password() {
        for text in ["host:port", "postgres://u:secret@127.0.0.1:99999/x", "u:secret@127.0.0.1/x?sslmode=require"] {
            let error = format!("{:#}", Target::parse(text, None).unwrap_err());
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Target::parse("postgres://a%4@127.0.0.1", None).is_err());
    }
}
