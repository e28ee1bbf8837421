//! The thread that takes snapshots and writes them down: as metrics, as JSON, as lines of the series stream.
//!
//! A snapshot costs every shard a moment, so there is at most one a second, whoever asks how often; and while nobody looks,
//! one in a quarter of a minute, so that there is a history when somebody comes. Each text is made once from each snapshot, and
//! only when it is asked for. The thread that speaks HTTP never waits for a shard, and shards never wait for anybody.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use flate2::Compression;
use flate2::write::GzEncoder;
use runtime::ShardHandle;
use serde::Serialize;
use stats::Snapshot;
use stats::series::{self, Recorder, Run};
use stats::text;
use tokio::sync::oneshot;

use super::health::{Health, Report};
use super::history::{History, LineNumber};
use super::incident::Watch;
use super::preference::Form;
use crate::event::Place;
use crate::plane::take_snapshot;
use crate::shard::{Board, Message};

/// Pause between snapshots while somebody looks, and otherwise.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_UNSEEN: Duration = Duration::from_secs(15);
/// Whoever has asked for metrics so recently will do it again.
const LOOK_LAST: Duration = Duration::from_secs(60);
/// After so many snapshots it is noted how gauges stand, so that a history can be read from there.
const WHOLE_EVERY: u32 = 60;

/// What is asked of the sampler.
#[derive(Debug)]
pub(super) enum Task {
    /// What is counted, as a text.
    Text(Text, oneshot::Sender<Bytes>),
    /// Whether we are alive, or ready.
    Health(Question, oneshot::Sender<Report>),
    /// What a reader of the stream has to know before anything else.
    Begin(Start, oneshot::Sender<Beginning>),
}

/// The texts there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Text {
    Metrics(Form),
    PackedMetrics(Form),
    Snapshot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    Alive,
    Ready,
}

/// Where in time a reader begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    /// With all that is kept.
    History,
    /// With what comes next.
    Now,
}

/// The beginning of the stream for one reader.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) header: String,
    /// Series and statements, and how gauges stand.
    pub(super) known: Vec<String>,
    /// Where it goes on.
    pub(super) from: LineNumber,
}

/// See the module documentation.
pub(super) struct Sampler {
    shards: Vec<ShardHandle<Message>>,
    board: Arc<Board>,
    history: Arc<History>,
    /// None before the first snapshot.
    recorder: Option<Recorder>,
    /// Up to where events have been written down.
    events: Place,
    watch: Watch,
    health: Health,
    snapshot: Snapshot,
    /// Texts of it.
    texts: Vec<(Text, Bytes)>,
    /// When it was taken.
    taken_at: Option<Instant>,
    /// How many have been taken.
    taken: u64,
    /// How many are still to come before it is noted how gauges stand.
    until_whole: u32,
    /// When somebody looked last.
    looked_at: Option<Instant>,
}

/// `/api/v1/snapshot`.
#[derive(Serialize)]
struct Document<'s> {
    schema: &'static str,
    /// Snapshots that have been taken for this endpoint.
    snapshots: u64,
    #[serde(flatten)]
    snapshot: &'s Snapshot,
}

impl Sampler {
    pub(super) fn new(shards: Vec<ShardHandle<Message>>, board: Arc<Board>, history: Arc<History>) -> Self {
        Self {
            shards,
            board,
            history,
            recorder: None,
            events: Place::default(),
            watch: Watch::default(),
            health: Health::default(),
            snapshot: Snapshot::default(),
            texts: Vec::new(),
            taken_at: None,
            taken: 0,
            until_whole: 0,
            looked_at: None,
        }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_deadline(self.next_at()) {
                Ok(task) => self.on_task(task),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= self.next_at() {
                self.sample();
            }
        }
    }

