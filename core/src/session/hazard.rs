//! What a text may do that its verdict does not know: words that betray state which only one connection has,
//! and names that a client never prepared.

use crate::session::{Left, Pin, Session};
use crate::statement::NAME_PREFIX;

/// Looks for hazards in a long Query while it is passed on; the end of each piece is kept, so that none hides between two.
pub(super) fn search_passing(session: &mut Session, piece: &[u8]) {
    let Some(tail) = &mut session.tail else { return };
    let keep = HAZARDS.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
    let mut seam = std::mem::take(tail);
    seam.extend_from_slice(piece.get(..keep.min(piece.len())).unwrap_or_default());
    let found = hazard(&seam).or_else(|| hazard(piece));
    seam.extend_from_slice(
        piece.get(keep..).map_or(&[][..], |rest| rest.get(rest.len().saturating_sub(keep)..).unwrap_or_default()),
    );
    let end = seam.len().saturating_sub(keep);
    *tail = seam.split_off(end);
    if let Some(found) = found {
        session.pin = Pin::Because(found);
    }
    session.left = Left::Likely;
}

/// A name the session never prepared. Postgres judges it, but it can never be one of ours.
pub(super) fn foreign(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 1);
    if name.starts_with(NAME_PREFIX) {
        out.push(b' ');
    }
    out.extend_from_slice(name);
    out
}

/// Words without which no statement leaves the state that their reason names, and that Postgres cannot be asked for.
const HAZARDS: [(&[u8], &str); 1] = [(b"setseed", "random seed")];

/// Words of texts that most likely leave something: who loses the connection on which one ran has lost it.
const HINTS: [&[u8]; 19] = [
    b"set",
    b"set_config",
    b"temp",
    b"temporary",
    b"pg_temp",
    b"pg_advisory_lock",
    b"pg_advisory_lock_shared",
    b"pg_try_advisory_lock",
    b"pg_try_advisory_lock_shared",
    b"hold",
    b"setseed",
    b"role",
    b"authorization",
    b"characteristics",
    b"do",
    b"call",
    b"listen",
    b"load",
    b"prepare",
];

/// Whether a text that is not known to be harmless most likely leaves something.
pub(super) fn leaves_something(text: &[u8]) -> bool {
    words(text).any(|found| HINTS.iter().any(|word| found.eq_ignore_ascii_case(word)))
}

/// Words that say that something is left, wherever they stand.
const SAYS: [&[u8]; 10] = [
    b"set_config",
    b"temp",
    b"temporary",
    b"pg_temp",
    b"pg_advisory_lock",
    b"pg_advisory_lock_shared",
    b"pg_try_advisory_lock",
    b"pg_try_advisory_lock_shared",
    b"hold",
    b"setseed",
];
/// Words that say so where a statement begins.
const BEGINS: [&[u8]; 9] = [b"set", b"reset", b"discard", b"do", b"call", b"listen", b"load", b"prepare", b"execute"];

/// Whether the words of a text say that it leaves something: what sessions still declare that promise to leave nothing
/// unsaid.
pub(super) fn declares_state(text: &[u8]) -> bool {
    let among = |list: &[&[u8]], found: &[u8]| list.iter().any(|word| found.eq_ignore_ascii_case(word));
    // a comment may hide where a statement begins
    let commented = text.windows(2).any(|pair| pair == b"--" || pair == b"/*");
    let begins = |text: &[u8]| words(text).next().is_some_and(|first| among(&BEGINS, first));
    words(text).any(|found| among(&SAYS, found) || commented && among(&BEGINS, found))
        || text.split(|byte| *byte == b';').any(begins)
}

/// Whether a text that is known to use sequences only looks at values that are there: `select lastval()`.
pub(super) fn only_looks_at_sequences(text: &[u8]) -> bool {
    let selects = words(text).next().is_some_and(|first| first.eq_ignore_ascii_case(b"select"));
    selects && !words(text).any(|word| word.eq_ignore_ascii_case(b"nextval") || word.eq_ignore_ascii_case(b"setval"))
}

/// The words of a text, in one pass: it may be long.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| !is_part(*byte)).filter(|word| !word.is_empty())
}

/// Names of settings of users' own that are remembered of one session.
const CUSTOM_MAX: usize = 32;
const CUSTOM_LEN_MAX: usize = 128;

/// Notes the settings of users' own that a text names: a name with a dot in quotes, as `set_config` and `current_setting` take
/// it, or behind the word SET. Postgres does not list them, so they must be asked for by name.
pub(super) fn note_custom_settings(known: &mut Vec<Box<str>>, text: &[u8]) {
    let mut note = |name: &[u8]| {
        if let Ok(name) = std::str::from_utf8(name)
            && known.len() < CUSTOM_MAX
            && !known.iter().any(|other| other.eq_ignore_ascii_case(name))
        {
            known.push(name.into());
        }
    };
    if contains_word(text, b"set_config") || contains_word(text, b"current_setting") {
        text.split(|byte| *byte == b'\'').filter(|piece| is_custom(piece)).for_each(&mut note);
    }
    let mut words = text.split(|byte| byte.is_ascii_whitespace() || b";=(".contains(byte)).filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        if word.eq_ignore_ascii_case(b"set") {
            let next = words.next().unwrap_or_default();
            let name = if next.eq_ignore_ascii_case(b"session") { words.next().unwrap_or_default() } else { next };
            if is_custom(name) {
                note(name);
            }
        }
    }
}

