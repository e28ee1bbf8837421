//! The console's verbs: each does what it says, to those it says, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::cluster::{SUPERUSER, signal_process};
use harness::console::{find, rows};
use harness::program::run;
use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, wait_until};
use rustix::process::Signal;

fn builder() -> PlaneBuilder {
    Plane::before(Cluster::shared()).console("admin_users", &[SUPERUSER])
}

fn console(plane: &Plane) -> RawClient {
    plane.client("optimacore")
}

/// Does a command that must succeed.
fn order(client: &mut RawClient, command: &str) {
    let reply = client.query(command);
    let tag = command.split(' ').next().unwrap();
    assert_eq!((reply.error(), reply.commands()), (None, vec![tag.to_owned()]), "{command}");
}

/// Backends of a database that PostgreSQL has.
fn backends(database: &str) -> String {
    Cluster::shared().sql(&format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"))
}

fn waiting(plane: &Plane, database: &str) -> u64 {
    plane.pool(database).clients_waiting
}

#[test]
fn pause_under_load_loses_no_request() {
    let database = Cluster::shared().make_database();
    Cluster::shared().sql_in(&database, "CREATE TABLE t (a int)");
    let plane = builder().pool("size", 4).start();
    let mut admin = console(&plane);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let mut client = plane.client(&database);
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let text = if number % 2 == 0 { "INSERT INTO t VALUES (1)" } else { "SELECT count(*) FROM t" };
                    let reply = if number % 4 < 2 {
                        client.query(text)
                    } else {
                        client.ask(&Request::new().extended(text, &[]))
                    };
                    assert_eq!(reply.error(), None);
                    done.fetch_add(u64::from(number % 2 == 0), Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            let before = done.load(Ordering::Relaxed);
            wait_until("there is load", || done.load(Ordering::Relaxed) > before + 20);
            order(&mut admin, "PAUSE");
            assert_eq!(backends(&database), "0", "PAUSE returns when all server connections are gone");
            wait_until("all wait", || waiting(&plane, &database) == 8);
            let stats = rows(&mut admin, "SHOW STATE");
            assert_eq!(find(&stats, "key", "paused")["value"], "yes");
            order(&mut admin, "RESUME");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let count = Cluster::shared().sql_in(&database, "SELECT count(*) FROM t");
    assert_eq!(count, done.load(Ordering::Relaxed).to_string(), "every INSERT that was answered is there, once");
}

#[test]
fn pause_waits_for_transactions_of_its_database_only() {
    let (database, other) = (Cluster::shared().make_database(), Cluster::shared().make_database());
    let plane = builder().start();
    let (mut admin, mut onlooker) = (console(&plane), console(&plane));
    let (mut client, mut bystander) = (plane.client(&database), plane.client(&other));
    client.query("BEGIN");
    admin.send(Request::new().query(&format!("PAUSE {database}")).bytes());
    let paused =
        |onlooker: &mut RawClient, name: &str| find(&rows(onlooker, "SHOW DATABASES"), "name", name)["paused"].clone();
    wait_until("it is paused", || paused(&mut onlooker, &database) == "1");
    assert_eq!((paused(&mut onlooker, &other), bystander.query("SELECT 1").value()), ("0".into(), "1".into()));
    assert_eq!(client.query("SELECT 2").value(), "2", "the transaction goes on");
    assert_eq!(onlooker.query(&format!("PAUSE {database}")).error().unwrap().message, "already suspended/paused");
    client.query("COMMIT");
    assert_eq!(admin.reply().commands(), ["PAUSE"]);
    assert_eq!(backends(&database), "0");
    client.send(Request::new().query("SELECT 3").bytes());
    wait_until("it waits", || waiting(&plane, &database) == 1);
    order(&mut admin, &format!("RESUME {database}"));
    assert_eq!(client.reply().value(), "3");
    assert_eq!(admin.query("PAUSE pgbouncer").error().unwrap().message, "cannot pause admin db: pgbouncer");
    assert_eq!(admin.query("RESUME").error().unwrap().message, "pooler is not paused/suspended");
}

#[test]
fn who_waits_for_a_pause_may_give_up() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let (mut admin, mut other, mut client) = (console(&plane), console(&plane), plane.client(&database));
    client.query("BEGIN");
    admin.send(Request::new().query("PAUSE").bytes());
    wait_until("it is paused", || find(&rows(&mut other, "SHOW STATE"), "key", "paused")["value"] == "yes");
    admin.cancel();
    let reply = admin.reply();
    assert_eq!((reply.code().as_str(), reply.status()), ("57014", 'I'));
    order(&mut other, "RESUME");
    admin.send(Request::new().query("PAUSE").bytes());
    wait_until("it is paused", || find(&rows(&mut other, "SHOW STATE"), "key", "paused")["value"] == "yes");
    order(&mut other, "RESUME");
    assert_eq!(admin.reply().error().unwrap().message, "ended by RESUME");
    assert_eq!(client.query("COMMIT").error(), None);
    assert_eq!(client.query("SELECT 1").value(), "1");
}

#[test]
fn suspend_holds_requests_and_keeps_connections() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    client.query("BEGIN");
    let pid = client.query("SELECT pg_backend_pid()").value();
    order(&mut admin, "SUSPEND");
    client.send(Request::new().query("SELECT pg_backend_pid() AS held").bytes());
    wait_until("the request has come", || {
        let sockets = rows(&mut admin, "SHOW SOCKETS");
        sockets.iter().any(|socket| socket["database"] == database && socket["recv_pos"] != "0")
    });
    assert_eq!(find(&rows(&mut admin, "SHOW STATE"), "key", "suspended")["value"], "yes");
    let last = Cluster::shared().sql(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}"));
    assert!(last.contains("pg_backend_pid") && !last.contains("held"), "{last}");
    assert_eq!(admin.query("PAUSE").error().unwrap().message, "already suspended/paused");
    order(&mut admin, "RESUME");
    assert_eq!(client.reply().value(), pid);
    client.query("COMMIT");
}

