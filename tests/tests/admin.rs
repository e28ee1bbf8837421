//! The console: what it shows, who may use it, and how it is spoken to.

use std::path::Path;
use std::process::Command;

use harness::cluster::SUPERUSER;
use harness::console::{Row, columns, find, rows};
use harness::program::{run, run_well};
use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, wait_until};

fn builder() -> PlaneBuilder {
    Plane::before(Cluster::shared())
        .user_trusted("eve")
        .user_trusted("norman")
        .console("admin_users", &[SUPERUSER])
        .console("stats_users", &["eve"])
}

fn console(plane: &Plane) -> RawClient {
    plane.client("pgbouncer")
}

/// PgBouncer 1.25's columns: `s` text, `i` int4, `b` int8, `n` numeric, `y` bytea; ours behind the `+`.
const COLUMNS: [(&str, &str); 24] = [
    (
        "CLIENTS",
        "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i tls:s application_name:s prepared_statements:i id:i + shard:i",
    ),
    (
        "SERVERS",
        "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i tls:s application_name:s prepared_statements:i id:i + shard:i",
    ),
    (
        "SOCKETS",
        "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i tls:s application_name:s prepared_statements:i id:i recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i + shard:i",
    ),
    (
        "ACTIVE_SOCKETS",
        "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i tls:s application_name:s prepared_statements:i id:i recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i + shard:i",
    ),
    (
        "POOLS",
        "database:s user:s cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active:i sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i pool_mode:s load_balance_hosts:s",
    ),
    (
        "DATABASES",
        "name:s host:s port:i database:s force_user:s pool_size:i min_pool_size:i reserve_pool_size:i server_lifetime:i pool_mode:s load_balance_hosts:s max_connections:i current_connections:i max_client_connections:i current_client_connections:i paused:i disabled:i",
    ),
    (
        "USERS",
        "name:s pool_size:s reserve_pool_size:s pool_mode:s max_user_connections:i current_connections:i max_user_client_connections:i current_client_connections:i",
    ),
    (
        "STATS",
        "database:s total_server_assignment_count:n total_xact_count:n total_query_count:n total_received:n total_sent:n total_xact_time:n total_query_time:n total_wait_time:n total_client_parse_count:n total_server_parse_count:n total_bind_count:n avg_server_assignment_count:n avg_xact_count:n avg_query_count:n avg_recv:n avg_sent:n avg_xact_time:n avg_query_time:n avg_wait_time:n avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n",
    ),
    (
        "STATS_TOTALS",
        "database:s server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n xact_time:n query_time:n wait_time:n client_parse_count:n server_parse_count:n bind_count:n",
    ),
    (
        "STATS_AVERAGES",
        "database:s server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n xact_time:n query_time:n wait_time:n client_parse_count:n server_parse_count:n bind_count:n",
    ),
    ("TOTALS", "name:s value:n"),
    ("LISTS", "list:s items:i"),
    ("MEM", "name:s size:i used:i free:i memtotal:i"),
    ("CONFIG", "key:s value:s default:s changeable:s"),
    (
        "FDS",
        "fd:i task:s user:s database:s addr:s port:i cancel:b link:i client_encoding:s std_strings:s datestyle:s timezone:s password:s scram_client_key:y scram_server_key:y",
    ),
    ("DNS_HOSTS", "hostname:s ttl:b addrs:s"),
    ("DNS_ZONES", "zonename:s serial:b count:i"),
    ("PEERS", "peer_id:i host:s port:i pool_size:i"),
    ("PEER_POOLS", "database:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i"),
    ("STATE", "key:s value:s"),
    ("VERSION", "version:s"),
    (
        "SHARDS",
        "+ shard:i core:i clients:i clients_waiting:i servers:i pools:i buffer_bytes:n logins:n login_failures:n messages_in:n messages_out:n bytes_in:n bytes_out:n handed_over:n permits:n",
    ),
    (
        "PIPES",
        "+ shard:i id:i database:s user:s state:s client:s in_flight:i owed:i left_behind:s settings:i prepared_statements:i remote_pid:i age:i idle:i",
    ),
    ("PINS", "+ client:i user:s database:s application_name:s reason:s since:s seconds:i server:s shard:i"),
];

