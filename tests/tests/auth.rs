//! Rules of who may come in, users that are known from elsewhere, and what is logged in with at PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use dbproto::auth::ClientAuth;
use dbproto::message::backend::Authentication;
use harness::{Cluster, ErrorReply, Plane, PlaneBuilder, RawClient, wait_until};
use tempfile::TempDir;

/// A file that only its owner may read.
fn private(name: &str, text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    (dir, path)
}

fn outcome(login: Result<RawClient, ErrorReply>) -> String {
    match login {
        Ok(mut client) => client.query("select 'in as ' || current_user || ' to ' || current_database()").value(),
        Err(error) => format!("{} {} {}", error.severity, error.code, error.message),
    }
}

fn straight(cluster: &Cluster, user: &str, database: &str, password: &str) -> String {
    let parameters = [("user", user), ("database", database), ("application_name", "test")];
    outcome(RawClient::connect(cluster.port(), &parameters, Some(password)))
}

const TRUST_POSTGRES: &str = "host all postgres 127.0.0.1/32 trust\n";

/// A cluster of a test's own with users whose password is `right`.
fn cluster_with_users(rules: &str) -> Cluster {
    let cluster = Cluster::start();
    cluster.sql(
        "create role ann login password 'right'; create role dave nologin password 'right';
         create role carol login; create role old login password 'right' valid until '2001-01-01';
         create role young login password 'right' valid until 'infinity';
         set password_encryption = md5; create role bob login password 'right'; create role mallory login password 'right'",
    );
    for database in ["app", "other", "ann", "\"all\""] {
        cluster.sql(&format!("create database {database}"));
    }
    cluster.restart_with_rules(&format!("{TRUST_POSTGRES}{rules}"));
    cluster
}

/// Looks users up in PostgreSQL and logs in as they do.
fn looking_up(cluster: &Cluster) -> PlaneBuilder {
    Plane::before(cluster).as_the_client().auth("auth_user", "postgres")
}

#[test]
fn rules_are_judged_as_postgres_judges_them() {
    let rules = "# who may come in\n\
        host all mallory all reject\n\
        host sameuser all 127.0.0.0/8 scram-sha-256\n\
        host app ann,bob,old,young samehost md5 # two\n\
        host app,other \"carol\",nobody 127.0.0.1 255.255.255.255 trust\n\
        host \"all\" ann,bob all password\n\
        host other ann 10.0.0.0/8 trust\n\
        local other ann trust\n\
        hostssl other ann all trust\n\
        host replication ann all trust\n\
        hostnossl other ann,bob,dave,old,nowhere \\\n  samenet password\n";
    let cluster = cluster_with_users(rules);
    let (_dir, path) = private("hba.conf", &format!("{TRUST_POSTGRES}{rules}"));
    let plane = looking_up(&cluster).auth("hba_file", path.display().to_string()).auth("auth_delay_max", "0s").start();
    let mut seen = std::collections::BTreeSet::new();
    for user in ["ann", "bob", "carol", "dave", "mallory", "nobody", "old", "young", "nowhere", "postgres"] {
        for database in ["app", "other", "ann", "all", "missing"] {
            for password in ["right", "wrong"] {
                let theirs = straight(&cluster, user, database, password);
                let ours = outcome(plane.try_client(user, database, Some(password)));
                assert_eq!(ours, theirs, "{user} to {database} with the {password} password");
                seen.insert(theirs.split(' ').take(2).collect::<Vec<_>>().join(" "));
            }
        }
    }
    // the cases are not all of one kind
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["FATAL 28000", "FATAL 28P01", "FATAL 3D000", "in as"]);
}

#[test]
fn somebody_without_a_rule_is_told_what_is_missing() {
    let plane =
        Plane::before(Cluster::shared()).rule("host", "\"/^post\"", "127.0.0.0/8", "trust").user_named("ann").start();
    assert_eq!(outcome(plane.try_client("postgres", "postgres", None)), "in as postgres to postgres");
    let words =
        "FATAL 28000 no pg_hba.conf entry for host \"127.0.0.1\", user \"ann\", database \"postgres\", no encryption";
    assert_eq!(outcome(plane.try_client("ann", "postgres", None)), words);
}

