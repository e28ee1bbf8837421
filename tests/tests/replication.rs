//! Replication clients: PostgreSQL's own programs, and what a session of theirs is to others.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use harness::cluster::SUPERUSER;
use harness::console::{find, rows};
use harness::program::run_well;
use harness::{Cluster, ErrorReply, Plane, PlaneBuilder, RawClient, Request, wait_until};

/// A cluster that can be replicated in both ways.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start();
        cluster.sql("alter system set wal_level = logical");
        cluster.sql("alter system set max_wal_senders = 50");
        // so that what a test has written can be sent at once
        cluster.sql("alter system set synchronous_commit = on");
        cluster.restart();
        cluster
    })
}

fn before() -> PlaneBuilder {
    Plane::before(cluster()).console("admin_users", &[SUPERUSER])
}

fn try_replica(port: u16, database: &str, kind: &str) -> Result<RawClient, ErrorReply> {
    let name = format!("r{port}");
    let parameters =
        [("user", SUPERUSER), ("database", database), ("replication", kind), ("application_name", name.as_str())];
    RawClient::connect(port, &parameters, None)
}

fn replica(plane: &Plane, kind: &str) -> RawClient {
    try_replica(plane.port(), "postgres", kind).unwrap()
}

/// Senders of WAL to clients of this plane's that a test has made itself.
fn senders(cluster: &Cluster, plane: &Plane) -> String {
    cluster.sql(&format!(
        "select count(*) from pg_stat_activity where backend_type = 'walsender' and application_name = 'r{}'",
        plane.port()
    ))
}

/// Waits until nobody is counted any more.
fn wait_until_quiet(plane: &Plane) {
    wait_until("all clients have gone", || plane.stats().shards.iter().all(|shard| shard.clients == 0));
}

fn files_of(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn pg_basebackup_makes_a_copy_that_is_whole() {
    let plane = before().start();
    cluster().sql("create table if not exists copied as select i, repeat('x', 900) from generate_series(1, 20000) i");
    for method in ["stream", "fetch"] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        run_well(
            plane.program("pg_basebackup").args(["--checkpoint=fast", "--no-sync", "-X", method, "-D"]).arg(&data),
            b"",
        );
        run_well(Command::new(harness::program::postgres("pg_verifybackup")).arg(&data), b"");
        assert!(data.join("PG_VERSION").is_file() && !files_of(&data.join("pg_wal")).is_empty());
    }
    wait_until_quiet(&plane);
}

#[test]
fn pg_receivewal_gets_the_wal_as_it_is() {
    let plane = before().start();
    let dir = tempfile::tempdir().unwrap();
    let mut command = plane.program("pg_receivewal");
    let mut child = command.args(["--no-loop", "-D"]).arg(dir.path()).stderr(Stdio::null()).spawn().unwrap();
    let streams = "select count(*) from pg_stat_replication where application_name = 'pg_receivewal'";
    wait_until("it streams", || cluster().sql(streams) == "1");
    cluster().sql("create table received as select generate_series(1, 50000)");
    cluster().sql("select pg_switch_wal()");
    cluster().sql("create table received_later()");
    let whole = || -> Vec<String> { files_of(dir.path()).into_iter().filter(|name| name.len() == 24).collect() };
    wait_until("a whole file has come", || !whole().is_empty());
    let wal = cluster().sql("select setting || '/pg_wal' from pg_settings where name = 'data_directory'");
    for name in whole() {
        assert!(fs::read(dir.path().join(&name)).unwrap() == fs::read(Path::new(&wal).join(&name)).unwrap(), "{name}");
    }
    // a program that is killed leaves nothing
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its sender has gone", || cluster().sql(streams) == "0");
    wait_until_quiet(&plane);
}

#[test]
fn pg_recvlogical_gets_what_was_changed() {
    let plane = before().start();
    let database = cluster().make_database();
    let receive = |arguments: &[&str]| {
        let mut command = plane.program("pg_recvlogical");
        command.args(["--no-loop", "--slot=changes", "-d", &database]).args(arguments);
        run_well(&mut command, b"")
    };
    receive(&["--create-slot", "--plugin=test_decoding"]);
    cluster().sql_in(&database, "create table t(a int); insert into t select generate_series(1, 3000)");
    let end = cluster().sql("select pg_current_wal_flush_lsn()");
    let said = receive(&["--start", &format!("--endpos={end}"), "-f", "-"]);
    let inserted = said.lines().filter(|line| line.starts_with("table public.t: INSERT:")).count();
    assert_eq!(inserted, 3000);
    receive(&["--drop-slot"]);
}

