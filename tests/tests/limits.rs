//! Limits on how many there may be: clients, those who wait, server connections; and who gets one when there are too few.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::cluster::SUPERUSER;
use harness::{Cluster, ErrorReply, Plane, PlaneBuilder, RawClient, Request, wait_until};

/// Longest wait of somebody who is not starved.
const WAIT_MAX: Duration = Duration::from_secs(5);

fn before() -> PlaneBuilder {
    Plane::before(Cluster::shared()).cores("0,1").pool("query_wait_timeout", "30s")
}

fn begin() -> Request {
    Request::new().query("begin")
}

/// Connections of ours to a database, the one that reads its catalog left out.
fn connections(database: &str) -> u32 {
    let count = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and application_name <> 'optimacore catalog'"
    );
    Cluster::shared().sql(&count).trim().parse().unwrap_or_default()
}

fn assert_refused(refused: Result<RawClient, ErrorReply>, message: &str) {
    let error = refused.err().map(|error| (error.severity, error.code, error.message));
    assert_eq!(error, Some(("FATAL".to_owned(), "53300".to_owned(), message.to_owned())));
}

#[test]
fn clients_of_a_database_are_limited_exactly_whatever_core_they_are_on() {
    let database = Cluster::shared().make_database();
    let keys = [("dbname", database.clone().into()), ("max_client_connections", 3.into())];
    let plane = before().database("few", &keys).database("*", &[]).start();
    let (together, done) = (Barrier::new(12), Barrier::new(12));
    let admitted = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                together.wait();
                let client = plane.try_client(SUPERUSER, "few", None);
                admitted.fetch_add(u32::from(client.is_ok()), Ordering::Relaxed);
                done.wait();
                match client {
                    Ok(mut client) => assert_eq!(client.query("select 1").good().value(), "1"),
                    refused => {
                        assert_refused(
                            refused,
                            "too many connections for database \"few\" (max_client_connections = 3)",
                        );
                    }
                }
            });
        }
    });
    assert_eq!(admitted.load(Ordering::Relaxed), 3);
    // who leaves makes room, and other databases have room all the time
    let mut clients = Vec::new();
    wait_until("there is room again", || {
        clients.extend(plane.try_client(SUPERUSER, "few", None).ok());
        clients.len() == 3
    });
    assert!(plane.try_client(SUPERUSER, "few", None).is_err());
    assert_eq!(plane.client(&database).query("select 1").good().value(), "1");
    clients.pop();
    wait_until("there is room for one", || plane.try_client(SUPERUSER, "few", None).is_ok());
}

#[test]
fn clients_of_a_user_are_limited_and_who_is_refused_takes_no_place_in_its_database() {
    let database = Cluster::shared().make_database();
    let plane = before()
        .database("*", &[("max_client_connections", 3.into())])
        .user_trusted("ann")
        .user_key("max_client_connections", 1)
        .start();
    let mut ann = plane.try_client("ann", &database, None).ok();
    for _ in 0..5 {
        let refused = plane.try_client("ann", &database, None);
        assert_refused(refused, "too many connections for role \"ann\" (max_client_connections = 1)");
    }
    let others = [plane.client(&database), plane.client(&database)];
    let refused = plane.try_client(SUPERUSER, &database, None);
    assert_refused(refused, &format!("too many connections for database \"{database}\" (max_client_connections = 3)"));
    drop(others);
    assert_eq!(ann.as_mut().map(|ann| ann.query("select 1").good().value()), Some("1".to_owned()));
    drop(ann.take());
    wait_until("there is room for ann", || plane.try_client("ann", &database, None).is_ok());
}

