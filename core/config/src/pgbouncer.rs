//! A pgbouncer.ini as a configuration: it is turned into TOML, and that is what is read.
//!
//! So a pgbouncer.ini that is given directly and one that is imported are the same thing. What becomes of each key is told in
//! a report; [`key`] has the table of keys. Knows PgBouncer's syntax and defaults, and nothing of how they are obeyed.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{ConfigError, ConfigErrors};
use crate::{Config, userlist};

mod account;
mod database;
mod doc;
mod ini;
mod key;
mod turn;

use doc::Origin;

/// Longest file.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// What a pgbouncer.ini needs to know beyond its text.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Reads a file that it names.
    pub read: fn(&Path) -> io::Result<String>,
    /// Addresses of a name to listen on, those that this machine has.
    pub addresses: fn(&str) -> io::Result<Vec<IpAddr>>,
    /// Users of an `auth_file`; none if it cannot be read.
    pub users: fn(&Path) -> Vec<String>,
}

impl Surroundings {
    /// This machine.
    pub const HERE: Self = Self { read, addresses, users };
}

fn read(path: &Path) -> io::Result<String> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() || about.len() > FILE_LEN_MAX {
        return Err(io::Error::other(format!("is no file of at most {FILE_LEN_MAX} bytes")));
    }
    std::fs::read_to_string(path)
}

/// An address of a protocol that this machine does not speak cannot be bound.
fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = (name, 0).to_socket_addrs()?.map(|address| address.ip());
    let mut found: Vec<IpAddr> =
        found.filter(|ip| std::net::TcpListener::bind(SocketAddr::new(*ip, 0)).is_ok()).collect();
    found.dedup();
    if found.is_empty() { Err(io::Error::other("no address of it is this machine's")) } else { Ok(found) }
}

fn users(path: &Path) -> Vec<String> {
    // what is wrong with it is told when the configuration is read
    userlist::load(path).unwrap_or_default().into_iter().map(|user| user.name).collect()
}

/// What became of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It has the same name here.
    Kept,
    /// It has another name here.
    Renamed,
    /// It was not said, and PgBouncer's default is not ours: it is said now.
    Default,
    /// It need not be said.
    NotNeeded,
    /// It cannot be had.
    NotSupported,
    /// It cannot be had, and whoever runs without it must have decided so: the file cannot be run as it is.
    Blocks,
}

impl Fate {
    /// As it is told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Renamed => "renamed",
            Self::Default => "default",
            Self::NotNeeded => "not needed",
            Self::NotSupported => "not supported",
            Self::Blocks => "not supported, blocks",
        }
    }
}

/// A line of the report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The key, as in `pool_mode` or `databases.app.host`.
    pub key: String,
    /// File and line, if it stands anywhere.
    pub place: Option<(String, u32)>,
    /// What became of it.
    pub fate: Fate,
    /// Our key, or why there is none. Never a secret.
    pub note: String,
}

/// What came of a pgbouncer.ini.
#[derive(Debug)]
pub struct Import {
    /// The configuration in our own form.
    pub toml: Zeroizing<String>,
    /// What became of every key that was said, and of defaults that differ.
    pub report: Vec<Item>,
    file: String,
    origins: Vec<Option<Origin>>,
    files: Vec<String>,
}

/// Whether a file is a pgbouncer.ini and not our own TOML.
#[must_use]
pub fn is_ini(path: &Path, text: &str) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ini"));
    let sections = ["[pgbouncer]", "[databases]"];
    named || text.lines().any(|line| sections.iter().any(|section| line.trim_start().starts_with(section)))
}

/// What of a configuration has no effect here; nothing unless it is a pgbouncer.ini that can be read.
#[must_use]
pub fn remarks(path: &Path) -> Vec<String> {
    let is_one = read(path).map(Zeroizing::new).is_ok_and(|text| is_ini(path, &text));
    let import = is_one.then(|| Import::load(path).ok()).flatten();
    import.iter().flat_map(Import::remarks).collect()
}

