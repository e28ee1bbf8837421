//! `optimacore --config FILE`: runs the data plane.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use config::Config;

/// A thread-per-core, shared-nothing data plane for PostgreSQL.
#[derive(clap::Parser)]
#[command(
    name = "optimacore",
    version,
    after_help = "SIGTERM lets transactions finish (limits.shutdown_timeout) and ends, SIGINT waits for server connections, SIGQUIT \
                  ends at once, and so does SIGTERM or SIGINT a second time. SIGHUP reloads the configuration, SIGUSR1 pauses, \
                  SIGUSR2 resumes; the console (docs/admin.md) does more. `ctl check FILE` checks a \
                  configuration without starting anything; `ctl dev` starts a whole stack."
)]
struct Options {
    /// The configuration: one TOML file.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let config = match Config::load(&options.config) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(2);
        }
    };
    match optimacore::plane::run(config, &options.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn complain(text: &str) {
    // nobody may be listening
    let _written: std::io::Result<()> = writeln!(std::io::stderr(), "{text}");
}
