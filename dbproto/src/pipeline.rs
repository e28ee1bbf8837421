//! The pipeline machine: what a backend still owes for what was sent to it.
//!
//! A backend answers strictly in order, so everything a frontend sends is remembered as an [`Owed`] item in a queue and
//! every message that comes back belongs to the head of it. The machine knows which message completes which item, that
//! an error in an extended-query group skips everything up to the next Sync, and which Syncs a backend swallows while it
//! is in COPY mode ("Message Flow", sections Extended Query, Pipelining and COPY Operations of the protocol chapter).
//!
//! It does not know sessions: an item carries an [`Audience`] (is the reply meant for the client, or did we ask for it
//! ourselves?) and a `mark` the driver may use to find its own bookkeeping again. It never reads a socket or a clock.
//!
//! Invariant: [`Pipeline::len`] items are outstanding; a backend message that fits none of them is an error, after which
//! the connection must be closed because nobody can say whose reply comes next.

use std::collections::VecDeque;
use std::fmt;

use crate::message::backend::TransactionStatus;

/// What kind of answer is owed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// ParseComplete.
    Parse,
    /// BindComplete.
    Bind,
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// RowDescription or NoData.
    DescribePortal,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended; or a COPY.
    Execute,
    /// CloseComplete.
    Close,
    /// ReadyForQuery of a Sync.
    Sync,
    /// Everything a simple Query gives, up to its ReadyForQuery.
    Query,
    /// FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
    /// CopyDone or CopyFail was sent: nothing is owed for it, but it ends the span in which Syncs are swallowed.
    CopyEnd,
    /// CopyData was sent: nothing is owed for it, but a COPY may fail by it.
    CopyData,
    /// Nothing is asked of the backend: the driver answers this one itself when its turn comes.
    Synthetic,
}

impl Expect {
    /// Whether a ReadyForQuery completes it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Sync | Self::Query | Self::FunctionCall)
    }

    /// Whether it is of a COPY, and nothing is owed for it.
    const fn is_of_copy(self) -> bool {
        matches!(self, Self::CopyEnd | Self::CopyData)
    }
}

/// Whom a reply is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// The client that sent the request.
    Client,
    /// Nobody: the message was added by us and its reply is swallowed.
    Nobody,
}

/// One thing the backend owes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owed {
    /// What kind of answer.
    pub expect: Expect,
    /// Whom it is for.
    pub audience: Audience,
    /// The driver's own number for it (a statement, a synthetic reply); meaningless to the machine.
    pub mark: u32,
}

impl Owed {
    /// An item whose reply goes to the client.
    #[must_use]
    pub const fn client(expect: Expect) -> Self {
        Self { expect, audience: Audience::Client, mark: 0 }
    }

    /// An item whose reply is swallowed.
    #[must_use]
    pub const fn nobody(expect: Expect) -> Self {
        Self { expect, audience: Audience::Nobody, mark: 0 }
    }

    /// The same item with the driver's number.
    #[must_use]
    pub const fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }
}

/// What a backend message means for the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A part of the head's answer; more is to come.
    Part(Audience),
    /// The head's answer is complete.
    Complete(Owed),
    /// The head failed; the rest of its group has been dropped (see [`Pipeline::drain_dropped`]).
    Error(Owed),
    /// ReadyForQuery: the item that ended its request, and the status byte.
    Ready(Owed, TransactionStatus),
    /// NoticeResponse, ParameterStatus or NotificationResponse: not owed, may come at any time.
    Asynchronous,
    /// The backend begins a COPY (its tag is `G`, `H` or `W`) on behalf of the head.
    Copy(Audience, CopyDirection),
    /// An ErrorResponse while nothing is owed: the backend is about to close (administrator command, idle timeout).
    Farewell,
}

/// Which way a COPY runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyDirection {
    /// CopyInResponse: the frontend sends data.
    In,
    /// CopyOutResponse: the backend sends data.
    Out,
    /// CopyBothResponse: streaming replication.
    Both,
}

