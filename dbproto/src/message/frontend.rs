//! Messages sent by frontends.

use bytes::{BufMut as _, BytesMut};

use super::{MessageError, cstr, put_cstr, write_frame, write_short};

/// Tags of frontend messages.
pub mod tag {
    #![expect(missing_docs, reason = "each is the tag of the message it is named after")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse.
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// What a Describe or Close names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// Parse: prepares a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parse<'a> {
    /// The statement's name; empty is the unnamed one.
    pub name: &'a [u8],
    /// SQL text.
    pub query: &'a [u8],
    /// The parameter types as sent: a 16-bit count and that many 32-bit OIDs.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(body: &'a [u8]) -> Result<Self, MessageError> {
        let (name, rest) = cstr(body)?;
        let (query, types) = cstr(rest)?;
        let (count, oids) = types.split_first_chunk::<2>().ok_or(MessageError::Malformed)?;
        if usize::from(u16::from_be_bytes(*count)).checked_mul(4) != Some(oids.len()) {
            return Err(MessageError::Malformed);
        }
        Ok(Self { name, query, types })
    }
}

/// Bind: makes a portal of a statement and parameter values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bind<'a> {
    /// The portal's name; empty is the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// Formats and values as sent; judged by Postgres.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads a body, or the beginning of one that is too long to be held: the names must be there.
    ///
    /// # Errors
    /// When a name has no end.
    pub fn read(body: &'a [u8]) -> Result<Self, MessageError> {
        let (portal, rest) = cstr(body)?;
        let (statement, rest) = cstr(rest)?;
        Ok(Self { portal, statement, rest })
    }

    /// How many formats it names for the columns of the result: none is text for all, one is that one for all.
    ///
    /// # Errors
    /// When it is not there whole.
    pub fn result_format_count(&self) -> Result<u16, MessageError> {
        let (formats, rest) = count(self.rest)?;
        let rest = rest.get(usize::from(formats).saturating_mul(2)..).ok_or(MessageError::Malformed)?;
        let (values, mut rest) = count(rest)?;
        for _ in 0..values {
            let (len, after) = rest.split_first_chunk::<4>().ok_or(MessageError::Malformed)?;
            // NULL has a length below zero, and no bytes
            let len = usize::try_from(i32::from_be_bytes(*len)).unwrap_or_default();
            rest = after.get(len..).ok_or(MessageError::Malformed)?;
        }
        Ok(count(rest)?.0)
    }
}

fn count(bytes: &[u8]) -> Result<(u16, &[u8]), MessageError> {
    let (count, rest) = bytes.split_first_chunk::<2>().ok_or(MessageError::Malformed)?;
    Ok((u16::from_be_bytes(*count), rest))
}

/// Describe or Close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named<'a> {
    /// What it names.
    pub target: Target,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> Named<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(body: &'a [u8]) -> Result<Self, MessageError> {
        let (kind, rest) = body.split_first().ok_or(MessageError::Malformed)?;
        let target = match kind {
            b'S' => Target::Statement,
            b'P' => Target::Portal,
            _ => return Err(MessageError::Malformed),
        };
        match cstr(rest)? {
            (name, []) => Ok(Self { target, name }),
            _ => Err(MessageError::Malformed),
        }
    }
}

/// The text of a simple Query.
///
/// # Errors
/// When it does not end with its only NUL.
pub fn query_text(body: &[u8]) -> Result<&[u8], MessageError> {
    match cstr(body)? {
        (text, []) => Ok(text),
        _ => Err(MessageError::Malformed),
    }
}

/// Appends a Parse; `types` as in [`Parse::types`].
///
/// # Errors
/// When it would be too long.
pub fn write_parse(out: &mut BytesMut, name: &[u8], query: &[u8], types: &[u8]) -> Result<(), MessageError> {
    write_frame(out, tag::PARSE, |out| {
        put_cstr(out, name);
        put_cstr(out, query);
        out.extend_from_slice(types);
    })
}

/// Appends a Bind; `rest` as in [`Bind::rest`].
///
/// # Errors
/// When it would be too long.
pub fn write_bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: &[u8]) -> Result<(), MessageError> {
    write_frame(out, tag::BIND, |out| {
        put_cstr(out, portal);
        put_cstr(out, statement);
        out.extend_from_slice(rest);
    })
}