#[test]
fn kill_client_ends_one_client_and_its_server_connection() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let (mut admin, mut victim, mut other) = (console(&plane), plane.client(&database), plane.client(&database));
    other.query("BEGIN");
    victim.query("BEGIN");
    let pid = victim.query("SELECT pg_backend_pid()").value();
    let servers = rows(&mut admin, "SHOW SERVERS");
    let link = find(&servers, "remote_pid", &pid)["link"].clone();
    let clients = rows(&mut admin, "SHOW CLIENTS");
    let id = find(&clients, "ptr", &link)["id"].clone();
    victim.send(Request::new().query("SELECT pg_sleep(100)").bytes());
    let running = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND query LIKE '%sleep%'");
    wait_until("it runs", || Cluster::shared().sql(&running) == "1");
    order(&mut admin, &format!("KILL_CLIENT {id}"));
    assert_eq!(victim.farewell().code, "57P01");
    wait_until("its backend is gone", || {
        Cluster::shared().sql(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "0"
    });
    assert_eq!(other.query("COMMIT").error(), None);
    assert_eq!(admin.query(&format!("KILL_CLIENT {id}")).error().unwrap().message, format!("client not found: {id}"));
}

#[test]
fn kill_ends_all_of_a_database_and_holds_it_until_resume() {
    let (database, other) = (Cluster::shared().make_database(), Cluster::shared().make_database());
    let plane = builder().start();
    let mut admin = console(&plane);
    let mut victims: Vec<RawClient> = (0..3).map(|_| plane.client(&database)).collect();
    let mut bystander = plane.client(&other);
    bystander.query("BEGIN");
    victims[0].query("BEGIN");
    victims[1].send(Request::new().query("SELECT pg_sleep(100)").bytes());
    wait_until("it runs", || plane.pool(&database).servers_exclusive == 2);
    order(&mut admin, &format!("KILL {database}"));
    for victim in &mut victims {
        assert_eq!(victim.farewell().code, "57P01");
    }
    wait_until("all backends are gone", || backends(&database) == "0");
    assert_eq!(bystander.query("COMMIT").error(), None);
    let mut next = plane.client(&database);
    next.send(Request::new().query("SELECT 1").bytes());
    wait_until("it waits", || waiting(&plane, &database) == 1);
    order(&mut admin, &format!("RESUME {database}"));
    assert_eq!(next.reply().value(), "1");
    assert_eq!(admin.query("KILL pgbouncer").code(), "55000");
}

