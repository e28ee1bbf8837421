//! What the log tells: of connections, of slow statements, as text and as JSON, and never a secret.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::cluster::SUPERUSER;
use harness::{Cluster, Plane, Request, params, wait_until};

/// The lines that hold a text.
fn lines(plane: &Plane, with: &str) -> Vec<String> {
    plane.said().lines().filter(|line| line.contains(with)).map(str::to_owned).collect()
}

fn wait_for_line(plane: &Plane, with: &str) -> String {
    wait_until(with, || !lines(plane, with).is_empty());
    lines(plane, with).remove(0)
}

/// The value of a field in a line of text.
fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let (_, after) = line.split_once(&format!(" {name}=")).unwrap_or_else(|| unreachable!("no {name} in {line}"));
    match after.strip_prefix('"') {
        Some(text) => text.split_once('"').unwrap().0,
        None => after.split(' ').next().unwrap(),
    }
}

fn number(line: &str, name: &str) -> u64 {
    field(line, name).parse().unwrap()
}

#[test]
fn a_slow_statement_is_told_with_where_its_time_went_and_without_its_constants() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).log_key("slow_statements", "200ms").start();
    let mut client = plane.client(&database);
    client.query("select 'quick'").good();
    client.send(Request::new().query("select pg_sleep(0.3), 'secret1'").query("select 'secret2' as behind").bytes());
    client.reply().good();
    client.reply().good();
    client.ask(&Request::new().extended("select $1::text, pg_sleep(0.3) /* secret4 */", &params(&["secret3"]))).good();
    let slow = wait_for_line(&plane, "select pg_sleep(?), ?");
    assert!(slow.contains(" WARN slow statement pool="), "{slow}");
    assert_eq!((field(&slow, "pool"), field(&slow, "client")), (&*format!("{database}/{SUPERUSER}"), "127.0.0.1"));
    assert!(number(&slow, "server_us") >= 290_000 && number(&slow, "rows") == 1, "{slow}");
    assert_eq!((number(&slow, "pipe_wait_us"), field(&slow, "fingerprint").len()), (0, 16), "{slow}");
    // what stood behind it was slow for its client, and PostgreSQL was not why
    let behind = wait_for_line(&plane, "select ? as behind");
    assert!(number(&behind, "pipe_wait_us") >= 200_000, "{behind}");
    assert!(number(&behind, "server_us") < number(&slow, "server_us"), "{behind}");
    wait_for_line(&plane, "select ?::text, pg_sleep(?)");
    assert!(!plane.said().contains("secret") && !plane.said().contains("quick"), "{}", plane.said());
}

#[test]
fn slow_statements_beyond_ten_a_second_are_counted() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").log_key("slow_statements", "1ms").start();
    let mut client = plane.client(&database);
    let mut request = Request::new();
    for _ in 0..100 {
        request = request.query("select pg_sleep(0.002)");
    }
    client.send(request.bytes());
    (0..100).for_each(|_| drop(client.reply().good()));
    let left_out = || lines(&plane, "left_out=").iter().map(|line| number(line, "left_out")).sum::<u64>();
    let told = || lines(&plane, "WARN slow statement pool=").len() as u64;
    wait_until("all are told or counted", || left_out() + told() == 100);
    assert!(left_out() > 0 && told() >= 10, "{}", plane.said());
}

#[test]
fn clients_that_come_and_go_are_told_with_the_reason_where_that_is_asked_for() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared())
        .user_scram("ann", "sesame")
        .log_key("connections", "on")
        .pool("client_idle_timeout", "1s")
        .start();
    let mut client = plane.client(&database);
    client.query("select 'x'").good();
    client.query("select 'y'").good();
    client.send(Request::new().terminate().bytes());
    let left = wait_for_line(&plane, "reason=\"goodbye\"");
    let id = field(&left, "id");
    assert_eq!((field(&left, "user"), field(&left, "database")), (SUPERUSER, &*database), "{left}");
    assert!(
        number(&left, "requests") == 2 && number(&left, "bytes_in") > 20 && number(&left, "bytes_out") > 20,
        "{left}"
    );
    assert!(field(&left, "seconds").parse::<f64>().unwrap() >= 0.0);
    for event in ["a client connects", "a client is logged in"] {
        assert!(lines(&plane, event).iter().any(|line| field(line, "id") == id), "{event} {id}: {}", plane.said());
    }
    assert_eq!(plane.try_client("ann", &database, Some("opensesame")).unwrap_err().code, "28P01");
    let refused = wait_for_line(&plane, "reason=\"28P01 password authentication failed\"");
    assert_eq!((field(&refused, "user"), number(&refused, "requests")), ("ann", 0));
    plane.client(&database).hang_up();
    wait_for_line(&plane, "reason=\"hung up without a goodbye\"");
    let idle = plane.client(&database);
    wait_for_line(&plane, "reason=\"57P05 ");
    drop(idle);
    assert!(!plane.said().contains("sesame"), "{}", plane.said());
}

#[test]
fn nothing_of_clients_is_told_by_default() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).start();
    plane.client(&database).query("select 1").good();
    let (_, said) = plane.terminate();
    assert!(said.contains("stopped") && !said.contains("client is logged in") && !said.contains("leaves"), "{said}");
}

#[test]
fn every_line_of_a_json_log_is_an_object_whatever_clients_call_themselves() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).log_key("format", "json").log_key("connections", "on").start();
    let nasty = "no\"body\n{\"level\":\"error\"}\u{1b}[31m";
    assert!(plane.try_client(nasty, &database, Some("x")).is_err());
    wait_for_line(&plane, "28P01");
    plane.client(&database).query("select 1").good();
    let (_, said) = plane.terminate();
    let mut seen = Vec::new();
    for line in said.lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| unreachable!("{error}: {line}"));
        assert!(value["time"].is_string() && value["level"] == "info", "{line}");
        seen.push(value["message"].as_str().unwrap().to_owned());
        if value["message"] == "a client leaves" && value["reason"].as_str().unwrap().starts_with("28P01") {
            assert_eq!(value["user"], nasty);
            assert!(value["requests"].is_u64() && value["seconds"].is_number(), "{line}");
        }
    }
    for expected in ["ready for clients", "a client connects", "a client is logged in", "a client leaves", "stopped"] {
        assert!(seen.iter().any(|message| message == expected), "{expected}: {said}");
    }
}

#[test]
fn the_log_changes_while_it_runs() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).console("admin_users", &[SUPERUSER]).start();
    let mut console = plane.client("pgbouncer");
    for set in ["SET log.format = 'json'", "SET log_connections = '1'", "SET log.slow_statements = '100ms'"] {
        console.query(set).good();
    }
    plane.client(&database).query("select pg_sleep(0.2)").good();
    let slow = wait_for_line(&plane, "slow statement");
    let slow: serde_json::Value = serde_json::from_str(&slow).unwrap();
    assert_eq!((slow["statement"].as_str(), slow["rows"].as_u64()), (Some("select pg_sleep(?)"), Some(1)));
    wait_for_line(&plane, "a client leaves");
    console.query("SET log.slow_statements = 'off'").good();
    console.query("SET log.format = 'text'").good();
    assert_eq!(console.query("SET log.format = 'xml'").code(), "22023");
}

#[test]
fn slow_statements_without_texts_are_refused() {
    let said = Plane::before(Cluster::shared()).statements(0).log_key("slow_statements", "200ms").fail_to_start();
    assert!(said.contains("slow_statements") && said.contains("stats.statements is 0"), "{said}");
}
