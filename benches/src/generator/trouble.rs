//! What ends the program, as an exit code.

use std::fmt;

use crate::generator::scenario::ScenarioError;

/// Why it ends, where that is not just a failure (code 1).
#[derive(Debug)]
pub enum Trouble {
    /// What was asked for makes no sense.
    Usage(String),
    /// A scenario is wrong.
    Scenario(ScenarioError),
    /// There is no talking to the server.
    Unreachable {
        /// Where.
        target: String,
        /// Why.
        reason: String,
    },
    /// The server does not let us in.
    Refused {
        /// Where.
        target: String,
        /// Why.
        reason: String,
    },
    /// Somebody asked for the end.
    Interrupted,
}

impl Trouble {
    /// A server that is not there, or does not let us in: which of the two the class of the error tells.
    pub(crate) fn of_login(target: &str, class: &str, reason: &str) -> Self {
        let (target, reason) = (target.to_owned(), reason.to_owned());
        // 28: invalid authorization; ours: a proof that we cannot give
        match class {
            "28" | "login" => Self::Refused { target, reason },
            _ => Self::Unreachable { target, reason },
        }
    }

    /// The exit code of an error.
    pub fn exit_code(error: &anyhow::Error) -> u8 {
        match error.downcast_ref::<Self>() {
            Some(Self::Usage(_) | Self::Scenario(_)) => 2,
            Some(Self::Refused { .. }) => 4,
            Some(Self::Unreachable { .. }) => 5,
            Some(Self::Interrupted) => 130,
            None => 1,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Scenario(error) => error.fmt(f),
            Self::Unreachable { target, reason } => write!(f, "cannot reach {target}: {reason}"),
            Self::Refused { target, reason } => write!(f, "{target} does not let us in: {reason}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Trouble {}
