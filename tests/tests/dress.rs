//! Sessions with different settings on the same connections: everybody's requests run under their own.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::{Cluster, Plane, RawClient, Request, params, wait_until};

const EPOCH: &str = "select extract(epoch from '2020-01-01 00:00'::timestamptz)::bigint";
const IN_UTC: &str = "1577836800";
const IN_TOKYO: &str = "1577804400";

fn client_with(plane: &Plane, database: &str, settings: &[(&str, &str)]) -> RawClient {
    let mut parameters = vec![("user", "postgres"), ("database", database)];
    parameters.extend_from_slice(settings);
    RawClient::connect(plane.port(), &parameters, None).unwrap()
}

/// Repeats a read until it is shared.
fn warm_up(plane: &Plane, client: &mut RawClient, database: &str, text: &str) {
    wait_until("reads are shared", || {
        let before = plane.pool(database).requests_shared;
        client.query(text).good();
        plane.pool(database).requests_shared > before
    });
}

#[test]
fn a_constant_is_read_under_the_settings_of_who_prepared_it() {
    for share in ["on", "off"] {
        let database = Cluster::shared().make_database();
        let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("share", share).start();
        let mut utc = client_with(&plane, &database, &[("TimeZone", "UTC")]);
        let mut tokyo = client_with(&plane, &database, &[("TimeZone", "Asia/Tokyo")]);
        let prepare = Request::new().parse("s", EPOCH).sync();
        let run = Request::new().run("s", &params(&[]));
        for client in [&mut utc, &mut tokyo] {
            client.ask(&prepare).good();
        }
        for round in 0..12 {
            assert_eq!(utc.ask(&run).value(), IN_UTC, "{share}, round {round}");
            assert_eq!(tokyo.ask(&run).value(), IN_TOKYO, "{share}, round {round}");
        }
        // it moves to another zone, and what it prepares anew with it
        tokyo.query("set timezone = 'UTC'").good();
        tokyo.ask(&Request::new().close_statement("s").parse("s", EPOCH).sync()).good();
        for round in 0..12 {
            assert_eq!(utc.ask(&run).value(), IN_UTC, "{share}, round {round}");
            assert_eq!(tokyo.ask(&run).value(), IN_UTC, "{share}, round {round}");
        }
    }
}

#[test]
fn what_is_prepared_under_a_local_setting_is_nobody_elses() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut one = client_with(&plane, &database, &[("TimeZone", "UTC")]);
    let mut other = client_with(&plane, &database, &[("TimeZone", "UTC")]);
    let run = Request::new().run("s", &params(&[]));
    for change in ["set local timezone = 'Asia/Tokyo'", "select set_config('timezone', 'Asia/Tokyo', true)"] {
        one.query("begin").good();
        one.query(change).good();
        one.ask(&Request::new().parse("s", EPOCH).sync()).good();
        assert_eq!(one.ask(&run).value(), IN_TOKYO);
        one.query("commit").good();
        other.ask(&Request::new().parse("s", EPOCH).sync()).good();
        assert_eq!(other.ask(&run).value(), IN_UTC, "{change}");
        one.ask(&Request::new().close_statement("s").sync()).good();
        other.ask(&Request::new().close_statement("s").sync()).good();
    }
    // the change and what is prepared under it in one request
    let both = Request::new()
        .parse("", "set timezone = 'Asia/Tokyo'")
        .bind("", "", &[])
        .execute("", 0)
        .parse("s", EPOCH)
        .sync();
    one.ask(&both).good();
    other.ask(&Request::new().parse("s", EPOCH).sync()).good();
    assert_eq!(other.ask(&run).value(), IN_UTC);
    assert_eq!(one.ask(&run).value(), IN_TOKYO);
}

/// What a session asks, and what it must be told.
fn asked(zone: usize) -> (String, String) {
    // hours east of Greenwich: the sign of such names is turned
    (format!("Etc/GMT-{zone}"), (1_577_836_800 - 3600 * zone).to_string())
}

