//! Who is let in, who is not, and in which words.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::{Duration, Instant};

use harness::{Cluster, ErrorReply, Plane, PlaneBuilder, RawClient, wait_until};

const USER: &str = "postgres";

fn before_shared() -> PlaneBuilder {
    Plane::before(Cluster::shared())
}

/// A start-up packet of any protocol version.
fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    packet(&body)
}

fn packet(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&len.to_be_bytes(), body].concat()
}

const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

#[test]
fn users_with_scram_md5_and_trust_log_in() {
    let plane = before_shared().user_scram("alice", "se cret'ü").user_md5("bob", "hush").user_trusted("carol").start();
    for (user, password) in [("alice", Some("se cret'ü")), ("bob", Some("hush")), ("carol", None), (USER, None)] {
        let mut client = plane.try_client(user, "postgres", password).unwrap();
        assert_eq!(client.query("select 1").value(), "1", "{user}");
        let reported = |name: &str| client.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        assert_eq!(reported("server_encoding").as_deref(), Some("UTF8"));
        assert_eq!(reported("application_name").as_deref(), Some("test"));
        assert!(reported("server_version").is_some() && reported("integer_datetimes").is_some());
    }
    let mut psql = harness::program::command(&harness::program::postgres("psql"));
    let uri = format!("postgres://bob:hush@127.0.0.1:{}/postgres", plane.port());
    assert_eq!(harness::program::run_well(psql.args(["-XAtc", "select 7", &uri]), b""), "7");
    let uri = format!("postgres://alice:se%20cret'%C3%BC@127.0.0.1:{}/postgres", plane.port());
    let mut psql = harness::program::command(&harness::program::postgres("psql"));
    assert_eq!(harness::program::run_well(psql.args(["-XAtc", "select 8", &uri]), b""), "8");
}

#[test]
fn a_wrong_password_and_an_unknown_user_are_told_the_same() {
    let plane = before_shared().user_scram("alice", "secret").user_md5("bob", "hush").start();
    let refused = |user: &str, password: &str| plane.try_client(user, "postgres", Some(password)).unwrap_err();
    let words = |user: &str| ErrorReply {
        severity: "FATAL".into(),
        code: "28P01".into(),
        message: format!("password authentication failed for user \"{user}\""),
        hint: String::new(),
    };
    assert_eq!(refused("alice", "wrong"), words("alice"));
    assert_eq!(refused("bob", "wrong"), words("bob"));
    assert_eq!(refused("mallory", "wrong"), words("mallory"));
    assert_eq!(plane.stats().shards_total().logins, 0);
    wait_until("failures are counted", || plane.stats().shards_total().login_failures == 3);
}

#[test]
fn an_unknown_user_is_asked_for_a_password_as_a_known_one_is() {
    let plane = before_shared().user_scram("alice", "secret").start();
    let mut asked = ["alice", "mallory", "mallory"].map(|user| {
        let mut client = RawClient::open(plane.port());
        client.send_startup(&[("user", user), ("database", "nowhere")]);
        client.receive()
    });
    assert_eq!((asked[0].tag, &asked[0]), (b'R', &asked[1]));
    assert_eq!(asked[1], asked[2]);
    asked[0].body.clear();
}

#[test]
fn a_database_that_does_not_exist_is_named() {
    let plane = before_shared().database("postgres", &[]).user_scram("alice", "secret").start();
    let error = plane.try_client(USER, "nowhere", None).unwrap_err();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"));
    assert_eq!(error.message, "database \"nowhere\" does not exist");
    // who has not proved who it is learns nothing of what there is
    let error = plane.try_client("alice", "nowhere", Some("wrong")).unwrap_err();
    assert_eq!(error.code, "28P01");
    assert_eq!(plane.try_client(USER, "postgres", None).unwrap().query("select 1").value(), "1");
}

