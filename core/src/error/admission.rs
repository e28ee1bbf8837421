//! Why somebody is not let in, in PostgreSQL's words. None of them tells whether a user exists who has not been asked for a
//! proof, unless the rules ask nobody for one.

use super::Disposition;

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// No rule fits; who it is, as PostgreSQL describes it.
    NoRule { visitor: String },
    /// A rule turns it away.
    Rejected { visitor: String },
    /// There is no such user, and the rule asks for no proof.
    UnknownRole { user: String },
    /// The role has proved who it is and may not log in.
    NoLogin { user: String },
    /// The operating system knows the client under another name, or under none.
    PeerFailed { user: String },
    /// The client has no certificate that says who it is.
    CertificateFailed { user: String },
    /// Users cannot be looked up now.
    LookupFailed,
    /// Too many logins of this user from this address have failed.
    TooManyFailures { user: String },
}

impl Admission {
    /// As `Failure::parts`.
    pub(super) fn parts(&self) -> (&'static str, String, Option<String>, Option<&'static str>, Disposition) {
        let refused = |message: String| ("28000", message, None, None, Disposition::Close);
        match self {
            Self::NoRule { visitor } => refused(format!("no pg_hba.conf entry for {visitor}")),
            Self::Rejected { visitor } => refused(match visitor.strip_prefix("replication connection from ") {
                Some(who) => format!("pg_hba.conf rejects replication connection for {who}"),
                None => format!("pg_hba.conf rejects connection for {visitor}"),
            }),
            Self::UnknownRole { user } => refused(format!("role \"{user}\" does not exist")),
            Self::NoLogin { user } => refused(format!("role \"{user}\" is not permitted to log in")),
            Self::PeerFailed { user } => refused(format!("Peer authentication failed for user \"{user}\"")),
            Self::CertificateFailed { user } => {
                refused(format!("certificate authentication failed for user \"{user}\""))
            }
            Self::LookupFailed => ("08006", "users cannot be looked up now".to_owned(), None, None, Disposition::Close),
            Self::TooManyFailures { user } => {
                let message = format!("too many failed logins of user \"{user}\" from this address");
                ("53300", message, None, Some("Try again in a few seconds."), Disposition::Close)
            }
        }
    }
}
