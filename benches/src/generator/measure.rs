//! One load from its first connection to its last reply: workers are started, told what to do, asked once a second what they
//! have counted, and ended.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use runtime::topology::{self, CoreId};
use runtime::{Plan, Running, launch};

use crate::generator::assignment::{Assignment, Order, Report};
use crate::generator::sample::Sample;
use crate::generator::trouble::Trouble;
use crate::generator::worker::Worker;
use crate::interrupt::Interrupt;

/// A load and how long it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    /// What workers do.
    pub(crate) assignment: Assignment,
    /// Where they run.
    pub(crate) cores: Vec<CoreId>,
    /// Time before anything counts.
    pub(crate) warm_up: Duration,
    /// Time that counts.
    pub(crate) time: Duration,
    /// How long answers are waited for after it.
    pub(crate) drain: Duration,
}

/// What was counted in one second, or in what was left of one.
#[derive(Debug)]
pub(crate) struct Tick<'t> {
    /// Its end.
    pub(crate) at: SystemTime,
    /// How long it was.
    pub(crate) took: Duration,
    /// Since counting began.
    pub(crate) elapsed: Duration,
    /// What was counted.
    pub(crate) sample: &'t Sample,
    /// What was counted since the beginning.
    pub(crate) total: &'t Sample,
}

/// What has come of a load.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Everything that was counted, also while the last answers were waited for.
    pub(crate) total: Sample,
    /// Operations that ended well in the time that counts.
    pub(crate) completed_in_time: u64,
    /// How long that was.
    pub(crate) time: Duration,
    /// When everything had ended.
    pub(crate) end: SystemTime,
    /// Whether somebody asked for the end before.
    pub(crate) ending: Ending,
}

/// How a load ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// After its time.
    Complete,
    /// Because somebody asked for it.
    Interrupted,
}

/// How often it is looked whether somebody asks for the end.
const LOOK: Duration = Duration::from_millis(20);
const SECOND: Duration = Duration::from_secs(1);
/// Longest wait for a worker to say what it has counted.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for all connections to be made: this, and this much for each.
const CONNECT_TIME: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(20));
/// How long answers are waited for by somebody who has asked for the end.
const DRAIN_INTERRUPTED: Duration = Duration::from_secs(1);

/// The workers.
struct Crew {
    running: Running<Order>,
    reports: Receiver<Report>,
    workers: usize,
    drained: usize,
}

/// The cores that workers run on: those that are asked for, or one for each four that there are, from the last one down, as data
/// planes begin with the first.
pub(crate) fn cores(asked: Option<&[u16]>) -> anyhow::Result<Vec<CoreId>> {
    if let Some(asked) = asked {
        return Ok(topology::pick(Some(asked)).map_err(|error| Trouble::Usage(error.to_string()))?);
    }
    let mut allowed = topology::allowed();
    allowed.reverse();
    let count = allowed.len().div_ceil(4);
    allowed.truncate(count.max(1));
    Ok(allowed)
}

