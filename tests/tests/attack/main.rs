//! Attacks on the running program: bytes that no driver sends, floods, clients that say nothing.
//!
//! The judge is PostgreSQL: each case is played to a real server with the same authentication and to us, and what is seen
//! must be of one class: the same errors, the same ends of requests, the same rows, closed or still open. Where we mean to
//! be different, the case stands in [`EXCEPTIONS`] with what we do and why. All the time a bystander asks and must be answered
//! rightly, and afterwards descriptors and memory of the process are what they were.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod bystander;
mod flood;
mod login;
mod message;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use harness::{Cluster, Plane, RawClient, wait_until};

use bystander::Bystander;
use wire::{Case, Door, play};

/// Cases in which we are another class than PostgreSQL, what we are, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("A13", "FATAL:0A000 closed", "a client of protocol 2 is told in the form of protocol 3: nobody speaks 2 any more"),
    ("A18 unknown switch", "FATAL:0A000 closed", "of `options`, -c is understood and everything else refused by name"),
    (
        "A15",
        "Z\"I\" T D\"\\x00\\x01\\x00\\x00\\x00\\x0215\" C\"SELECT 1\\x00\" Z\"I\" open",
        "a client gets the 3.2 it asks for, as from PostgreSQL 18; releases before that speak 3.0 only",
    ),
    ("P12", "R10 FATAL:refused closed", "a nonce of no length is no nonce"),
    (
        "P no response",
        "R10 FATAL:refused closed",
        "no client leaves its first message out; PostgreSQL would ask for it",
    ),
    ("E14", "Z\"I\" FATAL:08P01 closed", "names of statements that fill more than 8 KiB of a long Bind are refused"),
    ("E21", "Z\"I\" C\"CREATE TABLE\\x00\" Z\"I\" G ERROR:08P01 FATAL:08007 closed", LOST),
    ("E23 parse", "Z\"I\" C\"CREATE TABLE\\x00\" Z\"I\" G ERROR:08P01 FATAL:08007 closed", LOST),
];

/// Why the code of the last word is another one.
const LOST: &str =
    "a FATAL of the server's is never passed on as the client's own: it is told what is known, and closed too";

/// How long nothing must come before a connection counts as left open; the longer ones are for machines that are busy.
const QUIET: [Duration; 3] = [Duration::from_millis(300), Duration::from_millis(1500), Duration::from_secs(5)];

/// The password of the user `scrammed`.
const PASSWORD: &str = "a password of tests";

/// A cluster in which `postgres` is trusted and everybody else must prove a password by SCRAM, as in the planes here.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start();
        cluster.sql(&format!("create role scrammed login password '{PASSWORD}'; create role plain nologin"));
        cluster.sql(
            "do $do$ begin execute format('copy (select * from (values (''local all all trust''), \
             (''host all postgres 127.0.0.1/32 trust''), (''host replication postgres 127.0.0.1/32 trust''), \
             (''host all all 127.0.0.1/32 scram-sha-256'')) t) to %L', current_setting('hba_file')); end $do$",
        );
        cluster.sql("select pg_reload_conf()");
        let parameters = [("user", "scrammed"), ("database", "postgres")];
        wait_until("the rules are read", || {
            RawClient::connect(cluster.port(), &parameters, Some("a wrong one")).is_err()
        });
        cluster
    })
}

fn plane() -> Plane {
    Plane::before(cluster()).user_scram("scrammed", PASSWORD).auth("auth_delay_max", "0s").pool("size", 8).start()
}

/// Plays all cases to both; gives what is wrong.
fn judge(plane: &Plane, cases: &[Case]) {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = judge_one(plane, case) {
                        wrong.lock().unwrap().push(what);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} cases are judged otherwise:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What was heard, for comparison. Whatever is wrong with a proof is one class: we tell nobody what it was.
fn class(case: &Case, heard: &str) -> String {
    if case.door != Door::Scram {
        return heard.to_owned();
    }
    ["08P01", "0A000", "28P01"]
        .iter()
        .fold(heard.to_owned(), |text, code| text.replace(&format!("FATAL:{code}"), "FATAL:refused"))
}

fn judge_one(plane: &Plane, case: &Case) -> Result<(), String> {
    let exception = EXCEPTIONS.iter().find(|(id, ..)| *id == case.id);
    let mut said = String::new();
    for quiet in QUIET {
        let right = class(case, &play(cluster().port(), case, quiet));
        let found = class(case, &play(plane.port(), case, quiet));
        let fine = match exception {
            Some((_, ours, _)) => found == *ours && right != found,
            None => right == found || is_told_why(&right, &found),
        };
        if fine {
            return Ok(());
        }
        said = format!("  {}: PostgreSQL is\n    {right}\n  and we are\n    {found}", case.id);
    }
    Err(said)
}

/// Whether both hang up at once and we say why, where PostgreSQL writes that to its log only.
fn is_told_why(right: &str, found: &str) -> bool {
    right.strip_suffix("closed").is_some_and(|before| found == format!("{before}FATAL:08P01 closed"))
}

/// Judges a group of cases in the presence of a bystander, and looks at what the process holds before and after.
fn attack(plane: &Plane, cases: &[Case]) {
    let bystander = Bystander::start(plane);
    // the first round makes what is made once
    let first = cases.get(..cases.len().min(8)).unwrap();
    judge(plane, first);
    let before = bystander::Holdings::of(plane);
    judge(plane, cases);
    before.must_return(plane);
    bystander.end();
}

#[test]
fn exceptions_are_few_and_have_reasons() {
    assert!(EXCEPTIONS.len() <= 12);
    let ids: Vec<&str> = login::CASES.iter().chain(message::CASES).map(|case| case.id).collect();
    for (id, _, why) in EXCEPTIONS {
        assert!(ids.contains(id) && why.len() > 20, "{id}");
    }
    for (number, id) in ids.iter().enumerate() {
        assert!(!ids.iter().skip(number + 1).any(|other| other == id), "{id} stands twice");
    }
}

#[test]
fn whoever_is_not_let_in_yet_cannot_do_harm() {
    attack(&plane(), login::CASES);
}

#[test]
fn whoever_is_let_in_cannot_do_harm() {
    attack(&plane(), message::CASES);
}