#[test]
fn users_of_a_list_log_in_with_whatever_is_known_of_them() {
    let cluster = cluster_with_users("host all all all trust\n");
    let md5 = cluster.sql("select rolpassword from pg_authid where rolname = 'bob'");
    let scram = cluster.sql("select rolpassword from pg_authid where rolname = 'ann'");
    let list = format!("; users\n\"ann\" \"{scram}\"\n\"bob\" \"{md5}\" \"\"\n\"young\" \"ri\"\"ght\"\n");
    let (_dir, path) = private("userlist.txt", &list);
    let base = || {
        let plane = Plane::before(&cluster).as_the_client().auth("auth_file", path.display().to_string());
        plane.auth("auth_delay_max", "0s")
    };
    let by = |method: &str| base().rule("host", "all", "all", method).start();
    for plane in [base().start(), by("md5"), by("password")] {
        for (user, password) in [("ann", "right"), ("bob", "right"), ("young", "ri\"ght")] {
            let expected = format!("in as {user} to app");
            assert_eq!(outcome(plane.try_client(user, "app", Some(password))), expected);
            let refused = outcome(plane.try_client(user, "app", Some("wrong")));
            assert_eq!(refused, format!("FATAL 28P01 password authentication failed for user \"{user}\""));
        }
        assert!(outcome(plane.try_client("carol", "app", Some("right"))).starts_with("FATAL 28P01"));
    }
    let plane = by("scram-sha-256");
    assert_eq!(outcome(plane.try_client("ann", "app", Some("right"))), "in as ann to app");
    assert_eq!(outcome(plane.try_client("young", "app", Some("ri\"ght"))), "in as young to app");
    assert!(outcome(plane.try_client("bob", "app", Some("right"))).starts_with("FATAL 28P01"));
}

#[test]
fn what_a_scram_login_shows_opens_the_server_connection() {
    let cluster = cluster_with_users("host all all all scram-sha-256\n");
    let scram = cluster.sql("select rolpassword from pg_authid where rolname = 'ann'");
    let (_dir, path) = private("userlist.txt", &format!("\"ann\" \"{scram}\"\n"));
    let plane = Plane::before(&cluster).as_the_client().auth("auth_file", path.display().to_string()).start();
    assert_eq!(outcome(plane.try_client("ann", "app", Some("right"))), "in as ann to app");
    // a new password there: the old keys do not fit any more, and PostgreSQL's refusal is passed on
    cluster.sql("alter role ann password 'changed'; select pg_terminate_backend(pid) from pg_stat_activity where usename = 'ann'");
    let refused = outcome(plane.try_client("ann", "other", Some("right")));
    assert_eq!(refused, "FATAL 28P01 password authentication failed for user \"ann\"");
}

#[test]
fn keys_that_a_login_has_shown_are_kept_across_a_reload_and_lost_with_the_password() {
    let cluster = cluster_with_users("host all all all scram-sha-256\n");
    let plane = looking_up(&cluster).console("admin_users", &["postgres"]).pool("size", 2).start();
    let end_all = || {
        cluster.sql("select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = 'ann'");
    };
    let mut client = plane.try_client("ann", "app", Some("right")).unwrap();
    assert_eq!(client.query("select current_user").good().value(), "ann");
    let mut admin = plane.try_client("postgres", "optimacore", None).unwrap();
    for _ in 0..2 {
        plane.edit_config(|text| text.replacen("size = 2", "size = 3", 1));
        assert_eq!(admin.query("RELOAD").commands(), ["RELOAD"]);
        end_all();
        wait_until("a new connection serves it", || {
            client.query("select current_user").rows() == [[Some("ann".to_owned())]]
        });
    }
    cluster.sql("alter role ann password 'changed'");
    end_all();
    wait_until("the old keys fit no more", || client.query("select 1").code() == "08006");
    let again = || outcome(plane.try_client("ann", "app", Some("changed")));
    wait_until("the new password is known", || again() == "in as ann to app");
}

