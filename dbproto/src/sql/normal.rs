//! Statements without their constants: those that differ in constants only have one fingerprint and one normal text.
//!
//! A list of constants counts as one constant and "more", so that the length of an `IN` list makes no other statement.
//! Parameters are constants here: a statement is the same whether its values were bound or written into it.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "positions never leave the text, whose length is far below the type's end"
    )
)]

use super::{Backslash, Lexer, Token};

/// Longest text that is looked at; of longer ones the beginning counts.
pub const NORMAL_LEN_MAX: usize = 16 * 1024;

/// What came right before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Run {
    /// No constant.
    #[default]
    Other,
    /// One constant.
    One,
    /// One constant and a comma, which nothing was made of yet.
    OneComma,
    /// Several constants.
    List,
    /// Several constants and a comma.
    ListComma,
}

/// What a token adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Addition {
    Nothing,
    Constant,
    /// A second constant behind a comma: the first of a list's further ones.
    More,
    /// The token itself.
    Itself,
    /// The comma that was held back, then the token itself.
    CommaAndItself,
}

impl Run {
    fn add(&mut self, token: &Token<'_>) -> Addition {
        let (next, addition) = match (token, *self) {
            (Token::String | Token::Number | Token::Parameter(_), Self::OneComma) => (Self::List, Addition::More),
            (Token::String | Token::Number | Token::Parameter(_), Self::ListComma) => (Self::List, Addition::Nothing),
            (Token::String | Token::Number | Token::Parameter(_), Self::Other | Self::One | Self::List) => {
                (Self::One, Addition::Constant)
            }
            (Token::Punctuation(b','), Self::One) => (Self::OneComma, Addition::Nothing),
            (Token::Punctuation(b','), Self::List) => (Self::ListComma, Addition::Nothing),
            (_, Self::OneComma | Self::ListComma) => (Self::Other, Addition::CommaAndItself),
            (_, Self::Other | Self::One | Self::List) => (Self::Other, Addition::Itself),
        };
        *self = next;
        addition
    }
}

/// A number for a statement without its constants, made token by token. Semicolons make no difference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fingerprint {
    hash: u64,
    run: Run,
}

impl Fingerprint {
    /// The next token.
    pub fn add(&mut self, token: &Token<'_>) {
        if *token == Token::Punctuation(b';') {
            return;
        }
        match self.run.add(token) {
            Addition::Nothing => {}
            Addition::Constant => self.mix(b"?"),
            Addition::More => self.mix(b"?+"),
            Addition::Itself => self.mix_token(token),
            Addition::CommaAndItself => {
                self.mix(b",");
                self.mix_token(token);
            }
        }
    }

    /// Of what was added.
    #[must_use]
    pub const fn value(&self) -> u64 {
        self.hash
    }

    fn mix_token(&mut self, token: &Token<'_>) {
        match token {
            Token::Word(word) => {
                for byte in *word {
                    self.mix_byte(byte.to_ascii_lowercase());
                }
                self.hash = self.hash.rotate_left(7);
            }
            Token::Quoted(name) => {
                self.mix_byte(b'"');
                self.mix(name);
            }
            Token::Operator(operator) => self.mix(operator),
            Token::Punctuation(byte) => self.mix(&[*byte]),
            Token::Cast => self.mix(b"::"),
            Token::String | Token::Number | Token::Parameter(_) => self.mix(b"?"),
        }
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix_byte(*byte);
        }
        self.hash = self.hash.rotate_left(7);
    }

    const fn mix_byte(&mut self, byte: u8) {
        self.hash = (self.hash ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
    }
}

/// The fingerprint of a text; of one that becomes unclear, of what is clear of it.
#[must_use]
pub fn fingerprint(text: &[u8], backslash: Backslash) -> u64 {
    let mut lexer = Lexer::new(text.get(..NORMAL_LEN_MAX).unwrap_or(text), backslash);
    let mut out = Fingerprint::default();
    while let Ok(Some(token)) = lexer.poll_token() {
        out.add(&token);
    }
    out.value()
}

