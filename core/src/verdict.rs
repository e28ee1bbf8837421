//! What a request's text allows: may it travel with others, and what does it leave on its server connection?
//!
//! An allow-list of shapes and, for every name in them, the catalog's word. Anything that is not understood to the last
//! token is [`Verdict::UNKNOWN`], which is always right: such a request gets a connection of its own and that connection is
//! cleaned before anybody else has it.

use dbproto::sql::{Backslash, Fingerprint, Lexer, Token, fold};

use crate::catalog::{Catalog, Harmless};
use crate::pipe::Soil;

/// Whether a request may stand between requests of other sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sharing {
    /// One statement that only reads, waits for nobody and leaves nothing behind.
    Possible,
    /// Not that, or not known to be.
    Impossible,
}

/// See the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) sharing: Sharing,
    pub(crate) soil: Soil,
    /// The text with its constants taken out: statements that differ in them only are one kind. For statistics, never for
    /// a decision about safety.
    pub(crate) kind: u64,
}

impl Verdict {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Self = Self { sharing: Sharing::Impossible, soil: Soil::Unknown, kind: 0 };

    /// Whether it is one statement that only reads and leaves nothing behind.
    pub(crate) fn is_pure_read(&self) -> bool {
        self.sharing == Sharing::Possible
    }
}

/// Longest text that is judged; longer ones are not worth the time.
const TEXT_LEN_MAX: usize = 16 * 1024;
/// Parentheses inside each other that are followed.
const DEPTH_MAX: usize = 64;

/// Judges the text of a Query or Parse.
pub(crate) fn judge(text: &[u8], backslash: Backslash, catalog: &Catalog) -> Verdict {
    if text.len() > TEXT_LEN_MAX || catalog.hidden() == Harmless::No {
        return Verdict::UNKNOWN;
    }
    let mut reader = Reader::new(text, backslash, catalog);
    let mut verdict = Verdict { sharing: Sharing::Impossible, soil: Soil::Clean, kind: 0 };
    let mut statements: usize = 0;
    loop {
        match reader.statement() {
            Ok(Some(found)) => {
                statements += 1;
                verdict.soil = verdict.soil.max(found.soil);
                verdict.sharing = found.sharing;
            }
            Ok(None) => break,
            Err(Unknown) => {
                while reader.advance().is_some() {}
                return Verdict { kind: reader.kind.value(), ..Verdict::UNKNOWN };
            }
        }
    }
    if statements != 1 {
        verdict.sharing = Sharing::Impossible;
    }
    verdict.kind = reader.kind.value();
    verdict
}

/// Judges an expression that a write evaluates (a default, a check, an index expression).
pub(crate) fn judge_expression(text: &[u8], catalog: &Catalog) -> Soil {
    let mut reader = Reader::new(text, Backslash::Literal, catalog);
    let mut found = Found { shape: Shape::Read, sharing: Sharing::Possible, soil: Soil::Clean };
    match reader.rest_of_statement(&mut found) {
        Ok(()) if reader.next.is_none() => found.soil,
        _ => Soil::Unknown,
    }
}

/// The text is not understood, or does what is not on the list.
struct Unknown;

/// What is known of a statement so far.
#[derive(Clone, Copy)]
struct Found {
    shape: Shape,
    sharing: Sharing,
    soil: Soil,
}

/// A word, folded if it is short, and the one right before it.
#[derive(Clone, Copy)]
struct Words<'b> {
    this: &'b [u8],
    last: &'static [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Read,
    Write,
}

/// Where a relation is named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// In FROM, JOIN, USING.
    Source,
    /// Behind INTO.
    Target,
}

struct Reader<'a> {
    lexer: Lexer<'a>,
    next: Option<Token<'a>>,
    failed: bool,
    catalog: &'a Catalog,
    name: Vec<u8>,
    kind: Fingerprint,
    /// What stands before each open parenthesis.
    open: Vec<Before>,
}

/// What an open parenthesis belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// `extract(`, `substring(` and the like, in which FROM names no relation.
    FromInside,
    /// Anything else.
    Other,
}

