//! The load generator: what it counts, what it leaves behind, and how it ends.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails panics")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::cluster::signal_process;
use harness::{Cluster, Plane, program, wait_until};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use rustix::process::Signal;
use serde_json::Value;

/// A run of the generator against a database of its own.
struct Run {
    database: String,
    port: u16,
    dir: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let cluster = Cluster::shared();
        Self { database: cluster.make_database(), port: cluster.port(), dir: tempfile::tempdir().unwrap() }
    }

    /// The same, through a data plane.
    fn through(plane: &Plane) -> Self {
        Self { port: plane.port(), ..Self::new() }
    }

    fn scenario(&self, text: &str) -> String {
        let path = self.dir.path().join("scenario.toml");
        fs::write(&path, format!("name = \"mine\"\ndescription = \"of a test\"\n{text}")).unwrap();
        path.display().to_string()
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn command(&self, scenario: &str, arguments: &[&str]) -> Command {
        let mut command = program::command(program::bench());
        let target = format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.database);
        command.args(["run", scenario, "--target", &target, "--json", "--warm-up", "0"]).args(arguments);
        command
    }

    /// Runs it to its end; gives the exit code, the results and what it said.
    fn run(&self, scenario: &str, arguments: &[&str]) -> (i32, Value, String) {
        judge(&program::run(&mut self.command(scenario, arguments), b""))
    }

    fn file(&self, ending: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(self.out()).ok()?;
        entries.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|found| found == ending))
    }
}

fn judge(output: &Output) -> (i32, Value, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap_or(-1), printed["results"].clone(), said)
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// All lines of a series, each of which is JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The sum of a counter, or of the counts of a histogram, over all its series with this label, if there is one.
fn sum(lines: &[Value], metric: &str, label: Option<(&str, &str)>) -> u64 {
    let is_meant =
        |line: &&Value| line["metric"] == metric && label.is_none_or(|(name, value)| line["labels"][name] == value);
    let series: Vec<String> = lines.iter().filter(is_meant).map(|line| line["series"].to_string()).collect();
    let values = lines.iter().flat_map(|line| series.iter().map(|id| &line["v"][id]));
    values
        .map(|value| match value {
            Value::Array(buckets) => buckets.iter().map(|bucket| bucket[1].as_u64().unwrap()).sum(),
            Value::Number(count) => count.as_u64().unwrap(),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => 0,
        })
        .sum()
}

const ONE: &str = "[[operation]]\nname = \"one\"\n[[operation.step]]\n";

