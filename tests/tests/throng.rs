//! Half a million replies (five million in `make soak`), each of which can be told to be its request's: sessions with settings
//! of their own send requests in long rows, while the configuration is read again and again, backends are ended, requests are
//! cancelled and readers are slow.
//!
//! What [`oracle`](../oracle.rs) tries in breadth, this tries in number. `OPTIMACORE_SOAK_REPLIES` says how many.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::cluster::signal_process;
use harness::{Cluster, Plane, RawClient, Reply, Request, params, wait_until, wait_within};
use rustix::process::Signal;

const SESSIONS: usize = 32;
/// Requests in one write.
const ROW_LEN: usize = 100;
/// The moment that sessions ask for, seconds after 1970, in UTC.
const NOON: u64 = 1_577_880_000;

/// What the sessions share.
struct Run {
    plane: Plane,
    database: String,
    over: AtomicBool,
    answered: AtomicU64,
    wanted: u64,
}

impl Run {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.answered.load(Ordering::Relaxed) >= self.wanted
    }
}

/// Ends the run for all when its thread panics.
struct EndsRun<'r>(&'r Run);

impl Drop for EndsRun<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.over.store(true, Ordering::Relaxed);
        }
    }
}

struct Session<'r> {
    run: &'r Run,
    client: RawClient,
    rng: fastrand::Rng,
    number: usize,
    /// Hours east of Greenwich.
    hours: u64,
    count: u64,
}

/// What one request must be answered with.
enum Expected {
    Value(String),
    Error(String),
}

impl<'r> Session<'r> {
    fn new(run: &'r Run, number: usize) -> Self {
        let hours = u64::try_from(number % 12).unwrap();
        let rng = fastrand::Rng::with_seed(u64::try_from(number).unwrap());
        let client = Self::connect(run, number, hours);
        Self { run, client, rng, number, hours, count: 0 }
    }

    fn connect(run: &Run, number: usize, hours: u64) -> RawClient {
        // the sign of these names is turned
        let (zone, name) = (format!("Etc/GMT-{hours}"), format!("throng {number}"));
        let parameters =
            [("user", "postgres"), ("database", &*run.database), ("TimeZone", &zone), ("application_name", &name)];
        let mut found = None;
        wait_until("a client is let in and has prepared", || {
            let Ok(mut client) = RawClient::connect(run.plane.port(), &parameters, None) else { return false };
            client.may_be_torn();
            let sent = client.try_send(Request::new().parse("kept", "select 'kept ' || $1").sync().bytes());
            let reply = Reply { messages: client.receive_to_end_or_ready() };
            let whole = sent.is_ok() && reply.messages.last().is_some_and(|message| message.tag == b'Z');
            found = Some(client).filter(|_| whole && reply.error().is_none());
            found.is_some()
        });
        found.unwrap()
    }

    fn come_again(&mut self) {
        self.client = Self::connect(self.run, self.number, self.hours);
    }

    /// One more request, and what must come of it.
    fn add(&mut self, row: Request) -> (Request, Expected) {
        self.count += 1;
        let value = format!("s{}n{}", self.number, self.count);
        let noon = || Expected::Value((NOON - 3600 * self.hours).to_string());
        match self.rng.u32(..100) {
            0..30 => (row.query(&format!("select '{value}'")), Expected::Value(value)),
            30..55 => (row.extended("select $1::text", &params(&[&value])), Expected::Value(value)),
            55..75 => (row.run("kept", &params(&[&value])), Expected::Value(format!("kept {value}"))),
            75..85 => (row.query("select extract(epoch from '2020-01-01 12:00'::timestamptz)::bigint"), noon()),
            85..92 => (row.extended("select extract(epoch from '2020-01-01 12:00'::timestamptz)::bigint", &[]), noon()),
            92..97 => (row.extended("select $1::int", &params(&[&value])), Expected::Error(value)),
            // alone on its connection
            97..99 => (row.query(&format!("select '{value}' || pg_sleep(0)")), Expected::Value(value)),
            _ => {
                let text = format!("begin; select '{value}'; commit");
                (row.query(&text), Expected::Value(value))
            }
        }
    }

    /// Sends a row of requests and looks at every reply.
    fn ask(&mut self) {
        let mut row = Request::new();
        let mut expected = Vec::with_capacity(ROW_LEN);
        for _ in 0..ROW_LEN {
            let (more, reply) = self.add(row);
            row = more;
            expected.push(reply);
        }
        if self.client.try_send(row.bytes()).is_err() {
            return self.come_again();
        }
        match self.rng.u32(..200) {
            0 => self.client.cancel(),
            // it reads late, and others are served meanwhile
            1..5 => thread::yield_now(),
            5 => return self.come_again(),
            _ => {}
        }
        for wanted in &expected {
            let messages = self.client.receive_to_end_or_ready();
            let reply = Reply { messages };
            let whole = reply.messages.last().is_some_and(|message| message.tag == b'Z');
            if !whole || reply.error().is_some_and(|error| is_loss(&error.code)) {
                return self.come_again();
            }
            if reply.code() == "57014" {
                continue;
            }
            match wanted {
                Expected::Value(value) => assert_eq!(reply.good().values(), [value.as_str()]),
                Expected::Error(value) => {
                    let error = reply.error().unwrap();
                    assert!(error.code == "22P02" && error.message.ends_with(&format!("\"{value}\"")), "{error:?}");
                }
            }
            self.run.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether an error says that a connection was lost, ours or the server's.
fn is_loss(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P")
}

/// Reads the configuration again and ends a backend, over and over.
fn disturb(run: &Run) {
    let mut next = Instant::now();
    while !run.is_over() {
        signal_process(run.plane.id(), Signal::HUP);
        let text = format!(
            "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity where datname = '{}' \
             and backend_type = 'client backend' order by random() limit 1) t",
            run.database
        );
        Cluster::shared().sql(&text);
        next += Duration::from_secs(1);
        wait_within(Duration::from_secs(30), "it is time for the next", || Instant::now() > next || run.is_over());
    }
}

#[test]
fn of_many_replies_none_is_wrong_missing_doubled_or_anothers() {
    let wanted = std::env::var("OPTIMACORE_SOAK_REPLIES").ok().and_then(|text| text.parse().ok());
    let database = Cluster::shared().make_database();
    // fewer connections than sessions that need one of their own at times
    let plane = Plane::before(Cluster::shared()).pool("size", 6).start();
    let run = Run {
        plane,
        database,
        over: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        wanted: wanted.unwrap_or(500_000),
    };
    thread::scope(|scope| {
        for number in 0..SESSIONS {
            let run = &run;
            scope.spawn(move || {
                let _end = EndsRun(run);
                let mut session = Session::new(run, number);
                while !run.is_over() {
                    session.ask();
                }
            });
        }
        scope.spawn(|| disturb(&run));
    });
    let stats = run.plane.pool(&run.database);
    assert!(run.answered.load(Ordering::Relaxed) >= run.wanted);
    // how many, depends on how fast the machine is
    assert!(stats.requests_shared > run.wanted / 20, "{} were shared", stats.requests_shared);
    assert!(stats.settings_replayed > 0);
}
