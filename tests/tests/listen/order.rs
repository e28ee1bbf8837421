//! Nothing lost, nothing twice, nothing out of order, while channels move to and fro all the time.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Cluster, Plane, RawClient, Request};

use crate::{hear, heard_in};

/// Who hears numbers.
struct Count {
    seed: u64,
    next: usize,
}

impl Count {
    /// Gives whether it is over.
    fn take(&mut self, payload: &str) -> bool {
        if payload == "end" {
            return true;
        }
        assert_eq!(payload, self.next.to_string(), "seed {}", self.seed);
        self.next += 1;
        false
    }
}

/// Listens and does things that move its channels, and waits now and then; gives how many numbers it has heard.
fn listen_to_all(client: &mut RawClient, seed: u64, over: &AtomicBool) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut count = Count { seed, next: 1 };
    loop {
        if over.load(Ordering::Acquire) {
            while !count.take(&hear(client).2) {}
            return count.next - 1;
        }
        let text = match rng.u8(..8) {
            0 => "begin; select 1; commit",
            1 => "listen also",
            2 => "select pg_listening_channels()",
            3 => "do $$ begin perform 1; end $$",
            4 => "begin; unlisten numbers; rollback",
            5 => "select 1",
            6 => "select count(*) from pg_class",
            _ => "select pg_sleep(0.002)",
        };
        client.send(Request::new().query(text).bytes());
        for (_, _, payload) in heard_in(&client.reply().good()) {
            if count.take(&payload) {
                return count.next - 1;
            }
        }
    }
}

/// Tells numbers until channels have moved so often; gives how many.
fn tell(plane: &Plane, database: &str, moves: u64) -> usize {
    let direct = [("user", "postgres"), ("database", database)];
    let mut teller = RawClient::connect(Cluster::shared().port(), &direct, None).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut number = 0;
    while number < 2000 || plane.pool(database).listens_moved < moves {
        for _ in 0..50 {
            let mut text = String::from("begin;");
            for _ in 0..rng.usize(1..4) {
                number += 1;
                write!(text, "notify numbers, '{number}';").unwrap();
            }
            text.push_str("commit");
            teller.query(&text).good();
        }
    }
    number
}

fn move_about(plane: &Plane, database: &str, listeners: u64, moves: u64) {
    let over = AtomicBool::new(false);
    let mut all: Vec<RawClient> = (0..listeners).map(|_| plane.client(database)).collect();
    for client in &mut all {
        client.query("listen numbers").good();
    }
    std::thread::scope(|scope| {
        let over = &over;
        let threads: Vec<_> = all
            .into_iter()
            .zip(0..)
            .map(|(mut client, seed)| scope.spawn(move || listen_to_all(&mut client, seed, over)))
            .collect();
        let told = tell(plane, database, moves);
        over.store(true, Ordering::Release);
        Cluster::shared().sql_in(database, "notify numbers, 'end'");
        for thread in threads {
            assert_eq!(thread.join().unwrap(), told);
        }
    });
}

#[test]
fn every_number_is_heard_once_and_in_order_by_sessions_that_share_one_connection() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    move_about(&plane, &database, 3, 100);
}

#[test]
fn every_number_is_heard_once_and_in_order_on_all_cores() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("size", 3).start();
    move_about(&plane, &database, 8, 200);
}
