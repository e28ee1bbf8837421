//! TLS between clients and the data plane, with libpq and with a TLS client of the tests' own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use dbproto::{frame, startup};
use harness::certificate::{Authority, Files, Identity, Wanted};
use harness::cluster::SUPERUSER;
use harness::program::{run, run_well};
use harness::{Cluster, ErrorReply, Message, Plane, PlaneBuilder, RawClient, Request, wait_until};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// An authority, a certificate for localhost, and files of both.
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
        let own = [("certificate", self.certificate.as_str()), ("key", self.key.as_str())];
        Plane::before(Cluster::shared()).listen_tls(mode, &[&own[..], more].concat())
    }

    /// `psql` to localhost with this `sslmode`; the authority is known.
    fn psql(&self, plane: &Plane, mode: &str) -> Command {
        let mut command = plane.psql("postgres");
        command.args(["-h", "localhost"]).env("PGSSLMODE", mode).env("PGSSLROOTCERT", &self.ca);
        // no certificate that is there by chance
        command.env("PGSSLCERT", self.files.path("none")).env("HOME", self.files.dir());
        command
    }

    fn client_config(&self, alpn: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }
}

/// A session over TLS, by hand.
struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    input: BytesMut,
}

impl TlsClient {
    fn over(stream: TcpStream, config: ClientConfig) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        Self { stream: StreamOwned::new(connection, stream), input: BytesMut::new() }
    }

    /// Without a word before the handshake.
    fn direct(plane: &Plane, config: ClientConfig) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", plane.port())).unwrap(), config)
    }

    /// By an SSLRequest.
    fn negotiated(plane: &Plane, config: ClientConfig) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", plane.port())).unwrap();
        stream.write_all(&SSL_REQUEST).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"S");
        Self::over(stream, config)
    }

    fn log_in(mut self) -> Self {
        self.send(&start_packet());
        self.until_ready();
        self
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next message; `None` at the end.
    fn receive(&mut self) -> Option<Message> {
        loop {
            if let Some((frame, _)) = frame::split(&self.input).unwrap() {
                let (message, len) = (Message { tag: frame.tag, body: frame.body.to_vec() }, frame.bytes.len());
                self.input.advance(len);
                return Some(message);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.input.extend_from_slice(chunk.get(..len).unwrap()),
            }
        }
    }

    fn until_ready(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let message = self.receive().unwrap_or_else(|| panic!("hung up after {all:?}"));
            let last = message.tag == b'Z';
            all.push(message);
            if last {
                return all;
            }
        }
    }

    fn query(&mut self, text: &str) -> String {
        self.send(Request::new().query(text).bytes());
        let reply = harness::Reply { messages: self.until_ready() };
        reply.good().value()
    }

    fn farewell(&mut self) -> Option<ErrorReply> {
        std::iter::from_fn(|| self.receive()).find(|message| message.tag == b'E').map(|m| ErrorReply::read(&m.body))
    }
}

fn start_packet() -> BytesMut {
    let mut out = BytesMut::new();
    startup::write_startup(&mut out, &[(b"user", SUPERUSER.as_bytes()), (b"database", b"postgres")]);
    out
}