#[test]
fn columns_have_the_names_types_and_order_of_pgbouncer() {
    let plane = builder().start();
    let mut admin = console(&plane);
    let letter = |oid| match oid {
        25 => 's',
        23 => 'i',
        20 => 'b',
        1700 => 'n',
        17 => 'y',
        other => panic!("type {other}"),
    };
    for (show, expected) in COLUMNS {
        let reply = admin.query(&format!("SHOW {show};"));
        assert_eq!(reply.commands(), ["SHOW"], "{show}");
        let found = columns(&reply).iter().map(|(name, oid)| format!("{name}:{}", letter(*oid))).collect::<Vec<_>>();
        let expected: Vec<&str> = expected.split(' ').filter(|word| *word != "+").collect();
        assert_eq!(found, expected, "{show}");
        let described = admin.ask(&Request::new().parse("", &format!("show {show}")).describe_statement("").sync());
        assert_eq!((described.tags().as_str(), columns(&described)), ("1tTZ", columns(&reply)), "{show}");
    }
    let help = admin.query("SHOW HELP");
    assert_eq!((help.tags().as_str(), help.commands()), ("NCZ", vec!["SHOW".to_owned()]));
    let keys: Vec<String> = rows(&mut admin, "SHOW TOTALS").into_iter().map(|row| row["name"].clone()).collect();
    let names = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time wait_time ps_client_parse_count ps_server_parse_count ps_bind_count";
    let expected = |prefix: &str| names.split(' ').map(|name| format!("{prefix}_{name}")).collect::<Vec<_>>();
    assert_eq!(keys, [expected("total"), expected("avg")].concat());
    let lists: Vec<String> = rows(&mut admin, "SHOW LISTS").into_iter().map(|row| row["list"].clone()).collect();
    assert_eq!(
        lists.join(" "),
        "databases users peers pools peer_pools free_clients used_clients login_clients free_servers used_servers dns_names dns_zones dns_queries dns_pending"
    );
}

#[test]
fn only_those_who_may_see_that_there_is_a_console() {
    let plane = builder().start();
    for name in ["pgbouncer", "optimacore"] {
        let refusal = plane.try_client("norman", name, None).unwrap_err();
        assert_eq!((refusal.severity.as_str(), refusal.code.as_str()), ("FATAL", "3D000"));
        assert_eq!(refusal.message, format!("database \"{name}\" does not exist"));
        assert!(plane.try_client(SUPERUSER, name, None).is_ok());
    }
    assert_eq!(plane.try_client("stranger", "pgbouncer", Some("x")).unwrap_err().code, "28P01");
    let mut stats = plane.try_client("eve", "pgbouncer", None).unwrap();
    for show in COLUMNS.iter().map(|(show, _)| *show) {
        let code = stats.query(&format!("SHOW {show}")).code();
        assert_eq!(code, if show == "FDS" { "42501" } else { "" }, "{show}");
    }
    for verb in [
        "PAUSE",
        "RESUME",
        "RELOAD",
        "KILL",
        "KILL_CLIENT 1",
        "SUSPEND",
        "RECONNECT",
        "DISABLE a",
        "ENABLE a",
        "WAIT_CLOSE",
        "SET pool.size = 3",
        "SHUTDOWN",
    ] {
        assert_eq!(stats.query(verb).code(), "42501", "{verb}");
    }
    assert_eq!(rows(&mut console(&plane), "SHOW STATE")[0]["value"], "yes");
}

