//! How a line of the log looks.
//!
//! Names, errors and texts in it are others' choice. No character of theirs ends a line or moves a terminal's cursor, so a line
//! is one thing that was said, whatever somebody calls a database.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use config::LogFormat;
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
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z");
}

/// Year, month and day of so many days after 1970 began. Years are counted from March here, so that a leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // from the first of March of the year 0
    let days = days + 719_468;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // five months have 153 days, from March on
    let month = (5 * day + 2) / 153;
    let (day, year) = (day - (153 * month + 2) / 5 + 1, year + era * 400);
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
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
    fn dates_are_right_in_leap_years_and_others() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_782, (2024, 2, 29)),
            (20_781, (2026, 11, 24)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
            (2_932_896, (9999, 12, 31)),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
    }
}
