//! Several hosts of a database, and names whose addresses change.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs;
use std::net::TcpListener;
use std::sync::OnceLock;

use harness::cluster::SUPERUSER;
use harness::console::{find, rows};
use harness::program::run;
use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, port, wait_until};
use tempfile::TempDir;

const WHERE: &str = "SELECT host(inet_server_addr())";

/// A cluster that is at two addresses.
fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = Cluster::start();
        cluster.put_file("pg_hba.conf", "local all all trust\nhost all all 127.0.0.0/8 trust\n");
        cluster.sql("alter system set listen_addresses = '127.0.0.1,127.0.0.2'");
        cluster.restart();
        cluster
    })
}

/// A hosts file that only the data plane sees.
struct Hosts(TempDir);

impl Hosts {
    fn new(text: &str) -> Self {
        let hosts = Self(tempfile::tempdir().unwrap());
        hosts.write(text);
        hosts
    }

    /// In place: what is mounted is this file, not its name.
    fn write(&self, text: &str) {
        fs::write(self.0.path().join("hosts"), format!("127.0.0.1 localhost\n{text}\n")).unwrap();
    }

    fn plane(&self, host: &str) -> PlaneBuilder {
        let see = "mount --bind \"$HOSTS_FILE\" /etc/hosts && exec \"$@\"";
        Plane::before(cluster())
            .under(&["unshare", "-rm", "sh", "-c", see, "sh"])
            .variable("HOSTS_FILE", &self.0.path().join("hosts").display().to_string())
            .dns("max_ttl", "200ms")
            .dns("nxdomain_ttl", "200ms")
            .console("admin_users", &[SUPERUSER])
            .database("*", &[("host", host.into())])
    }
}

fn addresses_of(admin: &mut RawClient, name: &str) -> String {
    find(&rows(admin, "SHOW DNS_HOSTS"), "hostname", name)["addrs"].clone()
}

/// Connections of a data plane to the cluster's port at an address, as the kernel writes it.
fn connections_to(plane: &Plane, address: &str) -> usize {
    let place = format!("{address}:{:04X}", cluster().port());
    let files = fs::read_dir(format!("/proc/{}/fd", plane.id())).unwrap();
    let own: Vec<String> = files
        .filter_map(|file| Some(fs::read_link(file.unwrap().path()).ok()?.display().to_string()))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", plane.id())).unwrap();
    let is_own = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(2) == Some(&place.as_str()) && fields.get(9).is_some_and(|inode| own.iter().any(|own| own == inode))
    };
    table.lines().filter(is_own).count()
}

#[test]
fn a_name_that_moves_is_followed_and_what_is_in_use_ends_when_it_is_free() {
    let database = cluster().make_database();
    let hosts = Hosts::new("127.0.0.1 db.test");
    let plane = hosts.plane("db.test").start();
    let mut admin = plane.client("optimacore");
    let (mut busy, mut other) = (plane.client(&database), plane.client(&database));
    busy.query("BEGIN");
    assert_eq!(busy.query(WHERE).value(), "127.0.0.1");
    assert_eq!(addresses_of(&mut admin, "db.test"), "127.0.0.1");
    let ttl = find(&rows(&mut admin, "SHOW DNS_HOSTS"), "hostname", "db.test")["ttl"].clone();
    assert_eq!(ttl, "0", "less than a second");

    hosts.write("127.0.0.2 db.test");
    wait_until("the name is looked up again", || addresses_of(&mut admin, "db.test") == "127.0.0.2");
    wait_until("new connections go there", || other.query(WHERE).value() == "127.0.0.2");
    assert_eq!(busy.query(WHERE).value(), "127.0.0.1", "a transaction goes on where it is");
    busy.query("COMMIT");
    assert_eq!(busy.query(WHERE).value(), "127.0.0.2");
    wait_until("nothing is left at the old place, the reader of the catalog included", || {
        connections_to(&plane, "0100007F") == 0 && connections_to(&plane, "0200007F") > 0
    });
    let servers = rows(&mut admin, "SHOW SERVERS");
    assert!(servers.iter().all(|row| row["addr"] == "127.0.0.2"), "{servers:?}");

    // a name that is lost keeps what it had
    hosts.write("");
    wait_until("that is told", || plane.said().contains("a host name cannot be looked up"));
    assert_eq!(addresses_of(&mut admin, "db.test"), "127.0.0.2");
    assert_eq!(plane.client(&database).query(WHERE).value(), "127.0.0.2");
}

#[test]
fn a_name_that_is_not_known_yet_keeps_nobody_from_starting() {
    let database = cluster().make_database();
    let hosts = Hosts::new("");
    let plane = hosts.plane("late.test").pool("query_wait_timeout", "500ms").start();
    let output = run(&mut plane.psql(&database), WHERE.as_bytes());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("late.test") && error.contains("its host name cannot be looked up"), "{error}");
    hosts.write("127.0.0.2 late.test");
    wait_until("it is found", || run(&mut plane.psql(&database), WHERE.as_bytes()).stdout == b"127.0.0.2\n");
}

