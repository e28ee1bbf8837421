//! TLS between the data plane and PostgreSQL: every mode, certificates of all kinds, and servers that are none.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use harness::certificate::{Authority, Files, Usage, Wanted};
use harness::cluster::SUPERUSER;
use harness::program::{self, run, run_well};
use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, wait_until};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const IS_ENCRYPTED: &str = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()";

/// A cluster with `ssl = on`, its authority, and one that it trusts for clients.
struct Place {
    cluster: Cluster,
    authority: Authority,
    clients: Authority,
    files: Files,
    ca: String,
}

/// Who is let in how.
const HBA: &str = "
local all all trust
hostssl all only_tls all trust
hostnossl all only_tls all reject
hostnossl all only_clear all trust
hostssl all only_clear all reject
hostssl all certified all cert
hostssl all by_password all scram-sha-256
host all all all trust
";

impl Place {
    fn new() -> Self {
        let (authority, clients, files) = (Authority::new("servers"), Authority::new("clients"), Files::new());
        let cluster = Cluster::start();
        let own = authority.sign(&Wanted { names: &["localhost"], ..Wanted::default() });
        cluster.put_file("server.crt", &own.pem);
        cluster.put_file("server.key", &own.key);
        cluster.put_file("clients.crt", &clients.pem);
        cluster.put_file("pg_hba.conf", HBA);
        for (name, value) in [("ssl", "on"), ("ssl_ca_file", "clients.crt"), ("listen_addresses", "localhost")] {
            cluster.sql(&format!("alter system set {name} = '{value}'"));
        }
        for user in ["only_tls", "only_clear", "certified"] {
            cluster.sql(&format!("create role {user} login superuser"));
        }
        cluster.sql("create role by_password login superuser password 'sesame'");
        cluster.restart();
        let ca = files.put("servers.crt", &authority.pem);
        Self { cluster, authority, clients, files, ca }
    }

    fn shared() -> &'static Self {
        static SHARED: OnceLock<Place> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// A data plane that logs in as this user.
    fn plane(&self, mode: &str, user: &str) -> PlaneBuilder {
        Plane::before(&self.cluster)
            .server("tls", mode)
            .database("*", &[("host", "localhost".into()), ("user", user.into())])
    }

    /// As libpq connects.
    fn psql(&self, mode: &str, host: &str, ca: &str) -> Command {
        let mut command = program::command(&program::postgres("psql"));
        command.args(["-XAtqw", "-U", SUPERUSER, "-p", &self.cluster.port().to_string(), "-h", host, "-d", "postgres"]);
        command.env("PGSSLMODE", mode).env("PGSSLROOTCERT", ca).env("HOME", self.files.dir());
        command
    }
}

/// What a query gives, or the error.
fn ask(plane: &Plane, text: &str) -> Result<String, String> {
    let output = run(&mut plane.psql("postgres"), text.as_bytes());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn every_mode_encrypts_as_libpq_does() {
    let place = Place::shared();
    for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        for user in ["postgres", "only_tls", "only_clear"] {
            let mut builder = place.plane(mode, user);
            if mode.starts_with("verify") {
                builder = builder.server("tls_ca", &place.ca);
            }
            let plane = builder.start();
            let mut direct = place.psql(mode, "localhost", &place.ca);
            let libpq = run(direct.args(["-U", user]), IS_ENCRYPTED.as_bytes());
            let told = String::from_utf8_lossy(&libpq.stdout).trim_end().to_owned();
            match ask(&plane, IS_ENCRYPTED) {
                Ok(said) => assert_eq!(said, told, "{mode} {user}"),
                Err(error) => {
                    assert!(!libpq.status.success(), "{mode} {user}: {error}");
                    assert!(error.contains("pg_hba.conf"), "{mode} {user}: {error}");
                }
            }
        }
    }
}

#[test]
fn the_connection_that_listens_for_sessions_is_encrypted_too() {
    let place = Place::shared();
    let plane = place.plane("require", "only_tls").start();
    let mut client = plane.client("postgres");
    client.query("listen encrypted").good();
    wait_until("the line has taken over", || plane.pool("postgres").clients_listening == 1);
    let line =
        "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'optimacore listener'";
    assert_eq!(place.cluster.sql(line), "t");
    for number in 0..100 {
        place.cluster.sql(&format!("select pg_notify('encrypted', repeat('{number}.', 1000))"));
        let heard = client.receive();
        assert!(heard.tag == b'A' && heard.body.ends_with(format!("{number}.\0").as_bytes()), "{heard:?}");
    }
}

