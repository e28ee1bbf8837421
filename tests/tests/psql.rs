//! What people do with psql, through the data plane; and that nothing one session does reaches another.

use harness::program::{run, run_well};
use harness::{Cluster, Plane, RawClient, wait_until};

/// A data plane whose pool is one server connection: whoever comes next gets what the last one had.
fn plane_of_one() -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1).start()
}

fn plane() -> Plane {
    Plane::before(Cluster::shared()).start()
}

#[test]
fn rows_come_back_and_errors_do_not_end_the_session() {
    let plane = plane();
    let script = "select 1, 'two', null, 3.5;\nselect 1/0;\nselect nothing from nowhere;\nselect 'still here';\n";
    let mut psql = plane.psql("postgres");
    let output = run(psql.args(["-v", "ON_ERROR_STOP=0"]), script.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1|two||3.5\nstill here\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("division by zero") && said.contains("relation \"nowhere\" does not exist"), "{said}");
}

#[test]
fn several_statements_in_one_message_run_in_order_and_in_one_transaction() {
    let plane = plane();
    let database = Cluster::shared().make_database();
    let one_message = |text: &str| run(plane.psql(&database).args(["-c", text]), b"");
    let output = one_message("create table t (a int); insert into t values (1), (2); select sum(a) from t");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n", "{output:?}");
    let output = one_message("insert into t values (3); select 1/0; insert into t values (4)");
    assert!(!output.status.success());
    assert_eq!(plane.sql(&database, "select sum(a) from t"), "3");
    let output = one_message("insert into t values (5); commit; select 1/0");
    assert!(!output.status.success());
    assert_eq!(plane.sql(&database, "select sum(a) from t"), "8");
}

#[test]
fn copy_goes_in_and_out() {
    let plane = plane();
    let database = Cluster::shared().make_database();
    plane.sql(&database, "create table t (a int, b text)");
    let rows: String = (0..100_000).map(|row| format!("{row}\trow {row} of the table\n")).collect();
    run_well(plane.psql(&database).args(["-c", "\\copy t from stdin"]), rows.as_bytes());
    assert_eq!(plane.sql(&database, "select count(*), sum(a) from t"), "100000|4999950000");
    let out = run_well(plane.psql(&database).args(["-c", "\\copy (select * from t order by a) to stdout"]), b"");
    assert!(out == rows.trim_end(), "what came out is not what went in");
    let bad = run(plane.psql(&database).args(["-c", "\\copy t from stdin"]), b"1\tone\nnot a number\ttwo\n");
    let said = String::from_utf8_lossy(&bad.stderr);
    assert!(said.contains("invalid input syntax for type integer: \"not a number\""), "{said}");
    let empty = run_well(plane.psql(&database).args(["-c", "\\copy (select 1 where false) to stdout"]), b"");
    assert_eq!(empty, "");
    assert_eq!(plane.sql(&database, "select count(*) from t"), "100000");
}

#[test]
fn a_row_of_megabytes_and_a_result_of_fifty_come_whole() {
    let plane = plane();
    let text = "select repeat('0123456789', 350000)";
    let row = run_well(plane.psql("postgres").args(["-c", text]), b"");
    assert!(row == "0123456789".repeat(350_000), "{} bytes", row.len());
    let text = "select n, md5(n::text) || repeat('x', 5000) from generate_series(1, 10000) n";
    let rows = run_well(plane.psql("postgres").args(["-c", text]), b"");
    assert!(rows.len() > 50_000_000, "{}", rows.len());
    for (number, row) in (1..).zip(rows.lines()) {
        assert!(row.starts_with(&format!("{number}|")) && row.ends_with('x') && row.len() > 5000, "row {number}");
    }
    assert_eq!(rows.lines().count(), 10_000);
}

#[test]
fn a_long_statement_goes_through() {
    let plane = plane();
    let text = format!("select length('{}');\n", "y".repeat(4_000_000));
    assert_eq!(plane.sql("postgres", &text), "4000000");
}