impl Measurement {
    /// Does it; `listen` hears of the moment from which on everything counts, and of every second that does.
    ///
    /// # Errors
    /// When the server cannot be reached, or `listen` fails.
    pub(crate) fn run(
        mut self,
        interrupt: &Interrupt,
        listen: &mut dyn FnMut(&Tick<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        self.assignment.workers = u16::try_from(self.cores.len()).context("far too many cores")?;
        let assignment = Arc::new(self.assignment.clone());
        let (sender, reports) = channel();
        let of_workers = Arc::clone(&assignment);
        let running = launch(&Plan::new(self.cores.clone()), move |shard| {
            Worker::new(Arc::clone(&of_workers), shard, sender.clone())
        })
        .map_err(|error| anyhow::anyhow!("{error}"))?;
        let mut crew = Crew { running, reports, workers: self.cores.len(), drained: 0 };
        let outcome = self.conduct(&mut crew, interrupt, listen);
        if outcome.is_err() {
            crew.post(Order::End);
        }
        crew.running.join().context("a worker has failed")?;
        outcome
    }

    fn conduct(
        &self,
        crew: &mut Crew,
        interrupt: &Interrupt,
        listen: &mut dyn FnMut(&Tick<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        crew.wait_for_connections(&self.assignment, interrupt)?;
        let mut total = Sample::new(self.assignment.scenario.operations.len());
        // a moment in which every worker hears of it
        let begin = Instant::now() + Duration::from_millis(10);
        crew.post(Order::Begin(begin));
        sleep_until(begin + self.warm_up, interrupt);
        if !self.warm_up.is_zero() {
            drop(crew.count()?);
        }
        let (start, began) = (SystemTime::now(), Instant::now());
        let mut last = began;
        let nothing = Tick { at: start, took: Duration::ZERO, elapsed: Duration::ZERO, sample: &total, total: &total };
        listen(&nothing)?;
        while !interrupt.is_set() && last < began + self.time {
            let due = (last + SECOND).min(began + self.time);
            // half a second or less is added to the one before
            let due = if began + self.time < due + SECOND / 2 { began + self.time } else { due };
            sleep_until(due, interrupt);
            let sample = crew.count()?;
            total.add_later(&sample);
            let now = Instant::now();
            let tick =
                Tick { at: SystemTime::now(), took: now - last, elapsed: now - began, sample: &sample, total: &total };
            last = now;
            listen(&tick)?;
        }
        let (time, completed_in_time) = (last - began, total.completed());
        let ending = if interrupt.is_set() { Ending::Interrupted } else { Ending::Complete };
        crew.post(Order::Stop);
        let drain = if ending == Ending::Interrupted { self.drain.min(DRAIN_INTERRUPTED) } else { self.drain };
        crew.wait_for_answers(drain)?;
        crew.post(Order::End);
        let rest = crew.collect()?;
        total.add_later(&rest);
        if rest.sent + rest.completed() + rest.unsent + rest.failed() > 0 {
            let now = Instant::now();
            let (took, elapsed) = (now - last, now - began);
            listen(&Tick { at: SystemTime::now(), took, elapsed, sample: &rest, total: &total })?;
        }
        Ok(Outcome { total, completed_in_time, time, end: SystemTime::now(), ending })
    }
}

impl Crew {
    fn post(&self, order: Order) {
        for handle in self.running.handles() {
            handle.post(order);
        }
    }

    fn wait_for_connections(&mut self, assignment: &Assignment, interrupt: &Interrupt) -> anyhow::Result<()> {
        let (base, each) = CONNECT_TIME;
        let deadline = Instant::now() + base + each * (assignment.clients + assignment.idle);
        let mut missing = self.workers;
        while missing > 0 {
            if interrupt.is_set() {
                bail!(Trouble::Interrupted);
            }
            match self.reports.recv_timeout(LOOK) {
                Ok(Report::Connected) => missing -= 1,
                Ok(Report::Refused { class, text }) => {
                    bail!(Trouble::of_login(&assignment.target.shown, &class, &text));
                }
                Ok(Report::Counted(_) | Report::Drained) => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => bail!(Trouble::Unreachable {
                    target: assignment.target.shown.clone(),
                    reason: "not all connections could be made in time".to_owned(),
                }),
                Err(RecvTimeoutError::Disconnected) => bail!("a worker has ended"),
            }
        }
        Ok(())
    }

    /// Asks everyone what they have counted.
    fn count(&mut self) -> anyhow::Result<Sample> {
        self.post(Order::Tell);
        self.collect()
    }

    fn collect(&mut self) -> anyhow::Result<Sample> {
        let mut all: Option<Sample> = None;
        let mut missing = self.workers;
        while missing > 0 {
            match self.reports.recv_timeout(ANSWER_TIME_MAX).context("a worker does not answer")? {
                Report::Counted(sample) => {
                    missing -= 1;
                    match &mut all {
                        None => all = Some(*sample),
                        Some(all) => all.add_worker(&sample),
                    }
                }
                Report::Drained => self.drained += 1,
                Report::Connected | Report::Refused { .. } => {}
            }
        }
        all.context("there is no worker")
    }

    fn wait_for_answers(&mut self, longest: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + longest;
        while self.drained < self.workers {
            match self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Report::Drained) => self.drained += 1,
                Ok(Report::Connected | Report::Refused { .. } | Report::Counted(_)) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => bail!("a worker has ended"),
            }
        }
        Ok(())
    }
}

/// Sleeps until then, or until somebody asks for the end.
fn sleep_until(then: Instant, interrupt: &Interrupt) {
    while !interrupt.is_set() {
        let rest = then.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return;
        }
        thread::sleep(rest.min(LOOK));
    }
}
