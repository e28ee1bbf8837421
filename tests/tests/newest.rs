//! The newest PostgreSQL, and the version of the protocol that came with it, on both sides.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use bytes::BytesMut;
use dbproto::message::error::{ErrorReport, Severity, write_error};
use dbproto::startup::{self, Startup};
use harness::client::send_cancel;
use harness::cluster::{SUPERUSER, signal_process};
use harness::program::{Release, run_well, speak_newest};
use harness::{Cluster, Message, Plane, RawClient, Request, wait_until};

const SLEEP: &str = "select pg_sleep(120)";

fn newest() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start_of(Release::Newest))
}

/// Logs in with protocol 3.`minor`; gives the session and what came before its parameters.
fn log_in(port: u16, minor: u16, more: &[(&str, &str)]) -> (RawClient, Vec<Message>) {
    let mut parameters = vec![("user", SUPERUSER), ("database", "postgres")];
    parameters.extend(more);
    let mut client = RawClient::open(port);
    client.send_startup_of(minor, &parameters);
    let before = client.log_in(SUPERUSER, None).unwrap();
    (client, before)
}

fn wait_for_sleepers(cluster: &Cluster, count: usize) {
    let text = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    wait_until("statements sleep", || cluster.sql(text) == count.to_string());
}

#[test]
fn versions_are_negotiated_as_by_the_newest_postgresql() {
    let plane = Plane::before(newest()).start();
    for minor in [0, 1, 2, 3, 9999] {
        for options in [&[][..], &[("_pq_.of_nobody", "1")], &[("_pq_.a", ""), ("_pq_.b", "2")]] {
            let (theirs, before_theirs) = log_in(newest().port(), minor, options);
            let (mut ours, before_ours) = log_in(plane.port(), minor, options);
            assert_eq!(before_ours, before_theirs, "3.{minor} with {options:?}");
            assert_eq!(ours.key().1.len(), theirs.key().1.len(), "3.{minor}");
            assert_eq!(ours.query("select 1").value(), "1");
        }
    }
    for version in [2_u32 << 16, (4 << 16) | 1, 0x7fff_0000] {
        let packet = [&12_u32.to_be_bytes()[..], &version.to_be_bytes(), b"u\0\0\0"].concat();
        let said = [newest().port(), plane.port()].map(|port| {
            let mut client = RawClient::open(port);
            client.send(&packet);
            // clients of version 2 are answered in its form by PostgreSQL
            if version >> 16 == 2 { String::new() } else { client.farewell().message }
        });
        let [theirs, ours] = said;
        assert_eq!(ours, theirs);
    }
}

#[test]
fn long_keys_cancel_what_they_are_of_and_nothing_else_does() {
    for (cluster, release) in [(newest(), Release::Newest), (Cluster::shared(), Release::Installed)] {
        let plane = Plane::before(cluster).cores("0,1").start();
        let mut clients: Vec<RawClient> = (0..6).map(|_| log_in(plane.port(), 2, &[]).0).collect();
        for client in &mut clients {
            assert_eq!(client.key().1.len(), 32, "{release:?}");
            client.send(Request::new().query(SLEEP).bytes());
        }
        wait_for_sleepers(cluster, clients.len());
        for client in &clients {
            let (process_id, secret) = client.key();
            let (mut wrong, mut longer) = (secret.clone(), secret.clone());
            *wrong.last_mut().unwrap() ^= 1;
            longer.push(0);
            for secret in [wrong, longer, secret.get(..4).unwrap().to_vec(), vec![0; 32], vec![7; 256]] {
                send_cancel(plane.port(), &(process_id, secret));
            }
        }
        assert_eq!(plane.pool("postgres").requests_cancelled, 0);
        for mut client in clients {
            client.cancel();
            assert_eq!(client.reply().code(), "57014", "{release:?}");
            assert_eq!(client.query("select 'alive'").value(), "alive");
        }
    }
}

#[test]
fn psql_with_the_newest_libpq_speaks_3_2_and_cancels() {
    let plane = Plane::before(newest()).start();
    let connection = format!(
        "host=127.0.0.1 port={} user={SUPERUSER} dbname=postgres min_protocol_version=3.2 max_protocol_version=3.2",
        plane.port()
    );
    let psql = || {
        let mut psql = harness::program::command(&harness::program::postgres("psql"));
        psql.args(["-XAtq", "-d", &connection, "-c"]);
        speak_newest(&mut psql);
        psql
    };
    assert_eq!(run_well(psql().arg("select 7"), b""), "7");
    let child = psql().arg(SLEEP).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_sleepers(newest(), 1);
    signal_process(child.id(), rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("canceling statement due to user request"), "{said}");
}

