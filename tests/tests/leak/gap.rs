//! What is known not to be as it should be yet, with why. A gap that is closed must leave this list.

use std::collections::{BTreeMap, BTreeSet};

use crate::Eyes;

/// Sequences.
const SEQUENCES: &str =
    "values of sequences do not pin; when another session has had the connection they are gone (55000)";
/// The seed.
const SEED: &str = "PostgreSQL has no way to ask for a seed that was chosen, nor to forget it";

/// Cases that look otherwise than on a PostgreSQL of one's own, to whom, and why. But for the seed, nobody sees another one's
/// state: it is the owner's own that is lost when others have used its connection.
const GAPS: &[(&str, Eyes, &str)] = &[
    ("L12 inside a function", Eyes::Owner, SEED),
    ("L12 inside a function", Eyes::Neighbour, SEED),
    ("L12 inside a function", Eyes::Heir, SEED),
    ("L13 currval", Eyes::Owner, SEQUENCES),
    ("L13 lastval", Eyes::Owner, SEQUENCES),
    ("L13 serial", Eyes::Owner, SEQUENCES),
];

/// Differences are the known ones, and all of them.
pub(crate) fn compare(found: &BTreeMap<(&'static str, Eyes), BTreeSet<String>>, size: usize, share: &str) {
    let unknown: Vec<&String> = found
        .iter()
        .filter(|((id, eyes), _)| !GAPS.iter().any(|(gap, whose, _)| gap == id && whose == eyes))
        .flat_map(|(_, texts)| texts)
        .collect();
    assert!(unknown.is_empty(), "{} differences:\n{}", unknown.len(), lines(&unknown));
    let closed: Vec<String> = GAPS
        .iter()
        .filter(|(id, eyes, _)| !found.contains_key(&(*id, *eyes)))
        .map(|(id, eyes, why)| format!("{id}, {eyes:?}: {why}"))
        .collect();
    let closed: Vec<&String> = closed.iter().collect();
    assert!(
        closed.is_empty(),
        "these gaps are closed (pool of {size}, sharing {share}); take them off the list:\n{}",
        lines(&closed)
    );
}

fn lines(texts: &[&String]) -> String {
    texts.iter().map(|text| format!("  {text}\n")).collect()
}
