//! Settings that travel with a request to a shared pipe that wears others.
//!
//! They begin in the request's own implicit transaction, as `SET LOCAL` does, and end with it, however it ends: nothing is left
//! for the next request, and nothing needs to be known of it. The connection itself goes on wearing what it wore.

use std::rc::Rc;

use bytes::BytesMut;
use dbproto::message::MessageError;
use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};

use super::Writer;
use crate::pipe::Mark;

impl Writer<'_> {
    /// Writes what must stand before a request of this session.
    pub(super) fn bring_along(&mut self, out: &mut BytesMut) -> Result<(), MessageError> {
        if self.session.dress.fingerprint() == self.server.dress.fingerprint() {
            return Ok(());
        }
        let (dress, worn) = (Rc::clone(&self.session.dress), Rc::clone(&self.server.dress));
        // whoever chose this pipe has asked the same
        let Some(settings) = dress.luggage(&worn) else { return Err(MessageError::Malformed) };
        let count = settings.clone().count();
        if count == 0 {
            return Ok(());
        }
        let statement = self.interner.setter(count);
        self.prepare_as_it_is(out, &statement)?;
        let mut values = Vec::with_capacity(256);
        // every parameter and result in text
        values.extend_from_slice(&[0, 0]);
        values.extend_from_slice(&u16::try_from(count * 2).unwrap_or_default().to_be_bytes());
        for text in settings.flat_map(|(name, value)| [name, value]) {
            values.extend_from_slice(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
            values.extend_from_slice(text.as_bytes());
        }
        values.extend_from_slice(&[0, 0]);
        frontend::write_bind(out, b"", statement.name().as_bytes(), &values)?;
        self.push(Owed::nobody(Expect::Bind));
        frontend::write_execute(out, b"", 0)?;
        self.push(Owed::nobody(Expect::Execute).marked(Mark::Luggage.encode()));
        self.prepared.settings += count as u64;
        Ok(())
    }
}
