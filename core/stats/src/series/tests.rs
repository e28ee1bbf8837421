use std::collections::HashMap;

use expect_test::expect;
use serde_json::Value as Json;

use super::*;
use crate::metric::Kind;
use crate::{PoolStats, StatementStats, example};

const SECOND: Duration = Duration::from_secs(1);

fn recorder() -> Recorder {
    Recorder::new(&Run::of(&example::snapshot()), SECOND)
}

/// A second later, with nothing new.
fn later(before: &Snapshot) -> Snapshot {
    let mut now = before.clone();
    now.uptime_us += 1_000_000;
    now.taken_unix_us += 1_000_000;
    now
}

/// What a reader would know after these lines.
#[derive(Default)]
struct Reader {
    series: HashMap<String, (String, Json)>,
    statements: HashMap<String, String>,
    sums: HashMap<String, f64>,
    gauges: HashMap<String, f64>,
    durations: HashMap<String, u64>,
    kinds: HashMap<String, String>,
    ticks: usize,
}

impl Reader {
    fn read(&mut self, lines: &[String]) {
        for line in lines {
            let json: Json = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if json.get("schema").is_some() {
                for metric in json["metrics"].as_array().unwrap() {
                    self.kinds.insert(text(&metric["name"]), text(&metric["type"]));
                }
            } else if let Some(id) = json.get("series") {
                assert!(line.starts_with("{\"series\":"), "{line}");
                self.series.insert(id.to_string(), (text(&json["metric"]), json["labels"].clone()));
            } else if let Some(id) = json.get("statement") {
                self.statements.insert(text(id), text(&json["text"]));
            } else if json.get("t").is_some() {
                self.tick(&json);
            }
        }
    }

    fn tick(&mut self, tick: &Json) {
        self.ticks += 1;
        for (id, value) in tick["v"].as_object().unwrap() {
            let (metric, labels) = self.series.get(id).unwrap_or_else(|| panic!("{id} is used before it is told"));
            let name = format!("{metric}{labels}");
            match self.kinds[metric].as_str() {
                "counter" => *self.sums.entry(name).or_default() += value.as_f64().unwrap(),
                "histogram" => {
                    let pairs = value.as_array().unwrap();
                    assert!(pairs.is_sorted_by_key(|pair| pair[0].as_u64().unwrap()), "{pairs:?}");
                    let count: u64 = pairs.iter().map(|pair| pair[1].as_u64().unwrap()).sum();
                    *self.durations.entry(name).or_default() += count;
                }
                _ => drop(self.gauges.insert(name, value.as_f64().unwrap())),
            }
        }
    }
}

fn text(json: &Json) -> String {
    json.as_str().unwrap().to_owned()
}

/// Everything that a snapshot says, by the table itself.
fn expected(snapshot: &Snapshot) -> [HashMap<String, f64>; 3] {
    let view = View::new(snapshot);
    let [mut sums, mut gauges, mut durations] = [(); 3].map(|()| HashMap::new());
    for metric in METRICS {
        view.visit(metric, &mut |labels, value| {
            let mut parts: Vec<String> =
                metric.labels.iter().zip(labels).map(|(n, v)| format!("{n:?}:{v:?}")).collect();
            parts.sort();
            let name = format!("{}{{{}}}", metric.name, parts.join(","));
            let (into, value) = match (metric.kind, value) {
                (Kind::Counter, Value::Count(count)) => (&mut sums, count as f64),
                (Kind::Counter, Value::Micros(us)) => (&mut sums, us as f64 / 1e6),
                (_, Value::Count(count)) => (&mut gauges, count as f64),
                (_, Value::Micros(us)) => (&mut gauges, us as f64 / 1e6),
                (_, Value::Real(real)) => (&mut gauges, real),
                (_, Value::Hist(hist)) => (&mut durations, hist.count() as f64),
                (_, Value::Sketch(sketch)) => (&mut durations, sketch.count() as f64),
            };
            if value != 0.0 {
                into.insert(name, value);
            }
        });
    }
    [sums, gauges, durations]
}

fn assert_knows(reader: &Reader, snapshot: &Snapshot) {
    let [sums, gauges, durations] = expected(snapshot);
    for (name, sum) in &sums {
        let known = reader.sums.get(name).copied().unwrap_or_default();
        assert!((known - sum).abs() < 1e-6 * sum.max(1.0), "{name}: {known} for {sum}");
    }
    for (name, value) in &gauges {
        assert_eq!(reader.gauges.get(name), Some(value), "{name}");
    }
    for (name, count) in &durations {
        assert_eq!(reader.durations.get(name).map(|count| *count as f64), Some(*count), "{name}");
    }
    assert!(
        sums.len() > 40 && gauges.len() > 20 && durations.len() > 5,
        "{} {} {}",
        sums.len(),
        gauges.len(),
        durations.len()
    );
}

