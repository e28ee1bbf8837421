//! What texts leave on the connection: what is known of them, and what their sessions have promised.

use config::{SequenceState, ServerClean};
use dbproto::sql::Backslash;

use super::Writer;
use crate::pipe::{Asked, Seed, Soil};
use crate::session::hazard::{
    chooses_seed, declares_state, hazard, leaves_something, note_custom_settings, only_looks_at_sequences,
};
use crate::session::{Left, Pin};
use crate::statement::Statement;
use crate::verdict::judge;

/// Why a session keeps the connection that has its sequence values.
pub(crate) const SEQUENCES: &str = "sequence values";

/// What is promised of a pool's sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Promise {
    pub(super) clean: ServerClean,
    pub(super) sequences: SequenceState,
}

impl Promise {
    /// What something leaves that is found to leave `found`; `text` is what it says, where that is known.
    fn keep(self, found: Soil, text: Option<&[u8]>) -> Soil {
        match (self.clean, found, text) {
            (ServerClean::Strict, ..) | (ServerClean::Declared, Soil::Clean | Soil::Sequences, _) => found,
            (ServerClean::Declared, Soil::Unknown, Some(text)) if !declares_state(text) => Soil::Clean,
            (ServerClean::Declared, Soil::Unknown, _) => found,
            (ServerClean::Never, ..) => Soil::Clean,
        }
    }
}

impl Writer<'_> {
    /// What running this text leaves on the connection.
    pub(super) fn soil(&mut self, text: &[u8]) {
        let soil = self.catalog.map_or(Soil::Unknown, |catalog| judge(text, Backslash::Literal, catalog).soil);
        self.note_soil_of(soil, Some(text));
        self.note_hazards(text, soil);
    }

    /// The same for what cannot be read.
    pub(super) fn soil_unseen(&mut self) {
        self.note_soil_of(Soil::Unknown, None);
    }

    /// What running this statement leaves on the connection, of which it is known already what it says.
    pub(super) fn soil_of_judged(&mut self, statement: &Statement) {
        let soil = self.catalog.map_or(Soil::Unknown, |catalog| statement.verdict(catalog).soil);
        self.note_soil_of(soil, Some(&statement.source.text));
        self.note_hazards(&statement.source.text, soil);
    }

    fn note_soil_of(&mut self, found: Soil, text: Option<&[u8]>) {
        self.server.soil = self.server.soil.max(self.promise.keep(found, text));
        if found == Soil::Unknown {
            self.server.asked = Asked::NotSince;
            self.server.soiled += 1;
        }
        let uses = found == Soil::Sequences && !text.is_some_and(only_looks_at_sequences);
        if uses && self.promise.sequences == SequenceState::Pin {
            self.pin(Pin::Because(SEQUENCES), SEQUENCES);
        }
    }

    /// The session keeps its connection.
    fn pin(&mut self, pin: Pin, reason: &'static str) {
        if self.session.pin == Pin::No {
            self.pinned = Some(reason);
            self.session.pin = pin;
        }
    }

    /// Text that may leave state behind which nobody can ask for: the session keeps its connection.
    fn note_hazards(&mut self, text: &[u8], soil: Soil) {
        if soil != Soil::Unknown {
            return;
        }
        let seed = chooses_seed(text).then_some("random seed");
        if seed.is_some() {
            self.server.seed = Seed::Chosen;
        }
        note_custom_settings(&mut self.session.custom, text);
        if leaves_something(text) {
            self.session.left = Left::Likely;
        }
        if let Some(hazard) = seed.or_else(|| hazard(text)) {
            self.pin(Pin::Because(hazard), hazard);
            self.session.pin = Pin::Because(hazard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_no_more_than_what_was_promised() {
        let kept = |clean, found, text: Option<&str>| {
            Promise { clean, sequences: SequenceState::Shared }.keep(found, text.map(str::as_bytes))
        };
        for found in [Soil::Clean, Soil::Sequences, Soil::Unknown] {
            assert_eq!(kept(ServerClean::Strict, found, Some("select f()")), found);
            assert_eq!(kept(ServerClean::Never, found, Some("set work_mem = 1")), Soil::Clean);
        }
        let declared = |text| kept(ServerClean::Declared, Soil::Unknown, text);
        assert_eq!(declared(Some("select f()")), Soil::Clean);
        assert_eq!(declared(Some("begin; set work_mem = 1")), Soil::Unknown);
        assert_eq!(declared(None), Soil::Unknown, "what is too long to be read is not promised");
        assert_eq!(kept(ServerClean::Declared, Soil::Sequences, Some("select nextval('s')")), Soil::Sequences);
    }
}
