//! The data plane of a test.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dbproto::auth::server::{build_md5, build_scram_verifier};
use rustix::process::Signal;
use stats::{PoolStats, Snapshot};
use tempfile::TempDir;

use crate::client::{ErrorReply, RawClient};
use crate::cluster::{Cluster, SUPERUSER, signal_process};
use crate::guard::Guard;
use crate::{port, program, wait_until};

/// What becomes a configuration. What is not said is as the program has it by default.
#[derive(Debug)]
pub struct PlaneBuilder {
    tables: toml::Table,
    users: Vec<toml::Table>,
    /// How to reach the cluster: what the tables of all databases have in common.
    upstream: toml::Table,
    databases: Vec<toml::Table>,
    rules: Vec<toml::Table>,
    environment: Vec<(String, String)>,
    /// What runs it, such as `strace`.
    wrapper: Vec<String>,
    activation: Activation,
    port: u16,
}

/// Whether it opens its sockets itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Activation {
    Own,
    /// They are passed to it as systemd does: where clients come, and where statistics are given out.
    Passed,
}

impl PlaneBuilder {
    /// A data plane on two cores in front of a cluster, which lets [`SUPERUSER`] in without a password to any database.
    #[must_use]
    pub fn before(cluster: &Cluster) -> Self {
        Self::before_port(cluster.port())
    }

    /// The same in front of whatever listens there.
    #[must_use]
    pub fn before_port(port: u16) -> Self {
        let mut upstream = toml::Table::new();
        upstream.insert("host".into(), "127.0.0.1".into());
        upstream.insert("port".into(), i64::from(port).into());
        upstream.insert("user".into(), SUPERUSER.into());
        let new = Self {
            tables: toml::Table::new(),
            users: Vec::new(),
            upstream,
            databases: Vec::new(),
            rules: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            activation: Activation::Own,
            port: port::free(),
        };
        new.user_trusted(SUPERUSER)
    }

    fn set(mut self, table: &str, key: &str, value: toml::Value) -> Self {
        let table = self.tables.entry(table).or_insert_with(|| toml::Table::new().into());
        table.as_table_mut().unwrap().insert(key.into(), value);
        self
    }

    /// A key of `[pool]`.
    #[must_use]
    pub fn pool(self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.set("pool", key, value.into())
    }

    /// A key of `[limits]`.
    #[must_use]
    pub fn limit(self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.set("limits", key, value.into())
    }

    /// `[listen.tls]`: its mode, and files by key.
    #[must_use]
    pub fn listen_tls(self, mode: &str, files: &[(&str, &str)]) -> Self {
        let mut table = toml::Table::new();
        table.insert("mode".into(), mode.into());
        table.extend(files.iter().map(|(key, path)| ((*key).to_owned(), (*path).into())));
        self.set("listen", "tls", table.into())
    }

    /// A key of `[server]`.
    #[must_use]
    pub fn server(self, key: &str, value: &str) -> Self {
        self.set("server", key, value.into())
    }

    /// A key of `[dns]`.
    #[must_use]
    pub fn dns(self, key: &str, value: &str) -> Self {
        self.set("dns", key, value.into())
    }

    /// A key of `[auth]`.
    #[must_use]
    pub fn auth(self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.set("auth", key, value.into())
    }

    /// `stats.statements`.
    #[must_use]
    pub fn statements(self, count: u32) -> Self {
        self.set("stats", "statements", i64::from(count).into())
    }

    /// A key of `[http]`.
    #[must_use]
    pub fn http(self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.set("http", key, value.into())
    }

    /// A key of `[stats]`.
    #[must_use]
    pub fn stat(self, key: &str, value: &str) -> Self {
        self.set("stats", key, value.into())
    }

    /// `log.level`.
    #[must_use]
    pub fn log(self, level: &str) -> Self {
        self.set("log", "level", level.into())
    }

    /// A key of `[log]`.
    #[must_use]
    pub fn log_key(self, key: &str, value: &str) -> Self {
        self.set("log", key, value.into())
    }

