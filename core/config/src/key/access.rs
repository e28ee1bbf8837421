//! Keys that say who may come in.

use super::{Section, key};

pub(crate) const AUTH: Section = Section {
    title: "[auth]",
    name: "auth",
    doc: "Who may come in, and how. Without rules (`hba_file`, `[[hba]]`) a user's `trust` decides, else its password.",
    keys: &[
        key(
            "hba_file",
            "path",
            "",
            "Rules in the syntax of PostgreSQL's `pg_hba.conf`. Role membership, host names and options other than `map` are refused. Paths that are not absolute begin where this file is.",
        ),
        key(
            "ident_file",
            "path",
            "",
            "Maps for rules with `map`, in the syntax of PostgreSQL's `pg_ident.conf`: map, name by the certificate or the operating system (or `/regex`), user (`all`, `/regex`, or with `\\1` for what the first parentheses caught).",
        ),
        key(
            "auth_file",
            "path",
            "",
            "Users in the syntax of PgBouncer's userlist: `\"name\" \"secret\"`, where a secret is a password, an MD5 hash or a SCRAM-SHA-256 verifier. A `[[user]]` with a `password` goes before it.",
        ),
        key(
            "auth_user",
            "text",
            "",
            "The user that looks others up in PostgreSQL, on a connection of its own per `[[database]]`, with `search_path = pg_catalog`. Without the key nobody is looked up.",
        ),
        key("auth_password", "password", "", "Its password. Without the key: the one of `auth_file`."),
        key("auth_password_file", "path", "", "A file that holds it, which only its owner may read."),
        key(
            "auth_dbname",
            "text",
            "",
            "The database it is done in. Without the key: the one of the `[[database]]`, `postgres` for `*`.",
        ),
        key(
            "auth_query",
            "text",
            "",
            "The query; `$1` is the user's name. It gives name and secret and may give, as further columns, whether the role may log in (boolean) and the seconds until its password ends (number, NULL for never). Without the key: these four from `pg_authid`.",
        ),
        key("auth_cache_time", "duration", "\"30s\"", "How long a user that was found is not looked up again."),
        key("auth_negative_cache_time", "duration", "\"5s\"", "How long a user that was not found is not."),
        key(
            "auth_delay_max",
            "duration",
            "\"5s\"",
            "After three failed logins of a user from an address (a network of 64 bits for IPv6) the next ones wait, first 100 ms, then twice as long each time up to this. Others are not affected. `\"0s\"`: nobody waits.",
        ),
        key(
            "ignore_startup_parameters",
            "list of texts",
            "[]",
            "Start-up parameters that are passed over. All others are settings that PostgreSQL accepts or refuses.",
        ),
    ],
};

pub(crate) const HBA: Section = Section {
    title: "[[hba]]",
    name: "hba",
    doc: "A rule, as a row of `pg_hba.conf`; the first that fits decides, and where none does nobody comes in. Values are written as there, words in quotes lose their meaning: `\"\\\"all\\\"\"`.",
    keys: &[
        key("type", "`local`, `host`, `hostssl`, `hostnossl`", "required", "How the client comes."),
        key("database", "text or list", "\"all\"", "Names, `all`, `sameuser`, `/regex`."),
        key(
            "user",
            "text or list",
            "\"all\"",
            "Names, `all`, `/regex`. A user must be known to come in, whatever the method.",
        ),
        key(
            "address",
            "text",
            "",
            "`10.0.0.0/8`, `10.0.0.0 255.0.0.0`, `all`, `samehost`, `samenet`. Needed unless the type is `local`.",
        ),
        key(
            "method",
            "`trust`, `reject`, `scram-sha-256`, `md5`, `password`, `peer`, `cert`",
            "required",
            "`md5` asks by SCRAM-SHA-256 where only a verifier is known. `peer` is for `local`, `cert` for `hostssl`.",
        ),
        key(
            "map",
            "text",
            "",
            "For `peer` and `cert`: the map of `auth.ident_file` that says who may come in as whom. Without the key: everybody as who they are.",
        ),
    ],
};
