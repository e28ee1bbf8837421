//! Arbitrary orders of a client's messages, legal and not, against a reference: PostgreSQL itself.
//!
//! The same turns are sent to PostgreSQL and through the data plane, byte for byte, several sessions in between each other, and every
//! message of every reply must be the same; of errors all fields but those that name PostgreSQL's source. Each has a
//! database of its own, and those are copies of each other, so that even the numbers of tables agree.
//!
//! A run is made by its seed, which a failure prints. Some are replayed each time (`REPLAYED`); `OPTIMACORE_SOAK_SEED` tries one,
//! and for `OPTIMACORE_FUZZ_SECONDS` new ones are tried.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use dbproto::message::backend::ErrorFields;
use harness::cluster::SUPERUSER;
use harness::{Cluster, Message, Plane, RawClient, Request};

/// Sessions in between each other.
const SESSIONS: usize = 3;
/// Turns of all sessions together in one run.
const TURNS: usize = 40;
/// Runs that are replayed: such as have found something.
const REPLAYED: [u64; 16] = [
    14_465_912_542_043_836_423,
    9_598_201_907_025_871_522,
    15_874_360_946_124_530_791,
    17_481_390_769_947_841_493,
    3_936_928_910_660_226_989,
    5_355_800_350_852_291_959,
    15_453_765_609_278_352_438,
    7_786_122_765_134_353_960,
    9_062_081_730_828_368_805,
    9_955_907_018_251_304_339,
    2_489_015_147_171_957_021,
    16_638_052_672_270_232_773,
    12_173_555_278_142_459_930,
    12_815_510_108_752_935_300,
    3_700_824_408_770_297_446,
    17_740_766_316_883_904_426,
];
/// Each turn ends so: whatever COPY is under way ends, the group ends, and the end is found by answers that nothing else gives
/// in a row, whatever state the session is in.
const END: &[u8] = b"IZIZIZ";

/// How the end of a connection is noted.
const CLOSED: &str = "the connection was closed";

/// Statements that are sent as Queries. `#` is the session's own number.
const QUERIES: [&str; 45] = [
    "select 1",
    "",
    ";",
    "-- nothing",
    "begin",
    "begin",
    "commit",
    "rollback",
    "savepoint a",
    "rollback to a",
    "release a",
    "select * from t# order by id",
    "insert into t# values (7, 'seven')",
    "insert into t# values (1, 'again')",
    "update t# set v = 'changed' where id = 1",
    "delete from t# where id = 7",
    "copy t# from stdin",
    "copy t# (id) from stdin; copy t# from stdin; select 3",
    "copy (table t# order by id) to stdout",
    "copy (select 1/0) to stdout",
    "select 1; select 2",
    "select 1/0",
    "select 1; select 1/0; select 2",
    "begin; select 1",
    "commit; begin",
    "insert into t# values (8, 'eight'); select 1/0",
    "no such statement",
    "select 'open",
    "set application_name = 'mine#'",
    "show application_name",
    "set local work_mem = '3MB'",
    "set work_mem = '5MB'",
    "reset work_mem",
    "show work_mem",
    "select set_config('work_mem', '6MB', false)",
    "prepare q as select 5",
    "execute q",
    "execute a",
    "deallocate q",
    "deallocate a",
    "deallocate all",
    "discard all",
    "declare c cursor for select generate_series(1, 5)",
    "fetch 2 from c",
    "do $$ begin raise notice 'noted'; end $$",
];

/// Statements that are prepared.
const STATEMENTS: [&str; 15] = [
    "select 1",
    "",
    "select $1::int + 1",
    "select $1::text, $2::text",
    "select * from t# where id = $1::int",
    "select generate_series(1, 5)",
    "insert into t# values ($1::int, $2)",
    "update t# set v = $1 where id = 2",
    "copy (table t# order by id) to stdout",
    "begin",
    "commit",
    "select 1; select 2",
    "no such statement",
    "select * from nowhere",
    "show work_mem",
];

const STATEMENT_NAMES: [&str; 5] = ["", "", "a", "b", "nobody"];
const PORTAL_NAMES: [&str; 4] = ["", "", "p", "c"];
const VALUES: [Option<&str>; 5] = [None, Some("1"), Some("2"), Some("word"), Some("")];

/// Makes turns.
struct Author {
    rng: fastrand::Rng,
    session: usize,
    unnamed: UnnamedPortal,
}

/// Whether the unnamed portal is one of this group's. PostgreSQL 15 crashes when a Query has failed in a transaction and its
/// unnamed portal, whose text is gone by then, is executed next: such a portal is left alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum UnnamedPortal {
    BoundHere,
    Unknown,
}

