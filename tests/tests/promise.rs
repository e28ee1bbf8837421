//! What sessions may promise (`server_clean`), what becomes of sequence values (`sequence_state`), and what server connections
//! begin with (`settings`).

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, wait_until};

/// A pool of so many connections to a database with functions.
fn before(size: i64) -> (String, PlaneBuilder) {
    let cluster = Cluster::shared();
    let database = cluster.make_database();
    cluster.sql_in(
        &database,
        "create function harmless(a int) returns int language plpgsql as $$ begin return a + 1; end $$;
         create function memory() returns void language plpgsql as $$ begin execute 'set work_mem = ''9MB'''; end $$;
         create sequence counter; create sequence inner_counter;
         create function counted() returns bigint language plpgsql as $$ begin return nextval('inner_counter'); end $$;
         create table t (id serial, a int)",
    );
    (database, Plane::before(cluster).cores("0").pool("size", size))
}

/// Two sessions call a function in turns, on one connection.
fn take_turns(plane: &Plane, database: &str) -> (u64, u64) {
    let mut clients = [plane.client(database), plane.client(database)];
    for number in 0..40 {
        let client = clients.get_mut(number % 2).unwrap();
        let reply = client.ask(&Request::new().extended("select harmless($1)", &[Some(&number.to_string())])).good();
        assert_eq!(reply.value(), (number + 1).to_string());
    }
    let pool = plane.pool(database);
    (pool.cleanings, pool.probes)
}

#[test]
fn a_promise_spares_the_questions_and_the_cleaning() {
    for (clean, spared) in [("strict", false), ("declared", true), ("never", true)] {
        let (database, builder) = before(1);
        let plane = builder.pool("server_clean", clean).start();
        let (cleanings, probes) = take_turns(&plane, &database);
        if spared {
            assert_eq!((cleanings, probes), (0, 0), "{clean}");
        } else {
            assert!(cleanings >= 30 && probes >= 30, "{clean}: {cleanings} cleanings, {probes} probes");
        }
    }
}

/// What somebody else sees on the connection.
fn stranger(plane: &Plane, database: &str, question: &str) -> String {
    let mut other = plane.client(database);
    other.query(question).good().value()
}

#[test]
fn what_words_say_is_guarded_where_the_unsaid_is_promised_away() {
    let (database, builder) = before(1);
    let plane = builder.pool("server_clean", "declared").start();
    let mut client = plane.client(&database);
    for set in ["begin; set work_mem = '7MB'; commit", "select set_config('work_mem', '7MB', false)"] {
        client.query(set).good();
        assert_eq!(stranger(&plane, &database, "show work_mem"), "4MB", "{set}");
        assert_eq!(client.query("show work_mem").good().value(), "7MB", "{set}");
        client.query("discard all").good();
    }
    client.query("begin; create temp table mine as select 1; commit").good();
    client.query("select 1").good();
    assert_eq!(client.query("select count(*) from mine").good().value(), "1");
    client.query("drop table mine").good();
    client.query("select pg_advisory_lock(7)").good();
    let own = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    assert_eq!(client.query(own).good().value(), "1");
    client.hang_up();
    assert_eq!(stranger(&plane, &database, "select pg_try_advisory_lock(7)"), "t", "it went with its session");
}

#[test]
fn a_lone_set_is_carried_and_listening_ends_with_its_session_whatever_is_promised() {
    let (database, builder) = before(1);
    let plane = builder.pool("server_clean", "never").start();
    let mut client = plane.client(&database);
    client.query("set work_mem = '7MB'").good();
    assert_eq!(stranger(&plane, &database, "show work_mem"), "4MB");
    assert_eq!(client.query("show work_mem").good().value(), "7MB");
    client.query("listen news").good();
    client.query("prepare p as select 1").good();
    client.hang_up();
    assert_eq!(stranger(&plane, &database, "select count(*) from pg_listening_channels()"), "0");
    assert_eq!(stranger(&plane, &database, "select count(*) from pg_prepared_statements where from_sql"), "0");
    // in the middle of a transaction
    let mut client = plane.client(&database);
    client.query("begin; insert into t (a) values (1)").good();
    client.hang_up();
    assert_eq!(stranger(&plane, &database, "select count(*) from t"), "0");
}

#[test]
fn in_session_mode_a_promise_spares_the_cleaning_at_the_end() {
    for (clean, cleaned) in [("strict", true), ("never", false)] {
        let (database, builder) = before(1);
        let plane = builder.pool("mode", "session").pool("server_clean", clean).start();
        for number in 0..3 {
            let mut client = plane.client(&database);
            client.query("set work_mem = '7MB'").good();
            let reply = client.query(&format!("select harmless({number})")).good();
            assert_eq!(reply.value(), (number + 1).to_string());
            client.hang_up();
        }
        assert_eq!(stranger(&plane, &database, "show work_mem"), "4MB", "{clean}");
        assert_eq!(plane.pool(&database).cleanings > 0, cleaned, "{clean}");
    }
}

