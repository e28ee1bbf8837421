//! What systemd and the data plane have to do with each other: notifications, the watchdog, passed sockets, the units.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::cluster::{SUPERUSER, signal_process};
use harness::{Cluster, DEADLINE, Plane, PlaneBuilder, RawClient, program, wait_until};
use rustix::process::Signal;
use tempfile::TempDir;

/// Where systemd would listen.
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { socket, dir }
    }

    fn builder(&self) -> PlaneBuilder {
        let path = self.dir.path().join("notify");
        Plane::before(Cluster::shared()).variable("NOTIFY_SOCKET", &path.display().to_string())
    }

    /// The next notification, if one comes within so long.
    fn hear_within(&self, limit: Duration) -> Option<String> {
        let mut heard = [0; 4096];
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let len = self.socket.recv(&mut heard).ok()?;
        Some(String::from_utf8(heard.get(..len).unwrap().to_vec()).unwrap())
    }

    fn hear(&self) -> String {
        self.hear_within(DEADLINE).unwrap_or_else(|| panic!("nothing was said to systemd"))
    }
}

fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[test]
fn readiness_reloads_and_the_end_are_told() {
    let manager = Manager::start();
    let mut plane = manager.builder().start();
    let ready = manager.hear();
    assert!(ready.starts_with("READY=1\nSTATUS=Clients come to 127.0.0.1:"), "{ready}");

    let before = monotonic_us();
    signal_process(plane.id(), Signal::HUP);
    let reloading = manager.hear();
    let us = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.lines().next()).unwrap();
    assert!((before..=monotonic_us()).contains(&us.parse().unwrap()), "{reloading}");
    assert_eq!(manager.hear(), ready);

    plane.edit_config(|text| format!("nonsense = 1\n{text}"));
    signal_process(plane.id(), Signal::HUP);
    assert!(manager.hear().starts_with("RELOADING=1\n"));
    let still = manager.hear();
    assert!(still.starts_with("READY=1\n") && still.contains("the last reload changed nothing"), "{still}");

    plane.ask_to_stop();
    assert!(manager.hear().starts_with("STOPPING=1\n"));
    wait_until("it ends", || plane.ended().is_some());
}

#[test]
fn a_shard_that_hangs_is_not_told_to_be_alive() {
    let manager = Manager::start();
    let limit = Duration::from_millis(1500);
    let builder = manager.builder().variable("WATCHDOG_USEC", &limit.as_micros().to_string());
    let plane = builder.start();
    assert!(manager.hear().starts_with("READY=1\n"));
    for _ in 0..4 {
        assert_eq!(manager.hear_within(limit).as_deref(), Some("WATCHDOG=1"), "{}", plane.said());
    }
    let mut hold = Hold::of(&plane, "shard-1");
    // what was on its way
    let deadline = Instant::now() + DEADLINE;
    while manager.hear_within(limit * 2).is_some() {
        assert!(Instant::now() < deadline, "it is told to be alive all the time");
    }
    assert!(plane.said().contains("a shard hangs"), "{}", plane.said());
    hold.release();
    assert_eq!(manager.hear(), "WATCHDOG=1");
    assert_eq!(plane.client("postgres").query("SELECT 1").value(), "1");
}

/// A thread that stands still while the rest of its process goes on.
struct Hold(std::process::Child);

/// Seizes and interrupts a thread by ptrace(2); its end lets go.
const STAND_STILL: &str = "
import ctypes, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for request in (0x4206, 0x4207):
    if ptrace(request, int(sys.argv[1]), None, None) != 0:
        sys.exit(f'ptrace: {ctypes.get_errno()}')
print('held', flush=True)
sys.stdin.read()
";

impl Hold {
    fn of(plane: &Plane, name: &str) -> Self {
        let threads = std::fs::read_dir(format!("/proc/{}/task", plane.id())).unwrap();
        let named =
            |path: &PathBuf| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with(name));
        let thread = threads.map(|entry| entry.unwrap().path()).find(named).unwrap();
        let thread = thread.file_name().unwrap().to_str().unwrap().to_owned();
        let mut python = Command::new("python3");
        python.args(["-c", STAND_STILL, &thread]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n", "the thread cannot be held: {:?}", child.wait());
        Self(child)
    }

