//! Reading `[http]`.

use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use super::{Reader, Table, auth};
use crate::http::Http;
use crate::value::{self, Parsed};
use crate::{Password, key};

/// Shorter tokens are guessed.
const TOKEN_LEN_MIN: usize = 16;

pub(super) fn http(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Http {
    let Some(table) = reader.table(root, &key::HTTP) else { return Http::default() };
    let listen = reader.read(&table, "listen", value::address);
    let token = token(reader, &table);
    let certificate = reader.read(&table, "tls_cert", value::file);
    let private_key = reader.read(&table, "tls_key", value::file);
    let client_ca = reader.read(&table, "tls_client_ca", value::file);
    let has = |name: &str| table.find(name).is_some();
    for (one, other) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")] {
        if has(one) && !has(other) {
            reader.tell(table.place(one), format!("{one} needs the key {other}"));
        }
    }
    for name in ["token_file", "tls_cert", "tls_client_ca"] {
        if has(name) && !has("listen") {
            reader.tell(table.place(name), format!("{name} has no meaning without listen"));
        }
    }
    let guarded = has("token_file") || has("tls_client_ca");
    if let Some(address) = listen.filter(|address| !address.ip().to_canonical().is_loopback() && !guarded) {
        let message = format!(
            "listen: other machines can reach {address}, and anybody there could read the metrics; set token_file, or \
             tls_client_ca with tls_cert and tls_key"
        );
        reader.tell(table.place("listen"), message);
    }
    Http {
        listen,
        token,
        identity: certificate.zip(private_key),
        client_ca,
        allowed_hosts: reader.read_list(&table, "allowed_hosts", host).unwrap_or_default(),
        allowed_origins: reader.read_list(&table, "allowed_origins", origin).unwrap_or_default(),
    }
}

fn token(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Password> {
    let token = auth::password_of_file(reader, table, "token_file")?;
    let text = token.as_str();
    if text.len() < TOKEN_LEN_MIN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!(
            "token_file: a token is at least {TOKEN_LEN_MIN} characters of ASCII without blanks; `openssl rand -hex 32` makes one"
        );
        reader.tell(table.place("token_file"), message);
    }
    Some(token)
}

/// A name or address of a host, without a port.
fn host(value: &DeValue<'_>) -> Parsed<String> {
    let text = value::text(value)?.to_ascii_lowercase();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let sound = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if sound { Ok(text) } else { Err(format!("\"{text}\" is no name of a host without scheme and port")) }
}

/// What browsers send as `Origin`.
fn origin(value: &DeValue<'_>) -> Parsed<String> {
    let text = value::text(value)?.to_ascii_lowercase();
    let place = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let sound = place.is_some_and(|place| {
        !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
    });
    if sound || text == "null" {
        Ok(text)
    } else {
        Err(format!("\"{text}\" is no origin such as https://ops.example.com or http://10.0.0.1:8080"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::{Config, Effect};

    const LEAST: &str = "[[database]]\nname = \"app\"\nhost = \"::1\"\n[[user]]\nname = \"ann\"\ntrust = [\"local\"]\n";

    fn parse(keys: &str) -> Result<Config, String> {
        Config::parse(&format!("[http]\n{keys}{LEAST}"), "x").map_err(|errors| errors.to_string())
    }

    #[test]
    fn an_address_that_others_can_reach_needs_a_token_or_certificates() {
        for open in ["0.0.0.0:6480", "10.0.0.1:6480", "[::]:6480", "[2001:db8::1]:6480"] {
            let error = parse(&format!("listen = \"{open}\"\n")).unwrap_err();
            assert!(error.contains("anybody there could read the metrics; set token_file"), "{error}");
            let keys = format!("listen = \"{open}\"\ntls_cert = \"c\"\ntls_key = \"k\"\n");
            assert!(parse(&keys).unwrap_err().contains("set token_file"), "encryption alone keeps nobody out");
            assert!(parse(&format!("{keys}tls_client_ca = \"a\"\n")).is_ok());
        }
        for own in ["127.0.0.1:6480", "127.9.9.9:1", "[::1]:6480", "[::ffff:127.0.0.1]:6480"] {
            assert!(parse(&format!("listen = \"{own}\"\n")).is_ok(), "{own}");
        }
    }

    #[test]
    fn a_token_is_long_and_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let keys = format!("listen = \"0.0.0.0:6480\"\ntoken_file = \"{}\"\n", path.display());
        let put = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            parse(&keys)
        };
        let config = put("0123456789abcdef\n", 0o600).unwrap();
        assert_eq!(config.http.token.as_ref().map(crate::Password::as_str), Some("0123456789abcdef"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
        assert!(put("0123456789abcdef", 0o640).unwrap_err().contains("chmod 600"));
        for bad in ["short", "with a blank inside it", "mit Umlaut \u{e4}\u{e4}\u{e4}\u{e4}\u{e4}"] {
            let error = put(bad, 0o600).unwrap_err();
            assert!(error.contains("at least 16 characters") && !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_told() {
        for (keys, said) in [
            ("tls_cert = \"c\"\n", "tls_cert needs the key tls_key"),
            ("listen = \"[::1]:1\"\ntls_key = \"k\"\n", "tls_key needs the key tls_cert"),
            ("listen = \"[::1]:1\"\ntls_client_ca = \"a\"\n", "tls_client_ca needs the key tls_cert"),
            ("tls_cert = \"c\"\ntls_key = \"k\"\n", "tls_cert has no meaning without listen"),
            ("listen = \"localhost:1\"\n", "no IP address and port"),
            ("allowed_hosts = [\"http://a\"]\n", "no name of a host"),
            ("allowed_hosts = [\"a:80\"]\n", "no name of a host"),
            ("allowed_origins = [\"a\"]\n", "no origin"),
            ("allowed_origins = [\"https://a/b\"]\n", "no origin"),
            ("allowed_origins = [\"*\"]\n", "no origin"),
            ("token = \"x\"\n", "unknown key \"token\""),
        ] {
            let error = parse(keys).unwrap_err();
            assert!(error.contains(said), "{keys}: {error}");
        }
        let config =
            parse("allowed_hosts = [\"Ops.Example.com\", \"::1\"]\nallowed_origins = [\"HTTPS://A:1\"]\n").unwrap();
        assert_eq!(config.http.allowed_hosts, ["ops.example.com", "::1"]);
        assert_eq!(config.http.allowed_origins, ["https://a:1"]);
    }

    #[test]
    fn changes_wait_for_a_restart() {
        let (old, new) = (parse("").unwrap(), parse("listen = \"[::1]:1\"\n").unwrap());
        let diff = old.diff(&new);
        assert_eq!(diff.restart.len(), 1, "{:?}", diff.restart);
        assert_eq!(Config::effect_of("http.listen"), Effect::Restart);
        assert!(diff.live.is_empty() && diff.adopted.http.listen.is_none());
    }
}