/// A text with `?` for constants, without comments, one space where any were; at most so many bytes and an ellipsis. What
/// becomes unclear is left out from there on: it may be a constant.
#[must_use]
pub fn normalize(text: &[u8], backslash: Backslash, len_max: usize) -> String {
    let mut lexer = Lexer::new(text.get(..NORMAL_LEN_MAX).unwrap_or(text), backslash);
    let mut out: Vec<u8> = Vec::new();
    let mut run = Run::default();
    let mut end = 0;
    let whole = loop {
        if lexer.skip_blank().is_err() || out.len() > len_max {
            break false;
        }
        let start = lexer.at;
        let token = match lexer.poll_token() {
            Ok(Some(token)) => token,
            Ok(None) => break text.len() <= NORMAL_LEN_MAX,
            Err(_) => break false,
        };
        let blank: &[u8] = if start > end && end > 0 { b" " } else { b"" };
        end = lexer.at;
        match run.add(&token) {
            Addition::Nothing => {}
            Addition::Constant => out.extend([blank, b"?"].concat()),
            Addition::More => out.extend(b", ..."),
            Addition::Itself => out.extend([blank, lexer.slice(start, end)].concat()),
            Addition::CommaAndItself => out.extend([b",", blank, lexer.slice(start, end)].concat()),
        }
    };
    while matches!(out.last(), Some(b';' | b' ')) {
        out.pop();
    }
    let whole = whole && out.len() <= len_max;
    let mut out = String::from_utf8_lossy(&out).into_owned();
    let mut cut = len_max.min(out.len());
    while !out.is_char_boundary(cut) {
        cut -= 1;
    }
    out.truncate(cut);
    if !whole {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        normalize(text.as_bytes(), Backslash::Literal, 200)
    }

    fn number(text: &str) -> u64 {
        fingerprint(text.as_bytes(), Backslash::Literal)
    }

    #[test]
    fn constants_comments_and_blanks_are_taken_out() {
        for (text, expected) in [
            ("SELECT abalance FROM t WHERE aid = 17;", "SELECT abalance FROM t WHERE aid = ?"),
            ("select $1::int, 'a''b' , E'\\'x' || $$d$$", "select ?::int, ?, ... || ?"),
            ("select a  -- one\n , /* two */ b", "select a , b"),
            ("insert into t values (1, 'x', -2.5e3)", "insert into t values (?, ..., -?)"),
            ("where a in(1,2,3) and b in ($1, $2)", "where a in(?, ...) and b in (?, ...)"),
            ("select 1, a", "select ?, a"),
            ("begin; select \"Ä b\"", "begin; select \"Ä b\""),
            ("", ""),
            (" ; ", ""),
        ] {
            assert_eq!(normal(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_clear_may_be_a_constant_and_is_left_out() {
        assert_eq!(normal("alter user x password 'secret"), "alter user x password…");
        assert_eq!(normalize(b"select 'it\\'s secret'", Backslash::Unusual, 200), "select…");
        assert_eq!(normal("/* secret"), "…");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = format!("select \"{}\"", "ä".repeat(200));
        let normal = normal(&text);
        assert!(normal.len() <= 200 + '…'.len_utf8() && normal.ends_with("ä…"), "{normal}");
        let longest = "select 1 ".repeat(NORMAL_LEN_MAX / 4);
        assert!(normalize(longest.as_bytes(), Backslash::Literal, usize::MAX).ends_with('…'));
    }

    #[test]
    fn one_fingerprint_for_statements_with_one_normal_text() {
        let same = [
            ("select 1", "SELECT  'x';"),
            ("select * from t where a in (1, 2)", "select * from t where a in ($1,$2,$3)"),
            ("select a/* c */from t", "select a from t"),
        ];
        for (a, b) in same {
            assert_eq!(number(a), number(b), "{a} and {b}");
        }
        let different = [
            ("select a from t", "select b from t"),
            ("select 1", "select 1, 2"),
            ("select 1, a", "select 1 a"),
            ("select \"T\"", "select \"t\""),
            ("select ab c", "select a bc"),
            ("select 1::int", "select 1"),
        ];
        for (a, b) in different {
            assert_ne!(number(a), number(b), "{a} and {b}");
        }
    }
}