#[test]
fn what_is_counted_is_what_postgresql_has_done_and_all_files_agree() {
    let run = Run::new();
    let text = "[data]\nsetup = [\"create table hit (client int, key int)\"]\n\
                check = [{ sql = \"select count(*) from hit\", is = \"0\" }]\n\
                [[operation]]\nname = \"one\"\nvalues = { key = { uniform = [1, 9] } }\n[[operation.step]]\n\
                sql = \"insert into hit values (:client::int, :key) returning key\"\n\
                rows = 1\nfirst = [\":key\"]\ntag = \"INSERT 0 1\"\n";
    let out = run.out().display().to_string();
    let arguments = ["--rate", "300", "--time", "2s", "--clients", "4", "--idle", "3", "--out", &out];
    let (code, results, said) = run.run(&run.scenario(text), &arguments);
    assert_eq!(code, 0, "{said}");
    assert_eq!((number(&results, "failed"), number(&results, "unsent")), (0, 0), "{results}");
    let completed = number(&results, "completed");
    assert_eq!((number(&results, "offered"), number(&results, "sent")), (completed, completed));
    let hits = Cluster::shared().sql_in(&run.database, "select count(*), count(distinct client) from hit");
    assert_eq!((completed, hits.as_str()), (600, "600|4"), "without a warm-up everything counts");

    let series = lines(&run.file("ndjson").unwrap());
    assert_eq!(series[0]["schema"], "optimacore.series/1");
    assert_eq!(sum(&series, "optimacore_bench_offered_total", None), completed);
    assert_eq!(sum(&series, "optimacore_bench_completed_total", Some(("operation", "one"))), completed);
    assert_eq!(sum(&series, "optimacore_bench_seconds", Some(("phase", "response"))), completed);
    assert!(series.iter().any(|line| line["event"] == "start"));
    let named: Vec<String> = series.iter().map(|line| line["series"].to_string()).collect();
    for id in series.iter().filter_map(|line| line["v"].as_object()).flat_map(|values| values.keys()) {
        assert!(named.contains(id), "{id} has no name");
    }
    assert_eq!(histogram_count(&run.file("hlog").unwrap(), "mine/one/response"), completed);

    let told: Value = serde_json::from_slice(&fs::read(run.out().join("run.json")).unwrap()).unwrap();
    assert_eq!((&told["schema"], &told["program"]), (&"optimacore.run/1".into(), &"optimacore-bench".into()));
    assert_eq!(told["bench"]["results"], results);
    for file in told["files"].as_array().unwrap() {
        let bytes = fs::read(run.out().join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"], bytes.len());
    }
}

/// How many values a log of histograms has with this tag.
fn histogram_count(path: &Path, tag: &str) -> u64 {
    let text = fs::read(path).unwrap();
    let mut count = 0;
    for entry in IntervalLogIterator::new(&text) {
        match entry.unwrap() {
            LogEntry::Interval(interval) if interval.tag().is_some_and(|found| found.as_str() == tag) => {
                let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
                count += histogram.len();
            }
            LogEntry::Interval(_) | LogEntry::StartTime(_) | LogEntry::BaseTime(_) => {}
        }
    }
    count
}

#[test]
fn every_scenario_that_comes_with_the_program_gets_right_replies_directly() {
    let run = Run::new();
    let listed = program::run_well(program::command(program::bench()).arg("scenarios"), b"");
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() >= 8, "{listed}");
    // pgbench makes the tables of that one
    for name in names.iter().filter(|name| **name != "pgbench-select") {
        let (code, results, said) = run.run(name, &["--rate", "60", "--time", "1s", "--clients", "4"]);
        assert_eq!((code, number(&results, "failed")), (0, 0), "{name}: {said}{results}");
        assert!(number(&results, "completed") > 30, "{name}: {results}");
    }
}

#[test]
fn sessions_with_state_and_transactions_get_right_replies_through_the_data_plane() {
    let plane = Plane::before(Cluster::shared()).start();
    let run = Run::through(&plane);
    for name in ["session-state", "transaction", "copy", "mix"] {
        let (code, results, said) = run.run(name, &["--rate", "60", "--time", "1s", "--clients", "4"]);
        assert_eq!((code, number(&results, "failed")), (0, 0), "{name}: {said}{results}");
    }
    let arguments = ["--time", "1s", "--clients", "2", "--depth", "8", "--mode", "unprepared"];
    let (code, results, said) = run.run("point-read", &arguments);
    assert_eq!((code, number(&results, "failed")), (0, 0), "{said}{results}");
}

#[test]
fn a_wrong_reply_is_told_and_fails_the_run() {
    let run = Run::new();
    let scenario = run.scenario(&format!("{ONE}sql = \"select 1\"\nrows = 1\nfirst = [\"2\"]\n"));
    let (code, results, said) = run.run(&scenario, &["--rate", "50", "--time", "500ms"]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(number(&results, "completed"), 0);
    assert!(number(&results["errors"], "wrong") > 0);
    assert!(said.contains("replies were wrong"), "{said}");
    let text = results["error_texts"]["wrong"].as_str().unwrap();
    assert_eq!(text, "one: in the first row column 1 is 1 instead of 2");
}

#[test]
fn an_error_of_the_server_is_counted_by_its_class_and_leaves_no_transaction_open() {
    let run = Run::new();
    let text = "[[operation]]\nname = \"bad\"\nmode = \"simple\"\n[[operation.step]]\nsql = \"begin\"\n\
                [[operation.step]]\nsql = \"select 1 / 0\"\n[[operation.step]]\nsql = \"commit\"\n\
                [[operation]]\nname = \"good\"\nmode = \"simple\"\n[[operation.step]]\nsql = \"select txid_current_if_assigned()\"\nrows = 1\n";
    let arguments = ["--rate", "200", "--time", "1s", "--clients", "1"];
    let (code, results, said) = run.run(&run.scenario(text), &arguments);
    assert_eq!(code, 0, "{said}");
    let errors = results["errors"].as_object().unwrap();
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["22"], "{results}");
    assert!(number(&results, "completed") > 0 && number(&results["errors"], "22") > 0);
}

