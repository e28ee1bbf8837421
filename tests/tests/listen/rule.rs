//! The rules that PostgreSQL keeps: when LISTEN takes effect, when a client hears, which names are the same.

use harness::{Cluster, Plane, RawClient, Request, wait_until};

use crate::{alone, hear, hear_payload, heard_in, make_functions, notify, payloads, wait_until_moved};

#[test]
fn listen_and_unlisten_take_effect_with_their_transaction_and_are_rolled_back_with_it() {
    let (plane, database) = alone();
    let mut client = plane.client(&database);
    client.query("begin; listen lost").good();
    client.query("rollback").good();
    client.query("begin; listen kept").good();
    client.query("savepoint s").good();
    client.query("listen half").good();
    client.query("rollback to s").good();
    // before its COMMIT it does not listen
    notify(&database, "kept", "too early");
    client.query("commit").good();
    let tell_all = |round: &str| {
        for channel in ["lost", "half", "kept"] {
            notify(&database, channel, round);
        }
    };
    tell_all("at home");
    assert_eq!(hear_payload(&mut client), "at home");
    wait_until_moved(&plane, &database, 1);
    tell_all("by the line");
    let (_, channel, payload) = hear(&mut client);
    assert_eq!((channel.as_str(), payload.as_str()), ("kept", "by the line"));
    client.query("begin; unlisten kept").good();
    client.query("rollback").good();
    tell_all("still");
    assert_eq!(hear_payload(&mut client), "still");
    wait_until_moved(&plane, &database, 1);
    client.query("begin; unlisten *; commit").good();
    tell_all("never");
    assert_eq!(payloads(&client.query("select 1").good()), Vec::<String>::new());
    wait_until_moved(&plane, &database, 0);
}

#[test]
fn what_is_told_during_a_transaction_is_heard_behind_it() {
    let (plane, database) = alone();
    let mut client = plane.client(&database);
    client.query("listen news").good();
    for round in ["at home", "by the line"] {
        client.query("begin").good();
        notify(&database, "news", round);
        let reply = client.query("select pg_sleep(0.05)").good();
        assert_eq!(payloads(&reply), Vec::<String>::new());
        let reply = client.query("commit").good();
        let behind = if payloads(&reply).is_empty() { hear_payload(&mut client) } else { payloads(&reply).concat() };
        assert_eq!(behind, round);
        wait_until_moved(&plane, &database, 1);
    }
    // a request outside a transaction is one by itself
    client.send(Request::new().query("select 'long', pg_sleep(1)").bytes());
    let runs =
        format!("select count(*) from pg_stat_activity where datname = '{database}' and query like 'select ''long%'");
    wait_until("it runs", || Cluster::shared().sql(&runs) == "1");
    notify(&database, "news", "meanwhile");
    let reply = client.reply().good();
    let tags = reply.tags();
    assert!(tags == "TDCZ" || tags == "TDCAZ", "{tags}");
    let behind = if tags == "TDCZ" { hear_payload(&mut client) } else { payloads(&reply).concat() };
    assert_eq!(behind, "meanwhile");
}

#[test]
fn its_own_notifications_come_before_its_own_ready_and_carry_its_own_process_id() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("size", 3).start();
    let mut client = plane.client(&database);
    let mut other = plane.client(&database);
    let mut direct =
        RawClient::connect(Cluster::shared().port(), &[("user", "postgres"), ("database", &database)], None).unwrap();
    client.query("create function tell(text) returns void language sql as $$ select pg_notify('news', $1) $$").good();
    client.query("listen news").good();
    let own = client.key().0;
    for round in 0..3 {
        for text in [
            "notify news, 'x'",
            "select pg_notify('news', 'x')",
            "select tell('x')",
            "do $$ begin perform tell('x'); end $$",
        ] {
            let reply = client.query(text).good();
            assert_eq!(heard_in(&reply), [(own, "news".into(), "x".into())], "{text}, round {round}");
            assert!(reply.tags().ends_with("AZ"), "{}", reply.tags());
        }
        client.query("begin; notify news, '1'").good();
        client.query("notify news, '2'; notify news, '1'").good();
        assert_eq!(payloads(&client.query("commit").good()), ["1", "2"]);
        other.query("notify news, 'from another'").good();
        assert_eq!(hear(&mut client), (other.key().0, "news".into(), "from another".into()));
        direct.query("notify news, 'directly'").good();
        assert_eq!(hear(&mut client), (direct.key().0, "news".into(), "directly".into()));
        wait_until_moved(&plane, &database, 1);
        other.query("notify news, 'once more'").good();
        assert_eq!(hear(&mut client), (other.key().0, "news".into(), "once more".into()));
    }
}

#[test]
fn names_of_channels_are_folded_quoted_and_cut_as_they_are_in_postgres() {
    let (plane, database) = alone();
    let mut client = plane.client(&database);
    let long = "l".repeat(70);
    let cut = "l".repeat(63);
    let names: [(&str, &str); 5] = [
        ("NeWs", "news"),
        ("\"NeWs\"", "NeWs"),
        ("\"it's \"\"so\"\"; \"", "it's \"so\"; "),
        ("\"größe\"", "größe"),
        (&long, &cut),
    ];
    for (written, _) in names {
        client.query(&format!("listen {written}"));
    }
    for moved in [0, 1] {
        if moved == 1 {
            wait_until_moved(&plane, &database, 1);
        }
        for (written, name) in names {
            notify(&database, written, written.replace('\'', "''").as_str());
            let (_, channel, payload) = hear(&mut client);
            assert_eq!((channel.as_str(), payload.as_str()), (name, written));
        }
    }
    let mut channels = client.query("select pg_listening_channels()").good().values();
    channels.sort();
    let mut expected: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
    expected.sort_unstable();
    assert_eq!(channels, expected);
}

