//! Sessions that leave in the middle of something, and what the next one on the connection hears.

use harness::{Cluster, Message, Plane, RawClient, Request, params};

use crate::{Leaving, Protocol, Trial};

/// All of it.
pub(crate) fn run(trial: &Trial) {
    l17_a_copy_that_is_not_finished(trial);
    l18_a_result_that_is_not_read(trial);
    l19_a_request_without_its_sync(trial);
    l20_a_pipeline_that_is_not_read(trial);
    l21_a_cancel_that_comes_too_late(trial);
    l11_a_notification(trial);
}

/// Every connection of the pool answers what it is asked and nothing else.
fn heirs_are_well(trial: &Trial, what: &str) {
    let mut heirs: Vec<RawClient> = (0..trial.size).map(|_| trial.client()).collect();
    for (number, heir) in heirs.iter_mut().enumerate() {
        let begun = heir.query("begin");
        assert_eq!(begun.tags(), "CZ", "{what}: {begun:?}");
        let reply = trial.ask(heir, &format!("select 'B{number}'"));
        let wanted = match trial.protocol {
            Protocol::Simple => "TDCZ",
            Protocol::Extended => "12DCZ",
        };
        assert_eq!((reply.tags().as_str(), reply.value()), (wanted, format!("B{number}")), "{what}: {reply:?}");
    }
    for heir in &mut heirs {
        assert_eq!(heir.query("commit").tags(), "CZ", "{what}");
    }
}

fn l17_a_copy_that_is_not_finished(trial: &Trial) {
    for in_block in [false, true] {
        let mut client = trial.client();
        if in_block {
            client.query("begin").good();
        }
        client.send(Request::new().query("copy sink from stdin").bytes());
        client.receive_until(b'G');
        client.send(Request::new().message(b'd', b"17\n17\n").bytes());
        trial.leave(client);
        heirs_are_well(trial, "L17");
        assert_eq!(trial.client().query("select count(*) from sink where a = 17").value(), "0", "L17");
    }
}

fn l18_a_result_that_is_not_read(trial: &Trial) {
    let text = "select repeat('A', 1000) from generate_series(1, 10000)";
    let requests = [
        Request::new().query(text),
        Request::new().extended(text, &[]),
        Request::new().query(&format!("copy ({text}) to stdout")),
    ];
    for request in requests {
        let mut client = trial.client();
        client.send(request.bytes());
        client.receive();
        trial.leave(client);
        heirs_are_well(trial, "L18, L39");
    }
}

fn l19_a_request_without_its_sync(trial: &Trial) {
    let begun = Request::new().parse("", "select 'A'").bind("", "", &[]).execute("", 0);
    for request in [begun.clone(), begun.clone().flush(), Request::new().parse("told", "select 'A'").flush()] {
        let mut client = trial.client();
        client.send(request.bytes());
        if request.bytes().len() > begun.bytes().len() {
            client.receive();
        }
        trial.leave(client);
        heirs_are_well(trial, "L19");
    }
    // a portal of which some rows were fetched
    let mut client = trial.client();
    let portal = Request::new().parse("", "select generate_series(1, 100)").bind("told", "", &[]).execute("told", 2);
    client.send(portal.flush().bytes());
    client.receive_until(b's');
    trial.leave(client);
    heirs_are_well(trial, "L39");
    let reply = trial.client().ask(&Request::new().execute("told", 0).sync());
    assert_eq!((reply.code().as_str(), reply.tags().as_str()), ("34000", "EZ"), "L39");
}

fn l20_a_pipeline_that_is_not_read(trial: &Trial) {
    for waits in [true, false] {
        let mut client = trial.client();
        let request = (0..3).fold(Request::new(), |request, number| match trial.protocol {
            Protocol::Simple => request.query(&format!("select 'A{number}'")),
            Protocol::Extended => request.extended(&format!("select 'A{number}'"), &[]),
        });
        client.send(request.bytes());
        if waits {
            client.receive();
        }
        trial.leave(client);
        heirs_are_well(trial, "L20");
    }
}

fn l21_a_cancel_that_comes_too_late(trial: &Trial) {
    if trial.leaving != Leaving::Stays {
        return;
    }
    let (mut client, mut neighbour) = (trial.client(), trial.client());
    for round in 0..10 {
        let text = format!("select '{round}' from pg_sleep({})", f64::from(round % 4) / 500.0);
        let request = match trial.protocol {
            Protocol::Simple => Request::new().query(&text),
            Protocol::Extended => Request::new().extended(&text, &[]),
        };
        client.send(request.bytes());
        if round % 2 == 0 {
            client.cancel();
        }
        let reply = client.reply();
        match reply.error() {
            Some(error) => assert_eq!(error.code, "57014", "L21: {error:?}"),
            None => assert_eq!(reply.value(), round.to_string(), "L21"),
        }
        if round % 2 == 1 {
            client.cancel();
        }
        let value = format!("after {round}");
        let reply = trial.ask(&mut client, &format!("select '{value}'"));
        assert_eq!(reply.good().value(), value, "L21");
        assert_eq!(trial.ask(&mut neighbour, "select 'of the neighbour'").good().value(), "of the neighbour", "L21");
    }
}

