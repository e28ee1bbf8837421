//! What a completed command has done to its session and the connection, by its tag.

use std::rc::Rc;

use super::Reply;
use crate::listen::{Hearing, Listening};
use crate::pipe::Soil;
use crate::session::write::soil::SEQUENCES;
use crate::session::{Deallocating, Left, Naming, Pin, Resetting, Unnamed};

impl Reply<'_> {
    /// What a completed command has done to the session that held the connection.
    pub(super) fn command_tag(&mut self, body: &[u8]) {
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        if [&b"CREATE"[..], b"ALTER", b"DROP"].iter().any(|verb| tag.starts_with(verb)) {
            self.server.catalog_touched = true;
        }
        let Some(session) = self.session.as_deref_mut() else { return };
        if matches!(tag, b"SET" | b"RESET") && session.settings_done < session.settings.len() {
            session.settings_done += 1;
            return;
        }
        if tag == b"LISTEN" {
            // whatever was promised: it is not for the next one
            self.server.soil = Soil::Unknown;
        }
        let sequences = matches!(session.pin, Pin::Because(SEQUENCES) | Pin::Found(SEQUENCES));
        let pin = match tag {
            b"DISCARD SEQUENCES" => {
                if sequences {
                    // if there is more, it is found out when somebody asks
                    session.pin = Pin::No;
                }
                return;
            }
            b"PREPARE" => Pin::Because("prepared in SQL"),
            b"LOAD" => Pin::Because("LOAD"),
            b"LISTEN" if self.server.listening == Listening::No => {
                self.server.listening = Listening::Yes;
                return;
            }
            b"DEALLOCATE ALL" => {
                self.server.prepared.clear();
                session.statements.clear();
                return;
            }
            b"DEALLOCATE" => {
                if let Deallocating::Name(name) = std::mem::replace(&mut session.deallocating, Deallocating::No)
                    && let Some(statement) = session.statements.remove(&name)
                {
                    self.server.prepared.forget(statement.id);
                }
                return;
            }
            b"DISCARD ALL" => {
                self.server.forget_everything();
                if self.server.soiled != self.server.discarded_at || self.pool.target.connect_query.is_some() {
                    // something was written behind it that may leave anything, or it lacks what connect_query does
                    self.server.soil = Soil::Unknown;
                }
                session.statements.clear();
                session.unnamed = Unnamed::Absent;
                session.dress = Rc::clone(&session.login_dress);
                session.naming = Naming::Ours;
                session.resetting = Resetting::Yes;
                session.pin = Pin::No;
                session.home = None;
                session.left = Left::Unlikely;
                session.custom.clear();
                session.ears.iter_mut().for_each(|ears| ears.hearing = Hearing::Nowhere);
                return;
            }
            _ => return,
        };
        if let (Pin::No, Pin::Because(reason) | Pin::Found(reason)) = (session.pin, pin) {
            self.pool.stats.count_pin(reason);
        }
        if sequences || !matches!(session.pin, Pin::Because(_)) {
            session.pin = pin;
        }
        // whatever was promised: it is not for the next one
        self.server.soil = Soil::Unknown;
    }
}
