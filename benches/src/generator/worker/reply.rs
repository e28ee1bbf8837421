//! Whether a reply is what its request must get.

use dbproto::frame::Frame;
use dbproto::message::backend::{ErrorFields, TransactionStatus, columns};

use crate::generator::scenario::{Column, Expected};
use crate::generator::template::Value;

/// What a frame means for its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// There is more to come.
    More,
    /// The server waits for a COPY's data.
    CopyIn,
    /// The request is answered.
    Ready(TransactionStatus),
    /// The server does not keep to the protocol.
    Broken,
}

/// What has come of a reply so far.
#[derive(Debug, Default)]
pub(super) struct Reply {
    rows: u64,
    /// The body of the last row, where it matters.
    last: Vec<u8>,
    tagged: bool,
    /// The first thing that is wrong: the class of the error and its text.
    pub(super) fault: Option<(String, String)>,
}

impl Reply {
    /// Takes one frame.
    pub(super) fn handle(&mut self, frame: &Frame<'_>, expected: &Expected, values: &[Value]) -> Turn {
        match frame.tag {
            b'D' => self.row(frame.body, expected, values),
            // of a COPY's data each message is a row, and its only column
            b'd' => {
                let text = frame.body.strip_suffix(b"\n").unwrap_or(frame.body);
                let mut row = vec![0, 1];
                row.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                row.extend_from_slice(text);
                self.row(&row, expected, values);
            }
            b'C' => self.tag(frame.body, expected, values),
            b'E' => self.error(frame.body),
            b'G' => return Turn::CopyIn,
            b'Z' => {
                self.end(expected, values);
                let status = frame.body.first().and_then(|byte| TransactionStatus::from_byte(*byte));
                return status.map_or(Turn::Broken, Turn::Ready);
            }
            // completions, descriptions, notices, parameters, notifications
            b'1' | b'2' | b'3' | b'T' | b'n' | b't' | b'I' | b'N' | b'S' | b'A' | b'H' | b'c' | b's' => {}
            _ => return Turn::Broken,
        }
        Turn::More
    }

    /// There is something wrong, unless there was before.
    pub(super) fn wrong(&mut self, text: impl FnOnce() -> String) {
        if self.fault.is_none() {
            self.fault = Some(("wrong".to_owned(), text()));
        }
    }

    fn row(&mut self, body: &[u8], expected: &Expected, values: &[Value]) {
        self.rows += 1;
        if self.rows == 1
            && let Some(first) = &expected.first
            && let Some(text) = difference(body, first, values)
        {
            self.wrong(|| format!("in the first row {text}"));
        }
        if expected.last.is_some() {
            self.last.clear();
            self.last.extend_from_slice(body);
        }
    }

    fn tag(&mut self, body: &[u8], expected: &Expected, values: &[Value]) {
        self.tagged = true;
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        if let Some(template) = &expected.tag
            && !template.is(values, tag)
        {
            self.wrong(|| format!("{} instead of {}", String::from_utf8_lossy(tag), template.text(values)));
        }
    }

    fn error(&mut self, body: &[u8]) {
        let (class, text) = describe(body);
        // a reply that is wrong already stays what it is
        self.fault.get_or_insert((class, text));
    }

    fn end(&mut self, expected: &Expected, values: &[Value]) {
        if self.fault.is_some() {
            return;
        }
        if !self.tagged {
            self.wrong(|| "no CommandComplete".to_owned());
        }
        let rows = self.rows;
        if let Some(wanted) = expected.rows.filter(|wanted| *wanted != rows) {
            self.wrong(|| format!("{rows} rows instead of {wanted}"));
        }
        if expected.first.is_some() && rows == 0 {
            self.wrong(|| "no row".to_owned());
        }
        if let Some(last) = &expected.last {
            let body = std::mem::take(&mut self.last);
            if let Some(text) = difference(&body, last, values) {
                self.wrong(|| format!("in the last row {text}"));
            }
        }
    }
}

/// The class of an error, and what people are told of it.
pub(super) fn describe(body: &[u8]) -> (String, String) {
    let fields = ErrorFields::new(body);
    let text = |code| String::from_utf8_lossy(fields.get(code).unwrap_or_default()).into_owned();
    let code = text(b'C');
    let is_class = |class: &&str| class.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    let class = code.get(..2).filter(is_class).unwrap_or("XX").to_owned();
    (class, format!("{code}: {}", text(b'M')))
}

