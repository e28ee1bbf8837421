//! `SET` and `RESET` that a session carries from one server connection to the next.
//!
//! A statement that is nothing but one of them, outside a transaction, changes the session's [`Dress`] once Postgres has
//! accepted it: from then on every connection wears it before the session's requests run there. All other ways to change a
//! setting keep the session on its connection.

use std::rc::Rc;

use dbproto::sql::{Backslash, Lexer, Token, fold};

use crate::dress::Dress;

/// Longest statement that is carried, and settings of one session.
const TEXT_LEN_MAX: usize = 1024;
const SETTINGS_MAX: usize = 64;

/// What such a statement does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Setting {
    /// Sets a parameter; the words that do it again elsewhere.
    Set { name: String, apply: String },
    /// Takes one back to what the session began with; the connection falls back to a value of its own.
    Reset { name: String },
    /// Takes all back.
    ResetAll,
    /// Takes one back, and the connection too, by words of ours (see `session::write::restore`).
    Restore { name: String },
    /// Takes all back, and the connection too.
    RestoreAll,
}

impl Setting {
    /// Reads a statement that a session which reads as usual has sent; none if it is anything else.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        // a look at the first letter spares the rest to nearly all statements
        let first = text.trim_ascii_start().first().copied().unwrap_or_default();
        if text.len() > TEXT_LEN_MAX || !b"sSrRcCuU".contains(&first) {
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
        if tokens.contains(&Token::Punctuation(b';')) {
            return is_clean_sweep(&tokens).then_some(Self::ResetAll);
        }
        let (verb, mut rest) = tokens.split_first()?;
        if is_word(*verb, "reset") {
            return match rest {
                [all] if is_word(*all, "all") => Some(Self::ResetAll),
                [time, zone] if is_word(*time, "time") && is_word(*zone, "zone") => {
                    Some(Self::Reset { name: "timezone".to_owned() })
                }
                name => Some(Self::Reset { name: parameter(name)? }),
            };
        }
        if !is_word(*verb, "set") {
            return None;
        }
        if let [session, after @ ..] = rest
            && is_word(*session, "session")
        {
            rest = after;
        }
        if let [time, zone, ..] = rest
            && is_word(*time, "time")
            && is_word(*zone, "zone")
        {
            let name = "timezone".to_owned();
            return match rest {
                [_, _, only] if is_word(*only, "local") || is_word(*only, "default") => Some(Self::Reset { name }),
                _ => Some(Self::Set { name, apply: apply(text)? }),
            };
        }
        let equals = rest.iter().position(|token| *token == Token::Operator(b"=") || is_word(*token, "to"))?;
        let (name, value) = rest.split_at_checked(equals)?;
        let name = parameter(name)?;
        match value {
            [_, only] if is_word(*only, "default") => Some(Self::Reset { name }),
            // its value adds to what it was
            _ if name == "datestyle" => None,
            [_, _, ..] => Some(Self::Set { name, apply: apply(text)? }),
            _ => None,
        }
    }

    /// Whether it takes something back.
    pub(crate) const fn is_reset(&self) -> bool {
        matches!(self, Self::Reset { .. } | Self::ResetAll | Self::Restore { .. } | Self::RestoreAll)
    }

    /// What the session and the connection wear after it: `worn` by the connection, `own` by the session, which began with
    /// `first`. None when there are too many.
    pub(crate) fn change(&self, own: &Rc<Dress>, worn: &Rc<Dress>, first: &Dress) -> Option<(Rc<Dress>, Rc<Dress>)> {
        match self {
            Self::Set { name, apply } => {
                let next = own.with(name, apply);
                (next.settings().len() <= SETTINGS_MAX).then(|| (next, worn.with(name, apply)))
            }
            Self::Reset { name } => {
                let first = first.settings().iter().find(|setting| *setting.name == **name);
                let next = first.map_or_else(|| own.without(name), |setting| own.with_same(setting));
                Some((next, worn.without(name)))
            }
            Self::ResetAll => Some((first.as_whom(own), Dress::default().as_whom(worn))),
            Self::Restore { name } => {
                let began = first.setting(name)?;
                Some((own.with_same(began), worn.with_same(began)))
            }
            Self::RestoreAll => Some((first.as_whom(own), first.as_whom(worn))),
        }
    }
}

/// What drivers send when a connection goes back to their own pool: statements that let go of things, and `RESET ALL`.
fn is_clean_sweep(tokens: &[Token<'_>]) -> bool {
    let mut resets: usize = 0;
    let all_let_go = tokens.split(|token| *token == Token::Punctuation(b';')).all(|statement| {
        let words: Vec<&str> = statement
            .iter()
            .map(|token| {
                if let Token::Word(word) | Token::Operator(word) = token {
                    return std::str::from_utf8(word).unwrap_or_default();
                }
                let marks = [(b'(', "("), (b')', ")"), (b'.', ".")];
                marks.into_iter().find(|(byte, _)| *token == Token::Punctuation(*byte)).map_or("?", |(_, text)| text)
            })
            .collect();
        let text = words.join(" ").to_ascii_lowercase();
        resets += usize::from(text == "reset all");
        [
            "",
            "reset all",
            "close all",
            "unlisten *",
            "select pg_advisory_unlock_all ( )",
            "select pg_catalog . pg_advisory_unlock_all ( )",
        ]
        .contains(&text.as_str())
    });
    all_let_go && resets == 1
}

fn is_word(token: Token<'_>, word: &str) -> bool {
    matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word.as_bytes()))
}

