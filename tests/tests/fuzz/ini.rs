//! Configurations of PgBouncer.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use config::pgbouncer::{Import, Surroundings};

use crate::Target;

/// A pgbouncer.ini.
pub(crate) const INI: Target = Target {
    name: "pgbouncer.ini",
    inputs: &[
        b"; a comment\n[databases]\napp = host=127.0.0.1 port=5433 user=u password='it''s' pool_size=5\n* = host=/run\n[pgbouncer]\nlisten_addr = *\nauth_type = trust\n",
        b"[pgbouncer]\nserver_lifetime = 1.5e2\nunix_socket_mode = 0777\nmax_client_conn = 0x10\n%include more.ini\n",
        b"[users]\n\"a \"\"b\" = pool_mode=session query_timeout=5\n[peers]\n1 = host=/tmp port=6432\n[pgbouncer] verbose=3",
        b"[databases]\na = auth_user=x reserve_pool=1 reserve_pool_size=2 timezone=UTC datestyle='a\tb'\n[pgbouncer]\nadmin_users = a, b\nmax_user_connections = 1\n",
        b"[databases]\n\xc3\xa4 = host=\xff\n\r\n=\n[",
    ],
    words: &[
        b"\n",
        b"[pgbouncer]\n",
        b"[databases]\n",
        b"[users]\n",
        b"[peers]\n",
        b" = ",
        b"'",
        b"\"",
        b"%include more.ini\n",
        b";",
        b"host=",
        b"pool_size=",
        b"user=",
        b"password=",
        b"auth_query=",
        b"auth_dbname=",
        b"min_pool_size=",
        b"-1",
        b"0",
        b"\\",
        b"listen_port=",
        b"auth_type=hba",
        b"server_reset_query=",
        b"client_tls_sslmode=verify-full",
        b"1e300",
    ],
    check,
};

fn read(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("more.ini") => Ok("[databases]\nmore = host=x\n[pgbouncer]\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn addresses(_: &str) -> io::Result<Vec<IpAddr>> {
    Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
}

fn users(_: &Path) -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

/// What is turned into our own form is sound TOML, and errors are at lines that there are.
fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let lines = u32::try_from(text.split('\n').count()).unwrap();
    let is_there = |errors: &config::ConfigErrors| {
        assert!(errors.iter().count() > 0);
        for error in errors.iter().filter(|error| error.file == "fuzz") {
            assert!(error.place.is_none_or(|(line, column)| (1..=lines).contains(&line) && column > 0), "{error}");
        }
    };
    match Import::of(text, "fuzz", &Surroundings { read, addresses, users }) {
        Ok(import) => {
            let parsed: Result<toml::Table, _> = import.toml.parse();
            assert!(parsed.is_ok(), "{:?} in {}", parsed.err(), *import.toml);
            assert!(import.table().lines().count() >= import.report.len() && import.json().starts_with('['));
            // a file of rules or of users may be a pipe that nobody writes to
            if !["auth_file", "hba_file"].iter().any(|key| text.contains(key)) {
                import.config().err().iter().for_each(is_there);
            }
        }
        Err(errors) => is_there(&errors),
    }
}
