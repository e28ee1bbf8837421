//! Errors and notices that we write ourselves.
//!
//! Source: "Error and Notice Message Fields" of the protocol chapter.

use bytes::{BufMut as _, BytesMut};

use super::{put_cstr, write_short};

/// The severity of an error or notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// For information.
    Notice,
    /// Something is likely wrong.
    Warning,
}

impl Severity {
    const fn word(self) -> &'static [u8] {
        match self {
            Self::Error => b"ERROR",
            Self::Fatal => b"FATAL",
            Self::Notice => b"NOTICE",
            Self::Warning => b"WARNING",
        }
    }
}

/// What an ErrorResponse or NoticeResponse says.
#[derive(Clone, Copy, Debug)]
pub struct ErrorReport<'a> {
    /// How bad it is.
    pub severity: Severity,
    /// Five characters.
    pub sqlstate: &'a str,
    /// One line, no full stop.
    pub message: &'a str,
    /// More about it, whole sentences.
    pub detail: Option<&'a str>,
    /// What to do about it, whole sentences.
    pub hint: Option<&'a str>,
}

/// Longest text of one field that we write; longer ones are cut off at a character.
const FIELD_LEN_MAX: usize = 8 * 1024;

/// Appends an ErrorResponse.
pub fn write_error(out: &mut BytesMut, report: &ErrorReport<'_>) {
    write_short(out, b'E', |out| fields(out, report));
}

/// Appends a NoticeResponse.
pub fn write_notice(out: &mut BytesMut, report: &ErrorReport<'_>) {
    write_short(out, b'N', |out| fields(out, report));
}

fn fields(out: &mut BytesMut, report: &ErrorReport<'_>) {
    let severity = report.severity.word();
    field(out, b'S', severity);
    field(out, b'V', severity);
    field(out, b'C', report.sqlstate.as_bytes());
    field(out, b'M', cut(report.message));
    if let Some(detail) = report.detail {
        field(out, b'D', cut(detail));
    }
    if let Some(hint) = report.hint {
        field(out, b'H', cut(hint));
    }
    out.put_u8(0);
}

fn field(out: &mut BytesMut, code: u8, text: &[u8]) {
    out.put_u8(code);
    put_cstr(out, text);
}

fn cut(text: &str) -> &[u8] {
    let end = text.floor_char_boundary(FIELD_LEN_MAX);
    text.as_bytes().get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::backend::ErrorFields;

    #[test]
    fn what_is_written_reads_back() {
        let mut out = BytesMut::new();
        let report = ErrorReport {
            severity: Severity::Fatal,
            sqlstate: "3D000",
            message: "database \"x\" does not exist",
            detail: None,
            hint: Some("Create it."),
        };
        write_error(&mut out, &report);
        let (frame, rest) = crate::frame::split(&out).unwrap().unwrap();
        assert!(rest.is_empty());
        let fields = ErrorFields::new(frame.body);
        assert_eq!(fields.get(b'S'), Some(&b"FATAL"[..]));
        assert_eq!(fields.get(b'C'), Some(&b"3D000"[..]));
        assert_eq!(fields.get(b'H'), Some(&b"Create it."[..]));
        assert_eq!(fields.get(b'D'), None);
    }
}
