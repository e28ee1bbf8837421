//! The lines of a pgbouncer.ini: sections, keys and values, and files that others name.
//!
//! Reads what PgBouncer reads: a comment is a whole line, values go to the end of theirs and have no quotes, names of
//! databases and users may have double ones.

use std::path::Path;

use zeroize::Zeroizing;

use super::Surroundings;
use crate::error::ConfigError;

/// How deep files may name others.
const DEPTH_MAX: usize = 10;
/// How many files there may be.
const FILES_MAX: usize = 256;

/// A section that there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Section {
    Pgbouncer,
    Databases,
    Users,
    Peers,
}

impl Section {
    const ALL: [Self; 4] = [Self::Pgbouncer, Self::Databases, Self::Users, Self::Peers];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pgbouncer => "pgbouncer",
            Self::Databases => "databases",
            Self::Users => "users",
            Self::Peers => "peers",
        }
    }
}

/// A line of a file, by its number among [`Ini::files`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) line: u32,
}

/// One `key = value`.
pub(super) struct Said {
    pub(super) section: Section,
    pub(super) key: String,
    pub(super) value: Zeroizing<String>,
    pub(super) place: Place,
    /// Where it is forgotten: the section begins again there.
    pub(super) forgotten: Option<Place>,
}

/// Keys of `[pgbouncer]` that are not set back to their defaults when the section begins again: they have none.
const LASTING: [&str; 9] = [
    "auth_dbname",
    "auth_file",
    "auth_ident_file",
    "auth_ldap_options",
    "auth_user",
    "client_tls13_ciphers",
    "server_tls13_ciphers",
    "user",
    "verbose",
];

/// Everything that is said, in the order in which it is.
#[derive(Default)]
pub(super) struct Ini {
    pub(super) files: Vec<String>,
    pub(super) said: Vec<Said>,
    pub(super) errors: Vec<ConfigError>,
}

impl Ini {
    pub(super) fn read(text: &str, file: &str, around: &Surroundings) -> Self {
        let mut ini = Self::default();
        let mut section = None;
        ini.add(text, file, around, (&mut section, 0));
        ini
    }

    pub(super) fn file(&self, place: Place) -> &str {
        self.files.get(place.file).map_or("", String::as_str)
    }

    pub(super) fn tell(&mut self, place: Place, message: String) {
        let error = ConfigError { file: self.file(place).to_owned(), place: Some((place.line, 1)), message };
        self.errors.push(error);
    }

    fn add(&mut self, text: &str, file: &str, around: &Surroundings, (section, depth): (&mut Option<Section>, usize)) {
        let number = self.files.len();
        self.files.push(file.to_owned());
        for (line, text) in (1..).zip(text.split('\n')) {
            let place = Place { file: number, line };
            let mut rest = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
            if let Some(name) = rest.strip_prefix("%include").filter(|name| name.starts_with([' ', '\t'])) {
                self.include(place, name.trim(), around, (section, depth));
                continue;
            }
            if rest.is_empty() || rest.starts_with([';', '#']) {
                continue;
            }
            if let Some(named) = rest.strip_prefix('[') {
                let Some((name, behind)) = named.split_once(']') else {
                    self.tell(place, "a section's name must end with ]".to_owned());
                    continue;
                };
                *section = Section::ALL.into_iter().find(|known| known.name() == name);
                if section.is_none() {
                    let names: Vec<String> = Section::ALL.iter().map(|known| format!("[{}]", known.name())).collect();
                    self.tell(place, format!("unknown section [{name}]; there are {}", names.join(", ")));
                }
                if *section == Some(Section::Pgbouncer) {
                    self.forget(place);
                }
                rest = behind.trim_start();
                if rest.is_empty() {
                    continue;
                }
            }
            match assignment(rest) {
                Ok((key, value)) => match *section {
                    Some(section) => {
                        self.said.push(Said { section, key, value: Zeroizing::new(value), place, forgotten: None })
                    }
                    // a section that is not known has been told
                    None if self.errors.iter().any(|error| error.message.starts_with("unknown section")) => {}
                    None => self.tell(place, "stands before any section such as [pgbouncer]".to_owned()),
                },
                Err(message) => self.tell(place, message.to_owned()),
            }
        }
    }

    /// `[pgbouncer]` begins again: PgBouncer sets everything back to its default then.
    fn forget(&mut self, place: Place) {
        let old = |said: &&mut Said| said.section == Section::Pgbouncer && !LASTING.contains(&said.key.as_str());
        for said in self.said.iter_mut().filter(old) {
            said.forgotten.get_or_insert(place);
        }
    }

    fn include(
        &mut self,
        place: Place,
        name: &str,
        around: &Surroundings,
        (section, depth): (&mut Option<Section>, usize),
    ) {
        if name.is_empty() {
            return self.tell(place, "%include needs the name of a file".to_owned());
        }
        if depth == DEPTH_MAX || self.files.len() == FILES_MAX {
            return self.tell(place, format!("%include: files name each other more than {DEPTH_MAX} deep"));
        }
        match (around.read)(Path::new(name)).map(Zeroizing::new) {
            Ok(text) => self.add(&text, name, around, (section, depth + 1)),
            Err(error) => self.tell(place, format!("%include {name}: {error}")),
        }
    }
}

/// `key = value`, the key perhaps in double quotes.
fn assignment(text: &str) -> Result<(String, String), &'static str> {
    let (key, rest) = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted, '"').ok_or("a quote is not closed")?,
        None => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*');
            let end = text.find(|c: char| !is_plain(c)).unwrap_or(text.len());
            text.split_at_checked(end).map(|(key, rest)| (key.to_owned(), rest)).unwrap_or_default()
        }
    };
    let value = rest.trim_start().strip_prefix('=').ok_or("must be a section in brackets or key = value")?;
    if key.is_empty() {
        return Err("there is no key before =");
    }
    if key.contains('\0') || value.contains('\0') {
        return Err("there is a NUL character in it");
    }
    Ok((key, value.trim().to_owned()))
}

/// What stands before the closing quote, where one that is meant is written twice, and what is behind.
pub(super) fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (part, behind) = rest.split_once(quote)?;
        out.push_str(part);
        match behind.strip_prefix(quote) {
            Some(more) => {
                out.push(quote);
                rest = more;
            }
            None => return Some((out, behind)),
        }
    }
}

/// The `key=value`s of a connection string: values in single quotes or up to the next space, never empty.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, Zeroizing<String>)>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', '=']).unwrap_or(rest.len());
        let (key, behind) = rest.split_at_checked(end).unwrap_or_default();
        let value = behind.trim_start().strip_prefix('=').map(str::trim_start);
        let Some(value) = value.filter(|_| !key.is_empty()) else {
            return Err("must be key=value pairs with spaces between them".to_owned());
        };
        let (value, behind) = match value.strip_prefix('\'') {
            Some(quoted) => unquote(quoted, '\'').ok_or_else(|| format!("{key}: a quote is not closed"))?,
            None => {
                let end = value.find([' ', '\t']).unwrap_or(value.len());
                let (value, behind) = value.split_at_checked(end).unwrap_or_default();
                (value.to_owned(), behind)
            }
        };
        if value.is_empty() {
            return Err(format!("{key}: must not be empty"));
        }
        if !(behind.is_empty() || behind.starts_with([' ', '\t'])) {
            return Err(format!("{key}: there is something right behind the closing quote"));
        }
        out.push((key.to_owned(), Zeroizing::new(value)));
        rest = behind.trim_start();
    }
    Ok(out)
}
