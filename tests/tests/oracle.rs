//! Many sessions at once, whose every reply can be told to be that session's and that request's.
//!
//! Each value that is asked for is made up for the one request that asks for it, so a reply that went astray, was lost, doubled
//! or put in the wrong order cannot pass for the right one. Rows that a session owns carry a number that only it raises.
//! Meanwhile requests are cancelled, clients hang up, and backends are ended. A run is made by its seed, which a failure
//! prints; `OPTIMACORE_SOAK_SEED` sets it, `OPTIMACORE_SOAK_SECONDS` says how long.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::{Cluster, FaultProxy, Message, Plane, RawClient, Reply, Request, params, wait_until};

const SESSIONS: usize = 24;

/// What the run may do besides asking.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Requests only: nothing may fail.
    Fair,
    /// Cancels, clients that hang up, backends that are ended.
    Foul,
    /// Cancels, clients that hang up, and a network between us and PostgreSQL that cuts, resets, stalls and trickles.
    Storm,
}

/// What all threads of a run share.
struct Run<'r> {
    plane: &'r Plane,
    database: &'r str,
    weather: Weather,
    over: AtomicBool,
    answered: AtomicU64,
}

/// What a part of a request must be answered with.
enum Expected {
    /// These rows of one column, and this command tag.
    Rows(Vec<String>, String),
    /// An error that contains this text and has this SQLSTATE.
    Error(String, &'static str),
}

/// A session of the run and what it knows to be true.
struct Session<'r> {
    run: &'r Run<'r>,
    client: RawClient,
    rng: fastrand::Rng,
    number: usize,
    /// Makes values unique.
    count: u64,
    /// What its row says, as far as is known; a change whose outcome nobody knows leaves two possibilities.
    row: (u64, u64),
    /// What it has written to the log for certain.
    logged: Vec<String>,
    /// Names of statements it has prepared, each with the text it puts before its parameter.
    prepared: Vec<(String, String)>,
}

impl<'r> Session<'r> {
    fn new(run: &'r Run<'r>, number: usize, seed: u64) -> Self {
        let mut client = run.plane.client(run.database);
        if run.weather == Weather::Storm {
            client.may_be_torn();
        }
        let rng = fastrand::Rng::with_seed(seed.wrapping_add(u64::try_from(number).unwrap()));
        Self { run, client, rng, number, count: 0, row: (0, 0), logged: Vec::new(), prepared: Vec::new() }
    }

    fn unique(&mut self) -> String {
        self.count += 1;
        format!("s{}n{}x{:08x}", self.number, self.count, self.rng.u32(..))
    }

    /// Connects anew.
    fn come_again(&mut self) {
        self.prepared.clear();
        let database = self.run.database;
        let mut found = None;
        wait_until("the client is let in again", || {
            found = self.run.plane.try_client("postgres", database, None).ok();
            found.is_some()
        });
        std::mem::replace(&mut self.client, found.unwrap()).hang_up();
        if self.run.weather == Weather::Storm {
            self.client.may_be_torn();
        }
    }

    /// Sends a request and compares what comes.
    fn ask(&mut self, request: &Request, expected: &[Expected]) -> bool {
        let sent = self.client.try_send(request.bytes());
        if self.run.weather != Weather::Fair && self.rng.u32(..40) == 0 {
            self.client.cancel();
        }
        if self.run.weather != Weather::Fair && self.rng.u32(..60) == 0 {
            self.come_again();
            return false;
        }
        let messages = if sent.is_ok() { self.client.receive_to_end_or_ready() } else { Vec::new() };
        let whole = messages.last().is_some_and(|message| message.tag == b'Z');
        let reply = Reply { messages };
        self.run.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = reply.error()
            && self.run.weather != Weather::Fair
            && (matches!(error.code.as_str(), "57014" | "57P01" | "57P02") || error.code.starts_with("08"))
        {
            if !whole {
                self.come_again();
            }
            return false;
        }
        if !whole && self.run.weather != Weather::Fair {
            self.come_again();
            return false;
        }
        assert!(whole, "session {} was cut off: {reply:?}", self.number);
        if let Err(what) = compare(&reply, expected) {
            panic!("session {}, request {request:?}: {what}; the reply was {reply:?}", self.number);
        }
        true
    }

