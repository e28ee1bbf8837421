//! Clients that send their last byte and go on reading, and clients that have gone.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use dbproto::startup;
use harness::cluster::SUPERUSER;
use harness::{Cluster, Message, Plane, RawClient, Request, wait_until};

fn packet(database: &str) -> BytesMut {
    let mut out = BytesMut::new();
    startup::write_startup(&mut out, &[(b"user", SUPERUSER.as_bytes()), (b"database", database.as_bytes())]);
    out
}

/// What is said before somebody hangs up, but for what every server reports of itself and its own words for a cut.
fn heard(mut client: RawClient) -> Vec<Message> {
    client.may_be_torn();
    client.receive_to_end().into_iter().filter(|message| !matches!(message.tag, b'S' | b'K')).collect()
}

fn cases() -> Vec<(&'static str, Request)> {
    let new = Request::new;
    vec![
        ("nothing", new()),
        ("a query", new().query("select 1")),
        ("two queries", new().query("select 1").query("select 2")),
        ("an extended query", new().extended("select $1::int + 1", &[Some("41")])),
        ("several of them", new().extended("select 'a'", &[]).extended("select 'b'", &[]).query("select 'c'")),
        ("one that takes a while", new().query("select 'late' from pg_sleep(0.7)")),
        ("one behind a goodbye", new().query("select 1").terminate().query("select 2")),
        ("a goodbye behind one that takes a while", new().query("select 'late' from pg_sleep(0.3)").terminate()),
        ("a part of a message behind it", new().query("select 1").raw(b"Q\0\0\0\x50select")),
        ("a part of a head behind it", new().query("select 1").raw(b"Q\0\0")),
        ("an error and what is skipped", new().extended("select 1/0", &[]).query("select 2")),
        ("no Sync", new().parse("", "select 1").bind("", "", &[]).execute("", 0)),
        ("a transaction left open", new().query("begin; create table half_closed()").query("select 1")),
        (
            "a COPY in",
            new().query("copy gone_on from stdin").message(b'd', b"1\n").message(b'c', b"").query("select 3"),
        ),
        ("a large result", new().query("select repeat('x', 1000) from generate_series(1, 3000)")),
    ]
}

#[test]
fn a_client_that_sends_no_more_gets_what_it_asked_for_as_from_postgresql() {
    let database = Cluster::shared().make_database();
    Cluster::shared().sql_in(&database, "create table gone_on(a int)");
    for (cores, share) in [("0", "on"), ("0,1", "off")] {
        let plane = Plane::before(Cluster::shared()).cores(cores).pool("size", 1).pool("share", share).start();
        for (name, request) in cases() {
            let [theirs, ours] = [Cluster::shared().port(), plane.port()].map(|port| {
                let mut client =
                    RawClient::connect(port, &[("user", SUPERUSER), ("database", &database)], None).unwrap();
                client.send(request.bytes());
                client.finish_sending();
                heard(client)
            });
            assert_eq!(ours, theirs, "{name}, cores {cores}");
            // all in one: login, request, end
            let [theirs, ours] = [Cluster::shared().port(), plane.port()].map(|port| {
                let mut client = RawClient::open(port);
                client.send(&[&packet(&database)[..], request.bytes()].concat());
                client.finish_sending();
                heard(client)
            });
            assert_eq!(ours, theirs, "{name} with the login, cores {cores}");
        }
        plane.wait_until_pool_is_quiet(&database);
        assert_eq!(Cluster::shared().sql_in(&database, "select to_regclass('half_closed') is null"), "t");
        wait_until("all clients have gone", || plane.stats().shards.iter().all(|shard| shard.clients == 0));
    }
}

#[test]
fn a_client_that_sends_no_more_may_wait_for_a_server_connection() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut holder = plane.client(&database);
    holder.query("begin").good();
    let mut waiter = plane.client(&database);
    waiter.send(Request::new().query("select 'served'").bytes());
    waiter.finish_sending();
    wait_until("it waits", || plane.pool(&database).clients_waiting == 1);
    // it is asked more than once whether it is there, by words that it knows already
    for _ in 0..3 {
        let told = waiter.receive();
        assert!(told.tag == b'S' && told.body.starts_with(b"server_version"), "{told:?}");
    }
    holder.query("commit").good();
    let messages = waiter.receive_to_end();
    let values: Vec<&Message> = messages.iter().filter(|message| message.tag == b'D').collect();
    assert_eq!(values.len(), 1, "{messages:?}");
    assert_eq!(holder.query("select 1").value(), "1");
}

#[test]
fn what_a_client_that_has_gone_asked_for_is_stopped() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("share", "off").start();
    let sleeps = || {
        let text =
            format!("select count(*) from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
        Cluster::shared().sql(&text)
    };
    for leave in [RawClient::hang_up as fn(RawClient), |client: RawClient| drop(client), RawClient::reset] {
        let mut client = plane.client(&database);
        client.send(Request::new().query("select pg_sleep(100)").bytes());
        wait_until("it sleeps", || sleeps() == "1");
        let left = Instant::now();
        leave(client);
        wait_until("it is stopped", || sleeps() == "0");
        assert!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    }
    // one that waits is gone from the queue
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut holder = plane.client(&database);
    holder.query("begin").good();
    let mut waiter = plane.client(&database);
    waiter.send(Request::new().query("create table of_nobody()").bytes());
    wait_until("it waits", || plane.pool(&database).clients_waiting == 1);
    waiter.hang_up();
    wait_until("it waits no more", || plane.pool(&database).clients_waiting == 0);
    holder.query("commit").good();
    assert_eq!(holder.query("select to_regclass('of_nobody') is null").value(), "t");
    // through the Unix socket too
    let script = "import socket,struct,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
        b=struct.pack('!i',196608)+b'user\\0postgres\\0database\\0'+sys.argv[2].encode()+b'\\0\\0'\n\
        s.sendall(struct.pack('!i',len(b)+4)+b)\nq=b'select pg_sleep(100)\\0'\n\
        s.sendall(b'Q'+struct.pack('!i',len(q)+4)+q)\ns.recv(100000)\nsys.stdin.read()\n";
    let plane = Plane::before(Cluster::shared()).start();
    let path = std::fs::read_dir(plane.socket_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name().is_some_and(|name| {
                name.to_string_lossy().starts_with(".s.PGSQL.") && !name.to_string_lossy().ends_with(".lock")
            })
        })
        .unwrap();
    let mut python = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .arg(&database)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it sleeps", || sleeps() == "1");
    python.kill().unwrap();
    python.wait().unwrap();
    wait_until("it is stopped", || sleeps() == "0");
}
