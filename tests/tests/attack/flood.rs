//! Many at once, and long ones.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::{Plane, RawClient, Request, client, params, wait_until, wait_within};

use crate::bystander::{Bystander, Holdings};
use crate::wire::start;
use crate::{PASSWORD, cluster, plane};

/// How much more there is to do in the long form.
fn times(usual: usize, soak: usize) -> usize {
    if std::env::var_os("OPTIMACORE_SOAK_SECONDS").is_some() { soak } else { usual }
}

/// Whether the other side has hung up; what it says before is not heard.
fn hung_up(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut chunk = [0; 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// A data plane that soon loses patience with those who do not log in.
fn impatient() -> Plane {
    Plane::before(cluster())
        .user_scram("scrammed", PASSWORD)
        .limit("auth_timeout", "1s")
        .auth("auth_delay_max", "0s")
        .start()
}

#[test]
fn r4_a28_a29_whoever_says_nothing_or_little_is_closed_in_time() {
    let plane = impatient();
    let bystander = Bystander::start(&plane);
    let before = Holdings::of(&plane);
    let connect = || TcpStream::connect(("127.0.0.1", plane.port())).unwrap();
    let mut silent: Vec<TcpStream> = (0..times(300, 5_000)).map(|_| connect()).collect();
    let (mut slow, mut asked) = (connect(), connect());
    let bytes = start(&[("user", "postgres"), ("database", "postgres"), ("application_name", &"s".repeat(500))]);
    asked.write_all(&start(&[("user", "scrammed"), ("database", "postgres")])).unwrap();
    let began = Instant::now();
    let mut sent = bytes.iter();
    wait_within(Duration::from_secs(15), "the slow one is closed", || {
        let more = sent.next().is_some_and(|byte| slow.write_all(&[*byte]).is_ok());
        assert_eq!(plane.client("postgres").query("select 'let in'").value(), "let in");
        hung_up(&mut slow) || !more && hung_up(&mut slow)
    });
    assert!(began.elapsed() > Duration::from_millis(800), "it has its time to log in");
    wait_within(Duration::from_secs(15), "all are closed", || {
        silent.retain_mut(|stream| !hung_up(stream));
        silent.is_empty() && hung_up(&mut asked)
    });
    before.must_return(&plane);
    bystander.end();
}

#[test]
fn a30_connections_that_are_reset_leave_nothing() {
    let plane = plane();
    let bystander = Bystander::start(&plane);
    let before = Holdings::of(&plane);
    let bytes = start(&[("user", "postgres"), ("database", "postgres")]);
    for number in 0..times(2_000, 10_000) {
        let mut client = RawClient::open(plane.port());
        // with nothing, a part, or all of a login under way
        let len = (number % 3) * bytes.len() / 2;
        if len > 0 {
            client.send(bytes.get(..len).unwrap());
        }
        client.reset();
    }
    wait_until("all have left", || plane.stats().shards_total().clients == 1);
    before.must_return(&plane);
    bystander.end();
}

#[test]
fn k04_k08_k10_cancels_that_are_nobody_s_or_come_too_late_hit_nobody() {
    let plane = plane();
    let bystander = Bystander::start(&plane);
    let before = Holdings::of(&plane);
    let mut sleeper = plane.client("postgres");
    let (process_id, secret) = sleeper.key();
    sleeper.send(Request::new().query("select 'slept' from pg_sleep(0.5)").bytes());
    for number in 0..times(300, 10_000) {
        let mut wrong = secret.clone();
        let bit = number % (8 * wrong.len());
        if let Some(byte) = wrong.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        client::send_cancel(plane.port(), &(process_id, wrong));
    }
    assert_eq!(sleeper.reply().good().value(), "slept");
    for number in 0..times(200, 5_000) {
        // idle now: there is nothing to cancel, neither now nor later
        sleeper.cancel();
        let value = format!("after {number}");
        let reply = sleeper.query(&format!("select '{value}'"));
        assert_eq!((reply.tags().as_str(), reply.value()), ("TDCZ", value));
    }
    before.must_return(&plane);
    bystander.end();
}

#[test]
fn k05_k07_k11_a_key_reaches_its_own_session_only() {
    let plane = Plane::before(cluster()).cores("0-1").pool("size", 2).start();
    let mut clients: Vec<RawClient> = (0..6).map(|_| plane.client("postgres")).collect();
    for round in 0..times(60, 5_000) {
        let (owner, others) = clients.split_first_mut().unwrap();
        // it had the connection that another one has now
        assert_eq!(owner.query("select 'owner'").good().value(), "owner");
        let other = others.first_mut().unwrap();
        other.send(Request::new().extended("select $1 from pg_sleep(0.002)", &params(&["other"])).bytes());
        owner.cancel();
        assert_eq!(other.reply().good().value(), "other", "round {round}");
        clients.rotate_left(1);
    }
    // queued behind two that sleep: it is cancelled and PostgreSQL never sees it
    let [one, two, three, ..] = &mut clients[..] else { panic!("there are six") };
    for client in [&mut *one, &mut *two] {
        client.send(Request::new().query("begin; select pg_sleep(0.3)").bytes());
    }
    wait_until("both sleep", || {
        let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and query like 'begin%'";
        cluster().sql(sleeping) == "2"
    });
    three.send(Request::new().query("create table never (a int)").bytes());
    wait_until("it waits", || plane.pool("postgres").clients_waiting == 1);
    three.cancel();
    assert_eq!(three.reply().code(), "57014");
    for client in [one, two] {
        client.reply().good();
        client.query("rollback").good();
    }
    assert_eq!(cluster().sql("select count(*) from pg_class where relname = 'never'"), "0");
}

#[test]
fn p16_p18_p19_wrong_proofs_are_all_the_same_and_harm_nobody() {
    let plane = plane();
    let bystander = Bystander::start(&plane);
    let mut told = Vec::new();
    for number in 0..times(40, 600) {
        let (user, password) = if number % 2 == 0 { ("scrammed", "wrong") } else { ("nobody at all", PASSWORD) };
        let error = plane.try_client(user, "postgres", Some(password)).unwrap_err();
        told.push((error.code, error.message.replace(user, "USER")));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    let mut good = plane.try_client("scrammed", "postgres", Some(PASSWORD)).unwrap();
    assert_eq!(good.query("select 1").good().value(), "1");
    bystander.end();
}

#[test]
fn e25_many_statements_of_one_session_keep_their_meaning() {
    let plane = Plane::before(cluster()).pool("prepared_statements", 50).start();
    let mut client = plane.client("postgres");
    let count = times(1_000, 100_000);
    for number in 0..count {
        let request = Request::new().parse(&format!("s{number}"), &format!("select {number}")).sync();
        assert_eq!(client.ask(&request).tags(), "1Z");
    }
    for number in (0..count).step_by(7) {
        assert_eq!(client.ask(&Request::new().run(&format!("s{number}"), &[])).good().value(), number.to_string());
    }
}

#[test]
fn e27_long_messages_of_slow_peers_pass_in_little_memory() {
    let plane = plane();
    let bystander = Bystander::start(&plane);
    let len = times(24, 300) << 20;
    plane.sql("postgres", "select 1");
    let before = Holdings::of(&plane);
    // a long Bind, in pieces
    let value = "x".repeat(len);
    let mut client = plane.client("postgres");
    let request = Request::new().extended("select length($1)", &params(&[&value]));
    for piece in request.bytes().chunks(10_007) {
        client.send(piece);
    }
    assert_eq!(client.reply().good().value(), len.to_string());
    drop((value, request));
    // a long result that is not read for a while
    client.send(Request::new().query(&format!("select repeat('x', {len}) from generate_series(1, 2)")).bytes());
    wait_until("Postgres is held back", || {
        cluster().sql("select count(*) from pg_stat_activity where wait_event = 'ClientWrite'") == "1"
    });
    let held = Holdings::of(&plane).resident_kb().saturating_sub(before.resident_kb());
    assert!(held < 12 * 1024, "{held} kB for a client that does not read");
    assert_eq!(client.reply().good().values().len(), 2);
    before.must_return(&plane);
    bystander.end();
}

#[test]
fn f13_a_request_that_runs_is_done_when_its_client_has_said_goodbye_and_gone() {
    let plane = plane();
    for (port, table) in [(cluster().port(), "parted_directly"), (plane.port(), "parted")] {
        cluster().sql(&format!("create table {table} (a int)"));
        let insert = format!("insert into {table} select 1 from pg_sleep(0.4)");
        let requests = [Request::new().query(&insert), Request::new().extended(&insert, &[])];
        for request in requests {
            let parameters = [("user", "postgres"), ("database", "postgres")];
            let mut client = RawClient::connect(port, &parameters, None).unwrap();
            client.send(request.terminate().bytes());
            let runs = format!("select count(*) from pg_stat_activity where query = '{insert}' and state = 'active'");
            wait_until("it runs", || cluster().sql(&runs) == "1");
            client.hang_up();
            // one after the other, so that the next one is not taken for it
            wait_until("it is over", || cluster().sql(&runs) == "0");
        }
        wait_until("what was asked for is done", || cluster().sql(&format!("select count(*) from {table}")) == "2");
    }
    plane.wait_until_pool_is_quiet("postgres");
}