#[test]
fn what_an_md5_login_shows_opens_the_server_connection() {
    let cluster = cluster_with_users("host all all all md5\n");
    // with one connection only one shard has the pool, and the other hands its clients on
    let plane = looking_up(&cluster).cores("0,1").pool("size", 1).start();
    for _ in 0..8 {
        assert_eq!(outcome(plane.try_client("bob", "app", Some("right"))), "in as bob to app");
    }
    let md5 = cluster.sql("select rolpassword from pg_authid where rolname = 'bob'");
    let (_dir, path) = private("userlist.txt", &format!("\"bob\" \"{md5}\"\n"));
    // the list has enough for a forced user
    let keys = [("user", "bob".into()), ("dbname", "other".into())];
    let plane = Plane::before(&cluster).as_the_client().auth("auth_file", path.display().to_string());
    let plane = plane.database("front", &keys).start();
    assert_eq!(outcome(plane.try_client("postgres", "front", None)), "in as bob to other");
}

#[test]
fn a_password_in_clear_text_is_passed_on_to_whatever_postgres_asks_for() {
    for method in ["scram-sha-256", "password"] {
        let cluster = cluster_with_users(&format!("host all all all {method}\n"));
        let plane = looking_up(&cluster).rule("host", "all", "all", "password").start();
        assert_eq!(outcome(plane.try_client("ann", "app", Some("right"))), "in as ann to app");
        assert!(outcome(plane.try_client("ann", "app", Some("wrong"))).starts_with("FATAL 28P01"));
    }
}

#[test]
fn users_are_looked_up_once_for_many_and_again_after_a_while() {
    let cluster = cluster_with_users("host all all all scram-sha-256\n");
    cluster.sql(
        "create schema lookup; create table lookup.asked (name text);
         create function lookup.find(name text) returns table (a text, b text) language sql security definer as
         'insert into lookup.asked values ($1); select rolname::text, rolpassword from pg_catalog.pg_authid where rolname = $1';
         create role looker login password 'looks'; grant usage on schema lookup to looker",
    );
    let (_dir, path) = private("looker", "looks\n");
    let plane = Plane::before(&cluster)
        .as_the_client()
        .auth("auth_user", "looker")
        .auth("auth_password_file", path.display().to_string())
        .auth("auth_dbname", "postgres")
        .auth("auth_query", "select a, b from lookup.find($1)")
        .auth("auth_cache_time", "2s")
        .auth("auth_delay_max", "0s")
        .start();
    let asked = || cluster.sql("select count(*) from lookup.asked");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(outcome(plane.try_client("ann", "app", Some("right"))), "in as ann to app"));
        }
    });
    assert_eq!(asked(), "1");
    for _ in 0..4 {
        assert!(outcome(plane.try_client("nobody", "app", Some("right"))).starts_with("FATAL 28P01"));
    }
    assert_eq!(asked(), "2");
    cluster.sql("alter role ann password 'new'");
    wait_until("the new password is known", || plane.try_client("ann", "ann", Some("new")).is_ok());
}

#[test]
fn an_objects_name_in_another_schema_does_not_catch_the_query() {
    let cluster = cluster_with_users("host all all all scram-sha-256\n");
    cluster.sql(
        "create table public.pg_authid (rolname text, rolpassword text); alter role postgres set search_path = public",
    );
    let plane =
        looking_up(&cluster).auth("auth_query", "select rolname, rolpassword from pg_authid where rolname = $1");
    let plane = plane.start();
    assert_eq!(outcome(plane.try_client("ann", "app", Some("right"))), "in as ann to app");
}