/// What psql says of its connection, or why there is none.
fn connection_of(command: &mut Command) -> Result<String, String> {
    let output = run(command, b"\\conninfo\nselect 6 * 7");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        assert!(text(&output.stdout).ends_with("42\n"), "{output:?}");
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn every_mode_serves_whom_it_should_and_nobody_else() {
    let place = Place::new();
    for (mode, clear, tls) in
        [("disable", true, false), ("allow", true, true), ("prefer", true, true), ("require", false, true)]
    {
        let plane = place.plane(mode, &[]).start();
        let by = |sslmode| connection_of(&mut place.psql(&plane, sslmode));
        assert_eq!(by("disable").is_ok(), clear, "{mode}");
        if !clear {
            let error = by("disable").unwrap_err();
            assert!(error.contains("connection requires TLS") && error.contains("sslmode=require"), "{error}");
        }
        for sslmode in ["require", "verify-ca", "verify-full"] {
            match by(sslmode) {
                Ok(said) => assert!(tls && said.contains("SSL connection (protocol: TLSv1.3"), "{mode}: {said}"),
                Err(error) => assert!(!tls && error.contains("does not support SSL"), "{mode}: {error}"),
            }
        }
        assert_eq!(by("prefer").unwrap().contains("SSL connection"), tls, "{mode}");
        // libpq asks in clear first, and with TLS when that was refused
        assert_eq!(by("allow").unwrap().contains("SSL connection"), !clear, "{mode}");
        // the Unix socket is this machine's own
        let mut local = place.psql(&plane, "prefer");
        local.args(["-h", plane.socket_dir().to_str().unwrap()]);
        assert!(!connection_of(&mut local).unwrap().contains("SSL connection"));
    }
}

#[test]
fn s12_clear_text_is_refused_with_28000_and_a_hint_and_cancels_are_taken_either_way() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let mut client = RawClient::open(plane.port());
    client.send(&start_packet());
    let error = client.farewell();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"));
    assert!(error.hint.contains("sslmode=require"), "{error:?}");

    let mut sleeper = TlsClient::negotiated(&plane, place.client_config(&[]));
    sleeper.send(&start_packet());
    let welcome = sleeper.until_ready();
    let key = &welcome.iter().find(|message| message.tag == b'K').unwrap().body;
    let key = (u32::from_be_bytes(key[..4].try_into().unwrap()), key[4..].to_vec());
    for in_clear in [true, false] {
        sleeper.send(Request::new().query("select pg_sleep(60)").bytes());
        wait_until("it sleeps", || {
            Cluster::shared()
                .sql("select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'")
                == "1"
        });
        if in_clear {
            harness::client::send_cancel(plane.port(), &key);
        } else {
            let mut packet = BytesMut::new();
            startup::write_cancel(&mut packet, key.0, &key.1);
            let mut canceller = TlsClient::negotiated(&plane, place.client_config(&[]));
            canceller.send(&packet);
            assert!(canceller.receive().is_none(), "a cancel request is not answered");
        }
        let reply = harness::Reply { messages: sleeper.until_ready() };
        assert_eq!(reply.code(), "57014");
    }
}

#[test]
fn a_server_that_is_another_is_refused_by_libpq() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).start();
    let mut wrong_name = place.psql(&plane, "verify-full");
    wrong_name.args(["-h", "127.0.0.1"]);
    assert!(connection_of(&mut wrong_name).unwrap_err().contains("does not match host name"));
    let mut wrong_ca = place.psql(&plane, "verify-ca");
    wrong_ca.env("PGSSLROOTCERT", place.files.put("other.crt", &Authority::new("another").pem));
    assert!(connection_of(&mut wrong_ca).unwrap_err().contains("certificate verify failed"));
    // the alerts of those who went have hurt nobody
    assert!(connection_of(&mut place.psql(&plane, "verify-full")).is_ok());
}

/// `psql` that shows a certificate.
fn psql_as(place: &Place, plane: &Plane, identity: &Identity) -> Command {
    let (certificate, key) = place.files.put_identity(&format!("client{}", identity.key.len() % 7), identity);
    let mut command = place.psql(plane, "verify-full");
    command.env("PGSSLCERT", certificate).env("PGSSLKEY", key);
    command
}

#[test]
fn s11_only_clients_with_a_good_certificate_are_let_in() {
    use harness::certificate::Usage;
    let place = Place::new();
    let clients = Authority::new("the clients' authority");
    let client =
        |serial, usage| clients.sign(&Wanted { common_name: "alice", serial, usage: Some(usage), ..Wanted::default() });
    let (good, revoked) = (client(7, Usage::ClientAuth), client(8, Usage::ClientAuth));
    let wrong_usage = client(9, Usage::ServerAuth);
    let expired = clients.sign(&Wanted { common_name: "alice", serial: 10, expired: Some(()), ..Wanted::default() });
    let stranger = Authority::new("the clients' authority").sign(&Wanted { serial: 7, ..Wanted::default() });
    let ca = place.files.put("clients.crt", &clients.pem);
    let crl = place.files.put("clients.crl", &clients.revoke(&[&revoked]));
    for mode in ["verify-ca", "verify-full"] {
        let plane = place.plane(mode, &[("client_ca", &ca), ("client_crl", &crl)]).start();
        assert!(connection_of(&mut psql_as(&place, &plane, &good)).is_ok());
        let error = connection_of(&mut place.psql(&plane, "require")).unwrap_err();
        assert!(error.contains("certificate required"), "{error}");
        for (bad, words) in [
            (&revoked, "certificate revoked"),
            (&wrong_usage, "alert"),
            (&expired, "certificate expired"),
            (&stranger, "alert"),
        ] {
            let error = connection_of(&mut psql_as(&place, &plane, bad)).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
        assert!(connection_of(&mut place.psql(&plane, "disable")).unwrap_err().contains("connection requires TLS"));
        assert!(connection_of(&mut psql_as(&place, &plane, &good)).is_ok());
    }
}

#[test]
fn a22_direct_tls_is_taken_with_the_protocols_name_only() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let mut client = TlsClient::direct(&plane, place.client_config(&[b"postgresql"])).log_in();
    assert_eq!(client.query("select 'direct'"), "direct");
    assert_eq!(client.stream.conn.alpn_protocol(), Some(&b"postgresql"[..]));

    let mut nameless = TlsClient::direct(&plane, place.client_config(&[]));
    nameless.send(&start_packet());
    let error = nameless.farewell().unwrap();
    assert_eq!((error.code.as_str(), error.message.contains("ALPN")), ("08P01", true));

    let mut web = TlsClient::direct(&plane, place.client_config(&[b"h2", b"http/1.1"]));
    let error = web.stream.write_all(b"x").and_then(|()| web.stream.flush()).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    let clear = Plane::before(Cluster::shared()).start();
    let mut client = TlsClient::direct(&clear, place.client_config(&[b"postgresql"]));
    assert!(client.stream.write_all(b"x").and_then(|()| client.stream.flush()).is_err());
    assert_eq!(clear.client("postgres").query("select 1").value(), "1");
}

