//! The dashboard, as a browser has it: its own tests, of reading and counting and in Chromium, run from here.
//!
//! `make deps` installs what they need; what they are is told in `dashboard/README.md`.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("dashboard")
}

/// Runs a program; what it said comes with the failure.
fn run(program: &str, args: &[&str], from: &Path) {
    assert!(folder().join("node_modules").exists(), "the dashboard's packages are not installed; run make deps");
    let output = Command::new(program).args(args).current_dir(from).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {}: {}{}",
        args.join(" "),
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn dashboard_keeps_its_rules_and_counts_right() {
    run("npm", &["run", "--silent", "lint"], &folder());
    run("npm", &["run", "--silent", "unit"], &folder());
}

#[test]
fn dashboard_works_in_a_browser() {
    run("make", &["--silent", "dashboard"], &folder().join(".."));
    run("npm", &["run", "--silent", "browser"], &folder());
}
