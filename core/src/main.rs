//! `optimacore --config FILE`: runs the data plane. `optimacore --import FILE`: turns a pgbouncer.ini into a configuration.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use config::Config;
use config::pgbouncer::{self, Import};

/// A thread-per-core, shared-nothing data plane for PostgreSQL.
#[derive(clap::Parser)]
#[command(
    name = "optimacore",
    version,
    after_help = "SIGTERM lets transactions finish (limits.shutdown_timeout) and ends, SIGINT waits for server connections, SIGQUIT \
                  ends at once, and so does SIGTERM or SIGINT a second time. SIGHUP reloads the configuration, SIGUSR1 pauses, \
                  SIGUSR2 resumes; the console (docs/admin.md) does more. `ctl check FILE` checks a \
                  configuration without starting anything; `ctl dev` starts a whole stack. docs/moving.md is for who comes from \
                  PgBouncer."
)]
struct Options {
    /// The configuration: one TOML file, or a pgbouncer.ini.
    #[arg(long, short, value_name = "FILE", required_unless_present = "import")]
    config: Option<PathBuf>,
    /// Starts nothing: writes the TOML that a pgbouncer.ini amounts to, and to standard error what became of each of its
    /// keys. Exit code 0: everything holds; 1: not written; 2: the file is wrong; 3: written, but some keys are not supported.
    #[arg(long, value_name = "PGBOUNCER.INI", conflicts_with = "config")]
    import: Option<PathBuf>,
    /// Where to write it, a file that is not there yet. It may hold passwords: only its owner can read it.
    #[arg(long, value_name = "FILE", requires = "import")]
    output: Option<PathBuf>,
    /// Tells what became of the keys as JSON.
    #[arg(long, requires = "import")]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match (&options.import, &options.config) {
        (Some(file), _) => import(file, &options),
        (None, Some(file)) => run(file),
        // clap has seen to it
        (None, None) => ExitCode::from(2),
    }
}

fn run(file: &Path) -> ExitCode {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(2);
        }
    };
    for remark in pgbouncer::remarks(file) {
        complain(&format!("warning: {remark}"));
    }
    match optimacore::plane::run(config, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn import(file: &Path, options: &Options) -> ExitCode {
    let import = match Import::load(file) {
        Ok(import) => import,
        Err(errors) => {
            complain(&errors.to_string());
            return ExitCode::from(2);
        }
    };
    complain(if options.json { import.json() } else { import.table() }.trim_end());
    let written = match &options.output {
        Some(path) => write_new(path, &import.toml).map_err(|error| format!("{}: {error}", path.display())),
        None => std::io::stdout().write_all(import.toml.as_bytes()).map_err(|error| error.to_string()),
    };
    match written {
        Ok(()) if import.is_whole() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(3),
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn complain(text: &str) {
    // nobody may be listening
    let _written: std::io::Result<()> = writeln!(std::io::stderr(), "{text}");
}
