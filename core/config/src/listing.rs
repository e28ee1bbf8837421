//! A configuration as a list of keys and values: what `SHOW CONFIG` shows, what `SET` changes, and what a reload would change.

use std::fmt;
use std::time::Duration;

use crate::{
    Config, Database, Limits, Pool, PoolMode, PoolOverrides, SequenceState, ServerClean, SessionAttrs, Share, Timeout,
    TimeoutOverrides, User,
};

mod secure;

/// Shown instead of a secret.
const HIDDEN: &str = "(hidden)";

/// One key that has a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// As in `pool.size` or `database.app.host`.
    pub key: String,
    /// The value as it is shown; secrets are not.
    pub value: String,
    /// The value as it is compared.
    exact: String,
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// At once.
    Live,
    /// When the process starts again.
    Restart,
}

/// One difference between two configurations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// Its value before; none when it had none.
    pub from: Option<String>,
    /// Its value now.
    pub to: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "{} changed", self.key),
            (from, to) => {
                let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
                write!(f, "{}: {} -> {}", self.key, text(from), text(to))
            }
        }
    }
}

/// What a new configuration changes.
#[derive(Clone, Debug)]
pub struct Diff {
    /// The old one with every change that can be made at once.
    pub adopted: Config,
    /// Those changes.
    pub live: Vec<Difference>,
    /// Changes that wait for a restart.
    pub restart: Vec<Difference>,
}

fn entry(key: &str, value: impl fmt::Display) -> Entry {
    let value = value.to_string();
    Entry { key: key.to_owned(), exact: value.clone(), value }
}

fn optional<T: fmt::Display>(out: &mut Vec<Entry>, key: &str, value: Option<T>) {
    out.extend(value.map(|value| entry(key, value)));
}

fn secret(out: &mut Vec<Entry>, key: &str, value: Option<&str>) {
    out.extend(value.map(|exact| Entry { key: key.to_owned(), value: HIDDEN.to_owned(), exact: exact.to_owned() }));
}

