//! The HTTP endpoint of the real program: its routes, who may ask, and what hostile or slow clients get.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails panics")]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::certificate::{Authority, Files, Wanted};
use harness::cluster::{SUPERUSER, signal_process};
use harness::{Cluster, DEADLINE, Plane, PlaneBuilder, Request, port, wait_until, wait_within};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// What takes ten seconds of the other side's patience, on a machine that is busy with other tests.
const LONG: Duration = Duration::from_secs(180);
const TOKEN: &str = "open sesame of these tests";
const SOUND_TOKEN: &str = "opensesameofthesetests";

/// A data plane with its endpoint.
struct Site {
    plane: Plane,
    port: u16,
}

impl Site {
    fn start(adapt: impl FnOnce(PlaneBuilder) -> PlaneBuilder) -> Self {
        let port = port::free();
        let builder = Plane::before(Cluster::shared()).http("listen", format!("127.0.0.1:{port}"));
        Self { plane: adapt(builder).start(), port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn ask(&self, path: &str, headers: &[&str]) -> Answer {
        self.ask_by("GET", path, headers)
    }

    fn ask_by(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let has_host = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
        let host = if has_host { "" } else { "Host: localhost\r\n" };
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        self.say(&format!("{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n"))
    }

    /// Says something and reads until the other end has nothing more to say.
    fn say(&self, text: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        Answer::read(&mut stream)
    }

    fn document(&self, path: &str) -> Value {
        let answer = self.ask(path, &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{answer:?}");
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// How many snapshots have been taken for it.
    fn snapshots(&self) -> u64 {
        self.document("/api/v1/snapshot")["snapshots"].as_u64().unwrap()
    }

    fn live(&self, query: &str) -> Live<TcpStream> {
        let mut stream = self.connect();
        let text = format!("GET /api/v1/live{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        Live::of(stream)
    }
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Names in small letters.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn read(stream: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&bytes)));
        let (head, body) = bytes.split_at(end + 4);
        let mut answer = Self::of_head(std::str::from_utf8(head).unwrap());
        let chunked = answer.headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        answer.body = if chunked { unchunked(body) } else { body.to_vec() };
        answer
    }

    fn of_head(head: &str) -> Self {
        let mut lines = head.trim_end().lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line}")));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Self { status, headers, body: Vec::new() }
    }

    /// A header, or nothing.
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn is_refusal(&self, status: u16) -> bool {
        let document: Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        let says = document["error"].as_str().is_some_and(|error| !error.is_empty());
        self.status == status && document["schema"] == "optimacore.error/1" && says
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let len = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if len == 0 {
            return out;
        }
        out.extend_from_slice(&body[end + 2..end + 2 + len]);
        body = &body[end + 4 + len..];
    }
}

/// A stream of events that is being read.
struct Live<S> {
    stream: io::BufReader<S>,
}

impl<S: Read> Live<S> {
    fn of(stream: S) -> Self {
        let mut own = Self { stream: io::BufReader::new(stream) };
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(own.read_line(&mut head), "the stream ends in its head: {head}");
        }
        let answer = Answer::of_head(&head);
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"), "{head}");
        assert_eq!(answer.header("cache-control"), "no-store");
        own
    }

    fn read_line(&mut self, out: &mut String) -> bool {
        io::BufRead::read_line(&mut self.stream, out).unwrap_or(0) > 0
    }

    /// The next line of the series; none when the stream has ended. The lengths of chunks are passed over: no line of a stream looks
    /// like one.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if !self.read_line(&mut line) {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")));
            }
            let known = line.trim_end();
            assert!(
                known.is_empty() || known == "event: line" || known.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{known}"
            );
        }
    }

    /// The next line that has this key.
    fn next_with(&mut self, key: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let line = self.next().unwrap_or_else(|| panic!("the stream ended before a line with {key}"));
            if line.get(key).is_some() {
                return line;
            }
            assert!(Instant::now() < deadline, "no line with {key}");
        }
    }
}

