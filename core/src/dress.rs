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

mod assigned;

use assigned::assigned;

/// The setting that would hold for those that are set behind it.
const LIMIT: &str = "statement_timeout";

/// Settings that may travel with a request, for its transaction only: what they decide is decided while a statement is read,
/// planned or run, not when a transaction or a session begins, and nothing stays of them.
const TRAVELLERS: [&str; 27] = [
    "application_name",
    "bytea_output",
    "client_min_messages",
    "cursor_tuple_fraction",
    "datestyle",
    "default_text_search_config",
    "effective_cache_size",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "join_collapse_limit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "max_parallel_workers_per_gather",
    "plan_cache_mode",
    "random_page_cost",
    "search_path",
    LIMIT,
    "timezone",
    "work_mem",
];

/// Of these, those that decide nothing when a statement is prepared.
const INDIFFERENT: [&str; 8] = [
    "application_name",
    "bytea_output",
    "client_min_messages",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    LIMIT,
    "work_mem",
];

/// What a setting decides when a statement is prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sway {
    Nothing,
    /// Which object a name means.
    Names,
    /// What a constant means, or we do not know.
    Constants,
}

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

    /// One that a client's `SET` has brought about.
    fn of_statement(name: &str, apply: &str) -> Self {
        Self { name: name.into(), apply: apply.into(), value: assigned(name, apply).map(Into::into) }
    }

    /// Whether it has the same effect when it begins within a transaction and ends with it.
    fn travels(&self) -> bool {
        self.value.is_some() && (TRAVELLERS.contains(&&*self.name) || self.name.starts_with("enable_"))
    }

    /// Whether it is a limit of a second at least, or none: nothing of ours takes as long.
    fn is_long_limit(&self) -> bool {
        let value = self.value.as_deref().unwrap_or_default();
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = value.split_at(digits);
        let number: u64 = number.parse().unwrap_or_default();
        match unit.trim() {
            "" if number == 0 => digits > 0,
            "" | "ms" => number >= 1000,
            "s" | "min" | "h" | "d" => number >= 1,
            _ => false,
        }
    }

    /// What it decides about a statement that is prepared under it.
    fn sways(&self) -> Sway {
        match &*self.name {
            "search_path" | "role" | "session_authorization" => Sway::Names,
            name if INDIFFERENT.contains(&name) => Sway::Nothing,
            _ => Sway::Constants,
        }
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
    names: u64,
    constants: u64,
}

impl Dress {
    /// The fingerprint: equal settings, equal fingerprint.
    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The fingerprint of what decides how names resolve.
    pub(crate) const fn names(&self) -> u64 {
        self.names
    }

    /// The fingerprint of what decides, or may decide, what constants mean, and names.
    pub(crate) const fn constants(&self) -> u64 {
        self.constants
    }

    /// What a request under these settings must bring along to a connection that wears `worn`, to have them for as long as its
    /// transaction lasts. None if that is not enough.
    pub(crate) fn luggage<'a>(&'a self, worn: &'a Self) -> Option<impl Iterator<Item = (&'a str, &'a str)> + Clone> {
        let theirs = |name: &str| worn.settings.iter().find(|old| &*old.name == name);
        let goes = |new: &Setting| match theirs(&new.name) {
            Some(old) if old == new => true,
            // it adds to what is there
            Some(_) if &*new.name == "datestyle" => false,
            // what is worn holds for our own part
            Some(old) if &*new.name == LIMIT => new.travels() && old.is_long_limit(),
            Some(_) | None => new.travels(),
        };
        let fits = !self.lacks_some_of(worn) && self.settings.iter().all(goes);
        fits.then(|| {
            let news = self.settings.iter().filter(move |new| theirs(&new.name).is_none_or(|old| old != *new));
            news.filter_map(|new| Some((&*new.name, new.value.as_deref()?)))
        })
    }

    /// The same set with one setting replaced or added.
    pub(crate) fn with(self: &Rc<Self>, name: &str, apply: &str) -> Rc<Self> {
        let mut settings: Vec<_> = self.settings.iter().filter(|s| &*s.name != name).cloned().collect();
        settings.push(Setting::of_statement(name, apply));
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
        let fingerprint = hash(settings.iter());
        let names = hash(settings.iter().filter(|setting| setting.sways() == Sway::Names));
        let constants = hash(settings.iter().filter(|setting| setting.sways() != Sway::Nothing));
        Self { settings, fingerprint, names, constants }
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

/// 0 for none.
fn hash<'a>(settings: impl Iterator<Item = &'a Setting>) -> u64 {
    let mut settings = settings.peekable();
    if settings.peek().is_none() {
        return 0;
    }
    // a fixed seed: shards compare fingerprints with each other
    let mut hasher = foldhash::quality::FixedState::with_seed(0x6f70_7469).build_hasher();
    for setting in settings {
        hasher.write(setting.name.as_bytes());
        hasher.write_u8(0);
        hasher.write(setting.apply.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish().max(1)
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
        assert_eq!(a.names(), 0);
        assert_ne!(a.with("search_path", "SET search_path = x").names(), 0);
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
    fn what_differs_travels_if_it_can_begin_and_end_with_a_transaction() {
        let base = dress(&[("application_name", "a"), ("timezone", "UTC")]);
        let luggage = |dress: &Dress, worn: &Dress| -> Option<Vec<String>> {
            dress.luggage(worn).map(|settings| settings.map(|(name, value)| format!("{name}={value}")).collect())
        };
        let other = base.with("application_name", "SET application_name = 'b'");
        assert_eq!(luggage(&other, &base), Some(vec!["application_name=b".into()]));
        assert_eq!(luggage(&other, &Dress::default()).map(|all| all.len()), Some(2));
        assert_eq!(luggage(&base, &base), Some(Vec::new()));
        assert_eq!(luggage(&base.without("timezone"), &base), None, "what is worn cannot be taken off");
        for name in
            ["app.tenant", "role", "client_encoding", "default_transaction_read_only", "standard_conforming_strings"]
        {
            assert_eq!(luggage(&dress(&[(name, "x")]), &Dress::default()), None, "{name}");
        }
        let unread = base.with("application_name", "SET application_name = E'b'");
        assert_eq!(luggage(&unread, &base), None, "its value is not known");
        let limit = |value: &str| dress(&[("statement_timeout", value)]);
        assert!(luggage(&limit("1ms"), &limit("1min")).is_some());
        for short in ["1ms", "999", "x", "0.5s"] {
            assert_eq!(luggage(&limit("1min"), &limit(short)), None, "{short}");
        }
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