#[test]
fn settings_stay_with_their_session() {
    let plane = plane();
    let script = "set work_mem = '7MB'; show work_mem;\nshow work_mem;\nset timezone to 'Asia/Tokyo';\nshow timezone;
        begin; set local work_mem = '9MB'; show work_mem; commit; show work_mem;
        reset work_mem; show work_mem; select set_config('app.tenant', 'seven', false);
        select current_setting('app.tenant');\nbegin; set work_mem = '8MB'; rollback; show work_mem;\nshow timezone;\n";
    let expected = "7MB\n7MB\nAsia/Tokyo\n9MB\n7MB\n4MB\nseven\nseven\n4MB\nAsia/Tokyo";
    assert_eq!(plane.sql("postgres", script), expected);
    assert_eq!(
        plane.sql("postgres", "show work_mem;\nshow timezone;\n"),
        Cluster::shared().sql("show work_mem") + "\n" + &Cluster::shared().sql("show timezone")
    );
}

#[test]
fn transactions_commit_and_roll_back() {
    let plane = plane();
    let database = Cluster::shared().make_database();
    let script =
        "create table t (a int);\nbegin;\ninsert into t values (1);\nrollback;\nbegin;\ninsert into t values (2);
        savepoint s;\ninsert into t values (3);\nrollback to s;\ncommit;\nselect a from t;\n";
    assert_eq!(plane.sql(&database, script), "2");
    let script = "begin;\ninsert into t values (4);\nselect 1/0;\nselect 1;\ncommit;\nselect sum(a) from t;\n";
    let output = run(plane.psql(&database).args(["-v", "ON_ERROR_STOP=0"]), script.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("current transaction is aborted"));
    let script = "begin isolation level serializable read only;\nshow transaction_isolation;\nselect 1;\nend;\n";
    assert_eq!(plane.sql(&database, script), "serializable\n1");
}

#[test]
fn statements_prepared_in_sql_work_and_stay_with_their_session() {
    let plane = plane_of_one();
    let script = "prepare p (int) as select $1 + 1;\nexecute p(1);\nselect 'between';\nexecute p(41);\ndeallocate p;\n";
    assert_eq!(plane.sql("postgres", script), "2\nbetween\n42");
    let mut client = plane.client("postgres");
    client.query("prepare p as select 'of the first'").good();
    assert_eq!(client.query("execute p").value(), "of the first");
    client.query("deallocate all").good();
    assert_eq!(client.query("execute p").code(), "26000");
    client.query("prepare p as select 'again'").good();
    client.hang_up();
    assert_eq!(plane.client("postgres").query("execute p").code(), "26000");
}

#[test]
fn discard_all_forgets_everything_and_the_session_goes_on() {
    let plane = plane();
    let script = "set work_mem = '7MB';\nprepare p as select 1;\ncreate temp table t (a int);\ndiscard all;
        show work_mem;\nselect to_regclass('pg_temp.t') is null;\nselect count(*) from pg_prepared_statements where from_sql;\n";
    assert_eq!(plane.sql("postgres", script), "4MB\nt\n0");
}

#[test]
fn temporary_tables_are_there_until_their_session_ends_and_for_nobody_else() {
    let plane = plane_of_one();
    let script = "create temp table mine (a int);\ninsert into mine values (7);\nselect a from mine;\n";
    assert_eq!(plane.sql("postgres", script), "7");
    let mut next = plane.client("postgres");
    assert_eq!(next.query("select a from mine").code(), "42P01");
    next.query("create temp table mine as select 8 as a").good();
    assert_eq!(next.query("select a from mine").value(), "8");
    next.query("select pg_temp.nothing()");
    next.hang_up();
    assert_eq!(plane.client("postgres").query("select to_regclass('pg_temp.mine') is null").value(), "t");
}

#[test]
fn notifications_reach_who_listens_and_only_as_long_as_they_do() {
    let plane = plane();
    let mut listener = plane.client("postgres");
    listener.query("listen news").good();
    let mut speaker = plane.client("postgres");
    speaker.query("notify news, 'first'").good();
    let heard = listener.receive();
    assert_eq!(heard.tag, b'A');
    assert!(heard.body.ends_with(b"news\0first\0"), "{heard:?}");
    assert_eq!(listener.query("select 1").value(), "1");
    speaker.query("notify news, 'second'").good();
    assert!(listener.receive().body.ends_with(b"second\0"));
    listener.query("unlisten *").good();
    speaker.query("notify news, 'third'").good();
    assert_eq!(listener.query("select 2").good().tags(), "TDCZ");
    assert_eq!(Cluster::shared().sql("select pg_listening_channels()"), "");
}

