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
    /// Nothing is asked of the backend: the driver answers this one itself when its turn comes.
    Synthetic,
}

impl Expect {
    /// Whether a ReadyForQuery completes it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Sync | Self::Query | Self::FunctionCall)
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

/// The queue of what one backend owes. See the module documentation.
#[derive(Debug, Default)]
pub struct Pipeline {
    queue: VecDeque<Owed>,
    group: Group,
    dropped: Vec<Owed>,
    reading: Reading,
    terminals: usize,
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
                Expect::Sync => return,
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
        if owed.expect == Expect::CopyEnd && self.queue.is_empty() {
            return;
        }
        if owed.expect.is_terminal() {
            self.terminals = self.terminals.saturating_add(1);
            self.group = Group::Ended;
        } else if !matches!(owed.expect, Expect::CopyEnd | Expect::Synthetic) {
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
            || self.queue.back().is_some_and(|item| !item.expect.is_terminal() && item.expect != Expect::CopyEnd)
    }

    /// Whether the backend waits for COPY data from the frontend.
    #[must_use]
    pub fn is_copying_in(&self) -> bool {
        self.reading == Reading::CopyIn
    }

    fn pop_copy_ends(&mut self) {
        while self.queue.pop_front_if(|item| item.expect == Expect::CopyEnd).is_some() {}
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
        let mut index: usize = 1;
        while let Some(item) = self.queue.get(index).copied() {
            match item.expect {
                Expect::CopyEnd => {
                    self.queue.remove(index);
                    self.reading = Reading::Commands;
                    if self.queue.back().is_some_and(|last| last.expect.is_terminal()) {
                        self.group = Group::Ended;
                    }
                    return;
                }
                Expect::Sync => {
                    self.queue.remove(index);
                    self.terminals = self.terminals.saturating_sub(1);
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
mod tests {
    use super::*;

    /// Runs a script: capitals push what a frontend sends, `<tags` are backend messages; gives what happened.
    fn run(script: &str) -> String {
        let mut machine = Pipeline::new();
        let mut out = Vec::new();
        for (index, word) in script.split_whitespace().enumerate() {
            if let Some(reply) = word.strip_prefix('<') {
                let bytes = reply.as_bytes();
                match machine.handle_backend(bytes[0], bytes.get(1).copied()) {
                    Ok(Outcome::Part(_)) => out.push(format!("{reply}:part")),
                    Ok(Outcome::Complete(o)) => out.push(format!("{reply}:{:?}#{}", o.expect, o.mark)),
                    Ok(Outcome::Error(o)) => out.push(format!("{reply}:error#{}", o.mark)),
                    Ok(Outcome::Ready(o, s)) => out.push(format!("{reply}:ready#{}{:?}", o.mark, s)),
                    Ok(Outcome::Asynchronous) => out.push(format!("{reply}:async")),
                    Ok(Outcome::Copy(_, d)) => out.push(format!("{reply}:{d:?}")),
                    Ok(Outcome::Farewell) => out.push(format!("{reply}:farewell")),
                    Err(e) => out.push(format!("{reply}:{e}")),
                }
            } else {
                let expect = match word {
                    "Parse" => Expect::Parse,
                    "Bind" => Expect::Bind,
                    "DescS" => Expect::DescribeStatement,
                    "DescP" => Expect::DescribePortal,
                    "Exec" => Expect::Execute,
                    "Close" => Expect::Close,
                    "Sync" => Expect::Sync,
                    "Query" => Expect::Query,
                    "Func" => Expect::FunctionCall,
                    "CopyEnd" => Expect::CopyEnd,
                    "Own" => Expect::Synthetic,
                    other => panic!("unknown word {other}"),
                };
                machine.push(Owed::client(expect).marked(u32::try_from(index).unwrap() + 1));
            }
            while let Some(owed) = machine.poll_synthetic() {
                out.push(format!("own#{}", owed.mark));
            }
        }
        let dropped: Vec<_> = machine.drain_dropped().map(|o| o.mark.to_string()).collect();
        if !dropped.is_empty() {
            out.push(format!("dropped {}", dropped.join(",")));
        }
        if !machine.is_empty() {
            out.push(format!("owes {}", machine.len()));
        }
        assert_eq!(machine.ready_count(), machine.queue.iter().filter(|o| o.expect.is_terminal()).count());
        out.join(" ")
    }

    #[test]
    fn an_extended_group_completes_in_order() {
        assert_eq!(
            run("Parse Bind DescP Exec Sync <1 <2 <T <D <D <C <ZI"),
            "1:Parse#1 2:Bind#2 T:DescribePortal#3 D:part D:part C:Execute#4 ZI:ready#5Idle"
        );
    }

    #[test]
    fn a_group_is_open_until_its_sync_whether_or_not_its_answers_are_in() {
        let mut machine = Pipeline::new();
        machine.push(Owed::client(Expect::Parse));
        assert!(machine.is_open());
        assert!(machine.handle_backend(b'1', None).is_ok());
        assert!(machine.is_empty() && machine.is_open(), "the Sync is still to come");
        machine.push(Owed::client(Expect::Sync));
        assert!(!machine.is_open());
        assert!(machine.handle_backend(b'Z', Some(b'I')).is_ok());
        assert!(machine.is_empty() && !machine.is_open());
        // a COPY swallows the first Sync; the second one ends the group
        for expect in [Expect::Execute, Expect::Sync] {
            machine.push(Owed::client(expect));
        }
        assert!(machine.handle_backend(b'G', None).is_ok());
        machine.push(Owed::client(Expect::CopyEnd));
        assert!(machine.handle_backend(b'C', None).is_ok());
        assert!(machine.is_empty() && machine.is_open());
        machine.push(Owed::client(Expect::Sync));
        assert!(!machine.is_open());
    }

    #[test]
    fn an_error_skips_to_the_next_sync_and_not_beyond() {
        assert_eq!(
            run("Parse Bind Exec Sync Bind Exec Sync <1 <E <ZI <2 <C <ZI"),
            "1:Parse#1 E:error#2 ZI:ready#4Idle 2:Bind#5 C:Execute#6 ZI:ready#7Idle dropped 3"
        );
    }

    #[test]
    fn what_is_sent_after_an_error_and_before_its_sync_is_owed_nothing() {
        assert_eq!(run("Parse <E Bind Exec Query Sync <ZI"), "E:error#1 ZI:ready#6Idle dropped 3,4,5");
    }

    #[test]
    fn a_simple_query_ends_at_its_ready_only() {
        assert_eq!(
            run("Query Query <T <C <E <ZT <C <ZI"),
            "T:part C:part E:error#1 ZT:ready#1Active C:part ZI:ready#2Idle"
        );
    }

    #[test]
    fn synthetic_replies_keep_their_place_in_the_order() {
        assert_eq!(run("Bind Own Exec Sync <2 <C <ZI"), "2:Bind#1 own#2 C:Execute#3 ZI:ready#4Idle");
        assert_eq!(run("Own Sync <ZI"), "own#1 ZI:ready#2Idle");
        assert_eq!(run("Bind Own Sync <E <ZI"), "E:error#1 ZI:ready#3Idle dropped 2");
    }

    #[test]
    fn a_sync_inside_copy_in_is_swallowed() {
        // libpq: Execute, Sync, then after CopyInResponse data, CopyDone and a second Sync.
        assert_eq!(
            run("Parse Bind Exec Sync <1 <2 <G CopyEnd Sync <C <ZI"),
            "1:Parse#1 2:Bind#2 G:In C:Execute#3 ZI:ready#9Idle"
        );
        // everything sent ahead
        assert_eq!(run("Exec CopyEnd Sync <G <C <ZI"), "G:In C:Execute#1 ZI:ready#3Idle");
        // the COPY never began: both Syncs count
        assert_eq!(run("Exec Sync CopyEnd Sync <E <ZI <ZI"), "E:error#1 ZI:ready#2Idle ZI:ready#4Idle");
    }

    #[test]
    fn a_simple_copy_in_ends_with_its_query() {
        assert_eq!(run("Query <G CopyEnd <C <ZI"), "G:In C:part ZI:ready#1Idle");
        assert_eq!(run("Query <G <E <ZI Sync <ZI"), "G:In E:error#1 ZI:ready#1Idle ZI:ready#5Idle");
    }

    #[test]
    fn late_copy_messages_outside_copy_are_owed_nothing() {
        assert_eq!(run("CopyEnd Query <C <ZI"), "C:part ZI:ready#2Idle");
    }

    #[test]
    fn messages_that_fit_nothing_are_refused() {
        assert_eq!(run("<ZI"), "ZI:message 'Z' arrived where nothing was owed");
        assert_eq!(run("Bind Sync <ZI"), "ZI:message 'Z' arrived where Bind was owed owes 2");
        assert_eq!(run("Sync <Zx"), "Zx:ReadyForQuery has the unknown status 'x' owes 1");
        assert_eq!(run("Bind Sync <D"), "D:message 'D' arrived where Bind was owed owes 2");
        assert_eq!(run("<E"), "E:farewell");
    }

    #[test]
    fn asynchronous_messages_disturb_nothing() {
        assert_eq!(run("Query <N <S <A <C <ZI"), "N:async S:async A:async C:part ZI:ready#1Idle");
        assert_eq!(run("<S"), "S:async");
    }
}
