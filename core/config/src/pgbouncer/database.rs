//! `[databases]`: where each of them is, and what is its own.

use super::Fate;
use super::doc::{Origin, TableId, quote};
use super::ini::Section;
use super::key::{Known, OF_DATABASE, number};
use super::turn::{Turner, Value, absolute};

/// A line: its name and what it says.
type Line = (Value, Vec<(&'static Known, Value)>);

/// What a line says of a key.
fn find<'l>(line: &'l Line, name: &str) -> Option<&'l Value> {
    line.1.iter().find(|(known, _)| known.name == name).map(|(_, value)| value)
}

fn name_of(line: &Line) -> &str {
    line.0.key.strip_prefix("databases.").unwrap_or_default()
}

impl Turner<'_> {
    pub(super) fn databases(&mut self) {
        let lines = self.lines(Section::Databases, OF_DATABASE);
        for line in &lines {
            self.database(line);
        }
        for (name, own) in
            [("max_db_connections", "max_connections"), ("max_db_client_connections", "max_client_connections")]
        {
            if let Some(value) = self.said(name) {
                match number(&value.text) {
                    Some(0) => self.note(&value, Fate::NotNeeded, "without it there is no bound"),
                    _ => self.note(&value, Fate::Renamed, format!("database.{own} of every [[database]]")),
                }
            }
        }
        self.asker("auth_user", &lines);
        self.asker("auth_query", &lines);
        self.auth_dbname(&lines);
    }

    fn database(&mut self, line: &Line) {
        let name = name_of(line).to_owned();
        let own = self.doc.add_table("[[database]]", Some(line.0.origin()));
        if name == "pgbouncer" {
            self.refuse(&line.0, "the name is the console's");
        }
        self.set(own, "name", &quote(&name), &line.0);
        self.host(own, line);
        for (known, value) in &line.1 {
            self.apply(known, Some(own), value);
        }
        if let Some(value) = find(line, "min_pool_size") {
            let size = find(line, "pool_size").cloned().unwrap_or_else(|| self.said_or("default_pool_size", "20"));
            let wanted = number(&value.text).unwrap_or_default().min(number(&size.text).unwrap_or_default());
            self.set(own, "pool.min_pool_size", &wanted.to_string(), value);
            self.note_new_name(value, "database", "pool.min_pool_size");
        }
        if let Some(value) = find(line, "password") {
            if find(line, "user").is_none() {
                self.note(value, Fate::NotNeeded, "without user= it is nobody's");
            } else if value.text.starts_with("env:") || value.text.starts_with("credential:") {
                self.note(
                    value,
                    Fate::Blocks,
                    "it would be taken for a name; put it into a file and name that by password_file",
                );
            } else {
                self.set(own, "password", &quote(&value.text), value);
                self.note_new_name(value, "database", "password");
            }
        }
        for (name, limit) in
            [("max_db_connections", "max_connections"), ("max_db_client_connections", "max_client_connections")]
        {
            let said = self.said(name).filter(|value| number(&value.text) != Some(0));
            if let (Some(value), None) = (said, find(line, name)) {
                self.set(own, limit, &number(&value.text).unwrap_or_default().to_string(), &value);
            }
        }
        self.settings(own, line);
    }

    /// What server connections begin with.
    fn settings(&mut self, own: TableId, line: &Line) {
        let mut settings = Vec::new();
        for name in ["application_name", "client_encoding", "datestyle", "timezone"] {
            if let Some(value) = find(line, name) {
                settings.push(format!("{name} = {}", quote(&value.text)));
                self.note(value, Fate::Renamed, format!("database.settings.{name}"));
            }
        }
        if !settings.is_empty() {
            let text = format!("{{ {} }}", settings.join(", "));
            self.set(own, "settings", &text, &line.0);
        }
    }

    fn host(&mut self, own: TableId, line: &Line) {
        let Some(value) = find(line, "host") else {
            if let Some(turns) = find(line, "load_balance_hosts") {
                self.note(turns, Fate::NotNeeded, "there is one host");
            }
            let dir = self.said_or("unix_socket_dir", "/tmp");
            if dir.text.is_empty() || dir.text.starts_with('@') {
                return self.refuse(&line.0, "needs host=, since unix_socket_dir is no directory");
            }
            let origin = Origin { key: line.0.key.clone(), place: line.0.place };
            return self.doc.set(own, "host", &quote(&absolute(&dir.text)), origin);
        };
        let turns = find(line, "load_balance_hosts");
        let in_order = turns.is_some_and(|turns| turns.text.eq_ignore_ascii_case("disable"));
        if let Some(turns) = turns {
            let fate = if in_order || !value.text.contains(',') { Fate::NotNeeded } else { Fate::NotSupported };
            self.note(turns, fate, "hosts are tried in their order");
        }
        // names go on so that the rest of the file can be judged
        let (host, fate, note) = match &*value.text {
            text if text.starts_with('@') => ("/", Fate::Blocks, "there are no sockets in the abstract namespace"),
            text if text.contains(',') && !in_order => (
                text.trim(),
                Fate::NotSupported,
                "database.host: in their order, the next when one fails, and not in turns",
            ),
            text => (text.trim(), Fate::Kept, "database.host"),
        };
        self.set(own, "host", &quote(host), value);
        self.note(value, fate, note);
    }

    /// Who looks users up, and how, is the same for all databases here.
    fn asker(&mut self, name: &'static str, lines: &[Line]) {
        let global = self.text(name);
        let mut values: Vec<&Value> = lines.iter().filter_map(|line| find(line, name)).chain(&global).collect();
        values.dedup_by(|a, b| a.text == b.text);
        let Some(first) = values.first().copied().cloned() else { return };
        let without_user = name == "auth_query" && self.doc.lacks("[auth]", "auth_user");
        let all_alike = values.iter().all(|value| value.text == first.text);
        let covers_all = global.is_some() || lines.iter().all(|line| find(line, name).is_some());
        if !without_user {
            let table = self.doc.table("[auth]");
            self.set(table, name, &quote(&global.as_ref().unwrap_or(&first).text), global.as_ref().unwrap_or(&first));
        }
        for value in lines.iter().filter_map(|line| find(line, name)).chain(&global) {
            let (fate, note) = match (without_user, all_alike, covers_all) {
                (true, _, _) => (Fate::NotNeeded, "without auth_user nobody is looked up".to_owned()),
                (false, false, _) => (Fate::Blocks, format!("auth.{name} is the same for all databases")),
                (false, true, false) => {
                    (Fate::NotSupported, format!("auth.{name} holds for all databases, not for this one only"))
                }
                (false, true, true) => (Fate::Kept, format!("auth.{name}")),
            };
            self.note(value, fate, note);
        }
    }

    /// PgBouncer names an entry of `[databases]`, we name a database of the same server.
    fn auth_dbname(&mut self, lines: &[Line]) {
        let global = self.text("auth_dbname");
        let all: Vec<Value> =
            lines.iter().filter_map(|line| find(line, "auth_dbname")).cloned().chain(global.clone()).collect();
        let Some(first) = global.or_else(|| all.first().cloned()) else { return };
        let entry = lines.iter().find(|line| *name_of(line) == *first.text);
        let place = |line: &Line| ["host", "port"].map(|key| find(line, key).map(|value| value.text.clone()));
        let elsewhere = entry.is_some_and(|entry| lines.iter().any(|line| place(line) != place(entry)));
        let named = entry.and_then(|entry| find(entry, "dbname")).unwrap_or(&first).clone();
        let lonely = self.doc.lacks("[auth]", "auth_user");
        if !lonely {
            let table = self.doc.table("[auth]");
            self.set(table, "auth_dbname", &quote(&named.text), &first);
        }
        for value in all {
            let (fate, note) = if lonely {
                (Fate::NotNeeded, "without auth_user nobody is looked up")
            } else if value.text != first.text {
                (Fate::Blocks, "auth.auth_dbname is the same for all databases")
            } else if elsewhere {
                (Fate::Blocks, "users are looked up on the server of their database, and that is not always this one")
            } else {
                (Fate::Kept, "auth.auth_dbname")
            };
            self.note(&value, fate, note);
        }
    }
}
