//! A console's session on its shard: simple and extended protocol over the commands of [`crate::admin::command`].
//!
//! One command is at the desk at a time; the client's further messages wait in its input until the answer has come.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use dbproto::frame;
use dbproto::message::backend::{self, TransactionStatus};
use dbproto::message::error::{ErrorReport, Severity, write_error, write_notice};
use dbproto::message::frontend::{Bind, Named, Parse, Target, query_text, tag};
use dbproto::message::result::{
    BindValues, read_execute, write_bind_complete, write_command_complete, write_empty_query, write_no_data,
    write_no_parameters, write_portal_suspended,
};

use crate::admin::command::{Block, Command, Show, help, parse};
use crate::admin::table::{Table, write_columns, write_row};
use crate::admin::{Answer, CONSOLE_VERSION, Petition, Refusal, Role, Withdrawal};
use crate::cancel;
use crate::error::Failure;
use crate::session::{Phase, SessionId};
use crate::shard::{Shard, World};

/// Longest message of a console.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Unsent bytes above which no further message is looked at.
const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Prepared statements, and portals, of one console.
const NAMES_MAX: usize = 1000;

/// A console's state.
pub(crate) struct Console {
    pub(crate) role: Role,
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
    waits: Waits,
    skip: Skip,
    status: TransactionStatus,
}

impl Console {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            statements: HashMap::new(),
            portals: HashMap::new(),
            waits: Waits::No,
            skip: Skip::No,
            status: TransactionStatus::Idle,
        }
    }

    /// Whether a command is at the desk.
    pub(crate) fn is_waiting(&self) -> bool {
        !matches!(self.waits, Waits::No)
    }
}

