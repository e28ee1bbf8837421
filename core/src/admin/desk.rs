//! The desk: the thread that carries out what consoles ask.
//!
//! It alone knows the whole process. It may wait for shards, which answer within a turn of their loop, but not for anything
//! that takes longer: what has to become true first (`PAUSE`, `WAIT_CLOSE`, ...) is noted and looked at every few
//! milliseconds, so that another console can look on or end it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::Config;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use runtime::{ShardHandle, ShardId};

use crate::admin::command::{Command, Scope, Show, Shutdown};
use crate::admin::ending::Ending;
use crate::admin::pinned::{PinLog, PinReport};
use crate::admin::show::{Facts, Figures};
use crate::admin::survey::{ClientRow, Count, ServerRow};
use crate::admin::{Answer, Cut, Levers, Order, Petition, Presence, Refusal, State, Withdrawal};
use crate::log::Dial;
use crate::session::SessionId;
use crate::shard::{Board, Message};
use crate::systemd::Herald;

/// How long a shard may take to answer.
const SHARD_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks at what is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Averages are of the time since the beginning of the last whole period.
pub(crate) const STATS_PERIOD: Duration = Duration::from_secs(60);

/// See the module documentation.
pub(crate) struct Desk {
    pub(super) shards: Vec<ShardHandle<Message>>,
    pub(super) board: Arc<Board>,
    pub(super) config: Arc<Config>,
    /// Where the configuration is read from.
    pub(super) file: PathBuf,
    pub(super) log: Dial,
    /// Tells systemd what we do.
    pub(super) herald: Arc<Herald>,
    /// Where clients come, for people.
    pub(super) places: String,
    pub(super) ending: Ending,
    pin_log: PinLog,
    pub(super) levers: Levers,
    generation: u64,
    pub(super) waits: Vec<Wait>,
    /// Permits that are still to be taken from pools that have become smaller.
    cuts: Vec<Cut>,
    /// When it looks next at what is waited for.
    look_at: Instant,
    /// What had been counted when the last whole period began, and when the present one did.
    samples: (Sample, Sample),
    commands: u64,
}

/// Figures of all databases at a moment.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) figures: Figures,
}

/// Something that has to become true.
pub(super) struct Wait {
    pub(super) what: Goal,
    /// Who is told then; none where the process ends.
    pub(super) petitioner: Option<(ShardId, SessionId)>,
    pub(super) tag: &'static str,
    /// A look found it true already; a connection may have been between two shards just then.
    pub(super) seen: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Not,
    Once,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// These databases have no server connection.
    Released(Scope),
    /// They have none that is to be closed.
    Fresh(Scope),
    /// No request is under way.
    Quiet,
    /// No client is there but consoles.
    Alone,
}

impl Goal {
    /// What has to become true before a command is answered.
    fn of(command: &Command) -> Option<Self> {
        if let Command::Pause(scope) = command {
            Some(Self::Released(scope.clone()))
        } else if let Command::WaitClose(scope) = command {
            Some(Self::Fresh(scope.clone()))
        } else {
            (*command == Command::Suspend).then_some(Self::Quiet)
        }
    }

    fn is_reached(&self, counts: &[Count]) -> bool {
        let pools = || counts.iter().flat_map(|count| &count.pools);
        match self {
            Self::Released(scope) => pools()
                .filter(|pool| scope.holds(&pool.stats.database))
                .all(|pool| pool.open + pool.catalog_readers == 0),
            Self::Fresh(scope) => pools().filter(|pool| scope.holds(&pool.stats.database)).all(|pool| pool.stale == 0),
            Self::Quiet => counts.iter().all(|count| count.unsent + count.owing == 0),
            Self::Alone => counts.iter().all(|count| count.shard.clients == count.consoles),
        }
    }
}

impl Desk {
    pub(crate) fn new(shards: Vec<ShardHandle<Message>>, board: Arc<Board>, config: Arc<Config>) -> Self {
        let start = Sample { at: Instant::now(), figures: Figures::default() };
        Self {
            shards,
            board,
            config,
            file: PathBuf::new(),
            log: Box::new(|_| {}),
            herald: Arc::default(),
            places: String::new(),
            ending: Ending::Not,
            pin_log: PinLog::default(),
            levers: Levers::default(),
            // pools begin with this one
            generation: 1,
            waits: Vec::new(),
            cuts: Vec::new(),
            look_at: start.at,
            samples: (start.clone(), start),
            commands: 0,
        }
    }

