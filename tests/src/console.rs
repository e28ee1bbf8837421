//! Reading what the console shows.

use std::collections::HashMap;

use crate::client::{RawClient, Reply};

/// One row, by its columns; NULL as the word.
pub type Row = HashMap<String, String>;

/// Names and types of a result's columns.
///
/// # Panics
/// When that is not there.
#[must_use]
pub fn columns(reply: &Reply) -> Vec<(String, u32)> {
    let message = reply.messages.iter().find(|message| message.tag == b'T').unwrap_or_else(|| panic!("{reply:?}"));
    let (count, mut rest) = message.body.split_first_chunk::<2>().unwrap();
    let mut out = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        let (name, field) = rest.split_at(end);
        let (_, type_on) = field.split_at(7);
        let (oid, _) = type_on.split_first_chunk::<4>().unwrap();
        out.push((String::from_utf8(name.to_vec()).unwrap(), u32::from_be_bytes(*oid)));
        rest = field.split_at(19).1;
    }
    out
}

/// What a command of the console shows.
///
/// # Panics
/// When that is not there.
pub fn rows(client: &mut RawClient, command: &str) -> Vec<Row> {
    let reply = client.query(command);
    assert_eq!(reply.error(), None, "{command}");
    let names: Vec<String> = columns(&reply).into_iter().map(|(name, _)| name).collect();
    let row = |values: Vec<Option<String>>| {
        assert_eq!(values.len(), names.len(), "{command}");
        names.iter().cloned().zip(values.into_iter().map(|value| value.unwrap_or_else(|| "NULL".to_owned()))).collect()
    };
    reply.rows().into_iter().map(row).collect()
}

/// The row with this value in this column.
///
/// # Panics
/// When that is not there.
#[must_use]
pub fn find<'r>(rows: &'r [Row], key: &str, value: &str) -> &'r Row {
    rows.iter()
        .find(|row| row.get(key).is_some_and(|found| found == value))
        .unwrap_or_else(|| panic!("no {key} = {value} in {rows:?}"))
}