#[test]
fn what_replication_asks_for_is_read_as_by_postgresql() {
    let plane = before().start();
    for value in
        ["true", "T", "yes", "on", "1", "database", "false", "off", "n", "0", "", "o", "maybe", "2", "Database"]
    {
        let [theirs, ours] = [cluster().port(), plane.port()].map(|port| match try_replica(port, "postgres", value) {
            Ok(mut client) => {
                let system = client.query("IDENTIFY_SYSTEM");
                let sql = client.query("select 1");
                let extended = client.ask(&Request::new().extended("select 1", &[]));
                format!("{} {} {} {}", system.code(), sql.code(), sql.tags(), extended.code())
            }
            Err(error) => format!("{error:?}"),
        });
        assert_eq!(ours, theirs, "{value}");
    }
    // its options are PostgreSQL's to judge
    let parameters = |options| [("user", SUPERUSER), ("replication", "database"), ("options", options)];
    let mut client = RawClient::connect(plane.port(), &parameters("-c work_mem=77kB -W 0"), None).unwrap();
    assert_eq!(client.query("show work_mem").value(), "77kB");
    let error = RawClient::connect(plane.port(), &parameters("-c work_mem=much"), None).unwrap_err();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "22023"));
}

#[test]
fn a_cancel_reaches_a_replication_client() {
    let plane = before().start();
    let mut client = replica(&plane, "database");
    client.send(Request::new().query("select pg_sleep(100)").bytes());
    let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and backend_type = 'walsender'";
    wait_until("it sleeps", || cluster().sql(sleeps) == "1");
    client.cancel();
    assert_eq!(client.reply().code(), "57014");
    assert_eq!(client.query("select 'alive'").value(), "alive");
}

#[test]
fn a_client_that_does_not_read_its_stream_costs_little_memory() {
    let plane = before().start();
    cluster().sql("create table if not exists large as select i, repeat('x', 900) from generate_series(1, 150000) i");
    let mut client = replica(&plane, "true");
    let before = plane.memory_len();
    client.send(Request::new().query("BASE_BACKUP (CHECKPOINT 'fast', MANIFEST 'no')").bytes());
    let waits = "select count(*) from pg_stat_activity where backend_type = 'walsender' and wait_event = 'ClientWrite'";
    wait_until("the sender waits for it", || cluster().sql(waits) == "1");
    assert!(plane.memory_len() < before + (8 << 20), "{} to {}", before, plane.memory_len());
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
    // it gets all of it as soon as it reads
    let messages = client.receive_until(b'Z');
    let len: usize = messages.iter().filter(|message| message.tag == b'd').map(|message| message.body.len()).sum();
    assert!(len > 100 << 20, "{len}");
    let left = replica(&plane, "true");
    left.hang_up();
    drop(client);
    wait_until("the senders have gone", || senders(cluster(), &plane) == "0");
    wait_until("nobody is counted any more", || plane.pool("postgres").servers_exclusive == 0);
}

/// Begins to stream WAL; what is sent is not read.
fn stream(cluster: &Cluster, plane: &Plane) -> RawClient {
    let mut client = replica(plane, "true");
    let start = cluster.sql("select pg_current_wal_flush_lsn()");
    client.send(Request::new().query(&format!("START_REPLICATION PHYSICAL {start}")).bytes());
    client.receive_until(b'W');
    client
}

#[test]
fn the_console_shows_them_and_ends_them() {
    // where nobody writes, so that no stream ends in the middle of a message
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).console("admin_users", &[SUPERUSER]).start();
    let mut console = plane.client("pgbouncer");
    let (mut streaming, mut logical) = (stream(&cluster, &plane), replica(&plane, "database"));
    logical.query("select 1").good();
    let clients = rows(&mut console, "show clients");
    let servers = rows(&mut console, "show servers");
    for shown in [&clients, &servers] {
        for kind in ["physical", "logical"] {
            let row = find(shown, "replication", kind);
            assert_eq!((row["state"].as_str(), row["database"].as_str()), ("active", "postgres"));
        }
    }
    let of = |kind: &str| find(&clients, "replication", kind);
    assert_eq!(of("logical")["link"], find(&servers, "replication", "logical")["ptr"]);
    let killed = console.query(&format!("kill_client {}", of("physical")["id"]));
    assert_eq!(killed.error(), None);
    let error = streaming.farewell();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"));
    wait_until("its sender has gone", || senders(&cluster, &plane) == "1");
    assert_eq!(logical.query("select 'unharmed'").value(), "unharmed");
    // a pause waits for it, and who comes meanwhile waits for its end
    console.send(Request::new().query("pause postgres").bytes());
    let mut other = plane.client("pgbouncer");
    wait_until("the database is paused", || {
        rows(&mut other, "show databases").iter().any(|row| row["name"] == "postgres" && row["paused"] == "1")
    });
    assert_eq!(logical.query("select 'still there'").value(), "still there");
    logical.hang_up();
    assert_eq!(console.reply().error(), None);
    let mut late = RawClient::open(plane.port());
    late.send_startup(&[("user", SUPERUSER), ("database", "postgres"), ("replication", "database")]);
    wait_until("it waits", || {
        rows(&mut other, "show clients").iter().any(|row| row["replication"] == "logical" && row["state"] == "waiting")
    });
    assert_eq!(other.query("resume postgres").error(), None);
    late.log_in(SUPERUSER, None).unwrap();
    assert_eq!(late.query("select 'at last'").value(), "at last");
    assert_eq!(other.query("kill postgres").error(), None);
    assert_eq!(late.farewell().code, "57P01");
}

