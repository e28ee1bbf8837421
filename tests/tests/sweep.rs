//! Letting go of everything costs nothing where there is nothing to let go of, and is done by PostgreSQL where there is.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::cluster::SUPERUSER;
use harness::{Cluster, Plane, RawClient, Request, wait_until};

/// What drivers send: asyncpg, Npgsql, and people.
const TEXTS: [&str; 6] = [
    "DISCARD ALL",
    "RESET ALL",
    "deallocate all;",
    "DISCARD SEQUENCES",
    "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
    "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP",
];

fn plane() -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 2).start()
}

fn direct(database: &str) -> RawClient {
    let parameters = [("user", SUPERUSER), ("database", database), ("application_name", "direct")];
    RawClient::connect(Cluster::shared().port(), &parameters, None).unwrap()
}

#[test]
fn with_nothing_to_let_go_of_no_server_is_asked() {
    let (plane, database) = (plane(), Cluster::shared().make_database());
    let (mut client, mut real) = (plane.client(&database), direct(&database));
    // the last that PostgreSQL has heard
    let mut onlooker = direct(&database);
    let mut heard = move || {
        let text = "select query from pg_stat_activity where datname = current_database() \
             and application_name not in ('direct', 'optimacore catalog')";
        onlooker.query(text).values()
    };
    // until the catalog is known, anything may have been left
    wait_until("what is harmless is known", || {
        client.query("select 1").good();
        client.query("discard all").good();
        heard() == ["select 1"]
    });
    for _ in 0..5 {
        for text in TEXTS {
            let (seen, expected) = (client.query(text).good(), real.query(text).good());
            assert_eq!(seen.messages, expected.messages, "{text}");
        }
    }
    assert_eq!(heard(), ["select 1"]);
    assert_eq!(client.query("select 2").value(), "2");
}

#[test]
fn prepared_statements_are_gone_and_those_of_others_are_not() {
    for (text, code) in [("DISCARD ALL", "26000"), ("DEALLOCATE ALL", "26000"), ("RESET ALL", "")] {
        let (plane, database) = (plane(), Cluster::shared().make_database());
        let (mut client, mut other) = (plane.client(&database), plane.client(&database));
        for one in [&mut client, &mut other] {
            one.ask(&Request::new().parse("s", "select 'there'").sync()).good();
        }
        client.query(text).good();
        assert_eq!(client.ask(&Request::new().run("s", &[])).code(), code, "{text}");
        assert_eq!(other.ask(&Request::new().run("s", &[])).good().value(), "there");
        // the name is free again
        let again = client.ask(&Request::new().parse("s", "select 'new'").sync());
        assert_eq!(again.code(), if code.is_empty() { "42P05" } else { "" });
    }
}

#[test]
fn what_is_there_is_let_go_of() {
    let (plane, database) = (plane(), Cluster::shared().make_database());
    let mut other = plane.client(&database);
    other.query("create table t (a serial); create role somebody").good();
    for text in ["DISCARD ALL", TEXTS[4]] {
        let mut client = plane.client(&database);
        let mut real = direct(&database);
        for one in [&mut client, &mut real] {
            one.query("set timezone = 'Asia/Tokyo'").good();
            one.query("set work_mem = '7MB'").good();
        }
        let (seen, expected) = (client.query(text).good(), real.query(text).good());
        assert_eq!(seen.messages, expected.messages, "with the values that are told");
        assert_eq!(client.query("select current_setting('work_mem')").value(), "4MB");
        if text != "DISCARD ALL" {
            // it keeps temporary tables
            continue;
        }
        client.query("create temp table mine (a int)").good();
        client.query("select pg_advisory_lock(7)").good();
        client.query("listen news").good();
        client.query(text).good();
        assert_eq!(client.query("select * from mine").code(), "42P01");
        assert_eq!(other.query("select pg_try_advisory_lock(7), pg_advisory_unlock(7)").value(), "t");
        assert_eq!(client.query("select count(*) from pg_listening_channels()").value(), "0");
        client.query("set role somebody").good();
        client.query("reset all").good();
        assert_eq!(client.query("select current_user").value(), "somebody", "it is none of those settings");
        client.query("discard all").good();
        assert_eq!(client.query("select current_user").value(), SUPERUSER);
    }
    let mut client = plane.client(&database);
    client.query("insert into t default values").good();
    assert_eq!(client.query("select currval('t_a_seq')").good().values().len(), 1);
    client.query("DISCARD SEQUENCES").good();
    assert_eq!(client.query("select currval('t_a_seq')").code(), "55000");
}