#[test]
fn who_listens_on_a_connection_of_a_pool_of_one_does_not_make_the_next_one_listen() {
    let plane = plane_of_one();
    let mut listener = plane.client("postgres");
    listener.query("listen gossip").good();
    listener.send(harness::Request::new().terminate().bytes());
    assert!(listener.try_receive().is_none());
    let mut next = plane.client("postgres");
    assert_eq!(next.query("select count(*) from pg_listening_channels()").value(), "0");
    Cluster::shared().sql("notify gossip, 'about you'");
    assert_eq!(next.query("select 1").tags(), "TDCZ");
}

/// Does something in a session on the only server connection there is, ends the session, and gives the next one.
fn after(plane: &Plane, deeds: &[&str]) -> RawClient {
    let mut first = plane.client("postgres");
    for deed in deeds {
        let reply = first.query(deed);
        assert!(reply.error().is_none(), "{deed}: {reply:?}");
    }
    first.send(harness::Request::new().terminate().bytes());
    assert!(first.try_receive().is_none());
    plane.client("postgres")
}

#[test]
fn advisory_locks_are_let_go_when_their_session_ends() {
    let plane = plane_of_one();
    let mut next = after(&plane, &["select pg_advisory_lock(4711)"]);
    let held = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711";
    assert_eq!(next.query(held).value(), "0");
    assert_eq!(next.query("select pg_advisory_unlock(4711)").value(), "f");
}

#[test]
fn advisory_locks_are_kept_while_their_session_lives() {
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).start();
    let mut first = plane.client("postgres");
    let mut second = plane.client("postgres");
    first.query("select pg_advisory_lock(4712)").good();
    assert_eq!(second.query("select pg_try_advisory_lock(4712)").value(), "f");
    assert_eq!(second.query("select pg_advisory_unlock(4712)").value(), "f");
    assert_eq!(first.query("select pg_advisory_unlock(4712)").value(), "t");
    assert_eq!(second.query("select pg_try_advisory_lock(4712)").value(), "t");
}

#[test]
fn cursors_with_hold_outlive_their_transaction_but_not_their_session() {
    let plane = plane_of_one();
    let script =
        "begin;\ndeclare c cursor with hold for select generate_series(1, 10);\nfetch 2 c;\ncommit;\nfetch 2 c;\n";
    assert_eq!(plane.sql("postgres", script), "1\n2\n3\n4");
    let mut next = plane.client("postgres");
    assert_eq!(next.query("select count(*) from pg_cursors where name = 'c'").value(), "0");
    assert_eq!(next.query("fetch 1 c").code(), "34000");
}

#[test]
fn roles_and_settings_do_not_reach_the_next_session() {
    Cluster::shared().sql("create role somebody; create schema if not exists elsewhere");
    let plane = plane_of_one();
    let facts = "select current_user, session_user, current_setting('search_path'), current_setting('timezone'), \
                 current_setting('work_mem'), coalesce(current_setting('app.tenant', true), ''), current_setting('statement_timeout'), \
                 current_setting('default_transaction_read_only'), current_setting('application_name')";
    let before = plane.client("postgres").query(facts).good().rows();
    let deeds: [&[&str]; 9] = [
        &["set role somebody"],
        &["set session authorization somebody"],
        &["set search_path to elsewhere"],
        &["set timezone to 'Asia/Tokyo'", "set work_mem to '9MB'"],
        &["select set_config('app.tenant', 'another', false)"],
        &["select set_config('search_path', 'elsewhere', false), set_config('statement_timeout', '1h', false)"],
        &["begin", "set role somebody", "set search_path to elsewhere", "commit"],
        &["do $$ begin perform set_config('work_mem', '6MB', false); set role somebody; end $$"],
        &["set default_transaction_read_only to on", "set application_name to 'another'"],
    ];
    for deeds in deeds {
        assert_eq!(after(&plane, deeds).query(facts).good().rows(), before, "after {deeds:?}");
    }
}