/// Whether this is a name as settings of users' own have it.
fn is_custom(name: &[u8]) -> bool {
    name.len() <= CUSTOM_LEN_MAX
        && name.contains(&b'.')
        && name.split(|byte| *byte == b'.').all(|part| {
            part.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
                && part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
        })
}

/// Why text may leave state behind in its session, if it may.
pub(super) fn hazard(text: &[u8]) -> Option<&'static str> {
    words(text)
        .find_map(|found| HAZARDS.iter().find(|(word, _)| found.eq_ignore_ascii_case(word)).map(|(_, reason)| *reason))
}

/// Whether text may choose the seed of random numbers: `setseed(..)`, `SET [SESSION | LOCAL] SEED`.
pub(super) fn chooses_seed(text: &[u8]) -> bool {
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).take(3);
    let is = |word: Option<&[u8]>, wanted: &[u8]| word.is_some_and(|word| word.eq_ignore_ascii_case(wanted));
    let begins = is(words.next(), b"set");
    contains_word(text, b"setseed") || begins && words.any(|word| contains_word(word, b"seed"))
}

/// Whether a byte belongs to a word.
const fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

/// Whether `word`, given in lower case, stands in `text` as a whole word.
pub(super) fn contains_word(text: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else { return true };
    let upper = first.to_ascii_uppercase();
    let part = |byte: Option<&u8>| byte.copied().is_some_and(is_part);
    text.windows(word.len()).enumerate().any(|(at, window)| {
        window.first().is_some_and(|byte| byte == first || *byte == upper)
            && window.eq_ignore_ascii_case(word)
            && !part(at.checked_sub(1).and_then(|before| text.get(before)))
            && !part(text.get(at + word.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazards_are_found_in_any_case() {
        assert_eq!(hazard(b"select SetSeed(0.5)"), Some("random seed"));
        assert_eq!(hazard(b"select setseeds, my_setseed, pg_advisory_lock(1)"), None);
    }

    #[test]
    fn texts_that_most_likely_leave_something_are_told_by_whole_words() {
        for text in
            ["begin; SET work_mem = 1", "select pg_advisory_lock(1)", "do $$ $$", "create temp table x()", "call f()"]
        {
            assert!(leaves_something(text.as_bytes()), "{text}");
        }
        for text in ["", "select offset, template, documents, roles from t", "select set_of_them"] {
            assert!(!leaves_something(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn who_only_looks_at_sequences_does_not_use_them() {
        assert!(only_looks_at_sequences(b" SELECT currval('a'), lastval()"));
        for text in ["select nextval('a')", "select lastval(), SetVal('a', 1)", "insert into t values (lastval())", ""]
        {
            assert!(!only_looks_at_sequences(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_declared_is_told_by_where_words_stand() {
        for text in [
            "SET work_mem = 1",
            "begin; reset all",
            "select set_config('a.b', '', false)",
            "/* a */ set x = 1",
            "-- a\n discard plans",
            "create temp table x()",
            "do $$ $$",
            "declare c cursor with hold for select 1",
        ] {
            assert!(declares_state(text.as_bytes()), "{text}");
        }
        for text in ["", "update t set a = f(1)", "insert into t values (1) on conflict do nothing", "select f()"] {
            assert!(!declares_state(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn settings_of_users_own_are_found_by_their_dot() {
        let names = |text: &str| {
            let mut known = Vec::new();
            note_custom_settings(&mut known, text.as_bytes());
            known.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            names("select set_config('app.tenant', 'a.b c', false), current_setting('x.y')"),
            ["app.tenant", "x.y"]
        );
        assert_eq!(
            names("begin; SET app.Tenant = 'x'; set session b.c to 1;set work_mem='1.5'"),
            ["app.Tenant", "b.c"]
        );
        assert_eq!(names("update t set a = 1 where b = 'c.d'"), Vec::<String>::new());
    }

    #[test]
    fn a_chosen_seed_is_seen() {
        for text in ["select SetSeed(0.5)", "SET seed TO 0.5", " set  session seed = 0", "set local seed=1"] {
            assert!(chooses_seed(text.as_bytes()), "{text}");
        }
        for text in ["update t set seed = 1", "select seed from t", "set work_mem = 1", ""] {
            assert!(!chooses_seed(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_foreign_name_is_never_one_of_ours() {
        assert_eq!(foreign(b"a"), b"a");
        assert!(!foreign(b"_optimacore_1").starts_with(NAME_PREFIX));
    }
}
