//! What happens when servers, clients or the data plane itself go away.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::cluster::signal_process;
use harness::{Cluster, Plane, RawClient, Reply, Request, params, wait_until, wait_within};
use rustix::process::Signal;

/// How long it may take until there is service again after PostgreSQL has come back.
const SERVICE_AGAIN_MAX: Duration = Duration::from_secs(10);

fn backend_of(client: &mut RawClient) -> String {
    client.query("select pg_backend_pid()").good().value()
}

fn terminate(cluster: &Cluster, backend: &str) {
    assert_eq!(cluster.sql(&format!("select pg_terminate_backend({backend}, 10000)")), "t");
}

/// Whether the client was told that its server connection is gone, in words and codes that are right for it.
fn tells_of_a_lost_connection(reply: &Reply) -> bool {
    reply.error().is_some_and(|error| matches!(error.code.as_str(), "57P01" | "57P02" | "57P03" | "08006" | "08007"))
}

#[test]
fn a_backend_ended_between_requests_is_not_noticed() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut client = plane.client(&database);
    for round in 0..5 {
        let backend = backend_of(&mut client);
        terminate(Cluster::shared(), &backend);
        let next = backend_of(&mut client);
        assert_ne!(backend, next, "round {round}");
    }
    client.ask(&Request::new().parse("s", "select 'kept'").sync()).good();
    let backend = backend_of(&mut client);
    terminate(Cluster::shared(), &backend);
    assert_eq!(client.ask(&Request::new().run("s", &[])).value(), "kept");
}

#[test]
fn a_backend_ended_during_a_request_is_told_and_a_new_one_serves_the_next() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut client = plane.client(&database);
    let mut other = plane.client(&database);
    for request in [Request::new().query("select pg_sleep(60)"), Request::new().extended("select pg_sleep(60)", &[])] {
        let backend = backend_of(&mut client);
        client.send(request.bytes());
        terminate(Cluster::shared(), &backend);
        match client.try_receive() {
            None => client = plane.client(&database),
            Some(first) => {
                let mut messages = vec![first];
                messages.extend(std::iter::from_fn(|| {
                    let message = client.try_receive()?;
                    (message.tag != b'Z').then_some(message)
                }));
                assert!(tells_of_a_lost_connection(&Reply { messages }), "{request:?}");
                if client.try_send(Request::new().query("select 1").bytes()).is_err() || client.try_receive().is_none()
                {
                    client = plane.client(&database);
                } else {
                    client.receive_until(b'Z');
                }
            }
        }
        assert_eq!(other.query("select 'served'").value(), "served");
    }
}

#[test]
fn a_backend_ended_in_a_transaction_ends_the_transaction_and_nothing_of_it_is_done() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    plane.sql(&database, "create table t (a int)");
    for kill in [false, true] {
        let mut client = plane.client(&database);
        client.query("begin").good();
        client.query("insert into t values (1)").good();
        let backend = backend_of(&mut client);
        if kill {
            // not -9, which would make PostgreSQL restart altogether; that has its own test
            signal_process(backend.parse().unwrap(), Signal::TERM);
        } else {
            terminate(Cluster::shared(), &backend);
        }
        wait_until("the backend is gone", || {
            Cluster::shared().sql(&format!("select count(*) from pg_stat_activity where pid = {backend}")) == "0"
        });
        // a transaction must never go on elsewhere as if nothing had been
        let sent = client.try_send(Request::new().query("insert into t values (2)").bytes());
        let mut messages = client.receive_to_end_or_ready();
        if sent.is_ok() && messages.last().is_some_and(|message| message.tag == b'Z') {
            let reply = Reply { messages: std::mem::take(&mut messages) };
            assert!(tells_of_a_lost_connection(&reply) && reply.status() != 'T', "{reply:?}");
        }
        assert_eq!(plane.sql(&database, "select count(*) from t"), "0");
    }
}

