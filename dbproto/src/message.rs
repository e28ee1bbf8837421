//! What messages mean: views over a frame's body, and writers. `frontend` holds what frontends send, `backend` what
//! backends send.
//!
//! Source: "Message Formats" of the protocol chapter.

use std::fmt;

use bytes::{BufMut as _, BytesMut};

pub mod backend;
pub mod error;
pub mod frontend;
pub mod result;

/// A body that does not have its message's layout, or a message too long to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageError {
    /// The body ends too early, or has bytes left over.
    Malformed,
    /// The message would be longer than [`crate::frame::LEN_MAX`].
    TooLong,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "invalid message format",
            Self::TooLong => "message is too long",
        })
    }
}

impl std::error::Error for MessageError {}

/// Splits off what stands before the next NUL.
pub(crate) fn cstr(bytes: &[u8]) -> Result<(&[u8], &[u8]), MessageError> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or(MessageError::Malformed)?;
    let text = bytes.get(..end).unwrap_or_default();
    let rest = bytes.get(end.saturating_add(1)..).unwrap_or_default();
    Ok((text, rest))
}

/// Appends a frame: its tag, its length, and what `body` writes.
///
/// # Errors
/// [`MessageError::TooLong`]; nothing is left in `out` then.
pub fn write_frame(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) -> Result<(), MessageError> {
    let start = out.len();
    out.put_u8(tag);
    out.put_u32(0);
    body(out);
    let len = out.len().saturating_sub(start).saturating_sub(1);
    let word = u32::try_from(len).ok().filter(|len| *len <= crate::frame::LEN_MAX);
    let (Some(len), Some([_, place @ ..])) =
        (word, out.get_mut(start..).and_then(|frame| frame.first_chunk_mut::<5>()))
    else {
        out.truncate(start);
        return Err(MessageError::TooLong);
    };
    *place = len.to_be_bytes();
    Ok(())
}

/// As [`write_frame`] for messages whose length is bounded by construction.
pub(crate) fn write_short(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    let written = write_frame(out, tag, body);
    debug_assert!(written.is_ok(), "a short message is never too long");
}

/// Appends text and its NUL; a NUL inside would end it early, so what follows one is cut off.
pub(crate) fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.put_u8(0);
}
