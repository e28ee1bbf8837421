//! Statements that SQL itself names: `PREPARE`, `EXECUTE`, `DEALLOCATE`, `DISCARD`.
//!
//! As long as a session prepares by the protocol only, its statements have names of ours and it may move between
//! connections. When its SQL names statements too, it is given its own names on the connection it holds, keeps
//! that connection, and Postgres judges every name from then on.

use std::rc::Rc;

use bytes::BytesMut;
use dbproto::frame::HEAD_LEN;
use dbproto::message::MessageError;
use dbproto::message::backend::TransactionStatus;
use dbproto::message::frontend::{self, Bind, Named, Parse, Target, tag};
use dbproto::pipeline::{Expect, Owed};
use dbproto::sql::{Backslash, Lexer, Token, fold};

use super::Writer;
use crate::pipe::{Mark, Soil};
use crate::session::hazard::{contains_word, foreign};
use crate::session::{Barrier, Change, Deallocating, Naming, Pin, Resetting};
use crate::statement::Statement;

/// Words without which no text names a statement.
const NAMING_WORDS: [&[u8]; 4] = [b"prepare", b"execute", b"deallocate", b"discard"];

/// A statement that is nothing but the end of others.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ends {
    /// `DEALLOCATE name`.
    One(Box<[u8]>),
    /// `DEALLOCATE ALL`, `DISCARD something`.
    Many,
}

/// Whether a text may name statements.
pub(super) fn names_statements(text: &[u8]) -> bool {
    NAMING_WORDS.iter().any(|word| contains_word(text, word))
}

/// Whether a text is nothing but `DISCARD ALL` or the like.
pub(super) fn ends_many(text: &[u8]) -> bool {
    read_end(text) == Some(Ends::Many)
}

fn read_end(text: &[u8]) -> Option<Ends> {
    let mut lexer = Lexer::new(text, Backslash::Unusual);
    let mut tokens = Vec::new();
    while let Some(token) = lexer.poll_token().ok()? {
        tokens.push(token);
        if tokens.len() > 4 {
            return None;
        }
    }
    if tokens.last() == Some(&Token::Punctuation(b';')) {
        tokens.pop();
    }
    let is = |token: &Token<'_>, word: &str| matches!(token, Token::Word(text) if text.eq_ignore_ascii_case(word.as_bytes()));
    match &tokens[..] {
        [verb, Token::Word(_)] if is(verb, "discard") => Some(Ends::Many),
        [verb, all] if is(verb, "deallocate") && is(all, "all") => Some(Ends::Many),
        [verb, prepare, all] if is(verb, "deallocate") && is(prepare, "prepare") && is(all, "all") => Some(Ends::Many),
        [verb, prepare, name] if is(verb, "deallocate") && is(prepare, "prepare") => {
            Some(Ends::One(fold(*name)?.into()))
        }
        [verb, name] if is(verb, "deallocate") => Some(Ends::One(fold(*name)?.into())),
        _ => None,
    }
}