    fn next_at(&self) -> Instant {
        let now = Instant::now();
        let Some(taken_at) = self.taken_at else { return now };
        let is_seen = self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_LAST);
        taken_at + if is_seen || self.history.is_followed() { PAUSE } else { PAUSE_UNSEEN }
    }

    fn on_task(&mut self, task: Task) {
        // whoever asked may have left: what cannot be sent is not wanted any more
        match task {
            Task::Text(text, reply) => {
                self.look();
                let _sent: Result<(), _> = reply.send(self.text(text));
            }
            Task::Health(question, reply) => {
                self.refresh();
                self.hear();
                let report = match question {
                    Question::Alive => self.health.alive(),
                    Question::Ready => self.health.ready(),
                };
                let _sent: Result<(), _> = reply.send(report);
            }
            Task::Begin(start, reply) => {
                self.look();
                // `look` has seen to it that there is one
                if let Some(beginning) = self.begin(start) {
                    let _sent: Result<(), _> = reply.send(beginning);
                }
            }
        }
    }

    fn begin(&self, start: Start) -> Option<Beginning> {
        let recorder = self.recorder.as_ref()?;
        let mut known = recorder.known();
        let (from, ground) = match (start, self.history.beginning()) {
            (Start::History, Some((from, ground))) => (from, ground.to_string()),
            (Start::History, None) | (Start::Now, _) => (self.history.head(), recorder.standing()),
        };
        known.extend(Some(ground).filter(|ground| !ground.is_empty()));
        Some(Beginning { header: recorder.header(), known, from })
    }

    /// Writes down what has happened.
    fn hear(&mut self) {
        let lines = self.board.events.since(&mut self.events);
        if lines.iter().any(|line| line.starts_with("{\"event\":\"stopping\"")) {
            self.health.end();
        }
        if !lines.is_empty() {
            self.history.push(Instant::now(), lines, None);
        }
    }

    /// Somebody looks.
    fn look(&mut self) {
        self.looked_at = Some(Instant::now());
        self.refresh();
    }

    /// Sees to it that the snapshot is not older than a second.
    fn refresh(&mut self) {
        if self.taken_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.sample();
        }
    }

    fn sample(&mut self) {
        let snapshot = take_snapshot(&self.shards, &self.board);
        // a shard that hangs is waited for: what is asked meanwhile must not have it waited for again at once
        let now = Instant::now();
        self.taken_at = Some(now);
        self.taken += 1;
        self.texts.clear();
        self.health.look(&snapshot, self.shards.len());
        self.hear();
        let incidents = self.watch.compare(now, &snapshot).into_iter();
        let mut lines: Vec<String> =
            incidents.map(|incident| series::event(incident.name, snapshot.taken_unix_us, &incident.text)).collect();
        let is_first = self.recorder.is_none();
        if is_first {
            lines.push(series::event("start", snapshot.started_unix_us, &format!("optimacore {}", snapshot.version)));
        }
        let recorder = self.recorder.get_or_insert_with(|| Recorder::new(&Run::of(&snapshot), PAUSE));
        let ground = (self.until_whole == 0).then(|| if is_first { String::new() } else { recorder.standing() });
        self.until_whole = self.until_whole.checked_sub(1).unwrap_or(WHOLE_EVERY);
        lines.extend(recorder.tick(&snapshot));
        self.history.push(now, lines, ground);
        self.snapshot = snapshot;
    }

    fn text(&mut self, text: Text) -> Bytes {
        if let Some((_, known)) = self.texts.iter().find(|(known, _)| *known == text) {
            return known.clone();
        }
        let made: Bytes = match text {
            Text::Metrics(Form::Text) => text::prometheus(&self.snapshot).into(),
            Text::Metrics(Form::OpenMetrics) => text::openmetrics(&self.snapshot).into(),
            Text::PackedMetrics(form) => pack(&self.text(Text::Metrics(form))).into(),
            Text::Snapshot => {
                let (schema, snapshots) = ("optimacore.snapshot/1", self.taken);
                let document = Document { schema, snapshots, snapshot: &self.snapshot };
                serde_json::to_vec(&document).unwrap_or_default().into()
            }
        };
        self.texts.push((text, made.clone()));
        made
    }
}

/// Compresses quickly rather than well: it is read once.
fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    // writing to memory cannot fail
    let _written: std::io::Result<()> = writer.write_all(bytes);
    writer.finish().unwrap_or_default()
}
