//! One connection of a worker: from its start-up packet to its Terminate.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::BytesMut;
use dbproto::auth::client::{ClientAuth, Step as AuthStep};
use dbproto::frame::Frame;
use dbproto::message::backend::Authentication;
use dbproto::startup;
use runtime::SocketId;

use super::compose;
use super::reply::{Reply, describe};
use crate::generator::scenario::{CLIENT, Scenario};
use crate::generator::target::Target;
use crate::generator::template::Value;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It runs operations.
    Busy,
    /// It only is there.
    Idle,
}

/// How far a connection is.
#[derive(Debug)]
pub(super) enum State {
    /// There is none.
    Down,
    /// The socket connects.
    Connecting,
    /// The server asks who we are.
    LoggingIn(Box<ClientAuth>),
    /// What every session runs, and statements to prepare; so many ReadyForQuery are still owed.
    Preparing(usize),
    /// It can be used.
    Open,
}

/// An operation that is under way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Which.
    pub(super) operation: usize,
    /// When it was meant to begin.
    pub(super) intended: Instant,
    /// When it did.
    pub(super) sent: Instant,
    /// Its values.
    pub(super) values: Vec<Value>,
    /// The step that is being answered.
    pub(super) step: usize,
    /// What comes.
    pub(super) reply: Reply,
    /// What is wrong with it as a whole.
    pub(super) fault: Option<(String, String)>,
    /// Whether it goes on.
    pub(super) stage: Stage,
}

/// Whether an operation goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Its steps are done.
    Steps,
    /// It has left a transaction open, which is rolled back.
    Cleaning,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number among all of the generator; `:client`.
    pub(super) client: u32,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) socket: SocketId,
    /// A frame that is not whole yet.
    pub(super) input: BytesMut,
    pub(super) flights: VecDeque<Flight>,
    /// Operations that this connection has begun.
    pub(super) begun: u32,
    /// When it was begun to be made.
    pub(super) since: Option<Instant>,
    /// Whether it is in the list of those that can take an operation.
    pub(super) is_listed: bool,
}

/// What a frame of a connection that is not open yet leads to.
#[derive(Debug)]
pub(super) enum Progress {
    /// It goes on.
    Going,
    /// It can be used.
    Opened,
    /// It is not let in: the class of the error, and its text.
    Refused(String, String),
}

impl Connection {
    pub(super) fn new(client: u32, role: Role) -> Self {
        Self {
            client,
            role,
            state: State::Down,
            socket: SocketId::NONE,
            input: BytesMut::new(),
            flights: VecDeque::new(),
            begun: 0,
            since: None,
            is_listed: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether it may begin an operation, of `depth` at once and `most` in its life.
    pub(super) fn can_take(&self, depth: u32, most: u32) -> bool {
        self.is_open()
            && self.role == Role::Busy
            && self.flights.len() < depth as usize
            && (most == 0 || self.begun < most)
    }

    /// The socket is connected.
    pub(super) fn start(&mut self, target: &Target, out: &mut BytesMut) {
        let (user, database) = (target.user.as_bytes(), target.database.as_bytes());
        startup::write_startup(
            out,
            &[(b"user", user), (b"database", database), (b"application_name", b"optimacore-bench")],
        );
        let password = target.password.as_deref().map(str::as_bytes);
        self.state = State::LoggingIn(Box::new(ClientAuth::new(user, password)));
    }

    /// A frame while it is being opened.
    pub(super) fn progress(&mut self, frame: &Frame<'_>, scenario: &Scenario, out: &mut BytesMut) -> Progress {
        let refused = |text: String| Progress::Refused("login".to_owned(), text);
        match (frame.tag, &mut self.state) {
            (b'R', State::LoggingIn(auth)) => {
                let Ok(request) = Authentication::read(frame.body) else {
                    return refused("a request for authentication makes no sense".to_owned());
                };
                match auth.handle(request, out) {
                    Ok(AuthStep::Continue | AuthStep::Done) => Progress::Going,
                    Err(error) => refused(error.to_string()),
                }
            }
            (b'E', _) => {
                let (class, text) = describe(frame.body);
                Progress::Refused(class, text)
            }
            (b'Z', State::LoggingIn(_)) => match self.prepare(scenario, out) {
                Ok(0) => self.opened(),
                Ok(owed) => {
                    self.state = State::Preparing(owed);
                    Progress::Going
                }
                Err(_) => refused("a statement is too long".to_owned()),
            },
            (b'Z', State::Preparing(owed)) => {
                *owed = owed.saturating_sub(1);
                if *owed == 0 { self.opened() } else { Progress::Going }
            }
            _ => Progress::Going,
        }
    }

    /// Writes what is run once; gives how many replies that makes. Who only is there has nothing to prepare.
    fn prepare(&self, scenario: &Scenario, out: &mut BytesMut) -> Result<usize, dbproto::message::MessageError> {
        let mut values = vec![Value::Integer(0); 2];
        if let Some(place) = values.get_mut(CLIENT) {
            *place = Value::Integer(i64::from(self.client));
        }
        for text in &scenario.session {
            compose::write_text(out, text, &values)?;
        }
        let prepared = match self.role {
            Role::Busy => compose::write_preparations(out, scenario)?,
            Role::Idle => 0,
        };
        Ok(scenario.session.len() + prepared)
    }

    fn opened(&mut self) -> Progress {
        self.state = State::Open;
        self.begun = 0;
        Progress::Opened
    }
}
