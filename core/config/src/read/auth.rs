//! `[auth]`, `[[hba]]`, and the secrets of other tables.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{Reader, Table};
use crate::auth::{Auth, AuthQuery, Kinds, Known, Password, UserList};
use crate::error::ConfigError;
use crate::hba::map::Maps;
use crate::hba::token::{self, Spelling, Token};
use crate::hba::{Rule, Rules, file, row};
use crate::value::{self, Parsed};
use crate::{Secret, User, key, secret, userlist};

pub(super) fn auth(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Auth {
    let default = Auth::default();
    let rows = reader.tables(root, &key::HBA);
    let written: Vec<Rule> = rows.iter().filter_map(|table| rule(reader, table)).collect();
    let mut rules = root.contains_key(key::HBA.name).then_some(written);
    let Some(table) = reader.table(root, &key::AUTH) else {
        return Auth { rules: rules.and_then(|rules| finish(reader, rules, Maps::default())), ..default };
    };
    if let Some(path) = path(reader, &table, "hba_file") {
        if rules.is_some() {
            reader.tell(table.place("hba_file"), "there are [[hba]] too; rules stand in one place only".to_owned());
        }
        rules = Some(take(reader, file::load(&path)).unwrap_or_default());
    }
    let maps = path(reader, &table, "ident_file").and_then(|path| take(reader, Maps::load(&path)));
    let listed = path(reader, &table, "auth_file").and_then(|path| take(reader, userlist::load(&path)));
    let listed = UserList::new(listed.unwrap_or_default());
    Auth {
        rules: rules.and_then(|rules| finish(reader, rules, maps.unwrap_or_default())),
        query: query(reader, &table, &listed),
        kinds: Kinds::default(),
        listed,
        delay_max: reader.read(&table, "auth_delay_max", value::duration).unwrap_or(default.delay_max),
        ignored_parameters: reader.read_list(&table, "ignore_startup_parameters", value::text).unwrap_or_default(),
    }
}

fn query(reader: &mut Reader<'_>, table: &Table<'_>, listed: &UserList) -> Option<AuthQuery> {
    const NEED_USER: [&str; 4] = ["auth_query", "auth_dbname", "auth_password", "auth_password_file"];
    let user = reader.read(table, "auth_user", value::text);
    if let (None, Some(name)) = (&user, NEED_USER.iter().find(|name| table.find(name).is_some())) {
        reader.tell(table.place(name), format!("{name} has no meaning without auth_user"));
    }
    let password = password(reader, table, "auth_password", "auth_password_file");
    let dbname = reader.read(table, "auth_dbname", value::text);
    let query = reader.read(table, "auth_query", value::text).unwrap_or_else(|| AuthQuery::QUERY.to_owned());
    let cache_time = reader.read(table, "auth_cache_time", value::duration).unwrap_or(CACHE_TIME);
    let negative = reader.read(table, "auth_negative_cache_time", value::duration);
    let user = user?;
    let own = listed.find(&user).and_then(|known| match known {
        Known::Plain(password) => Some(password.clone()),
        Known::Hashed(_) => None,
    });
    Some(AuthQuery {
        user,
        password: password.or(own),
        dbname,
        query,
        cache_time,
        negative_cache_time: negative.unwrap_or(NEGATIVE_CACHE_TIME),
    })
}

const CACHE_TIME: std::time::Duration = std::time::Duration::from_secs(30);
const NEGATIVE_CACHE_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// What is known of all users' passwords.
pub(crate) fn kinds(users: &[User], listed: &UserList) -> Kinds {
    let mut kinds = Kinds::default();
    users.iter().filter_map(|user| user.password.as_ref()).for_each(|secret| kinds.count(secret));
    for known in listed.secrets() {
        match known {
            Known::Hashed(secret) => kinds.count(secret),
            Known::Plain(_) => kinds.plain += 1,
        }
    }
    kinds
}

fn finish(reader: &mut Reader<'_>, rules: Vec<Rule>, maps: Maps) -> Option<Rules> {
    match Rules::new(rules, maps) {
        Ok(rules) => {
            for (place, map) in rules.missing_maps() {
                reader.tell(None, format!("{place}: there is no map \"{map}\" in auth.ident_file"));
            }
            Some(rules)
        }
        Err(error) => {
            reader.tell(None, format!("this machine's addresses cannot be had for samehost and samenet: {error}"));
            None
        }
    }
}

fn rule(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Rule> {
    let (line, _) = reader.place(table.span.start);
    let kind = reader.required(table, "type", words);
    let method = reader.required(table, "method", words);
    let any = || Some(token::fields("all").ok()?.into_iter().flatten().collect());
    let database = if table.find("database").is_some() { reader.read(table, "database", words) } else { any() };
    let user = if table.find("user").is_some() { reader.read(table, "user", words) } else { any() };
    let address = table.find("address").is_some().then(|| reader.read(table, "address", words));
    let mut fields = vec![kind?, database?, user?];
    if let Some(address) = address {
        // an address and a mask behind it are two fields
        fields.extend(address?.into_iter().map(|token| vec![token]));
    }
    fields.push(method?);
    if let Some(map) = table.find("map").is_some().then(|| reader.read(table, "map", value::text)) {
        fields.push(vec![Token { text: format!("map={}", map?), spelling: Spelling::Bare }]);
    }
    match row::read(format!("{}:{line}", reader.file), &fields) {
        Ok(rule) => Some(rule),
        Err(message) => {
            reader.tell(Some(table.span.clone()), message);
            None
        }
    }
}

/// Text, or a list of texts, each written as in `pg_hba.conf`.
fn words(value: &DeValue<'_>) -> Parsed<Vec<Token>> {
    let read = |text: &str| token::fields(text).map(|fields| fields.into_iter().flatten());
    let mut out = Vec::new();
    match (value.as_str(), value.as_array()) {
        (Some(text), _) => out.extend(read(text)?),
        (None, Some(list)) => {
            for value in list.iter() {
                let text = value.get_ref().as_str().ok_or("must be a list of texts in quotes")?;
                out.extend(read(text)?);
            }
        }
        (None, None) => return Err("must be text in quotes, or a list of such".to_owned()),
    }
    if out.is_empty() { Err("must not be empty".to_owned()) } else { Ok(out) }
}

/// A path; one that is not absolute begins where the configuration file is.
fn path(reader: &mut Reader<'_>, table: &Table<'_>, name: &str) -> Option<PathBuf> {
    let path = reader.read(table, name, value::text)?;
    Some(Path::new(reader.file).parent().unwrap_or_else(|| Path::new("")).join(path))
}

fn take<T>(reader: &mut Reader<'_>, outcome: Result<T, Vec<ConfigError>>) -> Option<T> {
    outcome.map_err(|errors| reader.errors.extend(errors)).ok()
}

/// A password that stands in one key, or in the file that another names.
pub(super) fn password(reader: &mut Reader<'_>, table: &Table<'_>, name: &str, in_file: &str) -> Option<Password> {
    if table.find(in_file).is_none() {
        return reader.read(table, name, |value| secret::from_text(&value::text(value)?));
    }
    if table.find(name).is_some() {
        reader.tell(table.place(in_file), format!("{name} is there too; one of them is enough"));
    }
    password_of_file(reader, table, in_file)
}

/// A password in the file that a key names.
pub(super) fn password_of_file(reader: &mut Reader<'_>, table: &Table<'_>, in_file: &str) -> Option<Password> {
    let path = path(reader, table, in_file)?;
    match secret::from_file(&path) {
        Ok(password) => Some(password),
        Err(message) => {
            reader.tell(table.place(in_file), format!("{in_file}: {message}"));
            None
        }
    }
}

/// A verifier or hash, from the same places.
pub(super) fn verifier(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Secret> {
    let text = password(reader, table, "password", "password_file")?;
    match value::verifier(text.as_str()) {
        Ok(secret) => Some(secret),
        Err(message) => {
            let name = if table.find("password_file").is_some() { "password_file" } else { "password" };
            let span = table.find(name).map(toml::Spanned::span);
            reader.tell(span, format!("{name}: {message}"));
            None
        }
    }
}
