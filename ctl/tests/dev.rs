//! `ctl dev` with real PostgreSQL and the real data plane.
//!
//! The data plane is the program `OPTIMACORE_BIN` names; without it, the one of this workspace, built when it is not fresh.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Long enough for the slowest machine; nothing waits for it that goes well.
const DEADLINE: Duration = Duration::from_secs(120);

fn optimacore() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os("OPTIMACORE_BIN") {
            return PathBuf::from(path);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "optimacore", "--bin", "optimacore"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "optimacore does not build");
        let path = Path::new(env!("CARGO_BIN_EXE_ctl")).with_file_name("optimacore");
        assert!(path.is_file(), "there is no {}", path.display());
        path
    })
}

/// A directory that PostgreSQL's user may enter.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Four ports that were free. None is of the range that the kernel gives to outgoing connections, of which there are many.
fn free_ports() -> [u16; 4] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let mut free = std::iter::from_fn(|| Some(first + NEXT.fetch_add(1, Ordering::Relaxed) % 1000))
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    [(); 4].map(|()| free.next().unwrap())
}

fn command(dir: &Path, [plane, primary, replica, http]: [u16; 4], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctl"));
    command.args(["dev", "--json", "--dir"]).arg(dir).arg("--optimacore").arg(optimacore());
    command.args(["--listen", &format!("127.0.0.1:{plane}"), "--primary-port", &primary.to_string()]);
    command.args(["--replica-port", &replica.to_string()]).args(more);
    if !more.contains(&"--no-http") {
        command.args(["--http", &format!("127.0.0.1:{http}")]);
    }
    command
}

struct Stack {
    child: Child,
    ready: serde_json::Value,
}

impl Stack {
    fn start(dir: &Path, ports: [u16; 4], more: &[&str]) -> Self {
        let mut child = command(dir, ports, more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("ctl dev did not get ready: {said}");
        }
        Self { child, ready: serde_json::from_str(&line).unwrap() }
    }

    fn psql(&self, which: &str, password: &str, sql: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args(["-XAtw", "-v", "ON_ERROR_STOP=1", "-c", sql, self.ready.get(which).unwrap().as_str().unwrap()])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "30")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn signal(&self, signal: Signal) {
        signal_process(self.child.id(), signal);
    }

    /// Its exit code and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        wait_until("ctl dev ends", || self.child.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Stack {
    /// After a failed test nothing shall go on running.
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::TERM);
            self.child.wait().unwrap();
        }
    }
}

fn signal_process(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What is answered to whoever asks for the dashboard.
fn page(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn a_stack_serves_replicates_stops_resumes_and_tells_of_a_dead_data_plane() {
    let (dir, ports) = (open_dir(), free_ports());
    let dir = dir.path().join("it's a \"stack\"");
    let stack = Stack::start(&dir, ports, &["--pool-size", "5"]);
    stack.psql("plane", "", "CREATE TABLE t AS SELECT 7 AS a").unwrap();
    let http = stack.ready.get("http").unwrap().as_str().unwrap();
    assert_eq!(http, format!("http://127.0.0.1:{}/", ports[3]));
    assert!(page(ports[3]).starts_with("HTTP/1.1 200 OK\r\n"), "{}", page(ports[3]));
    assert_eq!(stack.psql("plane", "", "SELECT a FROM t").unwrap(), "7");
    assert_eq!(stack.psql("primary", "", "SELECT a, pg_is_in_recovery() FROM t").unwrap(), "7|f");
    wait_until("the replica follows", || {
        stack.psql("replica", "", "SELECT a, pg_is_in_recovery() FROM t").is_ok_and(|row| row == "7|t")
    });
    let second = refused(&command(&dir, free_ports(), &[]).output().unwrap());
    assert!(second.contains("a stack is running in"), "{second}");
    let other = open_dir();
    let taken = refused(&command(other.path(), ports, &[]).output().unwrap());
    assert!(taken.contains("choose another --listen"), "{taken}");
    stack.signal(Signal::TERM);
    assert_eq!(stack.end().0, Some(0));
    for port in ports {
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }

    let stack = Stack::start(&dir, ports, &[]);
    assert_eq!(stack.psql("plane", "", "SELECT a FROM t").unwrap(), "7");
    let plane = stack.ready.get("optimacore_pid").unwrap().as_u64().unwrap();
    signal_process(u32::try_from(plane).unwrap(), Signal::KILL);
    let (code, said) = stack.end();
    assert_eq!(code, Some(1));
    assert!(said.contains("optimacore has ended (signal: 9"), "{said}");
    for port in ports {
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}

#[test]
fn two_stacks_run_side_by_side_with_and_without_password_and_leftovers_are_ended() {
    let (locked_dir, open_one) = (open_dir(), open_dir());
    let locked = Stack::start(locked_dir.path(), free_ports(), &["--password", "o'pen \"sesame\""]);
    let open_ports = free_ports();
    let open = Stack::start(open_one.path(), open_ports, &["--no-http"]);
    assert!(open.ready.get("http").unwrap().is_null());
    assert!(TcpListener::bind(("127.0.0.1", open_ports[3])).is_ok());
    for which in ["plane", "primary", "replica"] {
        assert_eq!(locked.psql(which, "o'pen \"sesame\"", "SELECT 1").as_deref(), Ok("1"), "{which}");
        let error = locked.psql(which, "wrong", "SELECT 1").unwrap_err();
        assert!(error.contains("password authentication failed for user \"postgres\""), "{which}: {error}");
        assert_eq!(open.psql(which, "", "SELECT 1").as_deref(), Ok("1"), "{which}");
    }
    // killed, it leaves all its programs running
    open.signal(Signal::KILL);
    assert_eq!(open.end().0, None);
    let open = Stack::start(open_one.path(), open_ports, &[]);
    assert_eq!(open.psql("plane", "", "SELECT 1").as_deref(), Ok("1"));
    for stack in [locked, open] {
        stack.signal(Signal::INT);
        assert_eq!(stack.end().0, Some(0));
    }
}

#[test]
fn options_that_cannot_be_are_refused_before_anything_starts() {
    let dir = open_dir();
    let same = refused(&command(dir.path(), [6432, 5532, 5532, 6480], &[]).output().unwrap());
    assert!(same.contains("ports of their own"), "{same}");
    let same = refused(&command(dir.path(), [6432, 5532, 5533, 5533], &[]).output().unwrap());
    assert!(same.contains("--http needs a port of its own"), "{same}");
    let both = command(dir.path(), free_ports(), &["--no-http"]).args(["--http", "[::1]:1"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    let cores = refused(&command(dir.path(), free_ports(), &["--cores", "3-1"]).output().unwrap());
    assert!(cores.contains("no list of cores"), "{cores}");
    assert!(!dir.path().join("primary").exists());
}
