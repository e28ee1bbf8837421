//! The console: the database `optimacore` (or `pgbouncer`) that is none.
//!
//! Its sessions live on their shards like all others (`console`); a shard reads the request (`command`) and sends it to the
//! *desk* (`desk`), one thread of the control side that alone knows the whole process: it asks all shards for what they know
//! (`survey`) or tells them what to do (`order`), makes the answer (`show`) and sends it back. A shard waits for nobody, and
//! the data path knows of all this only that a pool may be paused.

pub(crate) mod column;
pub(crate) mod command;
pub(crate) mod console;
pub(crate) mod desk;
mod ending;
pub(crate) mod order;
pub(crate) mod pinned;
pub(crate) mod reload;
pub(crate) mod show;
pub(crate) mod survey;
pub(crate) mod table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use config::Config;
use crossbeam::channel::Sender;
use runtime::ShardId;
use stats::StatementStats;

use crate::admin::command::{Command, Scope};
use crate::admin::pinned::PinReport;
use crate::admin::survey::{Count, Page};
use crate::admin::table::Table;
use crate::pool::permit::PoolKey;
use crate::session::{Pin, SessionId};

/// The version of PgBouncer whose console this is like.
pub(crate) const CONSOLE_VERSION: &str = "1.25.0";

/// Who uses a console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// May do everything.
    Admin,
    /// May look.
    Stats,
}

impl Role {
    /// The role of a user; none for those who have no business here.
    pub(crate) fn of(config: &Config, user: &str) -> Option<Self> {
        let among = |list: &[String]| list.iter().any(|name| name == user);
        if among(&config.admin.admin_users) {
            Some(Self::Admin)
        } else {
            among(&config.admin.stats_users).then_some(Self::Stats)
        }
    }
}

/// Why a command is not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) sqlstate: &'static str,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
    pub(crate) hint: Option<&'static str>,
}

impl Refusal {
    /// One that points to the help.
    pub(crate) fn new(sqlstate: &'static str, message: String) -> Self {
        Self { sqlstate, message, detail: None, hint: Some("Use SHOW HELP.") }
    }

    pub(crate) fn syntax(message: String) -> Self {
        Self::new("42601", message)
    }

    /// One that needs no help.
    pub(crate) const fn plain(sqlstate: &'static str, message: String) -> Self {
        Self { sqlstate, message, detail: None, hint: None }
    }
}

/// The desk's answer to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Rows.
    Table(Table),
    /// It is done; what there is to know about it.
    Done { tag: &'static str, notices: Vec<String> },
    /// It is not.
    Refused(Refusal),
}

/// What shards and signals bring to the desk.
pub(crate) enum Petition {
    /// A console's command.
    Ask { shard: ShardId, session: SessionId, command: Command },
    /// The console does not wait any more.
    Withdraw { shard: ShardId, session: SessionId, why: Withdrawal },
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Pause,
    /// SIGUSR2.
    Resume,
    /// SIGTERM, SIGINT, SIGQUIT.
    Stop(Stop),
    /// Sessions of a shard have been pinned.
    Pinned(PinReport),
}

/// How a signal ends the process. While an end is under way already, any of them ends it at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// SIGTERM: transactions may finish for `limits.shutdown_timeout`.
    Drain,
    /// SIGINT: as `SHUTDOWN WAIT_FOR_SERVERS`.
    WaitForServers,
    /// SIGQUIT: as `SHUTDOWN`.
    Now,
}

/// Why a console does not wait any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Withdrawal {
    /// Its client has left.
    Gone,
    /// Its client asked for that, and is to be told.
    Cancelled,
}

/// What the desk tells a shard.
pub(crate) enum Order {
    /// Tell the figures.
    Count(Sender<Count>),
    /// Tell of the connections whose index is from here on, some at a time.
    Survey { from: u32, reply: Sender<Page> },
    /// Tell what is counted by statement.
    Statements(Sender<Vec<StatementStats>>),
    /// This is how the levers stand now.
    Levers(Arc<Levers>),
    /// Server connections made before this generation are closed as soon as they are free.
    Reconnect { scope: Scope, generation: u64 },
    /// End all clients and server connections at once.
    Kill(Scope),
    /// End this client, and tell whether it was here.
    KillClient { id: u32, reply: Sender<Presence> },
    /// Give up so many permits of a pool that has become smaller; tell how many were there.
    TakePermits { key: PoolKey, count: u32, reply: Sender<u32> },
    /// The configuration is this one from now on; connections made with other credentials are of an older generation.
    /// Permits that pools have too many then are told.
    Adopt { config: Arc<Config>, generation: u64, reply: Sender<Vec<Cut>> },
    /// Show that you go on.
    Beat(Sender<()>),
    /// Accept nobody any more.
    StopListening,
    /// End the clients that wait for a server connection.
    DismissWaiting,
    /// The answer for a console.
    Answer { session: SessionId, answer: Answer },
}

/// Permits of a pool that a shard has too many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    pub(crate) shard: ShardId,
    pub(crate) key: PoolKey,
    pub(crate) count: u32,
}

/// Whether something was there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Here,
    Absent,
}

/// The state of the whole process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    #[default]
    Active,
    /// No server connection is given out.
    Paused,
    /// No request is begun.
    Suspended,
}

/// How an administrator has set things.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Levers {
    pub(crate) state: State,
    /// Databases that are paused by name.
    pub(crate) paused: BTreeSet<String>,
    /// Databases that take no new clients.
    pub(crate) disabled: BTreeSet<String>,
}

impl Levers {
    /// Whether a database's server connections are not to be used.
    pub(crate) fn pauses(&self, database: &str) -> bool {
        self.state == State::Paused || self.paused.contains(database)
    }
}

/// What is noted of a connection only to be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// Its number in the whole process.
    pub(crate) id: u32,
    pub(crate) connected_at: Instant,
    pub(crate) requested_at: Instant,
    /// Since when it is pinned.
    pub(crate) pinned_since: Option<Instant>,
    /// Requests of its that PostgreSQL has answered.
    pub(crate) requests: u64,
    /// Bytes from it, and bytes of results to it.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Record {
    pub(crate) const fn new(id: u32, now: Instant) -> Self {
        Self { id, connected_at: now, requested_at: now, pinned_since: None, requests: 0, bytes_in: 0, bytes_out: 0 }
    }

    /// Between two requests of a session that has a server connection; gives the reason when a pin begins.
    pub(crate) fn note_pin(&mut self, pin: Pin, now: Instant) -> Option<&'static str> {
        match pin {
            Pin::No => {
                self.pinned_since = None;
                None
            }
            Pin::Because(reason) | Pin::Found(reason) => {
                self.pinned_since.replace(self.pinned_since.unwrap_or(now)).is_none().then_some(reason)
            }
        }
    }
}
