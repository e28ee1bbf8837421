//! What happened to the process lately, for who shows it beside what is measured: reloads, moves, the end.
//!
//! For the control side. Every reader has a place of its own; one that comes too late misses the oldest.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::machine;

/// How many are kept.
const KEPT_MAX: usize = 500;
/// Longest text of one.
const TEXT_LEN_MAX: usize = 2000;

/// The last ones.
#[derive(Default)]
pub(crate) struct Events(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The number of the first.
    first: u64,
    lines: VecDeque<String>,
}

/// Up to where somebody has read; at first nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place(u64);

impl Events {
    /// Something happened now.
    pub(crate) fn tell(&self, name: &str, text: &str) {
        let text: String = text.chars().take(TEXT_LEN_MAX).collect();
        let line = stats::series::event(name, machine::unix_us(), &text);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.lines.len() == KEPT_MAX {
            kept.lines.pop_front();
            kept.first += 1;
        }
        kept.lines.push_back(line);
    }

    /// The lines that have come since, each one of a series.
    pub(crate) fn since(&self, place: &mut Place) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = usize::try_from(place.0.saturating_sub(kept.first)).unwrap_or(usize::MAX);
        place.0 = kept.first + kept.lines.len() as u64;
        kept.lines.iter().skip(read).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_is_told_once_and_the_oldest_are_lost() {
        let (events, mut place) = (Events::default(), Place::default());
        events.tell("reload", "pool.size: 1 -> 2");
        let lines = events.since(&mut place);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("{\"event\":\"reload\",\"t\":"), "{lines:?}");
        assert!(events.since(&mut place).is_empty());
        (0..KEPT_MAX + 5).for_each(|number| events.tell("error", &number.to_string()));
        let lines = events.since(&mut place);
        assert_eq!(lines.len(), KEPT_MAX);
        assert!(lines[0].ends_with("\"text\":\"5\"}"), "{}", lines[0]);
        assert_eq!(events.since(&mut Place::default()).len(), KEPT_MAX);
    }
}
