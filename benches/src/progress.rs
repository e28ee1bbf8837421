//! What is going on, on standard error: one line that is written over on a terminal, a line for each case elsewhere.

use std::io::{self, IsTerminal as _, Write as _};

/// Where progress is told.
#[derive(Debug)]
pub struct Progress {
    on_terminal: bool,
}

impl Progress {
    /// Asks whether a person is watching.
    pub fn new() -> Self {
        Self { on_terminal: io::stderr().is_terminal() }
    }

    /// Something has begun.
    pub fn begin(&mut self, text: &str) {
        if self.on_terminal { self.over(text) } else { self.line(text) }
    }

    /// How far it is; only a person wants to know.
    pub fn update(&mut self, text: &str) {
        if self.on_terminal {
            self.over(text);
        }
    }

    /// Something that stays.
    pub fn note(&mut self, text: &str) {
        self.end();
        self.line(text);
    }

    /// Wipes what does not stay.
    pub fn end(&mut self) {
        if self.on_terminal {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }

    fn over(&self, text: &str) {
        drop(write!(io::stderr(), "\r\x1b[K{text}"));
    }

    fn line(&self, text: &str) {
        drop(writeln!(io::stderr(), "{text}"));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
