//! What sessions promise to leave on their server connections, and what is kept for them there.

/// What is made sure of before another session has a server connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerClean {
    /// What may have been left there is asked for, and cleaned.
    Strict,
    /// The same, but what a text does not say is promised not to be done.
    Declared,
    /// Sessions promise to leave nothing.
    Never,
}

impl ServerClean {
    pub(crate) const ALL: [Self; 3] = [Self::Strict, Self::Declared, Self::Never];

    /// As it is written in the file: `strict`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Declared => "declared",
            Self::Never => "never",
        }
    }
}

/// What becomes of a session's sequence values (`currval`, `lastval`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SequenceState {
    /// They are there as long as nobody else uses the connection.
    Shared,
    /// The session keeps the connection that has them.
    Pin,
}

impl SequenceState {
    pub(crate) const ALL: [Self; 2] = [Self::Shared, Self::Pin];

    /// As it is written in the file: `shared`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Pin => "pin",
        }
    }
}