#[test]
fn what_is_shown_is_what_happens() {
    let database = Cluster::shared().make_database();
    let plane = builder().pool("size", 1).cores("0").start();
    let mut admin = console(&plane);
    let (mut holder, idle, mut waiter) = (plane.client(&database), plane.client(&database), plane.client(&database));
    holder.query("BEGIN");
    let pid = holder.query("SELECT pg_backend_pid()").value();
    waiter.send(Request::new().query("SELECT 1").bytes());
    wait_until("one waits", || find(&rows(&mut admin, "SHOW POOLS"), "database", &database)["cl_waiting"] == "1");

    let pools = rows(&mut admin, "SHOW POOLS");
    let pool = find(&pools, "database", &database);
    let figures = ["user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_login", "pool_mode"];
    assert_eq!(figures.map(|name| pool[name].as_str()), [SUPERUSER, "2", "1", "1", "0", "0", "transaction"]);
    assert_eq!(find(&pools, "database", "pgbouncer")["cl_active"], "1");

    let clients = rows(&mut admin, "SHOW CLIENTS");
    let of_database: Vec<&Row> = clients.iter().filter(|client| client["database"] == database).collect();
    let mut states: Vec<&str> = of_database.iter().map(|client| client["state"].as_str()).collect();
    states.sort_unstable();
    assert_eq!(states, ["active", "idle", "waiting"]);
    let active = of_database.iter().find(|client| client["state"] == "active").unwrap();
    assert_eq!((active["application_name"].as_str(), active["addr"].as_str()), ("test", "127.0.0.1"));
    assert_eq!(active["local_port"], plane.port().to_string());
    let servers = rows(&mut admin, "SHOW SERVERS");
    let server = find(&servers, "remote_pid", &pid);
    assert_eq!(
        (&server["state"], &server["link"], &active["link"]),
        (&"active".to_owned(), &active["ptr"], &server["ptr"])
    );
    assert_eq!((&server["application_name"], &server["database"]), (&"test".to_owned(), &database));
    let port = Cluster::shared().port().to_string();
    assert_eq!((&server["port"], &server["addr"]), (&port, &"127.0.0.1".to_owned()));
    let pipe = rows(&mut admin, "SHOW PIPES");
    assert_eq!(find(&pipe, "remote_pid", &pid)["state"], "exclusive");
    let databases = rows(&mut admin, "SHOW DATABASES");
    let shown = find(&databases, "name", &database);
    let figures = ["pool_size", "current_connections", "current_client_connections", "paused", "force_user"];
    assert_eq!(figures.map(|name| shown[name].as_str()), ["1", "1", "3", "0", SUPERUSER]);
    let users = rows(&mut admin, "SHOW USERS");
    assert_eq!(find(&users, "name", SUPERUSER)["current_client_connections"], "3");

    holder.query("COMMIT");
    assert_eq!(waiter.reply().value(), "1");
    let before = rows(&mut admin, "SHOW STATS");
    for _ in 0..5 {
        holder.ask(&Request::new().extended("SELECT pg_sleep(0.01)", &[]));
    }
    holder.query("BEGIN; SELECT 1; COMMIT");
    let after = rows(&mut admin, "SHOW STATS");
    let grown = |name: &str| {
        let figure = |rows: &[Row]| find(rows, "database", &database)[name].parse::<u64>().unwrap();
        figure(&after) - figure(&before)
    };
    let figures = ["total_query_count", "total_xact_count", "total_client_parse_count", "total_bind_count"];
    assert_eq!(figures.map(grown), [6, 6, 5, 5]);
    assert!(grown("total_query_time") >= 50_000 && grown("total_xact_time") >= 50_000, "{after:?}");
    assert!(find(&after, "database", &database)["total_wait_time"].parse::<u64>().unwrap() > 0);
    drop(idle);
}

#[test]
fn pins_are_shown_with_their_reason() {
    let database = Cluster::shared().make_database();
    let plane = builder().start();
    let (mut admin, mut client) = (console(&plane), plane.client(&database));
    assert!(rows(&mut admin, "SHOW PINS").is_empty());
    client.query("select setseed(0.5)").good();
    let pins = rows(&mut admin, "SHOW PINS");
    let pin = find(&pins, "database", &database);
    assert_eq!((pin["application_name"].as_str(), pin["user"].as_str()), ("test", SUPERUSER));
    assert!(!pin["reason"].is_empty() && pin["since"].ends_with(" UTC"), "{pin:?}");
    client.query("DISCARD ALL");
    wait_until("nobody is pinned", || rows(&mut admin, "SHOW PINS").is_empty());
}

#[test]
fn simple_queries_may_hold_several_commands_and_errors_leave_the_session() {
    let plane = builder().start();
    let mut admin = console(&plane);
    let reply = admin.query("SHOW VERSION; SHOW STATE;");
    assert_eq!((reply.tags().as_str(), reply.commands().len()), ("TDCTDDDCZ", 2));
    assert_eq!(admin.query(" ; ").tags(), "IZ");
    assert_eq!(admin.query("").tags(), "IZ");
    // what is wrong anywhere in it stops all of it
    assert_eq!(admin.query("SHOW VERSION; SHOW nothing").tags(), "EZ");
    assert_eq!(admin.query("RESUME; SHOW VERSION").tags(), "EZ");
    for (text, code) in [("SELECT 1", "0A000"), ("VACUUM", "42601"), ("PAUSE 'x", "42601")] {
        let reply = admin.query(text);
        let error = reply.error().unwrap();
        assert_eq!((error.code.as_str(), error.hint.as_str(), reply.status()), (code, "Use SHOW HELP.", 'I'), "{text}");
    }
    assert!(admin.query("SHOW VERSION").value().starts_with("PgBouncer 1.25"));
    admin.send(Request::new().query("SHOW VERSION").query("SHOW STATE").query("PAUSE nowhere.").bytes());
    assert_eq!([admin.reply().tags(), admin.reply().tags()], ["TDCZ", "TDDDCZ"]);
    assert_eq!(admin.reply().tags(), "CZ");
    admin.send(&[b'Q', 0x00, 0x01, 0xff, 0xff]);
    assert_eq!(admin.farewell().code, "08P01");
    assert_eq!(console(&plane).query("RESUME").commands(), ["RESUME"]);
}

