//! `ctl`: starts a local stack, checks a configuration, reads the statistics.
//!
//! Exit code 0: done; 1: failed, or something is wrong with what was checked; 2: called wrongly.

#![forbid(unsafe_code)]

mod admin;
mod check;
mod dev;
mod probe;
mod statistics;
mod terminal;
mod verifier;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "ctl", version, about = "Run and look into OptimaCore, the data plane for PostgreSQL.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole local stack: PostgreSQL primary, replica, and the data plane.
    Dev(Box<dev::Options>),
    /// Tell all that is wrong with a configuration file, without starting anything.
    Check(check::Options),
    /// Ask the data plane's console: SHOW ..., PAUSE, RELOAD and the like.
    Admin(admin::Options),
    /// Show what the data plane is doing.
    Stats(statistics::Options),
    /// Make the verifier of a password for `[[user]] password` in the configuration.
    PasswordVerifier(verifier::Options),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Dev(options) => dev::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Admin(options) => admin::run(&options),
        Command::Stats(options) => statistics::run(&options),
        Command::PasswordVerifier(options) => verifier::run(&options),
        Command::Completions { shell } => completions(shell),
        Command::Version => terminal::print(&format!("ctl {}", env!("CARGO_PKG_VERSION"))).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        // who reads has had enough, as in `ctl stats | head`
        Err(error) if terminal::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&format!("{} {error:#}", terminal::red("error:")));
            ExitCode::FAILURE
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ctl", &mut script);
    terminal::print(String::from_utf8_lossy(&script).trim_end()).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
