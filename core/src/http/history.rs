//! What has been, line by line: the last quarter of an hour of the series stream.
//!
//! One thread writes, those who look read. Each reader has a place in it and takes what it is told next; nothing is kept for
//! one reader. One that is so slow that its place has been given up is told that it has fallen behind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How long lines are kept, and how many bytes of them.
const AGE_MAX: Duration = Duration::from_secs(15 * 60);
const LEN_MAX: usize = 32 * 1024 * 1024;

/// The number of a line, counted from the first that was ever written.
pub(super) type LineNumber = u64;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct History {
    ring: Mutex<Ring>,
    /// The number that the next line will have.
    head: watch::Sender<LineNumber>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Line>,
    /// The number of the line in front.
    first: LineNumber,
    len: usize,
}

#[derive(Debug)]
struct Line {
    at: Instant,
    text: Arc<str>,
    /// What a reader that begins here has to know besides: how everything stood before. Others cannot begin here.
    ground: Option<Arc<str>>,
}

/// What a reader is told next.
#[derive(Debug)]
pub(super) enum Reading {
    /// Lines, the moment of the last, and the number of the one behind it.
    Lines(Vec<Arc<str>>, Instant, LineNumber),
    /// There is nothing new.
    UpToDate,
    /// What came next is not kept any more.
    Lost,
}

impl Default for History {
    fn default() -> Self {
        Self { ring: Mutex::default(), head: watch::Sender::new(0) }
    }
}

impl History {
    /// Writes lines; `ground` makes the first of them one with which a reader may begin, when it is told that before.
    pub(super) fn push(&self, now: Instant, lines: Vec<String>, ground: Option<String>) {
        let mut ring = self.lock();
        let grounds = std::iter::once(ground).chain(std::iter::repeat_with(|| None));
        for (text, ground) in lines.into_iter().zip(grounds) {
            let line = Line { at: now, text: text.into(), ground: ground.map(Into::into) };
            ring.len += line.len();
            ring.lines.push_back(line);
        }
        while let Some(front) = ring.lines.front() {
            if ring.len <= LEN_MAX && now.saturating_duration_since(front.at) <= AGE_MAX {
                break;
            }
            ring.drop_front();
        }
        let head = ring.first + ring.lines.len() as u64;
        drop(ring);
        self.head.send_replace(head);
    }

    /// The number that the next line will have.
    pub(super) fn head(&self) -> LineNumber {
        *self.head.borrow()
    }

    /// The oldest line with which a reader may begin, and what it is told before; none if there is none.
    pub(super) fn beginning(&self) -> Option<(LineNumber, Arc<str>)> {
        let ring = self.lock();
        let found = ring.lines.iter().enumerate().find_map(|(index, line)| Some((index, line.ground.clone()?)));
        found.map(|(index, ground)| (ring.first + index as u64, ground))
    }

    /// Lines from a number on, at least one if there is one, and about so many bytes at most.
    pub(super) fn read(&self, from: LineNumber, len_max: usize) -> Reading {
        let ring = self.lock();
        let Some(skipped) = from.checked_sub(ring.first) else { return Reading::Lost };
        let (mut out, mut len, mut last) = (Vec::new(), 0, None);
        for line in ring.lines.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)) {
            len += line.text.len();
            if len > len_max && !out.is_empty() {
                break;
            }
            out.push(Arc::clone(&line.text));
            last = Some(line.at);
        }
        let next = from + out.len() as u64;
        last.map_or(Reading::UpToDate, |last| Reading::Lines(out, last, next))
    }

    /// Whether somebody waits for new lines.
    pub(super) fn is_followed(&self) -> bool {
        self.head.receiver_count() > 0
    }

    /// Tells of new lines.
    pub(super) fn follow(&self) -> watch::Receiver<LineNumber> {
        self.head.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // whoever wrote last was not in the middle of anything that cannot be read
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn len(&self) -> usize {
        self.text.len() + self.ground.as_ref().map_or(0, |ground| ground.len())
    }
}

impl Ring {
    fn drop_front(&mut self) {
        if let Some(line) = self.lines.pop_front() {
            self.len -= line.len();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(reading: Reading) -> (Vec<String>, LineNumber) {
        match reading {
            Reading::Lines(lines, _, next) => (lines.iter().map(ToString::to_string).collect(), next),
            Reading::UpToDate => (Vec::new(), u64::MAX),
            Reading::Lost => panic!("lost"),
        }
    }

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn readers_are_told_everything_once_and_in_order() {
        let (history, now) = (History::default(), Instant::now());
        assert!(matches!(history.read(0, 10), Reading::UpToDate));
        history.push(now, lines(&["a", "bb"]), Some(String::new()));
        history.push(now, lines(&["ccc"]), None);
        assert_eq!(history.head(), 3);
        assert_eq!(texts(history.read(0, 100)), (lines(&["a", "bb", "ccc"]), 3));
        assert_eq!(texts(history.read(0, 3)), (lines(&["a", "bb"]), 2));
        assert_eq!(texts(history.read(2, 1)), (lines(&["ccc"]), 3), "one line is told however long it is");
        assert!(matches!(history.read(3, 100), Reading::UpToDate));
        assert!(matches!(history.read(99, 100), Reading::UpToDate));
    }

    #[test]
    fn old_lines_go_and_readers_begin_where_all_is_told() {
        let (history, start) = (History::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        history.push(at(0), lines(&["0"]), Some(String::new()));
        history.push(at(10), lines(&["1"]), None);
        history.push(at(60), lines(&["2"]), Some("how it stood".to_owned()));
        assert_eq!(history.beginning().unwrap().0, 0);
        history.push(at(905), lines(&["3"]), None);
        assert_eq!(history.beginning(), Some((2, "how it stood".into())));
        assert!(matches!(history.read(0, 100), Reading::Lost));
        assert_eq!(texts(history.read(1, 100)).0, ["1", "2", "3"]);
        history.push(at(5000), lines(&["4"]), None);
        assert_eq!((history.beginning(), history.head()), (None, 5), "there is none to begin with");
    }

    #[test]
    fn the_bytes_that_are_kept_are_bounded() {
        let (history, now) = (History::default(), Instant::now());
        for _ in 0..40 {
            history.push(now, vec!["x".repeat(1024 * 1024)], Some(String::new()));
        }
        let ring = history.lock();
        assert_eq!((ring.lines.len(), ring.len, ring.first), (32, LEN_MAX, 8));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn followers_hear_of_new_lines() {
        let history = History::default();
        let mut follower = history.follow();
        history.push(Instant::now(), lines(&["a"]), Some(String::new()));
        follower.changed().await.unwrap();
        assert_eq!(*follower.borrow_and_update(), 1);
    }
}