#[test]
fn the_extended_protocol_is_spoken_whole() {
    let plane = builder().start();
    let mut admin = console(&plane);
    let reply = admin.ask(&Request::new().extended("SHOW STATE", &[]));
    assert_eq!(
        (reply.tags().as_str(), reply.values()),
        ("12DDDCZ", vec!["active".into(), "paused".into(), "suspended".into()])
    );
    let request =
        Request::new().parse("s", "SHOW STATE").describe_statement("s").bind("p", "s", &[]).describe_portal("p");
    let reply = admin.ask(&request.execute("p", 2).execute("p", 2).close_portal("p").sync());
    assert_eq!(reply.tags(), "1tT2TDDsDC3Z");
    let reply = admin.ask(&Request::new().run("s", &[]));
    assert_eq!(reply.tags(), "2DDDCZ");
    for (request, code) in [
        (Request::new().run("none", &[]), "26000"),
        (Request::new().parse("s", "SHOW STATE").sync(), "42P05"),
        (Request::new().execute("p", 0).sync(), "34000"),
        (Request::new().parse("", "SHOW STATE; SHOW STATE").sync(), "42601"),
        (Request::new().parse("", "SELECT 1").bind("", "", &[]).execute("", 0).sync(), "0A000"),
        (Request::new().run("s", &[Some("1")]), "08P01"),
        (Request::new().parse("", "RESUME").bind("", "", &[]).execute("", 0).execute("", 0).sync(), "55000"),
    ] {
        let reply = admin.ask(&request);
        assert_eq!((reply.code().as_str(), reply.status()), (code, 'I'), "{reply:?}");
        assert_eq!(reply.tags().matches('E').count(), 1, "{reply:?}");
    }
    let reply = admin.ask(&Request::new().parse("", " ").bind("", "", &[]).execute("", 0).sync());
    assert_eq!(reply.tags(), "12IZ");
    let reply = admin.ask(&Request::new().close_statement("s").sync());
    assert_eq!(reply.tags(), "3Z");
    assert_eq!(admin.query("BEGIN").status(), 'T');
    assert_eq!(admin.query("SHOW VERSION").status(), 'T');
    assert_eq!(admin.query("ROLLBACK").status(), 'I');
}

#[test]
fn psql_looks_around_without_losing_its_session() {
    let plane = builder().start();
    let mut psql = plane.program("psql");
    psql.args(["-XAtq", "-d", "pgbouncer"]);
    let input = b"\\d\n\\dt\n\\l\n\\du\nSELECT version();\nSHOW VERSION;\n";
    let output = run(&mut psql, input);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.trim_end().starts_with("PgBouncer 1.25"), "{out}{err}");
    assert!(err.contains("Use SHOW HELP.") && !err.contains("connection"), "{err}");
    let listed = run_well(plane.psql("optimacore").args(["-c", "SHOW POOLS", "-c", "SHOW DATABASES"]), b"");
    assert!(listed.lines().count() >= 2, "{listed}");
}

#[test]
fn psycopg_uses_the_console() {
    let drivers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers/python");
    let python = drivers.join(".venv/bin/python");
    assert!(python.exists(), "the drivers are not installed; run make deps");
    let plane = builder().start();
    let uri = format!("postgres://{SUPERUSER}@127.0.0.1:{}/pgbouncer", plane.port());
    let output = run(Command::new(python).arg(drivers.join("psycopg_console.py")).arg(uri), b"");
    assert!(output.status.success() && output.stdout == b"done\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tokio_postgres_reads_the_values_in_their_types_own_bytes() {
    let plane = builder().start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let uri = format!("postgres://{SUPERUSER}@127.0.0.1:{}/optimacore", plane.port());
        let (client, connection) = tokio_postgres::connect(&uri, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.query("SHOW LISTS", &[]).await.unwrap();
        let clients = rows.iter().find(|row| row.get::<_, &str>("list") == "used_clients").unwrap();
        assert_eq!(clients.get::<_, i32>("items"), 1);
        let rows = client.query("SHOW DATABASES", &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, Option<&str>>("load_balance_hosts"), None);
        drop(client);
        connection.await.unwrap().unwrap();
    });
}