impl Author {
    fn of<'t>(&mut self, all: &[&'t str]) -> &'t str {
        all.get(self.rng.usize(..all.len())).unwrap()
    }

    fn text(&mut self, all: &[&str]) -> String {
        self.of(all).replace('#', &self.session.to_string())
    }

    fn message(&mut self, request: Request) -> Request {
        let rows_max = self.rng.u32(..3);
        let (statement, portal) = (self.of(&STATEMENT_NAMES), self.of(&PORTAL_NAMES));
        let kind = self.rng.u32(..100);
        let used = if portal.is_empty() && self.unnamed == UnnamedPortal::Unknown { "p" } else { portal };
        self.unnamed = match kind {
            0..22 | 89..94 | 98.. => UnnamedPortal::Unknown,
            40..58 if portal.is_empty() => UnnamedPortal::BoundHere,
            _ => self.unnamed,
        };
        match kind {
            0..22 => {
                let text = self.text(&QUERIES);
                let request = request.query(&text);
                // PostgreSQL cuts off whoever sends anything else while it waits for rows
                if text.contains("from stdin") { self.rows(request) } else { request }
            }
            22..40 => request.parse(statement, &self.text(&STATEMENTS)),
            40..58 => {
                let count = self.rng.usize(..3);
                let values: Vec<_> = (0..count).map(|_| *VALUES.get(self.rng.usize(..VALUES.len())).unwrap()).collect();
                request.bind(portal, statement, &values)
            }
            58..74 => request.execute(used, rows_max),
            74..78 => request.describe_statement(statement),
            78..82 => request.describe_portal(used),
            82..85 => request.close_statement(statement),
            85..87 => request.close_portal(portal),
            87..89 => request.flush(),
            89..94 => request.sync(),
            94..96 => self.row(request),
            96 => request.message(b'c', b""),
            97 => request.message(b'f', b"enough\0"),
            _ => self.function_call(request),
        }
    }

    fn row(&mut self, request: Request) -> Request {
        let row = self.text(&["50\tfifty\n", "51\\N\n", "rubbish\n", "", "52\tfif", "ty two\n"]);
        request.message(b'd', row.as_bytes())
    }

    /// Rows for two COPYs, each with its end. A Sync comes only where there are no rows that it could stand among: if a COPY
    /// fails after that, its connection is given up, as nobody knows whether the Sync was within it.
    fn rows(&mut self, mut request: Request) -> Request {
        for _ in 0..2 {
            let count = self.rng.usize(..3);
            for _ in 0..count {
                request = self.row(request);
            }
            request = match self.rng.u32(..4) {
                0 => request.message(b'f', b"enough\0"),
                1 if count == 0 => request.sync().flush().message(b'c', b""),
                _ => request.message(b'c', b""),
            };
        }
        request
    }

    /// int4pl, or what does not exist, with one argument or two.
    fn function_call(&mut self, request: Request) -> Request {
        let oid: u32 = if self.rng.bool() { 177 } else { 1 };
        let count: u16 = self.rng.u16(1..3);
        let mut body = oid.to_be_bytes().to_vec();
        body.extend(0_u16.to_be_bytes());
        body.extend(count.to_be_bytes());
        for _ in 0..count {
            body.extend([0, 0, 0, 1, b'4']);
        }
        body.extend(0_u16.to_be_bytes());
        request.message(b'F', &body)
    }

    fn turn(&mut self) -> Request {
        let mut request = Request::new();
        self.unnamed = UnnamedPortal::Unknown;
        for _ in 0..self.rng.usize(1..10) {
            request = self.message(request);
        }
        ended(request)
    }
}

/// With what shows the end of its answer.
fn ended(request: Request) -> Request {
    let ends_copy = request.message(b'c', b"").message(b'c', b"").message(b'c', b"");
    ends_copy.sync().query("").query("").query("")
}

/// A session on both ways.
struct Pair {
    /// What it has sent, to be shown.
    sent: Vec<String>,
    author: Author,
    direct: RawClient,
    pooled: RawClient,
    port: u16,
}

/// What is compared of a message.
#[derive(Clone, PartialEq, Eq)]
struct Heard(u8, Vec<String>);

impl Heard {
    fn of(message: &Message) -> Self {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        match message.tag {
            b'E' | b'N' => {
                let fields = ErrorFields::new(&message.body);
                let seen = b"SVCMDHPpqWsctdn"
                    .iter()
                    .filter_map(|code| Some(format!("{}={}", char::from(*code), text(fields.get(*code)?))));
                Self(message.tag, seen.collect())
            }
            tag => Self(tag, vec![text(&message.body)]),
        }
    }
}

fn show(heard: &[Heard]) -> String {
    heard.iter().fold(String::new(), |mut out, Heard(tag, parts)| {
        writeln!(out, "  {} {}", char::from(*tag), parts.join(" ")).unwrap();
        out
    })
}