/// How a row differs from what it must be.
fn difference(body: &[u8], wanted: &[Column], values: &[Value]) -> Option<String> {
    let mut row = columns(body);
    for (number, column) in (1..).zip(wanted) {
        let found = match row.next() {
            Some(Ok(found)) => found,
            Some(Err(_)) => return Some("there is no sense".to_owned()),
            None => return Some(format!("there is no column {number}")),
        };
        let wrong = match (column, found) {
            (Column::Any, _) => None,
            (Column::Length(len), Some(found)) if found.len() == *len => None,
            (Column::Length(len), _) => Some(format!("{len} bytes")),
            (Column::Is(template), Some(found)) if template.is(values, found) => None,
            (Column::Is(template), _) => Some(template.text(values)),
        };
        if let Some(wrong) = wrong {
            let found = found.map_or_else(|| "NULL".to_owned(), brief);
            return Some(format!("column {number} is {found} instead of {wrong}"));
        }
    }
    None
}

fn brief(text: &[u8]) -> String {
    match text.get(..40) {
        Some(start) => format!("{}… ({} bytes)", String::from_utf8_lossy(start), text.len()),
        None => String::from_utf8_lossy(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, BytesMut};
    use dbproto::frame;
    use dbproto::message::write_frame;

    use super::*;
    use crate::generator::template::{Template, Use};

    fn message(tag: u8, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        write_frame(&mut out, tag, |out| out.put_slice(body)).unwrap();
        out
    }

    fn row(text: &[u8]) -> Vec<u8> {
        let len = u8::try_from(text.len()).unwrap();
        [&[0, 1, 0, 0, 0, len], text].concat()
    }

    /// Gives what is wrong with a reply to a read of the row 7.
    fn judge(messages: &[(u8, Vec<u8>)]) -> Option<(String, String)> {
        let is = Template::parse("mark-:key", Use::Plain, |_| Some(0)).unwrap();
        let expected = Expected { rows: Some(1), first: Some(vec![Column::Is(is)]), last: None, tag: None };
        let mut reply = Reply::default();
        for (tag, body) in messages {
            let bytes = message(*tag, body);
            let (frame, _) = frame::split(&bytes).unwrap().unwrap();
            if reply.handle(&frame, &expected, &[Value::Integer(7)]) != Turn::More {
                break;
            }
        }
        reply.fault
    }

    fn judge_rows(rows: &[&[u8]]) -> Option<String> {
        let mut messages: Vec<(u8, Vec<u8>)> = rows.iter().map(|text| (b'D', row(text))).collect();
        messages.extend([(b'C', b"SELECT 1\0".to_vec()), (b'Z', b"I".to_vec())]);
        judge(&messages).map(|(class, text)| {
            assert_eq!(class, "wrong");
            text
        })
    }

    #[test]
    fn only_the_right_row_is_right() {
        assert_eq!(judge_rows(&[b"mark-7"]), None);
        assert_eq!(judge_rows(&[b"mark-8"]).unwrap(), "in the first row column 1 is mark-8 instead of mark-7");
        assert_eq!(judge_rows(&[]).unwrap(), "0 rows instead of 1");
        assert_eq!(judge_rows(&[b"mark-7", b"mark-7"]).unwrap(), "2 rows instead of 1");
        let no_tag = [(b'D', row(b"mark-7")), (b'Z', b"I".to_vec())];
        assert_eq!(judge(&no_tag).unwrap().1, "no CommandComplete");
    }

    #[test]
    fn an_error_has_the_class_of_its_sqlstate() {
        let error = [(b'E', b"SERROR\0C53300\0Mtoo many\0\0".to_vec()), (b'Z', b"I".to_vec())];
        assert_eq!(judge(&error), Some(("53".to_owned(), "53300: too many".to_owned())));
        assert_eq!(describe(b"\0").0, "XX");
        assert_eq!(describe("Cö2345\0\0".as_bytes()).0, "XX");
    }

    #[test]
    fn the_data_of_a_copy_counts_as_rows() {
        let copied = [(b'd', b"mark-7\n".to_vec()), (b'C', b"COPY 1\0".to_vec()), (b'Z', b"I".to_vec())];
        assert_eq!(judge(&copied), None);
    }
}