/// Why a backend message cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PipelineError {
    /// A message arrived that nothing outstanding explains.
    Unexpected {
        /// The message's tag.
        tag: u8,
        /// What was at the head.
        head: Option<Expect>,
    },
    /// A COPY failed after a Sync that it may have swallowed or not: nobody can say what the ReadyForQuery answers.
    Undecided,
    /// ReadyForQuery with a status byte that is none of `I`, `T`, `E`.
    BadStatus(u8),
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected { tag, head: Some(head) } => {
                write!(f, "message '{}' arrived where {head:?} was owed", tag.escape_ascii())
            }
            Self::Unexpected { tag, head: None } => {
                write!(f, "message '{}' arrived where nothing was owed", tag.escape_ascii())
            }
            Self::Undecided => {
                f.write_str("a COPY failed, and it may have swallowed a Sync that was sent among its data")
            }
            Self::BadStatus(status) => write!(f, "ReadyForQuery has the unknown status '{}'", status.escape_ascii()),
        }
    }
}

impl std::error::Error for PipelineError {}

/// How the backend reads what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Reading {
    /// Message by message.
    #[default]
    Commands,
    /// An extended-query error happened and its Sync has not been sent yet: everything before it is ignored.
    SkippingToSync,
    /// COPY IN is under way and its end has not been sent yet: Sync and Flush are swallowed.
    CopyIn,
}

/// Whether the last extended-query message that was sent is followed by a Sync. Its answer may have come long ago: a Flush
/// brings it, and the backend is in the middle of the group all the same: what it has done since is one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Group {
    /// The last thing sent ends a request.
    #[default]
    Ended,
    /// Its Sync has not been sent.
    Open,
}

/// Whether it is known how many ReadyForQuery will come. The backend swallows a Sync that it reads within a COPY, and answers
/// one that it reads after the COPY has failed; which of both happened, its answers do not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Doubt {
    /// It is.
    #[default]
    Nothing,
    /// Only if the COPY under way succeeds.
    IfItFails,
}

/// The queue of what one backend owes. See the module documentation.
#[derive(Debug, Default)]
pub struct Pipeline {
    queue: VecDeque<Owed>,
    group: Group,
    dropped: Vec<Owed>,
    reading: Reading,
    terminals: usize,
    /// Whether a Sync was taken for swallowed by the COPY under way that is answered if the COPY fails before it is read.
    doubt: Doubt,
}

impl Pipeline {
    /// An empty pipeline: the backend is idle.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers that a message was sent for which `owed` will come. Must be called in the order of sending.
    pub fn push(&mut self, owed: Owed) {
        match self.reading {
            Reading::Commands => {}
            Reading::SkippingToSync => {
                if owed.expect != Expect::Sync {
                    if owed.mark != 0 {
                        self.dropped.push(owed);
                    }
                    return;
                }
                self.reading = Reading::Commands;
            }
            Reading::CopyIn => match owed.expect {
                Expect::Sync => {
                    self.doubt = Doubt::IfItFails;
                    return;
                }
                Expect::CopyData => return,
                Expect::CopyEnd => {
                    self.reading = Reading::Commands;
                    return;
                }
                Expect::Parse
                | Expect::Bind
                | Expect::DescribeStatement
                | Expect::DescribePortal
                | Expect::Execute
                | Expect::Close
                | Expect::Query
                | Expect::FunctionCall
                | Expect::Synthetic => {}
            },
        }
        let last = self.queue.back().map(|item| item.expect);
        if owed.expect.is_of_copy() && (last.is_none() || last == Some(owed.expect) && owed.expect == Expect::CopyData)
        {
            return;
        }
        if owed.expect.is_terminal() {
            self.terminals = self.terminals.saturating_add(1);
            self.group = Group::Ended;
        } else if !owed.expect.is_of_copy() && owed.expect != Expect::Synthetic {
            self.group = Group::Open;
        }
        self.queue.push_back(owed);
    }

