//! `RESET` and `SET .. TO DEFAULT` of what the start-up packet has set.
//!
//! To Postgres the defaults of a session are what it was connected with. A server connection of ours was connected for
//! anybody, so it falls back to values of its own. The client's statement is given our words behind it, or in its place, that
//! set what the session began with. They are `SET`s and no `SELECT`s: in a transaction they take no snapshot, and end with it as
//! the client's own would. A list is written as `SET` writes it, in the usual form of the same value.

use bytes::BytesMut;
use dbproto::message::MessageError;
use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};
use dbproto::sql::{Backslash, Lexer, Token, fold};

use super::Writer;
use crate::dress::{Dress, Setting, literal, write_identifier};
use crate::pipe::Mark;
use crate::session::Reading;

/// Longest text that is looked at.
const TEXT_LEN_MAX: usize = 1024;

/// Settings whose value is a list of names. `SET` takes a string for one of them, where a start-up packet has all.
const LISTS: [&str; 3] = ["search_path", "temp_tablespaces", "session_preload_libraries"];

/// What is written in place of a client's statement.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Back {
    text: String,
    mark: Mark,
}

/// How much is taken back.
#[derive(PartialEq, Eq, Debug)]
enum Extent {
    /// By `RESET`.
    One(String),
    /// By `RESET ALL`.
    All,
    /// By `SET .. TO DEFAULT`; the words in front of the name.
    Default(&'static str, String),
}

impl Extent {
    /// Reads a statement of a session that reads as usual; none if it is anything else.
    fn read(text: &[u8]) -> Option<Self> {
        let first = text.trim_ascii_start().first().copied().unwrap_or_default();
        if text.len() > TEXT_LEN_MAX || !b"sSrR".contains(&first) {
            return None;
        }
        let mut lexer = Lexer::new(text, Backslash::Literal);
        let mut tokens = Vec::new();
        while let Some(token) = lexer.poll_token().ok()? {
            tokens.push(token);
        }
        if tokens.last() == Some(&Token::Punctuation(b';')) {
            tokens.pop();
        }
        let (verb, rest) = tokens.split_first()?;
        if is_word(*verb, "reset") {
            return match rest {
                [all] if is_word(*all, "all") => Some(Self::All),
                _ => Some(Self::One(name_of(rest)?)),
            };
        }
        if !is_word(*verb, "set") {
            return None;
        }
        let (words, rest) = match rest {
            [scope, rest @ ..] if is_word(*scope, "local") => ("SET LOCAL ", rest),
            [scope, rest @ ..] if is_word(*scope, "session") => ("SET ", rest),
            _ => ("SET ", rest),
        };
        let name = match rest {
            [time, zone, last]
                if is_time_zone(&[*time, *zone]) && (is_word(*last, "local") || is_word(*last, "default")) =>
            {
                rest.get(..2)?
            }
            [name @ .., to, last]
                if (*to == Token::Operator(b"=") || is_word(*to, "to")) && is_word(*last, "default") =>
            {
                name
            }
            _ => return None,
        };
        Some(Self::Default(words, name_of(name)?))
    }

    /// What is written for a session that began with these settings; none if they have nothing to do with it.
    fn back(&self, text: &[u8], began: &Dress) -> Option<Back> {
        let mut out = String::new();
        match self {
            Self::Default(words, name) => {
                write_set(&mut out, words, began.setting(name)?)?;
                Some(Back { text: out, mark: Mark::None })
            }
            Self::One(_) | Self::All => {
                let text = std::str::from_utf8(text).ok()?.trim_end();
                out.push_str(text.strip_suffix(';').unwrap_or(text));
                // the end of a comment
                out.push('\n');
                let wanted = |setting: &&Setting| match self {
                    Self::One(name) => *setting.name == **name,
                    Self::All | Self::Default(..) => !setting.is_identity(),
                };
                let mut count: usize = 0;
                for setting in began.settings().iter().filter(wanted) {
                    write_set(&mut out, ";SET ", setting)?;
                    count += 1;
                }
                (count > 0).then_some(Back { text: out, mark: Mark::Restore })
            }
        }
    }
}

impl Writer<'_> {
    /// What to write for a text that takes back what the session began with; none for every other.
    pub(super) fn way_back(&self, text: &[u8]) -> Option<Back> {
        let began = &self.session.login_dress;
        if began.settings().is_empty() || self.session.reading != Reading::Usual {
            return None;
        }
        Extent::read(text)?.back(text, began)
    }

    /// Writes it.
    pub(super) fn write_back(&mut self, out: &mut BytesMut, back: &Back) -> Result<(), MessageError> {
        self.forget_unnamed();
        self.push(Owed::client(Expect::Query).marked(back.mark.encode()));
        frontend::write_query(out, back.text.as_bytes())
    }
}