/// Makes PostgreSQL show another certificate.
fn show(place: &Place, name: &str, (certificate, key): (&str, &str)) {
    place.cluster.put_file(&format!("{name}.crt"), certificate);
    place.cluster.put_file(&format!("{name}.key"), key);
    place.cluster.sql(&format!("alter system set ssl_cert_file = '{name}.crt'"));
    place.cluster.sql(&format!("alter system set ssl_key_file = '{name}.key'"));
    place.cluster.sql("select pg_reload_conf()");
    wait_until("the certificate is in use", || place.cluster.sql("show ssl_key_file") == format!("{name}.key"));
}

/// A mode, the name or address by which the server is known, and whether that is good.
type Case<'a> = (&'a str, &'a str, bool);

/// Judged by us and by libpq: whether each mode and host name is served is the same, and as it should be.
fn judge(place: &Place, what: &str, ca: &str, cases: &[Case<'_>]) {
    for (mode, host, good) in cases {
        let plane = Plane::before(&place.cluster)
            .server("tls", mode)
            .server("tls_ca", ca)
            .database("*", &[("host", (*host).into())])
            .start();
        let libpq = run(&mut place.psql(mode, host, ca), b"select 1");
        assert_eq!(libpq.status.success(), *good, "{what}, libpq, {mode} {host}: {libpq:?}");
        match ask(&plane, IS_ENCRYPTED) {
            Ok(said) => assert!(*good && said == "t|TLSv1.3", "{what}, {mode} {host}: {said}"),
            Err(error) => {
                assert!(
                    !good && error.contains("TLS failed: invalid peer certificate"),
                    "{what}, {mode} {host}: {error}"
                );
            }
        }
    }
}

#[test]
fn certificates_are_judged_as_libpq_judges_them() {
    let place = Place::new();
    let (full, ca_only) = ("verify-full", "verify-ca");
    let (name, address) = ("localhost", "127.0.0.1");
    judge(&place, "a host name", &place.ca, &[(full, name, true), (full, address, false), (ca_only, address, true)]);
    let other = place.files.put("other.crt", &Authority::new("servers").pem);
    judge(&place, "another authority", &other, &[(full, name, false), (ca_only, name, false)]);
    let wanted = |common_name, names| Wanted { common_name, names, ..Wanted::default() };
    let cases: [(&str, Wanted<'_>, &[Case<'_>]); 6] = [
        ("an address", wanted("x", &["127.0.0.1"]), &[(full, address, true), (full, name, false)]),
        ("a common name", wanted("LocalHost", &[]), &[(full, name, true), (full, address, false)]),
        ("a void common name", wanted("localhost", &["db.example"]), &[(full, name, false), (ca_only, name, true)]),
        ("an address as common name", wanted("127.0.0.1", &["db.example"]), &[(full, address, true)]),
        (
            "for clients only",
            Wanted { names: &["localhost"], usage: Some(Usage::ClientAuth), ..Wanted::default() },
            &[(full, name, false), (ca_only, name, false)],
        ),
        (
            "out of date",
            Wanted { names: &["localhost"], expired: Some(()), ..Wanted::default() },
            &[(full, name, false), (ca_only, name, false)],
        ),
    ];
    for (number, (what, wanted, cases)) in cases.into_iter().enumerate() {
        let identity = place.authority.sign(&wanted);
        show(&place, &format!("case{number}"), (&identity.pem, &identity.key));
        judge(&place, what, &place.ca, cases);
    }
}

/// Runs `openssl` in a directory.
fn openssl(files: &Files, arguments: &str) {
    let mut command = Command::new("openssl");
    run_well(command.args(arguments.split_whitespace()).current_dir(files.dir()), b"");
}

/// A root, and what it signs for a server and a client without extensions, which is of version 1.
fn make_chain(files: &Files) {
    openssl(files, "req -new -nodes -text -out root.csr -keyout root.key -subj /CN=root");
    files.put("v3_ca", "[v3_ca]\nsubjectKeyIdentifier=hash\nbasicConstraints=critical,CA:true\n");
    openssl(
        files,
        "x509 -req -in root.csr -text -days 3650 -extfile v3_ca -extensions v3_ca -signkey root.key -out root.crt",
    );
    for (name, subject) in [("server", "localhost"), ("client", "ann")] {
        openssl(files, &format!("req -new -nodes -text -out {name}.csr -keyout {name}.key -subj /CN={subject}"));
        openssl(
            files,
            &format!(
                "x509 -req -in {name}.csr -text -days 365 -CA root.crt -CAkey root.key -CAcreateserial -out {name}.crt"
            ),
        );
    }
}

