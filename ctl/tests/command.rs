//! `ctl` as it is called: what it prints and how it exits. Needs no data plane.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use expect_test::expect;

fn ctl(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ctl"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Exit code, standard output and standard error.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_tells_all_errors_and_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "[pool]\nsise = 3\n[[database]]\nname = \"a\"\nhost = \"db\"\nport = 0\n").unwrap();
    let path = file.to_str().unwrap();
    let (code, out, err) = said(&ctl(&["check", path], ""));
    expect![[r#"
        FILE:2:1: unknown key "sise" in [pool]; did you mean "size"?
        FILE:6:8: port: must be at least 1
    "#]]
    .assert_eq(&out.replace(path, "FILE"));
    assert_eq!((code, err.as_str()), (Some(1), "2 errors\n"));

    let (code, out, _) = said(&ctl(&["check", "--json", path], ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["ok"], &json["errors"][1]["line"]), (Some(1), &false.into(), &6.into()));

    std::fs::write(&file, "[[database]]\nname = \"a\"\nhost = \"db\"\n").unwrap();
    let (code, out, err) = said(&ctl(&["check", path], ""));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out.replace(path, "FILE"), "FILE: sound; 1 database, 0 users\n");
    let (code, _, err) = said(&ctl(&["check"], ""));
    assert!(code == Some(2) && err.contains("Usage"), "{err}");
}

#[test]
fn a_password_verifier_is_accepted_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let check = |secret: &str| {
        let user = format!("[[user]]\nname = \"ann\"\npassword = \"{}\"\n", secret.trim());
        std::fs::write(&file, format!("[[database]]\nname = \"a\"\nhost = \"db\"\n{user}")).unwrap();
        ctl(&["check", file.to_str().unwrap()], "").status.code()
    };
    let (code, scram, _) = said(&ctl(&["password-verifier"], "sesame\n"));
    assert!(code == Some(0) && scram.starts_with("SCRAM-SHA-256$4096:"), "{scram}");
    assert_eq!(check(&scram), Some(0));
    let (_, again, _) = said(&ctl(&["password-verifier"], "sesame\n"));
    assert_ne!(scram, again, "each verifier has a salt of its own");
    let (_, md5, _) = said(&ctl(&["password-verifier", "--md5", "postgres"], "postgres"));
    assert_eq!(md5, "md53175bce1d3201d16594cebf9d7eb3f9d\n");
    assert_eq!(check(&md5), Some(0));
    assert_eq!(check("sesame"), Some(1));
    assert_eq!(ctl(&["password-verifier"], "\n").status.code(), Some(1));
}

#[test]
fn stats_of_nobody_say_so() {
    let (code, out, err) = said(&ctl(&["stats", "--socket", "/nonexistent/s"], ""));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("is the data plane running?"), "{err}");
}

#[test]
fn completions_and_version_are_printed() {
    let (code, out, _) = said(&ctl(&["completions", "bash"], ""));
    assert!(code == Some(0) && out.contains("password-verifier"));
    assert_eq!(said(&ctl(&["version"], "")).1, format!("ctl {}\n", env!("CARGO_PKG_VERSION")));
}
