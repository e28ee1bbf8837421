//! What the items of a connection's pipeline stand for in our own bookkeeping.

use dbproto::pipeline::Owed;

use crate::statement::StatementId;
use crate::tally::Tag;

/// The bits of a mark that hold a statement's number.
pub(crate) const MARK_ID_MASK: u32 = (1 << 28) - 1;

/// What a pipeline item stands for in our own bookkeeping; travels as [`Owed::mark`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// Nothing to note.
    None,
    /// A client's named Parse, renamed.
    ClientParse(StatementId),
    /// A Parse of ours before a client's Bind.
    OwnParse(StatementId),
    /// A client's Parse that the connection had already: ParseComplete is ours to write, or asked for by another name.
    SyntheticParse(StatementId),
    /// A client's Close of a statement: CloseComplete is ours to write.
    SyntheticClose,
    /// A client's Parse of the unnamed statement.
    UnnamedParse,
    /// A client's Close of the unnamed statement.
    UnnamedClose,
    /// A Parse of ours that restores the unnamed statement.
    OwnUnnamed,
    /// Our cleaning of the connection.
    Clean,
    /// Our change of its settings.
    Dress,
    /// Our question what a session has left there.
    Probe,
    /// Our question whether there are sequence values.
    Sequences,
    /// Our Close of a statement for which there was no room.
    Evict(StatementId),
    /// A client's statement that runs; where it is counted.
    Counted(Tag),
    /// A client's RESET, with our words behind it that bring back what its session began with.
    Restore,
    /// The end of the settings that travel with a request.
    Luggage,
    /// Our question what a statement gives.
    Shape(StatementId),
    /// A client's Describe of a statement, or of a portal of it: it shows what the statement gives.
    Told(StatementId),
    /// A client's Bind by which Postgres judges whether what it was told still holds.
    Proof(StatementId),
    /// A message in the place of one whose statement does not give any more what its client was told.
    Changed,
}

impl Mark {
    pub(crate) const fn encode(self) -> u32 {
        match self {
            Self::None => 0,
            Self::ClientParse(id) => (1 << 28) | (id & MARK_ID_MASK),
            Self::OwnParse(id) => (2 << 28) | (id & MARK_ID_MASK),
            Self::SyntheticParse(id) => (3 << 28) | (id & MARK_ID_MASK),
            Self::SyntheticClose => (15 << 28) | 3,
            Self::UnnamedParse => 5 << 28,
            Self::UnnamedClose => (15 << 28) | 4,
            Self::OwnUnnamed => 6 << 28,
            Self::Clean => 7 << 28,
            Self::Dress => 8 << 28,
            Self::Probe => 9 << 28,
            Self::Sequences => (15 << 28) | 1,
            Self::Evict(id) => (10 << 28) | (id & MARK_ID_MASK),
            Self::Restore => (15 << 28) | 2,
            Self::Luggage => 11 << 28,
            Self::Counted(tag) => (4 << 28) | tag.bits(),
            Self::Shape(id) => (12 << 28) | (id & MARK_ID_MASK),
            Self::Told(id) => (13 << 28) | (id & MARK_ID_MASK),
            Self::Proof(id) => (14 << 28) | (id & MARK_ID_MASK),
            Self::Changed => 15 << 28,
        }
    }

    /// Of a statement that runs.
    pub(crate) fn counted(tag: Tag) -> u32 {
        if tag == Tag::NONE { Self::None } else { Self::Counted(tag) }.encode()
    }

    /// Where what is owed is counted, if it is.
    pub(crate) const fn tag_of(owed: Owed) -> Tag {
        if let Self::Counted(tag) = Self::of(owed) { tag } else { Tag::NONE }
    }

    pub(crate) const fn of(owed: Owed) -> Self {
        let id = owed.mark & MARK_ID_MASK;
        match owed.mark >> 28 {
            1 => Self::ClientParse(id),
            2 => Self::OwnParse(id),
            3 => Self::SyntheticParse(id),
            4 => Self::Counted(Tag::of(id)),
            5 => Self::UnnamedParse,
            6 => Self::OwnUnnamed,
            7 => Self::Clean,
            8 => Self::Dress,
            9 => Self::Probe,
            10 => Self::Evict(id),
            11 => Self::Luggage,
            12 => Self::Shape(id),
            13 => Self::Told(id),
            14 => Self::Proof(id),
            15 if id == 1 => Self::Sequences,
            15 if id == 2 => Self::Restore,
            15 if id == 3 => Self::SyntheticClose,
            15 if id == 4 => Self::UnnamedClose,
            15 => Self::Changed,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbproto::pipeline::Expect;

    #[test]
    fn a_mark_comes_back_as_it_was() {
        for mark in [
            Mark::None,
            Mark::ClientParse(7),
            Mark::OwnParse(MARK_ID_MASK),
            Mark::SyntheticParse(1),
            Mark::SyntheticClose,
            Mark::UnnamedParse,
            Mark::UnnamedClose,
            Mark::OwnUnnamed,
            Mark::Clean,
            Mark::Dress,
            Mark::Probe,
            Mark::Evict(3),
            Mark::Restore,
            Mark::Luggage,
            Mark::Shape(4),
            Mark::Told(5),
            Mark::Proof(6),
            Mark::Changed,
            Mark::Sequences,
            Mark::Counted(Tag::of(9)),
        ] {
            assert_eq!(Mark::of(Owed::client(Expect::Parse).marked(mark.encode())), mark);
        }
    }
}
