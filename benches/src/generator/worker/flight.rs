//! An operation of a worker, from its first byte to its last reply.

use std::time::Instant;

use dbproto::frame::Frame;
use dbproto::message::backend::TransactionStatus;
use dbproto::message::frontend;
use runtime::{Io, SocketId};

use super::compose;
use super::connection::{Flight, Stage, State};
use super::reply::{Reply, Turn, describe};
use super::{Phase, Worker};
use crate::generator::assignment::Order;
use crate::generator::scenario::{Expected, Flow};
use crate::generator::schedule::Pace;

/// What ends a transaction that an operation has left open.
const ROLLBACK: &[u8] = b"rollback";
/// Nothing is asked of the reply to it.
const ANYTHING: Expected = Expected { rows: None, first: None, last: None, tag: None };

/// What follows a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// The next step is sent, or its reply awaited.
    Step,
    /// The transaction that is open is ended.
    Clean,
    /// The operation has ended.
    Finish,
    /// The connection cannot be used any more.
    Lose,
}

impl Worker {
    /// Begins an operation that was meant to begin at `intended`.
    pub(super) fn begin(&mut self, io: &mut dyn Io<Order>, index: usize, intended: Instant) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let operation = self.assignment.scenario.choose(&mut self.random);
        let Some(known) = self.assignment.scenario.operations.get(operation) else { return };
        let values = known.draw(connection.client, &mut self.random);
        let out = io.output(connection.socket);
        let at_once = match known.flow {
            Flow::Together => known.steps.len(),
            Flow::OneByOne => 1,
        };
        let mut steps = known.steps.iter().take(at_once);
        let written = steps.try_for_each(|step| compose::write_step(out, &step.form, &values));
        connection.flights.push_back(Flight {
            operation,
            intended,
            sent: io.now(),
            values,
            step: 0,
            reply: Reply::default(),
            fault: None,
            stage: Stage::Steps,
        });
        connection.begun += 1;
        self.in_flight += 1;
        self.sample.sent += 1;
        if matches!(self.assignment.pace, Pace::Closed { .. }) {
            self.sample.offered += 1;
        }
        if let Err(error) = written {
            self.lose(io, index, "wrong", error.to_string());
        }
    }

    /// A frame of an open connection.
    pub(super) fn handle_reply(&mut self, io: &mut dyn Io<Order>, index: usize, frame: &Frame<'_>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Some(flight) = connection.flights.front_mut() else {
            match frame.tag {
                b'S' | b'N' | b'A' => {}
                b'E' => {
                    let (class, text) = describe(frame.body);
                    self.lose(io, index, &class, text);
                }
                tag => self.lose(io, index, "wrong", format!("a message {} that nobody asked for", tag.escape_ascii())),
            }
            return;
        };
        let step =
            self.assignment.scenario.operations.get(flight.operation).and_then(|known| known.steps.get(flight.step));
        let expected = match (flight.stage, step) {
            (Stage::Steps, Some(step)) => &step.expected,
            (Stage::Steps, None) | (Stage::Cleaning, _) => &ANYTHING,
        };
        match flight.reply.handle(frame, expected, &flight.values) {
            Turn::More => {}
            Turn::CopyIn => {
                let out = io.output(connection.socket);
                let written = match step.and_then(|step| step.copy.as_ref()) {
                    Some(copied) => compose::write_copy(out, copied, &mut flight.values),
                    None => {
                        flight.reply.wrong(|| "the server asks for data that there is none of".to_owned());
                        dbproto::message::write_frame(out, frontend::tag::COPY_FAIL, |out| out.extend_from_slice(b"\0"))
                    }
                };
                if let Err(error) = written {
                    self.lose(io, index, "wrong", error.to_string());
                }
            }
            Turn::Ready(status) => self.advance(io, index, status),
            Turn::Broken => {
                let text = format!("the server broke the protocol by a message {}", frame.tag.escape_ascii());
                self.lose(io, index, "wrong", text);
            }
        }
    }

    /// A step has been answered.
    fn advance(&mut self, io: &mut dyn Io<Order>, index: usize, status: TransactionStatus) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Some(flight) = connection.flights.front_mut() else { return };
        let Some(known) = self.assignment.scenario.operations.get(flight.operation) else { return };
        let reply = std::mem::take(&mut flight.reply);
        flight.fault = flight.fault.take().or(reply.fault);
        let next = match flight.stage {
            Stage::Steps => {
                flight.step += 1;
                after_step(flight, known.steps.len(), known.flow, status)
            }
            Stage::Cleaning if status == TransactionStatus::Idle => Next::Finish,
            Stage::Cleaning => Next::Lose,
        };
        let out = io.output(connection.socket);
        let written = match next {
            Next::Step if known.flow == Flow::Together => Ok(()),
            Next::Step => match known.steps.get(flight.step) {
                Some(step) => compose::write_step(out, &step.form, &flight.values),
                None => Ok(()),
            },
            Next::Clean => {
                flight.stage = Stage::Cleaning;
                flight.fault.get_or_insert_with(|| ("wrong".to_owned(), "a transaction is left open".to_owned()));
                frontend::write_query(out, ROLLBACK)
            }
            Next::Finish => return self.finish(io, index),
            Next::Lose => return self.lose(io, index, "wrong", "a transaction cannot be rolled back".to_owned()),
        };
        if let Err(error) = written {
            self.lose(io, index, "wrong", error.to_string());
        }
    }

    /// The operation at the head has ended.
    fn finish(&mut self, io: &mut dyn Io<Order>, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Some(flight) = connection.flights.pop_front() else { return };
        self.in_flight -= 1;
        let now = io.now();
        match (flight.fault, self.sample.operations.get_mut(flight.operation)) {
            (Some((class, text)), Some(_)) => {
                let name = self.assignment.scenario.operations.get(flight.operation).map(|known| known.name.as_str());
                self.sample.error(&class, || format!("{}: {text}", name.unwrap_or_default()));
            }
            (None, Some(counted)) => {
                counted.completed += 1;
                counted.response.record(now.saturating_duration_since(flight.intended));
                counted.service.record(now.saturating_duration_since(flight.sent));
                counted.wait.record(flight.sent.saturating_duration_since(flight.intended));
            }
            (_, None) => {}
        }
        let most = self.assignment.reconnect_after;
        if most > 0 && connection.begun >= most && connection.flights.is_empty() && self.phase != Phase::Drained {
            frontend::write_terminate(io.output(connection.socket));
            io.close_after_output(connection.socket);
            connection.socket = SocketId::NONE;
            connection.state = State::Down;
            self.to_connect.push_back(index);
            return self.connect_more(io);
        }
        match &self.assignment.pace {
            Pace::Closed { think } if !think.is_zero() => {
                self.waking.push(std::cmp::Reverse((now + *think, index)));
            }
            Pace::Closed { .. } | Pace::Open { .. } => self.employ(io, index),
        }
    }

    /// The server has ended a connection.
    pub(super) fn closed(&mut self, io: &mut dyn Io<Order>, (socket, token): (SocketId, u64), text: String) {
        if let Ok(index) = usize::try_from(token)
            && self.is_current(index, socket)
        {
            let is_open = self.connections.get(index).is_some_and(super::Connection::is_open);
            self.lose(io, index, if is_open { "lost" } else { "connect" }, text);
        }
    }
}

/// What follows the reply to a step of which there are so many.
fn after_step(flight: &Flight, steps: usize, flow: Flow, status: TransactionStatus) -> Next {
    let more = flight.step < steps;
    match flow {
        Flow::Together if more => Next::Step,
        Flow::OneByOne if more && flight.fault.is_none() => Next::Step,
        Flow::Together | Flow::OneByOne if status == TransactionStatus::Idle => Next::Finish,
        Flow::Together | Flow::OneByOne => Next::Clean,
    }
}