    fn simple_select(&mut self) {
        let mut text = String::new();
        let mut expected = Vec::new();
        for _ in 0..=self.rng.usize(..3) {
            let (value, rows) = (self.unique(), self.rng.usize(..20));
            write!(text, "select '{value} ' || n from generate_series(1, {rows}) n;").unwrap();
            let all = (1..=rows).map(|row| format!("{value} {row}")).collect();
            expected.push(Expected::Rows(all, format!("SELECT {rows}")));
        }
        self.ask(&Request::new().query(&text), &expected);
    }

    fn parameters(&mut self) {
        let value = self.unique();
        let request = Request::new().extended("select $1::text", &params(&[&value]));
        self.ask(&request, &[Expected::Rows(vec![value], "SELECT 1".into())]);
    }

    fn large_result(&mut self) {
        let (value, len) = (self.unique(), self.rng.usize(1..60_000));
        let request = Request::new().extended("select rpad($1, $2::int, '-')", &params(&[&value, &len.to_string()]));
        let mut row = format!("{value:-<len$}");
        row.truncate(len);
        self.ask(&request, &[Expected::Rows(vec![row], "SELECT 1".into())]);
    }

    fn large_parameter(&mut self) {
        let mut value = self.unique();
        value.push_str(&"=".repeat(self.rng.usize(1..60_000)));
        let request = Request::new().extended("select length($1)", &params(&[&value]));
        self.ask(&request, &[Expected::Rows(vec![value.len().to_string()], "SELECT 1".into())]);
    }

    fn error(&mut self) {
        let value = self.unique();
        let expected = [Expected::Error(format!("invalid input syntax for type integer: \"{value}\""), "22P02")];
        let request = match self.rng.u32(..3) {
            0 => Request::new().query(&format!("select '{value}'::text::int")),
            1 => Request::new().extended("select $1::int", &params(&[&value])),
            _ => {
                let request =
                    Request::new().extended("select $1::text::int from generate_series(1, 3)", &params(&[&value]));
                // what is behind an error in the same request is passed over
                request.raw(b"")
            }
        };
        self.ask(&request, &expected);
    }

    /// Prepares under a name that other sessions use for other texts, and runs it later.
    fn named_statement(&mut self) {
        if self.prepared.len() < 4 {
            let name = format!("name{}", self.prepared.len());
            // some texts are the same in many sessions, some are one session's own
            let text = if self.rng.bool() { format!("shared {}", self.prepared.len()) } else { self.unique() };
            let request = Request::new().parse(&name, &format!("select '{text} ' || $1")).sync();
            if self.ask(&request, &[]) {
                self.prepared.push((name, text));
            } else {
                // nobody knows whether it is there
                self.come_again();
            }
            return;
        }
        let (value, which) = (self.unique(), self.rng.usize(..self.prepared.len()));
        let (name, text) = self.prepared.get(which).unwrap().clone();
        if self.rng.u32(..10) == 0 {
            if self.ask(&Request::new().close_statement(&name).sync(), &[]) {
                let gone = format!("prepared statement \"{name}\" does not exist");
                self.ask(&Request::new().run(&name, &params(&[&value])), &[Expected::Error(gone, "26000")]);
            }
            self.come_again();
            return;
        }
        let request = Request::new().run(&name, &params(&[&value]));
        self.ask(&request, &[Expected::Rows(vec![format!("{text} {value}")], "SELECT 1".into())]);
    }

