//! A lexer for SQL as PostgreSQL reads it: enough to tell where statements, strings and comments begin and end, and which
//! names a statement uses. It never guesses: what could be read in two ways is [`Unclear`].
//!
//! Source: "Lexical Structure" (chapter 4.1) of the PostgreSQL manual. How bytes are read depends on two settings of the
//! session: `standard_conforming_strings` ([`Backslash`]) and `client_encoding` ([`is_ascii_safe`]).

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "positions never leave the text, whose length is far below the type's end"
    )
)]

use std::fmt;

/// How a backslash in a plain string reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backslash {
    /// `standard_conforming_strings = on`: as itself.
    Literal,
    /// The setting is off, or nobody knows: a plain string with a backslash is unclear.
    Unusual,
}

/// The text cannot be read with certainty, or PostgreSQL would refuse it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unclear {
    /// Where, in bytes from the start.
    pub at: usize,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the statement is unclear at byte {}", self.at)
    }
}

impl std::error::Error for Unclear {}

/// A token. Comments and white space are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token<'a> {
    /// A key word or an unquoted name, as written.
    Word(&'a [u8]),
    /// A quoted name: what is between the quotes, with quotes inside still doubled.
    Quoted(&'a [u8]),
    /// A string constant of any form.
    String,
    /// A numeric constant.
    Number,
    /// `$1`.
    Parameter(u32),
    /// An operator, `=>` included.
    Operator(&'a [u8]),
    /// `::`.
    Cast,
    /// One of `( ) [ ] , ; . :`; `:=` is a `:` and an operator.
    Punctuation(u8),
}

/// Whether in this `client_encoding` every byte below 128 is the ASCII character it looks like.
#[must_use]
pub fn is_ascii_safe(encoding: &[u8]) -> bool {
    let unsafe_ones: [&[u8]; 10] =
        [b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFT_JIS_2004", b"MSKANJI", b"SHIFTJIS", b"WIN"];
    let known: [&[u8]; 5] = [b"UTF8", b"UNICODE", b"SQL_ASCII", b"LATIN", b"EUC_"];
    !unsafe_ones.iter().any(|name| encoding.eq_ignore_ascii_case(name))
        && known.iter().any(|name| encoding.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)))
}

/// Reads tokens off a text. After [`Unclear`] nothing more can be said.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    backslash: Backslash,
}

impl<'a> Lexer<'a> {
    /// At the beginning of `text`, without the protocol's terminating zero.
    #[must_use]
    pub const fn new(text: &'a [u8], backslash: Backslash) -> Self {
        Self { text, at: 0, backslash }
    }

