//! What becomes of a promise when the message it stood for was refused or passed over.

use dbproto::pipeline::Owed;

use crate::pipe::{Mark, Question, Server, ServerUnnamed};
use crate::session::{Barrier, Change, Session};

/// What items had promised did not happen.
pub(crate) fn lose(server: &mut Server, session: Option<&mut Session>, all: &[Owed]) {
    let mut promised = 0;
    let mut asked = false;
    for mark in all.iter().map(|owed| Mark::of(*owed)) {
        match mark {
            Mark::ClientParse(id) | Mark::OwnParse(id) => server.prepared.on_parse_lost(id),
            Mark::Evict(id) => server.prepared.on_evict_lost(id),
            Mark::OwnUnnamed | Mark::UnnamedParse | Mark::UnnamedClose => server.unnamed = ServerUnnamed::Unknown,
            Mark::Shape(_) if server.question == Question::Asked => server.question = Question::Answered,
            Mark::None
            | Mark::SyntheticParse(_)
            | Mark::SyntheticClose
            | Mark::Clean
            | Mark::Dress
            | Mark::Probe
            | Mark::Sequences
            | Mark::Restore
            | Mark::Luggage
            | Mark::Counted(_)
            | Mark::Shape(_)
            | Mark::Told(_)
            | Mark::Proof(_)
            | Mark::Changed => {}
        }
        promised += usize::from(matches!(
            mark,
            Mark::ClientParse(_)
                | Mark::SyntheticParse(_)
                | Mark::SyntheticClose
                | Mark::UnnamedParse
                | Mark::UnnamedClose
        ));
        asked |= matches!(mark, Mark::Shape(_));
    }
    let Some(session) = session else { return };
    let changes: Vec<Change> = session.changes.drain(..promised.min(session.changes.len())).collect();
    // a name that was taken away may be one that was made before
    changes.into_iter().rev().for_each(|change| change.undo(session));
    if asked && session.barrier == Barrier::UntilKnown {
        session.barrier = Barrier::Open;
    }
}
