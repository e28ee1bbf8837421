//! A session's settings, and what turns one connection's settings into another's.
//!
//! The session owns its settings: start-up parameters and every SET that Postgres has accepted. A server connection
//! *wears* one such set; before a session's request runs on it, what differs is applied by the client's own words
//! (`SET ...` as it was sent) or by `set_config`. Sets are compared by fingerprint, so that sessions with equal
//! settings share connections without a message.
//!
//! A pure value: no shard state, no sockets.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _};
use std::rc::Rc;

/// The setting that would hold for those that are set behind it.
const LIMIT: &str = "statement_timeout";

/// One setting and the statement that brings it about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    /// Parameter name, lower case.
    pub(crate) name: Box<str>,
    /// SQL that applies it on a connection that has it at its default.
    pub(crate) apply: Box<str>,
    /// Its value for `set_config`, where that is known.
    pub(crate) value: Option<Box<str>>,
}

impl Setting {
    /// One that a value brings about.
    pub(crate) fn of_value(name: &str, value: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let apply = format!("SELECT pg_catalog.set_config({}, {}, false)", literal(&name), literal(value));
        Self { name: name.into(), apply: apply.into(), value: Some(value.into()) }
    }

    /// Whether it says who one is.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(&*self.name, "session_authorization" | "role")
    }

    /// Who one is decides what one may set, and a time limit holds for the rest of the change: they come last, and go first.
    fn rank(&self) -> u8 {
        match &*self.name {
            "session_authorization" => 1,
            "role" => 2,
            LIMIT => 3,
            _ => 0,
        }
    }
}

/// A set of settings with its fingerprint; 0 is the fingerprint of the empty set (a connection as Postgres gave it).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Dress {
    settings: Vec<Setting>,
    fingerprint: u64,
    search_path: u64,
}

impl Dress {
    /// The fingerprint: equal settings, equal fingerprint.
    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The fingerprint of what decides how names resolve.
    pub(crate) const fn search_path(&self) -> u64 {
        self.search_path
    }

    /// The same set with one setting replaced or added.
    pub(crate) fn with(self: &Rc<Self>, name: &str, apply: &str) -> Rc<Self> {
        let mut settings: Vec<_> = self.settings.iter().filter(|s| &*s.name != name).cloned().collect();
        settings.push(Setting { name: name.into(), apply: apply.into(), value: None });
        Rc::new(Self::of(settings))
    }

    /// The same set with one setting as another set has it.
    pub(crate) fn with_same(self: &Rc<Self>, setting: &Setting) -> Rc<Self> {
        let mut settings: Vec<_> = self.settings.iter().filter(|s| s.name != setting.name).cloned().collect();
        settings.push(setting.clone());
        Rc::new(Self::of(settings))
    }

    /// This set, for whom another is: `RESET ALL` does not change that.
    pub(crate) fn as_whom(&self, other: &Self) -> Rc<Self> {
        let values = self.settings.iter().filter(|setting| !setting.is_identity());
        Rc::new(Self::of(
            values.chain(other.settings.iter().filter(|setting| setting.is_identity())).cloned().collect(),
        ))
    }

    /// The setting of this name.
    pub(crate) fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| &*setting.name == name)
    }

    /// The same set without one setting.
    pub(crate) fn without(self: &Rc<Self>, name: &str) -> Rc<Self> {
        let settings = self.settings.iter().filter(|s| &*s.name != name).cloned().collect();
        Rc::new(Self::of(settings))
    }

    /// A set of start-up parameters, applied through `set_config`.
    pub(crate) fn from_startup<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut settings: Vec<Setting> = Vec::new();
        for (name, value) in parameters {
            let setting = Setting::of_value(name, value);
            settings.retain(|s| s.name != setting.name);
            settings.push(setting);
        }
        Self::of(settings)
    }

    /// The settings, for a message to another shard.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    pub(crate) fn of(mut settings: Vec<Setting>) -> Self {
        settings.sort_by(|a, b| (a.rank(), &a.name).cmp(&(b.rank(), &b.name)));
        let fingerprint = if settings.is_empty() { 0 } else { hash(&settings).max(1) };
        let path: Vec<_> = settings.iter().filter(|s| &*s.name == "search_path").cloned().collect();
        let search_path = if path.is_empty() { 0 } else { hash(&path).max(1) };
        Self { settings, fingerprint, search_path }
    }

    /// Whether `worn` has settings that this has not.
    pub(crate) fn lacks_some_of(&self, worn: &Self) -> bool {
        worn.settings.iter().any(|old| !self.settings.iter().any(|new| new.name == old.name))
    }

    /// The statements that turn a connection wearing `worn` into one wearing `self`, in order: a time limit that is worn ends
    /// first and one that is to be worn comes last, so that neither holds for the others.
    pub(crate) fn change_from(&self, worn: &Self) -> Vec<String> {
        if self.settings == worn.settings {
            return Vec::new();
        }
        let mut out = Vec::new();
        for old in worn.settings.iter().rev() {
            // some values add to what is there: a new one begins from the default
            let kept = old.rank() == 0 && self.settings.contains(old);
            if !kept {
                let mut reset = String::from("RESET ");
                write_identifier(&mut reset, &old.name);
                out.push(reset);
            }
        }
        for new in &self.settings {
            if new.rank() > 0 || !worn.settings.contains(new) {
                out.push(new.apply.to_string());
            }
        }
        out
    }
}