    /// Several requests in one write; each has its own reply.
    fn pipeline(&mut self) {
        let values: Vec<String> = (0..self.rng.usize(2..8)).map(|_| self.unique()).collect();
        let mut request = Request::new();
        for value in &values {
            request = match self.rng.u32(..3) {
                0 => request.query(&format!("select '{value}'")),
                1 => request.extended("select $1::text", &params(&[value])),
                _ => request.extended("select $1::int", &params(&[value])),
            };
        }
        if self.client.try_send(request.bytes()).is_err() {
            return self.come_again();
        }
        for value in &values {
            let messages = self.client.receive_to_end_or_ready();
            let reply = Reply { messages };
            let lost = |error: &harness::ErrorReply| error.code.starts_with("57P") || error.code.starts_with("08");
            if self.run.weather != Weather::Fair
                && (reply.messages.last().is_none_or(|message| message.tag != b'Z')
                    || reply.error().is_some_and(|error| lost(&error)))
            {
                return self.come_again();
            }
            self.run.answered.fetch_add(1, Ordering::Relaxed);
            let right = match reply.error() {
                Some(error) => error.code == "22P02" && error.message.ends_with(&format!("\"{value}\"")),
                None => reply.values() == [value.as_str()],
            };
            assert!(right, "session {}: {value} was asked for in {values:?}; the reply was {reply:?}", self.number);
        }
    }

    fn row_text(&self) -> String {
        format!("select value from own where session = {}", self.number)
    }

    /// Reads its row, which must be one of the two it can be.
    fn read_row(&mut self) {
        let reply = loop {
            let sent = self.client.try_send(Request::new().query(&self.row_text()).bytes());
            let messages = if sent.is_ok() { self.client.receive_to_end_or_ready() } else { Vec::new() };
            let reply = Reply { messages };
            if reply.error().is_none() && reply.messages.last().is_some_and(|message| message.tag == b'Z') {
                break reply;
            }
            assert!(self.run.weather != Weather::Fair, "session {}: {reply:?}", self.number);
            self.come_again();
        };
        let value: u64 = reply.value().parse().unwrap();
        let (low, high) = self.row;
        assert!(value == low || value == high, "session {}: its row is {value}, not {low} or {high}", self.number);
        self.row = (value, value);
    }

    /// Raises the number of its row, in one of several ways.
    fn raise_row(&mut self) {
        self.read_row();
        let (now, next) = (self.row.0, self.row.0 + 1);
        self.row = (now, next);
        let update = format!("update own set value = {next} where session = {} and value = {now}", self.number);
        let done = || Expected::Rows(Vec::new(), "UPDATE 1".to_owned());
        let sure = match self.rng.u32(..3) {
            0 => self.ask(&Request::new().query(&update), &[done()]),
            1 => self.ask(&Request::new().extended(&update, &[]), &[done()]),
            _ => self.ask(
                &Request::new().query(&format!("{update} returning value")),
                &[Expected::Rows(vec![next.to_string()], "UPDATE 1".to_owned())],
            ),
        };
        if sure {
            self.row = (next, next);
        } else {
            // an earlier request may still be under way on the server; its connection must be gone before the row is read
            self.come_again();
            self.settle();
        }
    }

    /// Writes a line to a log that would take it twice.
    fn log(&mut self) {
        let line = self.unique();
        let insert = format!("insert into log values ('{line}')");
        let request =
            if self.rng.bool() { Request::new().query(&insert) } else { Request::new().extended(&insert, &[]) };
        if self.ask(&request, &[Expected::Rows(Vec::new(), "INSERT 0 1".to_owned())]) {
            self.logged.push(line);
        }
    }

