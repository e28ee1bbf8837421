//! Shards lend each other permits, and a pool never grows beyond its size.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::{Cluster, Plane, RawClient, Request};

/// Bits of a process id below the shard's number.
const SHARD_SHIFT: u32 = 23;

/// Sixteen clients, of which those of the first shard.
fn clients_of_first_shard(plane: &Plane, database: &str) -> Vec<RawClient> {
    let clients: Vec<RawClient> = (0..16).map(|_| plane.client(database)).collect();
    // shards have equally many clients
    let of_first: Vec<RawClient> = clients.into_iter().filter(|client| client.key().0 >> SHARD_SHIFT == 0).collect();
    assert_eq!(of_first.len(), 8);
    of_first
}

#[test]
fn clients_of_one_shard_may_use_the_whole_pool() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 6).start();
    let mut clients = clients_of_first_shard(&plane, &database);
    for client in clients.iter_mut().take(6) {
        client.query("begin").good();
    }
    let pool = plane.pool(&database);
    assert_eq!(pool.servers_exclusive, 6);
    assert_eq!(pool.permits_held, 6);
}

#[test]
fn nobody_waits_for_a_long_transaction_while_another_shard_has_a_free_connection() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 2).pool("query_wait_timeout", "5s").start();
    let mut of_first = clients_of_first_shard(&plane, &database);
    let mut of_second: Vec<RawClient> =
        (0..16).map(|_| plane.client(&database)).filter(|client| client.key().0 >> SHARD_SHIFT == 1).collect();
    assert!(!of_second.is_empty(), "new clients go where there are fewer");
    // the other shard's connection is made, and prepared statements and settings are on it
    for client in &mut of_second {
        client.query("set application_name = 'second'").good();
        client.ask(&Request::new().parse("s", "select 2").run("s", &[])).good();
    }
    let mut long = of_first.pop().unwrap();
    long.query("begin").good();
    long.query("select 1").good();
    for round in 0..50 {
        for client in &mut of_first {
            assert_eq!(client.query("select 1 + 1").value(), "2", "round {round}");
            assert_eq!(client.query("show application_name").value(), "test");
        }
        // and back, with what its own clients had there
        for client in &mut of_second {
            assert_eq!(client.query("show application_name").value(), "second");
            assert_eq!(client.ask(&Request::new().run("s", &[])).value(), "2");
        }
    }
    let pool = plane.pool(&database);
    assert!(pool.requests_relayed > 0, "{pool:?}");
    assert_eq!(pool.connects, 2, "connections move, none is made anew");
    long.query("commit").good();
    plane.wait_until_pool_is_quiet(&database);
    assert_eq!(plane.pool(&database).permits_held, 2);
}

#[test]
fn a_pool_never_exceeds_its_size_while_permits_move() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 4).start();
    let (over, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..12)
            .map(|number: u64| {
                let (plane, database) = (&plane, &database);
                scope.spawn(move || {
                    let mut client = plane.client(database);
                    for round in 0..40 {
                        client.query("begin").good();
                        // work on one shard, then on the other
                        let nap = if (number + round / 10).is_multiple_of(2) { "0.002" } else { "0" };
                        client.query(&format!("select pg_sleep({nap})")).good();
                        client.query("commit").good();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let count = format!(
                "select count(*) from pg_stat_activity where datname = '{database}' and application_name <> 'optimacore catalog'"
            );
            while !over.load(Ordering::Relaxed) {
                let seen: u64 = Cluster::shared().sql(&count).trim().parse().unwrap();
                most.fetch_max(seen, Ordering::Relaxed);
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    let most = most.load(Ordering::Relaxed);
    assert!((1..=4).contains(&most), "{most} server connections");
}