fn list<T: fmt::Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A duration as it is written in the file.
fn duration(value: Duration) -> String {
    let ms = value.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

fn timeout(value: Timeout) -> String {
    value.duration().map_or_else(|| "off".to_owned(), duration)
}

/// A number of bytes as it is written in the file.
fn size(bytes: u64) -> String {
    [("GiB", 1u64 << 30), ("MiB", 1 << 20)]
        .into_iter()
        .find(|(_, unit)| bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{}KiB", bytes >> 10), |(name, unit)| format!("{}{name}", bytes / unit))
}

impl Config {
    /// Every key that has a value, in the order of the reference.
    #[must_use]
    pub fn listing(&self) -> Vec<Entry> {
        let mut out = vec![entry("listen.addresses", list(&self.listen.addresses))];
        optional(&mut out, "listen.unix_socket_dir", self.listen.unix_socket_dir.as_ref().map(|dir| dir.display()));
        out.push(entry("listen.backlog", self.listen.backlog));
        secure::listen(&mut out, &self.listen.tls);
        let cores = self.runtime.cores.as_deref().map_or_else(|| "auto".to_owned(), list);
        out.push(entry("runtime.cores", cores));
        limits(&mut out, &self.limits);
        overrides(&mut out, "pool", &PoolOverrides::from(self.pool));
        secure::server(&mut out, "server", &self.server);
        out.push(entry("dns.max_ttl", duration(self.dns.max_ttl)));
        out.push(entry("dns.nxdomain_ttl", duration(self.dns.nxdomain_ttl)));
        optional(&mut out, "stats.socket", self.stats.socket.as_ref().map(|path| path.display()));
        out.push(entry("stats.statements", self.stats.statements));
        optional(&mut out, "stats.export_dir", self.stats.export_dir.as_ref().map(|path| path.display()));
        out.push(entry("stats.export_interval", duration(self.stats.export_interval)));
        out.push(entry("stats.export_size_max", size(self.stats.export_size_max)));
        secure::http(&mut out, &self.http);
        out.push(entry("log.level", self.log.level.name()));
        out.push(entry("log.format", self.log.format.name()));
        out.push(entry("log.connections", self.log.connections.name()));
        out.push(entry("log.slow_statements", timeout(self.log.slow_statements)));
        out.push(entry("admin.admin_users", list(&self.admin.admin_users)));
        out.push(entry("admin.stats_users", list(&self.admin.stats_users)));
        secure::auth(&mut out, &self.auth);
        for database in &self.databases {
            list_database(&mut out, database);
        }
        for user in &self.users {
            list_user(&mut out, user);
        }
        out
    }

    /// When a change of a key takes effect.
    #[must_use]
    pub fn effect_of(key: &str) -> Effect {
        let live = match key.split_once('.') {
            Some(("limits", "memory")) => false,
            Some(("user", rest)) => {
                !(rest.ends_with(".max_client_connections") || rest.ends_with(".max_server_connections"))
            }
            Some(("limits" | "pool" | "log" | "admin", _)) => true,
            // a name may hold dots; the pool's keys hold none
            Some(("database", rest)) => {
                [".host", ".port", ".target_session_attrs"].iter().any(|key| rest.ends_with(key))
                    || rest.ends_with(".max_connections")
                    || rest.ends_with(".max_client_connections")
                    || rest.rsplit_once('.').is_some_and(|(of, _)| of.ends_with(".pool"))
            }
            Some(_) | None => false,
        };
        if live { Effect::Live } else { Effect::Restart }
    }

    /// What changes when `new` is put in the place of this one.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Diff {
        let mut adopted = Self {
            limits: Limits { memory: self.limits.memory, ..new.limits },
            pool: new.pool,
            log: new.log,
            admin: new.admin.clone(),
            users: new.users.clone(),
            ..self.clone()
        };
        adopted.auth.kinds = crate::read::auth::kinds(&adopted.users, &adopted.auth.listed);
        for user in &mut adopted.users {
            let before = self.user(&user.name);
            user.max_client_connections = before.and_then(|before| before.max_client_connections);
            user.max_server_connections = before.and_then(|before| before.max_server_connections);
        }
        for database in &mut adopted.databases {
            if let Some(now) = new.databases.iter().find(|now| now.name == database.name) {
                database.pool = now.pool;
                database.hosts.clone_from(&now.hosts);
                database.port = now.port;
                database.target_session_attrs = now.target_session_attrs;
                database.max_connections = now.max_connections;
                database.max_client_connections = now.max_client_connections;
            }
        }
        let (live, restart) = (differences(self, &adopted), differences(&adopted, new));
        Diff { adopted, live, restart }
    }

    /// Changes one key that takes effect at once, by its name here or in a pgbouncer.ini.
    ///
    /// # Errors
    /// Why it cannot be changed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let key = key.to_ascii_lowercase();
        match alias(&key).unwrap_or(&key) {
            "limits.max_client_connections" => self.limits.max_client_connections = positive(value)?,
            "limits.auth_timeout" => self.limits.auth_timeout = read_duration(value)?,
            "limits.shutdown_timeout" => self.limits.shutdown_timeout = read_duration(value)?,
            "log.level" => self.log.level = crate::value::level_named(value)?,
            "log.format" => self.log.format = crate::value::log_format_named(value)?,
            "log.connections" => self.log.connections = crate::value::log_connections_named(value)?,
            "log.slow_statements" => self.log.slow_statements = read_timeout(value)?,
            known => match known.strip_prefix("pool.") {
                Some(name) => set_pool(&mut self.pool, name, value)?,
                None if self.listing().iter().any(|entry| entry.key == known) => {
                    return Err(format!("\"{known}\" cannot be changed while running"));
                }
                None => return Err(format!("there is no setting \"{key}\"")),
            },
        }
        Ok(())
    }
}

