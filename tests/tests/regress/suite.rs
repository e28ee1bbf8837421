//! Running one of PostgreSQL's suites, and what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::{Cluster, program};

use crate::known::{Known, Occurs};

/// How long a suite may take at most, in seconds. One test that hangs must not hang everything.
const TIME_MAX: &str = "900";

/// Isolation tests that take little time and wait for each other in different ways: row locks, predicate locks, deadlocks, safe
/// snapshots, notifications, timeouts, backends that end.
const ISOLATION_IN_PART: [&str; 16] = [
    "read-only-anomaly",
    "read-only-anomaly-3",
    "read-write-unique",
    "simple-write-skew",
    "two-ids",
    "deadlock-simple",
    "deadlock-soft",
    "lock-update-delete",
    "insert-conflict-do-nothing",
    "propagate-lock-delete",
    "nowait",
    "skip-locked",
    "temp-schema-cleanup",
    "async-notify",
    "timeouts",
    "vacuum-conflict",
];

/// Regression tests that set and reset what the start-up packet sets, and what leaves things behind; the first makes tables.
const REGRESSION_IN_PART: [&str; 8] =
    ["test_setup", "date", "timestamp", "timestamptz", "horology", "guc", "prepare", "plancache"];

/// A suite, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Suite {
    /// Its folder, and that of its program.
    folder: &'static str,
    program: &'static str,
    schedule: Option<&'static str>,
    tests: &'static [&'static str],
}

/// What came of it.
pub(crate) struct Outcome {
    /// What differs, of every test; nothing if it has passed.
    differences: BTreeMap<String, String>,
}

impl Suite {
    pub(crate) const fn regression() -> Self {
        Self { folder: "regress", program: "pg_regress", schedule: Some("parallel_schedule"), tests: &[] }
    }

    pub(crate) const fn regression_in_part() -> Self {
        Self { schedule: None, tests: &REGRESSION_IN_PART, ..Self::regression() }
    }

    pub(crate) const fn isolation() -> Self {
        Self { folder: "isolation", program: "pg_isolation_regress", schedule: Some("isolation_schedule"), tests: &[] }
    }

    pub(crate) const fn isolation_in_part() -> Self {
        Self { schedule: None, tests: &ISOLATION_IN_PART, ..Self::isolation() }
    }

    /// Runs it on what listens there; the cluster behind that must be new.
    pub(crate) fn run(self, cluster: &Cluster, port: u16) -> Outcome {
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regress/postgresql");
        assert!(files.join("version").is_file(), "PostgreSQL's own tests are not here; `make deps` fetches them");
        let place = cluster.socket_dir().join("suite");
        let out = place.join("out");
        // PostgreSQL reads and writes files there too
        cluster.own_copy(&files.join(self.folder), &place.join("in"));
        cluster.own_copy(&files.join("lib"), &place.join("lib"));
        cluster.own_dir(&out);
        let bin = program::postgres("psql").parent().unwrap().to_path_buf();
        let at = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let mut command = cluster.command(Path::new("timeout"));
        command.current_dir(&out).arg(TIME_MAX).arg(self.program(&bin)).args([
            at("bindir", &bin),
            at("dlpath", &place.join("lib")),
            at("inputdir", &place.join("in")),
            at("outputdir", &out),
            "--host=127.0.0.1".to_owned(),
            format!("--port={port}"),
            "--user=postgres".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--max-concurrent-tests=20".to_owned(),
        ]);
        if let Some(schedule) = self.schedule {
            command.arg(at("schedule", &place.join("in").join(schedule)));
        }
        command.args(self.tests);
        let output = program::run(&mut command, b"");
        let said = String::from_utf8_lossy(&output.stdout);
        let diffs = std::fs::read(out.join("regression.diffs")).unwrap_or_default();
        let outcome = Outcome::read(&said, &String::from_utf8_lossy(&diffs));
        let ended = matches!(output.status.code(), Some(0 | 1));
        assert!(ended && outcome.count() > 0, "the suite has not run to its end: {said}\n{output:?}");
        outcome
    }

    /// The program that runs it: part of the server's package, beside what extensions are built with.
    fn program(self, bin: &Path) -> PathBuf {
        let path = bin.join("../lib/pgxs/src/test").join(self.folder).join(self.program);
        assert!(path.is_file(), "there is no {}", path.display());
        path
    }
}

impl Outcome {
    fn read(said: &str, diffs: &str) -> Self {
        let mut by_test: BTreeMap<&str, String> = BTreeMap::new();
        let mut test = "";
        for line in diffs.lines() {
            if let Some(files) = line.strip_prefix("diff ") {
                let file = files.rsplit('/').next().unwrap_or_default();
                test = file.strip_suffix(".out").unwrap_or(file);
            } else if (line.starts_with('+') || line.starts_with('-'))
                && !line.starts_with("+++")
                && !line.starts_with("---")
            {
                let lines = by_test.entry(test).or_default();
                lines.push_str(line);
                lines.push('\n');
            }
        }
        let verdicts = said.lines().filter_map(|line| line.split_once(" ... "));
        let differences = verdicts.map(|(name, verdict)| {
            let name = name.trim();
            let name = name.strip_prefix("test ").unwrap_or(name).trim();
            let failed = !verdict.trim_start().starts_with("ok");
            let how = by_test.get(name).cloned().filter(|_| failed);
            (name.to_owned(), how.unwrap_or_else(|| if failed { verdict.to_owned() } else { String::new() }))
        });
        Self { differences: differences.collect() }
    }

    /// Tests that ran.
    pub(crate) fn count(&self) -> usize {
        self.differences.len()
    }

    pub(crate) fn has_failed(&self, test: &str) -> bool {
        self.differences.get(test).is_some_and(|how| !how.is_empty())
    }

    /// What is not as the list says.
    pub(crate) fn unlisted(&self, known: &[Known]) -> Vec<(String, String)> {
        let mut out = Vec::new();
        for (test, how) in &self.differences {
            let entries = known.iter().filter(|entry| entry.test == test);
            let expected: Vec<_> = entries.collect();
            let as_listed = expected.iter().any(|entry| entry.differs == how);
            let may_pass = expected.iter().all(|entry| entry.occurs == Occurs::ByTiming);
            match (how.is_empty(), as_listed) {
                (true, _) if may_pass => {}
                (true, _) => {
                    let why: Vec<_> = expected.iter().map(|entry| entry.why).collect();
                    out.push((test.clone(), format!("it is listed ({}), and passes", why.join("; "))));
                }
                (false, true) => {}
                (false, false) => out.push((test.clone(), how.clone())),
            }
        }
        out
    }
}
