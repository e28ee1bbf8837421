//! The real pgbouncer, with what it is to be compared by.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::{ErrorReply, RawClient};
use crate::cluster::{run_as_unprivileged, signal_process, unprivileged};
use crate::guard::Guard;
use crate::{port, program, wait_until};

/// Files of a test that pgbouncer may read, whoever it runs as.
#[derive(Debug)]
pub struct Files {
    dir: TempDir,
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

impl Files {
    /// None yet.
    ///
    /// # Panics
    /// When there is no room for any.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("optimacore-ini-").tempdir().unwrap();
        let files = Self { dir };
        files.give(files.dir.path());
        files
    }

    fn give(&self, path: &Path) {
        if let Some((uid, gid)) = unprivileged() {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file that only its owner may read.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.give(&path);
        path
    }

    /// A directory that anybody may use.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        self.give(&path);
        path
    }
}

/// A running pgbouncer. Ends when dropped.
#[derive(Debug)]
pub struct Pgbouncer {
    port: u16,
    child: Child,
    _guard: Guard,
}

/// A port for it.
#[must_use]
pub fn free_port() -> u16 {
    port::free()
}

impl Pgbouncer {
    /// One with a configuration that has it listen on this port, and a Unix socket in this directory; none if it refuses it.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn start(config: &Path, port: u16, socket_dir: &Path) -> Option<Self> {
        let mut command = program::command(Path::new("pgbouncer"));
        command.arg("-q").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.current_dir(config.parent().unwrap());
        run_as_unprivileged(&mut command);
        let child = command.spawn().unwrap();
        let script = format!("kill -9 {}", child.id());
        let guard = Guard::new(Command::new("sh"), &script, Path::new("/"));
        let mut new = Self { port, child, _guard: guard };
        let socket = socket_dir.join(format!(".s.PGSQL.{port}"));
        let mut ended = false;
        wait_until("pgbouncer listens or ends", || {
            ended = new.child.try_wait().unwrap().is_some();
            ended || socket.exists()
        });
        (!ended).then_some(new)
    }

    /// A session of somebody, or why it is not let in.
    ///
    /// # Errors
    /// What it said.
    pub fn try_client(&self, user: &str, database: &str, password: Option<&str>) -> Result<RawClient, ErrorReply> {
        let parameters = [("user", user), ("database", database), ("application_name", "test")];
        RawClient::connect(self.port, &parameters, password)
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        signal_process(self.child.id(), Signal::INT);
        let _ended: std::io::Result<std::process::ExitStatus> = self.child.wait();
    }
}