    /// Judges one backend message. `first` is the first byte of its body (the status of a ReadyForQuery).
    ///
    /// # Errors
    /// When the message fits nothing that is owed. The connection must then be closed.
    pub fn handle_backend(&mut self, tag: u8, first: Option<u8>) -> Result<Outcome, PipelineError> {
        if matches!(tag, b'N' | b'S' | b'A') {
            return Ok(Outcome::Asynchronous);
        }
        self.pop_copy_ends();
        let Some(head) = self.queue.front().copied() else {
            return if tag == b'E' { Ok(Outcome::Farewell) } else { Err(unexpected(tag, None)) };
        };
        match tag {
            b'E' => Ok(self.on_error(head)),
            b'Z' => self.on_ready(head, first),
            b'G' => self.on_copy(head, tag, CopyDirection::In),
            b'H' => self.on_copy(head, tag, CopyDirection::Out),
            b'W' => self.on_copy(head, tag, CopyDirection::Both),
            _ => self.on_answer(head, tag),
        }
    }

    /// The synthetic item at the head, if its turn has come; call until it gives none, after every push and message.
    pub fn poll_synthetic(&mut self) -> Option<Owed> {
        self.pop_copy_ends();
        self.queue.pop_front_if(|item| item.expect == Expect::Synthetic)
    }