    /// How many bytes have been read: where the last token ends.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// The next token; none at the end.
    ///
    /// # Errors
    /// When the text cannot be read with certainty.
    pub fn poll_token(&mut self) -> Result<Option<Token<'a>>, Unclear> {
        self.skip_blank()?;
        let start = self.at;
        let Some(byte) = self.peek(0) else { return Ok(None) };
        let token = match byte {
            b'\'' => self.string(self.backslash)?,
            b'"' => self.quoted()?,
            b'$' => self.dollar()?,
            b'0'..=b'9' => self.number()?,
            b'.' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => self.number()?,
            b':' if self.peek(1) == Some(b':') => {
                self.at += 2;
                Token::Cast
            }
            b'(' | b')' | b'[' | b']' | b',' | b';' | b'.' | b':' => {
                self.at += 1;
                Token::Punctuation(byte)
            }
            _ if is_operator(byte) => self.operator(),
            _ if is_name_start(byte) => self.word()?,
            _ => return Err(Unclear { at: start }),
        };
        Ok(Some(token))
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        self.text.get(start..end).unwrap_or_default()
    }

    fn skip_blank(&mut self) -> Result<(), Unclear> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0c), _) => self.at += 1,
                (Some(b'-'), Some(b'-')) => self.skip_line(),
                (Some(b'/'), Some(b'*')) => self.skip_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        let len = self.rest().iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        self.at += len.unwrap_or_else(|| self.rest().len());
    }

    /// Comments nest.
    fn skip_comment(&mut self) -> Result<(), Unclear> {
        let start = self.at;
        let mut depth: usize = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(Unclear { at: start }),
            }
        }
    }

    /// At the opening quote. `escapes`: how a backslash reads; [`Backslash::Unusual`] makes one unclear.
    fn string(&mut self, backslash: Backslash) -> Result<Token<'a>, Unclear> {
        self.quoted_run(Some(backslash))?;
        Ok(Token::String)
    }

    /// Runs to behind the closing quote of a string, and of the strings that continue it on later lines. Without
    /// `plain`, backslashes escape.
    fn quoted_run(&mut self, plain: Option<Backslash>) -> Result<(), Unclear> {
        let start = self.at;
        self.at += 1;
        loop {
            match (self.peek(0), plain) {
                (None, _) => return Err(Unclear { at: start }),
                (Some(b'\''), _) if self.peek(1) == Some(b'\'') => self.at += 2,
                (Some(b'\''), _) => {
                    self.at += 1;
                    if !self.enter_continuation()? {
                        return Ok(());
                    }
                }
                (Some(b'\\'), None) => self.at += 2,
                (Some(b'\\'), Some(Backslash::Unusual)) => return Err(Unclear { at: self.at }),
                (Some(_), _) => self.at += 1,
            }
        }
    }

    /// Whether the string goes on after white space with a line break in it; then we are behind its next quote.
    fn enter_continuation(&mut self) -> Result<bool, Unclear> {
        let mut ahead = self.clone();
        let behind = ahead.at;
        loop {
            match (ahead.peek(0), ahead.peek(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0c), _) => ahead.at += 1,
                (Some(b'-'), Some(b'-')) => ahead.skip_line(),
                _ => break,
            }
        }
        let broken = self.slice(behind, ahead.at).iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        if broken && ahead.peek(0) == Some(b'\'') {
            self.at = ahead.at + 1;
            return Ok(true);
        }
        Ok(false)
    }

    fn quoted(&mut self) -> Result<Token<'a>, Unclear> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek(0) {
                None => return Err(Unclear { at: start }),
                Some(b'"') if self.peek(1) == Some(b'"') => self.at += 2,
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Token::Quoted(self.slice(start + 1, self.at - 1)));
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn dollar(&mut self) -> Result<Token<'a>, Unclear> {
        let start = self.at;
        let digits = self.rest().get(1..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            self.at += 1 + digits;
            let number = std::str::from_utf8(self.slice(start + 1, self.at)).ok().and_then(|text| text.parse().ok());
            return match (number, self.peek(0)) {
                (Some(number), next) if !next.is_some_and(is_name_start) => Ok(Token::Parameter(number)),
                _ => Err(Unclear { at: start }),
            };
        }
        let tag = self.rest().get(1..).unwrap_or_default();
        let len = tag.iter().take_while(|byte| is_name_part(**byte) && **byte != b'$').count();
        if tag.get(len) != Some(&b'$') {
            return Err(Unclear { at: start });
        }
        let delimiter = self.slice(start, start + len + 2);
        let body = self.slice(start + delimiter.len(), self.text.len());
        let end = find(body, delimiter).ok_or(Unclear { at: start })?;
        self.at = start + delimiter.len() + end + delimiter.len();
        Ok(Token::String)
    }

    fn number(&mut self) -> Result<Token<'a>, Unclear> {
        let start = self.at;
        self.digits();
        // `1..2` is a range, not a fraction
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
            if self.peek(1 + sign).is_some_and(|byte| byte.is_ascii_digit()) {
                self.at += 1 + sign;
                self.digits();
            }
        }
        // versions differ on `1x`, `0x1` and `1_000`
        if self.peek(0).is_some_and(is_name_part) {
            return Err(Unclear { at: start });
        }
        Ok(Token::Number)
    }

    fn digits(&mut self) {
        self.at += self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
    }

    fn operator(&mut self) -> Token<'a> {
        let start = self.at;
        let run = self.rest();
        let mut len = run.iter().take_while(|byte| is_operator(**byte)).count();
        // a comment ends it
        for index in 1..len {
            if matches!(run.get(index..index + 2), Some(b"--" | b"/*")) {
                len = index;
                break;
            }
        }
        // a trailing sign belongs to what follows, unless a character marks the whole as one operator
        let marked = run.iter().take(len).any(|byte| b"~!@#^&|`?%".contains(byte));
        if !marked {
            while len > 1 && matches!(run.get(len - 1), Some(b'+' | b'-')) {
                len -= 1;
            }
        }
        self.at += len;
        Token::Operator(self.slice(start, self.at))
    }

    /// A word, or a string with letters before its quote.
    fn word(&mut self) -> Result<Token<'a>, Unclear> {
        let start = self.at;
        match (self.peek(0), self.peek(1), self.peek(2)) {
            (Some(b'e' | b'E'), Some(b'\''), _) => {
                self.at += 1;
                self.quoted_run(None)?;
                return Ok(Token::String);
            }
            (Some(b'b' | b'B' | b'x' | b'X' | b'n' | b'N'), Some(b'\''), _) => {
                self.at += 1;
                return self.string(self.backslash);
            }
            // how it reads depends on an UESCAPE clause behind it
            (Some(b'u' | b'U'), Some(b'&'), Some(b'\'' | b'"')) => return Err(Unclear { at: start }),
            _ => {}
        }
        self.at += self.rest().iter().take_while(|byte| is_name_part(**byte)).count();
        Ok(Token::Word(self.slice(start, self.at)))
    }
}

/// A name as PostgreSQL looks it up: unquoted letters folded (ASCII only), quotes inside quotes single.
#[must_use]
pub fn fold(token: Token<'_>) -> Option<Vec<u8>> {
    match token {
        Token::Word(word) => Some(word.to_ascii_lowercase()),
        Token::Quoted(name) => {
            let mut out = Vec::with_capacity(name.len());
            let mut bytes = name.iter();
            while let Some(byte) = bytes.next() {
                out.push(*byte);
                if *byte == b'"' {
                    bytes.next();
                }
            }
            Some(out)
        }
        Token::String
        | Token::Number
        | Token::Parameter(_)
        | Token::Operator(_)
        | Token::Cast
        | Token::Punctuation(_) => None,
    }
}

const fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

const fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_name_part(byte: u8) -> bool {
    is_name_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests;
