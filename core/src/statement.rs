//! Prepared statements of one shard: what a client prepared, and the name it has on server connections.
//!
//! Every different (text, parameter types, settings that decide its meaning) is interned once and gets a number; on every server connection it is
//! prepared under a name made of that number. So a statement that one client prepared on one connection can be bound on
//! another, and the same statement of many clients is planned once per connection. A client never sees those names.
//!
//! Lives on one shard; what crosses to another shard is the [`StatementSource`].

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use dbproto::sql::{Backslash, fingerprint};

use crate::catalog::Catalog;
use crate::pool::PoolId;
use crate::shape::Knowledge;
use crate::tally::{Tag, Tallies, Text};
use crate::verdict::{Verdict, judge};

/// What identifies a prepared statement.
#[derive(PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct StatementSource {
    /// The SQL text.
    pub(crate) text: Box<[u8]>,
    /// The parameter types as the Parse message carries them: a count and that many OIDs.
    pub(crate) types: Box<[u8]>,
    /// The state of the catalog it was prepared in: what is prepared after a change must not be taken for what was before.
    pub(crate) generation: u64,
    /// Fingerprint of the settings it was prepared under, as far as they decide what it means: under others names resolve
    /// differently, and constants (`'12:00'::timestamptz`) read differently.
    pub(crate) under: u64,
}

/// What the text of a statement holds that settings decide about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wording {
    /// Names and numbers.
    Names,
    /// Constants in quotes as well: how they are read is decided when the statement is prepared.
    Constants,
}

impl Wording {
    pub(crate) fn of(text: &[u8]) -> Self {
        // a quote, or the dollar of a dollar quote; that of a parameter stands before a digit
        let mut bytes = text.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            if byte == b'\'' || (byte == b'$' && !bytes.peek().is_some_and(u8::is_ascii_digit)) {
                return Self::Constants;
            }
        }
        Self::Names
    }
}

/// A statement's number on this shard; never given twice while anything remembers it.
pub(crate) type StatementId = u32;

/// An interned statement.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) id: StatementId,
    pub(crate) source: Arc<StatementSource>,
    pub(crate) wording: Wording,
    /// The last verdict, and the catalog it was found by.
    verdict: Cell<Option<(u64, Verdict)>>,
    /// Of its text, once it is known; see [`crate::tally`].
    fingerprint: Cell<u64>,
    /// Where it was counted last.
    tag: Cell<Tag>,
    /// What it gives, as clients were told.
    pub(crate) knowledge: Knowledge,
}

/// What begins every name we give to a statement on a server. A client's own unknown name that begins so is altered
/// before it is sent on, so that it can never reach another session's statement.
pub(crate) const NAME_PREFIX: &[u8] = b"_optimacore_";

impl Statement {
    /// The name on server connections.
    pub(crate) fn name(&self) -> StatementName {
        StatementName::new(self.id)
    }

    /// Where it is counted; nothing is searched for as long as that does not change.
    pub(crate) fn tag(&self, tallies: &mut Tallies, pool: PoolId, backslash: Backslash) -> Tag {
        let known = self.tag.get();
        if !tallies.is_on() || (known != Tag::NONE && tallies.touch(pool, known)) {
            return known;
        }
        if self.fingerprint.get() == 0 {
            self.fingerprint.set(fingerprint(&self.source.text, backslash));
        }
        let text = Text { text: &self.source.text, backslash, fingerprint: self.fingerprint.get() };
        self.tag.set(tallies.tag(pool, &text));
        self.tag.get()
    }

    /// The types of its parameters as a Parse carries them: as Postgres has found them, once that is known.
    pub(crate) fn types(&self) -> &[u8] {
        self.knowledge.types().unwrap_or(&self.source.types)
    }

    /// What this catalog says of its text, as a session reads it that reads as usual.
    pub(crate) fn verdict(&self, catalog: &Catalog) -> Verdict {
        match self.verdict.get() {
            Some((serial, verdict)) if serial == catalog.serial => verdict,
            Some(_) | None => {
                let verdict = judge(&self.source.text, Backslash::Literal, catalog);
                self.verdict.set(Some((catalog.serial, verdict)));
                verdict
            }
        }
    }
}