/// Writes in pieces, so that messages arrive in parts.
fn send(client: &mut RawClient, bytes: &[u8], cuts: &[usize]) {
    let mut at = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        client.send(bytes.get(at..cut).unwrap());
        at = cut;
    }
}

/// Everything up to the end of the turn.
fn hear(client: &mut RawClient) -> Vec<Heard> {
    let mut heard: Vec<Heard> = Vec::new();
    loop {
        let next = catch_unwind(AssertUnwindSafe(|| client.try_receive()));
        let Ok(Some(message)) = next else {
            let what = if next.is_ok() { CLOSED } else { "nothing more came" };
            heard.push(Heard(b'!', vec![what.into()]));
            return heard;
        };
        heard.push(Heard::of(&message));
        let tags: Vec<u8> = heard.iter().rev().take(END.len()).map(|Heard(tag, _)| *tag).collect();
        if tags.iter().rev().eq(END) {
            return heard;
        }
    }
}

impl Pair {
    fn take_turn(&mut self, seed: u64, number: usize, databases: &[String; 2]) {
        let request = self.author.turn();
        let bytes = request.bytes();
        self.sent.push(format!("{number}: {}", bytes.escape_ascii()));
        let mut cuts: Vec<usize> =
            (0..self.author.rng.usize(..4)).map(|_| self.author.rng.usize(..bytes.len())).collect();
        cuts.sort_unstable();
        send(&mut self.direct, bytes, &cuts);
        let wanted = hear(&mut self.direct);
        send(&mut self.pooled, bytes, &cuts);
        let mut found = hear(&mut self.pooled);
        excuse(&wanted, &mut found);
        let (wanted, wanted_end) = split_end(&wanted);
        let (found, found_end) = split_end(&found);
        if (wanted, wanted_end.is_empty()) != (found, found_end.is_empty()) {
            let session = self.author.session;
            panic!(
                "OPTIMACORE_SOAK_SEED={seed}, turn {number}, session {session}, was answered otherwise. It had sent:\n{}\nPostgreSQL:\n{}{}\nhere:\n{}{}",
                self.sent.join("\n"),
                show(wanted),
                show(wanted_end),
                show(found),
                show(found_end)
            );
        }
        if !wanted_end.is_empty() {
            let [reference, ours] = databases;
            self.direct = connect(Cluster::shared().port(), reference);
            self.pooled = connect(self.port, ours);
            self.sent.clear();
        }
    }
}

/// In a failed transaction a statement that the connection at hand does not have cannot be prepared there: using it fails for
/// that reason where PostgreSQL may find another, or none. And of two names a session has for the same statement, the text of an
/// error may tell the other one.
fn excuse(wanted: &[Heard], found: &mut Vec<Heard>) {
    for (Heard(wanted_tag, wanted), Heard(tag, parts)) in wanted.iter().zip(found.iter_mut()) {
        let same = parts.iter().map(|part| without_name(part)).eq(wanted.iter().map(|part| without_name(part)));
        let failed = parts.iter().any(|part| part == "C=25P02");
        if (*wanted_tag, *tag, failed || same) == (b'E', b'E', true) {
            parts.clone_from(wanted);
        }
    }
    let groups = |all| <[Heard]>::split_inclusive(all, |Heard(tag, _)| *tag == b'Z').collect::<Vec<_>>();
    let (theirs, ours) = (groups(wanted), groups(found));
    let Some(at) = theirs.iter().zip(&ours).position(|(wanted, found)| wanted != found) else { return };
    let fails = |group: &[Heard]| match group {
        [.., Heard(b'E', parts), Heard(b'Z', status)] => status == &["E"] && parts.iter().any(|part| part == "C=25P02"),
        _ => false,
    };
    // Postgres passes over the rest of the group, be there Queries in it
    let goes_on =
        |rest: &[&[Heard]]| ours.get(at + 1..).is_some_and(|ours| rest.ends_with(ours) && rest.len() > ours.len());
    if ours.get(at).is_some_and(|group| fails(group)) && theirs.get(at..).is_some_and(goes_on) {
        *found = wanted.to_vec();
    }
}

/// A text, with its quotes escaped, without the name of the statement that wants other values.
fn without_name(text: &str) -> (&str, &str) {
    let parts =
        text.split_once("but prepared statement \\\"").and_then(|(before, rest)| Some((before, rest.split_once('"')?)));
    parts.map_or((text, ""), |(before, (_, after))| (before, after))
}