#[test]
fn s01_what_comes_in_clear_behind_the_request_is_never_taken_for_what_comes_after() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).start();
    let query = Request::new().query("create table stolen ()");
    let mut client = RawClient::open(plane.port());
    client.send(&[&SSL_REQUEST[..], &start_packet(), query.bytes()].concat());
    let error = client.farewell();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"));

    // the same a moment later, when the answer has been given: it is no handshake
    let mut client = RawClient::open(plane.port());
    client.send(&SSL_REQUEST);
    assert_eq!(client.receive_byte(), b'S');
    client.send(&[&start_packet(), query.bytes()].concat());
    let mut rest = Vec::new();
    while let Some(byte) = client.try_receive_byte() {
        rest.push(byte);
    }
    // an alert, and nothing in clear
    assert!(rest.first().is_none_or(|byte| *byte == 21), "{}", rest.escape_ascii());
    assert_eq!(Cluster::shared().sql("select count(*) from pg_class where relname = 'stolen'"), "0");
}

#[test]
fn s02_s03_each_request_for_encryption_can_be_made_once() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).start();
    let mut client = TlsClient::negotiated(&plane, place.client_config(&[]));
    client.send(&SSL_REQUEST);
    assert_eq!(client.farewell().unwrap().code, "0A000");

    let mut client = RawClient::open(plane.port());
    client.send(&GSS_REQUEST);
    assert_eq!(client.receive_byte(), b'N');
    client.send(&GSS_REQUEST);
    assert_eq!(client.farewell().code, "0A000");

    // refusing one leaves the other open, and then clear text
    let clear = Plane::before(Cluster::shared()).start();
    let mut client = RawClient::open(clear.port());
    for request in [GSS_REQUEST, SSL_REQUEST] {
        client.send(&request);
        assert_eq!(client.receive_byte(), b'N');
    }
    client.send(&start_packet());
    client.log_in(SUPERUSER, None).unwrap();
    let mut client = RawClient::open(clear.port());
    client.send(&SSL_REQUEST);
    assert_eq!(client.receive_byte(), b'N');
    client.send(&SSL_REQUEST);
    assert_eq!(client.farewell().code, "0A000");

    let mut stream = TcpStream::connect(("127.0.0.1", plane.port())).unwrap();
    stream.write_all(&GSS_REQUEST).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    stream.write_all(&SSL_REQUEST).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    let mut client = TlsClient::over(stream, place.client_config(&[])).log_in();
    assert_eq!(client.query("select 1"), "1");
}

#[test]
fn s05_a_handshake_that_does_not_come_is_given_up() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).limit("auth_timeout", "1s").start();
    let mut silent = RawClient::open(plane.port());
    silent.send(&SSL_REQUEST);
    assert_eq!(silent.receive_byte(), b'S');
    let mut halfway = RawClient::open(plane.port());
    halfway.send(&[22, 3, 1, 2, 0, 1]);
    for client in [&mut silent, &mut halfway] {
        assert_eq!(client.try_receive_byte(), None);
    }
}

/// A ClientHello of a client that knows nothing newer than this version.
fn hello(version: u8) -> Vec<u8> {
    let mut body = vec![3, version];
    body.extend([7; 32]);
    // no session; TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, TLS_RSA_EXPORT_WITH_RC4_40_MD5; no compression; curves
    body.extend([0, 0, 4, 0xc0, 0x13, 0, 3, 1, 0, 0, 8, 0, 10, 0, 4, 0, 2, 0, 23]);
    let mut out = vec![22, 3, 1, 0, u8::try_from(body.len() + 4).unwrap(), 1, 0, 0, u8::try_from(body.len()).unwrap()];
    out.extend(body);
    out
}

