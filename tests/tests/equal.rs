//! Drivers and object mappers with the settings they come with: each does the same work on PostgreSQL itself and through a pool
//! of two connections, and must see the same.
//!
//! What is not Rust is installed by `make deps`.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;

use dbproto::auth::server::build_scram_verifier;
use harness::certificate::{Authority, Files, Wanted};
use harness::program::run;
use harness::{Cluster, Plane};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, NoTls, Statement};

fn drivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers")
}

/// What a program says that works there.
fn said(command: &mut Command, port: u16, database: &str, login: &str) -> String {
    command.env("PORT", port.to_string()).env("DATABASE", database).env("LOGIN", login);
    let output = run(command, b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(database, "DATABASE");
    let (said, complaints) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.ends_with("done\n"), "{command:?}: {said}{complaints}");
    said
}

/// Has a program work directly and through a pool of two; then it logs in by SCRAM and TLS.
fn sees_the_same(program: impl Fn() -> Command) {
    let cluster = Cluster::shared();
    let expected = said(&mut program(), cluster.port(), &cluster.make_database(), "trust");
    let (authority, files) = (Authority::new("the tests' authority"), Files::new());
    let identity = authority.sign(&Wanted { common_name: "localhost", names: &["localhost"], ..Wanted::default() });
    let (certificate, key) = files.put_identity("plane", &identity);
    let plane = Plane::before(cluster)
        .pool("size", 2)
        .listen_tls("prefer", &[("certificate", &certificate), ("key", &key)])
        .user_named("alice")
        // as many rounds of hashing as JDBC insists on
        .user_key("password", build_scram_verifier("secret", b"of these tests", 4096))
        .start();
    let database = cluster.make_database();
    let seen = said(&mut program(), plane.port(), &database, "trust");
    for (seen, expected) in seen.lines().zip(expected.lines()) {
        assert_eq!(seen, expected);
    }
    assert_eq!(seen.len(), expected.len());
    plane.wait_until_pool_is_quiet(&database);
    assert!(said(&mut program(), plane.port(), &database, "scram").starts_with("logged in"));
}

fn python(script: &str) -> impl Fn() -> Command {
    let interpreter = drivers().join("python/.venv/bin/python");
    assert!(interpreter.exists(), "the drivers are not installed; run make deps");
    let script = drivers().join("python").join(script);
    move || {
        let mut command = Command::new(&interpreter);
        command.arg(&script);
        command
    }
}

#[test]
fn jdbc() {
    let jar = "/usr/share/java/postgresql.jar";
    assert!(Path::new(jar).exists(), "the driver is not installed; run make deps");
    sees_the_same(|| {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-cp", jar]).arg(drivers().join("java/JdbcDriver.java"));
        command
    });
}

#[test]
fn django() {
    sees_the_same(python("django_orm.py"));
}

#[test]
fn sqlalchemy_over_psycopg_and_asyncpg() {
    sees_the_same(python("sqlalchemy_orm.py"));
}

#[test]
fn postgres_js() {
    assert!(drivers().join("node/node_modules/postgres").exists(), "the driver is not installed; run make deps");
    sees_the_same(|| {
        let mut command = Command::new("node");
        command.arg(drivers().join("node/postgres_js.js"));
        command
    });
}

/// What the engine of an object mapper like Prisma does: everything is prepared by name, and the statements used least are given up.
struct Engine {
    client: Client,
    statements: VecDeque<(String, Statement)>,
}

const STATEMENTS_MAX: usize = 20;

