//! What is counted by statement, for `SHOW STATEMENTS`: as many statements as the configuration says, those that run most.
//!
//! A statement is a text without its constants, by its fingerprint, in one pool. The data path finds it by a small number, its
//! [`Tag`], that goes along with what is owed for it ([`crate::pipe::Mark`]); a prepared statement remembers its own, so nothing
//! is searched for. A new one for which there is no room takes the place of one that has not run lately: a hand goes round,
//! halves what each has earned by running, and stops at the first that has nothing left. So what runs often stays, a flood of
//! statements that run once each passes through, and no sum is lost: what goes is added to the rest of its pool.
//!
//! Lives on one shard.

use std::collections::HashMap;
use std::sync::Arc;

use dbproto::sql::{Backslash, fingerprint, normalize};
use stats::{Sketch, StatementStats};

use crate::pool::PoolId;

/// Longest text that is kept of a statement.
const TEXT_LEN_MAX: usize = 1000;
/// The bits of a tag that say which entry; the others tell whether it is still the same statement's.
const INDEX_BITS: u32 = 16;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const GENERATION_MASK: u32 = crate::pipe::MARK_ID_MASK >> INDEX_BITS;

/// Where a statement is counted. Fits what a mark carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tag(u32);

impl Tag {
    /// Nothing is counted.
    pub(crate) const NONE: Self = Self(0);
    /// Counted with the rest of its pool: no statement of its own is known.
    const REST: Self = Self(INDEX_MASK);

    pub(crate) const fn of(bits: u32) -> Self {
        Self(bits & crate::pipe::MARK_ID_MASK)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

/// A session's statements on their way; see [`crate::session::write`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Account {
    /// The statement that was bound last.
    pub(crate) bound: Tag,
    /// The first of the group that is being sent: its time is the whole group's.
    pub(crate) first: Tag,
    /// Rows of the request that runs, so far.
    pub(crate) rows: u64,
    pub(crate) failure: Failing,
}

/// Whether something failed in the group that is being answered that belongs to no execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Failing {
    #[default]
    No,
    Yes,
}

/// What became of an execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Well,
    Badly,
}

/// Whose connection it was on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Shared,
    Exclusive,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    calls: u64,
    rows: u64,
    errors: u64,
    shared: u64,
    exclusive: u64,
    server_us: u64,
    queue_time: Sketch,
    server_time: Sketch,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.rows = self.rows.saturating_add(other.rows);
        self.errors += other.errors;
        self.shared += other.shared;
        self.exclusive += other.exclusive;
        self.server_us = self.server_us.saturating_add(other.server_us);
        self.queue_time.merge(&other.queue_time);
        self.server_time.merge(&other.server_time);
    }
}

struct Entry {
    key: u64,
    pool: PoolId,
    fingerprint: u64,
    text: Arc<str>,
    generation: u32,
    /// What it has earned by running; it lasts for as many rounds of the hand as this has bits.
    credit: u8,
    counts: Counts,
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct Tallies {
    limit: usize,
    by_key: HashMap<u64, usize, foldhash::fast::RandomState>,
    entries: Vec<Entry>,
    rest: HashMap<PoolId, Counts, foldhash::fast::RandomState>,
    hand: usize,
}

/// A text on its way to be counted.
pub(crate) struct Text<'t> {
    pub(crate) text: &'t [u8],
    pub(crate) backslash: Backslash,
    /// Its fingerprint, if it is known; else 0.
    pub(crate) fingerprint: u64,
}

