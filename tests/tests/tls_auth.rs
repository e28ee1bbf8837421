//! Rules of who may come in, for clients with TLS and without.

use std::process::Command;

use harness::certificate::{Authority, Files, Identity, Wanted};
use harness::cluster::SUPERUSER;
use harness::program::{run, run_well};
use harness::{Cluster, Plane, PlaneBuilder};

struct Place {
    authority: Authority,
    files: Files,
    ca: String,
    certificate: String,
    key: String,
}

impl Place {
    fn new() -> Self {
        let (authority, files) = (Authority::new("the tests' authority"), Files::new());
        let own = authority.sign(&Wanted { common_name: "plane", names: &["localhost"], ..Wanted::default() });
        let (certificate, key) = files.put_identity("plane", &own);
        let ca = files.put("ca.crt", &authority.pem);
        Self { authority, files, ca, certificate, key }
    }

    fn plane(&self, mode: &str, more: &[(&str, &str)]) -> PlaneBuilder {
        let own = [("certificate", self.certificate.as_str()), ("key", &self.key)];
        Plane::before(Cluster::shared()).listen_tls(mode, &[&own[..], more].concat())
    }

    fn identity(&self, common_name: &str) -> Identity {
        self.authority.sign(&Wanted { common_name, ..Wanted::default() })
    }

    /// `psql` by TCP with this `sslmode`, with a certificate or without.
    fn psql(&self, plane: &Plane, mode: &str, identity: Option<&Identity>) -> Command {
        let mut command = plane.psql("postgres");
        let (certificate, key) = match identity {
            Some(identity) => self.files.put_identity("client", identity),
            None => ("/nowhere/certificate".to_owned(), "/nowhere/key".to_owned()),
        };
        command.args(["-h", "localhost"]).env("PGSSLMODE", mode).env("PGSSLROOTCERT", &self.ca);
        command.env("PGSSLCERT", certificate).env("PGSSLKEY", key).env("PGPASSWORD", "sesame");
        command.env("HOME", self.files.dir());
        command
    }
}

/// Why it is not let in.
fn refusal(command: &mut Command) -> String {
    let output = run(command, b"select 1");
    assert!(!output.status.success(), "it was let in: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn rules_tell_clients_with_tls_from_those_without() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).rule("hostssl", "all", "all", "trust").start();
    assert_eq!(run_well(&mut place.psql(&plane, "verify-full", None), b"select 1"), "1");
    let told = refusal(&mut place.psql(&plane, "disable", None));
    assert!(told.contains("no pg_hba.conf entry for host") && told.contains("no encryption"), "{told}");

    let plane = place.plane("prefer", &[]).rule("hostnossl", "all", "all", "trust").start();
    assert_eq!(run_well(&mut place.psql(&plane, "disable", None), b"select 1"), "1");
    let told = refusal(&mut place.psql(&plane, "require", None));
    assert!(told.contains("no pg_hba.conf entry for host") && told.contains("SSL encryption"), "{told}");
}

#[test]
fn method_cert_lets_in_whom_the_certificate_names_and_nobody_else() {
    let place = Place::new();
    let plane = place.plane("verify-ca", &[("client_ca", &place.ca)]).rule("hostssl", "all", "all", "cert").start();
    let own = place.identity(SUPERUSER);
    assert_eq!(run_well(&mut place.psql(&plane, "verify-full", Some(&own)), b"select 1"), "1");

    let other = place.identity("somebody_else");
    let strangers = Authority::new("another authority");
    let forged = strangers.sign(&Wanted { common_name: SUPERUSER, ..Wanted::default() });
    let failed = format!("certificate authentication failed for user \"{SUPERUSER}\"");
    let told = refusal(&mut place.psql(&plane, "verify-full", Some(&other)));
    assert!(told.contains(&failed), "{told}");
    // with these the handshake does not even come about
    for identity in [None, Some(&forged)] {
        let told = refusal(&mut place.psql(&plane, "verify-full", identity));
        assert!(!told.contains(&failed), "{told}");
    }
}

#[test]
fn a_map_says_as_whom_the_owner_of_a_certificate_may_come_in() {
    let place = Place::new();
    let rules = place.files.put("hba", "hostssl all all all cert map=people\n");
    let maps = place.files.put("ident", &format!("people /^(.*)@example\\.com$ {SUPERUSER}\n"));
    let plane = place.plane("verify-ca", &[("client_ca", &place.ca)]).auth("hba_file", rules).auth("ident_file", maps);
    let plane = plane.start();
    let known = place.identity("ann@example.com");
    assert_eq!(run_well(&mut place.psql(&plane, "verify-full", Some(&known)), b"select current_user"), SUPERUSER);
    for other in ["ann@example.org", SUPERUSER] {
        let told = refusal(&mut place.psql(&plane, "verify-full", Some(&place.identity(other))));
        assert!(told.contains("certificate authentication failed"), "{other}: {told}");
    }
}

#[test]
fn keys_and_lookups_pass_through_tls_on_both_sides() {
    let (place, cluster) = (Place::new(), Cluster::start());
    let own = place.authority.sign(&Wanted { names: &["localhost"], ..Wanted::default() });
    cluster.put_file("server.crt", &own.pem);
    cluster.put_file("server.key", &own.key);
    cluster.sql("alter system set ssl = 'on'");
    cluster.sql("create role looker login superuser; create role ann login password 'sesame'");
    let rules = "host all postgres all trust\nhostssl all looker all trust\nhostssl all ann all scram-sha-256\n";
    cluster.restart_with_rules(rules);
    let files = [("certificate", place.certificate.as_str()), ("key", &place.key)];
    let plane = Plane::before(&cluster)
        .as_the_client()
        .listen_tls("require", &files)
        .server("tls", "require")
        .auth("auth_user", "looker")
        .start();
    let mut command = place.psql(&plane, "require", None);
    command.args(["-U", "ann"]).env("PGCHANNELBINDING", "require");
    let question = "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(run_well(&mut command, question.as_bytes()), "ann|t");
}
