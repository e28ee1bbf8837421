//! From TOML to [`Config`]: walks the tables, and goes on after an error so that all of them are told at once.

use std::ops;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, ConfigErrors};
use crate::key::{self, Section};
use crate::value::{self, Parsed};
use crate::{
    Admin, CONSOLE_DATABASES, Config, Database, Dns, Limits, Listen, Log, Pool, PoolMode, PoolOverrides, Runtime,
    ServerTls, Share, Stats, TimeoutOverrides, User,
};

pub(crate) mod auth;
mod http;
mod tls;

pub(crate) fn read(text: &str, file: &str) -> Result<Config, ConfigErrors> {
    let mut reader = Reader { text, file, errors: Vec::new() };
    let (root, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        // what an error of syntax leaves behind is guessed; judging it would only confuse
        reader.tell(error.span(), error.message().to_owned());
    }
    let config = syntax.is_empty().then(|| config(&mut reader, root.get_ref()));
    reader.errors.sort();
    match config {
        Some(config) if reader.errors.is_empty() => Ok(config),
        Some(_) | None => Err(ConfigErrors(reader.errors)),
    }
}

struct Reader<'t> {
    text: &'t str,
    file: &'t str,
    errors: Vec<ConfigError>,
}

/// A table of the file with the keys it may have.
struct Table<'t> {
    keys: &'static Section,
    table: &'t DeTable<'t>,
    span: ops::Range<usize>,
}

