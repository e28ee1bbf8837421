//! Prepared statements whose result or parameters have changed since: no client may take new rows for old ones, and none is
//! refused where it would not have been by PostgreSQL itself.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::client::Reply;
use harness::cluster::SUPERUSER;
use harness::{Cluster, Plane, RawClient, Request, wait_until};

const TABLE: &str = "create table t (a int4, b int4); insert into t values (1, 2)";
const CHANGE: &str = "alter table t alter column b type text";

fn plane(share: &str) -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 3).pool("share", share).start()
}

fn direct(database: &str) -> RawClient {
    let parameters = [("user", SUPERUSER), ("database", database), ("application_name", "direct")];
    RawClient::connect(Cluster::shared().port(), &parameters, None).unwrap()
}

/// What a driver does that remembers the columns of a statement.
fn prepare(client: &mut RawClient, text: &str) {
    client.ask(&Request::new().parse("s", text).describe_statement("s").sync()).good();
    client.ask(&Request::new().run("s", &[])).good();
}

/// Bind, Describe, Execute, Sync: what libpq sends.
fn run_described() -> Request {
    Request::new().bind("", "s", &[]).describe_portal("").execute("", 0).sync()
}

/// The next request gets a connection that has prepared nothing.
fn end_connections(plane: &Plane, database: &str) {
    let theirs = format!(
        "from pg_stat_activity where datname = '{database}' and application_name not in ('direct', 'optimacore catalog')"
    );
    Cluster::shared().sql(&format!("select pg_terminate_backend(pid) {theirs}"));
    wait_until("the connections are lost", || {
        let pool = plane.pool(database);
        pool.servers_idle + pool.servers_exclusive + pool.servers_pinned == 0
            && Cluster::shared().sql(&format!("select count(*) {theirs}")) == "0"
    });
}

fn routine(reply: &Reply) -> String {
    let error = reply.messages.iter().find(|message| message.tag == b'E').unwrap();
    let field = error.body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"R")).unwrap();
    String::from_utf8_lossy(field).into_owned()
}

#[test]
fn a_connection_that_never_had_the_statement_refuses_it_as_one_that_had() {
    for share in ["on", "off"] {
        let (plane, database) = (plane(share), Cluster::shared().make_database());
        let mut other = plane.client(&database);
        other.query(TABLE).good();
        let mut client = plane.client(&database);
        prepare(&mut client, "select * from t");
        let mut real = direct(&database);
        prepare(&mut real, "select * from t");
        other.query(CHANGE).good();
        // where it was before, Postgres refuses it by itself
        assert_eq!(client.ask(&Request::new().run("s", &[])).code(), "0A000");
        let expected = real.ask(&Request::new().run("s", &[]));
        assert_eq!((expected.code().as_str(), expected.tags().as_str()), ("0A000", "EZ"));
        end_connections(&plane, &database);
        for _ in 0..2 {
            let reply = client.ask(&Request::new().run("s", &[]));
            assert_eq!((reply.error(), reply.tags()), (expected.error(), expected.tags()), "share = {share}");
            assert_eq!(routine(&reply), routine(&expected));
        }
        let reply = client.ask(&Request::new().describe_statement("s").sync());
        assert_eq!(reply.error(), real.ask(&Request::new().describe_statement("s").sync()).error());
        client.query("begin").good();
        assert_eq!(client.ask(&Request::new().run("s", &[])).code(), "0A000");
        assert_eq!(client.ask(&Request::new().run("s", &[])).code(), "25P02");
        client.query("rollback").good();
        client.ask(&Request::new().close_statement("s").sync()).good();
        prepare(&mut client, "select * from t");
        let row = client.ask(&Request::new().run("s", &[])).good().rows();
        assert_eq!(row, [[Some("1".to_owned()), Some("2".to_owned())]]);
    }
}

#[test]
fn a_change_elsewhere_that_nobody_has_noticed_yet_shows_no_wrong_rows() {
    let (plane, database) = (plane("on"), Cluster::shared().make_database());
    plane.client(&database).query(TABLE).good();
    let mut client = plane.client(&database);
    prepare(&mut client, "select * from t");
    // its mark in the catalog is one that is not looked at
    Cluster::shared().sql_in(&database, "alter table t rename column b to c");
    end_connections(&plane, &database);
    client.send(Request::new().run("s", &[]).bytes());
    let seen = client.receive_to_end_or_ready();
    assert!(seen.iter().any(|message| message.tag == b'E'), "{seen:?}");
    assert!(!seen.iter().any(|message| message.tag == b'D'), "{seen:?}");
    let mut client = plane.client(&database);
    prepare(&mut client, "select * from t");
    assert_eq!(client.ask(&Request::new().run("s", &[])).good().rows().len(), 1);
}

