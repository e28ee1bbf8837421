//! How a line of the log looks.
//!
//! Names, errors and texts in it are others' choice. No character of theirs ends a line or moves a terminal's cursor, so a line
//! is one thing that was said, whatever somebody calls a database.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use config::LogFormat;
use time::OffsetDateTime;
use tracing::Level;

use super::{Entry, Value};

/// Whether levels are coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Colour {
    No,
    Yes,
}

/// A line, with its end.
pub(super) fn line(entry: &Entry, format: LogFormat, colour: Colour) -> String {
    let mut out = String::with_capacity(128);
    match format {
        LogFormat::Text => text(&mut out, entry, colour),
        LogFormat::Json => json(&mut out, entry),
    }
    out.push('\n');
    out
}

fn text(out: &mut String, entry: &Entry, colour: Colour) {
    write_time(out, entry.at);
    let level = entry.level.as_str();
    // writing to a String cannot fail
    let _ = match (colour, colour_of(entry.level)) {
        (Colour::Yes, code) => write!(out, " \x1b[{code}m{level:>5}\x1b[0m "),
        (Colour::No, _) => write!(out, " {level:>5} "),
    };
    write_plain(out, &entry.message);
    for (name, value) in &entry.fields {
        let _ = write!(out, " {name}=");
        match value {
            Value::Text(text) => {
                let _ = write!(out, "{text:?}");
            }
            Value::Shown(shown) => write_plain(out, shown),
            Value::Signed(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Unsigned(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Flag(flag) => {
                let _ = write!(out, "{flag}");
            }
        }
    }
}

fn json(out: &mut String, entry: &Entry) {
    out.push_str("{\"time\":\"");
    write_time(out, entry.at);
    let _ = write!(out, "\",\"level\":\"{}\",\"message\":", entry.level.as_str().to_ascii_lowercase());
    write_string(out, &entry.message);
    for (name, value) in &entry.fields {
        out.push(',');
        write_string(out, name);
        out.push(':');
        match value {
            Value::Text(text) | Value::Shown(text) => write_string(out, text),
            Value::Signed(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Unsigned(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) if number.is_finite() => {
                let _ = write!(out, "{number}");
            }
            Value::Float(_) => out.push_str("null"),
            Value::Flag(flag) => {
                let _ = write!(out, "{flag}");
            }
        }
    }
    out.push('}');
}

/// A JSON string.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// As it is, but for what would not be part of a line.
fn write_plain(out: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
}

fn colour_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 34,
    }
}

/// As in `2026-11-24T15:00:00.123456Z`.
fn write_time(out: &mut String, at: SystemTime) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    let micros = since.subsec_micros();
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::Repeating;

    fn entry(message: &str, fields: &[(&'static str, Value)]) -> Entry {
        let at = UNIX_EPOCH + Duration::from_micros(1_795_532_400_123_456);
        let (level, repeating, place) = (Level::WARN, Repeating::Always, ("", 0));
        Entry { at, level, repeating, place, message: message.to_owned(), fields: fields.to_vec() }
    }

    #[test]
    fn a_line_is_text_or_one_json_object() {
        let fields = [
            ("pool", Value::Text("app/ann".into())),
            ("error", Value::Shown("no route".into())),
            ("rows", Value::Unsigned(3)),
            ("shift", Value::Signed(-1)),
            ("part", Value::Float(0.5)),
            ("odd", Value::Float(f64::NAN)),
            ("last", Value::Flag(true)),
        ];
        let entry = entry("cannot connect", &fields);
        assert_eq!(
            line(&entry, LogFormat::Text, Colour::No),
            "2026-11-24T15:00:00.123456Z  WARN cannot connect pool=\"app/ann\" error=no route rows=3 shift=-1 part=0.5 odd=NaN last=true\n"
        );
        assert_eq!(
            line(&entry, LogFormat::Json, Colour::No),
            "{\"time\":\"2026-11-24T15:00:00.123456Z\",\"level\":\"warn\",\"message\":\"cannot connect\",\"pool\":\"app/ann\",\"error\":\"no route\",\"rows\":3,\"shift\":-1,\"part\":0.5,\"odd\":null,\"last\":true}\n"
        );
        assert!(line(&entry, LogFormat::Text, Colour::Yes).contains("\x1b[33m WARN\x1b[0m cannot"));
    }

    #[test]
    fn nobody_writes_a_line_of_their_own_into_the_log() {
        let nasty = "a\nERROR b\r\x1b[2J\"\\\u{0}é";
        let entry = entry(nasty, &[("name", Value::Text(nasty.into())), ("error", Value::Shown(nasty.into()))]);
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = line(&entry, format, Colour::No);
            let inside = line.strip_suffix('\n').unwrap();
            assert!(!inside.chars().any(char::is_control) && inside.contains('é'), "{inside:?}");
        }
        let line = line(&entry, LogFormat::Json, Colour::No);
        assert!(line.contains(r#""name":"a\nERROR b\u000d\u001b[2J\"\\\u0000é""#), "{line}");
    }

    #[test]
    fn moments_are_right_on_leap_days_and_at_the_ends_of_years() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut out = String::new();
            write_time(&mut out, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(out, expected);
        }
    }
}