#[test]
fn settings_travel_with_requests_on_shared_connections() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).start();
    Cluster::shared().sql_in(
        &database,
        &(0..12).map(|n| format!("create schema s{n}; create table s{n}.own as select {n} as n;")).collect::<String>(),
    );
    let mut clients: Vec<RawClient> = (0..12)
        .map(|n| {
            let (zone, _) = asked(n);
            let mut client =
                client_with(&plane, &database, &[("TimeZone", &zone), ("application_name", &format!("a{n}"))]);
            client.query(&format!("set search_path = s{n}, \"$user\"")).good();
            client.ask(&Request::new().parse("e", EPOCH).parse("o", "select n from own where n >= $1").sync()).good();
            client
        })
        .collect();
    for text in [EPOCH, "select n from own", "select 1 / (n - n) from own"] {
        for client in &mut clients {
            client.query(text);
        }
    }
    if let Some(first) = clients.first_mut() {
        warm_up(&plane, first, &database, EPOCH);
        warm_up(&plane, first, &database, "select n from own");
    }
    let before = plane.pool(&database);
    for round in 0..30 {
        let requests = [
            Request::new().query(EPOCH),
            Request::new().query("select n from own"),
            Request::new().run("e", &params(&[])),
            Request::new().run("o", &params(&["0"])),
            Request::new().extended(EPOCH, &[]),
            Request::new().query("select 1 / (n - n) from own"),
            Request::new().extended("select n / $1 from own", &params(&["0"])),
        ];
        for (index, request) in requests.iter().enumerate() {
            for client in &mut clients {
                client.send(request.bytes());
            }
            for (n, client) in clients.iter_mut().enumerate() {
                let reply = client.reply();
                match index {
                    0 | 2 | 4 => assert_eq!(reply.value(), asked(n).1, "round {round}, request {index}"),
                    1 | 3 => assert_eq!(reply.value(), n.to_string(), "round {round}, request {index}"),
                    _ => assert_eq!(reply.code(), "22012", "round {round}, request {index}"),
                }
                assert_eq!(reply.status(), 'I');
                assert!(!reply.tags().contains('S'), "what travels is not reported: {}", reply.tags());
            }
        }
    }
    let after = plane.pool(&database);
    let shared = after.requests_shared - before.requests_shared;
    assert!(shared > 1000, "{shared} of {} were shared", 30 * 7 * 12);
    assert!(after.settings_replayed > before.settings_replayed);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.query("show application_name").value(), format!("a{n}"));
    }
}

#[test]
fn settings_that_are_refused_on_the_way_hurt_nobody_else() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    Cluster::shared().sql_in(&database, "create text search configuration own (copy = simple)");
    let mut plain: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    let mut odd = client_with(&plane, &database, &[("default_text_search_config", "public.own")]);
    // the connection wears nothing in the end
    for client in [&mut odd].into_iter().chain(&mut plain) {
        warm_up(&plane, client, &database, "select 1 + 1");
    }
    Cluster::shared().sql_in(&database, "drop text search configuration own");
    let before = plane.pool(&database).requests_shared;
    odd.send(Request::new().query("select 1 + 1").bytes());
    for client in &mut plain {
        client.send(Request::new().query("select 1 + 1").bytes());
    }
    for client in &mut plain {
        assert_eq!(client.reply().value(), "2");
    }
    // its own settings cannot be had any more, and it is told
    assert_eq!(odd.farewell().code, "22023");
    for client in &mut plain {
        assert_eq!(client.query("select 1 + 1").value(), "2");
    }
    assert!(plane.pool(&database).requests_shared > before);
}

#[test]
fn a_setting_of_ones_own_does_not_come_into_being_for_others() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 2).start();
    let mut tenant = plane.client(&database);
    let mut stranger = plane.client(&database);
    warm_up(&plane, &mut stranger, &database, "select 1 + 1");
    tenant.query("set app.tenant = 'seven'").good();
    for _ in 0..20 {
        assert_eq!(tenant.query("select 1 + 1").value(), "2");
        assert_eq!(tenant.query("select current_setting('app.tenant')").value(), "seven");
    }
    tenant.hang_up();
    for _ in 0..4 {
        assert_eq!(stranger.query("select current_setting('app.tenant', true) is distinct from 'seven'").value(), "t");
    }
}