/// Our key for one of a pgbouncer.ini.
fn alias(key: &str) -> Option<&'static str> {
    Some(match key {
        "max_client_conn" => "limits.max_client_connections",
        "client_login_timeout" => "limits.auth_timeout",
        "log_connections" | "log_disconnections" => "log.connections",
        "default_pool_size" => "pool.size",
        "pool_mode" => "pool.mode",
        "query_wait_timeout" => "pool.query_wait_timeout",
        "server_connect_timeout" => "pool.server_connect_timeout",
        "server_idle_timeout" => "pool.server_idle_timeout",
        "server_lifetime" => "pool.server_lifetime",
        "max_prepared_statements" => "pool.prepared_statements",
        _ => return None,
    })
}

fn set_pool(pool: &mut Pool, key: &str, value: &str) -> Result<(), String> {
    match key {
        "mode" => {
            pool.mode = match value {
                "transaction" => PoolMode::Transaction,
                "session" => PoolMode::Session,
                "statement" => PoolMode::Statement,
                _ => return Err(format!("\"{value}\" is none of transaction, session, statement")),
            }
        }
        "size" => pool.size = positive(value)?,
        "query_wait_timeout" => pool.query_wait_timeout = read_duration(value)?,
        "server_connect_timeout" => pool.server_connect_timeout = read_duration(value)?,
        "server_idle_timeout" => pool.server_idle_timeout = read_duration(value)?,
        "server_lifetime" => pool.server_lifetime = read_duration(value)?,
        "prepared_statements" => pool.prepared_statements = number(value)?,
        "share" => {
            pool.share = match value {
                "on" => Share::On,
                "off" => Share::Off,
                _ => return Err(format!("\"{value}\" is neither on nor off")),
            }
        }
        "share_pipes" => pool.share_pipes = Some(positive(value)?),
        "share_depth" => pool.share_depth = positive(value)?,
        "server_clean" => pool.server_clean = one_of(value, &ServerClean::ALL.map(|clean| (clean.name(), clean)))?,
        "sequence_state" => {
            pool.sequence_state = one_of(value, &SequenceState::ALL.map(|state| (state.name(), state)))?;
        }
        "min_pool_size" => pool.min_pool_size = number(value)?,
        "reserve_pool_size" => pool.reserve_pool_size = number(value)?,
        "reserve_pool_timeout" => pool.reserve_pool_timeout = read_duration(value)?,
        "queue_max" => pool.queue_max = Some(positive(value)?),
        "query_timeout" => pool.timeouts.query = read_timeout(value)?,
        "transaction_timeout" => pool.timeouts.transaction = read_timeout(value)?,
        "idle_transaction_timeout" => pool.timeouts.idle_transaction = read_timeout(value)?,
        "client_idle_timeout" => pool.timeouts.client_idle = read_timeout(value)?,
        "client_stall_timeout" => pool.timeouts.client_stall = read_timeout(value)?,
        _ => return Err(format!("there is no setting \"pool.{key}\"")),
    }
    Ok(())
}

fn one_of<T: Copy>(value: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("\"{value}\" is none of {}", names()))
}

fn number(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("\"{value}\" is no whole number up to {}", u32::MAX))
}

fn positive(value: &str) -> Result<u32, String> {
    number(value).and_then(|number| if number > 0 { Ok(number) } else { Err("must be at least 1".to_owned()) })
}

/// As in the file, or a number of seconds as in a pgbouncer.ini.
fn read_duration(value: &str) -> Result<Duration, String> {
    let text = if value.bytes().all(|byte| byte.is_ascii_digit()) { format!("{value}s") } else { value.to_owned() };
    crate::value::parse_duration(&text)
        .ok_or_else(|| format!("\"{value}\" is no duration such as 500ms, 30s, 10min or 1h"))
}

/// As [`read_duration`], or `off`, which a pgbouncer.ini writes as 0.
fn read_timeout(value: &str) -> Result<Timeout, String> {
    if value == "off" {
        return Ok(Timeout::OFF);
    }
    read_duration(value).map(|bound| if bound.is_zero() { Timeout::OFF } else { Timeout::after(bound) })
}