#[test]
fn every_route_answers_and_says_what_it_is() {
    let site = Site::start(|builder| builder);
    let database = Cluster::shared().make_database();
    assert_eq!(site.plane.sql(&database, "SELECT 7"), "7");
    let metrics = site.ask("/metrics", &[]);
    assert_eq!((metrics.status, metrics.header("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.text().contains("# TYPE optimacore_build_info "), "{}", metrics.text());
    assert!(!metrics.text().contains("# EOF"));
    let open = site.ask("/metrics", &["Accept: application/openmetrics-text;version=1.0.0;q=0.5, text/plain;q=0.2"]);
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text().ends_with("# EOF\n"));
    let packed = site.ask("/metrics", &["Accept-Encoding: gzip"]);
    assert_eq!((packed.header("content-encoding"), packed.body.get(..2)), ("gzip", Some(&[0x1f, 0x8b][..])));
    assert!(packed.body.len() < metrics.body.len() / 2);

    assert_eq!(site.document("/healthz")["status"], "ok");
    assert_eq!(site.document("/readyz")["status"], "ok");
    let header = site.document("/api/v1/header");
    assert_eq!(header["schema"], "optimacore.series/1");
    assert!(header["metrics"].as_array().unwrap().iter().any(|metric| metric["name"] == "optimacore_requests_total"));
    let snapshot = site.document("/api/v1/snapshot");
    assert_eq!(snapshot["schema"], "optimacore.snapshot/1");
    assert_eq!(snapshot["pid"], site.plane.pid());
    let has_pool = |snapshot: &Value| {
        let pools = snapshot["pools"].as_array().unwrap();
        pools.iter().any(|pool| pool["database"] == database.as_str() && pool["user"] == SUPERUSER)
    };
    wait_until("the pool is in a snapshot", || has_pool(&site.document("/api/v1/snapshot")));

    let history = site.ask("/api/v1/history", &[]);
    assert_eq!((history.status, history.header("content-type")), (200, "application/x-ndjson"));
    let lines: Vec<Value> = history.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["schema"], "optimacore.series/1");
    assert!(lines.iter().any(|line| line["event"] == "start"), "{}", history.text());
    assert!(lines.iter().any(|line| line.get("series").is_some()) && lines.iter().any(|line| line.get("v").is_some()));

    for (path, answer) in [("/metrics", &metrics), ("/healthz", &site.ask("/healthz", &[]))] {
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'self';"), "{path}");
    }
    assert!(site.ask("/nothing/here", &[]).is_refusal(404));
    assert!(site.ask("/assets/../../etc/passwd", &[]).is_refusal(404));
}

#[test]
fn the_dashboard_is_in_the_program_or_a_page_that_says_it_is_not() {
    let site = Site::start(|builder| builder);
    let page = site.ask("/", &[]);
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), "no-cache");
    assert_eq!(site.ask("/index.html", &[]).body, page.body);
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard/dist");
    let Ok(own) = std::fs::read(dist.join("index.html")) else {
        assert!(page.text().contains("built without the dashboard"), "{}", page.text());
        return;
    };
    assert_eq!(page.body, own, "the program was built before the dashboard");
    let script = page.text().split("assets/").skip(1).find_map(|rest| Some(rest.split_once(".js")?.0)).unwrap();
    let path = format!("/assets/{script}.js");
    let plain = site.ask(&path, &[]);
    assert_eq!((plain.status, plain.header("content-type")), (200, "text/javascript; charset=utf-8"));
    assert_eq!(plain.body, std::fs::read(dist.join(format!("assets/{script}.js"))).unwrap());
    assert!(plain.header("cache-control").ends_with("immutable"), "{plain:?}");
    let tag = plain.header("etag").to_owned();
    assert_eq!(tag.len(), 66, "{tag}");
    let again = site.ask(&path, &[&format!("If-None-Match: {tag}")]);
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, tag.as_str()));
    for (packing, name) in [("gzip", "gzip"), ("gzip, br", "br")] {
        let packed = site.ask(&path, &[&format!("Accept-Encoding: {packing}")]);
        assert_eq!((packed.status, packed.header("content-encoding")), (200, name));
        assert!(packed.body.len() < plain.body.len() && packed.header("etag") != tag);
    }
}

#[test]
fn it_can_only_be_read() {
    let site = Site::start(|builder| builder);
    for path in ["/", "/metrics", "/healthz", "/readyz", "/api/v1/snapshot", "/api/v1/live", "/nothing"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let answer = site.ask_by(method, path, &[]);
            assert!(answer.is_refusal(405), "{method} {path}: {answer:?}");
            assert_eq!(answer.header("allow").replace(", ", ","), "GET,HEAD", "{method} {path}");
        }
    }
    for path in ["/", "/metrics", "/readyz", "/api/v1/snapshot", "/api/v1/history"] {
        let answer = site.ask_by("HEAD", path, &[]);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}: {answer:?}");
        assert_eq!(answer.header("content-type"), site.ask(path, &[]).header("content-type"), "{path}");
    }
    let posted = site.say("GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    assert!(posted.is_refusal(413), "{posted:?}");
}

