//! What a session leaves on its server connection is its own: it always sees it, and nobody else ever does.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::thread;

use harness::{Cluster, Plane, RawClient, Request, wait_until};

fn plane_of(size: i64) -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", size).start()
}

/// Somebody else uses the connection, whatever is on it.
fn disturb(plane: &Plane, database: &str) {
    let mut other = plane.client(database);
    assert_eq!(other.query("select /* opaque */ 1 + length(pg_sleep(0)::text)").value(), "1");
    other.hang_up();
}

/// Runs statements in one session of a pool of one, with somebody else on the connection between any two; the last gives the
/// answer.
fn answer_in_spite_of_others(database: &str, statements: &[&str]) -> String {
    let plane = plane_of(1);
    let mut client = plane.client(database);
    let (last, before) = statements.split_last().unwrap();
    for statement in before {
        client.query(statement).good();
        if client.query("select 1").status() == 'I' {
            disturb(&plane, database);
        }
    }
    let answer = client.query(last).good().value();
    assert_eq!(plane.pool(database).servers_pinned, 0, "{statements:?}");
    answer
}

#[test]
fn settings_that_no_parser_sees_go_with_their_session() {
    let database = Cluster::shared().make_database();
    let cluster = Cluster::shared();
    cluster.sql_in(
        &database,
        "create function tenant(text) returns void language plpgsql as $$ begin perform set_config('app.tenant', $1, false); end $$;
         create function memory() returns void language plpgsql as $$ begin execute 'set work_mem = ''9MB'''; end $$;
         create schema inner_room; create table inner_room.thing as select 'inner' as name; create table thing as select 'outer' as name;",
    );
    for (statements, expected) in [
        (&["begin; set work_mem = '7MB'; commit", "show work_mem"][..], "7MB"),
        (&["begin; set work_mem = '7MB'; rollback", "show work_mem"], "4MB"),
        (
            &[
                "begin",
                "set work_mem = '7MB'",
                "savepoint a",
                "set work_mem = '8MB'",
                "rollback to a",
                "commit",
                "show work_mem",
            ],
            "7MB",
        ),
        (&["begin; set local work_mem = '7MB'; commit", "show work_mem"], "4MB"),
        (&["select tenant('red')", "select current_setting('app.tenant', true)"], "red"),
        (&["select set_config('app.colour', 'blue', false)", "select current_setting('app.colour')"], "blue"),
        (&["select memory()", "show work_mem"], "9MB"),
        (
            &["do $$ begin perform set_config('DateStyle', 'German', false); end $$", "select '2026-11-24'::date"],
            "24.11.2026",
        ),
        (&["set session characteristics as transaction read only", "show transaction_read_only"], "on"),
        (&["begin; set search_path = inner_room; commit", "select name from thing"], "inner"),
        (&["select set_config('search_path', 'inner_room', false)", "select name from thing"], "inner"),
        (&["begin; set search_path = inner_room; commit", "reset search_path", "select name from thing"], "outer"),
        (&["begin; set work_mem = '7MB'; commit", "set work_mem = '6MB'", "show work_mem"], "6MB"),
        (&["begin; set work_mem = '7MB'; commit", "discard all", "show work_mem"], "4MB"),
    ] {
        assert_eq!(answer_in_spite_of_others(&database, statements), expected, "{statements:?}");
    }
}

#[test]
fn roles_go_with_their_session_and_nobody_else_has_them() {
    let database = Cluster::shared().make_database();
    let role = format!("role_of_{database}");
    Cluster::shared().sql(&format!("create role {role}"));
    let plane = plane_of(1);
    let (mut one, mut two) = (plane.client(&database), plane.client(&database));
    for statement in [format!("set role {role}"), format!("set session authorization {role}")] {
        one.query(&statement).good();
        for _ in 0..12 {
            assert_eq!(one.query("select current_user").value(), role, "{statement}");
            assert_eq!(two.query("select current_user").value(), "postgres");
        }
        one.query("set work_mem = '3MB'").good();
        assert_eq!(two.query("show work_mem").value(), "4MB");
        assert_eq!(one.query("select current_user || current_setting('work_mem')").value(), format!("{role}3MB"));
        one.query("reset role").good();
        one.query("reset session authorization").good();
        assert_eq!(two.query("select current_user").value(), "postgres");
        assert_eq!(one.query("select current_user").value(), "postgres");
    }
}

