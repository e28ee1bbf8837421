//! The rules that keep shared requests safe, each with what it guards against.

use std::time::Duration;

use harness::{Cluster, Plane, RawClient, Request, params, wait_until};

/// A data plane with one server connection, so that whatever is left behind is found.
fn plane_of_one() -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1).start()
}

/// Repeats a harmless read until one has been shared: the catalog is known then.
fn warm_up(plane: &Plane, client: &mut RawClient, database: &str, text: &str) {
    wait_until("reads are shared", || {
        client.query(text).good();
        plane.pool(database).requests_shared > 0
    });
}

/// Whether a request goes over a shared pipe, after its kind has been seen to be fast.
fn is_shared(plane: &Plane, client: &mut RawClient, database: &str, text: &str) -> bool {
    for _ in 0..3 {
        client.query(text);
    }
    let before = plane.pool(database).requests_shared;
    client.query(text);
    plane.pool(database).requests_shared > before
}

#[test]
fn only_what_the_catalog_proves_harmless_is_shared() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let mut maker = plane.client(&database);
    for text in [
        "create table plain (id int primary key, name text)",
        "create table secret (id int); alter table secret enable row level security",
        "create table child () inherits (plain)",
        "create function sneaky() returns int language plpgsql as $$ begin perform set_config('work_mem', '1MB', false); return 1; end $$",
        "create function quiet(int) returns int language sql immutable as 'select $1'",
        "create view good as select id from plain",
        "create view bad as select sneaky() as id",
        "create view deep as select * from bad",
        "create sequence counter",
        "create operator === (leftarg = int, rightarg = int, function = int4eq)",
        "create function eq(text, text) returns bool language plpgsql as $$ begin return true; end $$",
        "create operator ==== (leftarg = text, rightarg = text, function = eq)",
        "create domain checked as int check (value > 0)",
    ] {
        maker.query(text).good();
    }
    // it named set_config, and so keeps its connection
    maker.hang_up();
    let mut client = plane.client(&database);
    warm_up(&plane, &mut client, &database, "select name from plain where id = 1");
    for text in [
        "select 1",
        "select count(*) from plain p join good g on p.id = g.id",
        "select * from child",
        "select lower('A'), now(), 1 === 1",
        "values (1), (2)",
        "select random()",
    ] {
        assert!(is_shared(&plane, &mut client, &database, text), "{text}");
    }
    for text in [
        "select sneaky()",
        "select quiet(1)",
        "select * from bad",
        "select * from deep",
        "select * from secret",
        "select nextval('counter')",
        "select 'a' ==== 'b'",
        "select '1'::checked",
        "select * from plain for update",
        "select * into copy_of from plain",
        "select pg_sleep(0)",
        "insert into plain values (1) on conflict do nothing",
        "with gone as (delete from plain returning id) select * from gone",
        "select 1; select 2",
        "show work_mem",
        "explain select 1",
    ] {
        assert!(!is_shared(&plane, &mut client, &database, text), "{text}");
    }
}

#[test]
fn a_table_that_becomes_a_view_is_not_read_on_a_shared_connection() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let (mut one, mut two) = (plane.client(&database), plane.client(&database));
    one.query("create table shape (a int)").good();
    warm_up(&plane, &mut two, &database, "select * from shape");
    assert!(is_shared(&plane, &mut two, &database, "select * from shape"));
    one.query("drop table shape").good();
    one.query("create view shape as select set_config('application_name', 'left behind', false) as a").good();
    one.hang_up();
    let before = plane.pool(&database).requests_shared;
    assert_eq!(two.query("select * from shape").value(), "left behind");
    assert_eq!(plane.pool(&database).requests_shared, before);
    assert_ne!(plane.client(&database).query("show application_name").value(), "left behind");
}

#[test]
fn sessions_with_different_settings_never_share_a_connection_as_it_is() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.query(&format!("create schema s{number}")).good();
        client.query(&format!("create table s{number}.own as select {number} as n")).good();
        client.query(&format!("set search_path = s{number}")).good();
    }
    let (first, _) = clients.split_first_mut().unwrap();
    warm_up(&plane, first, &database, "select n from own");
    for round in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.query("select n from own").value(), number.to_string(), "round {round}");
            let prepared = Request::new().extended("select n from own where n >= $1", &params(&["0"]));
            assert_eq!(client.ask(&prepared).value(), number.to_string(), "round {round}");
        }
    }
    assert_eq!(plane.pool(&database).servers_pinned, 0);
}