/// Passes connections on to a server, except those that ask for more than 3.0, which it refuses as some do that stand before
/// PostgreSQL; gives its port and what it was asked for.
fn old_doorman(to: u16) -> (u16, Arc<Mutex<Vec<u16>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let heard = Arc::clone(&heard);
            thread::spawn(move || admit(stream, to, &heard).unwrap_or_default());
        }
    });
    (port, asked)
}

fn admit(mut stream: TcpStream, to: u16, asked: &Mutex<Vec<u16>>) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut chunk = [0; 1024];
    let minor = loop {
        match startup::parse(&input) {
            Ok(None) => {}
            Ok(Some((Startup::Start(message), _))) => break message.minor,
            _ => return Ok(()),
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            len => input.extend_from_slice(chunk.get(..len).unwrap_or_default()),
        }
    };
    asked.lock().unwrap().push(minor);
    if minor > 0 {
        let mut out = BytesMut::new();
        let message = "unsupported protocol";
        let report = ErrorReport { severity: Severity::Fatal, sqlstate: "08P01", message, detail: None, hint: None };
        write_error(&mut out, &report);
        return stream.write_all(&out);
    }
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    server.write_all(&input)?;
    let (mut back, mut forth) = (server.try_clone()?, stream.try_clone()?);
    thread::spawn(move || {
        let copied = io::copy(&mut back, &mut forth);
        forth.shutdown(Shutdown::Both).and(copied).unwrap_or_default()
    });
    io::copy(&mut stream, &mut server)?;
    server.shutdown(Shutdown::Both)
}

#[test]
fn whoever_refuses_the_new_version_is_asked_for_the_old_one_from_then_on() {
    let (port, asked) = old_doorman(newest().port());
    let plane = Plane::before_port(port).cores("0").pool("size", 3).pool("share", "off").start();
    let mut clients: Vec<RawClient> = (0..3).map(|_| plane.client("postgres")).collect();
    for client in &mut clients {
        client.query("begin").good();
    }
    let first = asked.lock().unwrap().clone();
    // the reader of the catalog is one of those that ask for the old one
    assert_eq!(first.iter().filter(|minor| **minor == 2).count(), 1, "{first:?}");
    assert!(first.iter().filter(|minor| **minor == 0).count() >= 3, "{first:?}");
    // and a replication connection finds that out for itself
    let plane = Plane::before_port(port).cores("0").start();
    let parameters = [("user", SUPERUSER), ("database", "postgres"), ("replication", "database")];
    let mut replica = RawClient::connect(plane.port(), &parameters, None).unwrap();
    assert_eq!(replica.query("select 'in'").value(), "in");
    // whoever is told to asks for it at once
    asked.lock().unwrap().clear();
    let plane = Plane::before_port(port).cores("0").server("protocol", "3.0").start();
    assert_eq!(plane.client("postgres").query("select 1").value(), "1");
    assert!(asked.lock().unwrap().iter().all(|minor| *minor == 0), "{asked:?}");
}

#[test]
fn everybody_is_told_their_own_search_path() {
    let plane = Plane::before(newest()).cores("0").pool("size", 1).start();
    let told = |messages: &[Message]| -> Vec<String> {
        let values = messages.iter().filter(|message| message.tag == b'S');
        values
            .filter_map(|message| dbproto::message::backend::parameter_status(&message.body).ok())
            .filter(|(name, _)| *name == b"search_path")
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    };
    let path = |client: &RawClient| client.parameters.iter().find(|(name, _)| name == "search_path").cloned();
    let (mut one, _) = log_in(plane.port(), 0, &[]);
    let (mut two, _) = log_in(plane.port(), 0, &[("options", "-c search_path=mine")]);
    assert_eq!(path(&one), Some(("search_path".to_owned(), "\"$user\", public".to_owned())));
    assert_eq!(path(&two), Some(("search_path".to_owned(), "mine".to_owned())));
    assert_eq!(told(&one.query("set search_path = pg_catalog").good().messages), ["pg_catalog"]);
    for _ in 0..3 {
        let reply = two.query("show search_path").good();
        assert_eq!((reply.value(), told(&reply.messages)), ("mine".to_owned(), Vec::new()));
        // what lasts for a statement only has changed nothing when it is over
        let reply = one.query("select set_config('search_path', 'a, b', true)").good();
        assert_eq!(told(&reply.messages), Vec::<String>::new());
        assert_eq!(one.query("show search_path").value(), "pg_catalog");
    }
    assert_eq!(told(&one.query("reset search_path").good().messages), ["\"$user\", public"]);
}