#[test]
fn who_finds_the_queue_full_is_refused_at_once_and_goes_on_later() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("size", 1).pool("queue_max", 2).start();
    let mut holder = plane.client(&database);
    let mut clients: Vec<RawClient> = (0..6).map(|_| plane.client(&database)).collect();
    holder.query("begin").good();
    let (waiting, refused) = clients.split_at_mut(2);
    for (index, client) in (1..).zip(waiting.iter_mut()) {
        client.send(Request::new().query("select 'waited'").bytes());
        wait_until("it waits", || plane.pool(&database).clients_waiting == index);
    }
    for client in refused.iter_mut() {
        for request in [Request::new().query("select 1"), Request::new().extended("select 1", &[])] {
            let began = Instant::now();
            let reply = client.ask(&request);
            assert!(began.elapsed() < WAIT_MAX);
            assert_eq!((reply.code().as_str(), reply.status()), ("53300", 'I'));
            assert!(
                reply.error().is_some_and(|error| error.severity == "ERROR" && error.message.contains("queue_max = 2"))
            );
        }
    }
    assert_eq!(plane.pool(&database).clients_waiting, 2);
    holder.query("commit").good();
    for client in waiting {
        assert_eq!(client.reply().good().value(), "waited");
    }
    for client in refused {
        assert_eq!(client.query("select 'served'").good().value(), "served");
    }
    plane.wait_until_pool_is_quiet(&database);
    assert_eq!(connections(&database), 1);
}

#[test]
fn a_pool_is_kept_warm_and_warmed_again_when_its_connections_are_lost() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("size", 4).pool("min_pool_size", 3).pool("server_idle_timeout", "100ms").start();
    let mut client = plane.client(&database);
    assert_eq!(client.query("select 1").good().value(), "1");
    wait_until("the pool is warm", || plane.pool(&database).servers_idle == 3);
    let before = plane.pool(&database).connects;
    let began = Instant::now();
    wait_until("it has been idle for long", || began.elapsed() > Duration::from_secs(3));
    assert_eq!((plane.pool(&database).connects, connections(&database)), (before, 3));
    Cluster::shared().sql(&format!(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{database}' and application_name <> 'optimacore catalog'"
    ));
    wait_until("the pool is warm again", || plane.pool(&database).servers_idle == 3);
    assert_eq!(client.query("select 1").good().value(), "1");
    assert!(connections(&database) <= 4);
}

#[test]
fn the_reserve_is_for_those_who_have_waited_and_is_given_back() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("size", 1).pool("reserve_pool_size", 2).pool("reserve_pool_timeout", "200ms").start();
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    let began = Instant::now();
    for client in &mut clients {
        client.send(begin().bytes());
    }
    wait_until("size and reserve are in use", || plane.pool(&database).servers_exclusive == 3);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    let began = Instant::now();
    wait_until("the fourth has waited for longer", || began.elapsed() > Duration::from_millis(500));
    let pool = plane.pool(&database);
    assert_eq!((pool.servers_exclusive, pool.clients_waiting, pool.permits_held), (3, 1, 3));
    assert_eq!(connections(&database), 3);
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                client.reply().good();
                client.query("commit").good();
            });
        }
    });
    wait_until("the reserve is given back", || plane.pool(&database).permits_held == 1);
    wait_until("its connections are closed", || connections(&database) == 1);
    assert_eq!(clients.iter_mut().map(|client| client.query("select 1").good().value()).collect::<String>(), "1111");
}

#[test]
fn an_idle_connection_of_another_pool_makes_room_for_who_waits() {
    let database = Cluster::shared().make_database();
    // one of them reads the catalog
    let keys = [("dbname", database.clone().into()), ("max_connections", 3.into())];
    let plane = before().database("few", &keys).pool("share", "off").user_trusted("ann").user_trusted("bob").start();
    for round in 0..4 {
        for user in ["ann", "bob"] {
            // on both cores
            let clients: Vec<RawClient> = (0..4).filter_map(|_| plane.try_client(user, "few", None).ok()).collect();
            assert_eq!(clients.len(), 4, "{user} in round {round}");
            std::thread::scope(|scope| {
                for mut client in clients {
                    scope.spawn(move || {
                        for _ in 0..3 {
                            let began = Instant::now();
                            client.query("begin").good();
                            assert!(began.elapsed() < WAIT_MAX, "{user} in round {round}: {:?}", began.elapsed());
                            client.query("commit").good();
                        }
                    });
                }
            });
            assert!(connections(&database) <= 3);
        }
    }
}