#[test]
fn a_disabled_database_takes_no_new_clients() {
    let database = Cluster::shared().make_database();
    let plane = builder().database(&database, &[]).start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    order(&mut admin, &format!("DISABLE {database}"));
    let refusal = plane.try_client(SUPERUSER, &database, None).unwrap_err();
    assert_eq!((refusal.severity.as_str(), refusal.code.as_str()), ("FATAL", "55000"));
    assert_eq!(client.query("SELECT 1").value(), "1", "who is there stays");
    assert_eq!(find(&rows(&mut admin, "SHOW DATABASES"), "name", &database)["disabled"], "1");
    order(&mut admin, &format!("ENABLE {database}"));
    assert!(plane.try_client(SUPERUSER, &database, None).is_ok());
    let refusal = admin.query("DISABLE nosuch").error().unwrap();
    assert_eq!((refusal.code.as_str(), refusal.message.as_str()), ("3D000", "no such database: nosuch"));
}

#[test]
fn reconnect_renews_connections_as_they_become_free() {
    let database = Cluster::shared().make_database();
    let plane = builder().pool("size", 2).cores("0").start();
    let (mut admin, mut waiter) = (console(&plane), console(&plane));
    let (mut busy, mut free) = (plane.client(&database), plane.client(&database));
    let pid = |client: &mut RawClient| client.query("SELECT pg_backend_pid()").value();
    busy.query("BEGIN");
    let (old_busy, old_free) = (pid(&mut busy), pid(&mut free));
    order(&mut admin, &format!("RECONNECT {database}"));
    assert_ne!(pid(&mut free), old_free);
    assert_eq!(pid(&mut busy), old_busy, "a transaction keeps its connection");
    let servers = rows(&mut admin, "SHOW SERVERS");
    assert_eq!(find(&servers, "remote_pid", &old_busy)["close_needed"], "1");
    waiter.send(Request::new().query("WAIT_CLOSE").bytes());
    assert_eq!(admin.query("SHOW VERSION").error(), None);
    busy.query("COMMIT");
    assert_eq!(waiter.reply().commands(), ["WAIT_CLOSE"]);
    assert_ne!(pid(&mut busy), old_busy);
}

/// The pool lets so many transactions run at once, and no more.
fn check_width(plane: &Plane, database: &str, clients: &mut [RawClient], width: u64) {
    for client in clients.iter_mut() {
        client.send(Request::new().query("BEGIN").bytes());
    }
    let all = clients.len() as u64;
    wait_until(&format!("{width} run and the others wait"), || {
        let pool = plane.pool(database);
        assert!(pool.servers_exclusive <= width, "{pool:?}");
        (pool.servers_exclusive, pool.clients_waiting) == (width, all - width)
    });
    // as each ends, one that waits begins
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| {
                assert_eq!(client.reply().error(), None);
                assert_eq!(client.query("COMMIT").error(), None);
            });
        }
    });
    plane.wait_until_pool_is_quiet(database);
}

#[test]
fn a_pool_grows_and_shrinks_while_it_is_used() {
    let database = Cluster::shared().make_database();
    let plane = builder().pool("size", 3).start();
    let mut admin = console(&plane);
    let mut clients: Vec<RawClient> = (0..8).map(|_| plane.client(&database)).collect();
    let permits = |plane: &Plane| plane.pool(&database).permits_held;
    for size in [3, 6, 2, 5, 1, 8, 4] {
        order(&mut admin, &format!("SET pool.size = {size}"));
        wait_until("permits are as many as the pool's size", || permits(&plane) == size);
        check_width(&plane, &database, &mut clients, size);
        assert_eq!(permits(&plane), size);
    }
    // connections beyond the size end as soon as they are free, not before
    for client in clients.iter_mut().take(4) {
        client.query("BEGIN");
    }
    order(&mut admin, "SET default_pool_size = 1");
    for client in clients.iter_mut().take(4) {
        assert_eq!(client.query("SELECT 1").value(), "1");
        client.query("COMMIT");
    }
    wait_until("one is left at most", || rows(&mut admin, "SHOW SERVERS").len() <= 1);
    check_width(&plane, &database, &mut clients, 1);
}

