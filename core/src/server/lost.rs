//! What becomes of a promise when the message it stood for was refused or passed over.

use dbproto::pipeline::Owed;

use crate::pipe::{Mark, Question, Server, ServerUnnamed};
use crate::session::{Barrier, Session, Unnamed};

/// What an item had promised did not happen.
pub(crate) fn lose(server: &mut Server, session: Option<&mut Session>, owed: Owed) {
    let mark = Mark::of(owed);
    match mark {
        Mark::ClientParse(id) | Mark::OwnParse(id) => server.prepared.on_parse_lost(id),
        Mark::Evict(id) => server.prepared.on_evict_lost(id),
        Mark::OwnUnnamed | Mark::UnnamedParse => server.unnamed = ServerUnnamed::Unknown,
        Mark::Shape(_) if server.question == Question::Asked => server.question = Question::Answered,
        Mark::None
        | Mark::SyntheticParse(_)
        | Mark::SyntheticClose
        | Mark::Clean
        | Mark::Dress
        | Mark::Probe
        | Mark::Luggage
        | Mark::Sequences
        | Mark::Restore
        | Mark::Shape(_)
        | Mark::Told(_)
        | Mark::Proof(_)
        | Mark::Changed => {}
    }
    let Some(session) = session else { return };
    match mark {
        Mark::ClientParse(_) | Mark::SyntheticParse(_) | Mark::SyntheticClose => {
            if let Some(change) = session.changes.pop_front() {
                change.undo(&mut session.statements);
            }
        }
        Mark::UnnamedParse => session.unnamed = Unnamed::Absent,
        Mark::Shape(_) if session.barrier == Barrier::UntilKnown => session.barrier = Barrier::Open,
        Mark::Shape(_)
        | Mark::Told(_)
        | Mark::Proof(_)
        | Mark::Changed
        | Mark::Luggage
        | Mark::Sequences
        | Mark::Restore
        | Mark::None
        | Mark::OwnParse(_)
        | Mark::OwnUnnamed
        | Mark::Clean
        | Mark::Dress
        | Mark::Probe
        | Mark::Evict(_) => {}
    }
}