#[test]
fn a_slow_read_does_not_hold_up_those_behind_it() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).pool("share_pipes", 1).start();
    let mut others: Vec<RawClient> = (0..8).map(|_| plane.client(&database)).collect();
    let mut slow = plane.client(&database);
    // of the same kind: fast with a small number, slow with a great one
    let text = |count: u64| format!("select count(*) from generate_series(1, {count})");
    warm_up(&plane, &mut slow, &database, &text(1));
    slow.send(Request::new().query(&text(3_000_000)).bytes());
    for client in &mut others {
        client.send(Request::new().query(&text(2)).bytes());
    }
    for client in &mut others {
        assert_eq!(client.reply().good().value(), "2");
    }
    assert_eq!(slow.reply().good().value(), "3000000");
}

#[test]
fn a_read_that_was_issued_again_leaves_nothing_outstanding_for_its_session() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).pool("share_pipes", 1).start();
    let mut others: Vec<RawClient> = (0..8).map(|_| plane.client(&database)).collect();
    let mut slow = plane.client(&database);
    let text = |count: u64| format!("select count(*) from generate_series(1, {count})");
    warm_up(&plane, &mut slow, &database, &text(1));
    slow.send(Request::new().query(&text(3_000_000)).bytes());
    // the unnamed statement of each is prepared once more where it goes instead
    for client in &mut others {
        client.send(Request::new().extended(&text(2), &[]).bytes());
    }
    for client in &mut others {
        assert_eq!(client.reply().good().value(), "2");
    }
    assert_eq!(slow.reply().good().value(), "3000000");
    for client in &mut others {
        assert_eq!(client.query("select 'answered'").good().value(), "answered");
        wait_until("it shares again", || is_shared(&plane, client, &database, &text(1)));
    }
}

#[test]
fn a_long_reply_goes_alone_and_a_reader_that_rests_holds_nobody_up() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).start();
    let mut reader = plane.client(&database);
    let text = |count: u64| format!("select repeat('x', 1000) from generate_series(1, {count})");
    warm_up(&plane, &mut reader, &database, &text(1));
    // 20 MB that nobody reads yet
    reader.send(Request::new().query(&text(20_000)).bytes());
    let mut others: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    for _ in 0..20 {
        for client in &mut others {
            assert_eq!(client.query(&text(2)).good().values().len(), 2);
        }
    }
    assert_eq!(reader.reply().good().values().len(), 20_000);
}

#[test]
fn reads_on_a_connection_that_dies_are_answered_all_the_same() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut client = plane.client(&database);
    let text = "select count(*) from generate_series(1, 10)";
    warm_up(&plane, &mut client, &database, text);
    let mut clients: Vec<RawClient> = (0..6).map(|_| plane.client(&database)).collect();
    for _ in 0..10 {
        for client in &mut clients {
            client.send(Request::new().query(text).bytes());
        }
        Cluster::shared().sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and application_name <> 'optimacore catalog'"
        ));
        for client in &mut clients {
            let reply = client.reply();
            // of an answer that has begun to arrive when the backend ends, the rest cannot be had again
            if !(reply.tags().starts_with('T') && reply.code() == "08006") {
                assert_eq!(reply.good().value(), "10");
            }
        }
    }
}

#[test]
fn a_pipe_that_is_wanted_by_a_transaction_is_closed_to_joiners() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let mut warm = plane.client(&database);
    warm_up(&plane, &mut warm, &database, "select 1");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, plane) = (&over, &plane);
        for _ in 0..4 {
            let mut reader = plane.client(&database);
            scope.spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    reader.query("select 1").good();
                }
            });
        }
        let mut writer = plane.client(&database);
        for _ in 0..20 {
            writer.query("begin").good();
            std::thread::sleep(Duration::from_millis(1));
            writer.query("commit").good();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn sharing_can_be_switched_off() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("share", "off").start();
    let mut client = plane.client(&database);
    wait_until("the request is counted", || {
        client.query("select 1").good();
        plane.pool(&database).requests_exclusive > 20
    });
    assert_eq!(plane.pool(&database).requests_shared, 0);
}

#[test]
fn sharing_can_be_switched_off_for_one_database() {
    let (shared, lone) = (Cluster::shared().make_database(), Cluster::shared().make_database());
    let plane = Plane::before(Cluster::shared())
        .cores("0")
        .database(&shared, &[])
        .database(&lone, &[("pool", toml::toml! { share = "off" }.into())])
        .start();
    let (mut one, mut other) = (plane.client(&shared), plane.client(&lone));
    warm_up(&plane, &mut one, &shared, "select 1");
    for _ in 0..20 {
        other.query("select 1").good();
    }
    assert_eq!(plane.pool(&lone).requests_shared, 0);
}