    fn release(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[test]
fn passed_sockets_are_used_by_all_shards_and_outlive_the_process() {
    let database = Cluster::shared().make_database();
    let mut plane = Plane::before(Cluster::shared()).cores("0-1").activated().start();
    assert!(plane.said().contains("systemd has passed sockets"), "{}", plane.said());
    let mut clients: Vec<RawClient> = (0..8).map(|_| plane.client(&database)).collect();
    for client in &mut clients {
        assert_eq!(client.query("SELECT 1").value(), "1");
    }
    // by the socket that was passed for statistics
    let shards = plane.stats().shards;
    assert_eq!(shards.iter().map(|shard| shard.clients).collect::<Vec<_>>(), [4, 4]);
    let listening = std::fs::read_to_string(format!("/proc/{}/net/unix", plane.id())).unwrap();
    let own = plane.socket_dir().join(".s.PGSQL");
    assert!(!listening.contains(&own.display().to_string()), "its own Unix socket is opened");
    plane.ask_to_stop();
    wait_until("it ends", || plane.ended().is_some());
    // the next process will serve who comes now
    std::net::TcpStream::connect(("127.0.0.1", plane.port())).unwrap();
    assert!(plane.socket_dir().join("stats").exists(), "a passed socket's file is not ours to remove");
}

#[test]
fn a_passed_socket_that_is_of_no_use_is_told() {
    let said = Plane::before(Cluster::shared()).variable("LISTEN_FDS", "1").fail_to_start();
    assert!(said.contains("neither TCP nor a Unix stream socket"), "{said}");
}

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("infra/optimacore.service")
}

/// What `systemd-analyze` prints, both ways; a version before 253 complains of the type alone.
fn analyze(arguments: &[&str]) -> String {
    let output = program::run(Command::new("systemd-analyze").arg("--no-pager").args(arguments), b"");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn the_unit_exposes_little() {
    let path = unit().display().to_string();
    let said = analyze(&["security", "--offline=true", &path]);
    let (_, level) =
        said.split_once("Overall exposure level for optimacore.service: ").unwrap_or_else(|| panic!("{said}"));
    let level: f64 = level.split_ascii_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 1.5, "{said}");
}

#[test]
fn units_have_no_key_that_systemd_does_not_know() {
    let socket = unit().with_extension("socket").display().to_string();
    let said = analyze(&["verify", "--man=no", &unit().display().to_string(), &socket]);
    let faults: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("optimacore.") && !line.contains("ignoring: notify-reload"))
        .filter(|line| !line.contains("is not executable"))
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}

/// System calls that a unit's filter lets through, its groups written out.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(unit()).unwrap();
    let filters = text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let names: Vec<&str> = filters.flat_map(str::split_ascii_whitespace).collect();
    assert!(!names.is_empty() && names.iter().all(|name| !name.starts_with('~')), "a list of what is allowed");
    let mut out = BTreeSet::new();
    // what systemd itself needs to start a program is always allowed
    let mut open: Vec<String> = names.into_iter().chain(["@default"]).map(str::to_owned).collect();
    while let Some(name) = open.pop() {
        if name.starts_with('@') {
            let said = analyze(&["syscall-filter", &name]);
            let lines = said.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            open.extend(lines.map(str::to_owned));
        } else {
            out.insert(name);
        }
    }
    out
}

#[test]
fn the_unit_allows_every_system_call_that_is_made() {
    let database = Cluster::shared().make_database();
    let manager = Manager::start();
    let trace = manager.dir.path().join("trace");
    let strace = ["strace", "-D", "-f", "-qq", "-o", &trace.display().to_string()];
    let builder = manager.builder().variable("WATCHDOG_USEC", "3000000").console("admin_users", &[SUPERUSER]);
    // a name, to be looked up
    let named = [("host", "localhost".into())];
    let mut plane = builder.database("named", &named).database("*", &[]).under(&strace).start();
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(client.query("SELECT repeat('x', 100000)").value().len(), 100_000);
        client.query("COMMIT");
    }
    plane.client("optimacore").query("SHOW FDS");
    let mut local = plane.program("psql");
    local.args(["-h", &plane.socket_dir().display().to_string(), "-XAtc", "SELECT 1", &database]);
    assert_eq!(program::run_well(&mut local, b""), "1");
    let _figures = plane.stats();
    signal_process(plane.id(), Signal::HUP);
    plane.ask_to_stop();
    wait_until("it ends", || plane.ended().is_some());
    let text = std::fs::read_to_string(&trace).unwrap();
    let name = |line: &str| Some(line.split_ascii_whitespace().nth(1)?.split_once('(')?.0.to_owned());
    let made: BTreeSet<String> = text.lines().filter_map(name).filter(|name| !name.starts_with('<')).collect();
    assert!(made.contains("io_uring_enter") && made.len() > 20, "{made:?}");
    let allowed = allowed();
    let missing: Vec<&String> = made.iter().filter(|name| !allowed.contains(*name)).collect();
    assert!(missing.is_empty(), "the unit forbids {missing:?}");
}