/// Appends a simple Query.
///
/// # Errors
/// When it would be too long.
pub fn write_query(out: &mut BytesMut, text: &[u8]) -> Result<(), MessageError> {
    write_frame(out, tag::QUERY, |out| put_cstr(out, text))
}

/// Appends a Describe.
///
/// # Errors
/// When it would be too long.
pub fn write_describe(out: &mut BytesMut, target: Target, name: &[u8]) -> Result<(), MessageError> {
    write_frame(out, tag::DESCRIBE, |out| put_named(out, target, name))
}

/// Appends a Close.
///
/// # Errors
/// When it would be too long.
pub fn write_close(out: &mut BytesMut, target: Target, name: &[u8]) -> Result<(), MessageError> {
    write_frame(out, tag::CLOSE, |out| put_named(out, target, name))
}

/// Appends an Execute; 0 rows means all.
///
/// # Errors
/// When it would be too long.
pub fn write_execute(out: &mut BytesMut, portal: &[u8], max_rows: u32) -> Result<(), MessageError> {
    write_frame(out, tag::EXECUTE, |out| {
        put_cstr(out, portal);
        out.put_u32(max_rows);
    })
}

/// Appends a Flush.
pub fn write_flush(out: &mut BytesMut) {
    write_short(out, tag::FLUSH, |_| {});
}

/// Appends a Sync.
pub fn write_sync(out: &mut BytesMut) {
    write_short(out, tag::SYNC, |_| {});
}

/// Appends a Terminate.
pub fn write_terminate(out: &mut BytesMut) {
    write_short(out, tag::TERMINATE, |_| {});
}

/// Appends a password message: a clear or hashed password with its NUL, or SASL data as it is.
///
/// # Errors
/// When it would be too long.
pub fn write_password(out: &mut BytesMut, body: &[u8]) -> Result<(), MessageError> {
    write_frame(out, tag::PASSWORD, |out| out.extend_from_slice(body))
}

fn put_named(out: &mut BytesMut, target: Target, name: &[u8]) {
    out.put_u8(match target {
        Target::Statement => b'S',
        Target::Portal => b'P',
    });
    put_cstr(out, name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::split;

    fn body(out: &BytesMut) -> &[u8] {
        split(out).unwrap().unwrap().0.body
    }

    #[test]
    fn messages_come_back_as_written() {
        let mut out = BytesMut::new();
        write_parse(&mut out, b"s", b"select $1", &[0, 1, 0, 0, 0, 23]).unwrap();
        let parse = Parse::read(body(&out)).unwrap();
        assert_eq!((parse.name, parse.query, parse.types.len()), (&b"s"[..], &b"select $1"[..], 6));
        out.clear();
        write_bind(&mut out, b"p", b"s", &[0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(Bind::read(body(&out)).unwrap().statement, b"s");
        out.clear();
        write_close(&mut out, Target::Portal, b"p").unwrap();
        assert_eq!(Named::read(body(&out)), Ok(Named { target: Target::Portal, name: b"p" }));
        out.clear();
        write_query(&mut out, b"select 1").unwrap();
        assert_eq!(query_text(body(&out)), Ok(&b"select 1"[..]));
    }

    #[test]
    fn e06_e07_malformed_bodies_are_refused() {
        assert!(Parse::read(b"s\0select 1\0\xff\xff").is_err());
        assert!(Parse::read(b"s\0select 1\0\0\0x").is_err());
        assert!(Parse::read(b"s").is_err());
        assert!(Bind::read(b"p\0s").is_err());
        assert!(Named::read(b"Xname\0").is_err());
        assert!(Named::read(b"Sname").is_err());
        assert!(Named::read(b"").is_err());
    }

    #[test]
    fn f08_to_f10_a_query_ends_with_its_only_nul() {
        assert!(query_text(b"select 1").is_err());
        assert!(query_text(b"select\0 1\0").is_err());
        assert!(query_text(b"").is_err());
        assert_eq!(query_text(b"\0"), Ok(&b""[..]));
    }
}
