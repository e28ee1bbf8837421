//! Who writes the log: one thread, so that nobody else waits for whatever reads it.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use config::LogFormat;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use tracing::Level;

use super::line::{Colour, line};
use super::repeat::Repeats;
use super::{Entry, Note, Repeating, Value};

/// How often what is due is looked for, while anything may be.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3600);

pub(super) struct Scribe<W> {
    out: W,
    format: LogFormat,
    colour: Colour,
    repeats: Repeats,
    /// Lines for which the queue had no room.
    lost: Arc<AtomicU64>,
}

impl<W: Write> Scribe<W> {
    pub(super) fn new(out: W, format: LogFormat, colour: Colour, lost: Arc<AtomicU64>) -> Self {
        Self { out, format, colour, repeats: Repeats::default(), lost }
    }

    /// Writes for as long as anybody may have something to say.
    pub(super) fn run(mut self, notes: &Receiver<Note>) {
        loop {
            let pause = if self.repeats.is_empty() { LONG } else { LOOK_PAUSE };
            let heard = notes.recv_timeout(pause);
            let now = Instant::now();
            match heard {
                Ok(note) => self.on_note(note, now),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for entry in self.repeats.take_due(now) {
                self.write(&entry);
            }
        }
    }

    fn on_note(&mut self, note: Note, now: Instant) {
        match note {
            Note::Entry(entry) => {
                if let Some(entry) = self.repeats.admit(*entry, now) {
                    self.write(&entry);
                }
            }
            Note::Format(format) => self.format = format,
            Note::Flush(done) => {
                // whoever asked may not wait any more
                let _told: Result<(), _> = done.send(());
            }
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.write(&Entry {
                at: SystemTime::now(),
                level: Level::WARN,
                repeating: Repeating::Always,
                place: (file!(), line!()),
                message: "lines of the log were lost: they came faster than they could be written".to_owned(),
                fields: vec![("lines", Value::Unsigned(lost))],
            });
        }
    }

    fn write(&mut self, entry: &Entry) {
        // where else could it be told that standard error takes nothing
        let _written: std::io::Result<()> = self.out.write_all(line(entry, self.format, self.colour).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn entry(message: &str) -> Note {
        let (at, level, repeating, place) = (UNIX_EPOCH, Level::WARN, Repeating::Limited, ("", 0));
        Note::Entry(Box::new(Entry { at, level, repeating, place, message: message.to_owned(), fields: Vec::new() }))
    }

    #[test]
    fn lines_are_written_in_their_order_once_and_in_the_form_that_is_asked_for() {
        let (mut out, now) = (Vec::new(), Instant::now());
        let lost = Arc::new(AtomicU64::new(0));
        let mut scribe = Scribe::new(&mut out, LogFormat::Text, Colour::No, Arc::clone(&lost));
        for message in ["a", "b", "a"] {
            scribe.on_note(entry(message), now);
        }
        scribe.on_note(Note::Format(LogFormat::Json), now);
        lost.store(7, Ordering::Relaxed);
        scribe.on_note(entry("c"), now);
        scribe.on_note(entry("d"), now);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let [a, b, c, lost, d] = lines[..] else { panic!("{text}") };
        assert!(a.ends_with(" WARN a") && b.ends_with(" WARN b"), "{text}");
        assert!(c.contains("\"message\":\"c\"") && d.contains("\"message\":\"d\""), "{text}");
        assert!(lost.contains("were lost") && lost.contains("\"lines\":7"), "{text}");
    }

    #[test]
    fn whoever_wants_to_know_is_told_when_everything_is_written() {
        let (notes, heard) = crossbeam::channel::unbounded();
        let (done, written) = crossbeam::channel::bounded(1);
        notes.send(entry("a")).unwrap();
        notes.send(Note::Flush(done)).unwrap();
        drop(notes);
        let mut out = Vec::new();
        Scribe::new(&mut out, LogFormat::Text, Colour::No, Arc::default()).run(&heard);
        assert!(written.try_recv().is_ok() && !out.is_empty());
    }
}
