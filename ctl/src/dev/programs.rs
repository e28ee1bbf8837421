//! Finding PostgreSQL's programs and ours.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// What must lie in one directory to be used.
const NEEDED: [&str; 3] = ["postgres", "initdb", "pg_basebackup"];

/// PostgreSQL's server programs.
#[derive(Debug)]
pub(crate) struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// Looks in `$PATH`, where `pg_config` says, and where Debian has them, newest first. With `major`, only programs of that
    /// major version will do: a data directory is of one.
    pub(crate) fn find(major: Option<u32>) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        for dir in candidates() {
            if NEEDED.iter().all(|name| dir.join(name).is_file())
                && let Some(own) = version(&dir.join("postgres"))
            {
                if major.is_none_or(|major| major == own) {
                    return Ok(Self { dir });
                }
                found.push(own.to_string());
            }
        }
        match major {
            Some(major) if !found.is_empty() => bail!(
                "the data was made by PostgreSQL {major}, and only version {} is installed; install it with: \
                 sudo apt-get install -y postgresql-{major}, or choose another --dir",
                found.join(", ")
            ),
            _ => bail!(
                "PostgreSQL's server programs are not installed; install them with: sudo apt-get install -y postgresql"
            ),
        }
    }

    /// The path of one.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> =
        search_path().map(|dir| dir.join("postgres")).filter_map(|path| real_dir(&path)).collect();
    let asked = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success());
    out.extend(asked.and_then(|output| String::from_utf8(output.stdout).ok()).map(|text| PathBuf::from(text.trim())));
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    out.extend(debian.into_iter().map(|(_, dir)| dir));
    out
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// The directory a program really lies in, links followed.
fn real_dir(program: &Path) -> Option<PathBuf> {
    program.canonicalize().ok()?.parent().map(Path::to_path_buf)
}

/// The major version of a `postgres`.
fn version(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.trim().strip_prefix("postgres (PostgreSQL) ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Our data plane: `given`, else beside this program, else in `$PATH`.
pub(crate) fn optimacore(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        ensure!(given.is_file(), "there is no {}", given.display());
        return std::path::absolute(given).context("no current directory");
    }
    let beside = env::current_exe().ok().and_then(|path| Some(path.parent()?.join("optimacore")));
    beside
        .into_iter()
        .chain(search_path().map(|dir| dir.join("optimacore")))
        .find(|path| path.is_file())
        .context("the program optimacore lies neither beside ctl nor in $PATH; name it with --optimacore")
}