#[test]
fn who_asks_by_another_name_or_from_a_strange_page_is_refused() {
    let site = Site::start(|builder| {
        builder
            .http("allowed_hosts", vec!["ops.example.com"])
            .http("allowed_origins", vec!["https://board.example.com"])
    });
    assert_eq!(site.ask("/metrics", &["Host: ops.example.com:9"]).status, 200);
    assert!(site.ask("/metrics", &["Host: evil.example.com"]).is_refusal(421));
    assert!(site.ask("/healthz", &["Host: evil.example.com"]).is_refusal(421));
    assert!(site.ask("/", &["Host: localhost", "Origin: http://evil.example.com"]).is_refusal(403));
    assert!(site.say("GET / HTTP/1.0\r\n\r\n").is_refusal(400));
    let listed = site.ask("/metrics", &["Origin: https://board.example.com"]);
    assert_eq!((listed.status, listed.header("access-control-allow-origin")), (200, "https://board.example.com"));
    let asked = ["Origin: https://board.example.com", "Access-Control-Request-Method: GET"];
    let preflight = site.ask_by("OPTIONS", "/metrics", &asked);
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, "GET, HEAD"));
    assert_eq!(site.ask("/metrics", &[]).header("access-control-allow-origin"), "");
}

#[test]
fn a_token_is_asked_for_where_one_is_set() {
    let files = Files::new();
    let said = Plane::before(Cluster::shared()).http("listen", "0.0.0.0:1").fail_to_start();
    assert!(said.contains("anybody there could read the metrics; set token_file"), "{said}");
    let bad = files.put("bad", TOKEN);
    let said =
        Plane::before(Cluster::shared()).http("listen", "127.0.0.1:1").http("token_file", bad.as_str()).fail_to_start();
    assert!(said.contains("at least 16 characters") && !said.contains(TOKEN), "{said}");

    let token = files.put("token", SOUND_TOKEN);
    let site = Site::start(|builder| builder.http("token_file", token.as_str()));
    for path in ["/", "/metrics", "/api/v1/live", "/api/v1/snapshot", "/nothing"] {
        let refused = site.ask(path, &[]);
        assert!(refused.is_refusal(401), "{path}: {refused:?}");
        assert!(refused.header("www-authenticate").starts_with("Basic "), "{path}");
        assert_eq!(refused.header("connection"), "close");
    }
    assert!(site.ask("/metrics", &["Authorization: Bearer opensesameofthesetest"]).is_refusal(401));
    assert_eq!(site.ask("/metrics", &[&format!("Authorization: Bearer {SOUND_TOKEN}")]).status, 200);
    // of "any:opensesameofthesetests"
    assert_eq!(site.ask("/metrics", &["Authorization: Basic YW55Om9wZW5zZXNhbWVvZnRoZXNldGVzdHM="]).status, 200);
    assert_eq!((site.ask("/healthz", &[]).status, site.ask("/readyz", &[]).status), (200, 200));
    assert!(!site.plane.said().contains(SOUND_TOKEN));
}

/// A client of the endpoint that encrypts.
fn encrypted(site: &Site, config: ClientConfig) -> io::Result<Vec<u8>> {
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, site.connect());
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn certificates_are_shown_asked_for_and_taken_up_when_they_change() {
    let (authority, stranger, files) = (Authority::new("ours"), Authority::new("theirs"), Files::new());
    let named = Wanted { common_name: "localhost", names: &["localhost"], ..Wanted::default() };
    let (certificate, key) = files.put_identity("server", &authority.sign(&named));
    let client_ca = files.put("ca.crt", &authority.pem);
    let site = Site::start(|builder| {
        builder
            .http("tls_cert", certificate.as_str())
            .http("tls_key", key.as_str())
            .http("tls_client_ca", client_ca.as_str())
    });
    let config = |server: &Authority, client: Option<&Authority>| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let Some(client) = client else { return builder.with_no_client_auth() };
        let own = client.sign(&Wanted { common_name: "scraper", serial: 7, ..Wanted::default() });
        let chain = vec![CertificateDer::from_pem_slice(own.pem.as_bytes()).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap()).unwrap()
    };
    let answer = encrypted(&site, config(&authority, Some(&authority))).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    encrypted(&site, config(&authority, None)).unwrap_err();
    encrypted(&site, config(&authority, Some(&stranger))).unwrap_err();
    // clear text is not answered to
    let mut clear = site.connect();
    clear.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    // it may be reset
    let _read: io::Result<usize> = clear.read_to_end(&mut heard);
    assert!(!heard.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&heard));

    files.put_identity("server", &stranger.sign(&named));
    wait_until("the new certificate is shown", || encrypted(&site, config(&stranger, Some(&authority))).is_ok());
    files.put("server.key", "nonsense");
    wait_until("the log tells", || {
        encrypted(&site, config(&stranger, Some(&authority))).unwrap();
        site.plane.said().contains("keeps its old certificates")
    });
}

