//! What the process tells those who run it, line by line on standard error.
//!
//! Whoever has something to tell says so by `tracing`; nobody waits until it is written. What was said goes through a bounded
//! queue to a thread, the scribe ([`scribe`]), which leaves out what it has just told ([`repeat`]) and writes the line, as text or
//! as JSON ([`line`]). When the queue is full, lines are lost and counted: a log that nobody reads must not stop a shard.
//!
//! What each connection and each slow statement is told of has targets of its own and is bounded where it is said
//! ([`crate::session::chronicle`]).

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use config::LogLevel;
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, reload};

use line::Colour;
use scribe::Scribe;

mod line;
mod repeat;
mod scribe;

/// The target of lines about connections of clients.
pub(crate) const CONNECTION: &str = "connection";
/// The target of lines about slow statements.
pub(crate) const STATEMENT: &str = "statement";

/// Lines that wait to be written.
const QUEUE_LEN: usize = 4096;
/// How long the end of the process waits for the last lines.
const LAST_LINES_MAX: Duration = Duration::from_secs(1);
/// What is said at this level by these is told once a minute too: peers decide how often it is said.
const PEERS: [&str; 2] = ["optimacore::server", "optimacore::deadline"];
/// What these say is told each time: they say what people have done, or what was counted before.
const PEOPLE: [&str; 4] = ["optimacore::admin", "optimacore::plane", CONNECTION, STATEMENT];

/// The value of a field.
#[derive(Clone, PartialEq, Debug)]
enum Value {
    /// A text.
    Text(String),
    /// Something else, as it is shown.
    Shown(String),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Flag(bool),
}

/// Whether what is said again is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Repeating {
    /// Told once a minute.
    Limited,
    Always,
}

/// One thing that was said.
#[derive(Clone, PartialEq, Debug)]
struct Entry {
    at: SystemTime,
    level: Level,
    repeating: Repeating,
    /// Where in the sources it was said.
    place: (&'static str, u32),
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Entry {
    fn of(event: &Event<'_>) -> Self {
        let about = event.metadata();
        let (target, level) = (about.target(), *about.level());
        let is_of = |names: &[&str]| names.iter().any(|name| target.starts_with(name));
        let often = level <= Level::WARN || (level == Level::INFO && is_of(&PEERS));
        let repeating = if often && !is_of(&PEOPLE) { Repeating::Limited } else { Repeating::Always };
        let place = (about.file().unwrap_or_default(), about.line().unwrap_or_default());
        let mut out =
            Self { at: SystemTime::now(), level, repeating, place, message: String::new(), fields: Vec::new() };
        event.record(&mut out);
        out
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Shown(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Shown(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Flag(value));
    }
}

/// What the scribe is told.
enum Note {
    Entry(Box<Entry>),
    Format(config::LogFormat),
    /// Say when everything before has been written.
    Flush(Sender<()>),
}

/// Hands what is said to the scribe.
struct Speaker {
    notes: Sender<Note>,
    lost: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Speaker {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if self.notes.try_send(Note::Entry(Box::new(Entry::of(event)))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Changes the log while it runs.
pub(crate) type Dial = Box<dyn Fn(config::Log) + Send>;

/// The end of the log: when it is dropped, what was said is written.
pub(crate) struct Pen(Sender<Note>);

impl Drop for Pen {
    fn drop(&mut self) {
        let (done, written) = bounded(1);
        if self.0.send_timeout(Note::Flush(done), LAST_LINES_MAX).is_ok() {
            // it may take too long, or standard error may be closed
            let _written: Result<(), _> = written.recv_timeout(LAST_LINES_MAX);
        }
    }
}

/// Begins the log.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn start(log: config::Log) -> std::io::Result<(Dial, Pen)> {
    let (notes, heard): (Sender<Note>, Receiver<Note>) = bounded(QUEUE_LEN);
    let lost = Arc::new(AtomicU64::new(0));
    let (filter, dial) = reload::Layer::new(filter_of(log.level));
    tracing_subscriber::registry().with(filter).with(Speaker { notes: notes.clone(), lost: Arc::clone(&lost) }).init();
    let colour = if std::io::stderr().is_terminal() { Colour::Yes } else { Colour::No };
    let scribe = Scribe::new(std::io::stderr(), log.format, colour, lost);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || scribe.run(&heard))?;
    let teller = notes.clone();
    let dial = move |log: config::Log| {
        let told = teller.send(Note::Format(log.format)).map_err(|error| error.to_string());
        let told = told.and_then(|()| dial.reload(filter_of(log.level)).map_err(|error| error.to_string()));
        if let Err(error) = told {
            tracing::warn!(error, "the log could not be changed");
        }
    };
    Ok((Box::new(dial), Pen(notes)))
}

const fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
