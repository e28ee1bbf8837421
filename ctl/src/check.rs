//! `ctl check`: all that is wrong with a configuration file, our own or a pgbouncer.ini.

use std::path::PathBuf;
use std::process::ExitCode;

use config::Config;
use serde::Serialize;

use crate::terminal;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The configuration file: TOML, or a pgbouncer.ini.
    file: PathBuf,
    /// Print JSON: an object with `ok`, `errors` and `remarks`.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    errors: Vec<Complaint>,
    /// Keys of a pgbouncer.ini that have no effect here.
    remarks: Vec<String>,
}

#[derive(Serialize)]
struct Complaint {
    file: String,
    line: Option<u32>,
    column: Option<u32>,
    message: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let outcome = Config::load(&options.file);
    let code = if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let remarks = config::pgbouncer::remarks(&options.file);
    if options.json {
        let errors = outcome.as_ref().err().into_iter().flat_map(config::ConfigErrors::iter).map(complaint).collect();
        terminal::print(&serde_json::to_string_pretty(&Report { ok: outcome.is_ok(), errors, remarks })?)?;
        return Ok(code);
    }
    for remark in &remarks {
        terminal::complain(&format!("{} {remark}", terminal::bold("warning:")));
    }
    match &outcome {
        Ok(config) => terminal::print(&format!(
            "{}: sound; {}, {}",
            options.file.display(),
            counted(config.databases.len(), "database"),
            counted(config.users.len(), "user")
        ))?,
        Err(errors) => {
            terminal::print(&errors.to_string())?;
            terminal::complain(&counted(errors.iter().count(), "error"));
        }
    }
    Ok(code)
}

fn complaint(error: &config::ConfigError) -> Complaint {
    Complaint {
        file: error.file.clone(),
        line: error.place.map(|(line, _)| line),
        column: error.place.map(|(_, column)| column),
        message: error.message.clone(),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