#[test]
fn a_session_that_waits_is_served_when_the_backend_that_another_one_keeps_is_ended() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    // each of these keeps the server connection in its own way
    for deed in ["create temp table kept ()", "begin"] {
        let mut keeper = plane.client(&database);
        keeper.query(deed).good();
        let backend = backend_of(&mut keeper);
        let mut waiter = plane.client(&database);
        waiter.send(Request::new().query("select 'served'").bytes());
        wait_until("the request waits", || plane.pool(&database).clients_waiting == 1);
        terminate(Cluster::shared(), &backend);
        assert_eq!(waiter.reply().good().value(), "served", "after {deed}");
    }
}

#[test]
fn a_crash_of_a_backend_is_survived() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).start();
    let mut client = plane.client("postgres");
    let backend = backend_of(&mut client);
    signal_process(backend.parse().unwrap(), Signal::KILL);
    // PostgreSQL ends all its backends and recovers
    wait_within(SERVICE_AGAIN_MAX, "service again", || {
        plane
            .try_client("postgres", "postgres", None)
            .is_ok_and(|mut client| client.query("select 1").code().is_empty())
    });
    assert_eq!(plane.sql("postgres", "select 'alive'"), "alive");
}

/// Sessions that ask all the time and connect anew when they are cut off; gives how often each was served.
fn load(plane: &Plane, over: &AtomicBool, served: &AtomicU32) {
    while !over.load(Ordering::Relaxed) {
        let Ok(mut client) = plane.try_client("postgres", "postgres", None) else { continue };
        let mut number = 0;
        while !over.load(Ordering::Relaxed) {
            number += 1;
            let value = format!("value {number}");
            if client.try_send(Request::new().extended("select $1 || ''", &params(&[&value])).bytes()).is_err() {
                break;
            }
            let messages = client.receive_to_end_or_ready();
            if messages.last().is_none_or(|message| message.tag != b'Z') {
                break;
            }
            let reply = Reply { messages };
            match reply.error() {
                None => {
                    assert_eq!(reply.value(), value);
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Some(error) => assert!(error.code.starts_with("08") || error.code.starts_with("57P"), "{error:?}"),
            }
        }
    }
}

#[test]
fn postgres_restarts_under_load_and_there_is_service_again() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).pool("size", 4).pool("query_wait_timeout", "20s").start();
    let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| load(&plane, &over, &served));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for crash in [false, true] {
                let before = served.load(Ordering::Relaxed);
                wait_until("sessions are served", || served.load(Ordering::Relaxed) > before + 100);
                if crash {
                    cluster.kill();
                } else {
                    cluster.stop();
                }
                wait_until("PostgreSQL can start", || cluster.try_run());
                let before = served.load(Ordering::Relaxed);
                wait_within(SERVICE_AGAIN_MAX, "service again", || served.load(Ordering::Relaxed) > before + 100);
            }
        }));
        over.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    assert_eq!(plane.sql("postgres", "select 'alive'"), "alive");
}

#[test]
fn while_postgres_is_down_clients_wait_and_then_are_told_the_address() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).pool("query_wait_timeout", "1s").start();
    let mut client = plane.client("postgres");
    client.query("select 1").good();
    cluster.stop();
    for request in [Request::new().query("select 2"), Request::new().extended("select 2", &[])] {
        let began = Instant::now();
        let reply = client.ask(&request);
        let error = reply.error().unwrap();
        assert_eq!(
            (error.code.as_str(), error.severity.as_str(), reply.status()),
            ("08006", "ERROR", 'I'),
            "{error:?}"
        );
        assert!(error.message.contains(&format!("127.0.0.1:{}", cluster.port())), "{error:?}");
        assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&began.elapsed()));
    }
    let error = plane.try_client("postgres", "another", None).unwrap_err();
    assert_eq!(error.code, "08006", "{error:?}");
    cluster.run();
    wait_within(SERVICE_AGAIN_MAX, "the same session is served again", || client.query("select 3").error().is_none());
    // a request that is waiting when PostgreSQL comes back is served
    assert!(plane.pool("postgres").connect_failures > 0);
}

#[test]
fn a_request_that_waits_is_served_when_postgres_comes_back() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).start();
    let mut client = plane.client("postgres");
    cluster.stop();
    client.send(Request::new().query("select 'waited'").bytes());
    wait_until("it waits", || plane.pool("postgres").connect_failures > 0);
    cluster.run();
    assert_eq!(client.reply().good().value(), "waited");
}

