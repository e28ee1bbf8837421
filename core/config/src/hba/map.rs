//! As whom those may come in that their operating system or a certificate names: rows in the syntax of PostgreSQL's `pg_ident.conf`.

use std::path::Path;

use regex_lite::Regex;

use super::file::{lines, text_of};
use super::token::{self, Token};
use crate::error::ConfigError;

/// Rows of all maps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    map: String,
    system: System,
    user: User,
}

#[derive(Clone, Debug)]
enum System {
    Is(String),
    Fits(Regex),
}

#[derive(Clone, Debug)]
enum User {
    All,
    Is(String),
    Fits(Regex),
    /// What the first parentheses of the system's pattern have caught, between these two.
    Caught(String, String),
}

/// What stands where the caught part goes.
const CAUGHT: &str = "\\1";

impl Maps {
    /// Reads a file; all that is wrong with it is told.
    pub(crate) fn load(path: &Path) -> Result<Self, Vec<ConfigError>> {
        let file = path.display().to_string();
        let text = text_of(path).map_err(|message| vec![ConfigError { file: file.clone(), place: None, message }])?;
        let (mut entries, mut errors) = (Vec::new(), Vec::new());
        for (number, line) in lines(&text) {
            match token::fields(&line).and_then(|fields| read(&fields)) {
                Ok(entry) => entries.extend(entry),
                Err(message) => errors.push(ConfigError { file: file.clone(), place: Some((number, 1)), message }),
            }
        }
        if errors.is_empty() { Ok(Self(entries)) } else { Err(errors) }
    }

    /// Whether there is a map of this name.
    pub(crate) fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| entry.map == map)
    }

    /// Whether by this map somebody whom the system names so may come in as this user.
    pub(crate) fn allow(&self, map: &str, system: &str, user: &str) -> bool {
        self.0.iter().filter(|entry| entry.map == map).any(|entry| entry.allows(system, user))
    }
}

impl Entry {
    fn allows(&self, system: &str, user: &str) -> bool {
        let caught = match &self.system {
            System::Is(name) if name == system => "",
            System::Is(_) => return false,
            System::Fits(pattern) => {
                let Some(found) = pattern.captures(system) else { return false };
                found.get(1).map_or("", |part| part.as_str())
            }
        };
        match &self.user {
            User::All => true,
            User::Is(name) => name == user,
            User::Fits(pattern) => pattern.is_match(user),
            User::Caught(before, after) => {
                let middle = user.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                middle == Some(caught)
            }
        }
    }
}

fn read(fields: &[Vec<Token>]) -> Result<Option<Entry>, String> {
    let (map, system, user) = match fields {
        [] => return Ok(None),
        [map, system, user] => (single(map)?, single(system)?, single(user)?),
        _ => return Err("a row has three fields: the map, the system's name, the user's name".to_owned()),
    };
    if map.text.starts_with("include") && system.text.contains(['/', '.']) {
        return Err(format!("\"{}\" is not supported", map.text));
    }
    let pattern =
        |text: &str| Regex::new(text).map_err(|error| format!("\"/{text}\" is no regular expression: {error}"));
    let system = match system.text.strip_prefix('/') {
        Some(text) => System::Fits(pattern(text)?),
        None => System::Is(system.text.clone()),
    };
    let user = match (&system, user.text.split_once(CAUGHT)) {
        (System::Fits(pattern), Some(_)) if pattern.captures_len() < 2 => {
            return Err(format!("\"{}\": the pattern has no parentheses that \\1 could stand for", user.text));
        }
        (System::Fits(_), Some((before, after))) => User::Caught(before.to_owned(), after.to_owned()),
        _ if user.is("all") => User::All,
        _ if user.behind('+').is_some() => {
            return Err(format!("\"{}\" asks who is a member of a role, which is not known here", user.text));
        }
        _ => match user.text.strip_prefix('/') {
            Some(text) => User::Fits(pattern(text)?),
            None => User::Is(user.text.clone()),
        },
    };
    Ok(Some(Entry { map: map.text.clone(), system, user }))
}

fn single(field: &[Token]) -> Result<&Token, String> {
    match field {
        [token] => Ok(token),
        _ => Err("a field has more than one value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(text: &str) -> Result<Maps, String> {
        let entries = text.lines().map(|line| token::fields(line).and_then(|fields| read(&fields)));
        Ok(Maps(entries.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()))
    }

    #[test]
    fn a_map_says_who_may_come_in_as_whom() {
        let maps = maps(
            "# map system user\n\
             staff ann.doe ann\n\
             staff \"bob doe\" bob\n\
             staff /^(.*)@example\\.com$ \\1\n\
             staff /^admin-(.*)$ db_\\1_owner\n\
             boss root all\n\
             boss root2 /^app_\n\
             odd root \"all\"",
        )
        .unwrap();
        for (map, system, user, allowed) in [
            ("staff", "ann.doe", "ann", true),
            ("staff", "ann.doe", "bob", false),
            ("staff", "ann", "ann", false),
            ("staff", "bob doe", "bob", true),
            ("staff", "carol@example.com", "carol", true),
            ("staff", "carol@example.com", "ann", false),
            ("staff", "carol@example.org", "carol", false),
            ("staff", "admin-shop", "db_shop_owner", true),
            ("staff", "admin-shop", "db_x_owner", false),
            ("boss", "root", "anybody", true),
            ("boss", "root2", "app_1", true),
            ("boss", "root2", "web_1", false),
            ("odd", "root", "anybody", false),
            ("odd", "root", "all", true),
            ("none", "root", "root", false),
        ] {
            assert_eq!(maps.allow(map, system, user), allowed, "{map}: {system} as {user}");
        }
        assert!(maps.has("boss") && !maps.has("none"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (line, words) in [
            ("staff ann", "three fields"),
            ("staff ann bob carol", "three fields"),
            ("staff a,b bob", "more than one value"),
            ("staff /( bob", "is no regular expression"),
            ("staff /^ann$ \\1", "no parentheses"),
            ("staff ann +group", "member of a role"),
        ] {
            let error = maps(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