#[test]
fn the_recipes_of_postgresqls_documentation_work() {
    let place = Place::new();
    let read = |name: &str| std::fs::read_to_string(place.files.path(name)).unwrap();
    let path = |name: &str| place.files.path(name).display().to_string();
    // a certificate that is its own authority
    openssl(&place.files, "req -new -x509 -days 365 -nodes -text -out own.crt -keyout own.key -subj /CN=localhost");
    show(&place, "own", (&read("own.crt"), &read("own.key")));
    let cases =
        [("verify-full", "localhost", true), ("verify-ca", "127.0.0.1", true), ("verify-full", "127.0.0.1", false)];
    judge(&place, "self-signed", &path("own.crt"), &cases);
    judge(&place, "self-signed, unknown", &place.ca, &[("verify-ca", "localhost", false)]);
    make_chain(&place.files);
    show(&place, "leaf", (&read("server.crt"), &read("server.key")));
    judge(&place, "signed by a root", &path("root.crt"), &cases);
    judge(&place, "signed by another root", &path("own.crt"), &[("verify-ca", "localhost", false)]);
}

#[test]
fn our_own_certificate_logs_us_in() {
    let place = Place::shared();
    let identity = place.clients.sign(&Wanted { common_name: "certified", ..Wanted::default() });
    let (certificate, key) = place.files.put_identity("ours", &identity);
    let plane =
        place.plane("require", "certified").server("tls_certificate", &certificate).server("tls_key", &key).start();
    assert_eq!(ask(&plane, "select current_user").unwrap(), "certified");
    let without = place.plane("require", "certified").start();
    let error = ask(&without, "select 1").unwrap_err();
    assert!(error.contains("valid client certificate"), "{error}");
    // a new one is used without a restart, and connections made with the old one live on
    let other = place.clients.sign(&Wanted { common_name: "someone else", ..Wanted::default() });
    let mut held = plane.client("postgres");
    held.query("begin").good();
    place.files.put_identity("ours", &other);
    wait_until("the new certificate is used", || {
        plane.said().contains("new connections get the new ones")
            && plane.try_client(SUPERUSER, "template1", None).is_err()
    });
    assert_eq!(held.query("select current_user").value(), "certified");
}

#[test]
fn s07_a_server_without_tls_is_not_spoken_to_where_tls_is_required() {
    for mode in ["require", "verify-full"] {
        let place = Place::shared();
        let mut builder = Plane::before(Cluster::shared()).server("tls", mode);
        if mode == "verify-full" {
            builder = builder.server("tls_ca", &place.ca);
        }
        let plane = builder.start();
        let error = ask(&plane, "select 1").unwrap_err();
        assert!(error.contains("does not speak TLS") && error.contains(mode), "{error}");
    }
    let plane = Plane::before(Cluster::shared()).server("tls", "prefer").start();
    assert_eq!(ask(&plane, IS_ENCRYPTED).unwrap(), "f|");
}

/// A server that reads what comes first and says this; gives what came first on each connection.
fn impostor(words: &'static [u8]) -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut first) = (stream.unwrap(), [0; 8]);
            if stream.read_exact(&mut first).is_ok() {
                record.lock().unwrap().push(first.to_vec());
                // whoever has understood hangs up at once
                let _said: std::io::Result<()> = stream.write_all(words);
                let mut rest = Vec::new();
                let _end: std::io::Result<usize> = stream.read_to_end(&mut rest);
                record.lock().unwrap().push(rest);
            }
        }
    });
    (port, heard)
}