#[test]
fn texts_that_may_read_otherwise_are_not_shared() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let mut warm = plane.client(&database);
    warm_up(&plane, &mut warm, &database, "select 'a'");
    for unusual in
        ["set standard_conforming_strings = off", "set client_encoding = 'SJIS'", "set client_encoding = 'BIG5'"]
    {
        let mut client = plane.client(&database);
        client.query(unusual).good();
        assert!(!is_shared(&plane, &mut client, &database, "select 'a'"), "{unusual}");
        // and not under the settings of somebody else
        assert_eq!(client.query(r"select length('\\')").value(), if unusual.contains("off") { "1" } else { "2" });
        client.hang_up();
    }
    assert!(is_shared(&plane, &mut warm, &database, "select 'a'"));
}

#[test]
fn a_request_longer_than_the_bound_is_not_shared() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let mut client = plane.client(&database);
    warm_up(&plane, &mut client, &database, "select 1");
    let text = |len: usize| format!("select length('{}')", "x".repeat(len));
    assert!(is_shared(&plane, &mut client, &database, &text(10_000)));
    assert!(!is_shared(&plane, &mut client, &database, &text(17_000)));
}

/// A read that stood behind a write which waits for a lock would close a circle that Postgres cannot see, when whoever has
/// the lock reads before it commits.
#[test]
fn no_read_stands_behind_a_write_that_waits_for_a_lock() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 3).pool("share_pipes", 1).start();
    let mut holder = plane.client(&database);
    holder.query("create table account (id int primary key, sum int); insert into account values (1, 0)").good();
    let mut readers: Vec<RawClient> = (0..8).map(|_| plane.client(&database)).collect();
    for reader in &mut readers {
        warm_up(&plane, reader, &database, "select sum from account where id = 1");
    }
    holder.query("begin").good();
    holder.query("update account set sum = 1 where id = 1").good();
    let mut writer = plane.client(&database);
    writer.send(Request::new().query("update account set sum = 2 where id = 1").bytes());
    wait_until("the write waits for the lock", || {
        Cluster::shared().sql(&format!(
            "select count(*) from pg_stat_activity where datname = '{database}' and wait_event_type = 'Lock'"
        )) == "1"
    });
    for _ in 0..5 {
        for reader in &mut readers {
            reader.send(Request::new().query("select sum from account where id = 1").bytes());
        }
        for reader in &mut readers {
            assert_eq!(reader.reply().good().value(), "0", "what is committed");
        }
    }
    holder.query("commit").good();
    writer.reply().good();
    assert_eq!(readers[0].query("select sum from account where id = 1").value(), "2");
}

#[test]
fn a_request_never_runs_without_the_settings_of_its_session() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let mut client = plane.client(&database);
    client.query("create text search configuration mine (copy = simple)").good();
    client.query("set default_text_search_config = 'public.mine'").good();
    let mut other = plane.client(&database);
    warm_up(&plane, &mut other, &database, "select current_setting('default_text_search_config')");
    // the setting cannot be made again on the connection that the other session has used meanwhile
    other.query("drop text search configuration mine").good();
    other.query("select 1").good();
    client.send(Request::new().query("create table ran_undressed ()").bytes());
    let messages = client.receive_to_end_or_ready();
    assert!(messages.iter().all(|message| message.tag != b'C'), "{messages:?}");
    assert_eq!(other.query("select to_regclass('ran_undressed') is null").value(), "t");
    assert!(other.query("select current_setting('default_text_search_config')").value() != "public.mine");
}

#[test]
fn what_runs_for_a_client_that_has_left_is_stopped_before_its_permit_is_used_again() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let running = || {
        Cluster::shared().sql(&format!(
            "select count(*) from pg_stat_activity where datname = '{database}' and query like 'select pg_sleep%'"
        ))
    };
    for _ in 0..3 {
        let mut leaver = plane.client(&database);
        leaver.send(Request::new().query("select pg_sleep(600)").bytes());
        wait_until("it runs", || running() == "1");
        leaver.hang_up();
        assert_eq!(plane.client(&database).query("select 'served'").value(), "served");
        assert_eq!(running(), "0");
    }
}