/// A name such as `_optimacore_17`, built without allocating.
#[derive(Clone, Copy)]
pub(crate) struct StatementName {
    bytes: [u8; 24],
    len: usize,
}

impl StatementName {
    pub(crate) fn new(id: StatementId) -> Self {
        let mut bytes = [0_u8; 24];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(NAME_PREFIX) {
            *to = *from;
            len += 1;
        }
        let mut digits = [0_u8; 10];
        let mut rest = id;
        let mut count = 0;
        for digit in &mut digits {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        for (to, from) in bytes.iter_mut().skip(len).zip(digits.iter().take(count).rev()) {
            *to = *from;
        }
        len += count;
        Self { bytes, len }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// All statements anything on this shard remembers.
#[derive(Default)]
pub(crate) struct Interner {
    by_source: HashMap<Arc<StatementSource>, Rc<Statement>, foldhash::fast::RandomState>,
    last_id: StatementId,
    generation: u64,
    sweep_at: usize,
    ids: HashSet<StatementId, foldhash::fast::RandomState>,
    /// Of all texts.
    bytes: usize,
    sweep_at_bytes: usize,
    /// By how many settings they set.
    setters: Vec<Rc<Statement>>,
}

/// Entries below which nothing is swept.
const SWEEP_MIN: usize = 1024;
const SWEEP_MIN_BYTES: usize = 16 * 1024 * 1024;

impl Interner {
    /// What statements that are prepared now are known by, under this state of the catalog.
    pub(crate) const fn state(&self, catalog_state: u64) -> u64 {
        // one more of the one never makes up for one less of the other
        catalog_state.wrapping_add(self.generation.wrapping_mul(0xff51_afd7_ed55_8ccd))
    }

    /// Postgres has refused a statement because its result has changed its form. Which, is not known: whoever prepares
    /// any anew gets a new one, and those who know an old one go on being refused.
    pub(crate) fn distrust(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The same statement as it is prepared now.
    pub(crate) fn renew(&mut self, statement: &Statement, generation: u64, under: u64) -> Rc<Statement> {
        let (text, types) = (statement.source.text.clone(), statement.types().into());
        self.intern(Arc::new(StatementSource { text, types, generation, under }))
    }

    /// The statement that sets so many settings for its transaction; its parameters are their names and values by turns.
    pub(crate) fn setter(&mut self, count: usize) -> Rc<Statement> {
        while self.setters.len() < count {
            let calls: Vec<_> = (0..=self.setters.len())
                .map(|index| format!("pg_catalog.set_config(${}, ${}, true)", index * 2 + 1, index * 2 + 2))
                .collect();
            let text = format!("SELECT {}", calls.join(", "));
            let source =
                StatementSource { text: text.into_bytes().into(), types: Box::from([0, 0]), generation: 0, under: 0 };
            let setter = self.intern(Arc::new(source));
            self.setters.push(setter);
        }
        let last = self.setters.get(count.saturating_sub(1)).map(Rc::clone);
        last.unwrap_or_else(|| self.intern(Arc::default()))
    }

    /// Forgets what nobody else remembers.
    fn sweep(&mut self) {
        self.by_source.retain(|_, statement| Rc::strong_count(statement) > 1);
        self.ids = self.by_source.values().map(|statement| statement.id).collect();
        self.bytes = self.by_source.keys().map(|source| source.text.len()).sum();
        (self.sweep_at, self.sweep_at_bytes) = (self.by_source.len() * 2, self.bytes * 2);
    }

    /// The statement with this source, made if it is new.
    pub(crate) fn intern(&mut self, source: Arc<StatementSource>) -> Rc<Statement> {
        if let Some(statement) = self.by_source.get(&source) {
            return Rc::clone(statement);
        }
        let len = source.text.len();
        if self.by_source.len() >= self.sweep_at.max(SWEEP_MIN) || self.bytes > self.sweep_at_bytes.max(SWEEP_MIN_BYTES)
        {
            self.sweep();
        }
        // marks carry 28 bits of it; a number that is in use is passed over
        loop {
            self.last_id = (self.last_id + 1) & crate::pipe::MARK_ID_MASK;
            if self.ids.insert(self.last_id) {
                break;
            }
        }
        self.bytes += len;
        let statement = Rc::new(Statement {
            id: self.last_id,
            wording: Wording::of(&source.text),
            verdict: Cell::new(None),
            knowledge: Knowledge::new(source.generation),
            source: Arc::clone(&source),
            fingerprint: Cell::new(0),
            tag: Cell::new(Tag::NONE),
        });
        self.by_source.insert(source, Rc::clone(&statement));
        statement
    }
}

/// What one server connection has prepared, least recently used first out.
#[derive(Default)]
pub(crate) struct PreparedSet {
    entries: HashMap<StatementId, Prepared, foldhash::fast::RandomState>,
    /// Those whose Close is under way.
    evicted: Vec<Prepared>,
    clock: u64,
}

struct Prepared {
    /// Keeps the number taken while the server knows the name.
    statement: Rc<Statement>,
    used: u64,
    /// Parse messages whose answer is outstanding.
    pending: u32,
    /// The group (see [`crate::pipe`]) the last Parse was written in.
    group: u64,
    presence: Presence,
}

/// Whether the server has a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Absent,
    /// Nobody knows: a Close was skipped, or one of several Parses.
    Doubtful,
    Known,
}

/// What must be written before a statement can be bound on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Preparation {
    /// Nothing: the server has it, or will have it when the Bind of the same group is read.
    Ready,
    /// Parse.
    Parse,
    /// Close, then Parse: an earlier Parse is still unanswered, so nobody knows whether the name is taken.
    CloseAndParse,
}

impl PreparedSet {
    /// What binding `id` in `group` needs.
    pub(crate) fn preparation(&mut self, id: StatementId, group: u64) -> Preparation {
        self.clock += 1;
        let clock = self.clock;
        match self.entries.get_mut(&id) {
            None => Preparation::Parse,
            Some(entry) => {
                entry.used = clock;
                let known = entry.presence == Presence::Known;
                if (known && entry.pending == 0) || (entry.pending > 0 && entry.group == group) {
                    Preparation::Ready
                } else if entry.pending > 0 || entry.presence == Presence::Doubtful {
                    Preparation::CloseAndParse
                } else {
                    Preparation::Parse
                }
            }
        }
    }

    /// A Parse for it has been written in `group`.
    pub(crate) fn on_parse_sent(&mut self, statement: &Rc<Statement>, group: u64) {
        self.clock += 1;
        let used = self.clock;
        let entry = self.entries.entry(statement.id).or_insert_with(|| Prepared {
            statement: Rc::clone(statement),
            used,
            pending: 0,
            group,
            presence: Presence::Absent,
        });
        entry.pending += 1;
        entry.group = group;
        entry.used = used;
    }

    /// ParseComplete.
    pub(crate) fn on_parsed(&mut self, id: StatementId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.pending = entry.pending.saturating_sub(1);
            entry.presence = Presence::Known;
        }
    }

    /// The Parse failed or was skipped.
    pub(crate) fn on_parse_lost(&mut self, id: StatementId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.pending = entry.pending.saturating_sub(1);
            // with two outstanding, a Close may have gone between them: only the last answer tells
            if entry.presence == Presence::Known {
                entry.presence = Presence::Doubtful;
            }
            if entry.pending == 0 && entry.presence == Presence::Absent {
                self.entries.remove(&id);
            }
        }
    }

