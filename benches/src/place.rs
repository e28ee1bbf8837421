//! The directory everything happens in, and the user PostgreSQL and pgbouncer run as: both refuse root.

use std::env;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use tempfile::TempDir;

/// A directory that is removed with the value.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    /// Whom the servers run as when not as the caller: user and group.
    other: Option<(u32, u32)>,
}

impl Place {
    /// Makes the directory.
    pub fn make() -> anyhow::Result<Self> {
        let other = if rustix::process::getuid().is_root() {
            let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
            let found = ["postgres", "nobody"].iter().find_map(|name| ids(&users, name));
            Some(found.context("PostgreSQL refuses root, and there is neither a user postgres nor nobody")?)
        } else {
            None
        };
        let dir = tempfile::Builder::new().prefix("optimacore-bench-").tempdir().context("no temporary directory")?;
        if other.is_some() {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        }
        Ok(Self { dir, other })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a directory for a server.
    pub fn make_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        self.give(&path)?;
        Ok(path)
    }

    /// Writes a file for a server to read.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.give(&path)?;
        Ok(path)
    }

    /// Writes a file for servers to read, and nobody else.
    pub fn write_secret(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let write = || {
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?
                .write_all(text.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        self.give(&path)?;
        Ok(path)
    }

    /// A program that works here, as the caller.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // nothing of the caller's own settings for PostgreSQL shall have a say
        for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        // a group of its own: the terminal's Ctrl-C is for us alone
        command.env("LC_ALL", "C").env("HOME", self.dir.path()).current_dir(self.dir.path()).process_group(0);
        command
    }

    /// A program that works here, as a user that servers accept.
    pub fn server_command(&self, program: &Path) -> Command {
        let mut command = self.command(program);
        if let Some((uid, gid)) = self.other {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn give(&self, path: &Path) -> anyhow::Result<()> {
        if let Some((uid, gid)) = self.other {
            chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} away", path.display()))?;
        }
        Ok(())
    }
}

/// A TCP port nobody listens on.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// User and group id of a line of `/etc/passwd`.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields =
        users.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?.skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