#[test]
fn a_database_may_promise_for_itself_and_the_console_may_change_the_rest() {
    let (database, builder) = before(1);
    let promise: toml::Table = [("server_clean".to_owned(), "never".into())].into_iter().collect();
    let builder = builder.console("admin_users", &["postgres"]).database(&database, &[("pool", promise.into())]);
    let plane = builder.start();
    assert_eq!(take_turns(&plane, &database), (0, 0));
    let mut console = plane.client("optimacore");
    assert_eq!(console.query("set pool.server_clean = sometimes").code(), "22023");
    console.query("set pool.sequence_state = pin").good();
}

/// The last value of whatever sequence, or why there is none.
fn last(client: &mut RawClient) -> String {
    let reply = client.query("select lastval()");
    match reply.error() {
        Some(error) => error.code,
        None => reply.value(),
    }
}

#[test]
fn a_session_has_the_connection_back_that_has_its_sequence_values() {
    let (database, builder) = before(3);
    let plane = builder.start();
    let (mut client, mut other) = (plane.client(&database), plane.client(&database));
    other.query("begin").good();
    for round in 1..=10 {
        assert_eq!(client.query("select nextval('counter')").good().value(), round.to_string());
        // the other connection has been used later, but nobody else has had this one
        other.query("commit").good();
        assert_eq!(last(&mut client), round.to_string());
        assert_eq!(client.query("select currval('counter')").good().value(), round.to_string());
        other.query("begin").good();
    }
    assert_eq!(last(&mut other), "55000", "never a stranger's value");
}

#[test]
fn sequence_values_pin_where_they_are_to() {
    let (database, builder) = before(2);
    let plane = builder.pool("sequence_state", "pin").start();
    let mut client = plane.client(&database);
    client.query("insert into t (a) values (1)").good();
    for _ in 0..5 {
        assert_eq!(stranger(&plane, &database, "select harmless(1)"), "2");
    }
    assert_eq!(last(&mut client), "1");
    let pool = plane.pool(&database);
    assert_eq!(pool.servers_pinned, 1);
    assert!(pool.pins.iter().any(|pin| pin.reason == "sequence values"), "{:?}", pool.pins);
    client.query("discard sequences").good();
    assert_eq!(last(&mut client), "55000");
    wait_until("the pin is gone", || plane.pool(&database).servers_pinned == 0);
    client.query("insert into t (a) values (2)").good();
    client.query("discard all").good();
    wait_until("the pin is gone", || plane.pool(&database).servers_pinned == 0);
}

#[test]
fn sequence_values_that_no_text_shows_pin_when_somebody_needs_the_connection() {
    let (database, builder) = before(2);
    let plane = builder.pool("sequence_state", "pin").start();
    let (mut client, mut other) = (plane.client(&database), plane.client(&database));
    assert_eq!(client.query("select counted()").good().value(), "1");
    assert_eq!(plane.pool(&database).servers_pinned, 0, "nobody has asked yet");
    other.query("begin").good();
    // both connections are somebody's now: the third has to ask
    let third = std::thread::scope(|scope| {
        let third = scope.spawn(|| stranger(&plane, &database, "select harmless(2)"));
        wait_until("it is found out what the first has left", || plane.pool(&database).servers_pinned == 1);
        other.query("commit").good();
        third.join().unwrap()
    });
    assert_eq!(third, "3");
    assert_eq!(last(&mut client), "1");
    assert_eq!(last(&mut other), "55000");
    // a session that has used none is free when it is asked
    assert_eq!(other.query("select harmless(1)").good().value(), "2");
    assert_eq!(stranger(&plane, &database, "select harmless(3)"), "4");
    // it may be asked about anew just now
    wait_until("only the first is kept", || plane.pool(&database).servers_pinned == 1);
    assert_eq!(last(&mut client), "1");
}

#[test]
fn server_connections_begin_with_the_settings_of_their_database() {
    let (database, builder) = before(1);
    let of = [("timezone", "Asia/Tokyo"), ("work_mem", "7MB")];
    let settings: toml::Table = of.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect();
    let keys = [("dbname", database.into()), ("settings", settings.into())];
    let plane = builder.database("set", &keys).start();
    let (mut client, mut other) = (plane.client("set"), plane.client("set"));
    let seen = "select current_setting('TimeZone') || ' ' || current_setting('work_mem')";
    assert_eq!(client.query(seen).good().value(), "Asia/Tokyo 7MB");
    other.query("set timezone = 'UTC'").good();
    assert_eq!(other.query(seen).good().value(), "UTC 7MB");
    assert_eq!(client.query(seen).good().value(), "Asia/Tokyo 7MB");
    other.query("reset timezone").good();
    assert_eq!(other.query(seen).good().value(), "Asia/Tokyo 7MB");
    other.query("select memory()").good();
    assert_eq!(client.query(seen).good().value(), "Asia/Tokyo 7MB");
    assert_eq!(other.query("show work_mem").good().value(), "9MB");
    other.query("discard all").good();
    assert_eq!(other.query(seen).good().value(), "Asia/Tokyo 7MB");
    let wrong = Plane::before(Cluster::shared()).database("set", &[("settings", "x".into())]).fail_to_start();
    assert!(wrong.contains("settings: must be a table of texts"), "{wrong}");
}