/// What a command at the desk belongs to.
enum Waits {
    No,
    /// A Query; what comes behind the command in it.
    Query(VecDeque<Command>),
    /// An Execute of a portal, of so many rows at most.
    Execute(Vec<u8>, u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Skip {
    No,
    /// An error was told: nothing is looked at before the next Sync.
    ToSync,
}

struct Portal {
    command: Option<Command>,
    bind: BindValues,
    /// Rows that were not asked for yet.
    rest: Option<Table>,
}

impl Shard {
    /// Lets a client that has proven who it is in to the console.
    pub(crate) fn welcome_console(&mut self, io: &mut World<'_>, id: SessionId, role: Role) {
        let process_id = cancel::process_id(io.shard(), id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.phase = Phase::Console(Box::new(Console::new(role)));
        let out = io.output(session.socket);
        backend::write_authentication_ok(out);
        let version = format!("{CONSOLE_VERSION}/optimacore");
        let parameters = [
            ("server_version", version.as_str()),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", if role == Role::Admin { "on" } else { "off" }),
        ];
        for (name, value) in parameters {
            backend::write_parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        backend::write_backend_key_data(out, process_id, session.secret.as_bytes());
        backend::write_ready_for_query(out, TransactionStatus::Idle);
        self.stats.logins += 1;
        self.tell_login(id);
        self.ready.push_back(id);
    }

    /// Takes one message of a console's, if it is there and its turn; gives whether there may be more to do.
    pub(crate) fn on_console_bytes(&mut self, io: &mut World<'_>, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Console(console) = &mut session.phase else { return false };
        if console.is_waiting() {
            return false;
        }
        if io.output_len(session.socket) > OUTPUT_HIGH_WATER {
            io.notify_drained(session.socket);
            return false;
        }
        let len = match frame::head(&session.input) {
            Ok(Some(head)) if head.len <= session.input.len() => head.len,
            Ok(Some(head)) if head.len > MESSAGE_LEN_MAX => {
                let what = "a message to the console is too long".to_owned();
                self.end_session(io, id, Some(&Failure::Protocol { what }));
                return false;
            }
            Ok(_) => return false,
            Err(error) => {
                self.end_session(io, id, Some(&Failure::Protocol { what: error.to_string() }));
                return false;
            }
        };
        let bytes = session.input.split_to(len).freeze();
        let out = io.output(session.socket);
        let body = bytes.get(frame::HEAD_LEN..).unwrap_or_default();
        let next = console.message(out, bytes.first().copied().unwrap_or_default(), body);
        match next {
            Next::Go => true,
            Next::Ask(command) => self.ask_desk(io, id, command),
            Next::End => {
                self.end_session(io, id, None);
                false
            }
            Next::Broken(what) => {
                self.end_session(io, id, Some(&Failure::Protocol { what }));
                false
            }
        }
    }

    /// Sends a command to the desk; what needs no desk is answered here.
    fn ask_desk(&mut self, io: &mut World<'_>, id: SessionId, command: Command) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Phase::Console(console) = &mut session.phase else { return false };
        let allowed = match (&command, console.role) {
            (_, Role::Admin) | (Command::Block(_) | Command::Deallocate(_), Role::Stats) => true,
            (Command::Show(show), Role::Stats) => *show != Show::Fds,
            (_, Role::Stats) => false,
        };
        let answer = if allowed {
            console.answer_here(&command)
        } else {
            let message = format!("{} needs a user of admin.admin_users", command.tag());
            Some(Answer::Refused(Refusal::plain("42501", message)))
        };
        if let Some(answer) = answer {
            self.on_answer(io, id, answer);
            return true;
        }
        let petition = Petition::Ask { shard: io.shard(), session: id, command };
        if self.board.desk.send(petition).is_err() {
            self.end_session(io, id, Some(&Failure::Shutdown));
            return false;
        }
        true
    }

    /// The desk has answered.
    pub(crate) fn on_answer(&mut self, io: &mut World<'_>, id: SessionId, answer: Answer) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Phase::Console(console) = &mut session.phase else { return };
        let out = io.output(session.socket);
        let next = match std::mem::replace(&mut console.waits, Waits::No) {
            Waits::No => return,
            Waits::Query(rest) => console.answer_query(out, rest, answer),
            Waits::Execute(portal, rows) => {
                console.answer_execute(out, portal, rows, answer);
                None
            }
        };
        match next {
            Some(command) => {
                self.ask_desk(io, id, command);
            }
            None => self.ready.push_back(id),
        }
    }

    /// A cancel request for a console; gives whether it was one.
    pub(crate) fn cancel_console(&mut self, io: &mut World<'_>, id: SessionId, why: Withdrawal) -> bool {
        let Some(Phase::Console(console)) = self.sessions.get(id).map(|session| &session.phase) else { return false };
        if console.is_waiting() {
            // without a desk we are stopping
            let _sent: Result<(), _> = self.board.desk.send(Petition::Withdraw { shard: io.shard(), session: id, why });
        }
        true
    }
}

/// What comes of a message.
enum Next {
    /// The next one can be looked at.
    Go,
    /// This is to be carried out; the state says for whom.
    Ask(Command),
    /// The client says goodbye.
    End,
    /// It breaks the protocol.
    Broken(String),
}

impl Console {
    fn message(&mut self, out: &mut BytesMut, tag: u8, body: &[u8]) -> Next {
        if self.skip == Skip::ToSync && !matches!(tag, tag::SYNC | tag::TERMINATE) {
            return Next::Go;
        }
        let done = match tag {
            tag::QUERY => return self.query(out, body),
            tag::EXECUTE => return self.execute(out, body),
            tag::TERMINATE => return Next::End,
            tag::SYNC => {
                self.skip = Skip::No;
                self.portals.clear();
                backend::write_ready_for_query(out, self.status);
                Ok(())
            }
            tag::PARSE => self.prepare(out, body),
            tag::BIND => self.bind(out, body),
            tag::DESCRIBE => self.describe(out, body),
            tag::CLOSE => self.close(out, body),
            tag::FUNCTION_CALL => {
                refuse(out, &Refusal::new("0A000", "the console has no functions".to_owned()));
                backend::write_ready_for_query(out, self.status);
                Ok(())
            }
            // what is left of a COPY that never was
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(()),
            other => return Next::Broken(format!("invalid frontend message type {other}")),
        };
        if let Err(refusal) = done {
            self.fail(out, &refusal);
        }
        Next::Go
    }

    /// An error inside the extended protocol.
    fn fail(&mut self, out: &mut BytesMut, refusal: &Refusal) {
        refuse(out, refusal);
        self.skip = Skip::ToSync;
    }

    fn query(&mut self, out: &mut BytesMut, body: &[u8]) -> Next {
        let commands = query_text(body).map_err(malformed).and_then(text).and_then(parse);
        match commands {
            Ok(commands) => {
                let mut commands = VecDeque::from(commands);
                match commands.pop_front() {
                    Some(first) => {
                        self.waits = Waits::Query(commands);
                        return Next::Ask(first);
                    }
                    None => write_empty_query(out),
                }
            }
            Err(refusal) => refuse(out, &refusal),
        }
        backend::write_ready_for_query(out, self.status);
        Next::Go
    }

    /// Gives the next command of the Query, if there is one.
    fn answer_query(&mut self, out: &mut BytesMut, mut rest: VecDeque<Command>, answer: Answer) -> Option<Command> {
        match answer {
            Answer::Table(table) => {
                let bind = BindValues { parameters: 0, formats: Vec::new() };
                // only a row longer than 1 GiB does not fit
                let _written = write_columns(out, table.columns, &bind);
                for row in &table.rows {
                    let _written = write_row(out, table.columns, row, &bind);
                }
                write_command_complete(out, "SHOW");
            }
            Answer::Done { tag, notices } => {
                notice_all(out, &notices);
                write_command_complete(out, tag);
            }
            Answer::Refused(refusal) => {
                refuse(out, &refusal);
                rest.clear();
            }
        }
        let next = rest.pop_front();
        if next.is_some() {
            self.waits = Waits::Query(rest);
        } else {
            backend::write_ready_for_query(out, self.status);
        }
        next
    }

    fn prepare(&mut self, out: &mut BytesMut, body: &[u8]) -> Result<(), Refusal> {
        let message = Parse::read(body).map_err(malformed)?;
        if message.types != [0, 0] {
            return Err(Refusal::new("0A000", "commands of the console have no parameters".to_owned()));
        }
        let mut commands = text(message.query).and_then(parse)?.into_iter();
        let first = commands.next();
        if commands.next().is_some() {
            let message = "cannot insert multiple commands into a prepared statement".to_owned();
            return Err(Refusal::plain("42601", message));
        }
        if !message.name.is_empty() && self.statements.contains_key(message.name) {
            let name = String::from_utf8_lossy(message.name);
            return Err(Refusal::plain("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        if self.statements.len() >= NAMES_MAX {
            return Err(Refusal::plain("53400", format!("more than {NAMES_MAX} prepared statements")));
        }
        self.statements.insert(message.name.to_vec(), first);
        backend::write_parse_complete(out);
        Ok(())
    }

    fn bind(&mut self, out: &mut BytesMut, body: &[u8]) -> Result<(), Refusal> {
        let message = Bind::read(body).map_err(malformed)?;
        let bind = BindValues::read(message.rest).map_err(malformed)?;
        let command = self.statement(message.statement)?.clone();
        if bind.parameters > 0 {
            let message = format!("bind message supplies {} parameters, but the statement has none", bind.parameters);
            return Err(Refusal::plain("08P01", message));
        }
        let columns = columns_of(command.as_ref()).map_or(0, <[_]>::len);
        if columns > 0 && bind.format_of(0, columns).is_none() {
            let message =
                format!("bind message has {} result formats but query has {columns} columns", bind.formats.len());
            return Err(Refusal::plain("08P01", message));
        }
        if self.portals.len() >= NAMES_MAX {
            return Err(Refusal::plain("53400", format!("more than {NAMES_MAX} portals")));
        }
        self.portals.insert(message.portal.to_vec(), Portal { command, bind, rest: None });
        write_bind_complete(out);
        Ok(())
    }

    fn describe(&self, out: &mut BytesMut, body: &[u8]) -> Result<(), Refusal> {
        let message = Named::read(body).map_err(malformed)?;
        let text = BindValues { parameters: 0, formats: Vec::new() };
        let (command, bind) = match message.target {
            Target::Statement => {
                let command = self.statement(message.name)?;
                write_no_parameters(out);
                (command, &text)
            }
            Target::Portal => {
                let portal = self.portals.get(message.name).ok_or_else(|| no_portal(message.name))?;
                (&portal.command, &portal.bind)
            }
        };
        match columns_of(command.as_ref()) {
            Some(columns) => write_columns(out, columns, bind).map_err(malformed)?,
            None => write_no_data(out),
        }
        Ok(())
    }

    fn close(&mut self, out: &mut BytesMut, body: &[u8]) -> Result<(), Refusal> {
        let message = Named::read(body).map_err(malformed)?;
        match message.target {
            Target::Statement => drop(self.statements.remove(message.name)),
            Target::Portal => drop(self.portals.remove(message.name)),
        }
        backend::write_close_complete(out);
        Ok(())
    }

    fn execute(&mut self, out: &mut BytesMut, body: &[u8]) -> Next {
        let (name, rows) = match read_execute(body) {
            Ok(read) => read,
            Err(error) => {
                self.fail(out, &malformed(error));
                return Next::Go;
            }
        };
        let Some(portal) = self.portals.get_mut(name) else {
            self.fail(out, &no_portal(name));
            return Next::Go;
        };
        if let Some(rest) = portal.rest.take() {
            self.waits = Waits::No;
            self.answer_execute(out, name.to_vec(), rows, Answer::Table(rest));
            return Next::Go;
        }
        match portal.command.clone() {
            Some(command) => {
                self.waits = Waits::Execute(name.to_vec(), rows);
                Next::Ask(command)
            }
            None => {
                write_empty_query(out);
                Next::Go
            }
        }
    }

    fn answer_execute(&mut self, out: &mut BytesMut, portal: Vec<u8>, rows: u32, answer: Answer) {
        match answer {
            Answer::Table(mut table) => {
                let Some(portal) = self.portals.get_mut(&portal) else { return };
                let all = table.rows.len();
                let count = if rows == 0 { all } else { all.min(rows as usize) };
                for row in table.rows.drain(..count) {
                    // as above
                    let _written = write_row(out, table.columns, &row, &portal.bind);
                }
                if rows > 0 && count == rows as usize {
                    // as Postgres does: it has not looked whether there is one more
                    portal.rest = Some(table);
                    write_portal_suspended(out);
                } else {
                    write_command_complete(out, "SHOW");
                }
            }
            Answer::Done { tag, notices } => {
                notice_all(out, &notices);
                write_command_complete(out, tag);
            }
            Answer::Refused(refusal) => self.fail(out, &refusal),
        }
    }

    /// The answer to what needs no desk.
    fn answer_here(&mut self, command: &Command) -> Option<Answer> {
        let tag = command.tag();
        if let Command::Block(block) = command {
            self.status = match block {
                Block::Begin => TransactionStatus::Active,
                Block::Commit | Block::Rollback => TransactionStatus::Idle,
            };
            Some(Answer::Done { tag, notices: Vec::new() })
        } else if let Command::Deallocate(name) = command {
            Some(self.deallocate(tag, name.as_deref()))
        } else {
            (*command == Command::Show(Show::Help)).then(|| Answer::Done { tag, notices: vec![help()] })
        }
    }

    fn deallocate(&mut self, tag: &'static str, name: Option<&str>) -> Answer {
        match name {
            None => self.statements.clear(),
            Some(name) => {
                if self.statements.remove(name.as_bytes()).is_none() {
                    let message = format!("prepared statement \"{name}\" does not exist");
                    return Answer::Refused(Refusal::plain("26000", message));
                }
            }
        }
        Answer::Done { tag, notices: Vec::new() }
    }

    fn statement(&self, name: &[u8]) -> Result<&Option<Command>, Refusal> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Refusal::plain("26000", format!("prepared statement \"{name}\" does not exist"))
        })
    }
}

fn columns_of(command: Option<&Command>) -> Option<&'static [crate::admin::table::Column]> {
    match command {
        Some(Command::Show(show)) => show.columns(),
        _ => None,
    }
}

fn no_portal(name: &[u8]) -> Refusal {
    Refusal::plain("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

fn malformed(error: dbproto::message::MessageError) -> Refusal {
    Refusal::plain("08P01", error.to_string())
}

fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| Refusal::plain("22021", "the command is not UTF-8".to_owned()))
}

fn refuse(out: &mut BytesMut, refusal: &Refusal) {
    let Refusal { sqlstate, message, detail, hint } = refusal;
    let severity = Severity::Error;
    write_error(out, &ErrorReport { severity, sqlstate, message, detail: detail.as_deref(), hint: *hint });
}

fn notice_all(out: &mut BytesMut, notices: &[String]) {
    for message in notices {
        let report = ErrorReport { severity: Severity::Notice, sqlstate: "00000", message, detail: None, hint: None };
        write_notice(out, &report);
    }
}
