//! `bench`: see `--help` and `benches/README.md`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use benchkit::case::CASES;
use benchkit::dress::Dress;
use benchkit::interrupt::Interrupt;
use benchkit::options::Options;
use benchkit::progress::Progress;
use benchkit::{run, table};
use clap::Parser as _;

fn main() -> ExitCode {
    let mut progress = Progress::new();
    match bench(&Options::parse(), &mut progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options, progress: &mut Progress) -> anyhow::Result<()> {
    let mut out = io::stdout();
    if options.list {
        for case in &CASES {
            writeln!(out, "{}", case.name())?;
        }
        for dress in Dress::ALL {
            writeln!(out, "{}", dress.name())?;
        }
        return Ok(());
    }
    let interrupt = Interrupt::listen()?;
    let report = run::run(options, &interrupt, progress)?;
    progress.end();
    let path = report.save(&options.results())?;
    if options.json {
        writeln!(out, "{}", report.json()?)?;
    } else {
        write!(out, "{}", table::render(&report))?;
        writeln!(out, "Every run: {}", path.display())?;
    }
    Ok(())
}