/// Differences of the listings.
fn differences(old: &Config, new: &Config) -> Vec<Difference> {
    let (old, new) = (old.listing(), new.listing());
    let mut out = Vec::new();
    for before in &old {
        let after = new.iter().find(|after| after.key == before.key);
        if after.is_none_or(|after| after.exact != before.exact) {
            out.push(Difference {
                key: before.key.clone(),
                from: Some(before.value.clone()),
                to: after.map(|after| after.value.clone()),
            });
        }
    }
    for after in new.iter().filter(|after| !old.iter().any(|before| before.key == after.key)) {
        out.push(Difference { key: after.key.clone(), from: None, to: Some(after.value.clone()) });
    }
    out
}

fn limits(out: &mut Vec<Entry>, limits: &Limits) {
    out.push(entry("limits.max_client_connections", limits.max_client_connections));
    out.push(entry("limits.auth_timeout", duration(limits.auth_timeout)));
    out.push(entry("limits.shutdown_timeout", duration(limits.shutdown_timeout)));
    optional(out, "limits.memory", limits.memory.map(size));
}

impl From<Pool> for PoolOverrides {
    /// Keys that make any pool like this one.
    fn from(pool: Pool) -> Self {
        Self {
            mode: Some(pool.mode),
            size: Some(pool.size),
            query_wait_timeout: Some(pool.query_wait_timeout),
            server_connect_timeout: Some(pool.server_connect_timeout),
            server_idle_timeout: Some(pool.server_idle_timeout),
            server_lifetime: Some(pool.server_lifetime),
            prepared_statements: Some(pool.prepared_statements),
            share: Some(pool.share),
            share_pipes: pool.share_pipes,
            share_depth: Some(pool.share_depth),
            server_clean: Some(pool.server_clean),
            sequence_state: Some(pool.sequence_state),
            min_pool_size: Some(pool.min_pool_size),
            reserve_pool_size: Some(pool.reserve_pool_size),
            reserve_pool_timeout: Some(pool.reserve_pool_timeout),
            queue_max: pool.queue_max,
            timeouts: TimeoutOverrides {
                query: Some(pool.timeouts.query),
                transaction: Some(pool.timeouts.transaction),
                idle_transaction: Some(pool.timeouts.idle_transaction),
                client_idle: Some(pool.timeouts.client_idle),
                client_stall: Some(pool.timeouts.client_stall),
            },
        }
    }
}

fn overrides(out: &mut Vec<Entry>, of: &str, pool: &PoolOverrides) {
    let key = |name: &str| format!("{of}.{name}");
    optional(out, &key("mode"), pool.mode.map(PoolMode::name));
    optional(out, &key("size"), pool.size);
    optional(out, &key("query_wait_timeout"), pool.query_wait_timeout.map(duration));
    optional(out, &key("server_connect_timeout"), pool.server_connect_timeout.map(duration));
    optional(out, &key("server_idle_timeout"), pool.server_idle_timeout.map(duration));
    optional(out, &key("server_lifetime"), pool.server_lifetime.map(duration));
    optional(out, &key("prepared_statements"), pool.prepared_statements);
    optional(out, &key("share"), pool.share.map(Share::name));
    optional(out, &key("share_pipes"), pool.share_pipes);
    optional(out, &key("share_depth"), pool.share_depth);
    optional(out, &key("server_clean"), pool.server_clean.map(ServerClean::name));
    optional(out, &key("sequence_state"), pool.sequence_state.map(SequenceState::name));
    optional(out, &key("min_pool_size"), pool.min_pool_size);
    optional(out, &key("reserve_pool_size"), pool.reserve_pool_size);
    optional(out, &key("reserve_pool_timeout"), pool.reserve_pool_timeout.map(duration));
    optional(out, &key("queue_max"), pool.queue_max);
    optional(out, &key("query_timeout"), pool.timeouts.query.map(timeout));
    optional(out, &key("transaction_timeout"), pool.timeouts.transaction.map(timeout));
    optional(out, &key("idle_transaction_timeout"), pool.timeouts.idle_transaction.map(timeout));
    optional(out, &key("client_idle_timeout"), pool.timeouts.client_idle.map(timeout));
    optional(out, &key("client_stall_timeout"), pool.timeouts.client_stall.map(timeout));
}

