//! `optimacore-bench`: see `--help` and `benches/README.md`.

use std::process::ExitCode;

use benchkit::generator::command;
use benchkit::generator::options::Options;
use benchkit::generator::trouble::Trouble;
use benchkit::progress::Progress;
use clap::Parser as _;

fn main() -> ExitCode {
    let mut progress = Progress::new();
    match command::run(&Options::parse(), &mut progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.note(&format!("error: {error:#}"));
            ExitCode::from(Trouble::exit_code(&error))
        }
    }
}