#[test]
fn a_reload_changes_all_it_can_and_says_the_rest() {
    let database = Cluster::shared().make_database();
    let plane = builder().pool("size", 2).start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    client.query("BEGIN");
    plane.edit_config(|text| {
        let text = text.replace("size = 2", "size = 3\nquery_wait_timeout = \"7s\"");
        let text = text.replace("unix_socket_dir", "backlog = 77\nunix_socket_dir");
        format!("{text}\n[[user]]\nname = \"late\"\ntrust = [\"127.0.0.0/8\"]\n[log]\nlevel = \"debug\"\n")
    });
    assert_eq!(plane.try_client("late", &database, Some("x")).unwrap_err().code, "28P01");
    let reply = admin.query("RELOAD");
    let notices: Vec<String> = reply
        .messages
        .iter()
        .filter(|message| message.tag == b'N')
        .map(|message| harness::ErrorReply::read(&message.body).message)
        .collect();
    assert_eq!(reply.commands(), ["RELOAD"], "{reply:?}");
    for told in [
        "pool.size: 2 -> 3",
        "pool.query_wait_timeout: 2min -> 7s",
        "log.level: info -> debug",
        "user.late.trust: not set -> 127.0.0.0/8",
        "listen.backlog: 1024 -> 77 (needs a restart)",
    ] {
        assert!(notices.iter().any(|notice| notice == told), "{told}: {notices:?}");
    }
    assert_eq!(notices.len(), 5, "{notices:?}");
    assert!(plane.try_client("late", &database, None).is_ok());
    assert_eq!(client.query("COMMIT").error(), None);
    let mut leaver = plane.client(&database);
    leaver.send(Request::new().query("SELECT pg_sleep(100)").bytes());
    wait_until("it runs", || plane.pool(&database).servers_exclusive == 1);
    leaver.hang_up();
    wait_until("the log tells more", || plane.said().contains("DEBUG"));
    let config = rows(&mut admin, "SHOW CONFIG");
    let value = |key: &str| find(&config, "key", key)["value"].clone();
    assert_eq!([value("pool.size"), value("query_wait_timeout"), value("listen.backlog")], ["3", "7", "1024"]);
    let again = admin.query("RELOAD");
    assert!(again.tags() == "NCZ", "what needs a restart is told again: {again:?}");
}

#[test]
fn a_reload_that_changes_credentials_renews_server_connections() {
    let database = Cluster::shared().make_database();
    let role = format!("{database}_role");
    let norman = format!("{database}_norman");
    Cluster::shared().sql(&format!("CREATE ROLE {role} LOGIN; CREATE ROLE {norman} LOGIN"));
    let plane = builder().own_users().user_trusted(&norman).start();
    let mut admin = console(&plane);
    let mut client = plane.try_client(&norman, &database, None).unwrap();
    let mut busy = plane.try_client(&norman, &database, None).unwrap();
    busy.query("BEGIN");
    assert_eq!(client.query("SELECT current_user").value(), norman);
    plane.edit_config(|text| {
        text.replace(&format!("name = \"{norman}\""), &format!("name = \"{norman}\"\nserver_user = \"{role}\""))
    });
    order(&mut admin, "RELOAD");
    assert_eq!(client.query("SELECT current_user").value(), role);
    assert_eq!(busy.query("SELECT current_user").value(), norman, "a transaction ends as whom it began");
    busy.query("COMMIT");
    assert_eq!(busy.query("SELECT current_user").value(), role);
}

#[test]
fn an_administrator_is_let_in_when_all_places_are_taken() {
    let database = Cluster::shared().make_database();
    let plane = builder().user_trusted("norman").limit("max_client_connections", 2).start();
    let held = [plane.client(&database), plane.client(&database)];
    let refused = |user: &str, name: &str| plane.try_client(user, name, None).map(|_| ()).unwrap_err().code;
    wait_until("the places are taken", || refused(SUPERUSER, &database) == "53300");
    assert_eq!(refused("norman", "pgbouncer"), "53300");
    let mut admin = console(&plane);
    let id = rows(&mut admin, "SHOW CLIENTS").iter().find(|row| row["database"] == database).unwrap()["id"].clone();
    order(&mut admin, &format!("KILL_CLIENT {id}"));
    drop(admin);
    wait_until("there is a place", || plane.try_client(SUPERUSER, &database, None).is_ok());
    drop(held);
}

