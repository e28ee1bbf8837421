//! pgbench through the data plane: no statement fails, and the balances add up afterwards.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::program::run_well;
use harness::{Cluster, Plane};

/// Transactions of each of the eight clients of a run.
const TRANSACTIONS: &str = "150";

/// Runs pgbench and sees to it that it did everything it was asked to.
fn bench(plane: &Plane, database: &str, arguments: &[&str]) {
    let mut command = plane.program("pgbench");
    // a thread for each client: it blocks while it prepares, and meanwhile must not keep others from ending transactions
    let text = run_well(command.args(arguments).args(["-n", "-c", "8", "-j", "8"]).arg(database), b"");
    let wanted = arguments.iter().skip_while(|word| **word != "-t").nth(1).unwrap().parse::<u32>().unwrap() * 8;
    let done = format!("number of transactions actually processed: {wanted}/{wanted}");
    assert!(text.contains(&done) && text.contains("number of failed transactions: 0 "), "{arguments:?}: {text}");
}

/// What all tables say the sum of all changes is.
fn assert_that_balances_add_up(database: &str) {
    let sums = Cluster::shared().sql_in(
        database,
        "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
            (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(sums.windows(2).all(|pair| pair.first() == pair.last()), "{sums:?}");
}

fn accounts_after(share: &str, protocol: &str) {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("share", share).pool("size", 5).start();
    run_well(plane.program("pgbench").args(["-i", "-q", "-s", "2", &database]), b"");
    bench(&plane, &database, &["-S", "-M", protocol, "-t", TRANSACTIONS]);
    bench(&plane, &database, &["-b", "tpcb-like", "-M", protocol, "-t", TRANSACTIONS]);
    assert_that_balances_add_up(&database);
    bench(&plane, &database, &["-S", "-C", "-M", protocol, "-t", "20"]);
    let rows = Cluster::shared().sql_in(&database, "select count(*) from pgbench_history");
    assert_eq!(rows, (8 * TRANSACTIONS.parse::<u32>().unwrap()).to_string());
    // -N changes accounts and history only
    bench(&plane, &database, &["-N", "-M", protocol, "-t", TRANSACTIONS]);
    let accounts = Cluster::shared().sql_in(
        &database,
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)",
    );
    assert_eq!(accounts, "t");
    plane.wait_until_pool_is_quiet(&database);
    assert!(plane.pool(&database).permits_held <= 5);
}

#[test]
fn simple_protocol_with_sharing() {
    accounts_after("on", "simple");
}

#[test]
fn simple_protocol_without_sharing() {
    accounts_after("off", "simple");
}

#[test]
fn extended_protocol_with_sharing() {
    accounts_after("on", "extended");
}

#[test]
fn extended_protocol_without_sharing() {
    accounts_after("off", "extended");
}

#[test]
fn prepared_statements_with_sharing() {
    accounts_after("on", "prepared");
}

#[test]
fn prepared_statements_without_sharing() {
    accounts_after("off", "prepared");
}

#[test]
fn pipelines_of_pgbench_run() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("size", 2).start();
    plane.sql(&database, "create table counter (a int);\ninsert into counter values (0);\n");
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    let text = "\\startpipeline\nselect 1;\nupdate counter set a = a + 1;\nselect a from counter;\n\\endpipeline\n";
    std::fs::write(&script, text).unwrap();
    for protocol in ["extended", "prepared"] {
        bench(&plane, &database, &["-f", &script.display().to_string(), "-M", protocol, "-t", "50"]);
    }
    assert_eq!(plane.sql(&database, "select a from counter"), "800");
}

#[test]
fn more_clients_than_server_connections_take_turns() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    run_well(plane.program("pgbench").args(["-i", "-q", &database]), b"");
    bench(&plane, &database, &["-b", "tpcb-like", "-M", "prepared", "-t", "40"]);
    bench(&plane, &database, &["-b", "select-only", "-M", "prepared", "-t", "100"]);
    assert_that_balances_add_up(&database);
    assert_eq!(plane.pool(&database).permits_held, 1);
}