#[test]
fn a_database_that_postgres_does_not_know_is_named_too() {
    let plane = before_shared().start();
    let error = plane.try_client(USER, "not_there", None).unwrap_err();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"));
    assert_eq!(error.message, "database \"not_there\" does not exist");
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

#[test]
fn a_database_may_have_another_name_and_another_user_there() {
    let database = Cluster::shared().make_database();
    Cluster::shared().sql("create role reader login");
    let keys = [("dbname", database.clone().into()), ("user", "reader".into())];
    let plane = before_shared().database("front", &keys).start();
    let facts = plane.client("front").query("select current_database(), current_user").rows();
    assert_eq!(facts, [[Some(database), Some("reader".to_owned())]]);
}

#[test]
fn one_client_too_many_is_told_so_and_let_in_when_there_is_room() {
    let plane = before_shared().limit("max_client_connections", 2).start();
    let mut first = plane.client("postgres");
    let second = plane.client("postgres");
    let error = plane.try_client(USER, "postgres", None).unwrap_err();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"));
    assert!(error.message.contains("too many clients") && error.message.contains('2'), "{error:?}");
    assert_eq!(first.query("select 1").value(), "1");
    second.hang_up();
    wait_until("there is room again", || plane.try_client(USER, "postgres", None).is_ok());
}

#[test]
fn bytes_that_are_no_startup_packet_are_refused_and_others_are_served_on() {
    let plane = before_shared().start();
    let mut served = plane.client("postgres");
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0; 16],
        &[0xff; 64],
        &packet(&[0, 3, 0, 0, b'u']),
        &packet(b"\0\x03\0\0user\0"),
        &[0, 0, 0, 7, 0, 3, 0],
        &[0, 0, 0x27, 0x11],
    ];
    for bytes in garbage {
        let mut client = RawClient::open(plane.port());
        client.send(bytes);
        let error = client.farewell();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"), "{}", bytes.escape_ascii());
        assert_eq!(served.query("select 1").value(), "1");
    }
    let mut old = RawClient::open(plane.port());
    old.send(&startup(2 << 16, &[("user", USER)]));
    assert_eq!(old.farewell().code, "0A000");
    let mut nobody = RawClient::open(plane.port());
    nobody.send(&startup(3 << 16, &[("database", "postgres")]));
    assert_eq!(nobody.farewell().code, "28000");
}

#[test]
fn a_startup_packet_too_large_is_refused() {
    let plane = before_shared().start();
    let mut client = RawClient::open(plane.port());
    client.send(&startup(3 << 16, &[("user", USER), ("application_name", &"x".repeat(10_100))]));
    assert_eq!(client.farewell().code, "08P01");
    let long = "y".repeat(9_000);
    let parameters = [("user", USER), ("database", "postgres"), ("options", &format!("-c app.long={long}"))];
    let mut client = RawClient::connect(plane.port(), &parameters, None).unwrap();
    assert_eq!(client.query("select length(current_setting('app.long'))").value(), "9000");
}

#[test]
fn requests_for_encryption_are_declined_and_login_goes_on() {
    let plane = before_shared().start();
    let mut client = RawClient::open(plane.port());
    for code in [SSL, GSSENC] {
        client.send(&packet(&code.to_be_bytes()));
        assert_eq!(client.receive_byte(), b'N');
    }
    client.send_startup(&[("user", USER), ("database", "postgres")]);
    client.log_in(USER, None).unwrap();
    assert_eq!(client.query("select 1").value(), "1");
}

#[test]
fn what_stands_behind_a_request_for_encryption_is_not_believed() {
    let plane = before_shared().start();
    for code in [SSL, GSSENC] {
        let mut client = RawClient::open(plane.port());
        let start = startup(3 << 16, &[("user", USER), ("database", "postgres")]);
        client.send(&[packet(&code.to_be_bytes()), start].concat());
        let error = client.farewell();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"));
    }
}

