//! Texts that people write: statements and configurations; and snapshots, which a stranger could write to our socket.

use config::Config;
use dbproto::sql::{Backslash, Lexer, Token, fold};

use crate::Target;

/// Statements.
pub(crate) const SQL: Target = Target {
    name: "SQL",
    inputs: &[
        b"select a.\"b\"\"c\", 'it''s', E'\\'', $1::int from t -- comment\nwhere x = 1.5e3 and y @> '{}'",
        b"/* a /* nested */ */ select $tag$ ; $tag$, $$ ; $$ ; begin",
        b"insert into t values (1, U&'\\0041', b'01', x'ff', N'x')",
        b"select 1 as u&\"\\0061\" uescape '!'",
        b"select 'a' \n 'b', '' '' ; set x = \"\"",
        b"select '\xc3\xa4' || \"\xc3\xb6\"; \xff",
    ],
    words: &[b"'", b"\"", b"$$", b"$a$", b"/*", b"*/", b"--", b"\n", b"E'", b"U&'", b"\\", b"::", b";", b"=>", b"$1"],
    check: check_sql,
};

fn check_sql(text: &[u8]) {
    let base = text.as_ptr().addr();
    let mut counts = Vec::new();
    for backslash in [Backslash::Literal, Backslash::Unusual] {
        let mut lexer = Lexer::new(text, backslash);
        let (mut end, mut count) = (0, 0);
        let clear = loop {
            match lexer.poll_token() {
                Ok(None) => break true,
                Err(unclear) => {
                    assert!(unclear.at <= text.len());
                    break false;
                }
                Ok(Some(token)) => {
                    count += 1;
                    assert!(count <= text.len(), "more tokens than bytes");
                    if let Token::Word(piece) | Token::Quoted(piece) | Token::Operator(piece) = token {
                        let at = piece.as_ptr().addr() - base;
                        assert!(at >= end && at + piece.len() <= text.len(), "a token is where none is");
                        end = at + piece.len();
                    }
                    if let Some(name) = fold(token) {
                        assert!(name.len() <= text.len());
                    }
                }
            }
        };
        counts.push((clear, count));
    }
    // who does not trust backslashes is never surer than who does, and sees the same
    if let [usual, unusual] = counts[..] {
        assert!(!unusual.0 || usual == unusual, "{usual:?} {unusual:?}");
    }
    // where a clear text ends the next statement begins
    if counts.first().is_some_and(|(clear, _)| *clear) {
        let longer = [text, b"\n;"].concat();
        let with_more = tokens(&longer);
        assert_eq!(with_more.split_last(), Some((&Token::Punctuation(b';'), &tokens(text)[..])));
    }
}

fn tokens(text: &[u8]) -> Vec<Token<'_>> {
    let mut lexer = Lexer::new(text, Backslash::Literal);
    std::iter::from_fn(|| lexer.poll_token().ok().flatten()).collect()
}

/// Configurations.
pub(crate) const CONFIG: Target = Target {
    name: "configuration",
    inputs: &[
        b"[listen]\naddresses = [\"127.0.0.1:6432\"]\n[pool]\nsize = 20\nshare = \"on\"\n",
        b"[[database]]\nname = \"app\"\nhost = \"10.0.0.5\"\nport = 5432\n[[user]]\nname = \"alice\"\npassword = \"md5c0b6b2a5c0b6b2a5c0b6b2a5c0b6b2a5\"\n",
        b"[[user]]\nname = \"bob\"\ntrust = [\"127.0.0.0/8\", \"local\", \"::1/128\"]\n[limits]\nauth_timeout = \"10s\"\n",
        b"[runtime]\ncores = \"0-3,5\"\n[stats]\nsocket = \"/run/stats\"\n",
        b"[pool]\nsiz = 1\n",
    ],
    words: &[
        b"[pool]\n", b"[[user]]\n", b"size = ", b"\"10ms\"", b"-1", b"99999999999999999999", b"\"\"", b"[]", b"true", b"\n", b"0.5",
        b"\"0-99999999\"", b"\"127.0.0.1/64\"", b"trust = [\"::/129\"]\n",
    ],
    check: check_config,
};

fn check_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let first = Config::parse(text, "file");
    if let Err(errors) = &first {
        assert!(errors.iter().next().is_some(), "an error without a word");
        let lines = u32::try_from(text.split('\n').count()).unwrap();
        for error in errors.iter() {
            assert!(!error.message.is_empty());
            if let Some((line, column)) = error.place {
                assert!((1..=lines).contains(&line) && column >= 1, "{error} of {lines} lines");
            }
        }
        let places: Vec<_> = errors.iter().map(|error| error.place).collect();
        assert!(places.is_sorted(), "errors stand in the order of their lines: {places:?}");
    }
    let again = Config::parse(text, "file");
    assert_eq!(format!("{first:?}"), format!("{again:?}"), "the same text is read in the same way");
}

/// Snapshots of statistics.
pub(crate) const SNAPSHOT: Target = Target {
    name: "snapshot",
    inputs: &[b"OCST\0\0\0\x01\0\0\0\0", b"OCST\0\0\0\x01\xff\xff\xff\xff", b""],
    words: &[b"OCST", b"\0\0\0\x01"],
    check: check_snapshot,
};

fn check_snapshot(input: &[u8]) {
    // a length is not believed before its bytes are there
    assert!(stats::read(input).is_err() || input.starts_with(b"OCST"));
    if let Ok(snapshot) = stats::decode(input) {
        assert_eq!(stats::decode(&stats::encode(&snapshot)), Ok(snapshot));
    }
    // a real one, with a byte changed
    let real = stats::encode(&stats::Snapshot::default());
    if let [place, value, ..] = input {
        let mut changed = real;
        let len = changed.len();
        if let Some(byte) = changed.get_mut(usize::from(*place) % len.max(1)) {
            *byte = *value;
        }
        if let Ok(snapshot) = stats::decode(&changed) {
            assert_eq!(stats::decode(&stats::encode(&snapshot)), Ok(snapshot));
        }
    }
}
