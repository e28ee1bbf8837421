//! Shards lend each other permits, and a pool never grows beyond its size.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::{Cluster, Plane, RawClient};

/// Bits of a process id below the shard's number.
const SHARD_SHIFT: u32 = 23;

#[test]
fn clients_of_one_shard_may_use_nearly_the_whole_pool() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").pool("size", 6).start();
    let clients: Vec<RawClient> = (0..16).map(|_| plane.client(&database)).collect();
    // shards have equally many clients; those of one begin transactions, the others rest
    let mut of_one: Vec<RawClient> =
        clients.into_iter().filter(|client| client.key().0 >> SHARD_SHIFT == 0).take(5).collect();
    assert_eq!(of_one.len(), 5);
    for client in &mut of_one {
        client.query("begin").good();
    }
    let pool = plane.pool(&database);
    assert_eq!(pool.servers_exclusive, 5);
    assert_eq!(pool.permits_held, 6);
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