    /// A row of `[[hba]]`; an empty address stands for none.
    #[must_use]
    pub fn rule(mut self, kind: &str, user: &str, address: &str, method: &str) -> Self {
        let keys = [("type", kind), ("user", user), ("address", address), ("method", method)];
        let given = keys.into_iter().filter(|(_, value)| !value.is_empty());
        self.rules.push(given.map(|(key, value)| (key.to_owned(), value.into())).collect());
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it by another program, which must become it or hand signals on.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Passes its sockets to it, as systemd's socket activation does.
    #[must_use]
    pub fn activated(mut self) -> Self {
        self.activation = Activation::Passed;
        self
    }

    /// Logs in to PostgreSQL as whoever the client is, and not as [`SUPERUSER`]. Goes before all databases.
    #[must_use]
    pub fn as_the_client(mut self) -> Self {
        self.upstream.remove("user");
        self
    }

    /// A key of the user that was named last.
    ///
    /// # Panics
    /// When none was.
    #[must_use]
    pub fn user_key(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.users.last_mut().unwrap().insert(key.into(), value.into());
        self
    }

    /// A user of whom only the name is said.
    #[must_use]
    pub fn user_named(mut self, name: &str) -> Self {
        self.users.push([("name".to_owned(), name.into())].into_iter().collect());
        self
    }

    /// `admin.admin_users` or `admin.stats_users`.
    #[must_use]
    pub fn console(self, key: &str, users: &[&str]) -> Self {
        self.set("admin", key, users.iter().copied().map(toml::Value::from).collect::<Vec<_>>().into())
    }

    /// `runtime.cores`; one core makes one shard, and a pool of one connection then is all there is.
    #[must_use]
    pub fn cores(self, list: &str) -> Self {
        self.set("runtime", "cores", list.into())
    }

    /// A database: its name here, and keys of its table besides those that say where the cluster is. Without this, clients may
    /// ask for any database of the cluster.
    #[must_use]
    pub fn database(mut self, name: &str, keys: &[(&str, toml::Value)]) -> Self {
        let mut table = self.upstream.clone();
        table.insert("name".into(), name.into());
        table.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.databases.push(table);
        self
    }

    /// Logs clients in at the cluster under their own names rather than as [`SUPERUSER`].
    #[must_use]
    pub fn own_users(mut self) -> Self {
        self.upstream.remove("user");
        self
    }

    /// A user who needs no password.
    #[must_use]
    pub fn user_trusted(mut self, name: &str) -> Self {
        let mut table = toml::Table::new();
        table.insert("name".into(), name.into());
        table.insert("trust".into(), toml::Value::from(vec!["127.0.0.0/8", "local"]));
        self.users.push(table);
        self
    }

    /// A user who proves to know a password by SCRAM-SHA-256.
    #[must_use]
    pub fn user_scram(self, name: &str, password: &str) -> Self {
        // few rounds of hashing: nobody guesses here
        self.user_with(name, build_scram_verifier(password, b"of these tests", 64))
    }

    /// A user who proves to know a password by MD5.
    #[must_use]
    pub fn user_md5(self, name: &str, password: &str) -> Self {
        let secret = build_md5(password, name);
        self.user_with(name, secret)
    }

    fn user_with(mut self, name: &str, secret: String) -> Self {
        let mut table = toml::Table::new();
        table.insert("name".into(), name.into());
        table.insert("password".into(), secret.into());
        self.users.push(table);
        self
    }

    /// Starts it and waits until it accepts clients.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(self) -> Plane {
        let port = self.port;
        let (dir, child, passed) = self.spawn();
        Plane::await_ready(dir, child, port, passed)
    }