/// A parameter's name, if it is one whose value is all there is to it.
fn parameter(tokens: &[Token<'_>]) -> Option<String> {
    let mut name = String::new();
    for (index, token) in tokens.iter().enumerate() {
        if index % 2 == 1 {
            (*token == Token::Punctuation(b'.')).then(|| name.push('.'))?;
        } else {
            name.push_str(std::str::from_utf8(&fold(*token)?).ok()?);
        }
    }
    let name = name.to_ascii_lowercase();
    // these are more than values, or words of the grammar
    let peculiar = [
        "role",
        "session_authorization",
        "seed",
        "local",
        "session",
        "transaction",
        "constraints",
        "names",
        "schema",
        "xml",
        "transaction_isolation",
        "transaction_read_only",
        "transaction_deferrable",
        "all",
        "catalog",
        "time",
        "zone",
    ];
    (tokens.len() % 2 == 1 && name.is_ascii() && !peculiar.contains(&name.as_str())).then_some(name)
}

fn apply(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.trim();
    Some(text.strip_suffix(';').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, apply: &str) -> Option<Setting> {
        Some(Setting::Set { name: name.to_owned(), apply: apply.to_owned() })
    }

    #[test]
    fn a_lone_set_is_read() {
        assert_eq!(Setting::read(b"SET work_mem = '1MB';"), set("work_mem", "SET work_mem = '1MB'"));
        assert_eq!(
            Setting::read(b" set session Search_Path to a, \"B\""),
            set("search_path", "set session Search_Path to a, \"B\"")
        );
        assert_eq!(Setting::read(b"set app.tenant = 7"), set("app.tenant", "set app.tenant = 7"));
        assert_eq!(Setting::read(b"SET TIME ZONE 'UTC'"), set("timezone", "SET TIME ZONE 'UTC'"));
        assert_eq!(Setting::read(b"set work_mem to default"), Some(Setting::Reset { name: "work_mem".into() }));
        assert_eq!(Setting::read(b"reset Work_mem"), Some(Setting::Reset { name: "work_mem".into() }));
        assert_eq!(Setting::read(b"RESET ALL"), Some(Setting::ResetAll));
        for text in ["reset time zone", "set time zone local", "set session time zone default", "reset timezone"] {
            assert_eq!(Setting::read(text.as_bytes()), Some(Setting::Reset { name: "timezone".into() }), "{text}");
        }
        assert_eq!(Setting::read(b"reset app.\"Tenant\";"), Some(Setting::Reset { name: "app.tenant".into() }));
        assert_eq!(Setting::read(b"reset datestyle"), Some(Setting::Reset { name: "datestyle".into() }));
    }

    #[test]
    fn what_is_more_than_a_value_is_not() {
        for text in [
            "set local work_mem = '1MB'",
            "set role to x",
            "set session authorization default",
            "set session characteristics as transaction read only",
            "set transaction isolation level serializable",
            "set constraints all deferred",
            "set names 'utf8'",
            "set work_mem = 1; select 2",
            "set work_mem",
            "set \"role\" = x",
            "set 'a' = 1",
            "set datestyle to iso",
            "reset session authorization",
            "select 1",
            "reset role",
            "set work_mem = '1",
        ] {
            assert_eq!(Setting::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_a_driver_sends_to_let_go_of_everything_is_a_reset() {
        let text = b"SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
        assert_eq!(Setting::read(text), Some(Setting::ResetAll));
        assert_eq!(Setting::read(b"select f(); reset all"), None);
        assert_eq!(Setting::read(b"close all; unlisten *"), None);
    }

    #[test]
    fn a_reset_goes_back_to_what_the_session_began_with() {
        let first = Dress::from_startup([("work_mem", "2MB")].into_iter());
        let begin = Rc::new(first.clone());
        let (own, worn) = Setting::read(b"set work_mem = '1MB'").unwrap().change(&begin, &begin, &first).unwrap();
        assert_eq!(own.fingerprint(), worn.fingerprint());
        assert_ne!(own.fingerprint(), first.fingerprint());
        let (own, worn) = Setting::read(b"reset work_mem").unwrap().change(&own, &worn, &first).unwrap();
        assert_eq!(own.fingerprint(), first.fingerprint());
        assert_eq!(worn.fingerprint(), 0, "the connection itself knows nothing of the session's beginning");
        let (own, worn) = Setting::ResetAll.change(&own, &worn, &first).unwrap();
        assert_eq!((own.fingerprint(), worn.fingerprint()), (first.fingerprint(), 0));
        let back = Setting::Restore { name: "work_mem".to_owned() };
        let (own, worn) = Setting::read(b"set work_mem = '1MB'").unwrap().change(&own, &worn, &first).unwrap();
        let (own, worn) = back.change(&own, &worn, &first).unwrap();
        assert_eq!((own.fingerprint(), worn.fingerprint()), (first.fingerprint(), first.fingerprint()));
        assert_eq!(Setting::Restore { name: "jit".to_owned() }.change(&own, &worn, &first), None);
    }

    #[test]
    fn resetting_all_leaves_who_one_is() {
        let first = Dress::from_startup([("work_mem", "2MB"), ("role", "a")].into_iter());
        let now = Rc::new(Dress::from_startup([("work_mem", "1MB"), ("role", "b")].into_iter()));
        let still = |settings: &[(&str, &str)]| Rc::new(Dress::from_startup(settings.iter().copied()));
        let began = still(&[("work_mem", "2MB"), ("role", "b")]);
        assert_eq!(Setting::ResetAll.change(&now, &now, &first), Some((Rc::clone(&began), still(&[("role", "b")]))));
        assert_eq!(Setting::RestoreAll.change(&now, &now, &first), Some((Rc::clone(&began), began)));
    }
}