#[test]
fn s06_s08_what_a_server_says_in_clear_before_tls_is_nobodys_truth() {
    let forged: &[u8] = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let refusing: &[u8] = b"NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let error: &[u8] = b"E\0\0\0\x22SFATAL\0C28000\0Mforged words\0\0";
    for words in [forged, refusing, error, b"?"] {
        let (port, heard) = impostor(words);
        let plane = Plane::before(Cluster::shared())
            .server("tls", "require")
            .database("*", &[("port", i64::from(port).into())])
            .start();
        let said = ask(&plane, "select 1").unwrap_err();
        assert!(said.contains("cannot connect to PostgreSQL") && !said.contains("forged words"), "{said}");
        let heard = heard.lock().unwrap();
        // 22 begins a handshake
        let is_safe = |bytes: &Vec<u8>| matches!(bytes.first(), None | Some(22)) || **bytes == SSL_REQUEST;
        assert!(heard.iter().all(is_safe), "nothing is said in clear: {heard:?}");
    }
    let (port, heard) = impostor(error);
    let plane = Plane::before(Cluster::shared())
        .server("tls", "prefer")
        .limit("auth_timeout", "2s")
        .database("*", &[("port", i64::from(port).into())])
        .start();
    let mut client = RawClient::open(plane.port());
    client.send_startup(&[("user", SUPERUSER), ("database", "postgres")]);
    wait_until("it is tried in clear", || {
        heard.lock().unwrap().iter().any(|bytes| bytes.len() == 8 && bytes.get(4..) == Some(&[0, 3, 0, 0]))
    });
}