impl Engine {
    async fn connect(port: u16, database: &str) -> Self {
        let uri = format!("postgres://postgres@127.0.0.1:{port}/{database}");
        let (client, connection) = tokio_postgres::connect(&uri, NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { client, statements: VecDeque::new() }
    }

    async fn statement(&mut self, text: &str) -> Result<Statement, Error> {
        let known = self.statements.iter().position(|(other, _)| other == text);
        let (text, statement) = match known.and_then(|at| self.statements.remove(at)) {
            Some(known) => known,
            None => (text.to_owned(), self.client.prepare(text).await?),
        };
        if self.statements.len() >= STATEMENTS_MAX {
            // the driver closes it when it is dropped
            self.statements.pop_front();
        }
        self.statements.push_back((text, statement.clone()));
        Ok(statement)
    }

    async fn numbers(&mut self, text: &str, value: i64) -> Result<Vec<i64>, Error> {
        let statement = self.statement(text).await?;
        Ok(self.client.query(&statement, &[&value]).await?.iter().map(|row| row.get(0)).collect())
    }

    async fn raw(&self, text: &str) -> String {
        match self.client.batch_execute(text).await {
            Ok(()) => "done".to_owned(),
            Err(error) => code(&error),
        }
    }
}

fn code(error: &Error) -> String {
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

/// Only one at a time migrates, each step as a script of many statements.
async fn migrate(port: u16, database: &str) -> Vec<String> {
    let (first, second) = (Engine::connect(port, database).await, Engine::connect(port, database).await);
    let mut out = vec![first.raw("SELECT pg_advisory_lock(72707369)").await];
    out.push(second.raw("SET lock_timeout = '300ms'").await);
    out.push(second.raw("SELECT pg_advisory_lock(72707369)").await);
    let steps = "CREATE TABLE _migrations (name text primary key, applied timestamptz default now());
        CREATE TABLE items (id bigint primary key, owner bigint not null, size bigint not null);
        CREATE INDEX items_owner ON items (owner);
        INSERT INTO items SELECT n, n % 10, n * 2 FROM generate_series(1, 200) n;
        INSERT INTO _migrations (name) VALUES ('first');";
    out.push(first.raw(steps).await);
    out.push(first.raw("BEGIN; ALTER TABLE items ADD COLUMN extra text; SELECT 1 / 0; COMMIT;").await);
    out.push(first.raw("ROLLBACK").await);
    out.push(first.raw("ALTER TABLE items ADD COLUMN note text DEFAULT 'none'").await);
    out.push(first.raw("SELECT pg_advisory_unlock(72707369)").await);
    out.push(second.raw("SELECT pg_advisory_lock(72707369)").await);
    out.push(second.raw("SELECT pg_advisory_unlock(72707369)").await);
    out
}

/// Many texts, several of them on their way at once, and transactions between them.
async fn work(port: u16, database: String, number: i64) -> Vec<String> {
    let mut engine = Engine::connect(port, &database).await;
    let mut out = Vec::new();
    for round in 0..60 {
        let text = format!("SELECT size + {} FROM items WHERE owner = $1 AND id < 30 ORDER BY id", round % 30);
        out.push(format!("{:?}", engine.numbers(&text, number).await.unwrap()));
    }
    let one = engine.statement("SELECT count(*) FROM items WHERE owner = $1").await.unwrap();
    let sum = engine.statement("SELECT sum(size)::bigint FROM items WHERE id <= $1").await.unwrap();
    let (first, last) = (number + 1, number + 2);
    let values: [[&(dyn ToSql + Sync); 1]; 3] = [[&number], [&first], [&last]];
    let all = tokio::try_join!(
        engine.client.query_one(&one, &values[0]),
        engine.client.query_one(&sum, &values[1]),
        engine.client.query_one(&one, &values[2]),
    );
    let (a, b, c) = all.unwrap();
    out.push(format!("{:?}", [a.get::<_, i64>(0), b.get(0), c.get(0)]));
    for begin in ["BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"] {
        out.push(engine.raw(begin).await);
        let id = 1000 + number;
        out.push(format!(
            "{:?}",
            engine.numbers("INSERT INTO items VALUES ($1, 77, 1) RETURNING id", id).await.unwrap()
        ));
        out.push(engine.raw("SAVEPOINT inner_one").await);
        let taken = engine.numbers("INSERT INTO items VALUES ($1, 77, 1) RETURNING id", id).await;
        out.push(code(&taken.unwrap_err()));
        out.push(engine.raw("ROLLBACK TO SAVEPOINT inner_one").await);
        let level = engine.statement("SHOW transaction_isolation").await.unwrap();
        out.push(engine.client.query_one(&level, &[]).await.unwrap().get(0));
        out.push(format!("{:?}", engine.numbers("DELETE FROM items WHERE id = $1 RETURNING owner", id).await.unwrap()));
        out.push(engine.raw("ROLLBACK").await);
    }
    // as before it gives up a connection
    out.push(engine.raw("DEALLOCATE ALL").await);
    out.push(code(&engine.client.query(&one, &[&number]).await.unwrap_err()));
    engine.statements.clear();
    out.push(format!("{:?}", engine.numbers("SELECT owner FROM items WHERE id = $1", number + 1).await.unwrap()));
    out
}

async fn engines(port: u16, database: &str) -> Vec<String> {
    let mut out = migrate(port, database).await;
    let tasks: Vec<_> = (0..8).map(|number| tokio::spawn(work(port, database.to_owned(), number))).collect();
    for task in tasks {
        out.extend(task.await.unwrap());
    }
    out
}

#[test]
fn an_engine_that_prepares_everything_and_migrates_under_a_lock() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cluster = Cluster::shared();
    let expected = runtime.block_on(engines(cluster.port(), &cluster.make_database()));
    assert!(expected.iter().any(|line| line == "55P03") && expected.iter().any(|line| line == "26000"), "{expected:?}");
    for share in ["on", "off"] {
        let plane = Plane::before(cluster).pool("size", 2).pool("share", share).start();
        let database = cluster.make_database();
        let seen = runtime.block_on(engines(plane.port(), &database));
        assert_eq!(seen, expected, "share = {share}");
        plane.wait_until_pool_is_quiet(&database);
    }
}
