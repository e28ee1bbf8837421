//! `run.json`: which run the files of a directory are of.

use serde::Serialize;

use crate::series::{Host, Run};

/// A file of a run. Of one that still grows, its first `bytes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Note {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[derive(Serialize)]
struct Paper<'p> {
    schema: &'static str,
    program: &'p str,
    version: &'p str,
    commit: &'p str,
    config_sha256: &'p str,
    host: &'p Host,
    pid: u32,
    start_us: u64,
    end_us: u64,
    files: &'p [Note],
}

/// The text of it; `of` is the program and the hash of its configuration, the end is that of what has been written.
pub(super) fn write(run: &Run, of: (&str, &str), end_us: u64, files: &[Note]) -> String {
    let paper = Paper {
        schema: "optimacore.run/1",
        program: of.0,
        version: &run.version,
        commit: &run.commit,
        config_sha256: of.1,
        host: &run.host,
        pid: run.pid,
        start_us: run.start_us,
        end_us,
        files,
    };
    // fails for nothing that is in it
    serde_json::to_string_pretty(&paper).unwrap_or_default() + "\n"
}
