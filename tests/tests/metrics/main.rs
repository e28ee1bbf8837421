//! What is measured, as files and texts that other people's programs read. Needs promtool and the Python packages of `make deps`.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that fails panics")]

mod command;
mod export;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::program::run_well;
use harness::{Cluster, Plane, PlaneBuilder, RawClient};
use serde_json::Value as Json;

/// A data plane with one connection per shard and its database.
fn plane(build: impl FnOnce(PlaneBuilder) -> PlaneBuilder) -> (Plane, String) {
    let database = Cluster::shared().make_database();
    (build(Plane::before(Cluster::shared())).start(), database)
}

/// Runs a little of everything: so many reads, an error, a transaction.
fn work(plane: &Plane, database: &str, reads: usize) -> RawClient {
    let mut client = plane.client(database);
    for number in 0..reads {
        client.query(&format!("select {number}")).good();
    }
    assert_eq!(client.query("select 1 / 0").code(), "22012");
    client.query("begin").good();
    client.query("set local search_path = pg_catalog").good();
    client.query("commit").good();
    client
}

/// What a reader of another's finds in a file.
fn read_by(form: &str, path: &Path) -> Json {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let python = tests.join("drivers/python/.venv/bin/python");
    assert!(python.exists(), "there is no {}; run make deps", python.display());
    let text = run_well(Command::new(python).arg(tests.join("metrics/readers.py")).arg(form).arg(path), b"");
    serde_json::from_str(&text).unwrap()
}

/// `promtool check metrics` must find nothing.
fn check_by_promtool(text: &str) {
    let output = harness::program::run(Command::new("promtool").args(["check", "metrics"]), text.as_bytes());
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// The sum of a metric's samples whose labels hold these.
fn sum(families: &Json, sample: &str, labels: &[(&str, &str)]) -> f64 {
    let all = families.as_array().unwrap().iter().flat_map(|family| family["samples"].as_array().unwrap());
    let own = all.filter(|one| one[0] == sample && labels.iter().all(|(name, value)| one[1][*name] == *value));
    own.map(|one| one[2].as_f64().unwrap()).sum()
}

/// Files of a directory with this ending, the oldest first.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    found
}

#[test]
fn both_texts_are_read_by_other_programs_and_say_what_was_counted() {
    let (plane, database) = plane(|builder| builder);
    let _client = work(&plane, &database, 50);
    let snapshot = plane.stats();
    let text = stats::text::prometheus(&snapshot);
    check_by_promtool(&text);
    let dir = tempfile::tempdir().unwrap();
    let (prom, open) = (dir.path().join("prom"), dir.path().join("open"));
    fs::write(&prom, text).unwrap();
    fs::write(&open, stats::text::openmetrics(&snapshot)).unwrap();
    for found in [read_by("prom", &prom), read_by("openmetrics", &open)] {
        let own = ("database", database.as_str());
        let requests = sum(&found, "optimacore_requests_total", &[own]);
        assert!(requests >= 53.0, "{requests}");
        assert_eq!(sum(&found, "optimacore_errors_total", &[own, ("class", "22"), ("source", "server")]), 1.0);
        let times = [own, ("phase", "server")];
        let counted = sum(&found, "optimacore_request_seconds_count", &times);
        assert!(counted >= 50.0 && sum(&found, "optimacore_request_seconds_sum", &times) > 0.0, "{counted}");
        let last = [own, ("phase", "server"), ("le", "+Inf")];
        assert_eq!(sum(&found, "optimacore_request_seconds_bucket", &last), counted);
        assert!(sum(&found, "optimacore_statement_calls_total", &[own]) >= 51.0);
        assert_eq!(sum(&found, "optimacore_client_connections_max", &[]), 10_000.0);
        assert!(sum(&found, "optimacore_process_resident_memory_bytes", &[]) > 1e6);
        assert_eq!(sum(&found, "optimacore_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
        let unknown: Vec<&Json> =
            found.as_array().unwrap().iter().filter(|family| family["type"] == "unknown").collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    let found = read_by("openmetrics", &open);
    let units = found.as_array().unwrap().iter().filter(|family| family["unit"] == "seconds").count();
    assert!(units >= 5, "{found}");
}
