//! Drivers that people use, each through the data plane with a pool much smaller than the number of clients.
//!
//! Those of other languages are installed by `make deps`, beside their scripts in `drivers/`.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::program::run;
use harness::{Cluster, Plane};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, Row as _};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// A data plane before a database of its own, and its connection string.
fn plane(share: &str) -> (Plane, String, String) {
    let database = Cluster::shared().make_database();
    let plane =
        Plane::before(Cluster::shared()).pool("size", 4).pool("share", share).pool("query_wait_timeout", "10s").start();
    let uri = format!("postgres://postgres@127.0.0.1:{}/{database}", plane.port());
    (plane, database, uri)
}

fn drivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers")
}

/// Runs a driver's script with and without sharing.
fn try_driver(interpreter: &Path, script: &str, installed: &str) {
    assert!(drivers().join(installed).exists(), "the drivers are not installed; run make deps");
    for share in ["on", "off"] {
        let (plane, database, uri) = plane(share);
        let output = run(Command::new(interpreter).arg(drivers().join(script)).arg(&uri), b"");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success() && text(&output.stdout) == "done\n",
            "{script}, share = {share}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        plane.wait_until_pool_is_quiet(&database);
    }
}

#[test]
fn psycopg() {
    try_driver(&drivers().join("python/.venv/bin/python"), "python/psycopg_driver.py", "python/.venv/bin/python");
}

#[test]
fn asyncpg() {
    try_driver(&drivers().join("python/.venv/bin/python"), "python/asyncpg_driver.py", "python/.venv/bin/python");
}

#[test]
fn node_postgres() {
    try_driver(Path::new("node"), "node/pg_driver.js", "node/node_modules/pg");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn connect(uri: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(uri, NoTls).await.unwrap();
    tokio::spawn(async move { connection.await.unwrap() });
    client
}

async fn use_tokio_postgres(uri: &str) {
    let mut client = connect(uri).await;
    let statement = client.prepare("select $1::int4 + 1").await.unwrap();
    for number in 0..100_i32 {
        assert_eq!(client.query_one(&statement, &[&number]).await.unwrap().get::<_, i32>(0), number + 1);
    }
    // the driver writes them all before it reads the first answer
    let all = tokio::try_join!(
        client.query_one(&statement, &[&1_i32]),
        client.query_one("select $1::text || '!'", &[&"two"]),
        client.query_one(&statement, &[&3_i32]),
    );
    let (one, two, three) = all.unwrap();
    assert_eq!((one.get::<_, i32>(0), two.get::<_, &str>(0), three.get::<_, i32>(0)), (2, "two!", 4));
    let error = client.query_one("select 1 / $1::int4", &[&0_i32]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    client.batch_execute("create table t (a int4); insert into t select generate_series(1, 100)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("delete from t where a > $1", &[&50_i32]).await.unwrap();
    let portal = transaction.bind("select a from t order by a", &[]).await.unwrap();
    let portion = transaction.query_portal(&portal, 7).await.unwrap();
    assert_eq!(portion.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), (1..=7).collect::<Vec<_>>());
    transaction.rollback().await.unwrap();
    assert_eq!(client.query_one("select count(*) from t", &[]).await.unwrap().get::<_, i64>(0), 100);
    let token = client.cancel_token();
    let sleep = client.batch_execute("select pg_sleep(60)");
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(client.query_one(&statement, &[&5_i32]).await.unwrap().get::<_, i32>(0), 6);
}

async fn use_many_of_tokio_postgres(uri: &str) {
    let tasks: Vec<_> = (0..40_i32)
        .map(|number| {
            let uri = uri.to_owned();
            tokio::spawn(async move {
                let client = connect(&uri).await;
                let statement = client.prepare("select $1::int4, $2::text").await.unwrap();
                for round in 0..50 {
                    let text = format!("{number} {round}");
                    let row = client.query_one(&statement, &[&number, &text]).await.unwrap();
                    assert_eq!((row.get::<_, i32>(0), row.get::<_, String>(1)), (number, text));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn tokio_postgres_alone_and_in_a_crowd() {
    for share in ["on", "off"] {
        let (plane, database, uri) = plane(share);
        runtime().block_on(async {
            use_tokio_postgres(&uri).await;
            use_many_of_tokio_postgres(&uri).await;
        });
        plane.wait_until_pool_is_quiet(&database);
    }
}

async fn use_sqlx(uri: &str) {
    let options: PgConnectOptions = uri.parse().unwrap();
    let pool = PgPoolOptions::new().max_connections(20).connect_with(options).await.unwrap();
    pool.execute("create table t (a int4 primary key, b text)").await.unwrap();
    let tasks: Vec<_> = (0..100_i32)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let text = format!("text {number}");
                sqlx::query("insert into t values ($1, $2)").bind(number).bind(&text).execute(&pool).await.unwrap();
                for _ in 0..10 {
                    let query = sqlx::query("select a, b from t where a = $1").bind(number);
                    let row = query.fetch_one(&pool).await.unwrap();
                    assert_eq!((row.get::<i32, _>(0), row.get::<String, _>(1)), (number, text.clone()));
                }
                let taken = sqlx::query("insert into t values ($1, '')").bind(number).execute(&pool).await.unwrap_err();
                assert!(taken.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut connection = pool.acquire().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    transaction.execute("delete from t").await.unwrap();
    transaction.rollback().await.unwrap();
    let count: i64 = sqlx::query_scalar("select count(*) from t").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(count, 100);
    // more texts than the driver keeps prepared
    for number in 0..150 {
        let text = format!("select {number} + $1");
        let sum: i32 = sqlx::query_scalar(&text).bind(1_i32).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(sum, number + 1);
    }
    drop(connection);
    pool.close().await;
}

#[test]
fn sqlx_with_a_pool_of_its_own() {
    for share in ["on", "off"] {
        let (plane, database, uri) = plane(share);
        runtime().block_on(use_sqlx(&uri));
        plane.wait_until_pool_is_quiet(&database);
    }
}