    /// The least recently used statement, taken out, if there are `limit` or more.
    pub(crate) fn evict(&mut self, limit: usize) -> Option<StatementId> {
        if self.entries.len() < limit {
            return None;
        }
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.pending == 0)
            .min_by_key(|(_, e)| e.used)
            .map(|(id, _)| *id)?;
        let entry = self.entries.remove(&oldest)?;
        self.evicted.push(entry);
        Some(oldest)
    }

    /// The server has closed what was evicted.
    pub(crate) fn on_evicted(&mut self, id: StatementId) {
        self.evicted.retain(|entry| entry.statement.id != id);
    }

    /// The Close of what was evicted was skipped: the server still has it, unless it has been prepared anew.
    pub(crate) fn on_evict_lost(&mut self, id: StatementId) {
        if let Some(at) = self.evicted.iter().position(|entry| entry.statement.id == id) {
            let mut entry = self.evicted.swap_remove(at);
            entry.presence = Presence::Doubtful;
            self.entries.entry(id).and_modify(|other| other.presence = Presence::Doubtful).or_insert(entry);
        }
    }

    /// It is there, but not as those who know it think.
    pub(crate) fn doubt(&mut self, id: StatementId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.presence = Presence::Doubtful;
        }
    }

    /// The statement itself.
    pub(crate) fn statement(&self, id: StatementId) -> Option<Rc<Statement>> {
        self.entries.get(&id).map(|entry| Rc::clone(&entry.statement))
    }

    /// Whether it has just been sent and not been answered.
    pub(crate) fn is_new(&self, id: StatementId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.pending > 0)
    }

    /// The server has been told to forget it.
    pub(crate) fn forget(&mut self, id: StatementId) {
        self.entries.remove(&id);
    }

    /// Statements the server has or is about to have.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the server is known to have it.
    pub(crate) fn has(&self, id: StatementId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.presence == Presence::Known && entry.pending == 0)
    }

    /// The server forgot everything (DISCARD ALL, DEALLOCATE ALL).
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.evicted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Arc<StatementSource> {
        Arc::new(StatementSource { text: text.as_bytes().into(), types: Box::from([0, 0]), generation: 0, under: 0 })
    }

    #[test]
    fn names_are_prefix_and_number() {
        assert_eq!(StatementName::new(0).as_bytes(), b"_optimacore_0");
        assert_eq!(StatementName::new(4_294_967_295).as_bytes(), b"_optimacore_4294967295");
    }

    #[test]
    fn equal_sources_are_one_statement_and_different_ones_are_not() {
        let mut interner = Interner::default();
        let a = interner.intern(source("select 1"));
        assert_eq!(interner.intern(source("select 1")).id, a.id);
        assert_ne!(interner.intern(source("select 2")).id, a.id);
    }

    #[test]
    fn a_statement_counts_as_prepared_only_after_its_answer() {
        let mut interner = Interner::default();
        let s = interner.intern(source("select 1"));
        let mut set = PreparedSet::default();
        assert_eq!(set.preparation(s.id, 1), Preparation::Parse);
        set.on_parse_sent(&s, 1);
        assert_eq!(set.preparation(s.id, 1), Preparation::Ready, "the same group may rely on it");
        assert_eq!(set.preparation(s.id, 2), Preparation::CloseAndParse, "another group may not");
        set.on_parsed(s.id);
        assert_eq!(set.preparation(s.id, 2), Preparation::Ready);
        set.on_parse_sent(&s, 3);
        set.on_parse_lost(s.id);
        assert_eq!(set.preparation(s.id, 4), Preparation::CloseAndParse, "it may be there from before");
    }

    #[test]
    fn what_was_to_be_evicted_and_was_not_is_closed_before_it_is_prepared_again() {
        let mut interner = Interner::default();
        let s = interner.intern(source("select 1"));
        let mut set = PreparedSet::default();
        set.on_parse_sent(&s, 1);
        set.on_parsed(s.id);
        assert_eq!(set.evict(1), Some(s.id));
        set.on_evict_lost(s.id);
        assert_eq!(set.preparation(s.id, 2), Preparation::CloseAndParse);
        set.on_parse_sent(&s, 2);
        set.on_parse_lost(s.id);
        assert_eq!(set.preparation(s.id, 3), Preparation::CloseAndParse, "its Close was skipped with it");
    }

    #[test]
    fn the_least_recently_used_is_evicted() {
        let mut interner = Interner::default();
        let mut set = PreparedSet::default();
        let all: Vec<_> = ["a", "b", "c"].iter().map(|t| interner.intern(source(t))).collect();
        for s in &all {
            set.on_parse_sent(s, 1);
            set.on_parsed(s.id);
        }
        assert_eq!(set.preparation(all[0].id, 2), Preparation::Ready);
        assert_eq!(set.evict(4), None);
        assert_eq!(set.evict(3), Some(all[1].id));
    }
}
