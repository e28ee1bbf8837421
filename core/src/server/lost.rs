//! What becomes of promises when a request fails before their turn.

use dbproto::pipeline::Owed;

use crate::pipe::{Mark, Server, ServerUnnamed};
use crate::session::{Session, Unnamed};

/// What an item had promised did not happen.
pub(crate) fn lose(server: &mut Server, session: Option<&mut Session>, owed: Owed) {
    let mark = Mark::of(owed);
    match mark {
        Mark::ClientParse(id) | Mark::OwnParse(id) => server.prepared.on_parse_lost(id),
        Mark::Evict(id) => server.prepared.on_evict_lost(id),
        Mark::OwnUnnamed | Mark::UnnamedParse => server.unnamed = ServerUnnamed::Unknown,
        Mark::None
        | Mark::SyntheticParse(_)
        | Mark::SyntheticClose
        | Mark::Clean
        | Mark::Dress
        | Mark::Probe
        | Mark::Sequences
        | Mark::Restore
        | Mark::Luggage => {}
    }
    let Some(session) = session else { return };
    match mark {
        Mark::ClientParse(_) | Mark::SyntheticParse(_) | Mark::SyntheticClose => {
            if let Some(change) = session.changes.pop_front() {
                change.undo(&mut session.statements);
            }
        }
        Mark::UnnamedParse => session.unnamed = Unnamed::Absent,
        Mark::None
        | Mark::OwnParse(_)
        | Mark::OwnUnnamed
        | Mark::Clean
        | Mark::Dress
        | Mark::Probe
        | Mark::Sequences
        | Mark::Luggage
        | Mark::Restore
        | Mark::Evict(_) => {}
    }
}