#[test]
fn they_count_for_the_limits_of_their_database_and_wait_in_line() {
    let plane = before()
        .cores("0")
        .pool("query_wait_timeout", "2s")
        .pool("size", 1)
        .database("postgres", &[("max_connections", 2.into()), ("max_client_connections", 3.into())])
        .start();
    // a replication client takes nothing of the pool's size
    let one = replica(&plane, "true");
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
    // what is idle goes for another one
    let mut two = replica(&plane, "database");
    let error = try_replica(plane.port(), "postgres", "true").unwrap_err();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"), "{error:?}");
    assert!(error.message.contains("replication"), "{error:?}");
    let mut three = RawClient::open(plane.port());
    three.send_startup(&[("user", SUPERUSER), ("database", "postgres"), ("replication", "true")]);
    wait_until("three clients are there", || plane.stats().shards.iter().map(|shard| shard.clients).sum::<u64>() == 3);
    // the fourth client of the database is one too many
    assert_eq!(plane.try_client(SUPERUSER, "postgres", None).unwrap_err().code, "53300");
    one.hang_up();
    three.log_in(SUPERUSER, None).unwrap();
    assert_eq!(three.query("IDENTIFY_SYSTEM").code(), "");
    assert_eq!(two.query("select 2").value(), "2");
}

#[test]
fn an_orderly_shutdown_does_not_wait_for_a_stream() {
    // where nobody writes, so that the end does not come in the middle of a message
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).limit("shutdown_timeout", "30s").start();
    let mut streaming = stream(&cluster, &plane);
    let began = std::time::Instant::now();
    plane.ask_to_stop();
    assert_eq!(streaming.farewell().code, "57P01");
    let (status, said) = plane.terminate();
    assert!(status.success(), "{said}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn postgresql_says_what_it_has_to_say_itself() {
    let cluster = Cluster::start();
    cluster.sql("create role plain login");
    cluster.sql("alter system set max_wal_senders = 1");
    cluster.restart();
    let plane = Plane::before(&cluster).own_users().user_trusted("plain").start();
    let ask = |port, user| RawClient::connect(port, &[("user", user), ("replication", "true")], None).err();
    let [theirs, ours] = [cluster.port(), plane.port()].map(|port| ask(port, "plain").unwrap());
    assert_eq!(ours, theirs);
    assert_eq!(ours.code, "42501");
    let mut first = replica(&plane, "true");
    let [theirs, ours] = [cluster.port(), plane.port()].map(|port| ask(port, SUPERUSER).unwrap());
    assert_eq!(ours, theirs);
    assert_eq!(ours.code, "53300");
    cluster.sql("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'");
    assert_eq!(first.farewell().code, "57P01");
    cluster.stop();
    assert_eq!(ask(plane.port(), SUPERUSER).unwrap().code, "08006");
}

#[test]
fn rules_for_replication_are_rules_for_physical_replication_only() {
    let rules = "host replication postgres 127.0.0.1/32 trust\nhost postgres postgres 127.0.0.1/32 trust\n\
                 host replication other 127.0.0.1/32 reject\nhost all other 127.0.0.1/32 trust\n";
    let cluster = Cluster::start();
    cluster.sql("create role other login superuser");
    cluster.sql("create database app");
    cluster.restart_with_rules(rules);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    let plane = Plane::before(&cluster)
        .own_users()
        .user_trusted("other")
        .auth("hba_file", file.path().display().to_string())
        .start();
    for user in [SUPERUSER, "other"] {
        for (database, kind) in [("postgres", "true"), ("app", "true"), ("postgres", "database"), ("app", "database")] {
            let [theirs, ours] = [cluster.port(), plane.port()].map(|port| {
                let parameters = [("user", user), ("database", database), ("replication", kind)];
                RawClient::connect(port, &parameters, None).err()
            });
            assert_eq!(ours, theirs, "{user} {database} {kind}");
        }
    }
}
