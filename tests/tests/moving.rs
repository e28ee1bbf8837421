//! Moving from PgBouncer: the same pgbouncer.ini is given to the real one and to us, and both serve the same.

use std::path::Path;
use std::process::Output;

use dbproto::auth::server::build_md5;
use harness::pgbouncer::{Files, free_port};
use harness::program::{self, run};
use harness::{Cluster, ErrorReply, Pgbouncer, Plane, RawClient, console, wait_until};
use rustix::process::Signal;

fn import(file: &Path, more: &[&str]) -> Output {
    run(program::command(program::optimacore()).arg("--import").arg(file).args(more), b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Who came in, and where; or that nobody did.
fn outcome(login: Result<RawClient, ErrorReply>) -> String {
    match login {
        Ok(mut client) => {
            let who = "select current_user || ' in ' || current_database() || ' at ' || current_setting('TimeZone')";
            client.query(who).good().value()
        }
        Err(_) => "refused".to_owned(),
    }
}

const USERS: [(&str, &str); 6] = [
    ("ann", "right"),
    ("ann", "wrong"),
    ("bob", "right"),
    ("bob", "wrong"),
    ("nobody", "right"),
    ("listed_only", "right"),
];
const DATABASES: [&str; 6] = ["app", "short", "forced", "zone", "by_star", "not there"];

/// A cluster with users whose password is `right`.
fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.sql(
        "create role ann login password 'right';
         set password_encryption = md5; create role bob login password 'right'",
    );
    cluster.sql("create database app");
    cluster.sql("create database by_star");
    cluster.restart_with_rules("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 md5\n");
    cluster
}

#[test]
fn the_same_ini_serves_the_same_users_and_databases() {
    let cluster = cluster();
    let files = Files::new();
    let list = format!("\"ann\" \"right\"\n\"bob\" \"{}\"\n\"listed_only\" \"right\"\n", build_md5("right", "bob"));
    files.put("users.txt", &list);
    let more = "short = host=127.0.0.1 port=@ dbname=app pool_mode=session pool_size=3\n\
                forced = host=127.0.0.1 port=@ dbname=app user=ann password='right' max_db_connections=4\n\
                zone = host=127.0.0.1 port=@ dbname=app timezone='Asia/Tokyo' connect_query='select 1'\n";
    files.put("more.ini", &more.replace('@', &cluster.port().to_string()));
    let ini = |port: u16, socket_dir: &Path| {
        format!(
            "; both read this\n[databases]\n%include {dir}/more.ini\n* = host=127.0.0.1 port={pg}\n\
             app = host=127.0.0.1 port={pg}\n[users]\nann = pool_mode=session\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir = {socket}\nauth_file = {dir}/users.txt\nauth_type = md5\n\
             pool_mode = transaction\ndefault_pool_size = 7\nadmin_users = ann\nstats_users = bob\n\
             server_login_retry = 1\n",
            dir = files.dir().display(),
            pg = cluster.port(),
            socket = socket_dir.display(),
        )
    };
    let (theirs, ours) = (free_port(), free_port());
    let (their_dir, our_dir) = (files.make_dir("theirs"), files.make_dir("ours"));
    let their_ini = files.put("theirs.ini", &ini(theirs, &their_dir));
    let our_ini = files.put("ours.ini", &ini(ours, &our_dir));
    let pgbouncer = Pgbouncer::start(&their_ini, theirs, &their_dir).unwrap();
    let plane = Plane::of_file(&our_ini, ours);
    for (user, password) in USERS {
        for database in DATABASES {
            let theirs = outcome(pgbouncer.try_client(user, database, Some(password)));
            let ours = outcome(plane.try_client(user, database, Some(password)));
            assert_eq!(ours, theirs, "{user} with {password} to {database}");
        }
    }
    let mut consoles = [
        pgbouncer.try_client("ann", "pgbouncer", Some("right")).unwrap(),
        plane.try_client("ann", "pgbouncer", Some("right")).unwrap(),
    ];
    let seen = consoles.each_mut().map(|console| {
        let rows = console::rows(console, "show databases");
        ["app", "short", "forced", "zone", "by_star"].map(|name| {
            let row = console::find(&rows, "name", name);
            let columns = ["port", "database", "force_user", "pool_size", "pool_mode", "max_connections"];
            columns.map(|column| row.get(column).cloned())
        })
    });
    assert_eq!(seen[1], seen[0]);
    let refused = |login: Result<RawClient, ErrorReply>| {
        login.map_or(true, |mut client| client.query("reload").error().is_some())
    };
    assert!(refused(pgbouncer.try_client("bob", "pgbouncer", Some("right"))), "bob may look only");
    assert!(refused(plane.try_client("bob", "pgbouncer", Some("right"))), "bob may look only");
    assert!(plane.try_client("listed_only", "pgbouncer", Some("right")).is_err());
}

#[test]
fn a_reload_takes_up_what_has_changed_in_the_ini() {
    let cluster = Cluster::shared();
    let files = Files::new();
    let port = free_port();
    files.put("users.txt", "\"postgres\" \"\"\n");
    let ini = |size: u32, more: &str| {
        format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}/users.txt\nadmin_users = postgres\n\
             default_pool_size = {size}\n{more}\n",
            cluster.port(),
            files.dir().display()
        )
    };
    let path = files.put("pgbouncer.ini", &ini(3, ""));
    let plane = Plane::of_file(&path, port);
    assert_eq!(plane.client("postgres").query("select 1").good().value(), "1");
    let size = || {
        let mut console = plane.client("pgbouncer");
        let rows = console::rows(&mut console, "show config");
        console::find(&rows, "key", "default_pool_size").get("value").cloned().unwrap()
    };
    assert_eq!(size(), "3");
    files.put("pgbouncer.ini", &ini(5, "no_such_key = 1"));
    let mut console = plane.client("pgbouncer");
    let reply = console.query("reload");
    assert_eq!(reply.code(), "F0000", "{reply:?}");
    assert_eq!(size(), "3", "nothing changes when something is wrong");
    files.put("pgbouncer.ini", &ini(5, "server_round_robin = 1"));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(plane.pid()).unwrap()).unwrap(),
        Signal::HUP,
    )
    .unwrap();
    wait_until("the reload is done", || size() == "5");
}

