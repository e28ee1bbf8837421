//! A PostgreSQL cluster of a test's own, or the one that the tests of a program share.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};

use crate::guard::Guard;
use crate::{port, program, wait_until};

/// Who owns everything there, and has everything allowed.
pub const SUPERUSER: &str = "postgres";

/// A cluster: its directory, its server. Ends when dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
    _guard: Guard,
}

impl Cluster {
    /// A new cluster, running. Everybody is let in from this machine without a password.
    ///
    /// # Panics
    /// When PostgreSQL cannot be started here.
    #[must_use]
    pub fn start() -> Self {
        let cluster = Self::prepare();
        program::run_well(
            cluster.program("initdb").arg("--pgdata").arg(cluster.data()).args([
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
                "--username",
                SUPERUSER,
            ]),
            b"",
        );
        cluster.configure();
        cluster.run();
        cluster
    }

    /// A hot standby of another cluster.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn replica_of(primary: &Self) -> Self {
        let cluster = Self::prepare();
        program::run_well(
            cluster.program("pg_basebackup").arg("--pgdata").arg(cluster.data()).args([
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "--host=127.0.0.1",
                &format!("--port={}", primary.port),
                "--username",
                SUPERUSER,
            ]),
            b"",
        );
        cluster.configure();
        cluster.run();
        cluster
    }

    /// The cluster that the tests of this program share. A test that stops it, or counts what is in it, needs its own.
    ///
    /// # Panics
    /// When PostgreSQL cannot be started here.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn prepare() -> Self {
        let dir = tempfile::Builder::new().prefix("optimacore-test-").tempdir().unwrap().keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            chown(&dir, Some(uid), Some(gid)).unwrap();
        }
        let mut shell = program::command(Path::new("sh"));
        run_as_unprivileged(&mut shell);
        shell.current_dir("/").env("PG_CTL", program::postgres("pg_ctl"));
        let guard = Guard::new(shell, "\"$PG_CTL\" -D \"$1/data\" -m immediate -t 20 stop; rm -rf \"$1\"", &dir);
        Self { dir, port: port::free(), server: Mutex::new(None), _guard: guard }
    }

    fn configure(&self) {
        let path = self.data().join("postgresql.conf");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(&format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n",
            self.port,
            self.dir.display()
        ));
        text.push_str("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nmax_connections = 200\n");
        text.push_str("shared_buffers = 64MB\nmax_wal_size = 1GB\nautovacuum = off\nlog_min_messages = warning\n");
        text.push_str("max_prepared_transactions = 10\n");
        fs::write(&path, text).unwrap();
    }

    /// Starts the server of a cluster whose server does not run, and waits until it accepts clients.
    ///
    /// # Panics
    /// When it does not start.
    pub fn run(&self) {
        assert!(self.try_run(), "PostgreSQL ended: {}", self.log());
    }

    /// As [`Cluster::run`]; gives whether it runs now. A server that was killed may leave children that still hold the data
    /// directory for a moment.
    ///
    /// # Panics
    /// When it runs already, or does not accept clients in time.
    pub fn try_run(&self) -> bool {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut child = self
            .program("postgres")
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        let (mut ended, mut accepts) = (false, false);
        wait_until("PostgreSQL accepts clients", || {
            ended = child.try_wait().unwrap().is_some();
            accepts = !ended && program::run(&mut self.psql(&["-c", "select 1"]), b"").status.success();
            ended || accepts
        });
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "the server runs already");
        if accepts {
            *server = Some(child);
        }
        accepts
    }

    /// Stops the server as an administrator in a hurry does: clients are cut off, nothing is lost.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self) {
        self.end(Signal::INT);
    }

    /// Kills the server process itself, as a crash does; its children follow.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// Stops and starts it.
    ///
    /// # Panics
    /// When it does not run, or does not come back.
    pub fn restart(&self) {
        self.stop();
        self.run();
    }

    /// Sends the postmaster a signal that it survives: `STOP` and `CONT` make it stand still and go on, so that nobody new is
    /// accepted while those who are connected are served.
    ///
    /// # Panics
    /// When it does not run.
    pub fn hold(&self, signal: Signal) {
        signal_process(self.server.lock().unwrap().as_ref().unwrap().id(), signal);
    }

    /// Restarts it with other rules of who may come in. They must let [`SUPERUSER`] in from 127.0.0.1 without a password.
    ///
    /// # Panics
    /// As [`Cluster::restart`].
    pub fn restart_with_rules(&self, rules: &str) {
        fs::write(self.data().join("pg_hba.conf"), rules).unwrap();
        self.restart();
    }

    fn end(&self, signal: Signal) {
        let mut server = self.server.lock().unwrap();
        let mut child = server.take().unwrap();
        signal_process(child.id(), signal);
        child.wait().unwrap();
    }

    /// Runs SQL straight at PostgreSQL; gives rows as `psql -XAt` prints them.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, text: &str) -> String {
        self.sql_in("postgres", text)
    }

    /// As [`Cluster::sql`], in another database.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql_in(&self, database: &str, text: &str) -> String {
        program::run_well(&mut self.psql(&["-d", database, "-v", "ON_ERROR_STOP=1", "-c", text]), b"")
    }

    /// Makes a database of the caller's own.
    ///
    /// # Panics
    /// When it cannot.
    pub fn make_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("create database {name}"));
        name
    }

    fn psql(&self, arguments: &[&str]) -> Command {
        let mut command = program::command(&program::postgres("psql"));
        command.args(["-XAtqw", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", SUPERUSER]).args(arguments);
        command
    }

    /// Where it listens on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file into the directory of the data, as PostgreSQL's own; takes effect with the next reload.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put_file(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A command that runs as whoever PostgreSQL runs as.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = program::command(program);
        command.current_dir(&self.dir).env("HOME", &self.dir);
        run_as_unprivileged(&mut command);
        command
    }

    /// Makes a directory that is PostgreSQL's own.
    ///
    /// # Panics
    /// When it cannot.
    pub fn own_dir(&self, path: &Path) {
        fs::create_dir_all(path).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            let made = path.ancestors().take_while(|dir| **dir != self.dir);
            made.for_each(|dir| chown(dir, Some(uid), Some(gid)).unwrap());
        }
    }

    /// Copies a directory for PostgreSQL.
    ///
    /// # Panics
    /// When it cannot.
    pub fn own_copy(&self, from: &Path, to: &Path) {
        self.own_dir(to);
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.own_copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), &to).unwrap();
            }
        }
    }

    /// What it has logged.
    ///
    /// # Panics
    /// When there is no log.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("log")).unwrap()).into_owned()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn program(&self, name: &str) -> Command {
        self.command(&program::postgres(name))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Ok(server) = self.server.get_mut()
            && let Some(mut child) = server.take()
        {
            signal_process(child.id(), Signal::QUIT);
            // it may have been made to stand still
            signal_process(child.id(), Signal::CONT);
            let _ended: std::io::Result<std::process::ExitStatus> = child.wait();
        }
    }
}

/// Sends a signal to a process, which may be gone.
///
/// # Panics
/// When the id is none of a process.
pub fn signal_process(id: u32, signal: Signal) {
    let _sent: rustix::io::Result<()> = kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal);
}

/// Whose PostgreSQL runs as when the tests run as root, which it refuses.
pub(crate) fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let mut fields =
            users.lines().map(|line| line.split(':')).find(|fields| fields.clone().next() == Some(name))?.skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    let found = ["postgres", "nobody"].iter().find_map(|name| ids(name));
    assert!(found.is_some(), "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody");
    found
}

pub(crate) fn run_as_unprivileged(command: &mut Command) {
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
}
