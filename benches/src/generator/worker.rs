//! A worker: one executor of the runtime with its part of the connections and of the arrivals.
//!
//! It sends what is meant to begin, checks every reply, and counts. Nothing here waits; when it is told to, it says what it has
//! counted and begins anew.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use dbproto::frame;
use dbproto::message::frontend;
use runtime::{Event, Io, Reactor, ShardId, SocketId};

use crate::generator::assignment::{Assignment, Order, Report};
use crate::generator::sample::{Level, Sample};
use crate::generator::schedule::{Pace, Schedule};

mod compose;
mod connection;
mod flight;
mod reply;

use connection::{Connection, Progress, Role, State};

/// Connections that are made at once.
const CONNECTING_MAX: usize = 32;
/// How long a connection that was lost is not made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a message that has not come whole.
const INPUT_LEN_MAX: usize = 64 << 20;

/// How far the load is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Connections are made.
    Connecting,
    /// All are there.
    Ready,
    /// Operations begin.
    Running,
    /// No more do.
    Draining,
    /// All have been answered.
    Drained,
}

/// One worker. Lives on its executor's thread.
#[derive(Debug)]
pub(crate) struct Worker {
    assignment: Arc<Assignment>,
    reports: Sender<Report>,
    phase: Phase,
    connections: Vec<Connection>,
    /// Connections to be made, and how many are being made.
    to_connect: VecDeque<usize>,
    connecting: usize,
    /// Connections that have not been open yet.
    unopened: usize,
    /// Those that can take an operation, in turns.
    ready: VecDeque<usize>,
    /// Operations that were meant to begin then and wait for a connection.
    queue: VecDeque<Instant>,
    /// When the load began.
    start: Option<Instant>,
    schedule: Option<Schedule>,
    /// Connections that are to begin an operation, or to be made, at a time.
    waking: BinaryHeap<Reverse<(Instant, usize)>>,
    in_flight: usize,
    random: fastrand::Rng,
    sample: Sample,
}

impl Worker {
    /// The worker of that number.
    pub(crate) fn new(assignment: Arc<Assignment>, number: ShardId, reports: Sender<Report>) -> Self {
        let ShardId(number) = number;
        let all = (0..assignment.clients).map(|client| (client, Role::Busy));
        let all =
            all.chain((assignment.clients..assignment.clients + assignment.idle).map(|client| (client, Role::Idle)));
        let own = |(client, _): &(u32, Role)| client % u32::from(assignment.workers) == u32::from(number);
        let connections: Vec<Connection> =
            all.filter(own).map(|(client, role)| Connection::new(client, role)).collect();
        let mut random = fastrand::Rng::with_seed(assignment.seed.wrapping_add(u64::from(number)));
        let schedule = match &assignment.pace {
            Pace::Closed { .. } => None,
            Pace::Open { rates, law } => {
                Some(Schedule::new(rates.clone(), *law, (number, assignment.workers), random.fork()))
            }
        };
        Self {
            reports,
            phase: Phase::Connecting,
            to_connect: (0..connections.len()).collect(),
            connecting: 0,
            unopened: connections.len(),
            connections,
            ready: VecDeque::new(),
            queue: VecDeque::new(),
            start: None,
            schedule,
            waking: BinaryHeap::new(),
            in_flight: 0,
            random,
            sample: Sample::new(assignment.scenario.operations.len()),
            assignment,
        }
    }

    fn tell(&self, report: Report) {
        // whoever does not listen any more has given the load up
        let _told: Result<(), _> = self.reports.send(report);
    }

    fn is_current(&self, index: usize, socket: SocketId) -> bool {
        self.connections.get(index).is_some_and(|connection| connection.socket == socket)
    }

    fn connect_more(&mut self, io: &mut dyn Io<Order>) {
        while self.connecting < CONNECTING_MAX
            && let Some(index) = self.to_connect.pop_front()
        {
            let made = io.connect(&self.assignment.target.address, index as u64);
            let Some(connection) = self.connections.get_mut(index) else { continue };
            connection.since = Some(io.now());
            connection.state = State::Connecting;
            self.connecting += 1;
            match made {
                Ok(socket) => connection.socket = socket,
                Err(error) => self.lose(io, index, "connect", error.to_string()),
            }
        }
    }

