//! From what a pgbouncer.ini says to our own file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use zeroize::Zeroizing;

use super::doc::{Doc, Origin, TableId, quote, quote_list};
use super::ini::{Ini, Place, Said, Section};
use super::key::{GLOBAL, How, Kind, Known, Zero, milliseconds, number};
use super::{Fate, Item, Surroundings};
use crate::error::ConfigErrors;

/// Longer than anybody waits: what `0` means where it means for ever.
const NEVER: &str = "\"366d\"";

/// What came of a file.
pub(super) struct Turned {
    pub(super) doc: Doc,
    pub(super) report: Vec<Item>,
    pub(super) files: Vec<String>,
}

pub(super) struct Turner<'a> {
    pub(super) ini: Ini,
    pub(super) around: &'a Surroundings,
    pub(super) doc: Doc,
    pub(super) report: Vec<Item>,
}

/// A value, and where it stands.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) text: Zeroizing<String>,
    /// What it is called in the report and in errors.
    pub(super) key: String,
    /// None for a default.
    pub(super) place: Option<Place>,
}

impl Value {
    pub(super) fn origin(&self) -> Origin {
        Origin { key: self.key.clone(), place: self.place }
    }
}

/// Turns what was read.
pub(super) fn turn(ini: Ini, around: &Surroundings) -> Result<Turned, ConfigErrors> {
    let mut turner = Turner { ini, around, doc: Doc::default(), report: Vec::new() };
    turner.judge();
    if turner.ini.errors.is_empty() {
        turner.globals();
        turner.listen();
        turner.tls();
        turner.clean();
        turner.databases();
        turner.accounts();
        turner.peers();
    }
    if !turner.ini.errors.is_empty() {
        turner.ini.errors.sort();
        return Err(ConfigErrors(turner.ini.errors));
    }
    let order = |item: &Item| {
        let files = &turner.ini.files;
        item.place.as_ref().map(|(file, line)| (files.iter().position(|other| other == file), *line))
    };
    turner.report.sort_by_key(|item| (order(item).is_none(), order(item)));
    Ok(Turned { doc: turner.doc, report: turner.report, files: turner.ini.files })
}

