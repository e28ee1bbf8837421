//! What goes wrong, and what that means for the client, the server connection and the operator.
//!
//! One enum of failures that a client can be told, one judge ([`Failure::report`]) that gives SQLSTATE, words and remedy.
//! Text for operators is logged where the failure is handled, once.

use std::fmt;
use std::time::Duration;

use bytes::BytesMut;
use dbproto::message::error::{ErrorReport, Severity, write_error};

mod admission;
mod limited;

pub(crate) use admission::Admission;
pub(crate) use limited::Limited;

/// What becomes of the session after it has been told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Disposition {
    /// An ERROR; the session goes on.
    Keep,
    /// A FATAL; the connection is closed behind it.
    Close,
}

/// A failure that a client is told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// `max_client_connections` reached.
    TooManyClients { limit: u32 },
    /// No database of that name is configured.
    UnknownDatabase { database: String },
    /// It is not let in.
    Admission(Admission),
    /// An administrator has disabled the database.
    DatabaseDisabled { database: String },
    /// The login did not finish in time.
    LoginTimeout { after: Duration },
    /// The peer broke the protocol.
    Protocol { what: String },
    /// A feature of the start-up packet that is not supported.
    Unsupported { what: String },
    /// A start-up packet that makes no sense.
    InvalidStartup { what: String },
    /// `replication` in a start-up packet is none of its values.
    InvalidReplication { value: String },
    /// A client came without TLS where it must have it.
    TlsRequired,
    /// No server connection became free in time.
    QueueTimeout { pool: String, limit: u32, waited: Duration },
    /// A limit that was set was reached.
    Limited(Limited),
    /// The client asked for its statement to be cancelled before it was sent to a server.
    Cancelled,
    /// No connection to Postgres can be made.
    UpstreamDown { address: String, last_error: String },
    /// Postgres refused our login; its own words are passed on to clients that wait to log in.
    UpstreamRefused { sqlstate: String, message: String },
    /// The server connection was lost and nothing of the request can have happened.
    ConnectionLost { address: String },
    /// The server connection was lost while the request was under way: nobody knows whether it happened.
    OutcomeUnknown { address: String },
    /// We are stopping.
    Shutdown,
    /// Something of ours refused to go on for this session.
    Internal { what: String },
}

/// SQLSTATE, message, detail, hint, and what becomes of the session.
type Parts<'a> = (&'a str, String, Option<String>, Option<&'static str>, Disposition);

impl Failure {
    fn parts(&self) -> Parts<'_> {
        use Disposition::{Close, Keep};
        match self {
            Self::TooManyClients { limit } => (
                "53300",
                format!("sorry, too many clients already (max_client_connections = {limit})"),
                None,
                Some("Raise limits.max_client_connections or close idle clients."),
                Close,
            ),
            Self::UnknownDatabase { database } => {
                ("3D000", format!("database \"{database}\" does not exist"), None, None, Close)
            }
            Self::Admission(why) => why.parts(),
            Self::DatabaseDisabled { database } => {
                ("55000", format!("database \"{database}\" is not currently accepting connections"), None, None, Close)
            }
            Self::LoginTimeout { after } => {
                ("08P01", format!("login did not finish within {}", seconds(*after)), None, None, Close)
            }
            Self::Protocol { what } => ("08P01", what.clone(), None, None, Close),
            Self::Unsupported { what } => ("0A000", what.clone(), None, None, Close),
            Self::InvalidStartup { what } => ("28000", what.clone(), None, None, Close),
            Self::InvalidReplication { value } => (
                "22023",
                format!("invalid value for parameter \"replication\": \"{value}\""),
                None,
                Some("Valid values are: \"false\", 0, \"true\", 1, \"database\"."),
                Close,
            ),
            Self::TlsRequired => (
                "28000",
                "connection requires TLS".into(),
                None,
                Some("Connect with TLS (sslmode=require or stronger)."),
                Close,
            ),
            Self::QueueTimeout { pool, limit, waited } => (
                "57014",
                format!(
                    "no server connection of pool {pool} became free within {} (pool size {limit})",
                    seconds(*waited)
                ),
                None,
                Some(
                    "All connections of the pool are held by transactions; raise pool.size or query_wait_timeout, or shorten the transactions.",
                ),
                Keep,
            ),
            Self::Limited(limited) => limited.parts(),
            Self::Cancelled => ("57014", "canceling statement due to user request".into(), None, None, Keep),
            Self::UpstreamDown { address, last_error } => {
                ("08006", format!("cannot connect to PostgreSQL at {address}: {last_error}"), None, None, Keep)
            }
            Self::UpstreamRefused { sqlstate, message } => (sqlstate, message.clone(), None, None, Close),
            Self::ConnectionLost { address } => {
                ("08006", format!("the connection to PostgreSQL at {address} was lost"), None, None, Keep)
            }
            Self::OutcomeUnknown { address } => (
                "08007",
                format!("the connection to PostgreSQL at {address} was lost while the request was under way"),
                Some("The request may or may not have taken effect; it was not repeated.".into()),
                None,
                Keep,
            ),
            Self::Shutdown => {
                ("57P01", "terminating connection due to administrator command".into(), None, None, Close)
            }
            Self::Internal { what } => ("XX000", what.clone(), None, None, Close),
        }
    }

    /// Its SQLSTATE.
    pub(crate) fn sqlstate(&self) -> &str {
        self.parts().0
    }

    /// What becomes of the session by itself (some callers close it all the same).
    pub(crate) fn disposition(&self) -> Disposition {
        self.parts().4
    }

    /// Writes the ErrorResponse; `FATAL` when the connection is closed behind it.
    pub(crate) fn write(&self, out: &mut BytesMut, disposition: Disposition) {
        let (sqlstate, message, detail, hint, _) = self.parts();
        let severity = match disposition {
            Disposition::Keep => Severity::Error,
            Disposition::Close => Severity::Fatal,
        };
        write_error(out, &ErrorReport { severity, sqlstate, message: &message, detail: detail.as_deref(), hint });
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sqlstate, message, ..) = self.parts();
        write!(f, "{sqlstate} {message}")
    }
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_pool_names_pool_limit_and_wait() {
        let failure = Failure::QueueTimeout { pool: "app/alice".into(), limit: 8, waited: Duration::from_millis(1500) };
        assert_eq!(
            failure.to_string(),
            "57014 no server connection of pool app/alice became free within 1500 ms (pool size 8)"
        );
        assert_eq!(failure.disposition(), Disposition::Keep);
    }
}