#[test]
fn hosts_are_tried_in_their_order_and_the_first_is_used_again_when_it_is_back() {
    let database = cluster().make_database();
    let gone = port::free();
    let list = vec![format!("127.0.0.1:{gone}"), "127.0.0.2".to_owned(), "127.0.0.1".to_owned()];
    let plane = Plane::before(cluster())
        .console("admin_users", &[SUPERUSER])
        .pool("query_wait_timeout", "5s")
        .database("*", &[("host", list.clone().into())])
        .start();
    let mut client = plane.client(&database);
    assert_eq!(client.query(WHERE).value(), "127.0.0.2");
    let mut admin = plane.client("optimacore");
    assert_eq!(find(&rows(&mut admin, "SHOW DATABASES"), "name", &database)["host"], list.join(","));

    // a cancel goes where the request is, not to the first place
    client.send(Request::new().query("SELECT pg_sleep(60)").bytes());
    wait_until("it runs", || {
        cluster().sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)' AND state = 'active'") == "1"
    });
    client.cancel();
    assert_eq!(client.reply().code(), "57014");

    // somebody listens at the first place, and hangs up on everybody
    let listener = TcpListener::bind(("127.0.0.1", gone)).unwrap();
    let visits = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(stream);
    });
    admin.query("RECONNECT");
    wait_until("the first place is tried again", || {
        admin.query("RECONNECT");
        assert_eq!(client.query(WHERE).value(), "127.0.0.2");
        visits.is_finished()
    });
    assert_eq!(client.query(WHERE).value(), "127.0.0.2");
}

#[test]
fn a_reload_moves_a_database() {
    let database = cluster().make_database();
    let plane = Plane::before(cluster())
        .console("admin_users", &[SUPERUSER])
        .database("*", &[("host", "127.0.0.1".into())])
        .start();
    let (mut admin, mut busy, mut other) =
        (plane.client("optimacore"), plane.client(&database), plane.client(&database));
    busy.query("BEGIN");
    assert_eq!(busy.query(WHERE).value(), "127.0.0.1");
    assert_eq!(other.query(WHERE).value(), "127.0.0.1");
    // before there is a connection that listens for all, a session has one of its own, and keeps it
    let mut first = plane.client(&database);
    first.query("LISTEN anything");
    wait_until("there is one that listens for all", || {
        admin.query("SHOW LISTENERS").rows().iter().flatten().flatten().any(|value| value == "connected")
    });
    first.hang_up();
    let mut listening = plane.client(&database);
    listening.query("LISTEN moved");
    wait_until("it is listened for", || plane.pool(&database).clients_listening == 1);
    plane.edit_config(|text| text.replace("host = \"127.0.0.1\"", "host = \"localhost:1,127.0.0.2\""));
    assert_eq!(admin.query("RELOAD").error(), None);
    wait_until("new connections go there", || other.query(WHERE).value() == "127.0.0.2");
    assert_eq!(busy.query(WHERE).value(), "127.0.0.1", "a transaction goes on where it is");
    busy.query("COMMIT");
    assert_eq!(busy.query(WHERE).value(), "127.0.0.2");
    wait_until("nothing is left at the old place", || connections_to(&plane, "0100007F") == 0);
    // the one that listens for sessions has gone along: they are listened for as before
    wait_until("notifications come", || {
        other.query("NOTIFY moved");
        listening.query("SELECT 1").messages.iter().any(|message| message.tag == b'A')
    });
    // a name that is new is looked up from now on
    assert!(addresses_of(&mut admin, "localhost").contains("127.0.0.1"));
    // the reader of the catalog has gone along, so reads are shared as before
    wait_until("the catalog is read there", || connections_to(&plane, "0200007F") >= 2);
    // without a server to listen by, it would keep the connection it has
    listening.hang_up();
    let refused = "target_session_attrs = \"standby\"\nhost = ";
    plane.edit_config(|text| text.replace("host = ", refused));
    assert_eq!(admin.query("RELOAD").error(), None);
    wait_until("no server is wanted any more", || {
        rows(&mut admin, "SHOW SERVERS").is_empty() && connections_to(&plane, "0200007F") == 0
    });
}

#[test]
fn a_standby_is_passed_over_where_sessions_must_write() {
    let primary = Cluster::start();
    let standby = Cluster::replica_of(&primary);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", standby.port(), primary.port());
    let in_recovery = "SELECT pg_is_in_recovery()";
    for (attrs, answer) in [("any", "t"), ("read-write", "f"), ("primary", "f"), ("standby", "t"), ("read-only", "t")] {
        let keys = [("host", hosts.clone().into()), ("target_session_attrs", attrs.into())];
        let plane = Plane::before(&primary).database("*", &keys).start();
        assert_eq!(plane.client("postgres").query(in_recovery).value(), answer, "{attrs}");
    }
    let keys = [("target_session_attrs", "standby".into())];
    let plane = Plane::before(&primary).pool("query_wait_timeout", "500ms").database("*", &keys).start();
    let output = run(&mut plane.psql("postgres"), in_recovery.as_bytes());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("it is no standby"), "{error}");
}

#[test]
fn hosts_that_make_no_sense_are_told_before_anything_starts() {
    for (host, why) in
        [("db:0", "is no port"), ("db,", "is no IP address, host name"), ("a b", "is no IP address, host name")]
    {
        let said = Plane::before(cluster()).database("*", &[("host", host.into())]).fail_to_start();
        assert!(said.contains(why), "{host}: {said}");
    }
}