#[test]
fn while_users_cannot_be_looked_up_the_known_are_served_and_the_rest_are_told() {
    let cluster = cluster_with_users("host all all all scram-sha-256\n");
    let plane = looking_up(&cluster).user_key("server_user", "postgres").start();
    let mut served = plane.client("postgres");
    cluster.stop();
    let refused = plane.try_client("ann", "app", Some("right")).unwrap_err();
    assert_eq!((refused.severity.as_str(), refused.code.as_str()), ("FATAL", "08006"));
    assert_eq!(refused, plane.try_client("nobody", "app", Some("right")).unwrap_err());
    cluster.run();
    wait_until("users are looked up again", || plane.try_client("ann", "app", Some("right")).is_ok());
    wait_until("others are served on", || served.query("select 1").error().is_none());
}

#[test]
fn unix_sockets_know_who_is_there() {
    let me = who_am_i();
    let plane = Plane::before(Cluster::shared()).user_named(&me).rule("local", "all", "", "peer").start();
    let psql = |user: &str| psql_by_socket(&plane, user);
    let own = psql(&me);
    assert!(own.status.success(), "{own:?}");
    let other = psql(if me == "postgres" { "nobody" } else { "postgres" });
    assert!(String::from_utf8_lossy(&other.stderr).contains("Peer authentication failed for user"), "{other:?}");
}

fn who_am_i() -> String {
    harness::program::run_well(harness::program::command("id".as_ref()).arg("-un"), b"")
}

fn psql_by_socket(plane: &Plane, user: &str) -> Output {
    let mut psql = harness::program::command(&harness::program::postgres("psql"));
    psql.args(["-XAtw", "-h", &plane.socket_dir().display().to_string(), "-p", &plane.port().to_string()]);
    harness::program::run(psql.args(["-U", user, "-d", "postgres", "-c", "select current_user"]), b"")
}

#[test]
fn a_map_says_as_whom_somebody_at_the_socket_may_come_in() {
    let cluster = cluster_with_users("host all all all trust\n");
    let (_rules, rules) = private("hba", "local all ann,bob,carol peer map=staff\n");
    let me = who_am_i();
    let (_maps, maps) = private("ident", &format!("staff {me} ann\nstaff /^(.).*$ bo\\1\nstaff nobody_else carol\n"));
    let plane = Plane::before(&cluster).as_the_client().own_users();
    let plane = ["ann", "bob", "carol"].into_iter().fold(plane, PlaneBuilder::user_named);
    let plane = plane.auth("hba_file", rules.display().to_string()).auth("ident_file", maps.display().to_string());
    let plane = plane.start();
    let outcome = |user| {
        let out = psql_by_socket(&plane, user);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        if out.status.success() { String::from_utf8_lossy(&out.stdout).trim().to_owned() } else { told }
    };
    assert_eq!(outcome("ann"), "ann");
    let bob = outcome("bob");
    assert_eq!(bob == "bob", me.starts_with('b'), "{bob}");
    assert!(outcome("carol").contains("Peer authentication failed for user \"carol\""));
}

#[test]
fn a_rule_with_a_map_that_is_not_there_is_refused_at_the_start() {
    let (_rules, rules) = private("hba", "local all all peer map=stuff\n");
    let plane = Plane::before(Cluster::shared()).auth("hba_file", rules.display().to_string());
    let told = plane.fail_to_start();
    assert!(told.contains("hba:1: there is no map \"stuff\" in auth.ident_file"), "{told}");
}

