//! What whoever answers requests itself needs besides [`super::backend`]: results, and what a client says about them.

use bytes::{BufMut as _, BytesMut};

use super::{MessageError, cstr, put_cstr, write_frame, write_short};

/// How a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// As text.
    #[default]
    Text,
    /// As its type's own bytes.
    Binary,
}

impl Format {
    fn read(code: u16) -> Result<Self, MessageError> {
        match code {
            0 => Ok(Self::Text),
            1 => Ok(Self::Binary),
            _ => Err(MessageError::Malformed),
        }
    }

    const fn code(self) -> u16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// One column of a RowDescription that is no table's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Its name.
    pub name: &'a str,
    /// The type's object number.
    pub type_oid: u32,
    /// The type's length; -1 where it varies.
    pub type_len: i16,
    /// How its values are written.
    pub format: Format,
}

/// What a Bind says besides its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BindValues {
    /// Parameters it gives.
    pub parameters: u16,
    /// Formats of the result: none for text, one for all columns, or one each.
    pub formats: Vec<Format>,
}

impl BindValues {
    /// Reads [`super::frontend::Bind::rest`].
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(rest: &[u8]) -> Result<Self, MessageError> {
        let (count, mut rest) = word(rest)?;
        for _ in 0..count {
            (_, rest) = word(rest)?;
        }
        let (parameters, mut rest) = word(rest)?;
        for _ in 0..parameters {
            let (len, after) = rest.split_first_chunk::<4>().ok_or(MessageError::Malformed)?;
            rest = after;
            // -1 is NULL
            if let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) {
                (_, rest) = rest.split_at_checked(len).ok_or(MessageError::Malformed)?;
            }
        }
        let (count, mut rest) = word(rest)?;
        let mut formats = Vec::new();
        for _ in 0..count {
            let (code, after) = word(rest)?;
            formats.push(Format::read(code)?);
            rest = after;
        }
        if rest.is_empty() { Ok(Self { parameters, formats }) } else { Err(MessageError::Malformed) }
    }

    /// The format of a column; `None` when formats were given for other columns than there are.
    #[must_use]
    pub fn format_of(&self, column: usize, columns: usize) -> Option<Format> {
        match self.formats.as_slice() {
            [] => Some(Format::Text),
            [all] => Some(*all),
            each if each.len() == columns => each.get(column).copied(),
            _ => None,
        }
    }
}

fn word(bytes: &[u8]) -> Result<(u16, &[u8]), MessageError> {
    let (word, rest) = bytes.split_first_chunk::<2>().ok_or(MessageError::Malformed)?;
    Ok((u16::from_be_bytes(*word), rest))
}

/// Reads an Execute: the portal, and how many rows at most, 0 for all.
///
/// # Errors
/// When it is malformed.
pub fn read_execute(body: &[u8]) -> Result<(&[u8], u32), MessageError> {
    let (portal, rest) = cstr(body)?;
    let rows: &[u8; 4] = rest.try_into().map_err(|_| MessageError::Malformed)?;
    Ok((portal, u32::from_be_bytes(*rows)))
}

/// Appends a RowDescription.
///
/// # Errors
/// When it would be too long.
pub fn write_row_description<'a>(
    out: &mut BytesMut,
    fields: impl ExactSizeIterator<Item = Field<'a>>,
) -> Result<(), MessageError> {
    let count = u16::try_from(fields.len()).map_err(|_| MessageError::TooLong)?;
    write_frame(out, b'T', |out| {
        out.put_u16(count);
        for field in fields {
            put_cstr(out, field.name.as_bytes());
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(field.type_oid);
            out.put_i16(field.type_len);
            out.put_i32(-1);
            out.put_u16(field.format.code());
        }
    })
}

/// Appends a DataRow; `None` is NULL.
///
/// # Errors
/// When it would be too long.
pub fn write_data_row<V: AsRef<[u8]>>(
    out: &mut BytesMut,
    values: impl ExactSizeIterator<Item = Option<V>>,
) -> Result<(), MessageError> {
    let start = out.len();
    let count = u16::try_from(values.len()).map_err(|_| MessageError::TooLong)?;
    let mut fits = true;
    let written = write_frame(out, b'D', |out| {
        out.put_u16(count);
        for value in values {
            match value.as_ref().map(AsRef::as_ref) {
                None => out.put_i32(-1),
                Some(bytes) => match i32::try_from(bytes.len()) {
                    Ok(len) => {
                        out.put_i32(len);
                        out.extend_from_slice(bytes);
                    }
                    Err(_) => fits = false,
                },
            }
        }
    });
    if !fits {
        out.truncate(start);
        return Err(MessageError::TooLong);
    }
    written
}

/// Appends a CommandComplete.
pub fn write_command_complete(out: &mut BytesMut, tag: &str) {
    write_short(out, b'C', |out| put_cstr(out, tag.as_bytes()));
}

/// Appends an EmptyQueryResponse.
pub fn write_empty_query(out: &mut BytesMut) {
    write_short(out, b'I', |_| {});
}

/// Appends a BindComplete.
pub fn write_bind_complete(out: &mut BytesMut) {
    write_short(out, b'2', |_| {});
}

/// Appends a NoData.
pub fn write_no_data(out: &mut BytesMut) {
    write_short(out, b'n', |_| {});
}

/// Appends a ParameterDescription of a statement without parameters.
pub fn write_no_parameters(out: &mut BytesMut) {
    write_short(out, b't', |out| out.put_u16(0));
}

/// Appends a PortalSuspended.
pub fn write_portal_suspended(out: &mut BytesMut) {
    write_short(out, b's', |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use crate::message::backend::columns;

    #[test]
    fn a_row_reads_back() {
        let mut out = BytesMut::new();
        write_data_row(&mut out, [Some("a"), None, Some("")].into_iter()).unwrap();
        let (message, rest) = frame::split(&out).unwrap().unwrap();
        assert!(message.tag == b'D' && rest.is_empty());
        let values: Vec<_> = columns(message.body).map(|value| value.unwrap()).collect();
        assert_eq!(values, [Some(&b"a"[..]), None, Some(&b""[..])]);
    }

    #[test]
    fn a_bind_tells_its_formats_and_must_end_where_it_says() {
        let bind = BindValues::read(&[0, 1, 0, 0, 0, 2, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 1]).unwrap();
        assert_eq!((bind.parameters, bind.format_of(3, 5)), (2, Some(Format::Binary)));
        let plain = BindValues::read(&[0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(plain.format_of(0, 1), Some(Format::Text));
        let two = BindValues::read(&[0, 0, 0, 0, 0, 2, 0, 0, 0, 1]).unwrap();
        assert_eq!([two.format_of(1, 2), two.format_of(0, 3)], [Some(Format::Binary), None]);
        for broken in
            [&[][..], &[0, 0], &[0, 0, 0, 1, 0, 0, 0, 9, 1], &[0, 0, 0, 0, 0, 1, 0, 7], &[0, 0, 0, 0, 0, 0, 1]]
        {
            assert_eq!(BindValues::read(broken), Err(MessageError::Malformed));
        }
    }

    #[test]
    fn an_execute_names_portal_and_rows() {
        assert_eq!(read_execute(b"p\0\0\0\0\x07"), Ok((&b"p"[..], 7)));
        assert!(read_execute(b"p\0\0\0").is_err());
    }
}