    /// Starts it with a configuration that it refuses; gives what it says.
    ///
    /// # Panics
    /// When it starts all the same.
    #[must_use]
    pub fn fail_to_start(self) -> String {
        let (dir, mut child, _passed) = self.spawn();
        let mut guard = Guard::new(Command::new("sh"), &format!("kill -9 {}; rm -rf \"$1\"", child.id()), dir.path());
        wait_until("the data plane ends", || child.try_wait().unwrap().is_some());
        let output = child.wait_with_output().unwrap();
        guard.dismiss();
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn spawn(mut self) -> (TempDir, Child, Option<TcpListener>) {
        if self.databases.is_empty() {
            self = self.database("*", &[]);
        }
        let dir = tempfile::Builder::new().prefix("optimacore-test-").tempdir().unwrap();
        let port = self.port;
        let statistics = dir.path().join("stats");
        let environment = std::mem::take(&mut self.environment);
        let (wrapper, activation) = (std::mem::take(&mut self.wrapper), self.activation);
        let text = self
            .set("listen", "addresses", vec![format!("127.0.0.1:{port}")].into())
            .set("listen", "unix_socket_dir", dir.path().display().to_string().into())
            .set("stats", "socket", statistics.display().to_string().into())
            .into_text();
        let config = dir.path().join("optimacore.toml");
        std::fs::write(&config, text).unwrap();
        let parts: Vec<&OsStr> =
            wrapper.iter().map(OsStr::new).chain([program::optimacore().as_os_str(), OsStr::new("--config")]).collect();
        let mut command = match activation {
            Activation::Own => program::command(Path::new(parts.first().unwrap())),
            Activation::Passed => program::command(Path::new("sh")),
        };
        command.envs(environment).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut passed = None;
        match activation {
            Activation::Own => command.args(parts.get(1..).unwrap()),
            Activation::Passed => {
                let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
                // as systemd makes them unless it is told otherwise
                listener.set_nonblocking(true).unwrap();
                command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
                passed = Some(listener);
                command.stdout(OwnedFd::from(UnixListener::bind(&statistics).unwrap()));
                command.args(["-c", PASS, "sh"]).args(parts)
            }
        };
        let child = command.arg(&config).spawn().unwrap();
        (dir, child, passed)
    }

    fn into_text(mut self) -> String {
        let tables = |all: Vec<toml::Table>| toml::Value::from(all);
        self.tables.insert("database".into(), tables(self.databases));
        self.tables.insert("user".into(), tables(self.users));
        if !self.rules.is_empty() {
            self.tables.insert("hba".into(), tables(self.rules));
        }
        toml::to_string(&self.tables).unwrap()
    }
}

/// Hands standard input and output on as sockets that systemd has made.
const PASS: &str = "exec 3<&0 4>&1 </dev/null >/dev/null
LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=clients:stats exec \"$@\"";

/// A running data plane. Ends when dropped.
#[derive(Debug)]
pub struct Plane {
    dir: TempDir,
    port: u16,
    child: Child,
    said: Arc<Mutex<String>>,
    guard: Guard,
    /// What was passed to it, which outlives it.
    _passed: Option<TcpListener>,
}

impl Plane {
    /// See [`PlaneBuilder::before`].
    #[must_use]
    pub fn before(cluster: &Cluster) -> PlaneBuilder {
        PlaneBuilder::before(cluster)
    }

    /// See [`PlaneBuilder::before_port`].
    #[must_use]
    pub fn before_port(port: u16) -> PlaneBuilder {
        PlaneBuilder::before_port(port)
    }

    /// One with a configuration file that is there already and has it listen on this port.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn of_file(config: &Path, port: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("optimacore-test-").tempdir().unwrap();
        let mut command = program::command(program::optimacore());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self::await_ready(dir, command.arg("--config").arg(config).spawn().unwrap(), port, None)
    }