#[test]
fn who_guesses_waits_and_others_do_not() {
    let plane = Plane::before(Cluster::shared()).user_scram("ann", "secret").user_scram("bob", "secret").start();
    let guess = |user: &str| outcome(plane.try_client(user, "postgres", Some("wrong")));
    let began = Instant::now();
    (0..3).for_each(|_| assert!(guess("ann").starts_with("FATAL 28P01")));
    assert!(began.elapsed() < Duration::from_millis(900), "mistakes are free: {:?}", began.elapsed());
    let began = Instant::now();
    (0..4).for_each(|_| assert!(guess("ann").starts_with("FATAL 28P01")));
    // 100, 200, 400, 800 ms
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(outcome(plane.try_client("bob", "postgres", Some("secret"))), "in as postgres to postgres");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // the right password waits too, and then the count is cleared
    assert_eq!(outcome(plane.try_client("ann", "postgres", Some("secret"))), "in as postgres to postgres");
    let began = Instant::now();
    assert_eq!(outcome(plane.try_client("ann", "postgres", Some("secret"))), "in as postgres to postgres");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn guesses_in_parallel_are_looked_at_one_after_the_other() {
    let plane = Plane::before(Cluster::shared()).auth("auth_delay_max", "1s").user_scram("ann", "secret").start();
    let mut words: Vec<String> = std::thread::scope(|scope| {
        let guess = || outcome(plane.try_client("ann", "postgres", Some("wrong")));
        let threads: Vec<_> = (0..40).map(|_| scope.spawn(guess)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    words.sort();
    let refused = words.iter().filter(|words| words.starts_with("FATAL 28P01")).count();
    let turned_away = words.iter().filter(|words| words.starts_with("FATAL 53300 too many failed logins")).count();
    assert_eq!(refused + turned_away, 40, "{words:?}");
    assert!(turned_away > 0 && refused >= 3, "{refused} looked at, {turned_away} not");
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
}

/// All that a login with a wrong password is told, without the name and what is random.
fn exchange(plane: &Plane, user: &str) -> String {
    let mut client = RawClient::open(plane.port());
    client.send_startup(&[("user", user), ("database", "postgres")]);
    let mut auth = ClientAuth::new(user.as_bytes(), Some(b"wrong"));
    let mut heard = String::new();
    loop {
        let message = client.receive();
        if message.tag == b'E' {
            heard.push_str(&String::from_utf8_lossy(&message.body).replace(user, "NAME"));
            assert!(client.try_receive().is_none());
            return heard;
        }
        let request = Authentication::read(&message.body).unwrap();
        heard.push_str(&match request {
            Authentication::Md5 { salt } => format!("MD5 {} ", salt.len()),
            Authentication::SaslContinue { data } => {
                let parts = data.split(|byte| *byte == b',').map(|part| match part {
                    [b'i', ..] => String::from_utf8_lossy(part).into_owned(),
                    part => part.len().to_string(),
                });
                format!("{} ", parts.collect::<Vec<_>>().join(","))
            }
            Authentication::Ok
            | Authentication::Cleartext
            | Authentication::Sasl { .. }
            | Authentication::SaslFinal { .. }
            | Authentication::Other(_) => format!("{} ", message.body.escape_ascii()),
        });
        let mut answer = bytes::BytesMut::new();
        auth.handle(request, &mut answer).unwrap();
        client.send(&answer);
    }
}

#[test]
fn an_unknown_user_cannot_be_told_from_a_known_one() {
    let builder = || Plane::before(Cluster::shared()).auth("auth_delay_max", "0s");
    let (_dir, path) = private("userlist.txt", "\"nick\" \"md53175bce1d3201d16594cebf9d7eb3f9d\"\n");
    let listed = || builder().auth("auth_file", path.display().to_string());
    let refusal = "SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"NAME\"\0\0";
    for plane in [
        builder().user_md5("nick", "hush").start(),
        listed().start(),
        listed().rule("host", "all", "all", "md5").start(),
    ] {
        assert_eq!(exchange(&plane, "nick"), format!("MD5 4 {refusal}"));
        assert_eq!(exchange(&plane, "nock"), exchange(&plane, "nick"));
    }
    let clear = listed().rule("host", "all", "all", "password").start();
    assert_eq!(exchange(&clear, "nick"), format!("\\x00\\x00\\x00\\x03 {refusal}"));
    assert_eq!(exchange(&clear, "nock"), exchange(&clear, "nick"));
    let (_other, path) = private("userlist.txt", "\"nick\" \"hush\"\n");
    let plain = builder().auth("auth_file", path.display().to_string()).start();
    assert!(exchange(&plain, "nick").contains("i=4096"));
    assert_eq!(exchange(&plain, "nock"), exchange(&plain, "nick"));
}

#[test]
fn who_is_not_found_in_postgres_is_asked_as_others_there_are() {
    let cluster = cluster_with_users("host all all all md5\n");
    let scram = looking_up(&cluster).auth("auth_delay_max", "0s").start();
    // one without a password, one that has ended, one there is not
    for other in ["carol", "old", "nobody"] {
        assert_eq!(exchange(&scram, other), exchange(&scram, "ann"));
    }
    cluster.sql("alter system set password_encryption = md5");
    cluster.sql("select pg_reload_conf()");
    wait_until("new passwords are MD5", || cluster.sql("show password_encryption") == "md5");
    let md5 = looking_up(&cluster).auth("auth_delay_max", "0s").start();
    for other in ["carol", "nobody"] {
        assert_eq!(exchange(&md5, other), exchange(&md5, "bob"));
    }
    assert_ne!(exchange(&md5, "bob"), exchange(&scram, "ann"));
}

#[test]
fn no_secret_is_ever_written_anywhere() {
    const CANARIES: [&str; 6] =
        ["canary-list", "canary-server", "canary-env", "canary-typed", "canary-database", "canary-credential"];
    let cluster = cluster_with_users("host all all all password\n");
    let (_dir, list) = private("userlist.txt", "\"ann\" \"canary-list\"\n");
    let (_other, file) = private("password", "canary-server\n");
    let (_third, credential) = private("looker", "canary-credential\n");
    let credentials = credential.parent().unwrap();
    let plane = Plane::before(&cluster)
        .as_the_client()
        .log("trace")
        .auth("auth_user", "looker")
        .auth("auth_password", "credential:looker")
        .variable("SERVER_SECRET", "canary-env")
        .variable("CREDENTIALS_DIRECTORY", &credentials.display().to_string())
        .auth("auth_file", list.display().to_string())
        .rule("host", "all", "all", "password")
        .user_named("young")
        .user_key("server_password_file", file.display().to_string())
        .user_named("bob")
        .user_key("server_password", "env:SERVER_SECRET")
        .database("app", &[("password", "canary-database".into())])
        .start();
    let scram = cluster.sql("select split_part(rolpassword, '$', 3) from pg_authid where rolname = 'ann'");
    let mut said = String::new();
    for (user, password) in
        [("ann", "canary-list"), ("ann", "canary-typed"), ("young", "x"), ("nobody", "canary-typed")]
    {
        said.push_str(&outcome(plane.try_client(user, "app", Some(password))));
    }
    assert!(said.contains("password authentication failed"), "{said}");
    said.push_str(&format!("{:?}", plane.stats()));
    let (status, log) = plane.terminate();
    assert!(status.success() && log.contains("TRACE"), "{log}");
    said.push_str(&log);
    for canary in CANARIES.iter().chain([&scram.as_str()]) {
        assert!(!said.contains(canary), "{canary} was told: {said}");
    }
}

#[test]
fn start_up_parameters_can_be_passed_over() {
    let ignored = vec!["extra_thing", "Search_Path"];
    let plane = Plane::before(Cluster::shared()).auth("ignore_startup_parameters", ignored).start();
    let parameters = [
        ("user", "postgres"),
        ("database", "postgres"),
        ("extra_thing", "on"),
        ("search_path", "nowhere"),
        ("options", "-c extra_thing=1 -c work_mem=5MB"),
    ];
    let mut client = RawClient::connect(plane.port(), &parameters, None).unwrap();
    let rows = client.query("select current_setting('work_mem'), current_setting('search_path')").rows();
    assert_eq!(rows, [[Some("5MB".to_owned()), Some("\"$user\", public".to_owned())]]);
    let parameters = [("user", "postgres"), ("database", "postgres"), ("other_thing", "on")];
    assert!(RawClient::connect(plane.port(), &parameters, None).is_err());
}
