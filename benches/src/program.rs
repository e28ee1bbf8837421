//! Finding the programs that are measured, and their versions.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// pgbouncer's version that first takes prepared statements in transaction mode.
const PGBOUNCER_PREPARES: (u32, u32) = (1, 21);

/// Where all programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// PostgreSQL's server.
    pub postgres: PathBuf,
    /// The maker of clusters.
    pub initdb: PathBuf,
    /// The load.
    pub pgbench: PathBuf,
    /// `None`: it is not installed.
    pub pgbouncer: Option<Pgbouncer>,
    /// Ours.
    pub optimacore: PathBuf,
}

/// pgbouncer's program.
#[derive(Clone, Debug)]
pub struct Pgbouncer {
    /// Where it is.
    pub path: PathBuf,
    /// What it calls itself.
    pub version: String,
}

impl Programs {
    /// Finds them; `pgbouncer` and `optimacore` go before what would be found.
    pub fn find(pgbouncer: Option<&Path>, optimacore: Option<&Path>) -> anyhow::Result<Self> {
        let optimacore = find_optimacore(optimacore)?;
        Ok(Self { pgbouncer: find_pgbouncer(pgbouncer)?, ..Self::find_postgres(optimacore)? })
    }

    /// Finds those of PostgreSQL, where neither pgbouncer nor OptimaCore is measured.
    pub(crate) fn find_without_plane() -> anyhow::Result<Self> {
        Self::find_postgres(PathBuf::new())
    }

    fn find_postgres(optimacore: PathBuf) -> anyhow::Result<Self> {
        let dirs = postgres_dirs();
        let one = |name: &str| {
            dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file()).with_context(|| {
                format!("{name} is not installed; install it with: apt-get install postgresql postgresql-contrib")
            })
        };
        Ok(Self {
            postgres: one("postgres")?,
            initdb: one("initdb")?,
            pgbench: one("pgbench")?,
            pgbouncer: None,
            optimacore,
        })
    }
}

impl Pgbouncer {
    /// Whether clients may use prepared statements in transaction mode.
    pub fn is_preparing(&self) -> bool {
        numbers(&self.version).is_some_and(|version| version >= PGBOUNCER_PREPARES)
    }
}

/// What a program answers to `--version`, the first line.
pub fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}

fn find_pgbouncer(given: Option<&Path>) -> anyhow::Result<Option<Pgbouncer>> {
    let path = match given {
        Some(given) => Some(std::path::absolute(given)?),
        None => search_path()
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")])
            .map(|dir| dir.join("pgbouncer"))
            .find(|path| path.is_file()),
    };
    let Some(path) = path else { return Ok(None) };
    let version = version(&path).with_context(|| format!("{} does not run", path.display()))?;
    Ok(Some(Pgbouncer { path, version }))
}

fn find_optimacore(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match given {
        Some(given) => std::path::absolute(given)?,
        None => env::current_exe().context("no path of our own")?.with_file_name("optimacore"),
    };
    if !path.is_file() {
        bail!(
            "there is no {}; build it with: cargo build --release -p optimacore, or name it with --optimacore",
            path.display()
        );
    }
    Ok(path)
}

/// Where PostgreSQL's programs may be: in `$PATH` (links followed: their neighbours are where they lead), where `pg_config`
/// says, where Debian has them, newest first.
fn postgres_dirs() -> Vec<PathBuf> {
    let real = |dir: PathBuf| Some(dir.join("postgres").canonicalize().ok()?.parent()?.to_path_buf());
    let mut out: Vec<PathBuf> = search_path().filter_map(real).collect();
    let asked = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success());
    out.extend(asked.and_then(|output| String::from_utf8(output.stdout).ok()).map(|text| PathBuf::from(text.trim())));
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort();
    out.extend(debian.into_iter().rev().map(|(_, dir)| dir));
    out
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default().into_iter()
}

/// The first two numbers of a version, as in `PgBouncer 1.18.0`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split_whitespace().find(|word| word.contains('.'))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbouncer_prepares_from_1_21_on() {
        let is_preparing =
            |version: &str| Pgbouncer { path: PathBuf::new(), version: version.to_owned() }.is_preparing();
        assert!(!is_preparing("PgBouncer 1.18.0"));
        assert!(is_preparing("PgBouncer 1.21.0"));
        assert!(is_preparing("PgBouncer 2.0.1"));
        assert!(!is_preparing("something else"));
    }
}
