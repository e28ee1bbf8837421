//! The keys that may stand in the file. Reading refuses all others; `CONFIG.md` is printed from here.

use std::fmt::Write as _;

mod access;
mod http;
mod log;
mod statistics;

pub(crate) use access::{AUTH, HBA};
pub(crate) use http::HTTP;
pub(crate) use log::LOG;
pub(crate) use statistics::STATS;

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    kind: &'static str,
    default: &'static str,
    doc: &'static str,
}

/// The keys of one table of the file.
pub(crate) struct Section {
    /// As it is written in the file.
    pub(crate) title: &'static str,
    /// The key of the table in the file.
    pub(crate) name: &'static str,
    doc: &'static str,
    pub(crate) keys: &'static [Key],
}

const fn key(name: &'static str, kind: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}

pub(crate) const LISTEN: Section = Section {
    title: "[listen]",
    name: "listen",
    doc: "Where clients connect.",
    keys: &[
        key(
            "addresses",
            "list of addresses",
            "[\"127.0.0.1:6432\"]",
            "TCP addresses. May be empty when there is a `unix_socket_dir`.",
        ),
        key(
            "unix_socket_dir",
            "absolute path",
            "",
            "Directory for a Unix socket, named `.s.PGSQL.<port>` after the first TCP address's port (6432 without one). Without the key there is none.",
        ),
        key("backlog", "number", "1024", "Connections the kernel holds until they are accepted."),
        key("tls", "table", "", "Encryption: the keys of `[listen.tls]`."),
    ],
};

const TLS_MODES: &str = "`disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`";

pub(crate) const LISTEN_TLS: Section = Section {
    title: "[listen.tls]",
    name: "tls",
    doc: "TLS 1.2 and 1.3 towards clients, asked for by SSLRequest or begun at once (`sslnegotiation=direct`, with ALPN `postgresql`). \
          The Unix socket has none and needs none. Files are read anew within a second or two of a change, for clients that come \
          afterwards; one that cannot be used is reported and changes nothing.",
    keys: &[
        key(
            "mode",
            TLS_MODES,
            "\"disable\"",
            "`allow` and `prefer`: clients that ask for TLS get it. `require`: others are refused (28000), but for cancel requests. `verify-ca` and `verify-full`: clients must show a certificate of `client_ca`.",
        ),
        key("certificate", "path", "", "PEM file: our certificate, then those that lead to its authority."),
        key(
            "key",
            "path",
            "",
            "PEM file: its private key, without a passphrase. Others than its owner must not be able to read it; of a file of root's the group may.",
        ),
        key("client_ca", "path", "", "PEM file: authorities of clients' certificates."),
        key(
            "client_crl",
            "path",
            "",
            "PEM file: certificates that those authorities have revoked, a list of each of them. A list that is missing or out of date refuses its clients.",
        ),
    ],
};

pub(crate) const RUNTIME: Section = Section {
    title: "[runtime]",
    name: "runtime",
    doc: "What the process runs on.",
    keys: &[key(
        "cores",
        "list of cores",
        "\"auto\"",
        "Cores to pin shards to, one shard each, as in `\"0-3,8\"`. `\"auto\"`: every core this process may use.",
    )],
};

pub(crate) const LIMITS: Section = Section {
    title: "[limits]",
    name: "limits",
    doc: "Bounds on clients.",
    keys: &[
        key("max_client_connections", "number", "10000", "Client connections at once, all shards together."),
        key("auth_timeout", "duration", "\"10s\"", "A client that has not logged in by then is closed."),
        key("shutdown_timeout", "duration", "\"30s\"", "How long transactions may go on after SIGTERM."),
        key(
            "memory",
            "size such as `\"512MiB\"`, at least `\"1MiB\"`",
            "",
            "Bytes in all buffers together. From three quarters of it on, results are read from PostgreSQL only as fast as their clients read them; when it is reached, the session with the most in buffers is closed, with 53200 where it can still be told. Without the key: no bound but those of each client.",
        ),
    ],
};

pub(crate) const POOL: Section = Section {
    title: "[pool]",
    name: "pool",
    doc: "What every pool is like. A pool is what one user's clients use of one database. The same keys may stand in a table `pool` \
          of a `[[database]]` or a `[[user]]`: a user's go before a database's, a database's before these.",
    keys: &[
        key(
            "mode",
            "`transaction`, `session`, `statement`",
            "\"transaction\"",
            "How long a session keeps a server connection: for a transaction, for its life, or for one request. With `statement` a request that leaves a transaction open is refused with 0A000 and rolled back.",
        ),
        key("size", "number, at least 1", "20", "Server connections of a pool, all shards together."),
        key(
            "min_pool_size",
            "number",
            "0",
            "Server connections that are kept, all shards together, from a pool's first client on: made before they are needed, not closed for being idle, and made again when lost.",
        ),
        key(
            "reserve_pool_size",
            "number",
            "0",
            "Server connections beyond `size`, all shards together, for clients that have waited for `reserve_pool_timeout`. They are closed when they have been idle for as long.",
        ),
        key("reserve_pool_timeout", "duration", "\"5s\"", "How long a client waits before the reserve is used."),
        key(
            "queue_max",
            "number, at least 1",
            "",
            "Requests that may wait for a server connection, all shards together. Further ones are refused at once with 53300; their sessions go on. Without the key: no bound.",
        ),
        key(
            "query_wait_timeout",
            "duration",
            "\"120s\"",
            "How long a client waits for a server connection before it gets an error.",
        ),
        key(
            "server_connect_timeout",
            "duration",
            "\"5s\"",
            "How long connecting and logging in to PostgreSQL may take.",
        ),
        key("server_idle_timeout", "duration", "\"10min\"", "A server connection idle for so long is closed."),
        key(
            "server_lifetime",
            "duration",
            "\"1h\"",
            "A server connection older than this is closed as soon as it is free; each is taken to be up to a tenth older than it is, so that those made together do not end together.",
        ),
        key(
            "query_timeout",
            "duration or `\"off\"`",
            "\"off\"",
            "How long PostgreSQL may work on one request, the time it waits for its client's COPY data or reading included. Then it is cancelled and the client gets 57014; when PostgreSQL does not stop within a second, both connections are closed.",
        ),
        key(
            "transaction_timeout",
            "duration or `\"off\"`",
            "\"off\"",
            "How long a transaction may last, a single statement included. Then the client is closed with 25P04 and what it did is rolled back.",
        ),
        key(
            "idle_transaction_timeout",
            "duration or `\"off\"`",
            "\"off\"",
            "How long a client may send nothing in a transaction, or in the middle of a request that has a server connection. Then it is closed with 25P03 and what it did is rolled back.",
        ),
        key(
            "client_idle_timeout",
            "duration or `\"off\"`",
            "\"off\"",
            "How long a client may send nothing outside a transaction. Then it is closed with 57P05.",
        ),
        key(
            "client_stall_timeout",
            "duration or `\"off\"`",
            "\"off\"",
            "How long a client that does not read its result, or reads less than about 256 KiB of it, may keep a server connection waiting. Then it is closed; it can be told nothing, since it does not read.",
        ),
        key(
            "prepared_statements",
            "number",
            "500",
            "Prepared statements kept on each server connection; the least recently used goes first.",
        ),
        key(
            "share",
            "`on`, `off`",
            "\"on\"",
            "Whether requests that leave no trace in their session may travel interleaved with others' on one server connection (transaction mode only).",
        ),
        key(
            "share_pipes",
            "number, at least 1",
            "",
            "How many shared server connections of a pool, spread over the cores, are filled before more are used. Sessions with different settings never share one. Without the key: two per core.",
        ),
        key("share_depth", "number, at least 1", "64", "Requests in flight at once on one shared server connection."),
        key(
            "server_clean",
            "`strict`, `declared`, `never`",
            "\"strict\"",
            "What is made sure of before another session has a server connection. `strict`: PostgreSQL is asked what was left there, and it is cleaned by `DISCARD ALL`, unless nothing that ran can leave anything. `declared`: the same where words of a text say so (`SET`, `TEMP`, advisory locks, `LISTEN`, `DO`, `CALL` ...); functions that are called are promised to leave nothing. `never`: sessions promise to leave nothing. What these promises cover is in `docs/pins.md`.",
        ),
        key(
            "sequence_state",
            "`shared`, `pin`",
            "\"shared\"",
            "What becomes of `currval` and `lastval`. `shared`: the session's connection answers them as long as no other session has had it, else 55000. `pin`: a session that has used a sequence keeps its connection until `DISCARD SEQUENCES` or `DISCARD ALL`.",
        ),
    ],
};

pub(crate) const SERVER: Section = Section {
    title: "[server]",
    name: "server",
    doc: "What connections to PostgreSQL are like. The same keys may stand in a `[[database]]`, before these.",
    keys: &[
        key(
            "tls",
            TLS_MODES,
            "\"disable\"",
            "As libpq's `sslmode`: `allow` uses TLS when PostgreSQL refuses us without, `prefer` when it offers it, `require` always, `verify-ca` when its certificate leads to `tls_ca`, `verify-full` when it also names the `host`. Unix sockets have none.",
        ),
        key("tls_ca", "path", "", "PEM file: authorities of PostgreSQL's certificate, or that certificate itself."),
        key(
            "tls_crl",
            "path",
            "",
            "PEM file: certificates that those authorities have revoked, a list of each of them. A list that is missing or out of date refuses the connection.",
        ),
        key("tls_certificate", "path", "", "PEM file: the certificate that we show to PostgreSQL."),
        key("tls_key", "path", "", "PEM file: its private key, as `key` in `[listen.tls]`."),
        key(
            "require_auth",
            "methods, comma-separated",
            "",
            "As libpq's: how PostgreSQL may have us prove who we are: `scram-sha-256`, `md5`, `password`, `none` (it does not ask), or all but some: `!password,!md5`. Whoever asks for another is told nothing. Without the key: any.",
        ),
        key(
            "protocol",
            "`3.0`, `3.2`",
            "\"3.2\"",
            "The version of the protocol that PostgreSQL is asked for. With 3.2, PostgreSQL 18 gives cancel keys that cannot be guessed; older ones answer what they speak, in the same breath. Whoever refuses it is asked for 3.0 from then on.",
        ),
    ],
};

pub(crate) const DNS: Section = Section {
    title: "[dns]",
    name: "dns",
    doc: "How names of hosts are looked up: by the system's resolver, in the background. Connections to an address that a name has no more end as \
          soon as they are free. A name that cannot be found keeps the addresses it had.",
    keys: &[
        key("max_ttl", "duration, at least 100ms", "\"15s\"", "How long what was found is believed."),
        key(
            "nxdomain_ttl",
            "duration, at least 100ms",
            "\"15s\"",
            "How long a name that was not found is not looked up again.",
        ),
    ],
};

pub(crate) const ADMIN: Section = Section {
    title: "[admin]",
    name: "admin",
    doc: "Who may use the console: the database `optimacore`, also called `pgbouncer`. `docs/admin.md` tells what it can do.",
    keys: &[
        key("admin_users", "list of users", "[]", "Users who may use every command; each has its `[[user]]`."),
        key("stats_users", "list of users", "[]", "Users who may only look: every `SHOW` but `SHOW FDS`."),
    ],
};

pub(crate) const DATABASE: Section = Section {
    title: "[[database]]",
    name: "database",
    doc: "A database clients may ask for; one table each, at least one.",
    keys: &[
        key(
            "name",
            "text",
            "required",
            "The name clients ask for, or `*` for any that has no table of its own. Not `optimacore` or `pgbouncer`: these are the console's.",
        ),
        key(
            "host",
            "text or list",
            "required",
            "PostgreSQL's IP address or host name, or the directory of its Unix socket. Several, in a list or with commas between, are tried in their order, with a port of their own where they have one (`db2:5433`, `[::1]:5433`); one that fails is passed over for a while, at first half a second, at most 30 seconds. Names are looked up as `[dns]` says.",
        ),
        key("port", "number", "5432", "Its port."),
        key(
            "target_session_attrs",
            "`any`, `read-write`, `read-only`, `primary`, `standby`",
            "\"any\"",
            "As libpq's: what a server must be like to be used; one that is not is passed over. Needs PostgreSQL 14 or later.",
        ),
        key("dbname", "text", "", "The name it has there. Without the key: the one asked for."),
        key(
            "user",
            "text",
            "",
            "The user we log in as there, whoever the client is. Without the key: the client's `server_user`, or its own name.",
        ),
        key("password", "password", "", "The password of `user` there."),
        key("password_file", "path", "", "A file that holds it, which only its owner may read."),
        key(
            "max_connections",
            "number, at least 1",
            "",
            "Server connections to this database, all its pools together, besides the one that reads its catalog; pools share them fairly. Without the key: no bound but the pools' sizes.",
        ),
        key(
            "max_client_connections",
            "number, at least 1",
            "",
            "Client connections to this database at once. Further ones are refused with 53300. Without the key: no bound but `limits.max_client_connections`.",
        ),
        key(
            "connect_query",
            "text",
            "",
            "SQL that is run on every new server connection before clients may have it, and again when the connection was cleaned by `DISCARD ALL`. When it fails, the connection is not used and the attempt counts as failed.",
        ),
        key(
            "settings",
            "table of texts",
            "",
            "Settings that server connections begin with, as in `{ TimeZone = \"UTC\" }`: what a client has that says nothing else, and what `RESET` goes back to.",
        ),
        key("tls", TLS_MODES, "", "Without the key: `[server]`'s."),
        key("tls_ca", "path", "", "Without the key: `[server]`'s."),
        key("tls_crl", "path", "", "Without the key: `[server]`'s."),
        key("tls_certificate", "path", "", "Without the key: `[server]`'s."),
        key("tls_key", "path", "", "Without the key: `[server]`'s."),
        key("require_auth", "methods", "", "Without the key: `[server]`'s."),
        key("protocol", "`3.0`, `3.2`", "", "Without the key: `[server]`'s."),
        key("pool", "table", "", "Keys of `[pool]` that differ for this database."),
    ],
};

pub(crate) const USER: Section = Section {
    title: "[[user]]",
    name: "user",
    doc: "A user that may log in; one table each. Without rules of `[auth]` it needs `password` or `trust`.",
    keys: &[
        key("name", "text", "required", "The name."),
        key(
            "password",
            "text",
            "",
            "What the user must prove to know: a SCRAM-SHA-256 verifier (made by `ctl password-verifier`) or an MD5 hash, as PostgreSQL keeps them in `pg_authid.rolpassword`. Not the password itself.",
        ),
        key("password_file", "path", "", "A file that holds it, which only its owner may read."),
        key(
            "trust",
            "list of address ranges",
            "[]",
            "From where the user may log in without a password: `\"10.0.0.0/8\"`, `\"127.0.0.1\"`, or `\"local\"` for the Unix socket. Not looked at where there are rules.",
        ),
        key(
            "server_user",
            "text",
            "",
            "The user we log in as at PostgreSQL for this one. Without the key: the same name.",
        ),
        key(
            "server_password",
            "password",
            "",
            "The password of that user there. Without the key: what the client has proved to know is used (its password, MD5 hash or SCRAM keys), if the user is the same there.",
        ),
        key("server_password_file", "path", "", "A file that holds it, which only its owner may read."),
        key(
            "max_client_connections",
            "number, at least 1",
            "",
            "Client connections of this user at once. Further ones are refused with 53300. Without the key: no bound but `limits.max_client_connections`.",
        ),
        key(
            "max_server_connections",
            "number, at least 1",
            "",
            "Server connections for clients of this user, all its pools together. Without the key: no bound but the pools' sizes.",
        ),
        key("pool", "table", "", "Keys of `[pool]` that differ for this user."),
    ],
};

/// All of them, in the order they are described in.
pub(crate) const SECTIONS: [&Section; 15] = [
    &LISTEN,
    &RUNTIME,
    &LIMITS,
    &POOL,
    &SERVER,
    &DNS,
    &STATS,
    &HTTP,
    &LOG,
    &ADMIN,
    &AUTH,
    &HBA,
    &DATABASE,
    &USER,
    &LISTEN_TLS,
];

/// The description of every key, in Markdown: what `CONFIG.md` must hold.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Generated from the table of keys in `core/config/src/key.rs`; a test fails when it is stale\n\
         (`UPDATE_EXPECT=1 cargo test -p optimacore-config` writes it anew).\n\n\
         One TOML file, given by `optimacore --config FILE`; `ctl check FILE` tells all that is wrong with one. Unknown keys are\n\
         refused. Durations are a whole number and a unit, as in `\"500ms\"`, `\"30s\"`, `\"10min\"`, `\"1h\"`. A password is\n\
         the password itself, `env:NAME` for one in the environment, or `credential:NAME` for one of systemd's credentials.\n",
    );
    for section in SECTIONS {
        // writing to a String cannot fail
        let _ = write!(
            out,
            "\n## `{}`\n\n{}\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n",
            section.title, section.doc
        );
        for key in section.keys {
            let default = match key.default {
                "" => "—".to_owned(),
                "required" => "required".to_owned(),
                default => format!("`{default}`"),
            };
            let _ = writeln!(out, "| `{}` | {} | {default} | {} |", key.name, key.kind, key.doc);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn config_md_is_fresh() {
        expect_test::expect_file!["../../CONFIG.md"].assert_eq(&reference());
    }

    #[test]
    fn the_defaults_described_are_those_that_hold() {
        let mut text = String::new();
        // with a rule nothing is as it is by default
        for section in SECTIONS.into_iter().filter(|section| section.name != HBA.name) {
            text.push_str(&format!("{}\n", section.title));
            for key in section.keys {
                match key.default {
                    "" => {}
                    "required" => {
                        text.push_str(&format!("{} = \"*\"\n", key.name).replace("host = \"*\"", "host = \"::1\""))
                    }
                    default => text.push_str(&format!("{} = {default}\n", key.name)),
                }
            }
            if section.name == "user" {
                text.push_str("trust = [\"local\"]\n");
            }
        }
        let text = text.replacen("trust = []\n", "", 1);
        let least = "[[database]]\nname = \"*\"\nhost = \"::1\"\n[[user]]\nname = \"*\"\ntrust = [\"local\"]\n";
        let (full, least) = (Config::parse(&text, "full").unwrap(), Config::parse(least, "least").unwrap());
        assert_eq!(format!("{full:?}"), format!("{least:?}"));
    }
}
