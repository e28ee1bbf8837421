//! `ctl password-verifier`: what a server keeps of a password, so that the configuration need not hold the password.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use dbproto::auth::server::{SCRAM_ITERATIONS, build_md5, build_scram_verifier};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::terminal;

#[derive(clap::Args)]
#[command(
    after_help = "The password is asked for, or read as the first line of standard input where that is no terminal."
)]
pub(crate) struct Options {
    /// Make an MD5 hash for this user instead, for clients that do not know SCRAM-SHA-256.
    #[arg(long, value_name = "USER")]
    md5: Option<String>,
    /// Rounds of hashing: more make guessing dearer, and logging in too.
    #[arg(long, default_value_t = SCRAM_ITERATIONS, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iterations: u32,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let password = if io::stdin().is_terminal() { ask_twice()? } else { read_line()? };
    ensure!(!password.is_empty(), "the password is empty");
    ensure!(!password.contains('\0'), "the password contains a NUL character");
    let secret = match &options.md5 {
        Some(user) => build_md5(&password, user),
        None => scram_verifier(&password, options.iterations)?,
    };
    terminal::print(&secret).map(|()| ExitCode::SUCCESS)
}

/// A verifier with a salt of its own.
pub(crate) fn scram_verifier(password: &str, iterations: u32) -> anyhow::Result<String> {
    let mut salt = [0_u8; 16];
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty()).context("no random bytes")?;
    Ok(build_scram_verifier(password, &salt, iterations))
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn ask_twice() -> anyhow::Result<String> {
    let first = ask("Password: ")?;
    if first != ask("Again: ")? {
        bail!("the two are not the same");
    }
    Ok(first)
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    let mut err = io::stderr();
    write!(err, "{prompt}")?;
    err.flush()?;
    let before = tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
    let line = read_line();
    tcsetattr(io::stdin(), OptionalActions::Flush, &before)?;
    writeln!(err)?;
    line
}
