//! `[stats] export_dir`.

use std::fs;
use std::path::{Path, PathBuf};

use harness::program::run_well;
use harness::{Plane, wait_until};
use rustix::process::Signal;
use serde_json::Value as Json;

use crate::{check_by_promtool, files, plane, read_by, sum, work};

fn lines(path: &Path) -> Vec<Json> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Events of a series by their names.
fn events(lines: &[Json]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.get("event")?.as_str()).collect()
}

/// What a series says of shared and exclusive requests of a database.
fn requests(lines: &[Json], database: &str) -> u64 {
    let of = |line: &&Json| {
        line.get("series").is_some()
            && line["metric"] == "optimacore_requests_total"
            && line["labels"]["database"] == database
    };
    let ids: Vec<String> = lines.iter().filter(of).map(|line| line["series"].to_string()).collect();
    let ticks = lines.iter().filter_map(|line| line.get("v"));
    ticks.flat_map(|values| ids.iter().filter_map(|id| values.get(id)?.as_u64())).sum()
}

#[test]
fn the_files_of_a_run_tell_what_happened_and_other_programs_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().display().to_string();
    let (plane, database) = plane(|builder| builder.stat("export_dir", &own).stat("export_interval", "100ms"));
    let client = work(&plane, &database, 50);
    let prom = dir.path().join("optimacore.prom");
    let counted = plane.pool(&database).requests();
    let told = || files(dir.path(), ".ndjson").pop().map_or(0, |path| requests(&lines(&path), &database));
    wait_until("the requests are exported", || told() == counted);
    // replaced less often than the series grows
    let of = format!("optimacore_requests_total{{database=\"{database}\"");
    wait_until("the text says the same", || {
        let text = fs::read_to_string(&prom).unwrap();
        let counts = text.lines().filter(|line| line.starts_with(&of)).filter_map(|line| line.rsplit_once(' '));
        counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum::<u64>() == counted
    });
    check_by_promtool(&fs::read_to_string(&prom).unwrap());
    let found = read_by("prom", &prom);
    assert_eq!(sum(&found, "optimacore_requests_total", &[("database", &database)]), counted as f64);
    plane.edit_config(|text| text.replace("[stats]", "[pool]\nsize = 7\n\n[stats]"));
    harness::cluster::signal_process(plane.pid(), Signal::HUP);
    let series = files(dir.path(), ".ndjson").pop().unwrap();
    wait_until("the reload is exported", || events(&lines(&series)).contains(&"reload"));
    drop(client);
    let (status, said) = plane.terminate();
    assert!(status.success(), "{said}");
    let lines = lines(&series);
    assert_eq!(lines[0]["schema"], "optimacore.series/1");
    assert_eq!(events(&lines), ["start", "reload", "stopping", "stop"]);
    assert_eq!(requests(&lines, &database), counted);
    let reload = lines.iter().find(|line| line.get("event").is_some_and(|name| name == "reload")).unwrap();
    assert_eq!(reload["text"], "pool.size: 20 -> 7");
    assert!(lines.iter().any(|line| line.get("statement").is_some() && line["text"] == "select ?"));
    let durations = read_by("hlog", &files(dir.path(), ".hlog")[0]);
    let server = &durations[format!("{database}/postgres/server")];
    assert!(server[0].as_u64().unwrap() >= 50 && server[1].as_u64().unwrap() > 0, "{durations}");
    paper_is_right(dir.path());
}

/// Every file is there with the sum that `run.json` says.
fn paper_is_right(dir: &Path) {
    let paper: Json = serde_json::from_str(&fs::read_to_string(dir.join("run.json")).unwrap()).unwrap();
    assert_eq!((&paper["schema"], &paper["program"]), (&"optimacore.run/1".into(), &"optimacore".into()));
    assert!(paper["end_us"].as_u64() > paper["start_us"].as_u64(), "{paper}");
    let files = paper["files"].as_array().unwrap();
    assert_eq!(files.len(), 2, "{paper}");
    for file in files {
        let path = dir.join(file["name"].as_str().unwrap());
        let sums = run_well(std::process::Command::new("sha256sum").arg(&path), b"");
        assert_eq!(sums.split(' ').next().unwrap(), file["sha256"].as_str().unwrap(), "{file}");
        assert_eq!(fs::metadata(&path).unwrap().len(), file["bytes"].as_u64().unwrap());
    }
}

fn failures(plane: &Plane) -> u64 {
    plane.stats().export_failures
}

#[test]
fn a_directory_that_is_missing_costs_no_query_and_is_used_when_it_comes() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("later");
    let (plane, database) =
        plane(|builder| builder.stat("export_dir", &dir.display().to_string()).stat("export_interval", "100ms"));
    let mut client = work(&plane, &database, 5);
    wait_until("it has failed several times", || failures(&plane) > 3);
    client.query("select 1").good();
    let said = plane.said();
    assert_eq!(said.matches("statistics cannot be exported").count(), 1, "{said}");
    assert!(said.contains("No such file or directory") && said.contains(&dir.display().to_string()), "{said}");
    fs::create_dir(&dir).unwrap();
    wait_until("it goes on", || plane.said().contains("statistics are exported again"));
    let counted = plane.pool(&database).requests();
    wait_until("what was counted before is there too", || {
        files(&dir, ".ndjson").pop().is_some_and(|path| requests(&lines(&path), &database) == counted)
    });
}

#[test]
fn a_full_disk_costs_no_query_and_every_file_stays_whole() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().display().to_string();
    // a file system of its own, with room for about one picture
    let mount = format!("mount -t tmpfs -o size=2m tmpfs {path} && exec \"$@\"");
    let (plane, database) = plane(|builder| {
        builder
            .under(&["unshare", "-rm", "sh", "-c", &mount, "sh"])
            .stat("export_dir", &path)
            .stat("export_interval", "100ms")
    });
    // as the data plane sees it
    let dir = PathBuf::from(format!("/proc/{}/root{path}", plane.pid()));
    let mut client = work(&plane, &database, 5);
    wait_until("the first files are there", || !files(&dir, ".ndjson").is_empty());
    let filler = dir.join("filler");
    // as much as there is room for
    let filled =
        std::process::Command::new("sh").args(["-c", "cat /dev/zero > \"$1\" 2>/dev/null", "sh"]).arg(&filler).status();
    assert!(!filled.unwrap().success(), "the disk is full");
    let before = failures(&plane);
    wait_until("it cannot be written any more", || failures(&plane) > before + 3);
    for number in 0..20 {
        client.query(&format!("select {number}")).good();
    }
    let said = plane.said();
    assert_eq!(said.matches("statistics cannot be exported").count(), 1, "{said}");
    check_by_promtool(&fs::read_to_string(dir.join("optimacore.prom")).unwrap());
    files(&dir, ".ndjson").iter().for_each(|path| drop(lines(path)));
    fs::remove_file(filler).unwrap();
    wait_until("it goes on", || plane.said().contains("statistics are exported again"));
    let counted = plane.pool(&database).requests();
    wait_until("everything was counted", || {
        files(&dir, ".ndjson").pop().is_some_and(|path| requests(&lines(&path), &database) == counted)
    });
}