#[test]
fn whoever_asks_for_the_columns_with_each_run_notices_nothing_but_new_columns() {
    for share in ["on", "off"] {
        let (plane, database) = (plane(share), Cluster::shared().make_database());
        let mut other = plane.client(&database);
        other.query(TABLE).good();
        let mut clients: Vec<RawClient> = (0..3).map(|_| plane.client(&database)).collect();
        for client in &mut clients {
            prepare(client, "select * from t");
            assert_eq!(client.ask(&run_described()).tags(), "2TDCZ");
        }
        other.query("alter table t add column c text default 'new'").good();
        let (first, rest) = clients.split_at_mut(1);
        // on a connection that has the statement: two requests in one go, in their order
        let twice = run_described().query("select 'behind'").raw(run_described().bytes());
        first[0].send(twice.bytes());
        for expected in ["1", "behind", "1"] {
            let reply = first[0].reply().good();
            assert_eq!(reply.values(), [expected], "share = {share}: {reply:?}");
        }
        end_connections(&plane, &database);
        // and on one that has not
        for client in rest {
            let reply = client.ask(&run_described()).good();
            assert_eq!((reply.tags(), reply.rows()[0].len()), ("2TDCZ".to_owned(), 3), "share = {share}");
        }
        // inside a transaction there is nothing to heal: what ran before it must not run twice
        let mut client = plane.client(&database);
        prepare(&mut client, "select * from t");
        client.query("begin").good();
        client.query("alter table t drop column c").good();
        assert_eq!(client.ask(&run_described()).code(), "0A000");
        client.query("rollback").good();
        assert_eq!(client.ask(&run_described()).good().rows()[0].len(), 3);
    }
}

#[test]
fn what_has_not_changed_goes_on_everywhere_after_other_changes() {
    for share in ["on", "off"] {
        let (plane, database) = (plane(share), Cluster::shared().make_database());
        let mut other = plane.client(&database);
        other.query(TABLE).good();
        let mut client = plane.client(&database);
        prepare(&mut client, "select * from t");
        for round in 0..3 {
            other.query(&format!("create table other_{round} (a int4)")).good();
            end_connections(&plane, &database);
            for _ in 0..3 {
                let reply = client.ask(&Request::new().run("s", &[])).good();
                assert_eq!(reply.tags(), "2DCZ", "share = {share}");
            }
            // the question comes in the middle of a request, and changes nothing about what it answers
            let whole = Request::new().extended("select 'before'", &[]);
            let reply = client.ask(&whole.run("s", &[])).good();
            assert_eq!(reply.values(), ["before"]);
            client.reply().good();
            let mixed = Request::new().parse("", "select 'x'").bind("", "", &[]).execute("", 0).run("s", &[]);
            assert_eq!(client.ask(&mixed).good().tags(), "12DC2DCZ");
        }
    }
}

#[test]
fn parameters_keep_the_types_that_their_client_knows() {
    let (plane, database) = (plane("on"), Cluster::shared().make_database());
    let mut other = plane.client(&database);
    other.query(TABLE).good();
    let prepare = Request::new().parse("s", "select a from t where b = $1").describe_statement("s").sync();
    let run = Request::new().run("s", &[Some("2")]);
    let mut client = plane.client(&database);
    client.ask(&prepare).good();
    client.ask(&run).good();
    let mut real = direct(&database);
    real.ask(&prepare).good();
    real.ask(&run).good();
    other.query(CHANGE).good();
    end_connections(&plane, &database);
    let expected = real.ask(&run);
    assert_eq!(expected.code(), "42883", "the parameter is still an integer");
    let reply = client.ask(&run);
    assert_eq!((reply.code(), reply.tags()), (expected.code(), expected.tags()));
}

#[test]
fn a_statement_that_means_another_table_now_is_refused_and_only_where_it_was_known_before() {
    let (plane, database) = (plane("on"), Cluster::shared().make_database());
    plane
        .client(&database)
        .query("create schema a create table t (x int4); create schema b create table t (x text, y int4); insert into b.t values ('b', 1)")
        .good();
    let begin = |client: &mut RawClient| {
        client.query("set search_path = a").good();
        prepare(client, "select * from t");
        client.query("set search_path = b").good();
    };
    let mut real = direct(&database);
    begin(&mut real);
    let expected = real.ask(&Request::new().run("s", &[]));
    assert_eq!(expected.code(), "0A000");
    let mut client = plane.client(&database);
    begin(&mut client);
    let mut other = plane.client(&database);
    other.query("set search_path = b").good();
    prepare(&mut other, "select * from t");
    for _ in 0..2 {
        let reply = client.ask(&Request::new().run("s", &[]));
        assert_eq!((reply.error(), reply.tags()), (expected.error(), expected.tags()));
        assert_eq!(other.ask(&Request::new().run("s", &[])).good().value(), "b");
        end_connections(&plane, &database);
    }
    client.query("set search_path = a").good();
    assert_eq!(client.ask(&Request::new().run("s", &[])).good().tags(), "2CZ");
    assert_eq!(real.query("set search_path = a").good().tags(), "CZ");
    assert_eq!(real.ask(&Request::new().run("s", &[])).good().tags(), "2CZ");
}

#[test]
fn a_statement_prepared_once_more_in_the_same_request_is_not_waited_for_in_vain() {
    for share in ["on", "off"] {
        let (plane, database) = (plane(share), Cluster::shared().make_database());
        plane
            .client(&database)
            .query("create schema a create table t (x int4); create schema b create table t (x int4)")
            .good();
        let mut client = plane.client(&database);
        client.query("set search_path = a").good();
        prepare(&mut client, "select * from t");
        client.query("set search_path = b").good();
        end_connections(&plane, &database);
        let request = Request::new()
            .parse("again", "select * from t")
            .bind("", "s", &[])
            .execute("", 0)
            .close_statement("again")
            .sync();
        assert_eq!(client.ask(&request).good().tags(), "12C3Z");
    }
}