#[test]
fn an_exhausted_pool_is_named_with_its_limit_and_the_wait() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("query_wait_timeout", "500ms").start();
    let (mut holder, mut waiter) = (plane.client(&database), plane.client(&database));
    holder.query("begin").good();
    let long = "z".repeat(300_000);
    let requests = [
        Request::new().query("select 1"),
        Request::new().extended("select 1", &[]),
        Request::new().query(&format!("select '{long}'")),
        Request::new().extended("select $1", &params(&[&long])),
        Request::new().parse("s", "select 1").flush().bind("", "s", &[]).execute("", 0).sync(),
    ];
    for request in &requests {
        let reply = waiter.ask(request);
        let error = reply.error().unwrap();
        assert_eq!((reply.tags().as_str(), error.code.as_str(), reply.status()), ("EZ", "57014", 'I'), "{reply:?}");
        for part in [&format!("{database}/postgres"), "pool size 1", "within 5", " ms "] {
            assert!(error.message.contains(part), "{part}: {error:?}");
        }
    }
    assert_eq!(holder.query("select 'unharmed'").value(), "unharmed");
    holder.query("commit").good();
    for request in requests.iter().take(2) {
        assert_eq!(waiter.ask(request).good().value(), "1");
    }
    assert_eq!(plane.pool(&database).wait_timeouts, 5);
}

/// A client that leaves after each prefix of a request, in and out of a transaction: the one server connection there is must
/// be usable and clean each time.
fn leave_after_each_prefix(request: &Request, step: usize) {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    plane.sql(&database, "create table t (a int)");
    let facts = "select concat_ws(' ', (select count(*) from t), current_setting('work_mem'), \
                 (select count(*) from pg_cursors), now() = statement_timestamp())";
    let full = request.bytes().len();
    let mut watcher = plane.client(&database);
    for begun in [false, true] {
        for len in (0..=full).step_by(step) {
            let mut client = plane.client(&database);
            if begun {
                client.query("begin; set local work_mem = '9MB'; insert into t values (2)").good();
            }
            client.send(request.bytes().get(..len).unwrap());
            client.hang_up();
            let reply = watcher.query(facts);
            let found = reply.clone().good().value();
            // outside of a transaction a whole request may have been done
            let count = found.split(' ').next().unwrap().to_owned();
            let clean = found.ends_with(" 4MB 0 t") && reply.status() == 'I' && (count == "0" || !begun);
            assert!(clean, "after {len} of {full} bytes, begun: {begun}: {found}");
            if count != "0" {
                watcher.query("truncate t").good();
            }
        }
    }
    wait_until("all have left", || plane.stats().shards_total().clients == 1);
    assert_eq!(plane.pool(&database).permits_held, 1);
}

#[test]
fn clients_leave_at_every_byte_of_an_extended_request() {
    let request = Request::new()
        .parse("s", "insert into t values ($1::int)")
        .bind("p", "s", &params(&["1"]))
        .execute("p", 0)
        .sync();
    leave_after_each_prefix(&request, 1);
}

#[test]
fn clients_leave_in_the_middle_of_queries_flushes_and_copies() {
    leave_after_each_prefix(&Request::new().query("insert into t values (1); select pg_sleep(0.01)"), 7);
    let flushes =
        Request::new().parse("", "insert into t values (1)").flush().bind("", "", &[]).flush().execute("", 0).flush();
    leave_after_each_prefix(&flushes, 3);
    let copy =
        Request::new().query("copy t from stdin").message(b'd', b"1\n2\n").message(b'd', b"3\n").message(b'c', b"");
    leave_after_each_prefix(&copy, 5);
    let long = "z".repeat(200_000);
    leave_after_each_prefix(&Request::new().extended("select $1", &params(&[&long])), 40_000);
}

