//! The TOML that is written: tables with their keys, each of which remembers the line it comes from.

use zeroize::Zeroizing;

use super::ini::Place;

/// Why a line is there.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The key of the pgbouncer.ini.
    pub(super) key: String,
    /// Its line; none for what holds there without being said.
    pub(super) place: Option<Place>,
}

struct Table {
    title: &'static str,
    origin: Option<Origin>,
    keys: Vec<(Zeroizing<String>, Origin)>,
}

/// A table of a [`Doc`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TableId(usize);

/// The file as far as it has come.
#[derive(Default)]
pub(super) struct Doc {
    tables: Vec<Table>,
}

/// The order in which tables are written.
const ORDER: [&str; 11] = [
    "[listen]",
    "[listen.tls]",
    "[limits]",
    "[pool]",
    "[server]",
    "[dns]",
    "[log]",
    "[admin]",
    "[auth]",
    "[[hba]]",
    "[[database]]",
];

impl Doc {
    /// A table of which there is one.
    pub(super) fn table(&mut self, title: &'static str) -> TableId {
        match self.tables.iter().position(|table| table.title == title) {
            Some(at) => TableId(at),
            None => self.add_table(title, None),
        }
    }

    /// One more table.
    pub(super) fn add_table(&mut self, title: &'static str, origin: Option<Origin>) -> TableId {
        self.tables.push(Table { title, origin, keys: Vec::new() });
        TableId(self.tables.len() - 1)
    }

    /// A key whose value is written as TOML already.
    pub(super) fn set(&mut self, table: TableId, key: &str, value: &str, origin: Origin) {
        if let Some(table) = self.tables.get_mut(table.0) {
            table.keys.push((Zeroizing::new(format!("{key} = {value}")), origin));
        }
    }

    /// Whether a table has no such key.
    pub(super) fn lacks(&self, title: &str, key: &str) -> bool {
        let mut keys = self.tables.iter().filter(|table| table.title == title).flat_map(|table| &table.keys);
        !keys.any(|(text, _)| text.split_once(" = ").is_some_and(|(name, _)| name == key))
    }

    /// The text, and of each of its lines where it comes from.
    pub(super) fn write(mut self, head: &[String]) -> (Zeroizing<String>, Vec<Option<Origin>>) {
        let rank = |table: &Table| ORDER.iter().position(|title| *title == table.title).unwrap_or(ORDER.len());
        self.tables.sort_by_key(rank);
        let len = head.iter().map(|line| line.len() + 1).sum::<usize>()
            + self
                .tables
                .iter()
                .map(|table| 16 + table.keys.iter().map(|(key, _)| key.len() + 1).sum::<usize>())
                .sum::<usize>();
        // as long as it gets, so that no copy of a password is left behind by growing
        let mut out = Zeroizing::new(String::with_capacity(len));
        let mut origins = Vec::new();
        let mut line = |text: &str, origin: Option<Origin>| {
            out.push_str(text);
            out.push('\n');
            origins.push(origin);
        };
        head.iter().for_each(|text| line(text, None));
        for table in self.tables {
            line("", None);
            line(table.title, table.origin);
            for (key, origin) in table.keys {
                line(&key, Some(origin));
            }
        }
        (out, origins)
    }
}

/// Text in quotes, as TOML and JSON have it.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of texts.
pub(super) fn quote_list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}