/// Passes connections on to a port; gives what came first on each.
fn recorder(to: u16) -> (u16, Arc<Mutex<Vec<[u8; 8]>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut first) = (stream.unwrap(), [0; 8]);
            stream.read_exact(&mut first).unwrap();
            record.lock().unwrap().push(first);
            let mut far = TcpStream::connect(("127.0.0.1", to)).unwrap();
            far.write_all(&first).unwrap();
            for (mut from, mut to) in [(stream.try_clone().unwrap(), far.try_clone().unwrap()), (far, stream)] {
                std::thread::spawn(move || {
                    let _len: std::io::Result<u64> = std::io::copy(&mut from, &mut to);
                    let _shut: std::io::Result<()> = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (port, heard)
}

#[test]
fn cancels_and_the_reader_of_catalogs_are_encrypted_too() {
    let place = Place::shared();
    let (port, heard) = recorder(place.cluster.port());
    let plane = Plane::before(&place.cluster)
        .server("tls", "verify-full")
        .server("tls_ca", &place.ca)
        .database("*", &[("host", "127.0.0.1".into()), ("port", i64::from(port).into())]);
    // the certificate is for localhost
    let error = ask(&plane.start(), "select 1").unwrap_err();
    assert!(error.contains("it is for localhost, not for \"127.0.0.1\""), "{error}");
    let plane = Plane::before(&place.cluster)
        .server("tls", "verify-ca")
        .server("tls_ca", &place.ca)
        .database("*", &[("port", i64::from(port).into())])
        .start();
    let mut client = plane.client("postgres");
    client.send(Request::new().query("select pg_sleep(61)").bytes());
    let sleeping = "select count(*) from pg_stat_activity where query = 'select pg_sleep(61)'";
    wait_until("it sleeps", || place.cluster.sql(sleeping) == "1");
    client.cancel();
    assert_eq!(client.reply().code(), "57014");
    assert_eq!(client.query("select 1").value(), "1");
    let reads = "select count(*) from pg_stat_activity a join pg_stat_ssl s using (pid)
        where application_name = 'optimacore catalog' and s.ssl";
    wait_until("the catalog is read", || place.cluster.sql(reads) == "1");
    let heard = heard.lock().unwrap();
    assert!(heard.len() >= 3 && heard.iter().all(|first| *first == SSL_REQUEST), "{heard:?}");
}

#[test]
fn pgbench_runs_through_tls_on_both_sides_and_connections_move_between_shards() {
    let place = Place::shared();
    let own = Files::new();
    let (certificate, key) =
        own.put_identity("plane", &place.authority.sign(&Wanted { names: &["localhost"], ..Wanted::default() }));
    let plane = place
        .plane("verify-full", SUPERUSER)
        .server("tls_ca", &place.ca)
        .listen_tls("require", &[("certificate", &certificate), ("key", &key)])
        .cores("0,1")
        .pool("size", 2)
        .start();
    let database = place.cluster.make_database();
    let pgbench = |arguments: &[&str]| {
        let mut command = plane.program("pgbench");
        command.env("PGSSLMODE", "require").args(arguments).arg(&database);
        run_well(&mut command, b"")
    };
    pgbench(&["-i", "-q"]);
    for arguments in [
        ["-S", "-M", "prepared", "-t", "200"],
        ["-N", "-M", "extended", "-t", "100"],
        ["-S", "-M", "simple", "-t", "100"],
    ] {
        let text = pgbench(&[&arguments[..], &["-n", "-c", "12", "-j", "12"]].concat());
        assert!(text.contains("number of failed transactions: 0 "), "{text}");
    }
    let pool = plane.pool(&database);
    assert!(pool.requests_relayed > 0, "connections have moved: {pool:?}");
    assert!(pool.permits_held <= 2, "{pool:?}");
}

#[test]
fn megabytes_pass_through_tls_on_both_sides() {
    let place = Place::shared();
    let own = Files::new();
    let (certificate, key) = own.put_identity("plane", &place.authority.sign(&Wanted::default()));
    let plane =
        place.plane("require", SUPERUSER).listen_tls("prefer", &[("certificate", &certificate), ("key", &key)]).start();
    let database = place.cluster.make_database();
    let lines: String = (0..150_000).map(|n| format!("{n}\tline number {n} of a long copy\n")).collect();
    let psql = |text: &str| {
        let mut command = plane.psql(&database);
        run_well(command.env("PGSSLMODE", "require"), text.as_bytes())
    };
    let script =
        format!("create table t (n int, line text);\ncopy t from stdin;\n{lines}\\.\nselect count(*) from t;\n");
    assert_eq!(psql(&script), "150000");
    assert!(psql("copy (select * from t order by n) to stdout") == lines.trim_end());
    assert_eq!(psql("select repeat('x', 9000000)").len(), 9_000_000);
}

#[test]
fn our_proof_of_the_password_is_bound_to_postgresqls_certificate() {
    let place = Place::shared();
    let plane = |mode: &str, password: &str| {
        Plane::before(&place.cluster)
            .server("tls", mode)
            .database("*", &[("user", "by_password".into()), ("password", password.into())])
            .start()
    };
    // PostgreSQL refuses a client that says it could bind and does not
    assert_eq!(ask(&plane("require", "sesame"), "select current_user").unwrap(), "by_password");
    assert!(ask(&plane("require", "open"), "select 1").unwrap_err().contains("password authentication failed"));
    // and our own two roles understand each other
    let outer = Files::new();
    let (certificate, key) = outer.put_identity("between", &Authority::new("x").sign(&Wanted::default()));
    let between = Plane::before(&place.cluster)
        .listen_tls("require", &[("certificate", &certificate), ("key", &key)])
        .user_scram("by_password", "sesame")
        .start();
    let bound = Plane::before(Cluster::shared())
        .server("tls", "require")
        .database(
            "*",
            &[
                ("port", i64::from(between.port()).into()),
                ("user", "by_password".into()),
                ("password", "sesame".into()),
            ],
        )
        .start();
    assert_eq!(ask(&bound, "select 1").unwrap(), "1");
}

#[test]
fn tls_1_2_and_certificates_of_version_1_do_on_both_sides() {
    let place = Place::new();
    make_chain(&place.files);
    let path = |name: &str| place.files.path(name).display().to_string();
    let read = |name: &str| std::fs::read_to_string(place.files.path(name)).unwrap();
    place.cluster.sql("alter system set ssl_max_protocol_version = 'TLSv1.2'");
    show(&place, "leaf", (&read("server.crt"), &read("server.key")));
    let own = [("certificate", path("server.crt")), ("key", path("server.key")), ("client_ca", path("root.crt"))];
    let plane = place
        .plane("verify-full", SUPERUSER)
        .server("tls_ca", &path("root.crt"))
        .listen_tls("verify-ca", &own.each_ref().map(|(key, path)| (*key, path.as_str())))
        .start();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let mut command = plane.psql("postgres");
        command.args(["-h", "localhost"]).env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", path("root.crt"));
        command.env("PGSSLCERT", path("client.crt")).env("PGSSLKEY", path("client.key"));
        command.env("PGSSLMAXPROTOCOLVERSION", version);
        let said = run_well(&mut command, format!("\\conninfo\n{IS_ENCRYPTED}").as_bytes());
        assert!(said.contains(&format!("protocol: {version}")) && said.ends_with("t|TLSv1.2"), "{said}");
    }
    // a certificate of the same kind by somebody else
    let stranger = Files::new();
    make_chain(&stranger);
    let mut command = plane.psql("postgres");
    command.args(["-h", "localhost"]).env("PGSSLMODE", "require").env("PGSSLMAXPROTOCOLVERSION", "TLSv1.2");
    command.env("PGSSLCERT", stranger.path("client.crt")).env("PGSSLKEY", stranger.path("client.key"));
    assert!(!run(&mut command, b"select 1").status.success());
}
