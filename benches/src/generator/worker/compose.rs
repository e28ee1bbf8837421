//! Requests as they travel.

use std::fmt::{self, Write as _};

use bytes::{BufMut as _, BytesMut};
use dbproto::message::frontend::{self, Target};
use dbproto::message::{MessageError, write_frame};

use crate::generator::scenario::{Copied, Form, LINE, Scenario, Statement};
use crate::generator::template::{Template, Value};

/// Bytes of a COPY that go into one message.
const COPY_LEN: usize = 8 * 1024;

/// Appends the request of a step.
///
/// # Errors
/// When it would be too long.
pub(super) fn write_step(out: &mut BytesMut, form: &Form, values: &[Value]) -> Result<(), MessageError> {
    match form {
        Form::Simple(template) => write_text(out, template, values),
        Form::Unprepared(statement) => {
            frontend::write_parse(out, b"", statement.text.as_bytes(), &[0, 0])?;
            write_execution(out, b"", statement, values)
        }
        Form::Prepared(name, statement) => write_execution(out, name.as_bytes(), statement, values),
    }
}

/// Appends a Query.
///
/// # Errors
/// When it would be too long.
pub(super) fn write_text(out: &mut BytesMut, template: &Template, values: &[Value]) -> Result<(), MessageError> {
    let mut written: fmt::Result = Ok(());
    write_frame(out, frontend::tag::QUERY, |out| {
        written = template.write(values, out);
        out.put_u8(0);
    })?;
    written.map_err(|_| MessageError::TooLong)
}

/// Appends Parse and Sync for each statement that is prepared; gives how many there are.
///
/// # Errors
/// When one would be too long.
pub(super) fn write_preparations(out: &mut BytesMut, scenario: &Scenario) -> Result<usize, MessageError> {
    let mut count = 0;
    for step in scenario.operations.iter().flat_map(|operation| &operation.steps) {
        if let Form::Prepared(name, statement) = &step.form {
            frontend::write_parse(out, name.as_bytes(), statement.text.as_bytes(), &[0, 0])?;
            frontend::write_sync(out);
            count += 1;
        }
    }
    Ok(count)
}

/// Appends the data of a COPY and its end.
///
/// # Errors
/// When a line would be too long.
pub(super) fn write_copy(out: &mut BytesMut, copied: &Copied, values: &mut [Value]) -> Result<(), MessageError> {
    let mut text = String::with_capacity(COPY_LEN);
    for line in 0..copied.lines {
        if let Some(place) = values.get_mut(LINE) {
            *place = Value::Integer(i64::from(line));
        }
        // a string takes everything
        let _written: fmt::Result = copied.line.write(values, &mut text);
        text.push('\n');
        if text.len() >= COPY_LEN || line + 1 == copied.lines {
            write_frame(out, frontend::tag::COPY_DATA, |out| out.put_slice(text.as_bytes()))?;
            text.clear();
        }
    }
    write_frame(out, frontend::tag::COPY_DONE, |_| {})
}

/// Bind, Describe, Execute and Sync, as libpq sends them; parameters and results are text.
fn write_execution(
    out: &mut BytesMut,
    name: &[u8],
    statement: &Statement,
    values: &[Value],
) -> Result<(), MessageError> {
    write_frame(out, frontend::tag::BIND, |out| {
        // the unnamed portal
        out.put_u8(0);
        out.put_slice(name);
        out.put_u8(0);
        out.put_u16(0);
        out.put_u16(u16::try_from(statement.parameters.len()).unwrap_or(u16::MAX));
        for slot in &statement.parameters {
            write_parameter(out, values.get(*slot));
        }
        out.put_u16(0);
    })?;
    frontend::write_describe(out, Target::Portal, b"")?;
    frontend::write_execute(out, b"", 0)?;
    frontend::write_sync(out);
    Ok(())
}

fn write_parameter(out: &mut BytesMut, value: Option<&Value>) {
    let start = out.len();
    out.put_u32(u32::MAX);
    let Some(value) = value else { return };
    // the buffer grows as needed
    let _written: fmt::Result = write!(out, "{value}");
    let len = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use dbproto::frame;
    use dbproto::message::frontend::{Bind, query_text};

    use super::*;
    use crate::generator::template::Use;

    #[test]
    fn a_prepared_statement_is_bound_to_its_values() {
        let statement = Statement { text: "select $1, $2".into(), parameters: vec![1, 0] };
        let values = [Value::Integer(42), Value::Text("ab".into())];
        let mut out = BytesMut::new();
        write_step(&mut out, &Form::Prepared("s1".into(), statement), &values).unwrap();
        let mut rest = &out[..];
        let mut tags = String::new();
        while let Some((frame, after)) = frame::split(rest).unwrap() {
            if frame.tag == b'B' {
                let bind = Bind::read(frame.body).unwrap();
                assert_eq!(bind.statement, b"s1");
                assert_eq!(bind.rest, b"\0\0\0\x02\0\0\0\x02ab\0\0\0\x0242\0\0");
            }
            tags.push(char::from(frame.tag));
            rest = after;
        }
        assert_eq!((tags.as_str(), rest.len()), ("BDES", 0));
    }

    #[test]
    fn a_query_has_its_values_in_its_text_and_a_copy_all_its_lines() {
        let slot = |name: &str| ["client", "line"].iter().position(|known| *known == name);
        let mut values = [Value::Integer(7), Value::Integer(0)];
        let mut out = BytesMut::new();
        let form = Form::Simple(Template::parse("select :client", Use::Sql, slot).unwrap());
        write_step(&mut out, &form, &values).unwrap();
        assert_eq!(query_text(frame::split(&out).unwrap().unwrap().0.body).unwrap(), b"select 7");
        out.clear();
        let copied = Copied { line: Template::parse(":line\t:client", Use::Plain, slot).unwrap(), lines: 3 };
        write_copy(&mut out, &copied, &mut values).unwrap();
        let (data, rest) = frame::split(&out).unwrap().unwrap();
        assert_eq!((data.tag, data.body), (b'd', &b"0\t7\n1\t7\n2\t7\n"[..]));
        assert_eq!(frame::split(rest).unwrap().unwrap().0.tag, b'c');
    }
}
