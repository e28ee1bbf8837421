//! Messages that are passed on while they arrive.

use std::rc::Rc;

use bytes::BytesMut;
use dbproto::frame::{self, FrameHead, HEAD_LEN};
use dbproto::message::MessageError;
use dbproto::message::frontend::{Bind, tag};
use dbproto::pipeline::{Expect, Owed};

use super::{Writer, Written};
use crate::session::hazard::foreign;

/// Longest names at the front of a Bind.
const NAMES_LEN_MAX: usize = 8 * 1024;

impl Writer<'_> {
    /// Begins to pass on a message that is not there whole.
    pub(super) fn stream(&mut self, out: &mut BytesMut, head: FrameHead, input: &mut BytesMut) -> Written {
        self.session.stream_left = head.len - input.len();
        out.extend_from_slice(&input.split());
        Written::Done
    }

    /// A Bind that is passed on while it arrives: only its names must be there.
    pub(super) fn long_bind(
        &mut self,
        out: &mut BytesMut,
        head: FrameHead,
        input: &mut BytesMut,
    ) -> Result<Written, MessageError> {
        self.begin_group();
        let there = input.split();
        let body = there.get(HEAD_LEN..).unwrap_or_default();
        let Ok(bind) = Bind::read(body) else {
            if body.len() > NAMES_LEN_MAX {
                return Err(MessageError::Malformed);
            }
            *input = there;
            return Ok(Written::Wait);
        };
        let name: Vec<u8> = if bind.statement.is_empty() {
            self.restore_unnamed(out)?;
            self.soil_of_unnamed();
            Vec::new()
        } else if let Some(statement) = self.session.statements.get(bind.statement).map(Rc::clone) {
            let statement = self.prepare(out, &statement)?;
            self.soil_of(&statement);
            statement.name().as_bytes().to_vec()
        } else {
            foreign(bind.statement)
        };
        let len = (head.len + name.len()).saturating_sub(bind.statement.len()).saturating_sub(1);
        let word = u32::try_from(len).ok().filter(|len| *len <= frame::LEN_MAX).ok_or(MessageError::TooLong)?;
        out.extend_from_slice(&[tag::BIND]);
        out.extend_from_slice(&word.to_be_bytes());
        for text in [bind.portal, &name] {
            out.extend_from_slice(text);
            out.extend_from_slice(&[0]);
        }
        out.extend_from_slice(bind.rest);
        self.push(Owed::client(Expect::Bind));
        self.session.stream_left = head.len - there.len();
        Ok(Written::Done)
    }
}