#[test]
fn s09_s10_bytes_that_are_no_handshake_of_today_end_in_an_alert() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).start();
    let mut bystander = TlsClient::negotiated(&plane, place.client_config(&[])).log_in();
    let huge = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 70_000]].concat();
    let endless = [22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff].repeat(20_000);
    let closing = [hello(3), vec![21, 3, 3, 0, 2, 1, 0]].concat();
    for bytes in [hello(1), hello(2), hello(3), huge, endless, closing, vec![21, 3, 3, 0, 2, 1, 0], vec![0xff; 50_000]]
    {
        let mut client = RawClient::open(plane.port());
        client.send(&SSL_REQUEST);
        assert_eq!(client.receive_byte(), b'S');
        // it may hang up before everything has been sent
        let _sent: std::io::Result<()> = client.try_send(&bytes);
        let mut rest = Vec::new();
        while let Some(byte) = client.try_receive_byte() {
            rest.push(byte);
        }
        assert!(rest.first().is_none_or(|byte| *byte == 21), "{}", rest.escape_ascii());
        assert_eq!(bystander.query("select 1"), "1");
    }
}

/// Passes bytes on one at a time, each in a segment of its own.
fn dribble(mut from: TcpStream, mut to: TcpStream, bytes_max: usize) {
    to.set_nodelay(true).unwrap();
    let mut chunk = [0; 4096];
    let mut passed = 0;
    while let Ok(len) = from.read(&mut chunk)
        && len > 0
    {
        for piece in chunk.get(..len).unwrap().chunks(if passed < bytes_max { 1 } else { 4096 }) {
            to.write_all(piece).unwrap();
            passed += piece.len();
        }
    }
}

#[test]
fn s10_a_handshake_that_comes_byte_by_byte_is_one() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(relay.local_addr().unwrap()).unwrap();
    let (inside, far) = (relay.accept().unwrap().0, TcpStream::connect(("127.0.0.1", plane.port())).unwrap());
    let (inside_too, far_too) = (inside.try_clone().unwrap(), far.try_clone().unwrap());
    std::thread::spawn(move || dribble(inside, far, 5000));
    std::thread::spawn(move || dribble(far_too, inside_too, 0));
    let mut client = TlsClient::over(near, place.client_config(&[b"postgresql"])).log_in();
    assert_eq!(client.query("select 'slowly'"), "slowly");
}

#[test]
fn megabytes_pass_both_ways() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let psql = |text: &str| run_well(&mut place.psql(&plane, "verify-full"), text.as_bytes());
    let big = psql("select repeat('0123456789abcdef', 700000)");
    assert!(big.len() == 16 * 700_000 && big.ends_with("abcdef"));
    let database = Cluster::shared().make_database();
    let lines: String = (0..200_000).map(|n| format!("{n}\tline number {n} of a long copy\n")).collect();
    let mut copy = place.psql(&plane, "verify-full");
    copy.args(["-d", &database]);
    let script = format!(
        "create table t (n int, line text);\ncopy t from stdin;\n{lines}\\.\nselect count(*), sum(length(line)) from t;\n"
    );
    let said = run_well(&mut copy, script.as_bytes());
    let len: usize = (0..200_000).map(|n| format!("line number {n} of a long copy").len()).sum();
    assert_eq!(said, format!("200000|{len}"));
    let mut copy = place.psql(&plane, "verify-full");
    copy.args(["-d", &database, "-c", "copy (select * from t order by n) to stdout"]);
    assert!(run_well(&mut copy, b"") == lines.trim_end());
    // statements in megabytes, too
    let text = "x".repeat(6 << 20);
    assert_eq!(psql(&format!("select length('{text}')")), text.len().to_string());
}

#[test]
fn many_small_requests_in_one_record_and_one_request_in_many_records_are_answered() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let mut client = TlsClient::negotiated(&plane, place.client_config(&[])).log_in();
    let mut all = Vec::new();
    for number in 0..2000 {
        all.extend_from_slice(Request::new().query(&format!("select {number}")).bytes());
    }
    client.send(&all);
    for number in 0..2000 {
        let reply = harness::Reply { messages: client.until_ready() };
        assert_eq!(reply.value(), number.to_string());
    }
    for byte in Request::new().query("select 'piece by piece'").bytes() {
        client.send(&[*byte]);
    }
    let reply = harness::Reply { messages: client.until_ready() };
    assert_eq!(reply.value(), "piece by piece");
}