/// Words that, unqualified, never call a function of their own name when a parenthesis follows: reserved words, and those
/// that cannot name functions (appendix "SQL Key Words" of the manual).
const NEVER_CALLS: [&[u8]; 54] = [
    b"all",
    b"and",
    b"any",
    b"array",
    b"as",
    b"between",
    b"bit",
    b"case",
    b"cast",
    b"char",
    b"character",
    b"check",
    b"coalesce",
    b"dec",
    b"decimal",
    b"default",
    b"distinct",
    b"else",
    b"except",
    b"exists",
    b"extract",
    b"float",
    b"from",
    b"greatest",
    b"group",
    b"grouping",
    b"having",
    b"in",
    b"intersect",
    b"interval",
    b"lateral",
    b"least",
    b"limit",
    b"not",
    b"nullif",
    b"numeric",
    b"offset",
    b"on",
    b"only",
    b"or",
    b"overlay",
    b"position",
    b"returning",
    b"row",
    b"select",
    b"some",
    b"substring",
    b"then",
    b"time",
    b"timestamp",
    b"trim",
    b"union",
    b"using",
    b"values",
];
/// The same, but somebody may have made a function of that name.
const SELDOM_CALLS: [&[u8]; 17] = [
    b"by",
    b"conflict",
    b"cube",
    b"filter",
    b"ilike",
    b"is",
    b"join",
    b"like",
    b"materialized",
    b"over",
    b"rollup",
    b"set",
    b"sets",
    b"varchar",
    b"varying",
    b"when",
    b"where",
];
/// Those in which FROM, FOR and IN are part of the call.
const FROM_INSIDE: [&[u8]; 4] = [b"extract", b"substring", b"trim", b"overlay"];

impl<'a> Reader<'a> {
    fn new(text: &'a [u8], backslash: Backslash, catalog: &'a Catalog) -> Self {
        let mut out = Self {
            lexer: Lexer::new(text, backslash),
            next: None,
            failed: false,
            catalog,
            name: Vec::with_capacity(64),
            kind: Fingerprint::default(),
            open: Vec::new(),
        };
        out.advance();
        out
    }

