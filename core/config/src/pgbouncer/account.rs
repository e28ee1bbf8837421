//! Who may come in: `auth_type` and what belongs to it, `[users]`, the console's users.

use std::path::Path;

use super::Fate;
use super::doc::{Origin, quote, quote_list};
use super::ini::Section;
use super::key::{OF_USER, number};
use super::turn::{Turner, Value, absolute, names};

/// Parameters that PgBouncer obeys whether they are to be ignored or not.
const TRACKED: [&str; 5] =
    ["application_name", "client_encoding", "datestyle", "standard_conforming_strings", "timezone"];
/// Limits of every user that has none of its own: PgBouncer's name and ours.
const LIMITS: [(&str, &str); 2] =
    [("max_user_connections", "max_server_connections"), ("max_user_client_connections", "max_client_connections")];

/// Whether a file of rules is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    Wanted,
    Unread,
}

impl Turner<'_> {
    pub(super) fn accounts(&mut self) {
        // a user without a password here may be known elsewhere
        let _auth = self.doc.table("[auth]");
        let listed = match self.text("auth_file") {
            Some(file) => (self.around.users)(Path::new(&absolute(&file.text))),
            None => Vec::new(),
        };
        self.auth_type();
        self.ignored();
        let named = self.users(&listed);
        for key in ["admin_users", "stats_users"] {
            self.console(key, &listed, &named);
        }
    }

    /// What clients are asked for, as rules.
    fn auth_type(&mut self) {
        let value = self.said_or("auth_type", "md5");
        let kind = value.text.to_ascii_lowercase();
        let rules: &[(&str, &str)] = match kind.as_str() {
            "trust" => &[("local", "trust"), ("host", "trust")],
            "md5" => &[("local", "md5"), ("host", "md5")],
            "scram-sha-256" => &[("local", "scram-sha-256"), ("host", "scram-sha-256")],
            "plain" => &[("local", "password"), ("host", "password")],
            "cert" => &[("hostssl", "cert")],
            _ => &[],
        };
        for (kind, method) in rules {
            let rule = self.doc.add_table("[[hba]]", Some(value.origin()));
            let address = if *kind == "local" { None } else { Some("all") };
            let keys = [("type", Some(*kind)), ("address", address), ("method", Some(*method))];
            for (key, text) in keys.into_iter().filter_map(|(key, text)| Some((key, text?))) {
                self.set(rule, key, &quote(text), &value);
            }
        }
        match kind.as_str() {
            "hba" => self.note(&value, Fate::Renamed, "auth.hba_file"),
            _ if !rules.is_empty() => {
                let fate = if value.place.is_some() { Fate::Renamed } else { Fate::Default };
                self.note(&value, fate, "[[hba]] rules");
            }
            "any" => {
                self.note(&value, Fate::Blocks, "a client is always the user it says it is; trust lets known users in")
            }
            _ => self.note(&value, Fate::Blocks, "there is no such method"),
        }
        let wanted = if kind == "hba" { Rules::Wanted } else { Rules::Unread };
        self.hba_file(&value, wanted);
    }

    fn hba_file(&mut self, kind: &Value, rules: Rules) {
        match (self.text("auth_hba_file"), rules) {
            (Some(file), Rules::Wanted) => {
                let table = self.doc.table("[auth]");
                self.set(table, "hba_file", &quote(&absolute(&file.text)), &file);
                self.note_new_name(&file, "auth", "hba_file");
            }
            (None, Rules::Wanted) => self.refuse(kind, "hba needs auth_hba_file"),
            (Some(file), Rules::Unread) => self.note(&file, Fate::NotNeeded, "it is read with auth_type = hba only"),
            (None, Rules::Unread) => {}
        }
        if let Some(file) = self.said("auth_ident_file") {
            match rules == Rules::Wanted && !file.text.is_empty() {
                true => {
                    let table = self.doc.table("[auth]");
                    self.set(table, "ident_file", &quote(&absolute(&file.text)), &file);
                    self.note_new_name(&file, "auth", "ident_file");
                }
                false => self.note(&file, Fate::NotNeeded, "it is read with auth_type = hba only"),
            }
        }
    }

    fn ignored(&mut self) {
        let Some(value) = self.said("ignore_startup_parameters") else { return };
        let wanted = names(&value.text);
        let tracked = |name: &str| TRACKED.iter().any(|tracked| tracked.eq_ignore_ascii_case(name));
        let left: Vec<&str> = wanted.into_iter().filter(|name| !tracked(name)).collect();
        if left.is_empty() {
            return self.note(&value, Fate::NotNeeded, "PostgreSQL is asked for every start-up parameter");
        }
        let table = self.doc.table("[auth]");
        self.set(table, "ignore_startup_parameters", &quote_list(&left), &value);
        self.note_new_name(&value, "auth", "ignore_startup_parameters");
    }

    /// `[users]`, and those of the list where there are limits for everybody; gives their names.
    fn users(&mut self, listed: &[String]) -> Vec<String> {
        let limits: Vec<(Value, &str)> = LIMITS
            .iter()
            .filter_map(|(name, own)| Some((self.said(name)?, *own)))
            .filter(|(value, _)| number(&value.text) != Some(0))
            .collect();
        let mut named = Vec::new();
        for (line, said) in self.lines(Section::Users, OF_USER) {
            let name = line.key.strip_prefix("users.").unwrap_or_default().to_owned();
            let table = self.doc.add_table("[[user]]", Some(line.origin()));
            self.set(table, "name", &quote(&name), &line);
            for (known, value) in &said {
                self.apply(known, Some(table), value);
            }
            for (value, own) in &limits {
                if !said.iter().any(|(known, _)| known.name == value.key) {
                    self.set(table, own, &number(&value.text).unwrap_or_default().to_string(), value);
                }
            }
            named.push(name);
        }
        if let Some((first, _)) = limits.first() {
            let origin = first.origin();
            for name in listed.iter().filter(|name| !named.contains(name)) {
                let table = self.doc.add_table("[[user]]", Some(origin.clone()));
                self.doc.set(table, "name", &quote(name), Origin { key: origin.key.clone(), place: origin.place });
                for (value, own) in &limits {
                    self.set(table, own, &number(&value.text).unwrap_or_default().to_string(), value);
                }
            }
        }
        self.note_limits();
        named
    }

    fn note_limits(&mut self) {
        for (name, own) in LIMITS {
            let Some(value) = self.said(name) else { continue };
            let (fate, note) = match (number(&value.text), self.doc.lacks("[auth]", "auth_user")) {
                (Some(0), _) => (Fate::NotNeeded, "without it there is no bound".to_owned()),
                (_, true) => (Fate::Renamed, format!("user.{own} of every user of auth_file and [users]")),
                (_, false) => (
                    Fate::NotSupported,
                    format!("user.{own} of users of auth_file and [users]; those looked up have no bound"),
                ),
            };
            self.note(&value, fate, note);
        }
    }

    /// Users of the console; one that nobody knows cannot come in and is left out.
    fn console(&mut self, key: &'static str, listed: &[String], named: &[String]) {
        let Some(value) = self.said(key) else { return };
        let looked_up = !self.doc.lacks("[auth]", "auth_user");
        let is_known = |name: &&str| looked_up || listed.iter().chain(named).any(|other| other == name);
        let (known, strangers): (Vec<&str>, Vec<&str>) = names(&value.text).into_iter().partition(is_known);
        let table = self.doc.table("[admin]");
        self.set(table, key, &quote_list(&known), &value);
        match strangers.is_empty() {
            true => self.note(&value, Fate::Kept, format!("admin.{key}")),
            false => {
                self.note(
                    &value,
                    Fate::Kept,
                    format!("admin.{key}, but for users that are not in auth_file: {}", strangers.join(", ")),
                );
            }
        }
    }
}
