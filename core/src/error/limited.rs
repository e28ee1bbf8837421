//! What clients are told when they reach a limit that was set.

use std::time::Duration;

use crate::deadline::Limit;
use crate::error::{Disposition, Parts, seconds};

/// A limit that a client has reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Limited {
    /// `max_client_connections` of a database or user.
    Clients { what: String, limit: u32 },
    /// So many wait already that this one is not let into the queue.
    Queue { pool: String, limit: u32 },
    /// A limit on time.
    Time { limit: Limit, after: Duration },
    /// `limits.memory`, and nobody's buffers are larger.
    Memory,
    /// So many bytes of notifications wait for a client that does not read them.
    Unread { bytes: usize },
    /// A request in statement mode has left a transaction open.
    StatementMode,
}

impl Limited {
    pub(super) fn parts(&self) -> Parts<'static> {
        match self {
            Self::Clients { what, limit } => (
                "53300",
                format!("too many connections for {what} (max_client_connections = {limit})"),
                None,
                Some("Raise max_client_connections or close idle clients."),
                Disposition::Close,
            ),
            Self::Queue { pool, limit } => (
                "53300",
                format!("too many requests wait for a server connection of pool {pool} already (queue_max = {limit})"),
                None,
                Some("The request was not begun; it may be repeated later."),
                Disposition::Keep,
            ),
            Self::Time { limit, after } => time_parts(*limit, *after),
            Self::Memory => (
                "53200",
                "terminating connection because memory for buffers is used up".to_owned(),
                Some("Nobody had more in buffers when limits.memory was reached.".to_owned()),
                None,
                Disposition::Close,
            ),
            Self::Unread { bytes } => (
                "53400",
                "terminating connection because its notifications are not read".to_owned(),
                Some(format!("More than {bytes} bytes of notifications wait for this client.")),
                Some("Read notifications as they come, or UNLISTEN."),
                Disposition::Close,
            ),
            Self::StatementMode => (
                "0A000",
                "transactions of several statements are not allowed in statement pooling mode".to_owned(),
                Some("The transaction was rolled back.".to_owned()),
                Some("Use pool.mode = \"transaction\", or send the whole transaction as one Query."),
                Disposition::Keep,
            ),
        }
    }
}

/// The words of a limit on time: PostgreSQL's own where it has the same limit.
fn time_parts(limit: Limit, after: Duration) -> Parts<'static> {
    let named = format!("{} is {}.", limit.key(), seconds(after));
    let (sqlstate, message, disposition) = match limit {
        Limit::Query => (
            "57014",
            format!("canceling statement: it took longer than query_timeout ({})", seconds(after)),
            Disposition::Keep,
        ),
        Limit::Transaction => {
            ("25P04", "terminating connection due to transaction timeout".to_owned(), Disposition::Close)
        }
        Limit::IdleTransaction => {
            ("25P03", "terminating connection due to idle-in-transaction timeout".to_owned(), Disposition::Close)
        }
        Limit::ClientIdle => {
            ("57P05", "terminating connection due to idle-session timeout".to_owned(), Disposition::Close)
        }
        Limit::ClientStall => {
            ("57P05", "terminating connection because its result is not read".to_owned(), Disposition::Close)
        }
    };
    (sqlstate, message, Some(named), None, disposition)
}
