//! The bound on all buffers together.

use harness::{Cluster, Plane, RawClient, Request, wait_until};

/// How often the bound closed a session.
fn closed(plane: &Plane, database: &str) -> u64 {
    plane.pool(database).limits.iter().find(|count| count.limit == "memory").map_or(0, |count| count.count)
}

#[test]
fn of_slow_readers_some_are_closed_and_the_others_get_all_they_asked_for() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 40).limit("memory", "1MiB").start();
    let mut bystander = plane.client(&database);
    // each of them holds at least 64 KiB back, and more than all sockets on the way could swallow is to come
    let mut slow: Vec<RawClient> = (0..30).map(|_| plane.client(&database)).collect();
    for client in &mut slow {
        client.send(Request::new().query("select repeat('x', 1000) from generate_series(1, 16000)").bytes());
    }
    wait_until("several are closed", || {
        assert_eq!(bystander.query("select 'served'").good().value(), "served");
        closed(&plane, &database) >= 10
    });
    let whole = slow.iter_mut().filter_map(RawClient::reply_unless_cut).map(|reply| reply.good().rows().len());
    let whole: Vec<usize> = whole.collect();
    assert!(whole.iter().all(|rows| *rows == 16_000), "{whole:?}");
    assert_eq!(whole.len() as u64 + closed(&plane, &database), 30);
    assert!(!whole.is_empty());
    drop(slow);
    plane.wait_until_pool_is_quiet(&database);
    // there is room again
    let before = closed(&plane, &database);
    let much = bystander.query("select repeat('x', 1000) from generate_series(1, 16000)").good();
    assert_eq!((much.rows().len(), closed(&plane, &database)), (16_000, before));
}

#[test]
fn the_session_that_has_sent_most_is_told_why_it_is_closed() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 8).limit("memory", "1MiB").start();
    let text = |len: usize| format!("select '{}'", "x".repeat(len));
    let mut small: Vec<(RawClient, Request)> =
        (0..3).map(|_| (plane.client(&database), Request::new().parse("s", &text(80_000)).sync())).collect();
    // a statement that is to be kept is held until it is whole
    for (client, request) in &mut small {
        client.send(request.bytes().get(..60_000).unwrap_or_default());
    }
    wait_until("they have been read", || plane.pool(&database).servers_exclusive == 3);
    let mut large = plane.client(&database);
    let request = Request::new().parse("s", &text(4_000_000)).sync();
    // the server may hang up while it is being sent to
    let _sent: std::io::Result<()> = large.try_send(request.bytes());
    wait_until("one is closed", || closed(&plane, &database) == 1);
    for (client, request) in &mut small {
        client.send(request.bytes().get(60_000..).unwrap_or_default());
        client.reply().good();
        assert_eq!(client.ask(&Request::new().run("s", &[])).good().value().len(), 80_000);
    }
    assert_eq!(closed(&plane, &database), 1);
    // one that has stopped sending hears the reason
    let part = |client: &mut RawClient, len| client.send(request.bytes().get(..len).unwrap_or_default());
    let (mut most, mut less, mut last) = (plane.client(&database), plane.client(&database), plane.client(&database));
    part(&mut most, 500_000);
    part(&mut less, 290_000);
    wait_until("they have been read", || plane.stats().shards_total().buffer_bytes >= 790_000);
    // shards tell each other in steps of 64 KiB
    part(&mut last, 420_000);
    let error = most.farewell();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53200"));
    assert_eq!(closed(&plane, &database), 2);
    less.send(request.bytes().get(290_000..400_000).unwrap_or_default());
    plane.client(&database).query("select 1").good();
    assert_eq!(closed(&plane, &database), 2);
}
