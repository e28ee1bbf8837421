//! Where a stack keeps its things, and whose PostgreSQL's are.

use std::fs::{self, File, Metadata};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const DIR: &str = ".optimacore-dev";
/// Where the stack of root goes when nobody else can reach the current directory.
const DIR_OF_ROOT: &str = "/var/lib/optimacore-dev";
/// Longest directory in which a Unix socket's name, `/.s.PGSQL.65535.lock`, finds room.
const SOCKET_DIR_LEN_MAX: usize = 85;

/// Who PostgreSQL runs as: it refuses root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// Whoever called.
    Caller,
    /// Another user: its id and its group's.
    Other { uid: u32, gid: u32 },
}

impl Owner {
    /// `existing` is the data directory, whose owner it stays.
    fn choose(existing: &Path) -> anyhow::Result<Self> {
        if !rustix::process::getuid().is_root() {
            return Ok(Self::Caller);
        }
        if let Some(metadata) = fs::metadata(existing).ok().filter(|metadata| metadata.uid() != 0) {
            return Ok(Self::Other { uid: metadata.uid(), gid: metadata.gid() });
        }
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let (uid, gid) = ["postgres", "nobody"]
            .iter()
            .find_map(|name| ids(&users, name))
            .context("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")?;
        Ok(Self::Other { uid, gid })
    }

    /// Has a program run as this user.
    pub(crate) fn run_as(self, command: &mut Command) {
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file to this user.
    fn give(self, path: &Path) -> anyhow::Result<()> {
        if let Self::Other { uid, gid } = self {
            chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} away", path.display()))?;
        }
        Ok(())
    }

    /// The first directory above `dir` that this user may not enter.
    fn barred(self, dir: &Path) -> Option<PathBuf> {
        let Self::Other { uid, gid } = self else { return None };
        let enters = |metadata: &Metadata| {
            let bit = match (metadata.uid() == uid, metadata.gid() == gid) {
                (true, _) => 0o100,
                (false, true) => 0o010,
                (false, false) => 0o001,
            };
            metadata.mode() & bit != 0
        };
        // links are followed, since what counts is where they lead
        let real = dir.ancestors().find_map(|dir| dir.canonicalize().ok())?;
        let mut above: Vec<&Path> = real.ancestors().collect();
        above.reverse();
        above.into_iter().find(|dir| !fs::metadata(dir).is_ok_and(|metadata| enters(&metadata))).map(Path::to_path_buf)
    }
}

/// User and group id of a line of `/etc/passwd`.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut fields =
        users.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?.skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The directory of a stack, for as long as this lives nobody else's.
#[derive(Debug)]
pub(crate) struct Place {
    /// All is in here.
    pub(crate) dir: PathBuf,
    /// Unix sockets are in here: a directory of it, or one with a short name when its own is too long.
    pub(crate) sockets: PathBuf,
    /// Who PostgreSQL runs as.
    pub(crate) owner: Owner,
    _lock: File,
}

impl Place {
    /// Makes the directories and takes the lock.
    pub(crate) fn open(given: Option<&Path>) -> anyhow::Result<Self> {
        let dir = dir(given)?;
        let owner = Owner::choose(&dir.join("primary"))?;
        if let Some(barred) = owner.barred(&dir) {
            bail!(
                "PostgreSQL cannot run as root, and its user may not enter {}; choose another --dir",
                barred.display()
            );
        }
        let make = |dir: &Path| fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()));
        make(&dir)?;
        make(&dir.join("log"))?;
        let lock = lock(&dir.join("lock"))?;
        let sockets = socket_dir(&dir);
        make(&sockets)?;
        let sound = fs::symlink_metadata(&sockets)?;
        let caller = rustix::process::getuid().as_raw();
        let ours = match owner {
            Owner::Caller => sound.uid() == caller,
            Owner::Other { uid, .. } => sound.uid() == caller || sound.uid() == uid,
        };
        if !sound.is_dir() || !ours {
            bail!("{} is not ours; choose another --dir", sockets.display());
        }
        owner.give(&sockets)?;
        fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700))?;
        Ok(Self { dir, sockets, owner, _lock: lock })
    }

    /// Makes an empty directory for PostgreSQL, in place of one that may be there.
    pub(crate) fn make_data_dir(&self, dir: &Path) -> anyhow::Result<()> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        self.owner.give(dir)
    }

    /// Writes a file for PostgreSQL to read.
    pub(crate) fn write_given(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        write_private(path, text)?;
        self.owner.give(path)
    }

    /// A program that works here, as PostgreSQL's user.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // nothing of the caller's own settings for PostgreSQL shall have a say
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("HOME", &self.dir).env("LC_ALL", "C").current_dir(&self.dir).process_group(0);
        self.owner.run_as(&mut command);
        command
    }

    /// The statistics socket.
    pub(crate) fn stats_socket(&self) -> PathBuf {
        stats_socket(&self.dir)
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The directory that `--dir` names, or the one it has without.
pub(crate) fn dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let here = std::path::absolute(given.unwrap_or_else(|| Path::new(DIR))).context("no current directory")?;
    let owner = Owner::choose(&here.join("primary"))?;
    match given {
        None if owner.barred(&here).is_some() => Ok(Path::new(DIR_OF_ROOT).join(short_name(&here))),
        _ => Ok(here),
    }
}

/// The statistics socket of the stack in a directory.
pub(crate) fn stats_socket(dir: &Path) -> PathBuf {
    socket_dir(dir).join("stats.sock")
}

fn socket_dir(dir: &Path) -> PathBuf {
    let own = dir.join("run");
    if own.as_os_str().len() <= SOCKET_DIR_LEN_MAX {
        return own;
    }
    std::env::temp_dir().join(format!("optimacore-{}", short_name(dir)))
}

/// A short name for a directory, always the same for the same: FNV-1a of its path.
fn short_name(dir: &Path) -> String {
    let bytes = dir.as_os_str().as_encoded_bytes();
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let dir = path.parent().unwrap_or(path).display();
            bail!("a stack is running in {dir} already; stop it, or choose another --dir")
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:/\npostgres:x:101:104:PostgreSQL,,,:/:/bin/sh\n";
        assert_eq!(ids(users, "postgres"), Some((101, 104)));
        assert_eq!(ids(users, "nobody"), None);
    }

    #[test]
    fn a_closed_directory_bars_others_only() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let other = Owner::Other { uid: 54_321, gid: 54_321 };
        assert_eq!(other.barred(&closed.join("not/yet/there")), Some(closed.canonicalize().unwrap()));
        let caller = fs::metadata(&closed).unwrap();
        let own = Owner::Other { uid: caller.uid(), gid: caller.gid() };
        assert_eq!(own.barred(&closed), None);
        assert_eq!(Owner::Caller.barred(&closed), None);
    }

    #[test]
    fn sockets_of_a_long_directory_get_a_short_one() {
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        assert!(socket_dir(&long).as_os_str().len() <= SOCKET_DIR_LEN_MAX);
        assert_ne!(socket_dir(&long), socket_dir(&long.join("y")));
        assert_eq!(socket_dir(Path::new("/a")), Path::new("/a/run"));
    }
}