#[test]
fn what_cannot_be_carried_keeps_its_session_on_its_connection_until_it_is_gone() {
    let database = Cluster::shared().make_database();
    Cluster::shared().sql_in(
        &database,
        "create function hidden_lock() returns void language plpgsql as $$ begin perform pg_advisory_lock(77); end $$;
         create function hidden_table() returns void language plpgsql as $$ begin execute 'create temp table hidden (a int)'; end $$;",
    );
    for (make, reason, look, gone) in [
        (
            "select pg_advisory_lock(42)",
            "advisory lock",
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
            "select pg_advisory_unlock_all()",
        ),
        (
            "select hidden_lock()",
            "advisory lock",
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
            "select pg_advisory_unlock(77)",
        ),
        ("create temp table own as select 1", "temporary object", "select count(*) from own", "drop table own"),
        ("select hidden_table()", "temporary object", "select count(*) + 1 from hidden", "drop table hidden"),
        (
            "begin; declare c cursor with hold for select 1; commit",
            "WITH HOLD cursor",
            "select count(*) from pg_cursors",
            "close c",
        ),
    ] {
        let plane = plane_of(2);
        let mut owner = plane.client(&database);
        owner.query(make).good();
        for _ in 0..3 {
            // four others at once need the other connection, and ask for this one
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| disturb(&plane, &database));
                }
            });
            assert_eq!(owner.query(look).value(), "1", "{make}");
        }
        let pins = plane.pool(&database).pins;
        assert!(pins.iter().any(|pin| pin.reason == reason), "{make}: {pins:?}");
        owner.query(gone).good();
        // with both connections wanted at once, the owner's is asked again, and is free
        let mut others: Vec<RawClient> = (0..2).map(|_| plane.client(&database)).collect();
        for other in &mut others {
            other.query("begin").good();
        }
        assert_eq!(plane.pool(&database).servers_pinned, 0, "{make}");
        for other in &mut others {
            other.query("commit").good();
        }
        assert_eq!(owner.query("select 'still here'").value(), "still here");
    }
}

#[test]
fn a_try_lock_that_fails_does_not_pin() {
    let database = Cluster::shared().make_database();
    let plane = plane_of(2);
    let (mut one, mut two) = (plane.client(&database), plane.client(&database));
    one.query("select pg_advisory_lock(7)").good();
    assert_eq!(two.query("select pg_try_advisory_lock(7)").value(), "f");
    for _ in 0..5 {
        disturb(&plane, &database);
    }
    assert!(plane.pool(&database).servers_pinned <= 1);
    assert_eq!(two.query("select pg_try_advisory_lock(7)").value(), "f");
    one.query("select pg_advisory_unlock(7)").good();
    assert_eq!(two.query("select pg_try_advisory_lock(7)").value(), "t");
}

#[test]
fn a_temporary_table_hides_the_one_it_is_named_like() {
    let database = Cluster::shared().make_database();
    Cluster::shared().sql_in(&database, "create table thing as select 'for all' as name");
    let plane = plane_of(3);
    let (mut one, mut two) = (plane.client(&database), plane.client(&database));
    wait_until("reads are shared", || {
        two.query("select name from thing").good();
        plane.pool(&database).requests_shared > 0
    });
    one.query("create temp table thing as select 'own' as name").good();
    for _ in 0..30 {
        assert_eq!(one.query("select name from thing").value(), "own");
        assert_eq!(two.query("select name from thing").value(), "for all");
    }
}

#[test]
fn a_session_that_has_left_nothing_shares_again() {
    let database = Cluster::shared().make_database();
    let plane = plane_of(2);
    let mut client = plane.client(&database);
    wait_until("reads are shared", || {
        client.query("select 'a'").good();
        plane.pool(&database).requests_shared > 0
    });
    client.query("do $$ begin perform 1; end $$").good();
    let before = plane.pool(&database);
    for _ in 0..30 {
        assert_eq!(client.query("select 'a'").value(), "a");
    }
    let after = plane.pool(&database);
    assert!(after.requests_shared - before.requests_shared >= 15, "{after:?}");
    assert_eq!(after.probes - before.probes, 1);
}

#[test]
fn locks_and_tables_are_gone_as_soon_as_their_session_is() {
    let database = Cluster::shared().make_database();
    let plane = plane_of(2);
    for leave in [RawClient::hang_up as fn(RawClient), |client: RawClient| drop(client)] {
        let mut owner = plane.client(&database);
        owner.query("select pg_advisory_lock(5)").good();
        owner.query("create temp table own (a int)").good();
        leave(owner);
        // nobody else asks for the connection
        wait_until("nothing is left", || {
            Cluster::shared().sql_in(&database, "select (select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())) + (select count(*) from pg_class where relname = 'own')") == "0"
        });
    }
}

#[test]
fn a_session_whose_state_is_lost_with_its_connection_is_told() {
    let database = Cluster::shared().make_database();
    let plane = plane_of(2);
    let mut client = plane.client(&database);
    client.query("begin; set work_mem = '7MB'; commit").good();
    let pid = client.query("select pg_backend_pid()").value();
    Cluster::shared().sql(&format!("select pg_terminate_backend({pid})"));
    // a client with a Postgres of its own would have lost its connection
    assert_eq!(client.farewell().code, "08006");
    assert_eq!(plane.client(&database).query("show work_mem").value(), "4MB");
}

#[test]
fn states_of_many_sessions_on_few_connections_do_not_mix() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 3).start();
    thread::scope(|scope| {
        for number in 0..8 {
            let (plane, database) = (&plane, &database);
            scope.spawn(move || {
                let mut client = plane.client(database);
                for round in 0..40 {
                    let mine = format!("{number}.{round}");
                    let set = match round % 4 {
                        0 => format!("select set_config('app.mine', '{mine}', false)"),
                        1 => format!("begin; set app.mine = '{mine}'; commit"),
                        2 => format!("do $$ begin perform set_config('app.mine', '{mine}', false); end $$"),
                        _ => format!("set app.mine = '{mine}'"),
                    };
                    client.query(&set).good();
                    for _ in 0..3 {
                        assert_eq!(client.query("select current_setting('app.mine')").value(), mine);
                        let prepared = Request::new().extended("select current_setting('app.mine')", &[]);
                        assert_eq!(client.ask(&prepared).value(), mine);
                    }
                }
            });
        }
    });
}
