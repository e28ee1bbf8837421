//! What a text may do that its verdict does not know: words that betray state which only one connection has, names that
//! are taken away in SQL, names that a client never prepared.

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

pub(super) fn first_word_is(text: &[u8], word: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// The name in `DEALLOCATE [PREPARE] name`, folded as Postgres folds it; none for `ALL`.
pub(super) fn deallocated_name(text: &[u8]) -> Option<Box<[u8]>> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_end_matches(';').trim_end();
    let (_, rest) = text.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let rest = match rest.split_once(|c: char| c.is_ascii_whitespace()) {
        Some((word, name)) if word.eq_ignore_ascii_case("prepare") => name.trim_start(),
        Some(_) if !rest.starts_with('"') => return None,
        Some(_) | None => rest,
    };
    if let Some(quoted) = rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return Some(quoted.replace("\"\"", "\"").into_bytes().into());
    }
    let plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte > 127);
    (plain && !rest.eq_ignore_ascii_case("all")).then(|| rest.to_ascii_lowercase().into_bytes().into())
}

/// Words without which no statement that is not otherwise understood leaves the state that their reason names.
const HAZARDS: [(&[u8], &str); 9] = [
    (b"temp", "temporary object"),
    (b"advisory", "advisory lock"),
    (b"hold", "WITH HOLD cursor"),
    (b"set_config", "setting"),
    (b"setseed", "random seed"),
    (b"currval", "sequence value"),
    (b"lastval", "sequence value"),
    (b"role", "role"),
    (b"authorization", "role"),
];

/// Why text may leave state behind in its session, if it may.
pub(super) fn hazard(text: &[u8]) -> Option<&'static str> {
    HAZARDS.iter().find(|(word, _)| contains_ignoring_case(text, word)).map(|(_, reason)| *reason)
}

fn contains_ignoring_case(text: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else { return true };
    let upper = first.to_ascii_uppercase();
    text.windows(word.len())
        .any(|window| window.first().is_some_and(|b| b == first || *b == upper) && window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_deallocate_is_found() {
        let name = |text: &str| deallocated_name(text.as_bytes()).map(|name| String::from_utf8(name.to_vec()).unwrap());
        assert_eq!(name("DEALLOCATE s1"), Some("s1".into()));
        assert_eq!(name(" deallocate PREPARE \n \"A b\"\"c\" ;"), Some("A b\"c".into()));
        assert_eq!(name("deallocate S1;"), Some("s1".into()));
        assert_eq!(name("DEALLOCATE ALL"), None);
        assert_eq!(name("DEALLOCATE a; select 1"), None);
    }

    #[test]
    fn hazards_are_found_in_any_case() {
        assert_eq!(hazard(b"create TEMP table x()"), Some("temporary object"));
        assert_eq!(hazard(b"select pg_try_Advisory_lock(1)"), Some("advisory lock"));
        assert_eq!(hazard(b"select abalance from pgbench_accounts where aid = 1"), None);
    }

    #[test]
    fn a_foreign_name_is_never_one_of_ours() {
        assert_eq!(foreign(b"a"), b"a");
        assert!(!foreign(b"_optimacore_1").starts_with(NAME_PREFIX));
    }
}