impl Tallies {
    /// For so many statements; none if 0.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit: limit as usize, ..Self::default() }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.limit > 0
    }

    /// For what has no statement of its own: texts too long to be kept, function calls.
    pub(crate) const fn rest(&self) -> Tag {
        if self.is_on() { Tag::REST } else { Tag::NONE }
    }

    /// Whether a tag is still that of a statement of this pool, which has run again then.
    pub(crate) fn touch(&mut self, pool: PoolId, tag: Tag) -> bool {
        let found = entry(&mut self.entries, pool, tag);
        if let Some(entry) = found {
            entry.credit = entry.credit.saturating_add(1);
            return true;
        }
        false
    }

    /// The tag of a text that is about to run.
    pub(crate) fn tag(&mut self, pool: PoolId, text: &Text<'_>) -> Tag {
        if !self.is_on() {
            return Tag::NONE;
        }
        let known = Some(text.fingerprint).filter(|known| *known != 0);
        let fingerprint = known.unwrap_or_else(|| fingerprint(text.text, text.backslash));
        let key = key_of(pool, fingerprint);
        if let Some(tag) = self.find(pool, key) {
            return tag;
        }
        let text = normalize(text.text, text.backslash, TEXT_LEN_MAX);
        let index = self.place();
        let generation = self.entries.get(index).map_or(1, |old| (old.generation + 1) & GENERATION_MASK);
        let new = Entry { key, pool, fingerprint, text: text.into(), generation, credit: 0, counts: Counts::default() };
        match self.entries.get_mut(index) {
            Some(place) => {
                let old = std::mem::replace(place, new);
                self.by_key.remove(&old.key);
                self.rest.entry(old.pool).or_default().add(&old.counts);
            }
            None => self.entries.push(new),
        }
        self.by_key.insert(key, index);
        tag_of(index, generation)
    }

    fn find(&mut self, pool: PoolId, key: u64) -> Option<Tag> {
        let index = *self.by_key.get(&key)?;
        let entry = self.entries.get_mut(index).filter(|entry| entry.pool == pool)?;
        entry.credit = entry.credit.saturating_add(1);
        Some(tag_of(index, entry.generation))
    }

    /// Where a new one goes.
    fn place(&mut self) -> usize {
        if self.entries.len() < self.limit.min(INDEX_MASK as usize - 2) {
            return self.entries.len();
        }
        // each round halves everything, so this ends after as many rounds as credit has bits, and one
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.entries.len().max(1);
            match self.entries.get_mut(at) {
                Some(entry) if entry.credit > 0 => entry.credit /= 2,
                Some(_) | None => return at,
            }
        }
    }

    fn counts(&mut self, pool: PoolId, tag: Tag) -> Option<&mut Counts> {
        if tag == Tag::NONE {
            return None;
        }
        match entry(&mut self.entries, pool, tag) {
            Some(entry) => Some(&mut entry.counts),
            // it had to go while it ran, or never was one
            None => Some(self.rest.entry(pool).or_default()),
        }
    }

    /// A request has waited for so long until it was written.
    pub(crate) fn on_sent(&mut self, pool: PoolId, tag: Tag, waited_us: u64) {
        if let Some(counts) = self.counts(pool, tag) {
            counts.queue_time.record_us(waited_us);
        }
    }

    /// An execution has ended.
    pub(crate) fn on_executed(&mut self, pool: PoolId, tag: Tag, way: Way, ending: Ending) {
        if let Some(counts) = self.counts(pool, tag) {
            counts.calls += 1;
            match way {
                Way::Shared => counts.shared += 1,
                Way::Exclusive => counts.exclusive += 1,
            }
            counts.errors += u64::from(ending == Ending::Badly);
        }
    }

    /// It failed, and how it ended is counted by itself.
    pub(crate) fn on_failed(&mut self, pool: PoolId, tag: Tag) {
        if let Some(counts) = self.counts(pool, tag) {
            counts.errors += 1;
        }
    }

    /// A command was completed that gave or changed so many.
    pub(crate) fn on_rows(&mut self, pool: PoolId, tag: Tag, rows: u64) {
        if let Some(counts) = self.counts(pool, tag) {
            counts.rows = counts.rows.saturating_add(rows);
        }
    }

    /// Postgres has worked on a request for so long.
    pub(crate) fn on_time(&mut self, pool: PoolId, tag: Tag, us: u64) {
        if let Some(counts) = self.counts(pool, tag) {
            counts.server_time.record_us(us);
            counts.server_us = counts.server_us.saturating_add(us);
        }
    }

    /// The fingerprint and the text of a statement, if it is still known.
    pub(crate) fn text(&self, pool: PoolId, tag: Tag) -> Option<(u64, &str)> {
        let index = (tag.0 & INDEX_MASK).checked_sub(1)?;
        let entry = self.entries.get(index as usize)?;
        let is_it = entry.generation == tag.0 >> INDEX_BITS && entry.pool == pool;
        is_it.then_some((entry.fingerprint, &*entry.text))
    }

    /// A copy of it all; `name` gives a pool's database and user.
    pub(crate) fn copy(&self, name: impl Fn(PoolId) -> Option<(String, String)>) -> Vec<StatementStats> {
        let entries =
            self.entries.iter().map(|entry| (entry.pool, entry.fingerprint, Some(&entry.text), &entry.counts));
        let rest = self.rest.iter().map(|(pool, counts)| (*pool, 0, None, counts));
        entries
            .chain(rest)
            .filter_map(|(pool, fingerprint, text, counts)| {
                let (database, user) = name(pool)?;
                Some(StatementStats {
                    database,
                    user,
                    fingerprint,
                    statement: text.map(|text| text.to_string()),
                    calls: counts.calls,
                    rows: counts.rows,
                    errors: counts.errors,
                    shared: counts.shared,
                    exclusive: counts.exclusive,
                    server_us: counts.server_us,
                    queue_time: counts.queue_time.clone(),
                    server_time: counts.server_time.clone(),
                })
            })
            .collect()
    }
}

fn entry(entries: &mut [Entry], pool: PoolId, tag: Tag) -> Option<&mut Entry> {
    let index = (tag.0 & INDEX_MASK).checked_sub(1)?;
    let entry = entries.get_mut(index as usize)?;
    (entry.generation == tag.0 >> INDEX_BITS && entry.pool == pool).then_some(entry)
}

