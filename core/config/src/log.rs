//! What is logged, and how.

use crate::Timeout;

/// `[log]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// The least important messages that are logged. Default `info`.
    pub level: LogLevel,
    /// How a line looks. Default `text`.
    pub format: LogFormat,
    /// Whether each client's coming and going is told. Default `off`.
    pub connections: LogConnections,
    /// Statements that take at least so long are told. Default `off`.
    pub slow_statements: Timeout,
}

/// How important a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogLevel {
    /// A human must look.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What the process does.
    #[default]
    Info,
    /// What each connection does.
    Debug,
    /// What each message does.
    Trace,
}

impl LogLevel {
    /// As it is written in the file: `info`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// As it is written in the file: `text`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Whether the coming and going of clients is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogConnections {
    /// It is.
    On,
    /// It is not.
    #[default]
    Off,
}

impl LogConnections {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::On, Self::Off];

    /// As it is written in the file: `on`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}
