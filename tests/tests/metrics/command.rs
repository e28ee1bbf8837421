//! `ctl stats`.

use std::process::Command;

use harness::program::{self, run, run_well};
use harness::{Plane, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::{check_by_promtool, files, plane, work};

fn ctl(plane: &Plane, arguments: &[&str]) -> Command {
    let mut command = program::command(program::ctl());
    command.arg("stats").arg("--socket").arg(plane.socket_dir().join("stats")).args(arguments);
    command
}

#[test]
fn each_form_of_output_is_what_it_is_called() {
    let (plane, database) = plane(|builder| builder);
    let _client = work(&plane, &database, 10);
    check_by_promtool(&(run_well(&mut ctl(&plane, &["-o", "prom"]), b"") + "\n"));
    let series = run_well(&mut ctl(&plane, &["-o", "ndjson"]), b"");
    let lines: Vec<Json> = series.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0].get("schema").is_some() && lines.last().unwrap().get("t").is_some(), "{series}");
    for arguments in [&["-o", "json"][..], &["--json"]] {
        let looks: Json = serde_json::from_str(&run_well(&mut ctl(&plane, arguments), b"")).unwrap();
        assert_eq!(looks["schema"], "optimacore.stats/1");
        assert!(looks["since_start"]["process"]["resident_bytes"].as_u64().unwrap() > 1 << 20);
    }
    let wide = run_well(&mut ctl(&plane, &["-o", "wide"]), b"");
    assert!(wide.contains("postgres (shard ") && wide.contains("Statements"), "{wide}");
    let top = run_well(&mut ctl(&plane, &["--top", "errors"]), b"");
    let first = top.lines().nth(1).unwrap();
    assert!(first.contains("select ? / ?") && first.contains(&database), "{top}");
    let json: Json = serde_json::from_str(&run_well(&mut ctl(&plane, &["--top", "-o", "json"]), b"")).unwrap();
    assert_eq!(json["statements"][0]["fingerprint"].as_str().unwrap().len(), 16);
}

#[test]
fn until_waits_for_what_is_to_be() {
    let (plane, database) = plane(|builder| builder.pool("size", 1));
    let mut holder = plane.client(&database);
    holder.query("begin").good();
    let mut waiter = plane.client(&database);
    waiter.send(harness::Request::new().query("select 1").bytes());
    let reached = run(&mut ctl(&plane, &["--until", "pool.waiting==1", "--timeout", "20s"]), b"");
    assert!(reached.status.success(), "{reached:?}");
    let missed = run(&mut ctl(&plane, &["--until", "pool.waiting==0", "--timeout", "300ms"]), b"");
    let said = String::from_utf8_lossy(&missed.stderr).into_owned();
    assert_eq!(missed.status.code(), Some(6), "{said}");
    assert!(said.contains("not pool.waiting==0 within 0.3 s: it is 1"), "{said}");
    let labelled = format!("optimacore_pool_client_maxwait_seconds{{database={database}}} > 0.3");
    assert!(run(&mut ctl(&plane, &["--until", &labelled]), b"").status.success());
    holder.query("commit").good();
    assert!(run(&mut ctl(&plane, &["--until", "pool.waiting==0"]), b"").status.success());
    let wrong = run(&mut ctl(&plane, &["--until", "pool.nonsense==0"]), b"");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no number \"pool.nonsense\""));
}

#[test]
fn export_from_outside_writes_the_same_files() {
    let (plane, database) = plane(|builder| builder);
    let _client = work(&plane, &database, 10);
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made");
    run_well(&mut ctl(&plane, &["--export", &dir.display().to_string()]), b"");
    assert_eq!([files(&dir, ".ndjson").len(), files(&dir, ".hlog").len()], [1, 1]);
    check_by_promtool(&std::fs::read_to_string(dir.join("optimacore.prom")).unwrap());
    let other = parent.path().join("watched");
    let mut child = ctl(&plane, &["--export", &other.display().to_string(), "--watch", "0.1"]).spawn().unwrap();
    wait_until("a few ticks are there", || {
        let text = files(&other, ".ndjson").first().map(|path| std::fs::read_to_string(path).unwrap());
        text.is_some_and(|text| text.lines().filter(|line| line.starts_with("{\"t\"")).count() > 3)
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
    let paper: Json = serde_json::from_str(&std::fs::read_to_string(other.join("run.json")).unwrap()).unwrap();
    let snapshot = plane.stats();
    assert_eq!(paper["pid"], snapshot.pid);
    assert_eq!(paper["config_sha256"], snapshot.config_sha256.as_str());
}