fn l11_a_notification(trial: &Trial) {
    if trial.leaving == Leaving::Stays {
        return;
    }
    let mut client = trial.client();
    trial.ask(&mut client, "listen news").good();
    trial.leave(client);
    Cluster::shared().sql_in(&trial.database, "notify news, 'for somebody else'");
    heirs_are_well(trial, "L11");
}

#[test]
fn l04_a_session_s_time_limit_does_not_hold_for_our_own_work() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let many: String = (0..300).map(|number| format!(" -c zz.s{number}=1")).collect();
    let options = format!("-c statement_timeout=1{many}");
    let parameters = [("user", "postgres"), ("database", &database), ("options", &options)];
    for port in [Cluster::shared().port(), plane.port()] {
        let mut hurried = RawClient::connect(port, &parameters, None).unwrap();
        // a busy machine may need more than the millisecond
        let mut shown = |name: &str, value: &str| {
            let reply = hurried.query(&format!("show {name}"));
            assert!(reply.code() == "57014" || reply.value() == value, "{reply:?}");
        };
        shown("zz.s299", "1");
        shown("statement_timeout", "1ms");
        assert_eq!(hurried.query("select 1 from pg_sleep(0.1)").code(), "57014");
    }
    let mut other = plane.client(&database);
    assert_eq!(other.query("select 'no hurry' from pg_sleep(0.01)").good().value(), "no hurry");
}

#[test]
fn l33_a_lock_that_was_not_had_pins_nobody_for_ever() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let parameters = [("user", "postgres"), ("database", database.as_str())];
    let mut holder = RawClient::connect(Cluster::shared().port(), &parameters, None).unwrap();
    holder.query("select pg_advisory_lock(7)").good();
    let mut client = plane.client(&database);
    assert_eq!(client.query("select pg_try_advisory_lock(7)").value(), "f");
    plane.wait_until_pool_is_quiet(&database);
    assert_eq!(plane.client(&database).query("select 'served'").value(), "served");
}

#[test]
fn l19_what_is_flushed_and_not_synced_is_still_one_transaction() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).pool("query_wait_timeout", "2s").start();
    plane.sql(&database, "create table kept (a int)");
    let (mut client, mut other) = (plane.client(&database), plane.client(&database));
    for fails in [true, false] {
        // the catalog is known by now, or not: an insert leaves nothing behind
        let insert = Request::new().parse("", "insert into kept values (1)").bind("", "", &[]).execute("", 0).flush();
        client.send(insert.bytes());
        client.receive_until(b'C');
        for _ in 0..3 {
            assert_eq!(other.query("select count(*) from kept").good().value(), "0", "before its Sync nobody sees it");
        }
        let last = if fails { "select 1/0" } else { "select 1" };
        let reply = client.ask(&Request::new().extended(last, &[]));
        assert_eq!(reply.code(), if fails { "22012" } else { "" });
        let wanted = if fails { "0" } else { "1" };
        assert_eq!(other.query("select count(*) from kept").good().value(), wanted, "it fails: {fails}");
    }
}

fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

#[test]
fn l22_a_wait_that_ends_in_the_middle_of_a_request_is_answered_where_its_sync_is() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("query_wait_timeout", "300ms").start();
    let (mut holder, mut waiter) = (plane.client(&database), plane.client(&database));
    holder.query("begin").good();
    waiter.send(Request::new().parse("", "select 'old'").flush().bytes());
    assert_eq!(waiter.receive().tag, b'E');
    holder.query("commit").good();
    // everything up to the Sync belongs to what has failed
    waiter.send(Request::new().bind("", "", &[]).execute("", 0).bytes());
    waiter.send(Request::new().sync().extended("select $1::text", &params(&["new"])).bytes());
    let first = waiter.reply();
    assert_eq!(tags(&first.messages), "Z", "{first:?}");
    let second = waiter.reply();
    assert_eq!((second.tags().as_str(), second.value().as_str()), ("12DCZ", "new"), "{second:?}");
    assert_eq!(holder.query("select 'mine'").value(), "mine");
}