#[test]
fn an_import_writes_what_the_ini_amounts_to_and_tells_of_every_key() {
    let files = Files::new();
    let ini = files.put(
        "pgbouncer.ini",
        "[databases]\napp = host=10.0.0.1 password=hidden user=u\n[pgbouncer]\nlisten_addr = 127.0.0.1\npool_mode = transaction\n",
    );
    let output = import(&ini, &[]);
    assert!(output.status.success(), "{output:?}");
    let (toml, report) = (text(&output.stdout), text(&output.stderr));
    assert!(toml.contains("mode = \"transaction\"") && report.contains("databases.app.host"), "{toml}{report}");
    assert!(!report.contains("hidden"));
    let out = files.dir().join("optimacore.toml");
    let output = import(&ini, &["--output", out.to_str().unwrap(), "--json"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(text(&output.stderr).contains("\"key\": \"listen_addr\""), "{output:?}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), toml);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&out).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds a password");
    let again = import(&ini, &["--output", out.to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1), "a file that is there is not written over");
    for file in [&ini, &out] {
        let check = run(program::command(program::ctl()).arg("check").arg(file), b"");
        assert!(check.status.success(), "{check:?}");
    }
}

#[test]
fn what_is_lost_is_told_by_the_exit_code_and_what_blocks_is_not_run() {
    let files = Files::new();
    let with = |line: &str| {
        let text = format!("[databases]\n* = host=127.0.0.1\n[pgbouncer]\nlisten_addr = 127.0.0.1\n{line}\n");
        files.put("pgbouncer.ini", &text)
    };
    let codes = |line: &str| {
        let ini = with(line);
        let check = run(program::command(program::ctl()).args(["check", "--json"]).arg(&ini), b"");
        (import(&ini, &[]).status.code().unwrap(), check.status.code().unwrap(), text(&check.stdout))
    };
    assert_eq!(codes("max_client_conn = 5").0, 0);
    let (lost, sound, said) = codes("server_round_robin = 1");
    assert_eq!((lost, sound), (3, 0));
    assert!(said.contains("server_round_robin is not supported"), "{said}");
    let (blocked, unsound, said) = codes("auth_type = any");
    assert_eq!((blocked, unsound), (3, 1));
    assert!(said.contains("auth_type is not supported") && said.contains("\"line\": 5"), "{said}");
    assert_eq!(codes("pool_mod = session").0, 2);
    let run = run(program::command(program::optimacore()).arg("--config").arg(with("auth_type = any")), b"");
    assert_eq!(run.status.code(), Some(2), "{run:?}");
    assert!(text(&run.stderr).contains("pgbouncer.ini:5:1: auth_type is not supported"), "{run:?}");
}

/// Lines that pgbouncer takes or refuses, and what section they stand in.
const LINES: [(&str, &str); 25] = [
    ("pgbouncer", "default_pool_size = 5"),
    ("pgbouncer", "default_pool_size = 0x10"),
    ("pgbouncer", "default_pool_size = 5 ; five"),
    ("pgbouncer", "default_pool_size ="),
    ("pgbouncer", "default_pool_size"),
    ("pgbouncer", "POOL_MODE = session"),
    ("pgbouncer", "pool_mode = Session"),
    ("pgbouncer", "pool_mode = sessions"),
    ("pgbouncer", "server_lifetime = 1.5e2"),
    ("pgbouncer", "server_lifetime = 5s"),
    ("pgbouncer", "server_idle_timeout = -1"),
    ("pgbouncer", "server_reset_query_always = yes"),
    ("pgbouncer", "nonsense = 1"),
    ("pgbouncer", "auth_hba_file ="),
    ("pgbouncer", "%include nowhere.ini"),
    ("pgbouncer", "  # comment"),
    ("nonsense", "a = 1"),
    ("databases", "a-b.c = host=127.0.0.1"),
    ("databases", "a@b = host=127.0.0.1"),
    ("databases", "a = host = 127.0.0.1  port=1 dbname='it''s'"),
    ("databases", "a = host="),
    ("databases", "a = dbname='x"),
    ("databases", "a = nonsense=1"),
    ("databases", "pgbouncer = host=127.0.0.1"),
    ("users", "a = pool_mode=session nonsense=1"),
];

#[test]
fn lines_are_taken_or_refused_as_by_pgbouncer() {
    let files = Files::new();
    files.put("users.txt", "\"a\" \"b\"\n");
    for (number, (section, line)) in LINES.iter().enumerate() {
        let dir = files.make_dir(&format!("socket{number}"));
        // beginning again would set back what is said above
        let section = if *section == "pgbouncer" { String::new() } else { format!("[{section}]") };
        let port = free_port();
        let ini = format!(
            "[databases]\nx = host=127.0.0.1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir = {}\nauth_file = {}/users.txt\n{section}\n{line}\n",
            dir.display(),
            files.dir().display()
        );
        let ini = files.put("pgbouncer.ini", &ini);
        let theirs = Pgbouncer::start(&ini, port, &dir).is_some();
        let ours = match import(&ini, &[]).status.code() {
            Some(0 | 3) => true,
            Some(2) => false,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(ours, theirs, "{section} {line}");
    }
}
