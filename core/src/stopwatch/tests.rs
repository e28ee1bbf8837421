//! Scripted clocks: every instant is given, in microseconds from the beginning.

use super::*;
use crate::slab::Key;

/// One shard's watch over one connection, driven turn by turn.
struct Script {
    start: Instant,
    watch: Stopwatch,
    flights: Flights,
    /// What the connection owes, and since when the reply at the head is due.
    owed: usize,
    head_since: Instant,
    told: Vec<Spans>,
}

impl Script {
    fn new() -> Self {
        let start = Instant::now();
        let flights = Flights::default();
        Self { start, watch: Stopwatch::new(start), flights, owed: 0, head_since: start, told: Vec::new() }
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    /// A turn from one instant to another, in which requests are written that arrived then, and replies to so many are read.
    fn turn(&mut self, (from, to): (u64, u64), arrived: &[u64], replies: usize) {
        let (from, to) = (self.at(from), self.at(to));
        self.watch.begin_turn(from);
        for _ in 0..replies {
            self.owed -= 1;
            let flight = self.flights.pop(self.owed).unwrap();
            let due = flight.written.max(self.head_since);
            self.head_since = from;
            self.watch.on_ended(ended(Key::at(1), flight, due));
        }
        for arrived in arrived {
            let arrived = self.at(*arrived);
            self.flights.begin(Expect::Query, from, arrived);
            self.flights.end();
            self.watch.on_written(Key::at(1));
            self.owed += 1;
        }
        let (flights, told) = (&mut self.flights, &mut self.told);
        self.watch.end_turn(to, |_, turn| flights.depart(turn, to), |_, spans| told.push(spans));
    }

    /// Queue, pipe wait, server and proxy of each request so far.
    fn spans(&self) -> Vec<[u64; 4]> {
        self.told.iter().map(|one| [one.queue_us, one.pipe_wait_us, one.server_us, one.proxy_us]).collect()
    }
}

fn ended(server: ServerId, flight: Flight, due: Instant) -> Ended {
    let (pool, session, kind, tag) = (PoolId(0), None, 0, Tag::NONE);
    Ended { server, pool, session, flight, due, kind, tag, len: 0, rows: 0 }
}

#[test]
fn a_lone_request_is_the_servers_between_its_turns_and_the_proxys_within_them() {
    let mut script = Script::new();
    script.turn((100, 130), &[100], 0);
    script.turn((530, 550), &[], 1);
    // 30 in the turn that wrote it, 20 in the one that read its reply; 450 from its arrival in all
    assert_eq!(script.spans(), [[0, 0, 400, 50]]);
}

#[test]
fn what_it_waits_for_a_connection_is_queue_and_not_servers() {
    let mut script = Script::new();
    script.turn((5_000, 5_010), &[1_000], 0);
    script.turn((5_110, 5_110), &[], 1);
    assert_eq!(script.spans(), [[4_000, 0, 100, 10]]);
}

#[test]
fn behind_a_long_one_the_second_waits_on_the_pipe_and_its_server_time_is_its_own() {
    let mut script = Script::new();
    script.turn((0, 10), &[0], 0);
    script.turn((20, 25), &[20], 0);
    script.turn((300_000, 300_004), &[], 1);
    script.turn((300_500, 300_501), &[], 1);
    assert_eq!(script.spans(), [[0, 0, 299_990, 14], [0, 299_975, 500, 6]]);
}

#[test]
fn replies_that_are_read_together_have_shared_the_time_since_the_turn_before() {
    let mut script = Script::new();
    script.turn((0, 0), &[0; 4], 0);
    script.turn((400, 400), &[], 4);
    assert_eq!(script.spans(), [[0, 0, 100, 300], [0, 100, 100, 200], [0, 200, 100, 100], [0, 300, 100, 0]]);
    let worked: u64 = script.told.iter().map(|one| one.server_us).sum();
    assert_eq!(worked, 400, "server times add up to the time the connection worked");
    // the first had not come when the second was written: it is not said to have lain there since
    let mut script = Script::new();
    script.turn((0, 0), &[0], 0);
    script.turn((900, 900), &[900], 0);
    script.turn((1_000, 1_000), &[], 2);
    assert_eq!(script.spans(), [[0, 0, 950, 50], [0, 50, 50, 0]]);
    // a quick one behind a slow one is not given half of its time because the shard woke a little late
    let mut script = Script::new();
    script.turn((0, 0), &[0; 2], 0);
    script.turn((400_000, 400_000), &[], 2);
    assert_eq!(script.spans(), [[0, 0, 399_500, 500], [0, 399_500, 500, 0]]);
}

#[test]
fn the_spans_add_up_to_the_time_between_arrival_and_handing_over() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let (mut script, mut now, mut arrivals) = (Script::new(), 0, Vec::<u64>::new());
        let mut left_at: Vec<u64> = Vec::new();
        for _ in 0..20 {
            let from = now + rng.u64(1..500);
            let to = from + rng.u64(0..50);
            let replies = rng.usize(0..=script.owed);
            let arrived: Vec<u64> = (0..rng.usize(0..4)).map(|_| from - rng.u64(0..=from - now)).collect();
            arrivals.extend(&arrived);
            script.turn((from, to), &arrived, replies);
            left_at.extend(std::iter::repeat_n(to, replies));
            now = to;
        }
        for ((spans, arrived), left) in script.spans().iter().zip(&arrivals).zip(&left_at) {
            // every span is cut to whole microseconds
            let sum: u64 = spans.iter().sum();
            assert!(sum.abs_diff(left - arrived) <= 4, "{spans:?} from {arrived} to {left}");
        }
    }
}