    fn advance(&mut self) -> Option<Token<'a>> {
        let token = self.next;
        if let Some(token) = &token {
            self.kind.add(token);
        }
        match self.lexer.poll_token() {
            Ok(next) => self.next = next,
            Err(_) => {
                self.failed = true;
                self.next = None;
            }
        }
        token
    }

    /// One statement up to its semicolon; none at the end.
    fn statement(&mut self) -> Result<Option<Found>, Unknown> {
        while self.next == Some(Token::Punctuation(b';')) {
            self.advance();
        }
        let word = match self.advance() {
            None if self.failed => return Err(Unknown),
            None => return Ok(None),
            Some(Token::Word(word)) => word,
            Some(_) => return Err(Unknown),
        };
        let mut folded = [0_u8; 12];
        let first = fold_short(word, &mut folded);
        let mut found = Found { shape: Shape::Read, sharing: Sharing::Impossible, soil: Soil::Clean };
        match first {
            b"select" | b"values" | b"table" | b"with" => {
                found.sharing = Sharing::Possible;
                if first == b"table" {
                    self.relation()?;
                }
                self.rest_of_statement(&mut found)?;
            }
            b"insert" | b"update" | b"delete" => {
                found.shape = Shape::Write;
                self.rest_of_statement(&mut found)?;
            }
            // what these touch ends with the transaction
            b"begin" | b"start" | b"commit" | b"end" | b"rollback" | b"abort" | b"savepoint" | b"release" | b"show" => {
                self.skip_statement()?;
            }
            _ => return Err(Unknown),
        }
        if self.failed {
            return Err(Unknown);
        }
        Ok(Some(found))
    }

    fn skip_statement(&mut self) -> Result<(), Unknown> {
        while self.next.is_some() && self.next != Some(Token::Punctuation(b';')) {
            self.advance();
        }
        if self.failed { Err(Unknown) } else { Ok(()) }
    }

    fn rest_of_statement(&mut self, found: &mut Found) -> Result<(), Unknown> {
        let mut last: &'static [u8] = b"";
        self.open.clear();
        while let Some(token) = self.next {
            if token == Token::Punctuation(b';') && self.open.is_empty() {
                break;
            }
            self.advance();
            let mut folded = [0_u8; 12];
            let mut this: &[u8] = b"";
            match token {
                Token::Word(word) => {
                    this = fold_short(word, &mut folded);
                    match this {
                        // makes a table, reads a part of one by a method of its own, or takes locks others wait for
                        b"into" if found.shape == Shape::Read => return Err(Unknown),
                        b"tablesample" | b"merge" | b"temp" | b"temporary" => return Err(Unknown),
                        b"insert" | b"update" | b"delete" => {
                            // `FOR UPDATE`, or a write inside WITH
                            found.shape = Shape::Write;
                            found.sharing = Sharing::Impossible;
                        }
                        b"share" | b"key" if last == b"for" || last == b"no" => found.sharing = Sharing::Impossible,
                        _ => {}
                    }
                    self.word(token, Words { this, last }, found)?;
                }
                Token::Quoted(_) => {
                    self.word(token, Words { this: b"\"", last }, found)?;
                }
                Token::Operator(operator) => {
                    if operator != b"=>" && self.catalog.operator(operator) == Harmless::No {
                        return Err(Unknown);
                    }
                }
                Token::Punctuation(b'(') => {
                    if self.open.len() >= DEPTH_MAX {
                        return Err(Unknown);
                    }
                    let inside = FROM_INSIDE.contains(&last);
                    self.open.push(if inside { Before::FromInside } else { Before::Other });
                }
                Token::Punctuation(b')') => {
                    self.open.pop().ok_or(Unknown)?;
                }
                Token::Punctuation(b';') => return Err(Unknown),
                Token::Punctuation(b'.') => this = b".",
                Token::Punctuation(_) | Token::String | Token::Number | Token::Parameter(_) | Token::Cast => {}
            }
            last = static_word(this);
        }
        if self.failed || !self.open.is_empty() { Err(Unknown) } else { Ok(()) }
    }

    /// One name or key word.
    fn word(&mut self, token: Token<'a>, words: Words<'_>, found: &mut Found) -> Result<(), Unknown> {
        let Words { this, last } = words;
        if last == b"into" {
            return self.relation_at(token, Position::Target, found);
        }
        let clause = matches!(last, b"from" | b"join") && self.open.last() != Some(&Before::FromInside);
        if clause && !matches!(this, b"lateral" | b"only" | b"select" | b"unnest") {
            return self.relation_at(token, Position::Source, found);
        }
        let call = self.next == Some(Token::Punctuation(b'('));
        let qualified = last == b".";
        let catalog = self.catalog;
        let name = self.folded(token)?;
        if call {
            let plain = matches!(token, Token::Word(_)) && !qualified;
            let soil = match () {
                () if plain && NEVER_CALLS.binary_search(&name).is_ok() => Soil::Clean,
                () if plain && SELDOM_CALLS.contains(&name) => catalog.call_if_any(name),
                () => catalog.call(name),
            };
            found.add(soil)?;
        }
        if catalog.name(name) == Harmless::No {
            return Err(Unknown);
        }
        if found.shape == Shape::Write {
            found.add(catalog.write(name))?;
        }
        Ok(())
    }

    /// The relation that `TABLE` names.
    fn relation(&mut self) -> Result<(), Unknown> {
        let mut found = Found { shape: Shape::Read, sharing: Sharing::Possible, soil: Soil::Clean };
        let token = self.advance().ok_or(Unknown)?;
        self.relation_at(token, Position::Source, &mut found)
    }

    /// A possibly qualified name that must be a relation's, or in FROM a function call.
    fn relation_at(&mut self, first: Token<'a>, position: Position, found: &mut Found) -> Result<(), Unknown> {
        let mut token = first;
        while self.next == Some(Token::Punctuation(b'.')) {
            self.advance();
            token = self.advance().ok_or(Unknown)?;
        }
        let call = position == Position::Source && self.next == Some(Token::Punctuation(b'('));
        let catalog = self.catalog;
        let name = self.folded(token)?;
        if call {
            found.add(catalog.call(name))?;
        } else if !catalog.is_relation(name) {
            return Err(Unknown);
        }
        if catalog.name(name) == Harmless::No {
            return Err(Unknown);
        }
        if found.shape == Shape::Write {
            found.add(catalog.write(name))?;
        }
        Ok(())
    }

    /// The name as PostgreSQL looks it up. It cuts names at 63 bytes, and letters beyond ASCII depend on encodings: those
    /// are not looked up.
    fn folded(&mut self, token: Token<'a>) -> Result<&[u8], Unknown> {
        let (Token::Word(raw) | Token::Quoted(raw)) = token else { return Err(Unknown) };
        if raw.len() >= 64 || !raw.is_ascii() || raw.is_empty() {
            return Err(Unknown);
        }
        self.name.clear();
        if let Token::Quoted(_) = token {
            self.name.extend(fold(token).unwrap_or_default());
        } else {
            self.name.extend(raw.iter().map(u8::to_ascii_lowercase));
        }
        Ok(&self.name)
    }
}

impl Found {
    fn add(&mut self, soil: Soil) -> Result<(), Unknown> {
        self.soil = self.soil.max(soil);
        if soil != Soil::Clean {
            self.sharing = Sharing::Impossible;
        }
        if soil == Soil::Unknown { Err(Unknown) } else { Ok(()) }
    }
}

/// A short word in lower case; longer ones are none of the key words looked for.
fn fold_short<'b>(word: &[u8], buffer: &'b mut [u8; 12]) -> &'b [u8] {
    let Some(out) = buffer.get_mut(..word.len()) else { return b"" };
    out.copy_from_slice(word);
    out.make_ascii_lowercase();
    out
}

/// The words that matter for what comes after them.
fn static_word(word: &[u8]) -> &'static [u8] {
    const LAST: [&[u8]; 10] =
        [b"from", b"join", b"into", b"for", b"no", b".", b"extract", b"substring", b"trim", b"overlay"];
    LAST.into_iter().find(|known| *known == word).unwrap_or_default()
}

#[cfg(test)]
mod tests;