#[test]
fn shards_lend_each_other_what_their_database_may_not_have_twice() {
    let database = Cluster::shared().make_database();
    let keys = [("dbname", database.clone().into()), ("max_connections", 2.into())];
    let plane = before().database("few", &keys).pool("share", "off").pool("size", 4).start();
    // one of the two may be the reader of the catalog's; new clients go to the shard that has fewer
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client("few")).collect();
    for round in 0..25 {
        for client in &mut clients {
            let began = Instant::now();
            assert_eq!(client.query("select 1").good().value(), "1");
            assert!(began.elapsed() < WAIT_MAX, "round {round}: {:?}", began.elapsed());
        }
    }
    let pool = plane.pool("few");
    assert!(pool.connects < 10, "connections move, they are not made anew: {pool:?}");
    assert!(connections(&database) <= 2);
}

/// Clients of this user that leave no connection idle, until it is over.
fn keep_busy(plane: &Plane, user: &str, over: &AtomicBool) {
    let Ok(mut client) = plane.try_client(user, "few", None) else { return };
    while !over.load(Ordering::Relaxed) {
        client.query("begin").good();
        client.query("select pg_sleep(0.005)").good();
        client.query("commit").good();
    }
}

#[test]
fn a_busy_pool_starves_no_other_pool_of_its_database() {
    let database = Cluster::shared().make_database();
    let keys = [("dbname", database.clone().into()), ("max_connections", 3.into())];
    let plane = before().database("few", &keys).user_trusted("ann").user_trusted("bob").user_trusted("cyd").start();
    let over = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| keep_busy(&plane, "ann", &over));
        }
        wait_until("all connections are in use", || {
            plane.stats().pools_total().iter().any(|pool| pool.user == "ann" && pool.clients_waiting > 3)
        });
        let others: Vec<_> = ["bob", "cyd"]
            .into_iter()
            .map(|user| {
                let plane = &plane;
                scope.spawn(move || {
                    let began = Instant::now();
                    let mut longest = Duration::ZERO;
                    let client = plane.try_client(user, "few", None);
                    longest = longest.max(began.elapsed());
                    let Ok(mut client) = client else { return Duration::MAX };
                    for _ in 0..5 {
                        let began = Instant::now();
                        client.query("begin").good();
                        client.query("commit").good();
                        longest = longest.max(began.elapsed());
                    }
                    longest
                })
            })
            .collect();
        let longest = others.into_iter().filter_map(|other| other.join().ok()).max();
        over.store(true, Ordering::Relaxed);
        longest
    });
    assert!(longest.is_some_and(|longest| longest < WAIT_MAX), "{longest:?}");
    assert!(connections(&database) <= 3);
}

#[test]
fn server_connections_of_a_user_are_limited_over_all_its_pools() {
    let (one, two) = (Cluster::shared().make_database(), Cluster::shared().make_database());
    let plane = before().user_trusted("ann").user_key("max_server_connections", 1).start();
    let (Ok(mut first), other) = (plane.try_client("ann", &one, None), plane.try_client("ann", &two, None)) else {
        return assert!(plane.said().is_empty(), "ann is let in");
    };
    let Ok(mut second) = other else { return assert!(plane.said().is_empty(), "ann is let in") };
    for _ in 0..3 {
        first.query("begin").good();
        second.send(begin().bytes());
        wait_until("the second one waits", || plane.stats().shards_total().clients_waiting == 1);
        assert_eq!(connections(&one) + connections(&two), 1);
        // those of others are not concerned
        assert_eq!(plane.client("postgres").query("select 1").good().value(), "1");
        first.query("commit").good();
        second.reply().good();
        wait_until("the first one's connection is gone", || connections(&one) == 0);
        second.query("commit").good();
    }
}
