//! The dashboard, as a browser has it: its own tests, of reading and counting and in Chromium, run from here.
//!
//! `make deps` installs what they need; what they are is told in `dashboard/README.md`.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Cluster, Plane, RawClient, port};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("dashboard")
}

/// Runs a program; what it said comes with the failure.
fn run(program: &str, args: &[&str], from: &Path) {
    assert!(folder().join("node_modules").exists(), "the dashboard's packages are not installed; run make deps");
    let output = Command::new(program).args(args).current_dir(from).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {}: {}{}", args.join(" "), text(&output.stdout), text(&output.stderr));
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

#[test]
fn dashboard_follows_a_real_data_plane() {
    let http = port::free();
    let plane = Plane::before(Cluster::shared()).http("listen", format!("127.0.0.1:{http}")).start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client =
                RawClient::connect(plane.port(), &[("user", "postgres"), ("database", "postgres")], None).unwrap();
            while !done.load(Ordering::Relaxed) {
                assert_eq!(client.query("select 1 as dashboard_probe").good().value(), "1");
                assert_eq!(client.query("select 1 / 0").code(), "22012");
            }
        });
        let tried = std::panic::catch_unwind(|| {
            run("node", &["test/browser/real.mjs", &format!("http://127.0.0.1:{http}/")], &folder());
        });
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = tried {
            std::panic::resume_unwind(panic);
        }
    });
}