#[test]
fn a_stream_tells_everything_that_was_counted() {
    let (mut recorder, mut reader) = (recorder(), Reader::default());
    let first = example::snapshot();
    reader.read(&[recorder.header()]);
    reader.read(&recorder.tick(&first));
    assert_knows(&reader, &first);
    assert_eq!(reader.statements["00f3000000000001"], "select * from t where id = $1");
    assert_eq!(reader.statements["0000000000000000"], REST);
    let mut second = later(&first);
    second.pools[0].requests_shared += 7;
    second.pools[0].servers_idle = 0;
    second.pools[1].server_time.record_us(50);
    second.pools[2].count_error(b"40001");
    second.statements[0].server_time.record_us(1);
    second.statements[0].calls += 1;
    second.statements[0].shared += 1;
    reader.read(&recorder.tick(&second));
    assert_knows(&reader, &second);
    assert_eq!(
        reader.gauges["optimacore_pool_server_connections{\"database\":\"shop\",\"shard\":\"0\",\"state\":\"idle\",\"user\":\"ann\"}"],
        0.0
    );
    assert_eq!(reader.ticks, 2);
}

#[test]
fn a_tick_tells_only_what_has_changed() {
    let mut recorder = recorder();
    let first = example::snapshot();
    recorder.tick(&first);
    assert_eq!(recorder.tick(&later(&first)), [r#"{"t":1700000006000000,"dt":1000000,"v":{}}"#]);
    assert!(recorder.tick(&later(&first)).is_empty(), "not later than the one before");
    let mut third = later(&later(&first));
    third.pools[0].requests_shared += 5;
    third.pools[0].xact_us += 1_500_000;
    let lines = recorder.tick(&third);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let id: Json = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(id["metric"], "optimacore_transaction_seconds_total");
    assert!(lines[1].contains(":5,") && lines[1].ends_with(&format!("\"{}\":1.5}}}}", id["series"])), "{lines:?}");
}

#[test]
fn the_lines_look_like_this() {
    let mut recorder = Recorder::new(&Run::default(), SECOND);
    let mut pool = PoolStats { database: "a\"b".into(), user: "ü".into(), ..PoolStats::default() };
    pool.requests_shared = 3;
    [100, 250, 100].into_iter().for_each(|us| pool.queue_time.record_us(us));
    let snapshot = Snapshot { uptime_us: 9, taken_unix_us: 10, pools: vec![pool], ..Snapshot::default() };
    let lines = recorder.tick(&snapshot);
    expect![[r#"
        {"series":1,"metric":"optimacore_build_info","labels":{"version":""}}
        {"series":2,"metric":"optimacore_pool_info","labels":{"database":"a\"b","user":"ü","shard":"0","target":""}}
        {"series":3,"metric":"optimacore_requests_total","labels":{"database":"a\"b","user":"ü","shard":"0","path":"shared"}}
        {"series":4,"metric":"optimacore_request_seconds","labels":{"database":"a\"b","user":"ü","shard":"0","phase":"queue"}}
        {"t":10,"dt":9,"v":{"1":1,"2":1,"3":3,"4":[[100,2],[250,1]]}}"#]]
    .assert_eq(&lines.join("\n"));
    assert_eq!(recorder.known(), lines[..4]);
    assert_eq!(recorder.standing(), r#"{"t":10,"dt":0,"v":{"1":1,"2":1}}"#);
    assert_eq!(event("reload", 7, "pool.size: 1 -> 2\n"), r#"{"event":"reload","t":7,"text":"pool.size: 1 -> 2\n"}"#);
}

#[test]
fn what_begins_again_can_be_read_alone() {
    let mut recorder = recorder();
    let first = example::snapshot();
    recorder.tick(&first);
    recorder.begin_again();
    let mut second = later(&first);
    second.pools[0].requests_shared += 5;
    let mut reader = Reader::default();
    reader.read(&[recorder.header()]);
    reader.read(&recorder.tick(&second));
    let [_, gauges, _] = expected(&second);
    for (name, value) in gauges {
        assert_eq!(reader.gauges.get(&name), Some(&value), "{name}");
    }
    assert_eq!(reader.sums.values().sum::<f64>(), 5.0, "counters go on from where they were");
    assert_eq!(reader.statements.len(), 3);
}

#[test]
fn who_comes_later_is_told_where_things_stand() {
    let mut recorder = recorder();
    let first = example::snapshot();
    recorder.tick(&first);
    let mut reader = Reader::default();
    reader.read(&[recorder.header()]);
    reader.read(&recorder.known());
    reader.read(&[recorder.standing()]);
    let [_, gauges, _] = expected(&first);
    for (name, value) in gauges {
        assert_eq!(reader.gauges.get(&name), Some(&value), "{name}");
    }
    assert!(reader.sums.is_empty() && reader.durations.is_empty());
}

fn statement(fingerprint: u64, calls: u64) -> StatementStats {
    let mut one = StatementStats { fingerprint, calls, shared: calls, rows: calls, ..StatementStats::default() };
    (0..calls).for_each(|_| one.server_time.record_us(100));
    one
}

#[test]
fn a_statement_that_makes_room_is_not_told_twice() {
    let (mut recorder, mut reader) = (recorder(), Reader::default());
    reader.read(&[recorder.header()]);
    let mut snapshot = example::snapshot();
    snapshot.statements = vec![statement(1, 1000), statement(2, 50), statement(0, 3)];
    reader.read(&recorder.tick(&snapshot));
    // the first goes, and its thousand calls with the rest; five of the rest are new, and two of the other
    snapshot = later(&snapshot);
    snapshot.statements = vec![statement(2, 52), statement(3, 1), statement(0, 1008)];
    reader.read(&recorder.tick(&snapshot));
    let calls = |id: &str| {
        let name = format!(
            "optimacore_statement_calls_total{{\"database\":\"\",\"path\":\"shared\",\"statement\":\"{id:0>16}\",\"user\":\"\"}}"
        );
        reader.sums.get(&name).copied()
    };
    assert_eq!(["0", "1", "2", "3"].map(calls), [Some(8.0), Some(1000.0), Some(52.0), Some(1.0)]);
    let times: u64 =
        reader.durations.iter().filter(|(name, _)| name.contains("statement_seconds")).map(|(_, n)| n).sum();
    assert_eq!(times, 1000 + 52 + 1 + 8);
    // it comes again, and begins at nothing
    snapshot = later(&snapshot);
    snapshot.statements.push(statement(1, 4));
    reader.read(&recorder.tick(&snapshot));
    let name = "optimacore_statement_calls_total{\"database\":\"\",\"path\":\"shared\",\"statement\":\"0000000000000001\",\"user\":\"\"}";
    assert_eq!(reader.sums[name], 1004.0);
}

#[test]
fn statements_that_come_and_go_leave_nothing_behind() {
    let mut recorder = recorder();
    let mut snapshot = example::snapshot();
    for round in 1..100 {
        snapshot = later(&snapshot);
        snapshot.statements = (0..20).map(|i| statement(round * 100 + i, 1)).collect();
        recorder.tick(&snapshot);
    }
    assert!(recorder.entries.len() < 400 && recorder.statements.len() == 20, "{}", recorder.entries.len());
}

#[test]
fn a_shard_that_does_not_answer_has_lost_nothing() {
    let (mut recorder, mut reader) = (recorder(), Reader::default());
    reader.read(&[recorder.header()]);
    let whole = example::snapshot();
    reader.read(&recorder.tick(&whole));
    let mut part = later(&whole);
    part.shards.pop();
    part.pools.remove(1);
    part.statements.clear();
    reader.read(&recorder.tick(&part));
    let again = later(&part);
    let again = Snapshot { uptime_us: again.uptime_us, taken_unix_us: again.taken_unix_us, ..whole.clone() };
    reader.read(&recorder.tick(&again));
    assert_knows(&reader, &again);
}

#[test]
fn intervals_are_of_all_shards_together() {
    let mut recorder = recorder();
    let first = example::snapshot();
    recorder.tick(&first);
    let mut second = later(&first);
    second.pools[0].server_time.record_us(30);
    second.pools[1].server_time.record_us(30);
    second.pools[1].server_time.record_us(10);
    recorder.tick(&second);
    let all: Vec<Interval> = recorder.intervals().collect();
    let [one] = &all[..] else { panic!("{all:?}") };
    assert_eq!((one.database.as_str(), one.user.as_str(), one.phase.as_str()), ("shop", "ann", "server"));
    assert_eq!(one.pairs, [(10, 1), (30, 2)]);
}