#[test]
fn clients_leave_while_a_large_result_comes() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut watcher = plane.client(&database);
    for round in 0..10 {
        let mut client = plane.client(&database);
        client.send(Request::new().query("select repeat('x', 10000) from generate_series(1, 100000)").bytes());
        for _ in 0..round {
            client.receive();
        }
        client.hang_up();
        assert_eq!(watcher.query("select 'served'").value(), "served");
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).start();
    let mut deaf = plane.client(&database);
    deaf.send(Request::new().query("select repeat('x', 1000) from generate_series(1, 60000)").bytes());
    assert_eq!(deaf.receive().tag, b'T');
    let mut other = plane.client(&database);
    for number in 0..100 {
        assert_eq!(other.query(&format!("select {number}")).value(), number.to_string());
    }
    let buffered = plane.stats().shards_total().buffer_bytes;
    assert!(buffered < 20_000_000, "{buffered} bytes are held for a client that does not read");
    assert_eq!(deaf.reply().good().rows().len(), 60_000);
}

#[test]
fn when_it_stops_idle_clients_are_told_and_transactions_may_finish() {
    let database = Cluster::shared().make_database();
    let mut plane = Plane::before(Cluster::shared()).start();
    plane.sql(&database, "create table t (a int)");
    let mut idle = plane.client(&database);
    let mut busy = plane.client(&database);
    let mut asking = plane.client(&database);
    busy.query("begin; insert into t values (1)").good();
    asking.send(Request::new().query("select 'asked' from pg_sleep(1)").bytes());
    let sleeps =
        format!("select count(*) from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
    wait_until("a request runs", || Cluster::shared().sql(&sleeps) == "1");
    plane.ask_to_stop();
    let farewell = idle.farewell();
    assert_eq!((farewell.severity.as_str(), farewell.code.as_str()), ("FATAL", "57P01"));
    assert_eq!(asking.reply().good().value(), "asked");
    assert_eq!(asking.farewell().code, "57P01");
    assert_eq!(busy.query("select count(*) from t").good().value(), "1");
    assert!(plane.ended().is_none(), "{}", plane.said());
    busy.query("insert into t values (2)").good();
    busy.query("commit").good();
    assert_eq!(busy.farewell().code, "57P01");
    let (status, said) = plane.terminate();
    assert!(status.success(), "{said}");
    assert_eq!(Cluster::shared().sql_in(&database, "select count(*) from t"), "2");
}

#[test]
fn when_it_stops_transactions_that_take_too_long_are_cut_off() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).limit("shutdown_timeout", "1s").start();
    plane.sql(&database, "create table t (a int)");
    let mut busy = plane.client(&database);
    busy.query("begin; insert into t values (1)").good();
    let began = Instant::now();
    let (status, said) = plane.terminate();
    assert!(status.success(), "{said}");
    assert!((Duration::from_millis(900)..Duration::from_secs(15)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(busy.farewell().code, "57P01");
    wait_until("the transaction is rolled back", || {
        let held =
            format!("select count(*) from pg_stat_activity where datname = '{database}' and xact_start is not null");
        Cluster::shared().sql(&held) == "0"
    });
    assert_eq!(Cluster::shared().sql_in(&database, "select count(*) from t"), "0");
}

#[test]
fn a_data_plane_that_is_killed_leaves_no_transaction_behind() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).start();
    plane.sql(&database, "create table t (a int)");
    let mut busy = plane.client(&database);
    busy.query("begin; insert into t values (1)").good();
    drop(plane);
    assert!(busy.try_receive().is_none());
    wait_until("its backends are gone", || {
        Cluster::shared().sql(&format!("select count(*) from pg_stat_activity where datname = '{database}'")) == "0"
    });
    assert_eq!(Cluster::shared().sql_in(&database, "select count(*) from t"), "0");
}

#[test]
fn a_server_that_refuses_the_login_is_quoted() {
    let cluster = Cluster::start();
    cluster.sql("alter role postgres connection limit 3; create role limited login connection limit 0");
    let keys = [("dbname", "postgres".into()), ("user", "limited".into())];
    let plane = Plane::before(&cluster).database("front", &keys).pool("query_wait_timeout", "1s").start();
    let error = plane.try_client("postgres", "front", None).unwrap_err();
    assert!(error.message.contains("too many connections for role \"limited\""), "{error:?}");
}
