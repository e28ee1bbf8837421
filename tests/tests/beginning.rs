//! What a session began with is what its settings go back to, wherever it is; in session mode its connection is its own.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use harness::{Cluster, Plane, PlaneBuilder, RawClient, Reply, Request, wait_until};

const BEGINNING: [(&str, &str); 8] = [
    ("user", "postgres"),
    ("application_name", "began here"),
    ("DateStyle", "Postgres, DMY"),
    ("TimeZone", "PST8PDT"),
    ("search_path", "\"$user\", inner_room, public"),
    ("app.tenant", "it's \"7\""),
    ("options", "-c intervalstyle=postgres_verbose -c work_mem=5MB"),
    ("database", ""),
];

fn client(port: u16, database: &str) -> RawClient {
    let parameters: Vec<_> =
        BEGINNING.iter().map(|(name, value)| (*name, if *name == "database" { database } else { *value })).collect();
    RawClient::connect(port, &parameters, None).unwrap()
}

fn plane_of_one() -> PlaneBuilder {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1)
}

/// All that a client hears, except words of ours.
fn heard(reply: &Reply) -> String {
    let mut reports: Vec<String> = Vec::new();
    let mut out = String::new();
    for message in &reply.messages {
        let body = String::from_utf8_lossy(&message.body).replace('\0', "|");
        match message.tag {
            b'S' => reports.push(format!("{body} ")),
            b'C' | b'D' | b'Z' => out.push_str(&format!("{}{body} ", char::from(message.tag))),
            b'E' => out.push_str(&format!("E{} ", reply.code())),
            _ => {}
        }
    }
    reports.sort();
    format!("{out}{reports:?}")
}

/// Everything that was set at the beginning.
const ALL: &str = "select current_setting('datestyle'), current_setting('timezone'), current_setting('search_path'), \
    current_setting('app.tenant'), current_setting('intervalstyle'), current_setting('work_mem'), \
    current_setting('application_name')";

const CHANGE_ALL: &str = "set datestyle to 'ISO, YMD'; set timezone to 'Asia/Tokyo'; set search_path to 'x y'; \
    set app.tenant to 'other'; set intervalstyle to 'iso_8601'; set work_mem to '9MB'; set application_name to 'changed'";

/// One statement each; every one begins anew.
const BACK: [&[&str]; 21] = [
    &["reset datestyle"],
    &["RESET TimeZone;"],
    &["reset time zone"],
    &["reset search_path"],
    &["reset app.tenant"],
    &["reset \"intervalstyle\" -- and no more"],
    &["reset all"],
    &["set timezone to default"],
    &["set session time zone local"],
    &["set search_path = default"],
    &["discard all"],
    &["begin", "reset datestyle", "reset timezone", "reset work_mem", "commit"],
    &["begin", "reset all", ALL, "rollback"],
    &[
        "begin",
        "reset timezone",
        "set transaction isolation level serializable",
        "show transaction_isolation",
        "commit",
    ],
    &["begin", "savepoint a", "reset search_path", ALL, "rollback to a", "commit"],
    &["begin", "set local timezone to default", "set local app.tenant = default", ALL, "commit"],
    &["set local timezone to default"],
    &["begin", "select 1/0", "reset all", "rollback"],
    &["create temp table pinned (a int)", "reset timezone", "set datestyle to default", "drop table pinned"],
    &["prepare here as select 1", "reset all", "deallocate here"],
    &["reset no_such_setting"],
];

fn same_as_directly(plane: &Plane, database: &str) {
    let mut bystander = plane.client(database);
    for extended in [false, true] {
        for statements in BACK {
            // in a transaction a Parse is passed on before it is known where it will run
            if extended && statements.len() > 1 {
                continue;
            }
            let mut pair = [client(Cluster::shared().port(), database), client(plane.port(), database)];
            let mut both = |text: &str, extended: bool| {
                let request = if extended { Request::new().extended(text, &[]) } else { Request::new().query(text) };
                let [direct, through] = pair.each_mut().map(|client| heard(&client.ask(&request)));
                assert_eq!(direct, through, "{text} of {statements:?}");
            };
            both(CHANGE_ALL, false);
            for statement in statements {
                both(statement, extended);
            }
            both(ALL, false);
            if plane.pool(database).servers_pinned + plane.pool(database).servers_exclusive == 0 {
                assert_eq!(bystander.query("show timezone").good().value(), "Etc/UTC");
            }
            both(ALL, false);
        }
    }
}

fn database() -> String {
    let database = Cluster::shared().make_database();
    Cluster::shared()
        .sql_in(&database, &format!("alter database {database} set timezone to 'Etc/UTC'; create schema inner_room"));
    database
}

#[test]
fn a_reset_goes_back_to_the_start_up_packet_in_transactions_and_on_pinned_connections() {
    let database = database();
    same_as_directly(&plane_of_one().start(), &database);
}

