//! Nothing lost, nothing twice, nothing out of order, while channels move to and fro all the time.

use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Cluster, Plane, RawClient, Request};

use crate::{hear, heard_in};

/// Listens and does things that move its channels; gives how many numbers it has heard, which are all, each once, in order.
fn listen_to_all(client: &mut RawClient, seed: u64, over: &AtomicBool, last: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut next = 1;
    let mut take = |number: &str| {
        assert_eq!(number, next.to_string(), "seed {seed}");
        next += 1;
        next > last
    };
    loop {
        let text = match rng.u8(..8) {
            0 => "begin; select 1; commit",
            1 => "listen also",
            2 => "select pg_listening_channels()",
            3 => "do $$ begin perform 1; end $$",
            4 => "begin; unlisten numbers; rollback",
            5 => "select 1",
            6 => "select count(*) from pg_class",
            _ => {
                // waits for what comes
                if over.load(Ordering::Acquire) {
                    loop {
                        if take(&hear(client).2) {
                            return;
                        }
                    }
                }
                "select pg_sleep(0.002)"
            }
        };
        client.send(Request::new().query(text).bytes());
        let reply = client.reply().good();
        for (_, _, payload) in heard_in(&reply) {
            if take(&payload) {
                return;
            }
        }
    }
}

fn tell(database: &str, count: usize) {
    let mut teller =
        RawClient::connect(Cluster::shared().port(), &[("user", "postgres"), ("database", database)], None).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut number = 0;
    while number < count {
        let mut text = String::from("begin;");
        for _ in 0..rng.usize(1..4).min(count - number) {
            number += 1;
            text.push_str(&format!("notify numbers, '{number}';"));
        }
        text.push_str("commit");
        teller.query(&text).good();
    }
}

fn move_about(plane: &Plane, database: &str, listeners: u64, count: usize) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut all: Vec<RawClient> = (0..listeners).map(|_| plane.client(database)).collect();
        for client in &mut all {
            client.query("listen numbers").good();
        }
        let threads: Vec<_> = all
            .into_iter()
            .zip(0..)
            .map(|(mut client, seed)| {
                let over = &over;
                scope.spawn(move || listen_to_all(&mut client, seed, over, count))
            })
            .collect();
        tell(database, count);
        over.store(true, Ordering::Release);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn every_number_is_heard_once_and_in_order_by_sessions_that_share_one_connection() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    move_about(&plane, &database, 3, 3000);
    assert!(plane.pool(&database).listens_moved > 30, "{}", plane.pool(&database).listens_moved);
}

#[test]
fn every_number_is_heard_once_and_in_order_on_all_cores() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("size", 3).start();
    move_about(&plane, &database, 8, 3000);
    assert!(plane.pool(&database).listens_moved > 30, "{}", plane.pool(&database).listens_moved);
}