#[test]
fn settings_of_two_sessions_that_take_turns_on_one_connection_do_not_mix() {
    let plane = plane_of_one();
    let login = |tenant: &str, timezone: &str| {
        let options = format!("-c app.tenant={tenant}");
        let parameters = [
            ("user", "postgres"),
            ("database", "postgres"),
            ("options", options.as_str()),
            ("TimeZone", timezone),
            ("application_name", tenant),
        ];
        RawClient::connect(plane.port(), &parameters, None).unwrap()
    };
    let mut one = login("one", "Asia/Tokyo");
    let mut two = login("two", "America/Lima");
    let mut three = plane.client("postgres");
    let facts = "select concat_ws(' ', current_setting('app.tenant', true), current_setting('timezone'), \
                 current_setting('application_name'))";
    for _ in 0..20 {
        assert_eq!(one.query(facts).value(), "one Asia/Tokyo one");
        assert_eq!(two.query(facts).value(), "two America/Lima two");
        assert!(three.query(facts).value().ends_with(" test"));
    }
    assert!(one.parameters.contains(&("TimeZone".to_owned(), "Asia/Tokyo".to_owned())), "{:?}", one.parameters);
    assert!(two.parameters.contains(&("application_name".to_owned(), "two".to_owned())), "{:?}", two.parameters);
}

#[test]
fn reset_goes_back_to_what_the_startup_packet_said() {
    let plane = plane();
    let facts = "select concat_ws(' ', current_setting('timezone'), current_setting('work_mem'), \
                 current_setting('application_name'))";
    let parameters = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("TimeZone", "Asia/Tokyo"),
        ("options", "-c work_mem=7MB"),
        ("application_name", "mine"),
    ];
    let mut wrong = Vec::new();
    for (whose, port) in [("PostgreSQL", Cluster::shared().port()), ("the data plane", plane.port())] {
        for deeds in [
            &["set timezone to 'America/Lima'", "reset timezone"][..],
            &["set timezone to 'America/Lima'", "set timezone to default"],
            &["set work_mem to '9MB'", "reset all"],
            &["set application_name to 'other'", "discard all"],
        ] {
            let mut client = RawClient::connect(port, &parameters, None).unwrap();
            for deed in deeds {
                client.query(deed).good();
            }
            let value = client.query(facts).value();
            if value != "Asia/Tokyo 7MB mine" {
                wrong.push(format!("{whose}, after {deeds:?}: {value}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn values_of_sequences_do_not_reach_the_next_session() {
    Cluster::shared().sql("create sequence if not exists numbers");
    let plane = plane_of_one();
    assert_eq!(after(&plane, &["select nextval('numbers')"]).query("select lastval()").code(), "55000");
    assert_eq!(
        plane.sql("postgres", "select nextval('numbers') > 0;\nselect currval('numbers') = lastval();\n"),
        "t\nt"
    );
}

#[test]
fn a_transaction_left_open_is_rolled_back_before_the_next_session() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    plane.sql(&database, "create table t (a int)");
    let mut first = plane.client(&database);
    first.query("begin; insert into t values (1)").good();
    first.hang_up();
    let mut next = plane.client(&database);
    let reply = next.query("select count(*) from t");
    assert_eq!((reply.value().as_str(), reply.status()), ("0", 'I'));
    wait_until("the lock on the table is gone", || {
        Cluster::shared().sql_in(&database, "select count(*) from pg_locks where relation = 't'::regclass") == "0"
    });
}

#[test]
fn session_mode_keeps_everything_until_the_session_ends() {
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("mode", "session").start();
    let mut client = plane.client("postgres");
    let backend = client.query("select pg_backend_pid()").value();
    client.query("create temp table mine as select 5 as a").good();
    client.query("set work_mem to '9MB'").good();
    assert_eq!(client.query("select a from mine").value(), "5");
    assert_eq!(client.query("show work_mem").value(), "9MB");
    assert_eq!(client.query("select pg_backend_pid()").value(), backend);
    client.hang_up();
    let mut next = plane.client("postgres");
    assert_eq!(next.query("show work_mem").value(), "4MB");
    assert_eq!(next.query("select a from mine").code(), "42P01");
}

#[test]
fn the_unix_socket_serves_too() {
    let plane = plane();
    let mut psql = harness::program::command(&harness::program::postgres("psql"));
    let dir = plane.socket_dir().display().to_string();
    psql.args(["-XAtw", "-h", &dir, "-p", &plane.port().to_string(), "-U", "postgres", "-c", "select 5"]);
    assert_eq!(run_well(&mut psql, b""), "5");
}
