//! Where a frame ends: tag byte, big-endian length that counts itself, body.
//!
//! Source: "Message Formats" of the protocol chapter. The start-up packet has no tag and is in [`crate::startup`].

use std::fmt;

/// The largest length word accepted: 1 GiB - 1, Postgres' own limit.
pub const LEN_MAX: u32 = 0x3fff_ffff;

/// Bytes of a tag and a length word.
pub const HEAD_LEN: usize = 5;

/// What the first five bytes of a frame say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// The message's type.
    pub tag: u8,
    /// Bytes of the whole frame on the wire, tag and length word included.
    pub len: usize,
}

/// A whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// The message's type.
    pub tag: u8,
    /// All of it, as on the wire.
    pub bytes: &'a [u8],
    /// What follows the length word.
    pub body: &'a [u8],
}

/// Why bytes are no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The length word is below 4, which it counts itself.
    LengthTooSmall {
        /// The frame's tag.
        tag: u8,
        /// The length word.
        len: u32,
    },
    /// The length word is above [`LEN_MAX`].
    LengthTooLarge {
        /// The frame's tag.
        tag: u8,
        /// The length word.
        len: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, len) = match self {
            Self::LengthTooSmall { tag, len } | Self::LengthTooLarge { tag, len } => (tag, len),
        };
        write!(f, "invalid length {len} of message '{}'", tag.escape_ascii())
    }
}

impl std::error::Error for FrameError {}

/// Reads a frame's head; `None` while fewer than five bytes are there.
///
/// # Errors
/// When the length word cannot be true.
pub fn head(bytes: &[u8]) -> Result<Option<FrameHead>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]);
    if len < 4 {
        return Err(FrameError::LengthTooSmall { tag, len });
    }
    if len > LEN_MAX {
        return Err(FrameError::LengthTooLarge { tag, len });
    }
    Ok(Some(FrameHead { tag, len: (len as usize).saturating_add(1) }))
}

/// The first whole frame and what follows it; `None` while it is incomplete.
///
/// # Errors
/// As [`head`].
pub fn split(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, FrameError> {
    let Some(head) = head(bytes)? else {
        return Ok(None);
    };
    let Some((frame, rest)) = bytes.split_at_checked(head.len) else {
        return Ok(None);
    };
    let body = frame.get(HEAD_LEN..).unwrap_or_default();
    Ok(Some((Frame { tag: head.tag, bytes: frame, body }, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_split_where_their_length_says() {
        let bytes = b"Q\0\0\0\x06x\0S\0\0\0\x04Z";
        let (query, rest) = split(bytes).unwrap().unwrap();
        assert_eq!((query.tag, query.body), (b'Q', &b"x\0"[..]));
        let (sync, rest) = split(rest).unwrap().unwrap();
        assert_eq!((sync.tag, sync.body), (b'S', &b""[..]));
        assert_eq!(split(rest), Ok(None));
    }

    #[test]
    fn f03_to_f07_lengths_that_cannot_be_true_are_refused() {
        for len in [3_u32, 0, u32::MAX, 0x8000_0000, 0x7fff_ffff, LEN_MAX + 1] {
            let mut bytes = vec![b'Q'];
            bytes.extend(len.to_be_bytes());
            assert!(split(&bytes).is_err(), "{len}");
        }
    }

    #[test]
    fn an_incomplete_frame_is_no_error() {
        let bytes = b"Q\0\0\0\x06x\0";
        for end in 0..bytes.len() {
            assert_eq!(split(&bytes[..end]), Ok(None));
        }
    }
}