impl Import {
    /// Turns a file.
    ///
    /// # Errors
    /// All that is wrong with it, where PgBouncer would not take it either.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        match read(path).map(Zeroizing::new) {
            Ok(text) => Self::of(&text, &file, &Surroundings::HERE),
            Err(error) => Err(ConfigErrors(vec![ConfigError { file, place: None, message: error.to_string() }])),
        }
    }

    /// Turns text; `file` is what errors call it.
    ///
    /// # Errors
    /// As [`Import::load`].
    pub fn of(text: &str, file: &str, around: &Surroundings) -> Result<Self, ConfigErrors> {
        let ini = ini::Ini::read(text, file, around);
        let turned = turn::turn(ini, around)?;
        let lost = turned.report.iter().filter(|item| matches!(item.fate, Fate::NotSupported | Fate::Blocks));
        let mut head = vec![format!("# Made from {} by optimacore --import.", file.escape_debug())];
        head.extend(
            lost.map(|item| {
                format!("# {}: {}: {}", item.fate.name(), item.key.escape_debug(), item.note.escape_debug())
            }),
        );
        let (toml, origins) = turned.doc.write(&head);
        Ok(Self { toml, report: turned.report, file: file.to_owned(), origins, files: turned.files })
    }

    /// Reads what was made; errors are told at the lines of the pgbouncer.ini.
    ///
    /// # Errors
    /// What makes no sense, and keys that cannot be done without.
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        let blocking = self.report.iter().filter(|item| item.fate == Fate::Blocks).map(|item| {
            let (file, place) = match &item.place {
                Some((file, line)) => (file.clone(), Some((*line, 1))),
                None => (self.file.clone(), None),
            };
            ConfigError { file, place, message: format!("{} is not supported: {}", item.key, item.note) }
        });
        let mut errors: Vec<ConfigError> = blocking.collect();
        match Config::parse(&self.toml, &self.file) {
            Ok(config) if errors.is_empty() => return Ok(config),
            Ok(_) => {}
            Err(found) => errors.extend(found.0.into_iter().map(|error| self.put_right(error))),
        }
        errors.sort();
        errors.dedup();
        Err(ConfigErrors(errors))
    }

    /// An error of a line of ours becomes one of the line that it was made from.
    fn put_right(&self, error: ConfigError) -> ConfigError {
        let Some((line, _)) = error.place.filter(|_| error.file == self.file) else { return error };
        let origin = usize::try_from(line).ok().and_then(|line| self.origins.get(line.checked_sub(1)?)?.as_ref());
        match origin {
            Some(Origin { key, place: Some(place) }) => ConfigError {
                file: self.files.get(place.file).cloned().unwrap_or_default(),
                place: Some((place.line, 1)),
                message: format!("{key}: {}", error.message),
            },
            Some(Origin { key, place: None }) => {
                ConfigError { place: None, message: format!("{key}, which is not said: {}", error.message), ..error }
            }
            None => ConfigError { place: None, ..error },
        }
    }

    /// Keys that have no effect here, one text each; those that block are not among them.
    pub fn remarks(&self) -> impl Iterator<Item = String> + '_ {
        self.report.iter().filter(|item| item.fate == Fate::NotSupported).map(|item| {
            let place = item.place.as_ref().map_or_else(|| self.file.clone(), |(file, line)| format!("{file}:{line}"));
            format!("{place}: {} is not supported: {}", item.key, item.note)
        })
    }

    /// Whether everything that was said holds.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.report.iter().any(|item| matches!(item.fate, Fate::NotSupported | Fate::Blocks))
    }

    /// The report as a table.
    #[must_use]
    pub fn table(&self) -> String {
        let place =
            |item: &Item| item.place.as_ref().map_or_else(|| "-".to_owned(), |(file, line)| format!("{file}:{line}"));
        let key_len = self.report.iter().map(|item| item.key.chars().count()).max().unwrap_or_default();
        let place_len = self.report.iter().map(|item| place(item).chars().count()).max().unwrap_or_default();
        let mut out = String::new();
        for item in &self.report {
            let (place, fate) = (place(item), item.fate.name());
            // writing to a String cannot fail
            let _ = writeln!(out, "{place:<place_len$}  {:<key_len$}  {fate:<21}  {}", item.key, item.note);
        }
        out
    }

    /// The report as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let items = self.report.iter().map(|item| {
            let (file, line) = match &item.place {
                Some((file, line)) => (doc::quote(file), line.to_string()),
                None => ("null".to_owned(), "null".to_owned()),
            };
            let (key, fate, note) = (doc::quote(&item.key), doc::quote(item.fate.name()), doc::quote(&item.note));
            format!("  {{\"key\": {key}, \"file\": {file}, \"line\": {line}, \"fate\": {fate}, \"note\": {note}}}")
        });
        format!("[\n{}\n]", items.collect::<Vec<_>>().join(",\n"))
    }
}

#[cfg(test)]
mod tests;
