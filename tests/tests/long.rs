//! Messages that are too long to be held: they pass through while they arrive.

use harness::{Cluster, Plane, Request, params};

fn plane_of_one() -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1).start()
}

/// Twenty megabytes of text.
fn twenty_megabytes() -> String {
    "0123456789abcdef".repeat(20 * 1024 * 1024 / 16)
}

#[test]
fn a_parameter_of_twenty_megabytes_arrives_whole() {
    let plane = plane_of_one();
    let long = twenty_megabytes();
    let mut client = plane.client("postgres");
    let reply = client.ask(&Request::new().extended("select length($1), md5($1)", &params(&[&long])));
    let expected = Cluster::shared().sql("select length(t), md5(t) from repeat('0123456789abcdef', 1310720) t");
    let row: Vec<String> = reply.good().rows().remove(0).into_iter().flatten().collect();
    assert_eq!(row.join("|"), expected);
    let reply = client.ask(&Request::new().extended("select $1", &params(&[&long])));
    assert!(reply.value() == long, "what came back is not what was sent");
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

#[test]
fn a_query_of_twenty_megabytes_arrives_whole() {
    let plane = plane_of_one();
    let long = twenty_megabytes();
    let mut client = plane.client("postgres");
    let reply = client.query(&format!("select length('{long}')"));
    assert_eq!(reply.good().value(), long.len().to_string());
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

#[test]
fn a_statement_of_twenty_megabytes_arrives_whole() {
    let plane = plane_of_one();
    let text = format!("select length('{}') + $1", twenty_megabytes());
    let mut client = plane.client("postgres");
    assert_eq!(client.ask(&Request::new().extended(&text, &params(&["1"]))).good().value(), "20971521");
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

#[test]
fn a_named_statement_too_long_to_be_kept_is_refused_in_words() {
    let plane = plane_of_one();
    let mut client = plane.client("postgres");
    let text = format!("select length('{}')", twenty_megabytes());
    let request = Request::new().parse("long", &text).sync();
    // it may hang up before it has read all
    let _sent: std::io::Result<()> = client.try_send(request.bytes());
    let error = client.farewell();
    assert!(error.message.contains("too long"), "{error:?}");
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

#[test]
fn long_messages_of_many_requests_in_a_row_keep_their_borders() {
    let plane = plane_of_one();
    let mut client = plane.client("postgres");
    for len in [16_370, 16_380, 16_384, 16_390, 65_530, 65_536, 70_000, 262_144, 1_000_000] {
        let long = "z".repeat(len);
        let request = Request::new()
            .extended("select length($1::text)", &params(&[&long]))
            .query(&format!("select length('{long}')"))
            .extended("select length($1::text) + 1", &params(&[&long]));
        client.send(request.bytes());
        let lengths = [client.reply().value(), client.reply().value(), client.reply().value()];
        assert_eq!(lengths, [len.to_string(), len.to_string(), (len + 1).to_string()]);
    }
}