    /// The connection has ended or must: what is under way on it has failed, and it is made again.
    fn lose(&mut self, io: &mut dyn Io<Order>, index: usize, class: &str, text: String) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !connection.is_open() {
            self.connecting = self.connecting.saturating_sub(1);
        }
        io.close(connection.socket);
        connection.socket = SocketId::NONE;
        connection.state = State::Down;
        connection.input = BytesMut::new();
        let lost = connection.flights.len();
        connection.flights.clear();
        self.in_flight -= lost;
        for _ in 0..lost.max(1) {
            self.sample.error(class, || text.clone());
        }
        if self.phase == Phase::Connecting {
            self.tell(Report::Refused { class: class.to_owned(), text });
        } else {
            self.waking.push(Reverse((io.now() + RECONNECT_PAUSE, index)));
        }
    }

    fn opened(&mut self, io: &mut dyn Io<Order>, index: usize) {
        self.connecting = self.connecting.saturating_sub(1);
        let Some(connection) = self.connections.get_mut(index) else { return };
        self.sample.connects += 1;
        if let Some(since) = connection.since {
            self.sample.connect.record(io.now().saturating_duration_since(since));
        }
        self.unopened = self.unopened.saturating_sub(1);
        match self.phase {
            Phase::Connecting if self.unopened == 0 => {
                self.phase = Phase::Ready;
                self.tell(Report::Connected);
            }
            Phase::Running | Phase::Draining => self.employ(io, index),
            Phase::Connecting | Phase::Ready | Phase::Drained => {}
        }
        self.connect_more(io);
    }

    /// The load begins now, or in a moment.
    fn begin_load(&mut self, io: &mut dyn Io<Order>, start: Instant) {
        self.start = Some(start);
        self.phase = Phase::Running;
        let think = match &self.assignment.pace {
            Pace::Open { .. } => None,
            Pace::Closed { think } => Some(*think),
        };
        for index in 0..self.connections.len() {
            match think {
                // clients that think would else all do so at the same time
                Some(think) => self.waking.push(Reverse((start + think.mul_f64(self.random.f64()), index))),
                None => self.employ(io, index),
            }
        }
    }

    /// The connection may have something to do.
    fn employ(&mut self, io: &mut dyn Io<Order>, index: usize) {
        let (depth, most) = (self.assignment.depth, self.assignment.reconnect_after);
        match &self.assignment.pace {
            Pace::Closed { .. } => {
                while self.phase == Phase::Running
                    && self.connections.get(index).is_some_and(|connection| connection.can_take(depth, most))
                {
                    let now = io.now();
                    self.begin(io, index, now);
                }
            }
            Pace::Open { .. } => {
                if let Some(connection) = self.connections.get_mut(index)
                    && connection.can_take(depth, most)
                    && !connection.is_listed
                {
                    connection.is_listed = true;
                    self.ready.push_back(index);
                }
                self.dispatch(io);
            }
        }
    }

    /// What waits goes to connections that can take it.
    fn dispatch(&mut self, io: &mut dyn Io<Order>) {
        let (depth, most) = (self.assignment.depth, self.assignment.reconnect_after);
        while !self.queue.is_empty()
            && let Some(index) = self.ready.pop_front()
        {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            connection.is_listed = false;
            if !connection.can_take(depth, most) {
                continue;
            }
            if let Some(intended) = self.queue.pop_front() {
                self.begin(io, index, intended);
            }
            if let Some(connection) = self.connections.get_mut(index)
                && connection.can_take(depth, most)
            {
                connection.is_listed = true;
                self.ready.push_back(index);
            }
        }
    }

    /// Operations that are meant to begin by now.
    fn arrive(&mut self, io: &mut dyn Io<Order>) {
        let (Some(start), Some(schedule)) = (self.start, &mut self.schedule) else { return };
        while let Some(next) = schedule.next().map(|next| start + next).filter(|next| *next <= io.now()) {
            schedule.advance();
            self.sample.offered += 1;
            if self.queue.len() < self.assignment.queue_max {
                self.queue.push_back(next);
            } else {
                self.sample.unsent += 1;
            }
        }
        self.dispatch(io);
    }

    fn wake(&mut self, io: &mut dyn Io<Order>) {
        while let Some(Reverse((at, index))) = self.waking.peek().copied()
            && at <= io.now()
        {
            self.waking.pop();
            match self.connections.get(index).map(|connection| &connection.state) {
                Some(State::Down) => self.to_connect.push_back(index),
                Some(State::Open) => self.employ(io, index),
                Some(State::Connecting | State::LoggingIn(_) | State::Preparing(_)) | None => {}
            }
        }
        self.connect_more(io);
    }

    fn received(&mut self, io: &mut dyn Io<Order>, index: usize, bytes: &[u8]) {
        self.sample.received += bytes.len() as u64;
        let Some(connection) = self.connections.get_mut(index) else { return };
        let socket = connection.socket;
        let mut held = std::mem::take(&mut connection.input);
        let is_held = !held.is_empty();
        if is_held {
            held.extend_from_slice(bytes);
        }
        let all = if is_held { &held[..] } else { bytes };
        let mut rest = all;
        loop {
            match frame::split(rest) {
                Ok(Some((frame, after))) => {
                    rest = after;
                    self.handle(io, index, &frame);
                    if !self.is_current(index, socket) {
                        return;
                    }
                }
                Ok(None) if rest.len() <= INPUT_LEN_MAX => break,
                Ok(None) => return self.lose(io, index, "wrong", "a message is far too long".to_owned()),
                Err(error) => return self.lose(io, index, "wrong", error.to_string()),
            }
        }
        if is_held {
            let consumed = all.len() - rest.len();
            held.advance(consumed);
        } else {
            // it was empty, and what has come is not ours to keep
            held = BytesMut::from(rest);
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.input = held;
        }
    }

    fn handle(&mut self, io: &mut dyn Io<Order>, index: usize, frame: &frame::Frame<'_>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.is_open() {
            return self.handle_reply(io, index, frame);
        }
        let out = io.output(connection.socket);
        match connection.progress(frame, &self.assignment.scenario, out) {
            Progress::Going => {}
            Progress::Opened => self.opened(io, index),
            Progress::Refused(class, text) => self.lose(io, index, &class, text),
        }
    }

    /// Gives what has been counted, and counts anew.
    fn count(&mut self) {
        let count = |role| {
            let of_it = |connection: &&Connection| connection.role == role && connection.is_open();
            self.connections.iter().filter(of_it).count() as u64
        };
        self.sample.level = Level {
            in_flight: self.in_flight as u64,
            queued: self.queue.len() as u64,
            open: count(Role::Busy),
            idle: count(Role::Idle),
        };
        let new = Sample::new(self.assignment.scenario.operations.len());
        let counted = std::mem::replace(&mut self.sample, new);
        self.tell(Report::Counted(Box::new(counted)));
    }

    /// Whatever is not answered never is.
    fn end(&mut self, io: &mut dyn Io<Order>) {
        self.sample.unsent += self.queue.len() as u64;
        self.queue.clear();
        for connection in &mut self.connections {
            for _ in connection.flights.drain(..) {
                self.sample.error("unanswered", || "there was no answer when the load ended".to_owned());
            }
            if connection.is_open() {
                frontend::write_terminate(io.output(connection.socket));
                io.close_after_output(connection.socket);
            } else {
                io.close(connection.socket);
            }
            connection.socket = SocketId::NONE;
        }
        self.in_flight = 0;
        self.count();
        io.stop();
    }

    /// After whatever happened.
    fn settle(&mut self, io: &mut dyn Io<Order>) {
        if self.phase == Phase::Draining && self.in_flight == 0 && self.queue.is_empty() {
            self.phase = Phase::Drained;
            self.tell(Report::Drained);
        }
        let arrival = self.start.zip(self.schedule.as_ref().and_then(Schedule::next)).map(|(start, next)| start + next);
        let waking = self.waking.peek().map(|Reverse((at, _))| *at);
        io.set_timer(arrival.into_iter().chain(waking).min());
    }
}

