//! Statement mode, and what is run on new server connections.

use harness::{Cluster, Plane, PlaneBuilder, Request, params, wait_until};

fn before() -> PlaneBuilder {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1)
}

#[test]
fn in_statement_mode_a_transaction_of_several_statements_is_refused_and_rolled_back() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("mode", "statement").start();
    let mut client = plane.client(&database);
    let mut other = plane.client(&database);
    client.query("create table t (a int)").good();
    for begin in [Request::new().query("begin; insert into t values (1)"), Request::new().extended("begin", &[])] {
        let reply = client.ask(&begin);
        assert_eq!((reply.code().as_str(), reply.status()), ("0A000", 'I'), "{reply:?}");
        assert_eq!(other.query("select count(*) from t").good().value(), "0");
        // the session goes on, and what it says next is a statement of its own
        client.query("insert into t values (2)").good();
        assert_eq!(other.query("delete from t").good().commands(), ["DELETE 1"]);
    }
    let pool = plane.pool(&database);
    assert_eq!((pool.connects, pool.closes_in_doubt), (1, 0));
}

#[test]
fn in_statement_mode_nothing_sent_ahead_slips_into_a_refused_transaction() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("mode", "statement").start();
    let mut client = plane.client(&database);
    client.query("create table t (a int)").good();
    let ahead = Request::new()
        .extended("begin", &[])
        .extended("insert into t values (1)", &[])
        .query("insert into t values (2)")
        .extended("commit", &[]);
    client.send(ahead.bytes());
    assert_eq!(client.reply().code(), "0A000");
    client.reply().good();
    client.reply().good();
    assert_eq!(client.reply().good().commands(), ["COMMIT"]);
    assert_eq!(client.query("select sum(a) from t").good().value(), "3", "each was a transaction of its own");
}

#[test]
fn in_statement_mode_single_statements_and_whole_transactions_in_one_query_work() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("mode", "statement").start();
    let mut client = plane.client(&database);
    client.query("begin; create table t (a int); insert into t values (1); commit").good();
    client.ask(&Request::new().parse("s", "select a + $1::int from t").sync()).good();
    for number in 0..50 {
        let reply = client.ask(&Request::new().run("s", &params(&[&number.to_string()]))).good();
        assert_eq!(reply.value(), (number + 1).to_string());
    }
    client.query("set work_mem to '9MB'").good();
    assert_eq!(client.query("show work_mem").good().value(), "9MB");
    assert_eq!(client.query("selekt").code(), "42601");
    // who keeps its connection for a reason of its own keeps it, but not with a transaction
    client.query("listen news").good();
    assert_eq!(client.query("select count(*) from pg_listening_channels()").good().value(), "1");
    let reply = client.query("begin");
    assert_eq!(reply.code(), "0A000");
    assert_eq!(client.farewell().code, "0A000");
    let mut next = plane.client(&database);
    assert_eq!(next.query("select count(*) from pg_listening_channels()").good().value(), "0");
}

#[test]
fn the_connect_query_is_run_on_every_connection_and_holds_for_every_client() {
    let database = Cluster::shared().make_database();
    let query = "set app.made to 'by connect_query'; set work_mem to '7MB'";
    let keys = [("dbname", database.into()), ("connect_query", query.into())];
    let plane = before().database("made", &keys).start();
    let mut client = plane.client("made");
    let mut other = plane.client("made");
    let made = "select current_setting('app.made', true) || ' ' || current_setting('work_mem')";
    let expected = "by connect_query 7MB";
    // each of these would take the settings from whoever gets the connection next
    for deed in ["select 1", "discard all", "set work_mem to '9MB'", "reset work_mem", "reset all", "listen news"] {
        let mut doer = plane.client("made");
        doer.query(deed).good();
        drop(doer);
        assert_eq!(client.query(made).good().value(), expected, "after {deed}");
    }
    other.query("set work_mem to '9MB'").good();
    assert_eq!(other.query(made).good().value(), "by connect_query 9MB");
    assert_eq!(client.query(made).good().value(), expected);
    let backend = client.query("select pg_backend_pid()").good().value();
    assert_eq!(Cluster::shared().sql(&format!("select pg_terminate_backend({backend}, 10000)")), "t");
    wait_until("there is another backend", || client.query("select pg_backend_pid()").good().value() != backend);
    assert_eq!(client.query(made).good().value(), expected);
}

#[test]
fn a_connect_query_that_fails_is_told_and_its_connections_are_not_used() {
    let database = Cluster::shared().make_database();
    let keys = |query: &str| [("dbname", database.clone().into()), ("connect_query", query.into())];
    let plane = before()
        .pool("query_wait_timeout", "500ms")
        .database("wrong", &keys("set no_such_setting to 1"))
        .database("open", &keys("begin"))
        .database("right", &keys("select 1; select 2"))
        .start();
    let told = |name| plane.try_client("postgres", name, None).err().map(|error| (error.severity, error.message));
    let (severity, message) = told("wrong").unwrap_or_default();
    assert_eq!(severity, "FATAL");
    assert!(message.contains("connect_query failed: unrecognized configuration parameter"), "{message}");
    let (_, message) = told("open").unwrap_or_default();
    assert!(message.contains("connect_query leaves a transaction open"), "{message}");
    assert_eq!(plane.client("right").query("select 'served'").good().value(), "served");
}

#[test]
fn a_home_with_a_connect_query_is_cleaned_back_to_it() {
    let database = Cluster::shared().make_database();
    let query = "set app.made to 'by connect_query'; set work_mem to '7MB'";
    let keys = [("dbname", database.into()), ("connect_query", query.into())];
    let plane = before().database("made", &keys).pool("size", 1).start();
    let made = "select current_setting('app.made', true) || ' ' || current_setting('work_mem')";
    let (mut owner, mut other) = (plane.client("made"), plane.client("made"));
    // what it may have left there is asked for when somebody else needs the connection: nothing first, then a lock
    owner.query("do $$ begin perform set_config('work_mem', '9MB', false); end $$").good();
    assert_eq!(other.query(made).good().value(), "by connect_query 7MB");
    assert_eq!(owner.query(made).good().value(), "by connect_query 9MB");
    owner.query("select pg_advisory_lock(1)").good();
    other.send(Request::new().query(made).bytes());
    wait_until("the other waits for the home", || plane.pool("made").clients_waiting == 1);
    assert_eq!(owner.query(made).good().value(), "by connect_query 9MB");
    owner.query("select pg_advisory_unlock(1)").good();
    assert_eq!(other.reply().good().value(), "by connect_query 7MB");
    assert_eq!(owner.query(made).good().value(), "by connect_query 9MB");
    drop(owner);
    assert_eq!(other.query(made).good().value(), "by connect_query 7MB");
}