fn list_database(out: &mut Vec<Entry>, database: &Database) {
    let key = |name: &str| format!("database.{}.{name}", database.name);
    out.push(entry(&key("host"), list(&database.hosts)));
    out.push(entry(&key("port"), database.port));
    let attrs = Some(database.target_session_attrs).filter(|attrs| *attrs != SessionAttrs::Any);
    optional(out, &key("target_session_attrs"), attrs.map(SessionAttrs::name));
    optional(out, &key("dbname"), database.dbname.as_ref());
    optional(out, &key("user"), database.user.as_ref());
    secret(out, &key("password"), database.password.as_ref().map(crate::Password::as_str));
    optional(out, &key("max_connections"), database.max_connections);
    optional(out, &key("max_client_connections"), database.max_client_connections);
    optional(out, &key("connect_query"), database.connect_query.as_ref());
    let settings: Vec<String> = database.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    optional(out, &key("settings"), (!settings.is_empty()).then(|| list(&settings)));
    secure::server(out, &format!("database.{}", database.name), &database.tls);
    overrides(out, &key("pool"), &database.pool);
}

fn list_user(out: &mut Vec<Entry>, user: &User) {
    let key = |name: &str| format!("user.{}.{name}", user.name);
    secret(out, &key("password"), user.password.as_ref().map(crate::Secret::as_str));
    let local = user.trust_local.then(|| "local".to_owned());
    let trust: Vec<String> = user.trust.iter().map(ToString::to_string).chain(local).collect();
    optional(out, &key("trust"), (!trust.is_empty()).then(|| list(&trust)));
    optional(out, &key("server_user"), user.server_user.as_ref());
    secret(out, &key("server_password"), user.server_password.as_ref().map(crate::Password::as_str));
    optional(out, &key("max_client_connections"), user.max_client_connections);
    optional(out, &key("max_server_connections"), user.max_server_connections);
    overrides(out, &key("pool"), &user.pool);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[[database]]\nname = \"app\"\nhost = \"::1\"\npassword = \"a\"\n[[user]]\nname = \"ann\"\ntrust = [\"local\"]\n";

    fn config(text: &str) -> Config {
        Config::parse(&format!("{text}{LEAST}"), "test").unwrap()
    }

    fn shown(differences: &[Difference]) -> Vec<String> {
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_diff_tells_what_is_live_and_what_needs_a_restart() {
        let old = config("[pool]\nsize = 2\n");
        let text = format!(
            "[pool]\nsize = 3\n[listen]\nbacklog = 5\n{}server_password = \"x\"\n[[user]]\nname = \"bob\"\ntrust = [\"10.0.0.0/8\"]\n",
            LEAST.replace("password = \"a\"", "password = \"b\"\npool.size = 7")
        );
        let new = Config::parse(&text, "new").unwrap();
        let diff = old.diff(&new);
        assert_eq!(
            shown(&diff.live),
            [
                "pool.size: 2 -> 3",
                "database.app.pool.size: not set -> 7",
                "user.ann.server_password: not set -> (hidden)",
                "user.bob.trust: not set -> 10.0.0.0/8"
            ]
        );
        assert_eq!(shown(&diff.restart), ["listen.backlog: 1024 -> 5", "database.app.password changed"]);
        assert_eq!(diff.adopted.databases[0].password.as_ref().map(crate::Password::as_str), Some("a"));
        assert_eq!((diff.adopted.pool.size, diff.adopted.listen.backlog), (3, 1024));
        for difference in &diff.live {
            assert_eq!(Config::effect_of(&difference.key), Effect::Live, "{difference}");
        }
        for difference in &diff.restart {
            assert_eq!(Config::effect_of(&difference.key), Effect::Restart, "{difference}");
        }
        assert!(new.diff(&new).live.is_empty() && new.diff(&new).restart.is_empty());
    }

    #[test]
    fn a_database_moves_at_once() {
        let old = config("");
        let text = LEAST.replace("\"::1\"", "\"a,b\"\nport = 5433\ntarget_session_attrs = \"primary\"");
        let diff = old.diff(&Config::parse(&text, "new").unwrap());
        assert!(diff.restart.is_empty(), "{:?}", diff.restart);
        assert_eq!(
            shown(&diff.live),
            [
                "database.app.host: ::1 -> a,b",
                "database.app.port: 5432 -> 5433",
                "database.app.target_session_attrs: not set -> primary"
            ]
        );
        assert!(diff.live.iter().all(|difference| Config::effect_of(&difference.key) == Effect::Live));
        assert_eq!(diff.adopted.databases[0].hosts.len(), 2);
    }

    #[test]
    fn a_database_that_is_new_waits_for_a_restart() {
        let old = config("");
        let new = Config::parse(&format!("{LEAST}[[database]]\nname = \"b\"\nhost = \"::1\"\n"), "new").unwrap();
        let diff = old.diff(&new);
        assert!(diff.live.is_empty(), "{:?}", diff.live);
        assert_eq!(
            shown(&diff.restart),
            [
                "database.b.host: not set -> ::1",
                "database.b.port: not set -> 5432",
                "database.b.tls: not set -> disable",
                "database.b.protocol: not set -> 3.2"
            ]
        );
    }

    #[test]
    fn every_live_key_of_the_tables_can_be_set_to_what_it_is() {
        let mut own = config("[pool]\nshare_pipes = 2\n");
        let before = own.listing();
        for entry in &before {
            let settable = ["limits.", "pool.", "log."].iter().any(|table| entry.key.starts_with(table));
            assert_eq!(own.set(&entry.key, &entry.value).is_ok(), settable, "{entry:?}");
        }
        assert_eq!(own.listing(), before);
        own.set("default_pool_size", "9").unwrap();
        own.set("QUERY_WAIT_TIMEOUT", "7").unwrap();
        assert_eq!((own.pool.size, own.pool.query_wait_timeout), (9, Duration::from_secs(7)));
        assert_eq!(own.set("pool.size", "0").unwrap_err(), "must be at least 1");
        assert_eq!(own.set("nonsense", "1").unwrap_err(), "there is no setting \"nonsense\"");
        assert_eq!(own.set("listen.backlog", "1").unwrap_err(), "\"listen.backlog\" cannot be changed while running");
    }

    #[test]
    fn every_key_of_the_reference_is_in_the_listing() {
        let source = [include_str!("listing.rs"), include_str!("listing/secure.rs")].concat();
        // of files with secrets and of rules what they say is compared
        let is_by_content = |name: &str| matches!(name, "hba_file" | "ident_file") || name.ends_with("password_file");
        for section in crate::key::SECTIONS.iter().filter(|section| section.name != "hba") {
            let keys = section.keys.iter().filter(|key| !matches!(key.name, "name" | "pool"));
            for key in keys.filter(|key| !is_by_content(key.name)) {
                let named = [format!("\"{}\"", key.name), format!("\"{}.{}\"", section.name, key.name)];
                let found = named.iter().any(|name| source.contains(name.as_str()));
                assert!(found, "a reload would not notice a change of {} in {}", key.name, section.title);
            }
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        assert_eq!(
            [0, 1500, 7000, 600_000, 7_200_000].map(|ms| duration(Duration::from_millis(ms))),
            ["0s", "1500ms", "7s", "10min", "2h"]
        );
    }
}