/// What came before a connection was closed for breaking the protocol, and how it was. The words of that differ: PostgreSQL's
/// fatal errors are never passed on as the client's own.
fn split_end(heard: &[Heard]) -> (&[Heard], &[Heard]) {
    let fatal = |Heard(tag, parts): &Heard| *tag == b'E' && parts.iter().any(|part| part == "S=FATAL");
    match heard {
        [before @ .., last, Heard(b'!', what)] if what == &[CLOSED] && fatal(last) => {
            (before, heard.get(before.len()..).unwrap())
        }
        _ => (heard, &[]),
    }
}

/// Two databases that are copies of each other.
fn make_databases() -> [String; 2] {
    let cluster = Cluster::shared();
    let first = cluster.make_database();
    let tables: String = (0..SESSIONS)
        .map(|number| {
            format!("create table t{number} (id int primary key, v text); insert into t{number} values (1, 'one'), (2, 'two');")
        })
        .collect();
    cluster.sql_in(&first, &tables);
    let second = format!("{first}_copy");
    cluster.sql(&format!("create database {second} template {first}"));
    [first, second]
}

fn run(plane: &Plane, databases: &[String; 2], seed: u64) {
    let [reference, ours] = databases;
    let mut rng = fastrand::Rng::with_seed(seed);
    for database in [reference, ours] {
        for number in 0..SESSIONS {
            Cluster::shared().sql_in(
                database,
                &format!("delete from t{number}; insert into t{number} values (1, 'one'), (2, 'two')"),
            );
        }
    }
    let mut pairs: Vec<Pair> = (0..SESSIONS)
        .map(|session| Pair {
            sent: Vec::new(),
            author: Author { rng: rng.fork(), session, unnamed: UnnamedPortal::Unknown },
            direct: connect(Cluster::shared().port(), reference),
            pooled: connect(plane.port(), ours),
            port: plane.port(),
        })
        .collect();
    for number in 0..TURNS {
        pairs.get_mut(rng.usize(..SESSIONS)).unwrap().take_turn(seed, number, databases);
    }
}

fn connect(port: u16, database: &str) -> RawClient {
    let parameters = [("user", SUPERUSER), ("database", database)];
    RawClient::connect(port, &parameters, None).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The same on both ways.
fn compare(plane: &Plane, [reference, ours]: &[String; 2], requests: &[Request]) {
    let mut direct = connect(Cluster::shared().port(), reference);
    let mut pooled = connect(plane.port(), ours);
    for request in requests {
        let request = ended(request.clone());
        let [wanted, found] = [&mut direct, &mut pooled].map(|client| {
            send(client, request.bytes(), &[]);
            hear(client)
        });
        assert!(wanted == found, "{request:?}\nPostgreSQL:\n{}\nhere:\n{}", show(&wanted), show(&found));
    }
}

#[test]
fn a_statement_that_an_error_passes_over_does_not_stop_its_session() {
    let databases = make_databases();
    let plane = Plane::before(Cluster::shared()).cores("0").start();
    for passed_over in ["deallocate a", "discard all", "deallocate all", "set work_mem = '5MB'"] {
        let failing = || Request::new().parse("a", "select * from nowhere");
        let at_once = failing().query(passed_over);
        let flushed = failing().flush();
        let after = Request::new().parse("a", "select 1").query("show work_mem").run("a", &[]);
        compare(&plane, &databases, &[at_once, after.clone(), flushed.query(passed_over), after]);
    }
}

#[test]
fn names_are_what_they_were_before_a_group_that_failed() {
    let databases = make_databases();
    let plane = Plane::before(Cluster::shared()).cores("0").start();
    let failing = || Request::new().execute("nobody", 0);
    let made_and_closed = failing().parse("a", "select 1").close_statement("a").sync();
    let closed_and_made = failing().close_statement("b").parse("b", "select 2").sync();
    let named_by_sql = failing().query("prepare q as select 5").sync();
    let run = Request::new().run("a", &[]).run("b", &[]);
    compare(
        &plane,
        &databases,
        &[
            Request::new().parse("b", "select 1").sync(),
            made_and_closed,
            run.clone(),
            closed_and_made,
            run.clone(),
            named_by_sql,
            run,
        ],
    );
}

#[test]
fn any_order_of_messages_is_answered_as_by_postgresql() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let databases = make_databases();
    let [_, ours] = &databases;
    // as many connections as sessions: each may be in a transaction
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", i64::try_from(SESSIONS).unwrap()).start();
    for seed in REPLAYED {
        run(&plane, &databases, seed);
    }
    if let Some(seed) = number("OPTIMACORE_SOAK_SEED") {
        run(&plane, &databases, seed);
        return;
    }
    let until = Instant::now() + Duration::from_secs(number("OPTIMACORE_FUZZ_SECONDS").unwrap_or(0));
    while Instant::now() < until {
        run(&plane, &databases, fastrand::u64(..));
    }
    plane.wait_until_pool_is_quiet(ours);
}