fn hash(settings: &[Setting]) -> u64 {
    // a fixed seed: shards compare fingerprints with each other
    let mut hasher = foldhash::quality::FixedState::with_seed(0x6f70_7469).build_hasher();
    for setting in settings {
        hasher.write(setting.name.as_bytes());
        hasher.write_u8(0);
        hasher.write(setting.apply.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// A string literal that reads the same under any `standard_conforming_strings`.
pub(crate) fn literal(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 3);
    out.push_str(if value.contains('\\') { " E'" } else { "'" });
    for character in value.chars() {
        if matches!(character, '\'' | '\\') {
            out.push(character);
        }
        out.push(character);
    }
    out.push('\'');
    out
}

/// A parameter name: dotted parts, each quoted (`RESET "app"."tenant"`).
pub(crate) fn write_identifier(out: &mut String, name: &str) {
    for (index, part) in name.split('.').enumerate() {
        if index > 0 {
            out.push('.');
        }
        let _written: Result<(), std::fmt::Error> = write!(out, "\"{}\"", part.replace('"', "\"\""));
    }
}

/// What a start-up packet's parameters mean: those that are settings, with `options=-c name=value` taken apart.
///
/// # Errors
/// The switch in `options` that is none of `-c name=value` and `--name=value`.
pub(crate) fn startup_settings<'a>(
    parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    let mut options = None;
    for (name, value) in parameters {
        let name = String::from_utf8_lossy(name);
        match name.as_ref() {
            "user" | "database" | "replication" => {}
            "options" => options = Some(String::from_utf8_lossy(value).into_owned()),
            other if other.starts_with("_pq_.") => {}
            other => out.push((other.to_owned(), String::from_utf8_lossy(value).into_owned())),
        }
    }
    if let Some(options) = options {
        // what the packet names directly wins over the options, as in Postgres the later assignment does
        let mut all = parse_options(&options)?;
        all.append(&mut out);
        return Ok(all);
    }
    Ok(out)
}

/// Splits `options` as Postgres does (white space separates, backslash escapes) and reads `-c` switches.
fn parse_options(options: &str) -> Result<Vec<(String, String)>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        if character.is_ascii_whitespace() {
            words.extend(word.take());
        } else if character == '\\' {
            word.get_or_insert_default().extend(characters.next());
        } else {
            word.get_or_insert_default().push(character);
        }
    }
    words.extend(word);
    let mut out = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next().unwrap_or_default()
        } else if let Some(rest) = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            rest.to_owned()
        } else {
            return Err(word);
        };
        match assignment.split_once('=') {
            Some((name, value)) if !name.is_empty() => out.push((name.replace('-', "_"), value.to_owned())),
            _ => return Err(format!("-c {assignment}")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dress(pairs: &[(&str, &str)]) -> Rc<Dress> {
        Rc::new(Dress::from_startup(pairs.iter().copied()))
    }

    #[test]
    fn equal_settings_in_any_order_have_one_fingerprint() {
        let a = dress(&[("TimeZone", "UTC"), ("work_mem", "4MB")]);
        let b = dress(&[("work_mem", "4MB"), ("timezone", "UTC")]);
        assert_eq!(a.fingerprint(), b.fingerprint());
        assert_ne!(a.fingerprint(), dress(&[("timezone", "UTC")]).fingerprint());
        assert_eq!(dress(&[]).fingerprint(), 0);
        assert_eq!(a.search_path(), 0);
        assert_ne!(a.with("search_path", "SET search_path = x").search_path(), 0);
    }

    #[test]
    fn a_change_resets_what_goes_and_applies_what_comes() {
        let old = dress(&[("app.tenant", "7"), ("timezone", "UTC")]);
        let new = old.without("app.tenant").with("work_mem", "SET work_mem = '1MB'");
        assert_eq!(new.change_from(&old), ["RESET \"app\".\"tenant\"", "SET work_mem = '1MB'"]);
        assert_eq!(new.change_from(&new), Vec::<String>::new());
        assert_eq!(
            dress(&[("a", "it's \\ x")]).change_from(&Dress::default()),
            ["SELECT pg_catalog.set_config('a',  E'it''s \\\\ x', false)"]
        );
    }

    #[test]
    fn who_one_is_changes_last_and_goes_first() {
        let plain = dress(&[("work_mem", "1MB")]);
        let other = dress(&[("role", "b"), ("session_authorization", "a"), ("work_mem", "2MB")]);
        let set = |name: &str, value: &str| Setting::of_value(name, value).apply.to_string();
        assert_eq!(
            other.change_from(&plain),
            [
                "RESET \"work_mem\"".to_owned(),
                set("work_mem", "2MB"),
                set("session_authorization", "a"),
                set("role", "b")
            ]
        );
        assert_eq!(
            plain.change_from(&other),
            [
                "RESET \"role\"".to_owned(),
                "RESET \"session_authorization\"".to_owned(),
                "RESET \"work_mem\"".to_owned(),
                set("work_mem", "1MB")
            ]
        );
        let more = dress(&[("role", "b"), ("session_authorization", "a"), ("work_mem", "3MB")]);
        assert_eq!(more.change_from(&other).len(), 6, "what needs the login's rights is set with them");
    }

    #[test]
    fn options_are_read_as_postgres_reads_them() {
        let read = |text: &str| startup_settings([(&b"options"[..], text.as_bytes())].into_iter());
        assert_eq!(
            read("-c work_mem=1MB  --search-path=a\\ b -ctimezone=UTC"),
            Ok(vec![
                ("work_mem".into(), "1MB".into()),
                ("search_path".into(), "a b".into()),
                ("timezone".into(), "UTC".into())
            ])
        );
        assert_eq!(read("-c"), Err("-c ".into()));
        assert_eq!(read("-F"), Err("-F".into()));
    }
}