/// A statement that sets one to the value it has; none where that is not known.
fn write_set(out: &mut String, words: &str, setting: &Setting) -> Option<()> {
    let value = setting.value.as_deref()?;
    out.push_str(words);
    write_identifier(out, &setting.name);
    out.push_str(" TO ");
    match &*setting.name {
        name if LISTS.contains(&name) => {
            let names: Vec<String> = names_in(value)?.iter().map(|name| literal(name)).collect();
            out.push_str(if names.is_empty() { "''" } else { "" });
            out.push_str(&names.join(", "));
        }
        // what it does not name stays as it is just now, and is to be as it was at the beginning
        "datestyle" => out.push_str(&literal(&format!("{value}, DEFAULT"))),
        _ => out.push_str(&literal(value)),
    }
    Some(())
}

/// The names in a list as Postgres reads it from a value; none if it would not.
fn names_in(value: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = value.trim();
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let mut name = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (part, after) = quoted.split_once('"')?;
                name.push_str(part);
                let Some(more) = after.strip_prefix('"') else {
                    rest = after;
                    break;
                };
                name.push('"');
                quoted = more;
            }
        } else {
            let end = rest.find(|character: char| character == ',' || character.is_ascii_whitespace());
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            if word.is_empty() || !word.is_ascii() {
                return None;
            }
            name = word.to_ascii_lowercase();
            rest = after;
        }
        names.push(name);
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?.trim_start();
    }
}

fn is_word(token: Token<'_>, word: &str) -> bool {
    matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word.as_bytes()))
}

fn is_time_zone(tokens: &[Token<'_>]) -> bool {
    matches!(tokens, [time, zone] if is_word(*time, "time") && is_word(*zone, "zone"))
}

/// A parameter's name; `TIME ZONE` is one too.
fn name_of(tokens: &[Token<'_>]) -> Option<String> {
    if is_time_zone(tokens) {
        return Some("timezone".to_owned());
    }
    let mut name = String::new();
    for (index, token) in tokens.iter().enumerate() {
        if index % 2 == 1 {
            (*token == Token::Punctuation(b'.')).then(|| name.push('.'))?;
        } else {
            name.push_str(std::str::from_utf8(&fold(*token)?).ok()?);
        }
    }
    (tokens.len() % 2 == 1).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Option<String> {
        let began = [
            ("DateStyle", "ISO"),
            ("TimeZone", "PST8PDT"),
            ("app.Tenant", "it's"),
            ("role", "x"),
            ("search_path", "\"$user\", Public"),
        ];
        let began = Dress::from_startup(began.into_iter());
        Extent::read(text.as_bytes())?.back(text.as_bytes(), &began).map(|back| back.text)
    }

    #[test]
    fn what_the_session_began_with_is_set_behind_a_reset() {
        for (text, expected) in [
            ("RESET timezone;", "RESET timezone\n;SET \"timezone\" TO 'PST8PDT'"),
            ("reset Time Zone -- now", "reset Time Zone -- now\n;SET \"timezone\" TO 'PST8PDT'"),
            ("reset datestyle", "reset datestyle\n;SET \"datestyle\" TO 'ISO, DEFAULT'"),
            ("reset app.tenant", "reset app.tenant\n;SET \"app\".\"tenant\" TO 'it''s'"),
            ("reset \"search_path\"", "reset \"search_path\"\n;SET \"search_path\" TO '$user', 'public'"),
            ("reset role", "reset role\n;SET \"role\" TO 'x'"),
        ] {
            assert_eq!(written(text).as_deref(), Some(expected));
        }
        let all = written("RESET ALL").unwrap();
        assert!(all.starts_with("RESET ALL\n;SET \"app\"") && all.matches(";SET").count() == 4, "{all}");
    }

    #[test]
    fn a_default_is_what_the_session_began_with() {
        for (text, expected) in [
            ("set timezone to default", "SET \"timezone\" TO 'PST8PDT'"),
            ("SET LOCAL TimeZone = DEFAULT;", "SET LOCAL \"timezone\" TO 'PST8PDT'"),
            ("set timezone = default", "SET \"timezone\" TO 'PST8PDT'"),
            ("set time zone local", "SET \"timezone\" TO 'PST8PDT'"),
            ("set session time zone default", "SET \"timezone\" TO 'PST8PDT'"),
        ] {
            assert_eq!(written(text).as_deref(), Some(expected));
        }
    }

    #[test]
    fn everything_else_is_left_alone() {
        for text in [
            "reset work_mem",
            "set work_mem to default",
            "set timezone to 'UTC'",
            "set timezone to default, default",
            "reset timezone; select 1",
            "reset session authorization",
            "set role none",
            "select 1",
            "",
        ] {
            assert_eq!(written(text), None, "{text}");
        }
    }

    #[test]
    fn lists_are_taken_apart_as_postgres_does() {
        let names = |text| names_in(text).map(|names| names.join("|"));
        assert_eq!(names("a, \"B \"\"c\" ,D").as_deref(), Some("a|B \"c|d"));
        assert_eq!(names(" ").as_deref(), Some(""));
        for text in ["a b", "\"a", "a,", ",a", "\"a\"b"] {
            assert_eq!(names(text), None, "{text}");
        }
    }
}
