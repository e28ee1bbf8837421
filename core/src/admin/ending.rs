//! How the process ends: by signals, as PgBouncer documents them, and by `SHUTDOWN`.
//!
//! SIGTERM alone differs: PgBouncer waits for its clients for ever, which an orchestrator does not; here they are let go between
//! transactions, within `limits.shutdown_timeout`. Who asks again while an end is under way means at once.

use std::time::{Duration, Instant};

use crate::admin::command::{Scope, Shutdown};
use crate::admin::desk::{Desk, Goal, Seen, Wait};
use crate::admin::{Order, State, Stop};
use crate::shard::Message;

/// Whether the end has begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Not,
    Begun,
}

impl Desk {
    /// A signal asks for the end.
    pub(super) fn on_stop(&mut self, how: Stop) {
        match (self.ending, how) {
            (Ending::Begun, _) => {
                tracing::info!(?how, "stopping at once: it was asked for again");
                self.stop_at_once();
            }
            (Ending::Not, Stop::Now) => {
                tracing::info!("stopping at once");
                self.stop_at_once();
            }
            (Ending::Not, Stop::WaitForServers) => {
                tracing::info!("stopping: server connections are waited for");
                self.shutdown(Shutdown::WaitForServers);
            }
            (Ending::Not, Stop::Drain) => {
                let timeout = self.config.limits.shutdown_timeout;
                tracing::info!(?timeout, "stopping: transactions may finish");
                self.begin_to_end("Transactions may finish");
                self.drain(timeout);
            }
        }
    }

    /// `SHUTDOWN` in its forms that wait.
    pub(super) fn shutdown(&mut self, how: Shutdown) {
        let what = match how {
            // after the answer
            Shutdown::Now => return,
            Shutdown::WaitForServers => {
                self.begin_to_end("Waiting for server connections");
                self.levers.state = State::Paused;
                self.set_levers();
                self.tell_all(|| Order::StopListening);
                self.tell_all(|| Order::DismissWaiting);
                Goal::Released(Scope::All)
            }
            Shutdown::WaitForClients => {
                self.begin_to_end("Waiting for clients to leave");
                self.tell_all(|| Order::StopListening);
                Goal::Alone
            }
        };
        self.waits.push(Wait { what, petitioner: None, tag: "SHUTDOWN", seen: Seen::Not });
    }

    pub(super) fn stop_at_once(&mut self) {
        self.begin_to_end("Ending at once");
        self.drain(Duration::ZERO);
    }

    fn begin_to_end(&mut self, status: &str) {
        self.ending = Ending::Begun;
        self.herald.stopping(status);
        self.board.events.tell("stopping", status);
    }

    fn drain(&self, timeout: Duration) {
        for handle in &self.shards {
            handle.post(Message::Drain(Instant::now() + timeout));
        }
    }
}
