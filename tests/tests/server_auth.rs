//! What PostgreSQL may ask of us before it lets us in (`require_auth`), and certificates of its that have been revoked (`tls_crl`).

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use harness::certificate::{Authority, Files, Wanted};
use harness::impostor::message;
use harness::program::run;
use harness::{Cluster, Impostor, Plane, wait_until};

/// AuthenticationCleartextPassword.
const ASK_IN_CLEAR: &[u8] = &[0, 0, 0, 3];

/// A server that asks for the password in clear and tells what it is told.
fn thief(stolen: Sender<Option<u8>>) -> Impostor {
    let stolen = Arc::new(Mutex::new(stolen));
    Impostor::start(move |mut visit| {
        if visit.expect_startup() {
            visit.say(&message(b'R', ASK_IN_CLEAR));
            let answer = visit.expect().map(|message| message.tag);
            stolen.lock().unwrap().send(answer).unwrap();
        }
    })
}

/// What a query gives, or the error.
fn ask(plane: &Plane) -> Result<String, String> {
    let output = run(&mut plane.psql("postgres"), b"select current_user");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn a_server_that_asks_for_a_password_in_clear_is_told_none_when_it_must_not() {
    let (sender, stolen) = channel();
    let impostor = thief(sender);
    let builder = || Plane::before_port(impostor.port());
    let with_password = [("password", "sesame".into())];
    let plane = builder().server("require_auth", "scram-sha-256").database("*", &with_password).start();
    let error = ask(&plane).unwrap_err();
    assert!(error.contains("asks for the password in clear, which require_auth does not allow"), "{error}");
    assert_eq!(stolen.recv().unwrap(), None);
    drop(plane);
    // it would have been told
    let plane = builder().pool("query_wait_timeout", "1s").database("*", &with_password).start();
    ask(&plane).unwrap_err();
    wait_until("it is told", || stolen.recv().unwrap() == Some(b'p'));
}

#[test]
fn methods_are_allowed_and_ruled_out_as_by_libpq() {
    let cluster = Cluster::start();
    cluster.sql("set password_encryption = md5; create role by_md5 login password 'sesame'");
    cluster.sql("create role by_scram login password 'sesame'; create role by_trust login");
    cluster.put_file(
        "pg_hba.conf",
        "local all all trust\nhost all by_md5 all md5\nhost all by_scram all scram-sha-256\nhost all all all trust\n",
    );
    cluster.sql("select pg_reload_conf()");
    for methods in ["scram-sha-256", "md5", "none", "!none", "scram-sha-256,none", "!md5,!password"] {
        for user in ["by_md5", "by_scram", "by_trust"] {
            let keys = [("user", user.into()), ("password", "sesame".into()), ("require_auth", methods.into())];
            let plane = Plane::before(&cluster).database("*", &keys).start();
            // as libpq 16 and later; the one of Debian 12 does not know the key
            let allowed = match (methods, user) {
                ("scram-sha-256", _) => user == "by_scram",
                ("md5", _) => user == "by_md5",
                ("none", _) => user == "by_trust",
                ("!none", _) => user != "by_trust",
                _ => user != "by_md5",
            };
            let outcome = ask(&plane);
            if allowed {
                assert_eq!(outcome.as_deref(), Ok(user), "{methods}");
            } else {
                let error = outcome.unwrap_err();
                assert!(error.contains("which require_auth does not allow"), "{methods} {user}: {error}");
            }
        }
    }
}

#[test]
fn a_certificate_of_postgresql_that_has_been_revoked_is_refused() {
    let (authority, files, cluster) = (Authority::new("servers"), Files::new(), Cluster::start());
    let own = authority.sign(&Wanted { names: &["localhost"], serial: 7, ..Wanted::default() });
    let other = authority.sign(&Wanted { names: &["localhost"], serial: 8, ..Wanted::default() });
    cluster.put_file("server.crt", &own.pem);
    cluster.put_file("server.key", &own.key);
    cluster.sql("alter system set ssl = on");
    cluster.sql("alter system set listen_addresses = 'localhost'");
    cluster.restart();
    let (ca, crl) = (files.put("ca.crt", &authority.pem), files.put("servers.crl", &authority.revoke(&[&other])));
    for mode in ["verify-ca", "verify-full"] {
        let crl = files.put("servers.crl", &authority.revoke(&[&other]));
        let plane = Plane::before(&cluster)
            .server("tls", mode)
            .server("tls_ca", &ca)
            .server("tls_crl", &crl)
            .database("*", &[("host", "localhost".into())])
            .pool("server_lifetime", "1ms")
            .start();
        assert_eq!(ask(&plane).as_deref(), Ok("postgres"), "{mode}");
        // new lists are taken up as new certificates are
        files.put("servers.crl", &authority.revoke(&[&own]));
        wait_until("the list is read", || plane.said().contains("certificates have changed"));
        wait_until("it is refused", || {
            let outcome = ask(&plane);
            outcome.is_err_and(|error| error.to_lowercase().contains("revoked"))
        });
    }
    let said = Plane::before(&cluster).server("tls_crl", &crl).fail_to_start();
    assert!(said.contains("tls_crl has no meaning without tls_ca"), "{said}");
}

#[test]
fn the_log_tells_once_who_keeps_pinning_sessions_and_why() {
    let cluster = Cluster::shared();
    let database = cluster.make_database();
    let plane = Plane::before(cluster).start();
    let mut clients: Vec<_> = (0..3).map(|_| plane.client(&database)).collect();
    for client in &mut clients {
        client.query("SET application_name = 'night shift'");
        client.query("select setseed(0.5)");
    }
    let told = || plane.said().lines().filter(|line| line.contains("night shift")).count();
    wait_until("it is told", || told() > 0);
    let line = plane.said().lines().find(|line| line.contains("night shift")).unwrap().to_owned();
    for part in [format!("database=\"{database}\""), "reason=\"random seed\"".into(), "docs/pins.md".into()] {
        assert!(line.contains(&part), "{line}");
    }
    // the console's counts are as they should be, and the log has kept quiet
    let pinned = plane.pool(&database).servers_pinned;
    assert_eq!((pinned, told()), (3, 1), "{}", plane.said());
}