#[test]
fn what_cannot_be_sent_in_time_is_counted_and_what_waits_is_late_from_when_it_was_meant_to_begin() {
    let run = Run::new();
    let scenario = run.scenario(&format!("{ONE}sql = \"select pg_sleep(0.05)\"\n"));
    let arguments = ["--rate", "1000", "--time", "2s", "--drain", "0", "--clients", "1", "--queue", "10"];
    let (code, results, said) = run.run(&scenario, &arguments);
    assert_eq!(code, 0, "{said}");
    let (offered, sent, unsent) = (number(&results, "offered"), number(&results, "sent"), number(&results, "unsent"));
    // one more may have been sent in the moment before everything counts
    assert!(offered.abs_diff(sent + unsent) <= 20 && unsent > 1500, "{results}");
    let (response, service) = (results["response_ms"]["p99"].as_f64(), results["service_ms"]["p50"].as_f64());
    assert!(response.unwrap() > 4.0 * service.unwrap(), "{results}");
    assert!(service.unwrap() >= 50.0, "{results}");
}

#[test]
fn connections_are_made_anew_and_again_when_they_are_lost() {
    let run = Run::new();
    let arguments = ["--time", "1s", "--clients", "2", "--reconnect-after", "10", "--think", "1ms"];
    let (code, results, said) = run.run("session-state", &arguments);
    assert_eq!((code, number(&results, "failed")), (0, 0), "{said}{results}");
    assert!(number(&results["connect_ms"], "count") >= 3, "{results}");

    let out = run.out().display().to_string();
    let arguments = ["--rate", "100", "--time", "3s", "--clients", "4", "--out", &out];
    let mut command = run.command("session-state", &arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("operations are done", || ticks(&run) > 0);
    let text = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    assert_eq!(Cluster::shared().sql_in(&run.database, text), "4");
    let (code, results, said) = judge(&child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{said}");
    let failed: u64 = results["errors"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert!(failed > 0 && results["errors"]["wrong"].is_null(), "{results}");
    assert!(number(&results["connect_ms"], "count") >= 4, "{results}");
}

/// How many seconds a run has written.
fn ticks(run: &Run) -> usize {
    let text = run.file("ndjson").and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("{\"t\":")).count()
}

#[test]
fn interrupted_it_keeps_what_was_measured() {
    let run = Run::new();
    let out = run.out().display().to_string();
    let mut command = run.command("point-read", &["--rate", "50", "--time", "10m", "--out", &out]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("a second is written", || ticks(&run) > 0);
    signal_process(child.id(), Signal::INT);
    let (code, results, said) = judge(&child.wait_with_output().unwrap());
    assert_eq!(code, 130, "{said}");
    assert_eq!(results["interrupted"], true);
    let series = lines(&run.file("ndjson").unwrap());
    assert_eq!(sum(&series, "optimacore_bench_offered_total", None), number(&results, "offered"));
    assert!(number(&results, "completed") > 0);
    assert!(run.out().join("run.json").is_file());
}

#[test]
fn pointed_at_nothing_it_says_the_address_and_the_reason_and_ends_with_5() {
    let run = Run { port: harness::port::free(), ..Run::new() };
    let (code, _, said) = run.run("point-read", &[]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains(&format!("127.0.0.1:{}", run.port)) && said.contains("Connection refused"), "{said}");
}

#[test]
fn who_is_not_let_in_ends_with_4_and_who_asks_for_nonsense_with_2() {
    let run = Run::new();
    let target = format!("postgres://nobody_here@127.0.0.1:{}/{}", run.port, run.database);
    let end = |arguments: &[&str]| {
        let output = program::run(program::command(program::bench()).args(arguments), b"");
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = end(&["run", "point-read", "--target", &target]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("nobody_here"), "{said}");
    let wrong = run.scenario("\n[[operation]]\nname = \"a\"\n[[operation.step]]\nsql = \"select :key\"\n");
    let (code, said) = end(&["run", &wrong]);
    assert_eq!((code, said.trim()), (2, format!("error: {wrong}:7: there is no value of the name key").as_str()));
    let (code, said) = end(&["run", "no-such-thing"]);
    assert!(code == 2 && said.contains("point-read"), "{said}");
    for arguments in [&["run", "mix", "--rate", "0"][..], &["run", "transaction", "--depth", "2"], &["run"]] {
        let (code, said) = end(arguments);
        assert_eq!(code, 2, "{said}");
    }
}