fn config(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Config {
    for (name, _) in root {
        let top = || key::SECTIONS.iter().filter(|section| !section.title.contains('.'));
        if !top().any(|section| section.name == name.get_ref()) {
            let names = top().map(|section| (section.name, section.title));
            let near = nearest(name.get_ref(), names.clone().map(|(name, _)| name));
            let title = names.clone().find(|(name, _)| Some(*name) == near).map(|(_, title)| title);
            let owner = key::SECTIONS.iter().find(|s| s.keys.iter().any(|key| key.name == name.get_ref()));
            let advice = match (owner, title) {
                (Some(owner), _) => format!("it belongs in {}", owner.title),
                (None, Some(title)) => format!("did you mean {title}?"),
                (None, None) => format!("there are {}", names.map(|(_, title)| title).collect::<Vec<_>>().join(", ")),
            };
            reader.tell(Some(name.span()), format!("unknown key \"{}\"; {advice}", name.get_ref()));
        }
    }
    let server = tls::server(reader, root);
    let databases = reader.tables(root, &key::DATABASE);
    let databases = databases.iter().filter_map(|table| database(reader, table, &server)).collect();
    let users = reader.tables(root, &key::USER);
    if !root.contains_key(key::AUTH.name) && !root.contains_key(key::HBA.name) {
        tell_shut_out(reader, &users);
    }
    let mut config = Config {
        listen: listen(reader, root),
        runtime: runtime(reader, root),
        limits: limits(reader, root),
        dns: dns(reader, root),
        pool: pool(reader, root),
        stats: stats(reader, root),
        http: http::http(reader, root),
        log: log(reader, root),
        admin: admin(reader, root),
        server,
        auth: auth::auth(reader, root),
        databases,
        users: users.iter().filter_map(|table| user(reader, table)).collect(),
    };
    config.auth.kinds = auth::kinds(&config.users, &config.auth.listed);
    if !root.contains_key(key::DATABASE.name) {
        reader.tell(None, "there is no [[database]]".to_owned());
    }
    tell_strangers(reader, root, &config);
    tell_textless(reader, root, &config);
    reader.tell_twice(root, &key::DATABASE);
    reader.tell_twice(root, &key::USER);
    config
}

fn listen(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Listen {
    let default = Listen::default();
    let Some(table) = reader.table(root, &key::LISTEN) else { return default };
    let unix_socket_dir = reader.read(&table, "unix_socket_dir", value::socket_dir);
    let addresses = reader.read_list(&table, "addresses", value::address).unwrap_or(default.addresses);
    if addresses.is_empty() && unix_socket_dir.is_none() {
        reader.tell(table.place("addresses"), "addresses is empty and there is no unix_socket_dir".to_owned());
    }
    let backlog = reader.read(&table, "backlog", value::positive).unwrap_or(default.backlog);
    Listen { addresses, unix_socket_dir, backlog, tls: tls::listen(reader, table.table) }
}

fn runtime(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Runtime {
    let table = reader.table(root, &key::RUNTIME);
    Runtime { cores: table.and_then(|table| reader.read(&table, "cores", value::cores)).flatten() }
}

fn limits(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Limits {
    let default = Limits::default();
    let Some(table) = reader.table(root, &key::LIMITS) else { return default };
    Limits {
        max_client_connections: reader
            .read(&table, "max_client_connections", value::positive)
            .unwrap_or(default.max_client_connections),
        auth_timeout: reader.read(&table, "auth_timeout", value::duration).unwrap_or(default.auth_timeout),
        shutdown_timeout: reader.read(&table, "shutdown_timeout", value::duration).unwrap_or(default.shutdown_timeout),
        memory: reader.read(&table, "memory", value::memory).or(default.memory),
    }
}

fn dns(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Dns {
    let default = Dns::default();
    let Some(table) = reader.table(root, &key::DNS) else { return default };
    Dns {
        max_ttl: reader.read(&table, "max_ttl", value::pause).unwrap_or(default.max_ttl),
        nxdomain_ttl: reader.read(&table, "nxdomain_ttl", value::pause).unwrap_or(default.nxdomain_ttl),
    }
}

fn pool(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Pool {
    let table = reader.table(root, &key::POOL);
    table.map(|table| overrides(reader, &table)).unwrap_or_default().over(Pool::default())
}

fn overrides(reader: &mut Reader<'_>, table: &Table<'_>) -> PoolOverrides {
    let out = PoolOverrides {
        mode: reader.read(table, "mode", value::mode),
        size: reader.read(table, "size", value::positive),
        query_wait_timeout: reader.read(table, "query_wait_timeout", value::duration),
        server_connect_timeout: reader.read(table, "server_connect_timeout", value::duration),
        server_idle_timeout: reader.read(table, "server_idle_timeout", value::duration),
        server_lifetime: reader.read(table, "server_lifetime", value::duration),
        min_pool_size: reader.read(table, "min_pool_size", value::count),
        reserve_pool_size: reader.read(table, "reserve_pool_size", value::count),
        reserve_pool_timeout: reader.read(table, "reserve_pool_timeout", value::duration),
        queue_max: reader.read(table, "queue_max", value::positive),
        timeouts: timeouts(reader, table),
        prepared_statements: reader.read(table, "prepared_statements", value::count),
        share: reader.read(table, "share", value::share),
        share_pipes: reader.read(table, "share_pipes", value::positive),
        share_depth: reader.read(table, "share_depth", value::positive),
        server_clean: reader.read(table, "server_clean", value::clean),
        sequence_state: reader.read(table, "sequence_state", value::sequence_state),
    };
    if (out.mode, out.share) == (Some(PoolMode::Session), Some(Share::On)) {
        reader.tell(table.place("share"), "share = \"on\" has no meaning with mode = \"session\"".to_owned());
    }
    if let (Some(pipes), Some(size)) = (out.share_pipes, out.size)
        && pipes > size
    {
        reader.tell(table.place("share_pipes"), format!("share_pipes is {pipes}, but size is only {size}"));
    }
    if let (Some(kept), Some(size)) = (out.min_pool_size, out.size)
        && kept > size
    {
        reader.tell(table.place("min_pool_size"), format!("min_pool_size is {kept}, but size is only {size}"));
    }
    out
}

fn timeouts(reader: &mut Reader<'_>, table: &Table<'_>) -> TimeoutOverrides {
    TimeoutOverrides {
        query: reader.read(table, "query_timeout", value::timeout),
        transaction: reader.read(table, "transaction_timeout", value::timeout),
        idle_transaction: reader.read(table, "idle_transaction_timeout", value::timeout),
        client_idle: reader.read(table, "client_idle_timeout", value::timeout),
        client_stall: reader.read(table, "client_stall_timeout", value::timeout),
    }
}

fn stats(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Stats {
    let table = reader.table(root, &key::STATS);
    let default = Stats::default();
    let Some(table) = table else { return default };
    Stats {
        socket: reader.read(&table, "socket", value::socket),
        statements: reader.read(&table, "statements", value::statements).unwrap_or(default.statements),
        export_dir: reader.read(&table, "export_dir", value::file),
        export_interval: reader.read(&table, "export_interval", value::pause).unwrap_or(default.export_interval),
        export_size_max: reader.read(&table, "export_size_max", value::memory).unwrap_or(default.export_size_max),
    }
}

fn log(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Log {
    let Some(table) = reader.table(root, &key::LOG) else { return Log::default() };
    Log {
        level: reader.read(&table, "level", value::level).unwrap_or_default(),
        format: reader.read(&table, "format", value::log_format).unwrap_or_default(),
        connections: reader.read(&table, "connections", value::log_connections).unwrap_or_default(),
        slow_statements: reader.read(&table, "slow_statements", value::timeout).unwrap_or_default(),
    }
}

/// Slow statements are told by the texts that are counted.
fn tell_textless(reader: &mut Reader<'_>, root: &DeTable<'_>, config: &Config) {
    if config.stats.statements == 0
        && config.log.slow_statements.duration().is_some()
        && let Some(table) = reader.table(root, &key::LOG)
    {
        let message = "slow_statements tells statements that are counted, and stats.statements is 0".to_owned();
        reader.tell(table.place("slow_statements"), message);
    }
}

fn admin(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Admin {
    let Some(table) = reader.table(root, &key::ADMIN) else { return Admin::default() };
    Admin {
        admin_users: reader.read_list(&table, "admin_users", value::text).unwrap_or_default(),
        stats_users: reader.read_list(&table, "stats_users", value::text).unwrap_or_default(),
    }
}

/// Tells users of the console that cannot log in, since nothing is known of them.
fn tell_strangers(reader: &mut Reader<'_>, root: &DeTable<'_>, config: &Config) {
    let unknown = |name: &str| config.user(name).is_none() && config.auth.listed.find(name).is_none();
    if config.auth.query.is_some() {
        return;
    }
    let Some(admin) = root.get(key::ADMIN.name).and_then(|table| table.get_ref().as_table()) else { return };
    for list in ["admin_users", "stats_users"] {
        let names = admin.get(list).and_then(|list| list.get_ref().as_array());
        for value in names.into_iter().flat_map(|names| names.iter()) {
            if let Some(name) = value.get_ref().as_str().filter(|name| unknown(name)) {
                reader.tell(
                    Some(value.span()),
                    format!("{list}: there is no [[user]] \"{name}\", and no such user in auth_file"),
                );
            }
        }
    }
}

fn database(reader: &mut Reader<'_>, table: &Table<'_>, server: &ServerTls) -> Option<Database> {
    let name = reader.required(table, "name", value::text);
    if let Some(name) = name.as_deref().filter(|name| CONSOLE_DATABASES.contains(name)) {
        reader.tell(table.place("name"), format!("name: \"{name}\" is the console's"));
    }
    let hosts = reader.required(table, "host", value::hosts);
    let port = reader.read(table, "port", value::port);
    let target_session_attrs = reader.read(table, "target_session_attrs", value::session_attrs).unwrap_or_default();
    let dbname = reader.read(table, "dbname", value::text);
    let user = reader.read(table, "user", value::text);
    let password = auth::password(reader, table, "password", "password_file");
    let max_connections = reader.read(table, "max_connections", value::positive);
    let max_client_connections = reader.read(table, "max_client_connections", value::positive);
    let connect_query = reader.read(table, "connect_query", value::text);
    let settings = reader.read(table, "settings", value::settings).unwrap_or_default();
    let pool = reader.table(table.table, &key::POOL).map(|table| overrides(reader, &table)).unwrap_or_default();
    let port = port.unwrap_or(5432);
    let tls = tls::over(reader, table, server);
    Some(Database {
        name: name?,
        hosts: hosts?,
        port,
        target_session_attrs,
        dbname,
        user,
        password,
        max_connections,
        max_client_connections,
        connect_query,
        settings,
        tls,
        pool,
    })
}

fn user(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<User> {
    let name = reader.required(table, "name", value::text);
    let password = auth::verifier(reader, table);
    let trust = reader.read_list(table, "trust", value::trust).unwrap_or_default();
    let server_user = reader.read(table, "server_user", value::text);
    let server_password = auth::password(reader, table, "server_password", "server_password_file");
    let max_client_connections = reader.read(table, "max_client_connections", value::positive);
    let max_server_connections = reader.read(table, "max_server_connections", value::positive);
    let pool = reader.table(table.table, &key::POOL).map(|table| overrides(reader, &table)).unwrap_or_default();
    let trust_local = trust.iter().any(Option::is_none);
    let trust = trust.into_iter().flatten().collect();
    Some(User {
        name: name?,
        password,
        trust,
        trust_local,
        server_user,
        server_password,
        max_client_connections,
        max_server_connections,
        pool,
    })
}

/// Users that nothing can let in.
fn tell_shut_out(reader: &mut Reader<'_>, users: &[Table<'_>]) {
    let empty = |value: &Spanned<DeValue<'_>>| value.get_ref().as_array().is_some_and(|list| list.is_empty());
    for table in users {
        let proof = table.find("password").or_else(|| table.find("password_file"));
        if proof.is_none() && table.find("trust").is_none_or(empty) {
            let message = "a user needs password or trust, else it can never log in".to_owned();
            reader.tell(Some(table.span.clone()), message);
        }
    }
}

impl<'t> Table<'t> {
    fn find(&self, name: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(self.keys.keys.iter().any(|key| key.name == name), "{name} is not in the table of keys");
        self.table.get(name)
    }

    fn place(&self, name: &str) -> Option<ops::Range<usize>> {
        Some(self.find(name).map_or_else(|| self.span.clone(), Spanned::span))
    }
}

impl Reader<'_> {
    fn tell(&mut self, span: Option<ops::Range<usize>>, message: String) {
        let place = span.map(|span| self.place(span.start));
        self.errors.push(ConfigError { file: self.file.to_owned(), place, message });
    }

    /// Line and column of a byte.
    fn place(&self, at: usize) -> (u32, u32) {
        let before = self.text.get(..self.text.floor_char_boundary(at)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    /// A table, its unknown keys already told.
    fn table<'t>(&mut self, parent: &'t DeTable<'t>, keys: &'static Section) -> Option<Table<'t>> {
        let value = parent.get(keys.name)?;
        self.as_table(value, keys)
    }

    /// All tables of an array of tables.
    fn tables<'t>(&mut self, root: &'t DeTable<'t>, keys: &'static Section) -> Vec<Table<'t>> {
        let Some(value) = root.get(keys.name) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.tell(Some(value.span()), format!("must be written with two brackets: {}", keys.title));
            return Vec::new();
        };
        array.iter().filter_map(|value| self.as_table(value, keys)).collect()
    }

    fn as_table<'t>(&mut self, value: &'t Spanned<DeValue<'t>>, keys: &'static Section) -> Option<Table<'t>> {
        let Some(table) = value.get_ref().as_table() else {
            self.tell(Some(value.span()), format!("{} must be a table", keys.name));
            return None;
        };
        for (name, _) in table {
            if !keys.keys.iter().any(|key| key.name == name.get_ref()) {
                self.tell(Some(name.span()), unknown(name.get_ref(), keys));
            }
        }
        Some(Table { keys, table, span: value.span() })
    }

    fn read<T>(&mut self, table: &Table<'_>, name: &str, parse: fn(&DeValue<'_>) -> Parsed<T>) -> Option<T> {
        let value = table.find(name)?;
        self.parse(value, name, parse)
    }

    fn required<T>(&mut self, table: &Table<'_>, name: &str, parse: fn(&DeValue<'_>) -> Parsed<T>) -> Option<T> {
        if table.find(name).is_none() {
            self.tell(Some(table.span.clone()), format!("{} needs the key {name}", table.keys.title));
        }
        self.read(table, name, parse)
    }

    fn read_list<T>(&mut self, table: &Table<'_>, name: &str, parse: fn(&DeValue<'_>) -> Parsed<T>) -> Option<Vec<T>> {
        let value = table.find(name)?;
        let Some(array) = value.get_ref().as_array() else {
            self.tell(Some(value.span()), format!("{name} must be a list in brackets"));
            return None;
        };
        let parsed: Vec<Option<T>> = array.iter().map(|value| self.parse(value, name, parse)).collect();
        parsed.into_iter().collect()
    }

    fn parse<T>(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        name: &str,
        parse: fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<T> {
        match parse(value.get_ref()) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                self.tell(Some(value.span()), format!("{name}: {message}"));
                None
            }
        }
    }

    /// Tells names that stand in two tables of an array.
    fn tell_twice(&mut self, root: &DeTable<'_>, keys: &'static Section) {
        let tables = root.get(keys.name).and_then(|value| value.get_ref().as_array());
        let names: Vec<&Spanned<DeValue<'_>>> = tables
            .into_iter()
            .flat_map(|tables| tables.iter())
            .filter_map(|table| table.get_ref().as_table()?.get("name"))
            .collect();
        for (index, value) in names.iter().enumerate() {
            let Some(name) = value.get_ref().as_str() else { continue };
            if let Some(first) = names.iter().take(index).find(|other| other.get_ref().as_str() == Some(name)) {
                let line = self.place(first.span().start).0;
                let message = format!("{} \"{name}\" stands in line {line} already", keys.name);
                self.tell(Some(value.span()), message);
            }
        }
    }
}

fn unknown(name: &str, keys: &Section) -> String {
    let names = || keys.keys.iter().map(|key| key.name);
    let owner = key::SECTIONS.iter().find(|section| section.keys.iter().any(|key| key.name == name));
    let advice = match (nearest(name, names()), owner) {
        (_, Some(owner)) => format!("it belongs in {}", owner.title),
        (Some(near), None) => format!("did you mean \"{near}\"?"),
        (None, None) => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
    };
    format!("unknown key \"{name}\" in {}; {advice}", keys.title)
}

/// The name that was most likely meant.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
