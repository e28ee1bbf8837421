//! `SHOW STATEMENTS`: what is counted by statement.

#![expect(clippy::panic, reason = "a test that fails panics")]

use harness::cluster::SUPERUSER;
use harness::console::{Row, rows};
use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, params, wait_until};

fn builder() -> PlaneBuilder {
    Plane::before(Cluster::shared()).console("admin_users", &[SUPERUSER])
}

fn shown(plane: &Plane) -> Vec<Row> {
    rows(&mut plane.client("pgbouncer"), "SHOW STATEMENTS")
}

fn number(row: &Row, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?}"))
}

/// Calls, rows and errors of a statement.
fn counted(plane: &Plane, statement: &str) -> Option<[u64; 3]> {
    let rows = shown(plane);
    let row = rows.iter().find(|row| row["statement"] == statement)?;
    assert_eq!(number(row, "shared") + number(row, "exclusive"), number(row, "calls"), "{row:?}");
    assert!(number(row, "queue_p50") <= number(row, "queue_p99") && number(row, "server_p50") > 0, "{row:?}");
    Some(["calls", "rows", "errors"].map(|column| number(row, column)))
}

#[test]
fn statements_are_counted_without_their_constants_however_they_were_sent() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let mut client = plane.client(&database);
    client.query("create table item (id int, name text)").good();
    client.query("insert into item values (1, 'one'), (2, 'two'), (3, 'three')").good();
    for id in 1..=3 {
        client.query(&format!("select * from item where id = {id} -- {id}")).good();
    }
    client.ask(&Request::new().extended("SELECT * FROM item WHERE id = $1", &params(&["2"]))).good();
    client.ask(&Request::new().parse("s", "select * from item where id = $1").sync()).good();
    for id in ["1", "7"] {
        client.ask(&Request::new().run("s", &params(&[id]))).good();
    }
    client.query("update item set name = 'x' where id < 3").good();
    assert_eq!(counted(&plane, "select * from item where id = ?"), Some([6, 5, 0]));
    assert_eq!(counted(&plane, "insert into item values (?, ...), (?, ...), (?, ...)"), Some([1, 3, 0]));
    assert_eq!(counted(&plane, "update item set name = ? where id < ?"), Some([1, 2, 0]));
    assert_eq!(counted(&plane, "create table item (id int, name text)"), Some([1, 0, 0]));
}

#[test]
fn every_execution_of_a_group_is_counted_and_an_error_is_its_own_statements() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let mut client = plane.client(&database);
    let reply = client.ask(
        &Request::new()
            .parse("", "select 1 / $1::int")
            .bind("", "", &params(&["1"]))
            .execute("", 0)
            .bind("", "", &params(&["0"]))
            .execute("", 0)
            .parse("", "select 'never'")
            .bind("", "", &[])
            .execute("", 0)
            .sync(),
    );
    assert_eq!(reply.code(), "22012");
    assert_eq!(counted(&plane, "select ? / ?::int"), Some([2, 1, 1]));
    client.query("select 1 / 0");
    assert_eq!(counted(&plane, "select ? / ?::int"), Some([2, 1, 1]));
    assert_eq!(counted(&plane, "select ? / ?"), Some([1, 0, 1]));
    // what fails before it runs is a call that failed
    client.ask(&Request::new().extended("select nothing_of_that_name", &[]));
    assert_eq!(counted(&plane, "select nothing_of_that_name"), Some([1, 0, 1]));
    client.query("select 'a' as a; select 'b' as b union all select 'c'").good();
    assert_eq!(counted(&plane, "select ? as a; select ? as b union all select ?"), Some([1, 3, 0]));
}

#[test]
fn what_is_fetched_in_portions_is_one_call() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let mut client = plane.client(&database);
    let request = Request::new().parse("", "select generate_series(1, 5) as portion").bind("p", "", &[]);
    client.ask(&request.execute("p", 2).execute("p", 2).execute("p", 2).sync()).good();
    // PostgreSQL tells how many the last portion had
    assert_eq!(counted(&plane, "select generate_series(?, ...) as portion"), Some([1, 1, 0]));
}

