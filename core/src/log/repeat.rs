//! What is said again and again is told once a minute, with how often it was said.
//!
//! Two things are the same if they were said at the same place with the same words and values. A place that says ever new things
//! is bounded too. Lives on the scribe's thread; the time is an argument.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::{Entry, Repeating, Value};

/// How long what was told is not told again.
const PAUSE: Duration = Duration::from_secs(60);
/// Different things that one place may tell in that time.
const PER_PLACE_MAX: u32 = 50;

struct Told {
    at: Instant,
    /// What was said since, the last time, and how often.
    again: Option<(Entry, u64)>,
}

struct Place {
    since: Instant,
    count: u32,
    /// The last thing that was left out, and how many were.
    left_out: Option<(Entry, u64)>,
}

/// See the module documentation.
#[derive(Default)]
pub(super) struct Repeats {
    told: HashMap<u64, Told>,
    places: HashMap<(&'static str, u32), Place>,
}

impl Repeats {
    /// Whether anything is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty() && self.places.is_empty()
    }

    /// Gives what was said back if it is to be told now.
    pub(super) fn admit(&mut self, entry: Entry, now: Instant) -> Option<Entry> {
        if entry.repeating == Repeating::Always {
            return Some(entry);
        }
        let key = key_of(&entry);
        if let Some(told) = self.told.get_mut(&key) {
            let times = told.again.take().map_or(1, |(_, times)| times + 1);
            if now.saturating_duration_since(told.at) < PAUSE {
                told.again = Some((entry, times));
                return None;
            }
            told.at = now;
            return Some(repeated(entry, times));
        }
        let place = self.places.entry(entry.place).or_insert_with(|| Place { since: now, count: 0, left_out: None });
        if place.count >= PER_PLACE_MAX {
            let times = place.left_out.take().map_or(1, |(_, times)| times + 1);
            place.left_out = Some((entry, times));
            return None;
        }
        place.count += 1;
        self.told.insert(key, Told { at: now, again: None });
        Some(entry)
    }

    /// What is due to be told without being said anew.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Entry> {
        let mut due = Vec::new();
        self.told.retain(|_, told| {
            if now.saturating_duration_since(told.at) < PAUSE {
                return true;
            }
            let Some((entry, times)) = told.again.take() else { return false };
            due.push(repeated(entry, times));
            told.at = now;
            true
        });
        self.places.retain(|_, place| {
            if now.saturating_duration_since(place.since) < PAUSE {
                return true;
            }
            due.extend(place.left_out.take().map(|(mut entry, times)| {
                entry.fields.push(("similar_left_out", Value::Unsigned(times - 1)));
                entry
            }));
            false
        });
        due
    }
}

fn repeated(mut entry: Entry, times: u64) -> Entry {
    if times > 1 {
        entry.fields.push(("times", Value::Unsigned(times)));
    }
    entry
}

fn key_of(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.place, &entry.message).hash(&mut hasher);
    for (name, value) in &entry.fields {
        name.hash(&mut hasher);
        match value {
            Value::Text(text) | Value::Shown(text) => text.hash(&mut hasher),
            Value::Signed(number) => number.hash(&mut hasher),
            Value::Unsigned(number) => number.hash(&mut hasher),
            Value::Float(number) => number.to_bits().hash(&mut hasher),
            Value::Flag(flag) => flag.hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tracing::Level;

    use super::*;

    fn said(message: &str, line: u32) -> Entry {
        let (at, level, repeating) = (UNIX_EPOCH, Level::WARN, Repeating::Limited);
        Entry { at, level, repeating, place: ("x.rs", line), message: message.to_owned(), fields: Vec::new() }
    }

    fn times(entry: &Entry) -> Option<u64> {
        entry.fields.iter().find_map(|field| match field {
            ("times" | "similar_left_out", Value::Unsigned(times)) => Some(*times),
            _ => None,
        })
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute_with_their_number() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(repeats.admit(said("a", 1), at(0)), Some(said("a", 1)));
        for second in 1..=10 {
            assert_eq!(repeats.admit(said("a", 1), at(second)), None);
        }
        // another thing, or another place, is not the same
        assert!(repeats.admit(said("b", 1), at(5)).is_some() && repeats.admit(said("a", 2), at(5)).is_some());
        assert_eq!(repeats.take_due(at(59)), []);
        let again = repeats.admit(said("a", 1), at(61)).unwrap();
        assert_eq!(times(&again), Some(11));
        repeats.admit(said("a", 1), at(62));
        let due = repeats.take_due(at(122));
        assert_eq!((due.len(), times(&due[0])), (1, None), "said once since");
        assert_eq!(repeats.take_due(at(1000)), [], "nothing was said");
        assert!(repeats.is_empty());
    }

    #[test]
    fn what_is_never_left_out_is_told_each_time() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let entry = Entry { repeating: Repeating::Always, ..said("reloaded", 1) };
        for _ in 0..1000 {
            assert!(repeats.admit(entry.clone(), start).is_some());
        }
        assert!(repeats.is_empty());
    }

    #[test]
    fn a_place_that_says_ever_new_things_is_bounded_and_the_rest_is_counted() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let told = (0..10_000).filter(|n| repeats.admit(said(&n.to_string(), 1), start).is_some()).count();
        assert_eq!(told, 50);
        assert!(repeats.told.len() <= 50, "{}", repeats.told.len());
        assert!(repeats.admit(said("x", 2), start).is_some(), "other places are not");
        let due = repeats.take_due(start + PAUSE);
        assert_eq!(due.iter().map(times).collect::<Vec<_>>(), [Some(9949)]);
        assert!(repeats.admit(said("new", 1), start + PAUSE).is_some());
    }
}