#[test]
fn pgbench_runs_through_tls_with_a_pool_smaller_than_the_number_of_shards() {
    let place = Place::new();
    for size in [1, 5] {
        let plane = place.plane("require", &[]).pool("size", size).start();
        let database = Cluster::shared().make_database();
        let pgbench = |arguments: &[&str]| {
            let mut command = plane.program("pgbench");
            command.env("PGSSLMODE", "require").args(arguments).arg(&database);
            run_well(&mut command, b"")
        };
        pgbench(&["-i", "-q"]);
        for arguments in [["-S", "-M", "prepared", "-t", "100"], ["-N", "-M", "extended", "-t", "50"]] {
            let text = pgbench(&[&arguments[..], &["-n", "-c", "8", "-j", "8"]].concat());
            assert!(text.contains("number of failed transactions: 0 "), "{text}");
        }
    }
}

#[test]
fn s13_a_new_certificate_is_shown_to_those_who_come_after_it_and_hurts_nobody() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let mut old: Vec<TlsClient> =
        (0..50).map(|_| TlsClient::negotiated(&plane, place.client_config(&[])).log_in()).collect();
    let serial = |client: &TlsClient| client.stream.conn.peer_certificates().unwrap()[0].to_vec();
    let before = serial(&old[0]);
    // half of a pair is reported and changes nothing
    let new = place.authority.sign(&Wanted { names: &["localhost"], serial: 99, ..Wanted::default() });
    place.files.put("plane.crt", &new.pem);
    wait_until("the half is reported", || plane.said().contains("cannot be used"));
    let client = TlsClient::negotiated(&plane, place.client_config(&[])).log_in();
    assert_eq!(serial(&client), before);
    place.files.put("plane.key", &new.key);
    wait_until("the new one is shown", || {
        serial(&TlsClient::negotiated(&plane, place.client_config(&[])).log_in()) != before
    });
    for client in &mut old {
        assert_eq!(client.query("select 1"), "1");
    }
}

#[test]
fn files_that_cannot_be_used_are_told_at_start() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let other = place.authority.sign(&Wanted::default());
    let wrong_key = place.files.put("wrong.key", &other.key);
    let open_key = place.files.put("open.key", &other.key);
    std::fs::set_permissions(&open_key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let empty = place.files.put("empty", "");
    let missing = place.files.path("missing").display().to_string();
    for (certificate, key, words) in [
        (&place.certificate, &wrong_key, "is not the key of"),
        (&place.certificate, &open_key, "chmod 0600"),
        (&empty, &place.key, "no certificate in it"),
        (&missing, &place.key, "No such file"),
        (&place.certificate, &place.certificate, "private key"),
    ] {
        let said = Plane::before(Cluster::shared())
            .listen_tls("prefer", &[("certificate", certificate), ("key", key)])
            .fail_to_start();
        assert!(said.contains(words) && said.contains("[listen.tls]"), "{words}: {said}");
    }
}

#[test]
fn a_proof_bound_to_our_certificate_is_demanded_and_given() {
    let place = Place::new();
    let plane = place.plane("prefer", &[]).user_scram("ann", "sesame").start();
    let log_in = |password: &str, binding: &str, mode: &str| {
        let mut command = place.psql(&plane, mode);
        command.args(["-U", "ann"]).env("PGPASSWORD", password).env("PGCHANNELBINDING", binding);
        connection_of(&mut command)
    };
    // libpq refuses a server that does not offer it
    assert!(log_in("sesame", "require", "require").unwrap().contains("SSL connection"));
    assert!(log_in("sesame", "require", "disable").unwrap_err().contains("channel binding"));
    assert!(log_in("sesame", "disable", "require").is_ok());
    assert!(log_in("sesame", "prefer", "disable").is_ok());
    assert!(log_in("open", "require", "require").unwrap_err().contains("password authentication failed"));
}

#[test]
fn an_idle_client_with_tls_costs_no_more_than_16_kib() {
    let place = Place::new();
    let plane = place.plane("require", &[]).start();
    let config = place.client_config(&[]);
    let log_in = || TlsClient::negotiated(&plane, config.clone()).log_in();
    // every receive buffer of both shards has been used once
    let mut clients: Vec<TlsClient> = (0..10).map(|_| log_in()).collect();
    for _ in 0..150 {
        for client in &mut clients {
            assert_eq!(client.query("select 1"), "1");
        }
    }
    let before = plane.memory_len();
    for _ in 0..200 {
        let mut client = log_in();
        assert_eq!(client.query("select 1"), "1");
        clients.push(client);
    }
    let each = plane.memory_len().saturating_sub(before) / 200;
    assert!(each <= 16 * 1024, "{each} bytes each");
}