#[test]
fn shared_and_exclusive_calls_are_told_apart() {
    let database = Cluster::shared().make_database();
    let plane = builder().cores("0").start();
    let mut client = plane.client(&database);
    wait_until("reads are shared", || {
        client.query("select 1 as told_apart").good();
        plane.pool(&database).requests_shared > 0
    });
    let find = || shown(&plane).into_iter().find(|row| row["statement"] == "select ? as told_apart").unwrap();
    let before = find();
    assert!(number(&before, "shared") > 0, "{before:?}");
    client.query("begin").good();
    for _ in 0..3 {
        client.query("select 1 as told_apart").good();
    }
    client.query("commit").good();
    let after = find();
    assert_eq!(number(&after, "exclusive") - number(&before, "exclusive"), 3, "{after:?}");
    assert_eq!(after["shared"], before["shared"]);
}

#[test]
fn a_flood_of_statements_leaves_no_more_than_there_is_room_for_and_loses_no_call() {
    let database = Cluster::shared().make_database();
    let plane = builder().cores("0").statements(20).start();
    let mut client = plane.client(&database);
    let all = 400;
    for index in 0..all {
        client.query(&format!("select 1 as flood_{index}")).good();
        if index % 5 == 0 {
            client.query("select 1 as often").good();
        }
    }
    let shown = shown(&plane);
    assert_eq!(shown.len(), 21, "{shown:?}");
    assert_eq!(shown.iter().map(|row| number(row, "calls")).sum::<u64>(), all + all / 5);
    assert_eq!(counted(&plane, "select ? as often"), Some([all / 5, all / 5, 0]));
    let rest = shown.iter().find(|row| row["statement"] == "NULL").unwrap();
    assert_eq!((rest["fingerprint"].as_str(), rest["database"].as_str()), ("NULL", database.as_str()));
}

#[test]
fn no_constant_is_shown_however_a_session_reads_its_texts() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let mut client = plane.client(&database);
    for text in [
        "create role keeps password 'hidden one'",
        "drop role keeps",
        "select 'open hidden",
        "/* hidden */ select $$hidden$$",
        "set standard_conforming_strings = off",
        "select 'it\\'s hidden'",
    ] {
        client.query(text);
    }
    let run = |client: &mut RawClient, text: &str| client.ask(&Request::new().extended(text, &[]));
    run(&mut client, "select 'it\\'s hidden as well'");
    let shown = shown(&plane);
    assert!(shown.iter().all(|row| !row["statement"].contains("hidden")), "{shown:?}");
    assert!(shown.iter().any(|row| row["statement"] == "create role keeps password ?"), "{shown:?}");
}

#[test]
fn nothing_is_counted_where_none_are_asked_for() {
    let plane = builder().statements(0).start();
    let mut client = plane.client("postgres");
    client.query("select 1").good();
    client.ask(&Request::new().extended("select $1::int", &params(&["1"]))).good();
    assert!(shown(&plane).is_empty());
    assert!(plane.stats().statements.is_empty());
}

#[test]
fn long_texts_and_function_calls_are_counted_with_the_rest() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let mut client = plane.client(&database);
    client.query(&format!("select length('{}')", "x".repeat(200_000))).good();
    let rest = shown(&plane).into_iter().find(|row| row["database"] == database && row["statement"] == "NULL").unwrap();
    assert_eq!((number(&rest, "calls"), number(&rest, "rows")), (1, 1));
    let snapshot = plane.stats();
    let of_it = snapshot.statements.iter().find(|one| one.database == database && one.statement.is_none()).unwrap();
    assert_eq!((of_it.calls, of_it.server_time.count()), (1, 1));
}
