//! The same random statements through the data plane and directly: what the session hears, and every answer, must be the same.

use std::time::{Duration, Instant};

use fastrand::Rng;
use harness::{Cluster, Plane, RawClient, Reply, Request};

use crate::{heard_in, make_functions};

/// An answer without what differs by nature: process ids, and when a notification comes within a reply.
fn essence(reply: &Reply) -> (Vec<String>, Vec<Vec<Option<String>>>, String, char) {
    let mut rows = reply.rows();
    rows.sort();
    (reply.commands(), rows, reply.code(), reply.status())
}

struct Pair {
    ours: RawClient,
    theirs: RawClient,
    /// What each has heard since the last look.
    heard: [Vec<(String, String)>; 2],
}

impl Pair {
    fn ask(&mut self, request: &Request, story: &[String]) -> char {
        let (own, other) = (self.ours.ask(request), self.theirs.ask(request));
        assert_eq!(essence(&own), essence(&other), "{story:#?}");
        let [ours, theirs] = &mut self.heard;
        for (reply, client, heard) in [(&own, &self.ours, ours), (&other, &self.theirs, theirs)] {
            let key = client.key().0;
            heard.extend(heard_in(reply).into_iter().map(|(by, channel, payload)| {
                assert_eq!(by == key, payload.starts_with("own"), "{by} for {key}: {story:#?}");
                (channel, payload)
            }));
        }
        own.status()
    }

    fn compare(&mut self, story: &[String]) {
        // its own notification comes behind all others that were committed
        for text in ["listen fence", "notify fence, 'own fence'", "unlisten fence"] {
            self.ask(&Request::new().query(text), story);
        }
        let [ours, theirs] = &mut self.heard;
        assert_eq!(ours, theirs, "{story:#?}");
        ours.clear();
        theirs.clear();
    }
}

const STATEMENTS: [&str; 24] = [
    "listen a",
    "listen b",
    "listen \"C\"",
    "unlisten a",
    "unlisten b",
    "unlisten *",
    "begin",
    "begin",
    "commit",
    "commit",
    "rollback",
    "savepoint s",
    "rollback to s",
    "release s",
    "select 1",
    "selekt",
    "select pg_listening_channels()",
    "notify a, 'own'",
    "select pg_notify('b', 'own too')",
    "select hear('a')",
    "select unhear('a')",
    "listen a; listen b; select 1",
    "listen b; selekt",
    "discard all",
];

fn directly(database: &str) -> RawClient {
    RawClient::connect(Cluster::shared().port(), &[("user", "postgres"), ("database", database)], None).unwrap()
}

/// `databases` are the one behind the data plane and the one for the direct connection, so that neither hears the other.
fn one_story(plane: &Plane, databases: [&str; 2], seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let [database, other] = databases;
    let mut speakers = databases.map(directly);
    let mut pair = Pair { ours: plane.client(database), theirs: directly(other), heard: [Vec::new(), Vec::new()] };
    let mut disturber = plane.client(database);
    let mut story = vec![format!("seed {seed}")];
    let mut status = 'I';
    for number in 0..60 {
        match rng.u8(..10) {
            0..2 => {
                let channel = rng.choice(["a", "b", "\"C\""]).unwrap();
                story.push(format!("another: notify {channel}"));
                for speaker in &mut speakers {
                    speaker.query(&format!("notify {channel}, '{number}'")).good();
                }
                if status == 'I' {
                    // whoever is idle has heard it when it is ready again
                    status = pair.ask(&Request::new().query("select 1"), &story);
                }
            }
            2 if status == 'I' => {
                story.push("another needs the connection".to_owned());
                disturber.query("begin; create temp table t () on commit drop; commit").good();
            }
            kind => {
                let text = rng.choice(STATEMENTS).unwrap();
                story.push(text.to_owned());
                let request = Request::new();
                let request =
                    if kind > 6 && !text.contains(';') { request.extended(text, &[]) } else { request.query(text) };
                status = pair.ask(&request, &story);
            }
        }
        if status == 'I' && rng.u8(..8) == 0 {
            pair.compare(&story);
        }
    }
    if status != 'I' {
        pair.ask(&Request::new().query("rollback"), &story);
    }
    pair.compare(&story);
}

#[test]
fn a_session_hears_what_it_would_hear_directly_whatever_it_does() {
    let (database, other) = (Cluster::shared().make_database(), Cluster::shared().make_database());
    make_functions(&database);
    make_functions(&other);
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let seconds = std::env::var("OPTIMACORE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut seed = 0;
    while seed < 40 || Instant::now() < until {
        one_story(&plane, [&database, &other], seed);
        seed += 1;
    }
    let pool = plane.pool(&database);
    assert!(pool.listens_moved > 10, "{}", pool.listens_moved);
}