    /// Marked items that were dropped because an error skipped them: what they asked for did not happen.
    pub fn drain_dropped(&mut self) -> impl Iterator<Item = Owed> + '_ {
        self.dropped.drain(..)
    }

    /// What is owed next.
    #[must_use]
    pub fn head(&self) -> Option<Owed> {
        self.queue.front().copied()
    }

    /// Whether the backend owes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Outstanding items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// ReadyForQuery messages that are owed.
    #[must_use]
    pub const fn ready_count(&self) -> usize {
        self.terminals
    }

    /// Those of them that the client is owed.
    #[must_use]
    pub fn client_ready_count(&self) -> usize {
        self.queue.iter().filter(|item| item.expect.is_terminal() && item.audience == Audience::Client).count()
    }

    /// Whether messages were sent whose Sync has not been sent yet (or COPY data may still be sent).
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.reading != Reading::Commands
            || self.group == Group::Open
            || self.queue.back().is_some_and(|item| !item.expect.is_terminal() && !item.expect.is_of_copy())
    }

    /// Whether the backend passes over whatever is sent up to the next Sync: an error was met in the group.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.reading == Reading::SkippingToSync
    }

    /// Whether nobody knows yet if the group that has not been ended goes on or has failed.
    #[must_use]
    pub fn is_group_undecided(&self) -> bool {
        // what is answered without the backend decides nothing
        let asks = |item: &Owed| item.expect != Expect::Synthetic && !item.expect.is_of_copy();
        self.reading == Reading::Commands && self.group == Group::Open && self.queue.iter().any(asks)
    }

    /// Whether the backend waits for COPY data from the frontend.
    #[must_use]
    pub fn is_copying_in(&self) -> bool {
        self.reading == Reading::CopyIn
    }

    fn pop_copy_ends(&mut self) {
        while self.queue.pop_front_if(|item| item.expect.is_of_copy()).is_some() {}
    }

    fn on_error(&mut self, head: Owed) -> Outcome {
        if head.expect.is_terminal() {
            if self.reading == Reading::CopyIn {
                self.reading = Reading::Commands;
            }
            return Outcome::Error(head);
        }
        self.reading = Reading::SkippingToSync;
        // the head itself is the outcome; only what it takes with it is dropped
        self.queue.pop_front();
        while let Some(item) = self.queue.front().copied() {
            if item.expect == Expect::Sync {
                self.reading = Reading::Commands;
                break;
            }
            self.queue.pop_front();
            if item.expect.is_terminal() {
                self.terminals = self.terminals.saturating_sub(1);
            }
            if item.mark != 0 {
                self.dropped.push(item);
            }
        }
        Outcome::Error(head)
    }

    fn on_ready(&mut self, head: Owed, first: Option<u8>) -> Result<Outcome, PipelineError> {
        if !head.expect.is_terminal() {
            return Err(unexpected(b'Z', Some(head.expect)));
        }
        // a COPY that succeeded has said so before
        if self.doubt == Doubt::IfItFails {
            return Err(PipelineError::Undecided);
        }
        let byte = first.unwrap_or(0);
        let status = TransactionStatus::from_byte(byte).ok_or(PipelineError::BadStatus(byte))?;
        self.queue.pop_front();
        self.terminals = self.terminals.saturating_sub(1);
        if self.reading == Reading::CopyIn {
            self.reading = Reading::Commands;
        }
        Ok(Outcome::Ready(head, status))
    }

    fn on_copy(&mut self, head: Owed, tag: u8, direction: CopyDirection) -> Result<Outcome, PipelineError> {
        if !matches!(head.expect, Expect::Execute | Expect::Query) {
            return Err(unexpected(tag, Some(head.expect)));
        }
        if direction == CopyDirection::In {
            self.enter_copy_in();
        }
        Ok(Outcome::Copy(head.audience, direction))
    }

    /// Syncs that were sent after the head and before the end of the COPY are read, and swallowed, in COPY mode.
    fn enter_copy_in(&mut self) {
        self.reading = Reading::CopyIn;
        if self.queue.front().is_some_and(|head| !head.expect.is_terminal()) {
            // of the Syncs below only one behind the end of the COPY still ends the group
            self.group = Group::Open;
        }
        let mut data = false;
        let mut index: usize = 1;
        while let Some(item) = self.queue.get(index).copied() {
            match item.expect {
                Expect::CopyEnd => {
                    self.queue.remove(index);
                    self.reading = Reading::Commands;
                    if self
                        .queue
                        .iter()
                        .rfind(|item| !item.expect.is_of_copy())
                        .is_some_and(|last| last.expect.is_terminal())
                    {
                        self.group = Group::Ended;
                    }
                    return;
                }
                Expect::Sync => {
                    self.queue.remove(index);
                    self.terminals = self.terminals.saturating_sub(1);
                    // one right behind the Execute is usual, and read before any data by which the COPY can fail
                    if data {
                        self.doubt = Doubt::IfItFails;
                    }
                }
                Expect::CopyData => {
                    self.queue.remove(index);
                    data = true;
                }
                Expect::Parse
                | Expect::Bind
                | Expect::DescribeStatement
                | Expect::DescribePortal
                | Expect::Execute
                | Expect::Close
                | Expect::Query
                | Expect::FunctionCall
                | Expect::Synthetic => index = index.saturating_add(1),
            }
        }
    }

    fn on_answer(&mut self, head: Owed, tag: u8) -> Result<Outcome, PipelineError> {
        let completes = match (head.expect, tag) {
            (Expect::Parse, b'1')
            | (Expect::Bind, b'2')
            | (Expect::Close, b'3')
            | (Expect::DescribeStatement | Expect::DescribePortal, b'T' | b'n')
            | (Expect::Execute, b'C' | b'I' | b's') => true,
            (Expect::DescribeStatement, b't')
            | (Expect::Execute, b'D' | b'd' | b'c')
            | (Expect::Query, b'T' | b'D' | b'C' | b'I' | b'd' | b'c')
            | (Expect::FunctionCall, b'V') => false,
            _ => return Err(unexpected(tag, Some(head.expect))),
        };
        if tag == b'C' {
            self.doubt = Doubt::Nothing;
        }
        if !completes {
            return Ok(Outcome::Part(head.audience));
        }
        self.queue.pop_front();
        Ok(Outcome::Complete(head))
    }
}

const fn unexpected(tag: u8, head: Option<Expect>) -> PipelineError {
    PipelineError::Unexpected { tag, head }
}

#[cfg(test)]
mod tests;