#[test]
fn a_reload_of_a_file_with_an_error_changes_nothing() {
    let plane = builder().pool("size", 2).start();
    let mut admin = console(&plane);
    let before = rows(&mut admin, "SHOW CONFIG");
    let good = std::cell::RefCell::new(String::new());
    plane.edit_config(|text| {
        good.replace(text.to_owned());
        format!("{}\nnonsense = 1\n", text.replace("size = 2", "size = 9"))
    });
    let reply = admin.query("RELOAD");
    let error = reply.error().unwrap();
    assert_eq!((error.code.as_str(), reply.status()), ("F0000", 'I'));
    assert!(error.message.ends_with("has errors; nothing was changed"), "{error:?}");
    assert_eq!(rows(&mut admin, "SHOW CONFIG"), before);
    signal_process(plane.id(), Signal::HUP);
    wait_until("the log tells", || plane.said().contains("not reloaded"));
    plane.edit_config(|_| good.borrow().replace("size = 2", "size = 9"));
    signal_process(plane.id(), Signal::HUP);
    wait_until("it is reloaded", || find(&rows(&mut admin, "SHOW CONFIG"), "key", "default_pool_size")["value"] == "9");
    assert!(plane.said().contains("pool.size: 2 -> 9"), "{}", plane.said());
}

#[test]
fn set_changes_what_it_can_until_the_next_reload_and_refuses_the_rest() {
    let database = Cluster::shared().make_database();
    let plane = builder().pool("size", 1).cores("0").start();
    let (mut admin, mut holder, mut client) = (console(&plane), plane.client(&database), plane.client(&database));
    order(&mut admin, "SET query_wait_timeout = '200ms'");
    holder.query("BEGIN");
    assert_eq!(client.query("SELECT 1").code(), "57014");
    holder.query("COMMIT");
    for (text, why) in [
        ("SET listen.backlog = 5", "cannot be changed while running"),
        ("SET pool.size = none", "is no whole number"),
        ("SET server_check_query = 'select 1'", "there is no setting"),
    ] {
        let error = admin.query(text).error().unwrap();
        assert!(error.code == "22023" && error.message.contains(why), "{error:?}");
    }
    let reply = admin.query("RELOAD");
    let notice = reply.messages.iter().find(|message| message.tag == b'N').unwrap();
    let told = harness::ErrorReply::read(&notice.body).message;
    assert_eq!(told, "pool.query_wait_timeout: 200ms -> 2min");
}

#[test]
fn signals_pause_and_resume() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    client.query("SELECT 1");
    signal_process(plane.id(), Signal::USR1);
    wait_until("it is paused", || backends(&database) == "0");
    client.send(Request::new().query("SELECT 2").bytes());
    wait_until("it waits", || waiting(&plane, &database) == 1);
    assert_eq!(find(&rows(&mut admin, "SHOW STATE"), "key", "paused")["value"], "yes");
    signal_process(plane.id(), Signal::USR2);
    assert_eq!(client.reply().value(), "2");
}