#[test]
fn a_reset_goes_back_to_the_start_up_packet_in_session_mode() {
    let database = database();
    same_as_directly(&Plane::before(Cluster::shared()).pool("mode", "session").pool("size", 4).start(), &database);
}

/// `RESET ALL` was taken to reset the role, so the connection passed for one that has none.
#[test]
fn a_role_outlives_reset_all_and_stays_its_sessions() {
    let cluster = Cluster::shared();
    let database = cluster.make_database();
    cluster.sql(&format!("create role {database}_r"));
    let plane = plane_of_one().start();
    let mut one = plane.client(&database);
    let mut two = plane.client(&database);
    let role = format!("{database}_r");
    one.query(&format!("set role {role}")).good();
    // asks what is there, so that it becomes part of what the session wears
    assert_eq!(two.query("select current_user").good().value(), "postgres");
    assert_eq!(one.query("select current_user").good().value(), role);
    one.query("reset all").good();
    assert_eq!(two.query("select current_user").good().value(), "postgres");
    assert_eq!(one.query("select current_user").good().value(), role);
    one.query("reset role").good();
    assert_eq!(one.query("select current_user").good().value(), "postgres");
}

#[test]
fn in_session_mode_a_client_is_told_the_process_id_of_its_backend() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("mode", "session").pool("size", 4).start();
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    for client in &mut clients {
        let told = client.key().0.to_string();
        assert_eq!(client.query("select pg_backend_pid()").good().value(), told);
        client.query("listen news").good();
        let reply = client.query("notify news").good();
        let notified = reply.messages.iter().find(|message| message.tag == b'A').unwrap();
        assert_eq!(notified.body.get(..4).unwrap(), client.key().0.to_be_bytes());
        client.query("unlisten *").good();
    }
    // on whatever shard a cancel request arrives, it finds whom it is for, and nobody else
    for round in 0..8 {
        let sleeper = round % clients.len();
        clients.get_mut(sleeper).unwrap().send(Request::new().query("select pg_sleep(60)").bytes());
        let pid = clients.get(sleeper).unwrap().key().0;
        wait_until("it sleeps", || {
            let text = format!("select wait_event = 'PgSleep' from pg_stat_activity where pid = {pid}");
            Cluster::shared().sql(&text) == "t"
        });
        let (process_id, mut secret) = clients.get(sleeper).unwrap().key();
        *secret.last_mut().unwrap() ^= 1;
        harness::client::send_cancel(plane.port(), &(process_id, secret));
        for (index, client) in clients.iter_mut().enumerate() {
            if index != sleeper {
                client.cancel();
                assert_eq!(client.query("select 'alive'").good().value(), "alive");
            }
        }
        let sleeper = clients.get_mut(sleeper).unwrap();
        sleeper.cancel();
        assert_eq!(sleeper.reply().code(), "57014");
        assert_eq!(sleeper.query("select 'alive'").good().value(), "alive");
    }
}

#[test]
fn in_session_mode_a_client_ends_with_its_backend_and_is_told_what_postgres_says() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).pool("mode", "session").start();
    let mut client = plane.client(&database);
    client.send(Request::new().query("select pg_terminate_backend(pg_backend_pid())").bytes());
    let running = client.farewell();
    let mut client = plane.client(&database);
    Cluster::shared().sql(&format!("select pg_terminate_backend({})", client.key().0));
    let idle = client.farewell();
    for told in [running, idle] {
        assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "57P01"));
        assert_eq!(told.message, "terminating connection due to administrator command");
    }
    assert_eq!(plane.client(&database).query("select 1").good().value(), "1");
}

/// The reader of the catalog waited for whoever held what a view reads, and kept what other views read from everybody.
#[test]
fn nobody_is_in_a_deadlock_with_the_reader_of_the_catalog() {
    let cluster = Cluster::shared();
    let database = cluster.make_database();
    let views = "create view v as select a from t; create view w as select t.a from t, u";
    cluster
        .sql_in(&database, &format!("create table t (a int); create table u (a int); create table x (a int); {views}"));
    let plane = Plane::before(cluster).start();
    let mut holder =
        RawClient::connect(cluster.port(), &[("user", "postgres"), ("database", &database)], None).unwrap();
    holder.query("begin; lock table u in access exclusive mode").good();
    let mut client = plane.client(&database);
    let waits = format!(
        "select count(*) from pg_stat_activity where application_name = 'optimacore catalog' and wait_event_type = 'Lock' \
         and datname = '{database}'"
    );
    wait_until("the reader waits for what is held", || cluster.sql(&waits) == "1");
    holder.query("lock table t in access exclusive mode").good();
    wait_until("reads are shared all the same", || {
        client.query("select a from x").good();
        plane.pool(&database).requests_shared > 0
    });
    holder.query("commit").good();
    let before = plane.pool(&database).requests_shared;
    wait_until("what a view reads is known when it is free again", || {
        client.query("select a from w").good();
        plane.pool(&database).requests_shared > before
    });
}
