//! Printing: results to standard output, complaints to standard error, colours only where a human looks.

use std::io::{self, IsTerminal as _, Write as _};

/// Prints a result and ends the line.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Prints something that is not a result. There is nobody to tell when that fails.
pub(crate) fn complain(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Whether an error only says that nobody reads what is printed.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// For standard error.
pub(crate) fn red(text: &str) -> String {
    if io::stderr().is_terminal() && wants_colour() { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

/// For standard output.
pub(crate) fn bold(text: &str) -> String {
    if io::stdout().is_terminal() && wants_colour() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// What begins each picture of one that is repeated in place.
pub(crate) fn clear() -> &'static str {
    if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" }
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
