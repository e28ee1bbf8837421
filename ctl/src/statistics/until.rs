//! `ctl stats --until CONDITION`: waits until something is so.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::condition::Condition;
use super::look;
use crate::terminal;

/// What `ctl` ends with when what was waited for did not come.
pub(super) const TIMED_OUT: u8 = 6;

/// A data plane that does not answer yet is waited for too.
pub(super) fn run(socket: &Path, condition: &Condition, timeout: Duration, every: Duration) -> ExitCode {
    let began = Instant::now();
    loop {
        let seen = look(socket);
        if seen.as_ref().is_ok_and(|snapshot| condition.holds(snapshot)) {
            terminal::complain(&format!("{condition} after {:.1} s", began.elapsed().as_secs_f64()));
            return ExitCode::SUCCESS;
        }
        if began.elapsed() >= timeout {
            let why = match &seen {
                Ok(snapshot) => format!("it is {}", condition.figures(snapshot)),
                Err(error) => format!("{error:#}"),
            };
            let error = terminal::red("error:");
            terminal::complain(&format!("{error} not {condition} within {:.1} s: {why}", timeout.as_secs_f64()));
            return ExitCode::from(TIMED_OUT);
        }
        std::thread::sleep(every.min(timeout.saturating_sub(began.elapsed())));
    }
}