impl Turner<'_> {
    /// Tells keys that there are not and values that PgBouncer would refuse.
    fn judge(&mut self) {
        let mut errors = Vec::new();
        for said in self.ini.said.iter().filter(|said| said.section == Section::Pgbouncer) {
            match GLOBAL.iter().find(|known| known.name == said.key) {
                // a text may be a password
                Some(known) => {
                    let judged = known.kind.judge(&said.value);
                    errors.extend(judged.err().map(|why| (said.place, format!("{}: {why}", said.key))));
                }
                None => errors.push((said.place, unknown(&said.key, Section::Pgbouncer, GLOBAL))),
            }
        }
        for (place, message) in errors {
            self.ini.tell(place, message);
        }
    }

    /// What a key of `[pgbouncer]` says; the last one holds.
    pub(super) fn said(&self, name: &str) -> Option<Value> {
        let holds = |said: &&Said| said.section == Section::Pgbouncer && said.key == name && said.forgotten.is_none();
        let found = self.ini.said.iter().rfind(holds)?;
        Some(Value { text: found.value.clone(), key: found.key.clone(), place: Some(found.place) })
    }

    /// The same, or what PgBouncer takes it to be.
    pub(super) fn said_or(&self, name: &str, default: &str) -> Value {
        self.said(name).unwrap_or_else(|| Value {
            text: Zeroizing::new(default.to_owned()),
            key: name.to_owned(),
            place: None,
        })
    }

    /// The same, if it says anything.
    pub(super) fn text(&self, name: &str) -> Option<Value> {
        self.said(name).filter(|value| !value.text.is_empty())
    }

    pub(super) fn note(&mut self, value: &Value, fate: Fate, note: impl Into<String>) {
        let place = value.place.map(|place| (self.ini.file(place).to_owned(), place.line));
        self.report.push(Item { key: value.key.clone(), place, fate, note: note.into() });
    }

    /// Writes a key, and tells so.
    pub(super) fn set(&mut self, table: TableId, key: &str, text: &str, value: &Value) {
        self.doc.set(table, key, text, value.origin());
    }

    /// Tells under which name a value goes on.
    pub(super) fn note_new_name(&mut self, value: &Value, title: &str, key: &str) {
        let own = value.key.rsplit('.').next().unwrap_or_default();
        let fate = match value.place {
            None => Fate::Default,
            Some(_) if key.rsplit('.').next() == Some(own) => Fate::Kept,
            Some(_) => Fate::Renamed,
        };
        let table = title.trim_matches(['[', ']']);
        self.note(value, fate, format!("{table}.{key}"));
    }

    /// Tells what has been said and does not hold.
    fn note_overruled(&mut self) {
        let own = |said: &&Said| said.section == Section::Pgbouncer;
        let said: Vec<(String, Place, Option<Place>)> =
            self.ini.said.iter().filter(own).map(|said| (said.key.clone(), said.place, said.forgotten)).collect();
        for (index, (key, place, forgotten)) in said.iter().enumerate() {
            let value = Value { text: Zeroizing::default(), key: key.clone(), place: Some(*place) };
            let later = said.iter().skip(index + 1).find(|(other, ..)| other == key);
            match (forgotten, later) {
                (Some(again), _) => {
                    let (file, line) = (self.ini.file(*again).to_owned(), again.line);
                    let note = format!("[pgbouncer] begins again in {file}:{line}, which sets it back to its default");
                    self.note(&value, Fate::NotNeeded, note);
                }
                (None, Some((_, later, _))) => {
                    self.note(&value, Fate::NotNeeded, format!("it is said again in line {}", later.line));
                }
                (None, None) => {}
            }
        }
    }

    fn globals(&mut self) {
        self.note_overruled();
        for known in GLOBAL {
            let default = || known.unsaid.map(|default| self.said_or(known.name, default));
            if let Some(value) = self.said(known.name).or_else(default) {
                if matches!(known.how, How::Own(_)) {
                    continue;
                }
                let table = if known.table.is_empty() { None } else { Some(self.doc.table(known.table)) };
                self.apply(known, table, &value);
            }
        }
        self.min_pool_size();
        self.verbose();
        self.log_connections();
    }

    /// Does what the table of keys says.
    pub(super) fn apply(&mut self, known: &Known, table: Option<TableId>, value: &Value) {
        let (key, text) = match known.how {
            How::NotNeeded(why) => return self.note(value, Fate::NotNeeded, why),
            How::Only(fine, fate, why) => {
                let is_fine = fine.iter().any(|fine| known.kind.same(fine, &value.text));
                let fate = if is_fine { Fate::NotNeeded } else { fate };
                return self.note(value, fate, why);
            }
            How::Own(_) => return,
            How::Number(key, zero) => {
                let number = number(&value.text).unwrap_or_default();
                if (number, zero) == (0, Zero::NoBound) {
                    return self.note(value, Fate::NotNeeded, format!("without {key} the default holds"));
                }
                (key, number.to_string())
            }
            How::Duration(key, zero) => (key, duration(&value.text, zero)),
            How::Word(key) => (key, quote(&value.text.to_ascii_lowercase())),
            How::Text(_) | How::File(_) if value.text.is_empty() => {
                return self.note(value, Fate::NotNeeded, "it says nothing");
            }
            How::Text(key) => (key, quote(&value.text)),
            How::File(key) => (key, quote(&absolute(&value.text))),
        };
        let Some(table) = table else { return };
        self.set(table, key, &text, value);
        self.note_new_name(value, known.table, key);
    }

    /// PgBouncer takes one that is larger than the pool for the pool's size.
    fn min_pool_size(&mut self) {
        let Some(value) = self.said("min_pool_size") else { return };
        let size = number(&self.said_or("default_pool_size", "20").text).unwrap_or_default();
        let wanted = number(&value.text).unwrap_or_default();
        let table = self.doc.table("[pool]");
        self.set(table, "min_pool_size", &wanted.min(size).to_string(), &value);
        self.note_new_name(&value, "pool", "min_pool_size");
    }

    fn verbose(&mut self) {
        let Some(value) = self.said("verbose") else { return };
        let level = match number(&value.text).unwrap_or_default() {
            ..=0 => "info",
            1 => "debug",
            2.. => "trace",
        };
        let table = self.doc.table("[log]");
        self.set(table, "level", &quote(level), &value);
        self.note_new_name(&value, "log", "level");
    }

    /// Two switches are one here, and PgBouncer's are on unless it is said otherwise.
    fn log_connections(&mut self) {
        let mut written = false;
        for name in ["log_connections", "log_disconnections"] {
            let value = self.said_or(name, "1");
            let on = number(&value.text).is_some_and(|number| number != 0);
            if on && !written {
                let table = self.doc.table("[log]");
                self.set(table, "connections", &quote("on"), &value);
                self.note_new_name(&value, "log", "connections");
                written = true;
            } else if value.place.is_some() {
                self.note(&value, Fate::NotNeeded, "log.connections tells of coming and going together");
            }
        }
    }

    /// Addresses and the Unix socket.
    fn listen(&mut self) {
        let table = self.doc.table("[listen]");
        let port = self.said_or("listen_port", "6432");
        let number = number(&port.text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let (Some(number), addr) = (number, self.said_or("listen_addr", "")) else {
            return self.refuse(&port, "must be from 1 to 65535");
        };
        let mut addresses: Vec<String> = Vec::new();
        for name in addr.text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let found = match (name, name.parse::<IpAddr>()) {
                ("*", _) => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
                (_, Ok(ip)) => vec![ip],
                (_, Err(_)) => match (self.around.addresses)(name) {
                    Ok(found) => found,
                    Err(error) => return self.refuse(&addr, &format!("\"{name}\": {error}")),
                },
            };
            addresses.extend(found.into_iter().map(|ip| SocketAddr::new(ip, number).to_string()));
        }
        addresses.dedup();
        let alone = addresses.is_empty();
        self.set(table, "addresses", &quote_list(&addresses), &addr);
        self.note_new_name(&addr, "listen", "addresses");
        if port.place.is_some() {
            match alone && number != 6432 {
                true => self.note(&port, Fate::Blocks, "without listen_addr the Unix socket's port is 6432"),
                false => self.note_new_name(&port, "listen", "addresses"),
            }
        }
        let dir = self.said_or("unix_socket_dir", "/tmp");
        if dir.text.starts_with('@') {
            self.note(&dir, Fate::Blocks, "there are no sockets in the abstract namespace");
        } else if dir.text.is_empty() {
            self.note(&dir, Fate::NotNeeded, "without listen.unix_socket_dir there is no Unix socket");
        } else {
            self.set(table, "unix_socket_dir", &quote(&absolute(&dir.text)), &dir);
            self.note_new_name(&dir, "listen", "unix_socket_dir");
        }
    }

    /// Both sides' TLS.
    fn tls(&mut self) {
        let mode = self.said_or("client_tls_sslmode", "disable");
        let files = [
            ("client_tls_cert_file", "certificate"),
            ("client_tls_key_file", "key"),
            ("client_tls_ca_file", "client_ca"),
        ];
        self.tls_side("[listen.tls]", "mode", &mode, files);
        let mode = self.said_or("server_tls_sslmode", "prefer");
        let files = [
            ("server_tls_cert_file", "tls_certificate"),
            ("server_tls_key_file", "tls_key"),
            ("server_tls_ca_file", "tls_ca"),
        ];
        self.tls_side("[server]", "tls", &mode, files);
        for name in ["client_tls_protocols", "server_tls_protocols"] {
            let Some(value) = self.said(name) else { continue };
            let (fate, why) = judge_protocols(&value.text);
            self.note(&value, fate, why);
        }
    }

    fn tls_side(&mut self, title: &'static str, key: &str, mode: &Value, files: [(&str, &str); 3]) {
        let word = mode.text.to_ascii_lowercase();
        if mode.place.is_some() || word != "disable" {
            let table = self.doc.table(title);
            self.set(table, key, &quote(&word), mode);
            self.note_new_name(mode, title, key);
        }
        for (name, own) in files {
            let Some(value) = self.said(name) else { continue };
            let judges = own.ends_with("ca") && !word.starts_with("verify");
            let unused = if value.text.is_empty() {
                "it says nothing"
            } else if word == "disable" {
                "there is no TLS"
            } else if judges {
                "nobody's certificate is judged in this mode"
            } else {
                let table = self.doc.table(title);
                self.set(table, own, &quote(&absolute(&value.text)), &value);
                self.note_new_name(&value, title, own);
                continue;
            };
            self.note(&value, Fate::NotNeeded, unused);
        }
    }

    /// What is done before another client has a server connection.
    fn clean(&mut self) {
        if let Some(value) = self.said("server_reset_query") {
            let in_session = self.said_or("pool_mode", "session").text.eq_ignore_ascii_case("session");
            if value.text.is_empty() && in_session {
                let table = self.doc.table("[pool]");
                self.set(table, "server_clean", "\"never\"", &value);
                self.note(&value, Fate::Renamed, "pool.server_clean");
            } else {
                self.note(
                    &value,
                    Fate::NotNeeded,
                    "what a session may have left is asked for and cleaned by DISCARD ALL",
                );
            }
        }
        if let Some(value) = self.said("server_reset_query_always") {
            self.note(&value, Fate::NotNeeded, "connections are clean in every mode before another session has them");
        }
    }

    /// Tells an error of the file itself.
    pub(super) fn refuse(&mut self, value: &Value, why: &str) {
        let message = format!("{}: {why}", value.key);
        match value.place {
            Some(place) => self.ini.tell(place, message),
            None => self.ini.tell(Place { file: 0, line: 1 }, message),
        }
    }

    /// Lines that have no meaning here, but must be such as PgBouncer reads.
    fn peers(&mut self) {
        for (value, pairs) in self.lines(Section::Peers, super::key::OF_PEER) {
            if !number(value.key.rsplit('.').next().unwrap_or_default()).is_some_and(|id| (1..=65535).contains(&id)) {
                self.refuse(&value, "must be a number from 1 to 65535");
            }
            if !pairs.iter().any(|(known, _)| known.name == "host") {
                self.refuse(&value, "needs host=");
            }
            self.note(&value, Fate::NotNeeded, "one process uses all cores and finds every cancel key");
        }
    }

    /// The lines of a section of connection strings that hold, with what they say of known keys.
    pub(super) fn lines(
        &mut self,
        section: Section,
        keys: &'static [Known],
    ) -> Vec<(Value, Vec<(&'static Known, Value)>)> {
        let mut out = Vec::new();
        let said: Vec<Value> = self
            .ini
            .said
            .iter()
            .filter(|said| said.section == section)
            .map(|said| Value {
                text: said.value.clone(),
                key: format!("{}.{}", section.name(), said.key),
                place: Some(said.place),
            })
            .collect();
        for (index, value) in said.iter().enumerate() {
            if let Some(later) = said.iter().skip(index + 1).find(|other| other.key == value.key) {
                let line = later.place.map_or(0, |place| place.line);
                self.note(value, Fate::NotNeeded, format!("it is said again in line {line}"));
                continue;
            }
            match super::ini::pairs(&value.text) {
                Ok(pairs) => {
                    let secret = pairs.iter().any(|(name, _)| name == "password");
                    let mut found: Vec<(&'static Known, Value)> = Vec::new();
                    for (name, text) in pairs {
                        let own = Value { text, key: format!("{}.{name}", value.key), place: value.place };
                        match keys.iter().find(|known| known.name == name) {
                            Some(known) => {
                                // -1 is how these are said not to be said
                                let unset = matches!(known.kind, Kind::Int | Kind::Time) && *own.text == "-1";
                                let judged = if unset { Ok(()) } else { known.kind.judge(&own.text) };
                                if let Err(why) = judged {
                                    self.refuse(&own, &why);
                                }
                                // two names for the same are the same
                                found.retain(|(other, _)| !other.is_same(known));
                                if !unset {
                                    found.push((known, own));
                                }
                            }
                            // it may be what stands behind a space in a password without quotes
                            None if secret => {
                                self.refuse(value, "there is a key that is not known; is the password in quotes?")
                            }
                            None => self.refuse(value, &unknown(&name, section, keys)),
                        }
                    }
                    out.push((value.clone(), found));
                }
                Err(why) => self.refuse(value, &why),
            }
        }
        out
    }
}

/// A duration in our own words.
fn duration(seconds: &str, zero: Zero) -> String {
    match (milliseconds(seconds).unwrap_or_default(), zero) {
        (0, Zero::Off) => "\"off\"".to_owned(),
        (0, Zero::Never) => NEVER.to_owned(),
        (0, Zero::Least) => "\"100ms\"".to_owned(),
        (ms, _) if ms.is_multiple_of(1000) => format!("\"{}s\"", ms / 1000),
        (ms, _) => format!("\"{ms}ms\""),
    }
}

/// TLS 1.2 and 1.3 is what we speak.
fn judge_protocols(text: &str) -> (Fate, &'static str) {
    let text = text.to_ascii_lowercase();
    let has = |name: &str| text.split([',', ':', ' ']).any(|part| part.trim() == name);
    let any = ["", "all", "secure", "legacy"].contains(&text.as_str());
    match (any || has("tlsv1.2"), any || has("tlsv1.3")) {
        (true, true) => (Fate::NotNeeded, "TLS 1.2 and 1.3 are spoken"),
        (true, false) => (Fate::NotSupported, "TLS 1.3 is spoken too"),
        (false, true) => (Fate::Blocks, "TLS 1.2 is spoken too"),
        (false, false) => (Fate::Blocks, "only TLS 1.2 and 1.3 are spoken"),
    }
}

/// Names with commas or spaces between them.
pub(super) fn names(text: &str) -> Vec<&str> {
    text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|name| !name.is_empty()).collect()
}

/// PgBouncer takes paths to begin where it was started.
pub(super) fn absolute(path: &str) -> String {
    std::path::absolute(Path::new(path)).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

fn unknown(name: &str, section: Section, keys: &[Known]) -> String {
    let near = crate::read::nearest(name, keys.iter().map(|known| known.name));
    let advice = near.map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
    format!("unknown key \"{}\" in [{}]{advice}", name.escape_debug(), section.name())
}