impl Reactor for Worker {
    type Message = Order;

    fn on_start(&mut self, io: &mut dyn Io<Order>) {
        // else the kernel lets timers be late by 50 µs; where that is not possible it shows as time waited
        let _set: Result<(), _> = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        if self.connections.is_empty() {
            self.phase = Phase::Ready;
            self.tell(Report::Connected);
        }
        self.connect_more(io);
        self.settle(io);
    }

    fn on_event(&mut self, io: &mut dyn Io<Order>, event: Event<'_>) {
        match event {
            Event::Connected { socket, token } => {
                if let Ok(index) = usize::try_from(token)
                    && self.is_current(index, socket)
                    && let Some(connection) = self.connections.get_mut(index)
                {
                    connection.start(&self.assignment.target, io.output(socket));
                }
            }
            Event::Received { socket, token, bytes } => {
                if let Ok(index) = usize::try_from(token)
                    && self.is_current(index, socket)
                {
                    self.received(io, index, bytes);
                }
            }
            Event::Finished { socket, token } => self.closed(io, (socket, token), "closed by the server".to_owned()),
            Event::Closed { socket, token, cause } => self.closed(io, (socket, token), cause.to_string()),
            // nothing of this is asked for
            Event::Accepted { .. } | Event::Drained { .. } | Event::Detached { .. } | Event::Secured { .. } => {}
        }
        self.settle(io);
    }

    fn on_message(&mut self, _io: &mut dyn Io<Order>, _from: ShardId, _message: Order) {}

    fn on_control(&mut self, io: &mut dyn Io<Order>, message: Order) {
        match message {
            Order::Begin(start) => self.begin_load(io, start),
            Order::Tell => self.count(),
            Order::Stop => {
                if let Some(schedule) = &mut self.schedule {
                    schedule.end();
                }
                if self.phase == Phase::Running {
                    self.phase = Phase::Draining;
                }
            }
            Order::End => return self.end(io),
        }
        self.settle(io);
    }

    fn on_timer(&mut self, io: &mut dyn Io<Order>) {
        self.arrive(io);
        self.wake(io);
        self.settle(io);
    }
}