fn tag_of(index: usize, generation: u32) -> Tag {
    let index = u32::try_from(index).unwrap_or_default();
    Tag(((generation & GENERATION_MASK) << INDEX_BITS) | (index + 1))
}

/// The same statement of different pools is counted in different places.
fn key_of(pool: PoolId, fingerprint: u64) -> u64 {
    fingerprint ^ u64::from(pool.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The number at the end of a command tag, as in `INSERT 0 5`.
pub(crate) fn rows_of(command_tag: &[u8]) -> u64 {
    let tag = command_tag.strip_suffix(b"\0").unwrap_or(command_tag);
    let digits = tag.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    digits
        .iter()
        .try_fold(0_u64, |rows, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            rows.checked_mul(10)?.checked_add(digit)
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolId = PoolId(3);

    fn text(text: &str) -> Text<'_> {
        Text { text: text.as_bytes(), backslash: Backslash::Literal, fingerprint: 0 }
    }

    fn run(tallies: &mut Tallies, pool: PoolId, what: &str) -> Tag {
        let tag = tallies.tag(pool, &text(what));
        tallies.on_executed(pool, tag, Way::Shared, Ending::Well);
        tag
    }

    fn calls(tallies: &Tallies) -> Vec<(Option<String>, u64)> {
        let mut out: Vec<_> = tallies
            .copy(|pool| Some((pool.0.to_string(), String::new())))
            .into_iter()
            .map(|one| (one.statement, one.calls))
            .collect();
        out.sort();
        out
    }

    #[test]
    fn constants_make_no_other_statement_and_pools_do() {
        let mut tallies = Tallies::new(10);
        let first = run(&mut tallies, POOL, "select 1");
        assert_eq!(run(&mut tallies, POOL, "SELECT 'two'"), first);
        assert_ne!(run(&mut tallies, PoolId(4), "select 1"), first);
        assert_eq!(calls(&tallies), [(Some("select ?".into()), 1), (Some("select ?".into()), 2)]);
        assert!(tallies.touch(POOL, first) && !tallies.touch(PoolId(4), first));
        assert_eq!(tallies.text(POOL, first).map(|(_, text)| text), Some("select ?"));
        assert_eq!((tallies.text(PoolId(4), first), tallies.text(POOL, tallies.rest())), (None, None));
    }

    #[test]
    fn a_flood_of_others_passes_what_runs_often_and_no_call_is_lost() {
        let mut tallies = Tallies::new(50);
        let mut tag = Tag::NONE;
        for index in 0..10_000 {
            run(&mut tallies, POOL, &format!("select a{index}"));
            if index % 20 == 0 {
                tag = run(&mut tallies, POOL, "select often");
            }
        }
        let counted = calls(&tallies);
        assert_eq!(counted.len(), 51);
        assert!(counted.contains(&(Some("select often".into()), 500)), "{counted:?}");
        assert_eq!(counted.iter().map(|(_, calls)| calls).sum::<u64>(), 10_500);
        assert!(tallies.touch(POOL, tag));
    }

    #[test]
    fn a_statement_that_goes_while_it_runs_is_counted_with_the_rest() {
        let mut tallies = Tallies::new(1);
        let old = tallies.tag(POOL, &text("select a"));
        let new = tallies.tag(POOL, &text("select b"));
        assert!(!tallies.touch(POOL, old) && tallies.touch(POOL, new));
        tallies.on_executed(POOL, old, Way::Exclusive, Ending::Badly);
        tallies.on_executed(POOL, tallies.rest(), Way::Exclusive, Ending::Well);
        tallies.on_time(POOL, old, 100);
        assert_eq!(calls(&tallies), [(None, 2), (Some("select b".into()), 0)]);
    }

    #[test]
    fn nothing_is_counted_when_it_is_off() {
        let mut tallies = Tallies::new(0);
        assert_eq!((run(&mut tallies, POOL, "select 1"), tallies.rest()), (Tag::NONE, Tag::NONE));
        assert!(calls(&tallies).is_empty());
    }

    #[test]
    fn tags_fit_a_mark_whatever_their_generation() {
        let mut tallies = Tallies::new(1);
        for index in 0..10_000 {
            let tag = tallies.tag(POOL, &text(&format!("select a{index}")));
            assert_eq!(Tag::of(tag.bits()), tag);
            assert!(tallies.touch(POOL, tag), "{index}");
        }
    }

    #[test]
    fn rows_are_the_number_at_the_end() {
        for (tag, rows) in [
            ("SELECT 5\0", 5),
            ("INSERT 0 12\0", 12),
            ("COPY 0", 0),
            ("BEGIN\0", 0),
            ("SELECT 99999999999999999999", 0),
            ("", 0),
        ] {
            assert_eq!(rows_of(tag.as_bytes()), rows, "{tag}");
        }
    }
}