#[test]
fn every_way_to_say_it_is_understood() {
    let (plane, database) = alone();
    let mut client = plane.client(&database);
    make_functions(&database);
    let mut said = 0;
    let mut check = |client: &mut RawClient, channel: &str| {
        for moved in [0, 1] {
            if moved == 1 {
                wait_until_moved(&plane, &database, 1);
            }
            said += 1;
            notify(&database, channel, &said.to_string());
            assert_eq!(hear_payload(client), said.to_string(), "{channel}");
        }
    };
    client.query("select 1; listen among; select 2").good();
    check(&mut client, "among");
    client.ask(&Request::new().extended("listen extended", &[])).good();
    check(&mut client, "extended");
    client.ask(&Request::new().parse("l", "listen prepared").sync()).good();
    client.ask(&Request::new().run("l", &[])).good();
    check(&mut client, "prepared");
    client.query("select hear('inside')").good();
    check(&mut client, "inside");
    // of a pipeline the second request takes back what the first has done
    client.send(Request::new().query("listen piped").query("unlisten piped").query("listen last").bytes());
    for _ in 0..3 {
        client.reply().good();
    }
    check(&mut client, "last");
    let mut channels = client.query("select pg_listening_channels()").good().values();
    channels.sort();
    assert_eq!(channels, ["among", "extended", "inside", "last", "prepared"]);
    client.query("unlisten among").good();
    check(&mut client, "last");
    // whose text may name statements that were prepared keeps its connection, and hears there
    client.query("do $$ begin execute 'listen done'; end $$").good();
    notify(&database, "done", "in a block");
    assert_eq!(hear_payload(&mut client), "in a block");
    for ends in ["discard all", "unlisten *", "select pg_advisory_unlock_all();\nclose all;\nunlisten *;\nreset all;"] {
        client.query("listen again").good();
        if ends != "discard all" {
            wait_until_moved(&plane, &database, 1);
        }
        client.query(ends).good();
        for channel in ["again", "last", "among", "done"] {
            notify(&database, channel, "unheard");
        }
        assert_eq!(client.query("select count(*) from pg_listening_channels()").good().value(), "0", "{ends}");
        assert_eq!(client.query("select 1").good().tags(), "TDCZ", "{ends}");
        wait_until_moved(&plane, &database, 0);
    }
}

#[test]
fn nobody_hears_what_others_listen_to() {
    let (plane, database) = alone();
    let mut clients: Vec<RawClient> = (0..6).map(|_| plane.client(&database)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.query(&format!("listen own_{number}; listen shared")).good();
    }
    wait_until_moved(&plane, &database, 6);
    for number in 0..6 {
        notify(&database, &format!("own_{number}"), "own");
    }
    notify(&database, "shared", "all");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(hear(client).1, format!("own_{number}"));
        assert_eq!(hear(client).1, "shared");
        let channels = "select pg_listening_channels() order by 1";
        assert_eq!(client.query(channels).good().values(), [format!("own_{number}"), "shared".into()]);
    }
    drop(clients);
    wait_until_moved(&plane, &database, 0);
    let mut next = plane.client(&database);
    assert_eq!(next.query("select count(*) from pg_listening_channels()").good().value(), "0");
}

#[test]
fn what_the_line_cannot_take_over_keeps_its_connection_and_hears_all_the_same() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 3).start();
    let mut locked = plane.client(&database);
    locked.query("select pg_advisory_lock(1); listen news").good();
    let mut latin = plane.client(&database);
    latin.query("set client_encoding = latin1").good();
    latin.query("listen news").good();
    let mut plain = plane.client(&database);
    plain.query("listen news").good();
    // somebody needs a connection: all that may hold something are asked
    wait_until("two keep theirs", || {
        let pool = plane.pool(&database);
        pool.servers_pinned == 2 && pool.clients_listening == 1
    });
    notify(&database, "news", "é");
    assert_eq!(hear_payload(&mut plain), "é");
    assert_eq!(hear_payload(&mut locked), "é");
    let message = latin.receive();
    assert!(message.tag == b'A' && message.body.ends_with(b"news\0\xe9\0"), "{message:?}");
    // a pin that has gone lets the line take over
    locked.query("select pg_advisory_unlock(1)").good();
    let (mut busy, mut waiting) = (plane.client(&database), plane.client(&database));
    busy.query("begin").good();
    assert_eq!(waiting.query("select set_config('work_mem', '1MB', false)").good().value(), "1MB");
    let pool = plane.pool(&database);
    assert_eq!((pool.servers_pinned, pool.clients_listening), (1, 2), "{pool:?}");
    notify(&database, "news", "later");
    assert_eq!(hear_payload(&mut locked), "later");
}

#[test]
fn in_session_and_statement_mode_sessions_hear_too() {
    for mode in ["session", "statement"] {
        let database = Cluster::shared().make_database();
        let plane = Plane::before(Cluster::shared()).pool("mode", mode).pool("size", 2).start();
        let mut client = plane.client(&database);
        client.query("listen news").good();
        notify(&database, "news", "first");
        assert_eq!(hear_payload(&mut client), "first", "{mode}");
        if mode == "statement" {
            wait_until_moved(&plane, &database, 1);
            // from then on it is known what a text does
            wait_until("reads are shared", || {
                client.query("select 1").good();
                plane.pool(&database).requests_shared > 0
            });
            assert_eq!(client.query("begin").code(), "0A000");
        }
        let own = client.key().0;
        assert_eq!(heard_in(&client.query("notify news, 'own'").good()), [(own, "news".into(), "own".into())]);
        notify(&database, "news", "last");
        assert_eq!(hear_payload(&mut client), "last", "{mode}");
    }
}