impl Writer<'_> {
    /// Whether what a message means depends on how what is under way ends.
    pub(super) fn must_wait(&self, tag: u8, message: &[u8]) -> bool {
        let undecided = self.server.pipeline.is_group_undecided();
        match tag {
            // whether there is a statement of this name is known when the groups before have ended
            tag::BIND | tag::DESCRIBE | tag::CLOSE | tag::PARSE if self.is_name_undecided(tag, message) => true,
            // a Query takes the unnamed statement away, unless its group has failed before; a function call ends the group
            tag::QUERY | tag::FUNCTION_CALL if undecided => true,
            tag::QUERY if self.server.pipeline.ready_count() > 0 && self.is_unnamed_undecided() => true,
            tag::QUERY | tag::PARSE => {
                (undecided || self.server.pipeline.ready_count() > 0)
                    && self.session.naming == Naming::Ours
                    && names_statements(message)
            }
            _ => false,
        }
    }

    /// Whether it is not known yet what the unnamed statement is.
    fn is_unnamed_undecided(&self) -> bool {
        self.session.changes.iter().any(|change| matches!(change, Change::Unnamed(_)))
    }

    /// Whether a message names a statement that may have been made or taken away in a group before this one.
    fn is_name_undecided(&self, tag: u8, message: &[u8]) -> bool {
        if self.session.changes.is_empty() || self.server.pipeline.ready_count() == 0 {
            return false;
        }
        let body = message.get(HEAD_LEN..).unwrap_or_default();
        let name = match tag {
            tag::PARSE => Parse::read(body).map(|parse| parse.name),
            tag::BIND => Bind::read(body).map(|bind| bind.statement),
            _ => match Named::read(body) {
                Ok(Named { target: Target::Portal, .. }) => return false,
                named => named.map(|named| named.name),
            },
        };
        match name {
            // where the connection's is the session's, Postgres itself decides
            Ok(b"") => {
                matches!(tag, tag::BIND | tag::DESCRIBE) && self.is_unnamed_undecided() && !self.is_unnamed_there()
            }
            Ok(name) => self.session.changes.iter().any(|change| change.name() == Some(name)),
            Err(_) => false,
        }
    }

    /// A Query that may name statements; gives whether it was written.
    pub(super) fn naming_query(&mut self, out: &mut BytesMut, text: &[u8]) -> Result<bool, MessageError> {
        match read_end(text) {
            Some(Ends::Many) => {
                self.session.barrier = Barrier::UntilReady;
                self.session.resetting = Resetting::Yes;
            }
            Some(Ends::One(name)) if self.session.naming == Naming::Ours => {
                self.session.barrier = Barrier::UntilReady;
                if let Some(statement) = self.session.statements.get(&*name).map(Rc::clone) {
                    self.deallocate(out, name, &statement)?;
                    return Ok(true);
                }
            }
            Some(Ends::One(_)) => {}
            None => self.give_own_names(out)?,
        }
        Ok(false)
    }

    /// `DEALLOCATE name` of a statement that was prepared by Parse: the same for the name it has there.
    fn deallocate(
        &mut self,
        out: &mut BytesMut,
        name: Box<[u8]>,
        statement: &Rc<Statement>,
    ) -> Result<(), MessageError> {
        let mut prepared = Rc::clone(statement);
        if !self.server.prepared.has(statement.id) && self.server.status != TransactionStatus::Failed {
            // in a group of the client's it is the client who ends it; an error before takes ours with it
            let inside = self.server.pipeline.is_open();
            prepared = self.prepare(out, statement)?;
            if !inside {
                frontend::write_sync(out);
                self.push(Owed::nobody(Expect::Sync));
            }
        }
        let mut text = b"DEALLOCATE ".to_vec();
        text.extend_from_slice(prepared.name().as_bytes());
        frontend::write_query(out, &text)?;
        self.session.deallocating = Deallocating::Name(name);
        self.verbatim(tag::QUERY);
        Ok(())
    }

    /// From now on the session's statements have its own names on this connection, which it keeps.
    pub(super) fn give_own_names(&mut self, out: &mut BytesMut) -> Result<(), MessageError> {
        // in a failed transaction nothing can be prepared, and nothing that names a statement is run either
        if self.session.naming == Naming::Own || self.server.status == TransactionStatus::Failed {
            return Ok(());
        }
        let inside = self.server.pipeline.is_open();
        self.restore_unnamed(out)?;
        let statements = std::mem::take(&mut self.session.statements);
        for (name, statement) in &statements {
            frontend::write_parse(out, &foreign(name), &statement.source.text, &statement.source.types)?;
            // within a request of the client's an error is the client's to hear
            let mark = if inside { Mark::OwnUnnamed } else { Mark::None };
            self.push(Owed::nobody(Expect::Parse).marked(mark.encode()));
        }
        if !inside && self.server.pipeline.is_open() {
            frontend::write_sync(out);
            self.push(Owed::nobody(Expect::Sync));
        }
        self.session.naming = Naming::Own;
        if self.session.pin == Pin::No {
            self.pinned = Some("prepared in SQL");
        }
        self.session.pin = Pin::Because("prepared in SQL");
        self.catalog = None;
        self.server.soil = Soil::Unknown;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_statements_is_read_where_it_stands_alone() {
        let one = |name: &str| Some(Ends::One(name.as_bytes().into()));
        for (text, ends) in [
            ("DEALLOCATE s1", one("s1")),
            (" deallocate PREPARE \n \"A b\"\"c\" ;", one("A b\"c")),
            ("deallocate S1; -- done", one("s1")),
            ("DEALLOCATE ALL", Some(Ends::Many)),
            ("deallocate prepare all;", Some(Ends::Many)),
            ("DISCARD ALL", Some(Ends::Many)),
            ("discard temp", Some(Ends::Many)),
            ("DEALLOCATE a; select 1", None),
            ("select 1; deallocate a", None),
            ("prepare a as select 1", None),
        ] {
            assert_eq!(read_end(text.as_bytes()), ends, "{text}");
        }
    }

    #[test]
    fn only_texts_with_a_naming_word_name_statements() {
        assert!(names_statements(b"EXECUTE a(1)"));
        assert!(names_statements(b"begin; Discard all"));
        assert!(!names_statements(b"select count(*) from pg_prepared_statements"));
    }
}