#[test]
fn requests_past_their_limits_are_refused_and_closed() {
    let site = Site::start(|builder| builder);
    let long = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    let many: String = (0..1000).map(|number| format!("X-{number}: 1\r\n")).collect();
    let many = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    for (text, status) in [
        (&long, 431),
        (&many, 431),
        (&path, 431),
        (&"nonsense\r\n\r\n".to_owned(), 400),
        (&"\0\u{1}\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(site.say(text).status, status, "{}", text.get(..40.min(text.len())).unwrap());
    }
    // a request that does not come to its end: told so, and closed
    let mut late = site.connect();
    late.set_read_timeout(Some(LONG)).unwrap();
    late.write_all(b"GET /metrics HTTP/1.1\r\nHost: local").unwrap();
    let answer = Answer::read(&mut late);
    assert!(answer.is_refusal(408), "{answer:?}");
    assert_eq!(site.ask("/metrics", &[]).status, 200);
}

#[test]
fn a_hundred_connections_and_slow_ones_keep_nobody_from_queries_or_scrapes_for_long() {
    let site = Site::start(|builder| builder);
    let database = Cluster::shared().make_database();
    let mut client = site.plane.client(&database);
    let mut slow: Vec<TcpStream> = (0..100).map(|_| site.connect()).collect();
    let mut turned_away = 0;
    for stream in &mut slow {
        // who was turned away may have been closed before
        let _written: io::Result<()> = stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ");
    }
    assert_eq!(client.query("SELECT 1").value(), "1");
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut head = [0; 12];
        turned_away += usize::from(stream.read_exact(&mut head).is_ok() && head == *b"HTTP/1.1 503");
    }
    assert!(turned_away > 0, "there is a bound to connections");
    // they go on for ever, a byte at a time, and are given up nevertheless
    wait_within(LONG, "the endpoint answers again", || {
        for stream in &mut slow {
            let _written: io::Result<()> = stream.write_all(b"x");
        }
        assert_eq!(client.query("SELECT 2").value(), "2");
        let mut stream = site.connect();
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut bytes = Vec::new();
        asked.and_then(|()| stream.read_to_end(&mut bytes)).is_ok() && bytes.starts_with(b"HTTP/1.1 200")
    });
}

#[test]
fn scraping_fifty_times_a_second_takes_at_most_one_snapshot_a_second() {
    let site = Site::start(|builder| builder);
    let database = Cluster::shared().make_database();
    let mut client = site.plane.client(&database);
    let before = site.snapshots();
    let began = Instant::now();
    let mut bodies = Vec::new();
    let mut next = began;
    for _ in 0..200 {
        assert_eq!(client.query("SELECT 1").value(), "1");
        let answer = site.ask("/metrics", &["Accept-Encoding: gzip"]);
        assert_eq!(answer.status, 200);
        bodies.push(answer.body);
        next += Duration::from_millis(20);
        wait_until("it is time for the next", || Instant::now() >= next);
    }
    let (taken, seconds) = (site.snapshots() - before, began.elapsed().as_secs());
    assert!(taken <= seconds + 1, "{taken} snapshots in {seconds} s");
    bodies.dedup();
    assert!(bodies.len() as u64 <= taken + 1, "{} texts of {taken} snapshots", bodies.len());
}

