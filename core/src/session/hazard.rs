//! What a text may do that its verdict does not know: words that betray state which only one connection has,
//! and names that a client never prepared.

use crate::session::{Pin, Session};
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

/// Words without which no statement that is not otherwise understood leaves the state that their reason names.
const HAZARDS: [(&[u8], &str); 13] = [
    (b"temp", "temporary object"),
    (b"temporary", "temporary object"),
    (b"pg_temp", "temporary object"),
    (b"pg_advisory_lock", "advisory lock"),
    (b"pg_advisory_lock_shared", "advisory lock"),
    (b"pg_try_advisory_lock", "advisory lock"),
    (b"pg_try_advisory_lock_shared", "advisory lock"),
    (b"hold", "WITH HOLD cursor"),
    (b"set_config", "setting"),
    (b"setseed", "random seed"),
    (b"currval", "sequence value"),
    (b"lastval", "sequence value"),
    (b"role", "role"),
];

/// Why text may leave state behind in its session, if it may.
pub(super) fn hazard(text: &[u8]) -> Option<&'static str> {
    // one pass, word by word: the text may be long
    text.split(|byte| !is_part(*byte)).find_map(|found| {
        let of_this_len = HAZARDS.iter().filter(|(word, _)| word.len() == found.len());
        of_this_len.filter(|(word, _)| found.eq_ignore_ascii_case(word)).map(|(_, reason)| *reason).next()
    })
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
        assert_eq!(hazard(b"create TEMP table x()"), Some("temporary object"));
        assert_eq!(hazard(b"select pg_try_Advisory_lock(1)"), Some("advisory lock"));
        assert_eq!(hazard(b"set session authorization x"), None, "its tag tells");
        assert_eq!(hazard(b"select threshold, template, household, roles, pg_advisory_unlock_all()"), None);
        assert_eq!(hazard(b"select abalance from pgbench_accounts where aid = 1"), None);
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