    /// Where the configuration is read from anew, how the log is changed, and who is told where clients come.
    pub(crate) fn with(mut self, file: PathBuf, log: Dial, (herald, places): (Arc<Herald>, String)) -> Self {
        self.file = file;
        self.log = log;
        self.herald = herald;
        self.places = places;
        self
    }

    /// Carries out petitions for as long as the process lives.
    pub(crate) fn run(mut self, petitions: &Receiver<Petition>) {
        loop {
            let sample_at = self.samples.1.at + STATS_PERIOD;
            let until = if self.waits.is_empty() && self.cuts.is_empty() { sample_at } else { self.look_at };
            match petitions.recv_deadline(until) {
                Ok(petition) => self.on_petition(petition),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            if now >= sample_at {
                let figures = self.figures();
                self.samples.0 = std::mem::replace(&mut self.samples.1, Sample { at: now, figures });
                self.pin_log.take_due(now).iter().for_each(PinReport::log);
            }
            if now >= self.look_at && !(self.waits.is_empty() && self.cuts.is_empty()) {
                self.look_at = now + LOOK_PAUSE;
                self.look();
            }
        }
    }

    fn on_petition(&mut self, petition: Petition) {
        match petition {
            Petition::Ask { shard, session, command } => {
                self.commands += 1;
                if let Some(answer) = self.carry_out((shard, session), &command) {
                    self.answer((shard, session), answer);
                }
                if command == Command::Shutdown(Shutdown::Now) {
                    self.stop_at_once();
                }
            }
            Petition::Withdraw { shard, session, why } => {
                let before = self.waits.len();
                self.waits.retain(|wait| wait.petitioner != Some((shard, session)));
                if why == Withdrawal::Cancelled && self.waits.len() < before {
                    let message = "canceling statement due to user request".to_owned();
                    self.answer((shard, session), Answer::Refused(Refusal::plain("57014", message)));
                }
            }
            Petition::Reload => match self.reload() {
                Ok(notices) => tracing::info!("reloaded: {}", notices.join("; ")),
                Err(refusal) => tracing::error!(
                    "not reloaded: {}: {}",
                    refusal.message,
                    refusal.detail.unwrap_or_default().replace('\n', "; ")
                ),
            },
            Petition::Pause => {
                let outcome = self.pause(&Scope::All);
                tracing::info!(?outcome, "PAUSE by signal");
                outcome.iter().for_each(|()| self.board.events.tell("pause", "by signal"));
            }
            Petition::Resume => {
                let outcome = self.resume(&Scope::All);
                tracing::info!(?outcome, "RESUME by signal");
                outcome.iter().for_each(|_| self.board.events.tell("resume", "by signal"));
            }
            Petition::Stop(how) => self.on_stop(how),
            Petition::Pinned(report) => {
                if let Some(report) = self.pin_log.add(report, Instant::now()) {
                    report.log();
                }
            }
        }
    }

    /// Gives the answer, unless it comes later.
    fn carry_out(&mut self, from: (ShardId, SessionId), command: &Command) -> Option<Answer> {
        if !matches!(command, Command::Show(_)) {
            tracing::info!(?command, "asked on the console");
        }
        let done = match command {
            Command::Show(show) => return Some(Answer::Table(self.show(*show))),
            Command::Set { key, value } => self.set(key, value),
            Command::Reload => self.reload(),
            Command::Pause(scope) => self.pause(scope).map(|()| Vec::new()),
            Command::Resume(scope) => self.resume(scope),
            Command::Disable(name) => self.check(name, "disable").map(|()| {
                self.levers.disabled.insert(name.clone());
                self.set_levers()
            }),
            Command::Enable(name) => self.check(name, "enable").map(|()| {
                self.levers.disabled.remove(name);
                self.set_levers()
            }),
            Command::Reconnect(scope) => self.check_scope(scope, "reconnect").map(|()| {
                let generation = self.next_generation();
                self.tell_all(|| Order::Reconnect { scope: scope.clone(), generation });
                Vec::new()
            }),
            Command::Kill(scope) => self.kill(scope),
            Command::KillClient(id) => self.kill_client(*id),
            Command::WaitClose(scope) => self.check_scope(scope, "wait for").map(|()| Vec::new()),
            Command::Suspend => self.suspend(),
            Command::Shutdown(how) => {
                self.shutdown(*how);
                Ok(Vec::new())
            }
            // these are the console's own
            Command::Block(_) | Command::Deallocate(_) => Ok(Vec::new()),
        };
        let goal = Goal::of(command);
        let tag = command.tag();
        if let (Ok(_), Some(subject)) = (&done, command.subject()) {
            self.board.events.tell(&tag.to_ascii_lowercase(), &subject);
        }
        match (done, goal) {
            (Err(refusal), _) => Some(Answer::Refused(refusal)),
            (Ok(notices), None) => Some(Answer::Done { tag, notices }),
            (Ok(_), Some(what)) => {
                self.waits.push(Wait { what, petitioner: Some(from), tag, seen: Seen::Not });
                None
            }
        }
    }

    fn answer(&self, (shard, session): (ShardId, SessionId), answer: Answer) {
        self.tell(shard, Order::Answer { session, answer });
    }

    fn tell(&self, shard: ShardId, order: Order) {
        if let Some(handle) = self.shards.get(usize::from(shard.0)) {
            handle.post(Message::Admin(Box::new(order)));
        }
    }

    pub(super) fn tell_all(&self, order: impl Fn() -> Order) {
        for handle in &self.shards {
            handle.post(Message::Admin(Box::new(order())));
        }
    }

    /// Asks all shards; those that do not answer in time are not waited for.
    pub(super) fn ask_all<T>(&self, order: impl Fn(Sender<T>) -> Order) -> Vec<T> {
        let (sender, replies) = unbounded();
        self.tell_all(|| order(sender.clone()));
        drop(sender);
        let until = Instant::now() + SHARD_MAX;
        let mut out = Vec::new();
        while let Ok(reply) = replies.recv_deadline(until) {
            out.push(reply);
        }
        out
    }

    fn ask<T>(&self, shard: ShardId, order: impl FnOnce(Sender<T>) -> Order) -> Option<T> {
        let (sender, reply) = unbounded();
        self.tell(shard, order(sender));
        reply.recv_timeout(SHARD_MAX).ok()
    }

    pub(super) fn set_levers(&self) -> Vec<String> {
        let levers = Arc::new(self.levers.clone());
        self.tell_all(|| Order::Levers(Arc::clone(&levers)));
        Vec::new()
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn check_scope(&self, scope: &Scope, verb: &str) -> Result<(), Refusal> {
        match scope {
            Scope::All => Ok(()),
            Scope::Database(name) => self.check(name, verb),
        }
    }

    /// Whether a command may mean this database.
    fn check(&self, name: &str, verb: &str) -> Result<(), Refusal> {
        if config::CONSOLE_DATABASES.contains(&name) {
            Err(Refusal::plain("55000", format!("cannot {verb} admin db: {name}")))
        } else if self.config.database(name).is_none() {
            Err(Refusal::plain("3D000", format!("no such database: {name}")))
        } else {
            Ok(())
        }
    }

    fn pause(&mut self, scope: &Scope) -> Result<(), Refusal> {
        self.check_scope(scope, "pause")?;
        let new = match scope {
            _ if self.levers.state != State::Active => false,
            Scope::All => {
                self.levers.state = State::Paused;
                true
            }
            Scope::Database(name) => self.levers.paused.insert(name.clone()),
        };
        if !new {
            return Err(Refusal::plain("55000", "already suspended/paused".to_owned()));
        }
        self.set_levers();
        Ok(())
    }

    fn resume(&mut self, scope: &Scope) -> Result<Vec<String>, Refusal> {
        self.check_scope(scope, "resume")?;
        let held = match scope {
            Scope::All => {
                let held = self.levers.state != State::Active || !self.levers.paused.is_empty();
                self.levers.state = State::Active;
                self.levers.paused.clear();
                held
            }
            Scope::Database(name) => self.levers.paused.remove(name),
        };
        if !held {
            let message = match scope {
                Scope::All => "pooler is not paused/suspended".to_owned(),
                Scope::Database(name) => format!("database {name} is not paused"),
            };
            return Err(Refusal::plain("55000", message));
        }
        self.set_levers();
        // whoever still waits for the pause waits in vain
        let (ended, going): (Vec<Wait>, Vec<Wait>) =
            std::mem::take(&mut self.waits).into_iter().partition(|wait| wait.ends_by_resuming(scope));
        self.waits = going;
        for petitioner in ended.iter().filter_map(|wait| wait.petitioner) {
            let message = "ended by RESUME".to_owned();
            self.answer(petitioner, Answer::Refused(Refusal::plain("57014", message)));
        }
        Ok(Vec::new())
    }

    fn suspend(&mut self) -> Result<Vec<String>, Refusal> {
        if self.levers.state != State::Active {
            return Err(Refusal::plain("55000", "already suspended/paused".to_owned()));
        }
        self.levers.state = State::Suspended;
        Ok(self.set_levers())
    }

    fn kill(&mut self, scope: &Scope) -> Result<Vec<String>, Refusal> {
        self.check_scope(scope, "kill")?;
        match scope {
            Scope::All => self.levers.state = State::Paused,
            Scope::Database(name) => {
                self.levers.paused.insert(name.clone());
            }
        }
        self.set_levers();
        self.tell_all(|| Order::Kill(scope.clone()));
        Ok(Vec::new())
    }

    fn kill_client(&self, id: u32) -> Result<Vec<String>, Refusal> {
        let found = self.ask_all(|reply| Order::KillClient { id, reply });
        if found.contains(&Presence::Here) {
            Ok(Vec::new())
        } else {
            Err(Refusal::plain("42704", format!("client not found: {id}")))
        }
    }

    pub(super) fn count(&self) -> Vec<Count> {
        let mut counts = self.ask_all(Order::Count);
        counts.sort_by_key(|count| count.shard.shard);
        counts
    }

    /// All connections of all shards.
    fn survey(&self) -> (Vec<ClientRow>, Vec<ServerRow>) {
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for index in 0..self.shards.len() {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let mut next = Some(0);
            while let Some(from) = next {
                let Some(page) = self.ask(shard, |reply| Order::Survey { from, reply }) else { break };
                clients.extend(page.clients);
                servers.extend(page.servers);
                next = page.next;
            }
        }
        (clients, servers)
    }

    fn figures(&self) -> Figures {
        Figures::of(&self.count(), self.commands)
    }

    fn show(&self, show: Show) -> crate::admin::table::Table {
        let (clients, servers) = if show.needs_connections() { self.survey() } else { Default::default() };
        let by_statement = show == Show::Statements;
        let statements = if by_statement { self.ask_all(Order::Statements).concat() } else { Vec::new() };
        let facts = Facts {
            config: &self.config,
            hosts: self.board.directory.rows(),
            levers: &self.levers,
            counts: self.count(),
            clients,
            servers,
            statements,
            before: &self.samples.0,
            commands: self.commands,
        };
        facts.table(show)
    }

    /// Looks at what is waited for, and goes on with what takes time.
    fn look(&mut self) {
        if !self.cuts.is_empty() {
            self.take_permits();
        }
        if self.waits.is_empty() {
            return;
        }
        let counts = self.count();
        // a shard that does not answer may hold anything
        let whole = counts.len() == self.shards.len();
        let mut going = Vec::new();
        for mut wait in std::mem::take(&mut self.waits) {
            match (whole && wait.what.is_reached(&counts), wait.seen) {
                (false, _) => {
                    wait.seen = Seen::Not;
                    going.push(wait);
                }
                (true, Seen::Not) => {
                    wait.seen = Seen::Once;
                    going.push(wait);
                }
                (true, Seen::Once) => match wait.petitioner {
                    Some(petitioner) => {
                        self.answer(petitioner, Answer::Done { tag: wait.tag, notices: Vec::new() });
                    }
                    None => self.stop_at_once(),
                },
            }
        }
        self.waits = going;
    }

    /// Shards take a new configuration; pools that have become smaller are noted.
    pub(super) fn hand_out(&mut self, config: Config) {
        self.config = Arc::new(config);
        self.board.adopt(&self.config);
        let (config, generation) = (Arc::clone(&self.config), self.next_generation());
        let cuts = self.ask_all(|reply| Order::Adopt { config: Arc::clone(&config), generation, reply });
        self.cuts.extend(cuts.into_iter().flatten());
        self.take_permits();
    }

    /// Permits are taken from the shard that has them too many, or from whoever has borrowed them.
    fn take_permits(&mut self) {
        let mut left = Vec::new();
        for cut in std::mem::take(&mut self.cuts) {
            let Cut { shard, key, mut count } = cut;
            let others = (0..self.shards.len()).map(|index| ShardId(u16::try_from(index).unwrap_or(u16::MAX)));
            for from in std::iter::once(shard).chain(others) {
                if count > 0 {
                    let taken = self.ask(from, |reply| Order::TakePermits { key: key.clone(), count, reply });
                    count = count.saturating_sub(taken.unwrap_or_default());
                }
            }
            if count > 0 {
                // they are between two shards
                left.push(Cut { shard, key, count });
            }
        }
        self.cuts = left;
    }
}

impl Wait {
    /// Whether RESUME ends it.
    fn ends_by_resuming(&self, scope: &Scope) -> bool {
        match (&self.what, scope) {
            (Goal::Released(_) | Goal::Quiet, Scope::All) => true,
            (Goal::Released(what), one) => what == one,
            (Goal::Fresh(_) | Goal::Quiet | Goal::Alone, _) => false,
        }
    }
}