#[test]
fn connections_do_not_share_their_times_however_their_replies_are_mixed() {
    let (start, mut told) = (Instant::now(), Vec::new());
    let at = |us| start + Duration::from_micros(us);
    let mut watch = Stopwatch::new(start);
    watch.begin_turn(at(600));
    let flight = Flight::new(start, 0);
    for server in [1, 2, 1, 2, 1] {
        watch.on_ended(ended(Key::at(server), flight, start));
    }
    watch.end_turn(at(600), |_, _| {}, |ended, spans| told.push((ended.server.index(), spans.server_us)));
    assert_eq!(told, [(1, 200), (1, 200), (1, 200), (2, 300), (2, 300)]);
    watch.begin_turn(at(700));
    watch.end_turn(at(700), |_, _| {}, |_, _| unreachable!("they have been told of"));
}

#[test]
fn requests_that_get_no_reply_leave_the_others_theirs() {
    let (now, mut flights) = (Instant::now(), Flights::default());
    let at = |us| now + Duration::from_micros(us);
    for us in [1, 2, 3, 4] {
        flights.begin(Expect::Query, at(us), at(0));
        flights.end();
    }
    // an error skips the first two: the next ReadyForQuery is the third's, and one more is owed
    assert_eq!(flights.pop(1).map(|flight| flight.queue_us), Some(3));
    assert_eq!(flights.pop(0).map(|flight| flight.queue_us), Some(4));
    assert_eq!(flights.pop(0), None, "nothing is known of what was not written here");
}

#[test]
fn a_group_begins_with_its_first_message_and_copy_data_begins_nothing() {
    let (now, mut flights) = (Instant::now(), Flights::default());
    let at = |us| now + Duration::from_micros(us);
    assert_eq!(flights.begin(Expect::Parse, at(5), at(1)), 4);
    assert_eq!(flights.begin(Expect::Bind, at(50), at(1)), 4);
    assert_eq!(flights.begin(Expect::Sync, at(500), at(1)), 4);
    flights.end();
    flights.begin(Expect::CopyData, at(600), at(1));
    flights.begin(Expect::Query, at(700), at(699));
    flights.end();
    assert_eq!(flights.pop(1), Some(Flight::new(at(5), 4)));
    assert_eq!(flights.pop(0), Some(Flight::new(at(700), 1)));
}

#[test]
fn however_many_requests_come_in_one_turn_they_take_one_entry() {
    let (now, mut flights) = (Instant::now(), Flights::default());
    for _ in 0..100_000 {
        flights.begin(Expect::Sync, now, now);
        flights.end();
    }
    assert_eq!((flights.runs.len(), flights.len), (1, 100_000));
    let later = now + Duration::from_millis(3);
    flights.depart(now, later);
    for owed in (0..100_000).rev() {
        assert_eq!(flights.pop(owed).map(|flight| (flight.written, flight.lag_us)), Some((later, 3000)));
    }
    assert!(flights.runs.is_empty());
}