    /// Every line of which it was told is there, and none is there twice.
    fn check_log(&mut self) {
        let text = format!("select value from log where value like 's{}n%'", self.number);
        let mut lines: Vec<String> =
            Cluster::shared().sql_in(self.run.database, &text).lines().map(str::to_owned).collect();
        let count = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), count, "session {}: a write was repeated", self.number);
        for line in &self.logged {
            assert!(lines.binary_search(line).is_ok(), "session {}: {line} was told of and is not there", self.number);
        }
    }

    /// A transaction over several requests that commits or not.
    fn transaction(&mut self) {
        self.read_row();
        let (now, next) = (self.row.0, self.row.0 + 1);
        let plain = |tag: &str| [Expected::Rows(Vec::new(), tag.to_owned())];
        let update = format!("update own set value = {next} where session = {}", self.number);
        let commits = self.rng.bool();
        self.row = (now, if commits { next } else { now });
        let began = self.ask(&Request::new().query("begin"), &plain("BEGIN"))
            && self.ask(&Request::new().extended(&update, &[]), &plain("UPDATE 1"))
            && self.ask(
                &Request::new().query(&self.row_text()),
                &[Expected::Rows(vec![next.to_string()], "SELECT 1".to_owned())],
            );
        let (end, tag) = if commits { ("commit", "COMMIT") } else { ("rollback", "ROLLBACK") };
        if began && self.ask(&Request::new().query(end), &plain(tag)) {
            let value = if commits { next } else { now };
            self.row = (value, value);
        } else {
            self.come_again();
            self.settle();
        }
    }

    /// Waits until no server connection still works for one of its earlier requests: its row is free.
    fn settle(&mut self) {
        let text = format!("select value from own where session = {} for update nowait", self.number);
        wait_until("the row is free", || {
            let sent = self.client.try_send(Request::new().query(&text).bytes());
            let messages = if sent.is_ok() { self.client.receive_to_end_or_ready() } else { Vec::new() };
            let reply = Reply { messages };
            let free =
                reply.error().is_none() && reply.messages.last().is_some_and(|message: &Message| message.tag == b'Z');
            if !free {
                self.come_again();
            }
            free && self.no_backend_of_its_own()
        });
    }

    /// Whether nothing runs in the database that changes its row.
    fn no_backend_of_its_own(&self) -> bool {
        let text = format!(
            "select count(*) from pg_stat_activity where state <> 'idle' and query like 'update own%session = {} %' \
             and pid <> pg_backend_pid()",
            self.number
        );
        Cluster::shared().sql(&text) == "0"
    }

    fn setting(&mut self) {
        let value = self.unique();
        let request = Request::new()
            .query(&format!("begin; set local app.session = '{value}'; select current_setting('app.session'); commit"));
        let tag = |tag: &str| Expected::Rows(Vec::new(), tag.to_owned());
        let expected = [tag("BEGIN"), tag("SET"), Expected::Rows(vec![value], "SELECT 1".into()), tag("COMMIT")];
        if !self.ask(&request, &expected) {
            self.come_again();
        }
        let nothing = Request::new().query("select coalesce(current_setting('app.session', true), '')");
        self.ask(&nothing, &[Expected::Rows(vec![String::new()], "SELECT 1".into())]);
    }

    fn live(&mut self) {
        while !self.run.over.load(Ordering::Relaxed) {
            match self.rng.u32(..100) {
                0..30 => self.simple_select(),
                30..45 => self.parameters(),
                45..60 => self.named_statement(),
                60..70 => self.pipeline(),
                70..78 => self.error(),
                78..81 => self.raise_row(),
                81..84 => self.log(),
                84..90 => self.transaction(),
                90..93 => self.large_result(),
                93..96 => self.large_parameter(),
                96..98 => self.setting(),
                _ => self.come_again(),
            }
        }
        self.read_row();
        self.check_log();
    }
}

/// Whether a reply is what was expected, part by part.
fn compare(reply: &Reply, expected: &[Expected]) -> Result<(), String> {
    let mut rows = reply.rows().into_iter().map(|row| row.into_iter().next().flatten());
    let mut commands = reply.commands().into_iter();
    let mut error = reply.error();
    for part in expected {
        match part {
            Expected::Rows(wanted, tag) => {
                for row in wanted {
                    let found = rows.next().flatten();
                    if found.as_ref() != Some(row) {
                        return Err(format!("wanted the row {row}, found {found:?}"));
                    }
                }
                let found = commands.next();
                if found.as_ref() != Some(tag) {
                    return Err(format!("wanted {tag}, found {found:?}"));
                }
            }
            Expected::Error(text, code) => {
                let found = error.take();
                if !found.as_ref().is_some_and(|found| found.message.contains(text) && found.code == *code) {
                    return Err(format!("wanted the error {code} {text}, found {found:?}"));
                }
            }
        }
    }
    match (rows.next(), commands.next(), error) {
        (None, None, None) => Ok(()),
        more => Err(format!("there is more than was wanted: {more:?}")),
    }
}