#[test]
fn shutdown_waits_for_whom_it_is_told_to() {
    let database = Cluster::shared().make_database();
    let mut plane = builder().start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    order(&mut admin, "SHUTDOWN WAIT_FOR_CLIENTS");
    wait_until("nobody new is let in", || std::net::TcpStream::connect(("127.0.0.1", plane.port())).is_err());
    assert_eq!(client.query("SELECT 1").value(), "1");
    assert!(plane.ended().is_none());
    drop(client);
    wait_until("the data plane ends", || plane.ended().is_some());
    assert!(plane.ended().unwrap().success());

    let mut plane = builder().pool("size", 1).cores("0").start();
    let (mut admin, mut holder, mut waiter) = (console(&plane), plane.client(&database), plane.client(&database));
    holder.query("BEGIN");
    waiter.send(Request::new().query("SELECT 1").bytes());
    wait_until("it waits", || waiting(&plane, &database) == 1);
    order(&mut admin, "SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(waiter.farewell().code, "57P01");
    assert_eq!(holder.query("SELECT 2").value(), "2");
    assert!(plane.ended().is_none());
    holder.query("COMMIT");
    wait_until("the data plane ends", || plane.ended().is_some());
    assert!(plane.ended().unwrap().success());

    let mut plane = builder().start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    client.query("BEGIN");
    order(&mut admin, "SHUTDOWN");
    assert_eq!(client.farewell().code, "57P01");
    wait_until("the data plane ends", || plane.ended().is_some());
    assert!(plane.ended().unwrap().success());
}

#[test]
fn ctl_asks_the_console() {
    let database = Cluster::shared().make_database();
    let plane = builder().user_trusted("norman").start();
    let client = plane.client(&database);
    let port = plane.port().to_string();
    let ctl = |args: &[&str]| {
        let mut command = harness::program::command(harness::program::ctl());
        let output = run(command.args(["admin", "--port", &port]).args(args), b"");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, err) = ctl(&["show", "pools"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines[0][0], lines[0][2]), ("database", "cl_active"), "{out}");
    assert!(lines.iter().any(|line| line[..3] == [database.as_str(), SUPERUSER, "1"]), "{out}");
    let (code, out, _) = ctl(&["--json", "SHOW STATE; PAUSE"]);
    assert_eq!(code, Some(0));
    let (shown, paused) = out.trim_end().split_once('\n').unwrap();
    assert!(shown.starts_with(r#"[{"key":"active","value":"yes"}"#), "{shown}");
    assert_eq!(paused, r#"{"command":"PAUSE","notices":[]}"#);
    assert_eq!(ctl(&["pause"]).0, Some(1));
    let (code, out, err) = ctl(&["resume", "nosuch"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("database nosuch is not paused (55000)"), "{err}");
    let socket_dir = plane.socket_dir().display().to_string();
    assert_eq!(ctl(&["--host", &socket_dir, "resume"]), (Some(0), "RESUME\n".into(), String::new()));
    let (code, _, err) = ctl(&["--user", "norman", "show", "pools"]);
    assert!(code == Some(1) && err.contains("database \"optimacore\" does not exist (3D000)"), "{err}");
    assert_eq!(ctl(&[]).0, Some(2));
    drop(client);
    let (code, out, _) = ctl(&["shutdown"]);
    assert_eq!((code, out.as_str()), (Some(0), "SHUTDOWN\n"));
    assert_eq!(ctl(&["show", "pools"]).0, Some(1));
}

#[test]
fn a_pause_takes_the_reserve_too_and_it_comes_back_for_those_who_wait() {
    let database = Cluster::shared().make_database();
    let plane = builder().pool("size", 1).pool("reserve_pool_size", 1).pool("reserve_pool_timeout", "100ms").start();
    let (mut admin, mut onlooker) = (console(&plane), console(&plane));
    let (mut served, mut kept) = ([plane.client(&database), plane.client(&database)], plane.client(&database));
    for client in &mut served {
        client.query("BEGIN").good();
    }
    assert_eq!(plane.pool(&database).servers_exclusive, 2, "size and reserve are in use");
    kept.send(Request::new().query("BEGIN").bytes());
    wait_until("the third waits", || waiting(&plane, &database) == 1);
    admin.send(Request::new().query("PAUSE").bytes());
    wait_until("it is paused", || find(&rows(&mut onlooker, "SHOW STATE"), "key", "paused")["value"] == "yes");
    // whoever has one ends its transaction, whoever waits goes on waiting
    for client in &mut served {
        client.query("COMMIT").good();
    }
    assert_eq!(admin.reply().commands(), ["PAUSE"]);
    assert_eq!((backends(&database), waiting(&plane, &database)), ("0".into(), 1));
    for client in &mut served {
        client.send(Request::new().query("BEGIN").bytes());
    }
    wait_until("all wait", || waiting(&plane, &database) == 3);
    order(&mut onlooker, "RESUME");
    wait_until("size and reserve are in use again", || plane.pool(&database).servers_exclusive == 2);
    std::thread::scope(|scope| {
        for client in served.iter_mut().chain([&mut kept]) {
            scope.spawn(|| {
                client.reply().good();
                client.query("COMMIT").good();
            });
        }
    });
    wait_until("the reserve is given back", || plane.pool(&database).permits_held == 1);
}
