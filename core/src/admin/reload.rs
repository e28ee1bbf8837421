//! A configuration that changes while we run: `RELOAD`, SIGHUP, `SET`.
//!
//! What can be changed at once is changed as a whole, everywhere; what cannot is told and waits for a restart. A file that
//! has an error changes nothing.

use std::sync::Arc;

use config::{Config, Difference, Effect};

use crate::admin::Refusal;
use crate::admin::desk::Desk;
use crate::admin::ending::Ending;
use crate::tls::TlsState;

impl Desk {
    /// Reads the file anew; gives what there is to know about it.
    pub(super) fn reload(&mut self) -> Result<Vec<String>, Refusal> {
        if self.ending == Ending::Begun {
            // systemd would take the end of the reload for the end of the end
            return self.read_anew();
        }
        self.herald.reloading();
        let outcome = self.read_anew();
        self.board.events.tell(
            "reload",
            &match &outcome {
                Ok(notices) => notices.join("; "),
                Err(refusal) => format!("changed nothing: {}", refusal.message),
            },
        );
        let status = format!("Clients come to {}", self.places);
        self.herald.ready(&match &outcome {
            Ok(_) => status,
            Err(refusal) => format!("{status}; the last reload changed nothing: {}", refusal.message),
        });
        outcome
    }

    fn read_anew(&mut self) -> Result<Vec<String>, Refusal> {
        let new = Config::load(&self.file).map_err(|errors| Refusal {
            sqlstate: "F0000",
            message: format!("{} has errors; nothing was changed", self.file.display()),
            detail: Some(errors.to_string()),
            hint: Some("`ctl check` tells the same without changing anything."),
        })?;
        let diff = self.config.diff(&new);
        // before anything is changed
        let tls = self.tls_elsewhere(&diff.adopted)?;
        if !diff.live.is_empty() {
            self.adopt(diff.adopted);
        }
        if let Some(tls) = tls {
            self.board.directory.move_to(&self.config, Arc::new(tls), &self.shards);
        }
        let mut notices = notices(&diff.live, &diff.restart);
        notices.extend(config::pgbouncer::remarks(&self.file));
        Ok(notices)
    }

    /// What hosts are encrypted with, if databases move by this configuration.
    fn tls_elsewhere(&self, new: &Config) -> Result<Option<TlsState>, Refusal> {
        if self.config.databases.iter().zip(&new.databases).all(|(old, new)| old.is_where(new)) {
            return Ok(None);
        }
        TlsState::load(new).map(Some).map_err(|error| Refusal {
            sqlstate: "F0000",
            message: "certificates cannot be used; nothing was changed".to_owned(),
            detail: Some(format!("{error:#}")),
            hint: None,
        })
    }

    /// Changes one key until the next reload.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<Vec<String>, Refusal> {
        let mut new = Config::clone(&self.config);
        new.set(key, value).map_err(|why| Refusal {
            sqlstate: "22023",
            message: format!("SET {key} failed: {why}"),
            detail: None,
            hint: Some("SHOW CONFIG tells which settings are changeable."),
        })?;
        self.adopt(new);
        Ok(Vec::new())
    }

    fn adopt(&mut self, new: Config) {
        if new.log != self.config.log {
            (self.log)(new.log);
        }
        self.hand_out(new);
    }
}

fn notices(live: &[Difference], restart: &[Difference]) -> Vec<String> {
    let changed = live.iter().map(ToString::to_string);
    let waiting = restart.iter().map(|difference| format!("{difference} (needs a restart)"));
    let notices: Vec<String> = changed.chain(waiting).collect();
    if notices.is_empty() { vec!["nothing has changed".to_owned()] } else { notices }
}

/// Whether `SET` changes a key.
pub(super) fn is_settable(key: &str) -> bool {
    ["limits.", "pool.", "log."].iter().any(|table| key.starts_with(table)) && Config::effect_of(key) == Effect::Live
}