#[test]
fn a_live_stream_tells_what_is_known_then_ticks_and_what_happens() {
    let site = Site::start(|builder| builder.console("admin_users", &[SUPERUSER]));
    let database = Cluster::shared().make_database();
    let mut client = site.plane.client(&database);
    let mut live = site.live("");
    assert_eq!(live.next().unwrap()["schema"], "optimacore.series/1");
    let first = live.next_with("v");
    client.query("SELECT 1");
    let requests = loop {
        let series = live.next_with("series");
        if series["metric"] == "optimacore_requests_total" && series["labels"]["database"] == database.as_str() {
            break series["series"].to_string();
        }
    };
    let tick = live.next_with("v");
    assert!(tick["t"].as_u64() > first["t"].as_u64() && tick["v"][&requests].as_u64() > Some(0), "{tick}");

    client.query("SELECT 1/0");
    let error = live.next_with("event");
    assert_eq!(error["event"], "error", "{error}");
    assert!(error["text"].as_str().unwrap().contains("class 22"), "{error}");
    site.plane.edit_config(|text| text.replace("[http]", "[pool]\nsize = 7\n[http]"));
    signal_process(site.plane.pid(), Signal::HUP);
    let reload = live.next_with("event");
    assert_eq!(reload["event"], "reload", "{reload}");
    assert!(reload["text"].as_str().unwrap().contains("pool.size: 20 -> 7"), "{reload}");
    assert!(live.next_with("v")["dt"].as_u64() > Some(0), "the stream goes on after a reload");
    let mut console = site.plane.client("optimacore");
    for command in ["PAUSE", "RESUME"] {
        assert_eq!(console.query(command).error(), None);
        assert_eq!(live.next_with("event")["event"], command.to_ascii_lowercase());
    }

    // who comes without the history is told how everything stands
    let mut late = site.live("?history=0");
    assert_eq!(late.next().unwrap()["schema"], "optimacore.series/1");
    let standing = late.next_with("v");
    assert_eq!(standing["dt"], 0);
    assert!(!standing["v"].as_object().unwrap().is_empty());
    let tick = late.next_with("v");
    assert!(tick["dt"].as_u64().is_some_and(|dt| dt > 0 && dt < 30_000_000), "not all since the start: {tick}");
}

#[test]
fn streams_are_bounded_and_given_back_when_their_readers_leave() {
    let site = Site::start(|builder| builder);
    let streams: Vec<Live<TcpStream>> = (0..16).map(|_| site.live("?history=0")).collect();
    assert!(site.ask("/api/v1/live", &[]).is_refusal(429));
    assert!(site.ask("/api/v1/history", &[]).is_refusal(429));
    assert_eq!(site.ask("/metrics", &[]).status, 200);
    drop(streams);
    wait_until("there is room again", || site.ask("/api/v1/history", &[]).status == 200);
}

#[test]
fn a_reader_that_takes_nothing_is_let_go_and_costs_no_memory() {
    let site = Site::start(|builder| builder);
    // small buffers fill soon: requests are sent on and on, answers are never read
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], site.port).into();
    rustix::net::connect(&socket, &address).unwrap();
    let mut slow = TcpStream::from(socket);
    slow.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let memory = site.plane.memory_len();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wait_within(LONG, "it is cut off", || match slow.write_all(request) {
        Ok(()) => false,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    });
    let grown = site.plane.memory_len().saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_eq!(site.ask("/metrics", &[]).status, 200);
}

#[test]
fn readiness_follows_postgresql_and_the_end() {
    let site = {
        let port = port::free();
        let builder = Plane::before_port(port::free()).http("listen", format!("127.0.0.1:{port}"));
        Site { plane: builder.pool("query_wait_timeout", "1s").start(), port }
    };
    assert_eq!(site.document("/readyz")["status"], "ok", "nobody has tried yet");
    // its query waits for a connection that cannot be made
    let client = site.plane.try_client(SUPERUSER, "postgres", None);
    let _client = client.map(|mut client| client.send(Request::new().query("SELECT 1").bytes()));
    wait_until("it is known that PostgreSQL is not there", || site.ask("/readyz", &[]).status == 503);
    let answer = site.ask("/readyz", &[]);
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&document["status"], &document["reason"]), (&"failing".into(), &"PostgreSQL cannot be reached".into()));
    assert_eq!(site.document("/healthz")["status"], "ok");
}

#[test]
fn the_end_is_told_and_does_not_wait_for_streams() {
    let mut site = Site::start(|builder| builder.limit("shutdown_timeout", "1h"));
    let database = Cluster::shared().make_database();
    let mut client = site.plane.client(&database);
    client.query("BEGIN");
    let mut live = site.live("?history=0");
    live.next_with("v");
    site.plane.ask_to_stop();
    wait_until("it is not ready any more", || site.ask("/readyz", &[]).status == 503);
    assert_eq!(live.next_with("event")["event"], "stopping");
    assert_eq!(site.document("/healthz")["status"], "ok");
    client.query("COMMIT");
    drop(client);
    wait_until("it ends", || site.plane.ended().is_some());
    assert!(site.plane.ended().unwrap().success());
    while live.next().is_some() {}
}