#[test]
fn a_newer_protocol_and_unknown_options_are_negotiated_down() {
    let plane = before_shared().user_scram("alice", "secret").start();
    let names = |minor: u32, options: &[&str]| {
        let mut body = ((3 << 16) | minor).to_be_bytes().to_vec();
        body.extend(u32::try_from(options.len()).unwrap().to_be_bytes());
        options.iter().for_each(|name| body.extend([name.as_bytes(), b"\0"].concat()));
        body
    };
    let version = |minor: u32| (3 << 16) + minor;
    for (version, options, told) in [
        (version(2), &["_pq_.novelty"][..], 2),
        (version(3), &[], 2),
        (version(1), &["_pq_.novelty"], 1),
        (version(0), &["_pq_.a", "_pq_.b"], 0),
    ] {
        let mut parameters = vec![("user", "alice"), ("database", "postgres")];
        parameters.extend(options.iter().map(|name| (*name, "on")));
        let mut client = RawClient::open(plane.port());
        client.send(&startup(version, &parameters));
        let before = client.log_in("alice", Some("secret")).unwrap();
        let negotiated = before.iter().find(|message| message.tag == b'v').unwrap_or_else(|| panic!("{before:?}"));
        assert_eq!(negotiated.body, names(told, options));
        assert_eq!(client.query("select 1").value(), "1");
    }
}

#[test]
fn who_does_not_log_in_is_closed_after_a_while() {
    let plane = before_shared().limit("auth_timeout", "1s").user_scram("alice", "secret").start();
    let mut served = plane.client("postgres");
    let began = Instant::now();
    let mut silent = RawClient::open(plane.port());
    let mut halfway = RawClient::open(plane.port());
    halfway.send(&startup(3 << 16, &[("user", "alice"), ("database", "postgres")]));
    let mut slow = RawClient::open(plane.port());
    slow.send(b"\0\0");
    for client in [&mut silent, &mut halfway, &mut slow] {
        let messages = client.receive_to_end();
        let last = messages.last().unwrap();
        assert_eq!(last.tag, b'E', "{messages:?}");
        assert_eq!(ErrorReply::read(&last.body).severity, "FATAL");
    }
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(served.query("select 1").value(), "1");
}

#[test]
fn settings_that_postgres_refuses_refuse_the_login() {
    let plane = before_shared().start();
    for (name, value, code) in [("TimeZone", "Nowhere/Never", "22023"), ("options", "-c work_mem=much", "22023")] {
        let parameters = [("user", USER), ("database", "postgres"), (name, value)];
        let error = RawClient::connect(plane.port(), &parameters, None).unwrap_err();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", code), "{error:?}");
    }
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

#[test]
fn a_login_that_comes_byte_by_byte_is_one() {
    let plane = before_shared().start();
    let mut client = RawClient::open(plane.port());
    for byte in startup(3 << 16, &[("user", USER), ("database", "postgres")]) {
        client.send(&[byte]);
    }
    client.log_in(USER, None).unwrap();
    assert_eq!(client.query("select 1").value(), "1");
}

#[test]
fn a_request_that_comes_with_the_startup_packet_is_answered() {
    let plane = before_shared().start();
    let mut client = RawClient::open(plane.port());
    let start = startup(3 << 16, &[("user", USER), ("database", "postgres")]);
    client.send(&[&start[..], harness::Request::new().query("select 'early'").bytes()].concat());
    client.log_in(USER, None).unwrap();
    assert_eq!(client.reply().value(), "early");
}

#[test]
fn a_thousand_clients_log_in_and_are_served() {
    let plane = before_shared().pool("size", 4).start();
    let mut clients: Vec<RawClient> = (0..1000).map(|_| plane.client("postgres")).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(harness::Request::new().query(&format!("select {number}")).bytes());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply().value(), number.to_string());
    }
    assert_eq!(plane.stats().shards_total().clients, 1000);
    assert!(plane.pool("postgres").permits_held <= 4);
    drop(clients);
    wait_until("all have left", || plane.stats().shards_total().clients == 0);
}