/// Ends backends of the data plane at random.
fn end_backends(run: &Run<'_>, mut rng: fastrand::Rng) {
    while !run.over.load(Ordering::Relaxed) {
        let text = format!(
            "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity where datname = '{}' \
             and backend_type = 'client backend' order by random() limit 1) t",
            run.database
        );
        Cluster::shared().sql(&text);
        let next = Instant::now() + Duration::from_millis(rng.u64(50..500));
        wait_until("it is time for the next", || Instant::now() > next || run.over.load(Ordering::Relaxed));
    }
}

fn soak(weather: Weather, size: u32) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let duration = Duration::from_secs(number("OPTIMACORE_SOAK_SECONDS").unwrap_or(10));
    let seed = number("OPTIMACORE_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let database = Cluster::shared().make_database();
    let network = FaultProxy::start(Cluster::shared().port(), seed);
    let port = if weather == Weather::Storm { network.port() } else { Cluster::shared().port() };
    let plane = Plane::before_port(port)
        .pool("size", i64::from(size))
        .pool("share", "on")
        .pool("prepared_statements", 20)
        .console("admin_users", &["postgres"])
        .start();
    Cluster::shared().sql_in(
        &database,
        &format!("create table own as select n as session, 0 as value from generate_series(0, {SESSIONS}) n; create table log (value text)"),
    );
    let run =
        Run { plane: &plane, database: &database, weather, over: AtomicBool::new(false), answered: AtomicU64::new(0) };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        std::thread::scope(|scope| {
            let mut threads: Vec<_> = (0..SESSIONS)
                .map(|number| {
                    let run = &run;
                    scope.spawn(move || {
                        // whoever fails ends the run for all
                        let _end = EndsRun(run);
                        Session::new(run, number, seed).live();
                    })
                })
                .collect();
            if weather == Weather::Foul {
                threads.push(scope.spawn(|| end_backends(&run, fastrand::Rng::with_seed(seed))));
            }
            let until = Instant::now() + duration;
            let limit = duration + Duration::from_secs(60);
            harness::wait_within(limit, "the end", || Instant::now() > until || run.over.load(Ordering::Relaxed));
            run.over.store(true, Ordering::Relaxed);
            network.calm();
        });
    }));
    let answered = run.answered.load(Ordering::Relaxed);
    let pool = plane.pool(&database);
    let mut busy = String::new();
    if outcome.is_err() {
        for table in ["show clients", "show servers", "show pins", "show pipes"] {
            writeln!(busy, "{table}:\n{}", plane.sql("optimacore", table)).unwrap();
        }
    }
    assert!(
        outcome.is_ok(),
        "the run of OPTIMACORE_SOAK_SEED={seed} failed after {answered} replies; the pool: {pool:?}\n{busy}"
    );
    assert!(answered > 500, "only {answered} replies");
    let (deadly, slow) = network.faults();
    assert!(weather != Weather::Storm || deadly > 3 && slow > 10, "no storm: {deadly} ended, {slow} slow");
    plane.wait_until_pool_is_quiet(&database);
    assert!(plane.pool(&database).permits_held <= u64::from(size));
}

/// Ends the run when dropped.
struct EndsRun<'r>(&'r Run<'r>);

impl Drop for EndsRun<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_reply_is_the_right_one_in_fair_weather() {
    soak(Weather::Fair, 6);
}

#[test]
fn every_reply_is_the_right_one_on_very_few_connections() {
    soak(Weather::Fair, 2);
}

#[test]
fn every_reply_is_the_right_one_or_tells_what_went_wrong_in_foul_weather() {
    soak(Weather::Foul, 6);
}

#[test]
fn every_reply_is_the_right_one_or_tells_what_went_wrong_in_a_storm() {
    soak(Weather::Storm, 6);
}
