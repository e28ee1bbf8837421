//! Many who listen, and some who do not read.

use std::time::Instant;

use harness::{Cluster, Plane, RawClient, wait_until};

use crate::{hear, hear_payload, notify, wait_until_moved};

/// Who is at work in this database besides whoever asks.
fn backends(database: &str, condition: &str) -> u64 {
    let text = format!("select count(*) from pg_stat_activity where datname = '{database}' and {condition}");
    Cluster::shared().sql(&text).parse().unwrap()
}

#[test]
fn a_thousand_listeners_cost_one_connection() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("size", 4).start();
    let mut listeners: Vec<RawClient> = (0..1000)
        .map(|number| {
            let mut client = plane.client(&database);
            client.query(&format!("listen news; listen of_{}", number % 10)).good();
            client
        })
        .collect();
    wait_until_moved(&plane, &database, 1000);
    assert_eq!(backends(&database, "application_name = 'optimacore listener'"), 1);
    for round in 0..3 {
        let began = Instant::now();
        notify(&database, "news", &round.to_string());
        notify(&database, "of_7", "some");
        for (number, client) in listeners.iter_mut().enumerate() {
            assert_eq!(hear_payload(client), round.to_string());
            if number % 10 == 7 {
                assert_eq!(hear(client).1, "of_7");
            }
        }
        println!("1,000 listeners have heard within {:?}", began.elapsed());
        assert_eq!(backends(&database, "application_name = 'optimacore listener'"), 1);
        assert!(backends(&database, "backend_type = 'client backend'") <= 6, "pool, catalog and line");
    }
    let pool = plane.pool(&database);
    assert_eq!((pool.servers_pinned, pool.notifications), (0, 3 * 1100));
    drop(listeners);
    wait_until_moved(&plane, &database, 0);
}

#[test]
fn who_does_not_read_is_ended_and_nobody_waits_for_it() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("size", 2).start();
    let mut slow = plane.client(&database);
    let mut quick = plane.client(&database);
    for client in [&mut slow, &mut quick] {
        client.query("listen news").good();
    }
    wait_until_moved(&plane, &database, 2);
    let before = plane.memory_len();
    let mut heard = 0;
    wait_until("the slow one is ended", || {
        Cluster::shared()
            .sql_in(&database, "select pg_notify('news', repeat('x', 7000) || n) from generate_series(1, 200) n");
        for _ in 0..200 {
            assert_eq!(hear(&mut quick).1, "news");
            heard += 1;
        }
        plane.pool(&database).clients_listening == 1
    });
    assert!(plane.memory_len() < before + 64 * 1024 * 1024);
    let messages = slow.receive_to_end();
    let last = messages.last().unwrap();
    let error = harness::ErrorReply::read(&last.body);
    assert_eq!((last.tag, error.severity.as_str(), error.code.as_str()), (b'E', "FATAL", "53400"), "{last:?}");
    assert!(messages.iter().rev().skip(1).all(|message| message.tag == b'A') && messages.len() <= heard);
    notify(&database, "news", "on it goes");
    assert_eq!(hear_payload(&mut quick), "on it goes");
    let limits = plane.pool(&database).limits;
    assert!(limits.iter().any(|limit| limit.limit == "notifications" && limit.count == 1), "{limits:?}");
}

#[test]
fn the_line_is_beside_the_pool() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut listener = plane.client(&database);
    listener.query("listen news").good();
    wait_until_moved(&plane, &database, 1);
    // the only connection of the pool is somebody else's
    let mut busy = plane.client(&database);
    busy.query("begin").good();
    notify(&database, "news", "beside the pool");
    assert_eq!(hear_payload(&mut listener), "beside the pool");
    busy.query("commit").good();
}