    fn await_ready(dir: TempDir, mut child: Child, port: u16, passed: Option<TcpListener>) -> Self {
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, heard) = (child.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line.unwrap());
                heard.push('\n');
            }
        });
        let shell = Command::new("sh");
        let guard = Guard::new(shell, &format!("kill -9 {}; rm -rf \"$1\"", child.id()), dir.path());
        let mut plane = Self { dir, port, child, said, guard, _passed: passed };
        wait_until("the data plane is ready for clients", || {
            let ended = plane.child.try_wait().unwrap();
            assert!(ended.is_none(), "the data plane ended: {}", plane.said());
            plane.said().contains("ready for clients")
        });
        plane
    }

    /// Where it listens on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The directory of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Changes its configuration file, into whatever.
    ///
    /// # Panics
    /// When the file cannot be read or written.
    pub fn edit_config(&self, edit: impl FnOnce(&str) -> String) {
        let path = self.dir.path().join("optimacore.toml");
        std::fs::write(&path, edit(&std::fs::read_to_string(&path).unwrap())).unwrap();
    }

    /// What it has written to standard error.
    ///
    /// # Panics
    /// When its reader has panicked.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// A session of [`SUPERUSER`].
    ///
    /// # Panics
    /// When it is not let in.
    #[must_use]
    pub fn client(&self, database: &str) -> RawClient {
        self.try_client(SUPERUSER, database, None).unwrap()
    }

    /// A session of somebody, or why it is not let in.
    ///
    /// # Errors
    /// What the data plane said.
    pub fn try_client(&self, user: &str, database: &str, password: Option<&str>) -> Result<RawClient, ErrorReply> {
        let parameters = [("user", user), ("database", database), ("application_name", "test")];
        RawClient::connect(self.port, &parameters, password)
    }

    /// A program of PostgreSQL's that connects here as [`SUPERUSER`].
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = program::command(&program::postgres(name));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", SUPERUSER]);
        command
    }

    /// `psql -XAt` in a database, with this as its input; it stops at the first error.
    #[must_use]
    pub fn psql(&self, database: &str) -> Command {
        let mut command = self.program("psql");
        command.args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command
    }

    /// Runs SQL and gives its rows as `psql -XAt` prints them.
    ///
    /// # Panics
    /// When it fails.
    pub fn sql(&self, database: &str, text: &str) -> String {
        program::run_well(&mut self.psql(database), text.as_bytes())
    }

    /// The statistics.
    ///
    /// # Panics
    /// When it does not give them.
    #[must_use]
    pub fn stats(&self) -> Snapshot {
        let stream = UnixStream::connect(self.dir.path().join("stats")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stats::read(stream).unwrap()
    }

    /// Memory it has in use, in bytes.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn memory_len(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    }

    /// The statistics of the pool of [`SUPERUSER`] and a database, all shards together.
    ///
    /// # Panics
    /// When there is no such pool.
    #[must_use]
    pub fn pool(&self, database: &str) -> PoolStats {
        self.stats().pools_total().into_iter().find(|pool| pool.database == database && pool.user == SUPERUSER).unwrap()
    }

    /// Waits until nobody of the pool waits or has a server connection, as after the last request.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_until_pool_is_quiet(&self, database: &str) {
        wait_until("the pool is quiet", || {
            let pool = self.pool(database);
            pool.clients_active
                + pool.clients_waiting
                + pool.servers_busy_shared
                + pool.servers_exclusive
                + pool.servers_pinned
                + pool.servers_connecting
                + pool.servers_cleaning
                == 0
        });
    }

    /// Its anonymous memory that is resident, in KiB.
    ///
    /// # Panics
    /// When the kernel does not tell.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Asks it to stop, as an administrator does.
    pub fn ask_to_stop(&self) {
        signal_process(self.child.id(), Signal::TERM);
    }

    /// Whether it has ended, and how.
    ///
    /// # Panics
    /// When it is not our child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn terminate(mut self) -> (ExitStatus, String) {
        self.ask_to_stop();
        wait_until("the data plane ends", || self.ended().is_some());
        (self.ended().unwrap(), self.said())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // before the process id can be another's
        self.guard.dismiss();
        let alive = self.child.try_wait().is_ok_and(|ended| ended.is_none());
        // it may be ending just now
        let _killed: std::io::Result<()> = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking() {
            let how = if alive { "it was alive".to_owned() } else { format!("it had ended: {ended:?}") };
            let text = format!("--- the data plane said ({how}):\n{}", self.said());
            std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
        }
    }
}
