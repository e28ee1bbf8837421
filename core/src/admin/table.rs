//! Results of the console: columns with their types, rows, and how they go over the wire.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use dbproto::message::MessageError;
use dbproto::message::result::{BindValues, Field, Format, write_data_row, write_row_description};
use time::OffsetDateTime;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Text,
    Int4,
    Int8,
    Numeric,
    Bytes,
}

impl Kind {
    /// Object number and length of the type.
    const fn type_of(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int4 => (23, 4),
            Self::Int8 => (20, 8),
            Self::Numeric => (1700, -1),
            Self::Bytes => (17, -1),
        }
    }
}

/// A column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// A value; `None` is NULL.
pub(crate) type Cell = Option<String>;

/// One row that is being made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

impl Row {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn text(mut self, value: impl Into<String>) -> Self {
        self.0.push(Some(value.into()));
        self
    }

    pub(crate) fn maybe(mut self, value: Option<impl Into<String>>) -> Self {
        self.0.push(value.map(Into::into));
        self
    }

    pub(crate) fn null(mut self) -> Self {
        self.0.push(None);
        self
    }

    /// A number that fits an `int4`: the greatest there is stands for all above.
    pub(crate) fn int(self, value: impl TryInto<u64>) -> Self {
        let value = value.try_into().unwrap_or(u64::MAX).min(2_147_483_647);
        self.text(value.to_string())
    }

    /// A number of any size, for `numeric`.
    pub(crate) fn big(self, value: u64) -> Self {
        self.text(value.to_string())
    }

    /// Seconds, and the microseconds beyond them.
    pub(crate) fn span(self, value: Duration) -> Self {
        self.int(value.as_secs()).int(value.subsec_micros())
    }

    /// A moment, as PgBouncer writes it.
    pub(crate) fn moment(self, value: SystemTime) -> Self {
        self.text(moment(value))
    }
}

/// A result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    pub(crate) columns: &'static [Column],
    pub(crate) rows: Vec<Row>,
}

/// Appends the description of columns.
pub(crate) fn write_columns(out: &mut BytesMut, columns: &[Column], bind: &BindValues) -> Result<(), MessageError> {
    let fields = columns.iter().enumerate().map(|(index, column)| {
        let (type_oid, type_len) = column.kind.type_of();
        let format = bind.format_of(index, columns.len()).unwrap_or_default();
        Field { name: column.name, type_oid, type_len, format }
    });
    write_row_description(out, fields)
}

/// Appends a row.
pub(crate) fn write_row(
    out: &mut BytesMut,
    columns: &[Column],
    row: &Row,
    bind: &BindValues,
) -> Result<(), MessageError> {
    let values = columns.iter().enumerate().map(|(index, column)| {
        let value = row.0.get(index).and_then(Option::as_ref)?;
        Some(match bind.format_of(index, columns.len()).unwrap_or_default() {
            Format::Text => value.as_bytes().to_vec(),
            Format::Binary => binary(column.kind, value),
        })
    });
    write_data_row(out, values)
}

/// A value in its type's own bytes.
fn binary(kind: Kind, text: &str) -> Vec<u8> {
    match kind {
        Kind::Text | Kind::Bytes => text.as_bytes().to_vec(),
        Kind::Int4 => text.parse::<i32>().unwrap_or_default().to_be_bytes().to_vec(),
        Kind::Int8 => text.parse::<i64>().unwrap_or_default().to_be_bytes().to_vec(),
        Kind::Numeric => numeric(text.parse().unwrap_or_default()),
    }
}

/// A whole number as a `numeric`: digits to the base of 10,000, the highest first.
fn numeric(mut value: u64) -> Vec<u8> {
    let mut digits: Vec<u16> = Vec::new();
    while value > 0 {
        digits.push(u16::try_from(value % 10_000).unwrap_or_default());
        value /= 10_000;
    }
    let count = u16::try_from(digits.len()).unwrap_or_default();
    // how many, the weight of the first, the sign, digits behind the point
    let mut out: Vec<u8> = [count, count.saturating_sub(1), 0, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    out.extend(digits.iter().rev().flat_map(|digit| digit.to_be_bytes()));
    out
}

/// A moment as `2026-01-31 23:59:59 UTC`.
fn moment(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_right_on_leap_days_and_at_the_ends_of_years() {
        let at = |seconds| moment(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(951_868_800), "2000-03-01 00:00:00 UTC");
        assert_eq!(at(1_798_761_599), "2026-12-31 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn a_numeric_is_made_of_digits_to_the_base_of_ten_thousand() {
        assert_eq!(numeric(0), [0; 8]);
        assert_eq!(numeric(7), [0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(numeric(12_340_056), [0, 2, 0, 1, 0, 0, 0, 0, 0x04, 0xd2, 0, 56]);
        assert_eq!(numeric(u64::MAX).len(), 8 + 2 * 5);
    }

    #[test]
    fn numbers_that_are_too_great_stay_what_they_are_said_to_be() {
        assert_eq!(Row::new().int(u64::MAX).0, [Some("2147483647".to_owned())]);
        assert_eq!(binary(Kind::Int4, "2147483647"), i32::MAX.to_be_bytes());
    }
}
