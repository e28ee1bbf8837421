//! Text with values in it: `:name` stands for a value.

use std::fmt;

/// A value of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// A number.
    Integer(i64),
    /// Letters and digits.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Template(pub(crate) Vec<Piece>);

/// A part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// As it is.
    Text(String),
    /// The value of a slot.
    Value(usize),
    /// The value of a slot as a literal of SQL.
    Literal(usize),
}

/// What a text is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// A statement: a value outside of quotes becomes a literal, `::` is a cast.
    Sql,
    /// To be compared with, or a line of a COPY.
    Plain,
}

impl Template {
    /// Reads a text; `slot` knows the names.
    ///
    /// # Errors
    /// The name that nobody knows.
    pub(crate) fn parse(text: &str, usage: Use, slot: impl Fn(&str) -> Option<usize>) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut quoted = false;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let after = rest.split_at(first.len_utf8()).1;
            if first == '\'' && usage == Use::Sql {
                quoted = !quoted;
            }
            let name = if first == ':' { leading_name(after) } else { "" };
            if usage == Use::Sql && first == ':' && after.starts_with(':') {
                plain.push_str("::");
                rest = after.split_at(1).1;
            } else if name.is_empty() {
                plain.push(first);
                rest = after;
            } else {
                let slot = slot(name).ok_or_else(|| name.to_owned())?;
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                let literal = usage == Use::Sql && !quoted;
                pieces.push(if literal { Piece::Literal(slot) } else { Piece::Value(slot) });
                rest = after.split_at(name.len()).1;
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Writes it with these values.
    ///
    /// # Errors
    /// Those of the output.
    pub(crate) fn write(&self, values: &[Value], out: &mut impl fmt::Write) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_str(text)?,
                Piece::Value(slot) => write_value(values.get(*slot), out)?,
                Piece::Literal(slot) => match values.get(*slot) {
                    // nothing that would have to be escaped is ever in it
                    Some(Value::Text(text)) => write!(out, "'{text}'")?,
                    value => write_value(value, out)?,
                },
            }
        }
        Ok(())
    }

    /// The text with these values.
    pub(crate) fn text(&self, values: &[Value]) -> String {
        let mut out = String::new();
        // a string takes everything
        let _written: fmt::Result = self.write(values, &mut out);
        out
    }

    /// Whether it is this text.
    pub(crate) fn is(&self, values: &[Value], text: &[u8]) -> bool {
        let mut rest = Rest(Some(text));
        let same = self.write(values, &mut rest);
        same.is_ok() && rest.0 == Some(&[])
    }
}

fn write_value(value: Option<&Value>, out: &mut impl fmt::Write) -> fmt::Result {
    match value {
        Some(value) => write!(out, "{value}"),
        None => Ok(()),
    }
}

/// Takes what is written away from a text, as long as it is the same.
struct Rest<'t>(Option<&'t [u8]>);

impl fmt::Write for Rest<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.and_then(|rest| rest.strip_prefix(text.as_bytes()));
        self.0.map(|_| ()).ok_or(fmt::Error)
    }
}

fn leading_name(text: &str) -> &str {
    let is_part = |(index, c): (usize, char)| c.is_ascii_alphabetic() || c == '_' || (index > 0 && c.is_ascii_digit());
    let end = text.char_indices().find(|piece| !is_part(*piece)).map_or(text.len(), |(index, _)| index);
    text.split_at(end).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> Option<usize> {
        ["key", "body"].iter().position(|known| *known == name)
    }

    #[test]
    fn values_take_the_place_of_their_names() {
        let values = [Value::Integer(-7), Value::Text("ab".into())];
        let text = "select :key::int, :body, 'x-:key', '12:30' from t";
        let sql = Template::parse(text, Use::Sql, slot).unwrap();
        assert_eq!(sql.text(&values), "select -7::int, 'ab', 'x--7', '12:30' from t");
        let plain = Template::parse("mark-:key:body", Use::Plain, slot).unwrap();
        assert_eq!(plain.text(&values), "mark--7ab");
        assert_eq!(Template::parse("select :nobody", Use::Sql, slot), Err("nobody".to_owned()));
    }

    #[test]
    fn a_text_is_compared_to_its_end() {
        let values = [Value::Integer(12), Value::Text(String::new())];
        let template = Template::parse("mark-:key", Use::Plain, slot).unwrap();
        assert!(template.is(&values, b"mark-12"));
        for other in [&b"mark-1"[..], b"mark-123", b"mark-21", b""] {
            assert!(!template.is(&values, other), "{}", other.escape_ascii());
        }
    }
}
