use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::example;
use crate::series::event;

fn later(before: &Snapshot) -> Snapshot {
    let mut now = before.clone();
    now.uptime_us += 1_000_000;
    now.taken_unix_us += 1_000_000;
    now.pools[0].requests_shared += 3;
    now.pools[0].server_time.record_us(70);
    now
}

fn exporter(dir: &Path) -> Exporter {
    Exporter::new(Settings::new(dir.to_owned(), Duration::from_secs(1)), &example::snapshot())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_some_and(|ending| ending == "gz") {
        let mut text = String::new();
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        return text;
    }
    String::from_utf8(bytes).unwrap()
}

/// Sums of the shared requests that a file tells; it must be readable alone.
fn shared_in(path: &Path) -> u64 {
    let text = text_of(path);
    assert!(text.ends_with('\n'));
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["schema"], "optimacore.series/1");
    let mut series = HashMap::new();
    let mut sum = 0;
    for line in &lines[1..] {
        if let Some(id) = line.get("series") {
            series.insert(id.to_string(), line.clone());
        }
        for (id, value) in line.get("v").and_then(Json::as_object).into_iter().flatten() {
            let own = series.get(id).unwrap_or_else(|| panic!("{id} of {} is not told in it", path.display()));
            if own["metric"] == "optimacore_requests_total" && own["labels"]["path"] == "shared" {
                sum += value.as_u64().unwrap();
            }
        }
    }
    sum
}

fn assert_paper_is_right(dir: &Path, count: usize) {
    let paper: Json = serde_json::from_str(&text_of(&dir.join("run.json"))).unwrap();
    assert_eq!(paper["schema"], "optimacore.run/1");
    assert_eq!((&paper["config_sha256"], &paper["host"]["name"]), (&"c0ffee".into(), &"db1".into()));
    let files = paper["files"].as_array().unwrap();
    assert_eq!(files.len(), count, "{paper}");
    for file in files {
        let bytes = fs::read(dir.join(file["name"].as_str().unwrap())).unwrap();
        let part = &bytes[..usize::try_from(file["bytes"].as_u64().unwrap()).unwrap()];
        let sum: String = Sha256::digest(part).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(file["sha256"], sum.as_str(), "{file}");
    }
}

#[test]
fn a_run_is_written_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut exporter = exporter(dir.path());
    exporter.event(&event("start", 5, "optimacore"));
    let first = example::snapshot();
    exporter.tick(&first).unwrap();
    exporter.tick(&later(&first)).unwrap();
    exporter.finish().unwrap();
    let start = "optimacore-20231114T221325Z";
    assert_eq!(
        names(dir.path()),
        [format!("{start}.hlog"), format!("{start}.ndjson"), "optimacore.prom".into(), "run.json".into()]
    );
    assert_eq!(shared_in(&dir.path().join(format!("{start}.ndjson"))), 3003);
    assert_eq!(text_of(&dir.path().join("optimacore.prom")), text::prometheus(&later(&first)));
    assert_paper_is_right(dir.path(), 2);
    let text = text_of(&dir.path().join(format!("{start}.ndjson")));
    assert_eq!(text.lines().nth(1), Some(r#"{"event":"start","t":5,"text":"optimacore"}"#));
}

#[test]
fn durations_are_read_by_hdrhistograms_own_reader() {
    let dir = tempfile::tempdir().unwrap();
    let mut exporter = exporter(dir.path());
    let mut first = example::snapshot();
    first.pools[2].user = "b ob,/x".into();
    exporter.tick(&first).unwrap();
    exporter.tick(&later(&first)).unwrap();
    let log = text_of(&dir.path().join("optimacore-20231114T221325Z.hlog"));
    let entries: Vec<LogEntry<'_>> = IntervalLogIterator::new(log.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(entries[0], LogEntry::StartTime(Duration::from_secs(1_700_000_005)));
    let mut found = Vec::new();
    for entry in &entries[1..] {
        let LogEntry::Interval(interval) = entry else { panic!("{entry:?}") };
        let mut reader = Deserializer::new();
        let bytes = decode_base64(interval.encoded_histogram());
        let histogram: hdrhistogram::Histogram<u64> = reader.deserialize(&mut &bytes[..]).unwrap();
        let tag = interval.tag().unwrap().as_str().to_owned();
        found.push((tag, interval.start_timestamp().as_secs(), histogram.len(), histogram.value_at_quantile(0.5)));
    }
    let tags: Vec<&str> = found.iter().map(|(tag, ..)| tag.as_str()).collect();
    assert_eq!(
        tags,
        ["shop/ann/queue", "shop/ann/server", "shop/b_ob__x/queue", "shop/b_ob__x/server", "shop/ann/server"]
    );
    assert_eq!(found[1].2, 2000);
    assert!(found[1].3.abs_diff(10_000) < 150, "{found:?}");
    assert_eq!((found[4].1, found[4].2), (1_700_000_005, 1));
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{byte}"),
    };
    let bits: Vec<u32> = text.bytes().filter(|byte| *byte != b'=').map(|byte| value(byte).into()).collect();
    let bytes = bits.chunks(4).flat_map(|four| {
        let word = four.iter().fold(0, |word, bits| word << 6 | bits) << (6 * (4 - four.len()));
        word.to_be_bytes()[1..four.len()].to_vec()
    });
    bytes.collect()
}

#[test]
fn files_are_rotated_packed_and_readable_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut exporter = exporter(dir.path());
    exporter.settings.file_age_max = Duration::from_secs(2);
    let mut snapshot = example::snapshot();
    for _ in 0..7 {
        exporter.tick(&snapshot).unwrap();
        snapshot = later(&snapshot);
    }
    exporter.finish().unwrap();
    let names = names(dir.path());
    let of = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).collect::<Vec<_>>();
    assert_eq!([of(".ndjson.gz").len(), of(".ndjson").len(), of(".hlog").len()], [2, 1, 3], "{names:?}");
    let sums: Vec<u64> =
        of(".gz").into_iter().chain(of(".ndjson")).map(|name| shared_in(&dir.path().join(name))).collect();
    assert_eq!(sums, [3006, 9, 3]);
    assert_paper_is_right(dir.path(), 6);
    assert!(!names.iter().any(|name| name.starts_with('.')), "{names:?}");
}

#[test]
fn the_oldest_files_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("optimacore-20200101T000000Z.ndjson.gz");
    fs::write(&old, [0; 5000]).unwrap();
    fs::write(dir.path().join("mine.ndjson"), [0; 5000]).unwrap();
    let mut exporter = exporter(dir.path());
    exporter.settings.file_len_max = 1;
    exporter.settings.total_len_max = 40_000;
    let mut snapshot = example::snapshot();
    for _ in 0..20 {
        exporter.tick(&snapshot).unwrap();
        snapshot = later(&snapshot);
    }
    let names = names(dir.path());
    let total: u64 = names
        .iter()
        .filter(|name| name.starts_with(PREFIX))
        .map(|name| fs::metadata(dir.path().join(name)).unwrap().len())
        .sum();
    assert!(!old.exists() && total <= 40_000 && total > 20_000, "{total}");
    assert!(names.contains(&"mine.ndjson".into()), "a stranger's file is left alone");
    exporter.write_paper().unwrap();
    let count = names.iter().filter(|name| name.starts_with(PREFIX)).count();
    assert_paper_is_right(dir.path(), count);
}

#[test]
fn what_could_not_be_written_is_written_later() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("not/yet");
    let mut exporter = exporter(&dir);
    let first = example::snapshot();
    let error = exporter.tick(&first).unwrap_err();
    assert!(error.to_string().contains("optimacore.prom: No such file"), "{error}");
    let second = later(&first);
    exporter.tick(&second).unwrap_err();
    fs::create_dir_all(&dir).unwrap();
    exporter.tick(&later(&second)).unwrap();
    assert_eq!(shared_in(&dir.join("optimacore-20231114T221327Z.ndjson")), 3006);
}

#[test]
fn what_waits_is_bounded_and_the_next_file_is_readable_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("gone");
    fs::create_dir(&dir).unwrap();
    let mut exporter = exporter(&dir);
    let mut snapshot = example::snapshot();
    exporter.tick(&snapshot).unwrap();
    // something that cannot be appended to is in the place of the file
    exporter.open.as_mut().unwrap().series.replace_with(fs::File::open("/dev/null").unwrap());
    let text = "x".repeat(100_000);
    for _ in 0..60 {
        snapshot = later(&snapshot);
        exporter.event(&event("error", 1, &text));
        drop(exporter.tick(&snapshot));
        assert!(exporter.series.len() <= WAITING_LEN_MAX);
    }
    exporter.tick(&later(&snapshot)).unwrap();
    let last = names(&dir).into_iter().rfind(|name| name.ends_with(".ndjson")).unwrap();
    assert!(shared_in(&dir.join(last)) > 0);
}

#[test]
fn a_long_text_is_replaced_less_often() {
    let dir = tempfile::tempdir().unwrap();
    let mut exporter = exporter(dir.path());
    let mut snapshot = example::snapshot();
    let pool = snapshot.pools[0].clone();
    // two megabytes and more
    snapshot.pools.extend((0..300).map(|number| crate::PoolStats { user: format!("u{number}"), ..pool.clone() }));
    let mut texts = Vec::new();
    for _ in 0..4 {
        exporter.tick(&snapshot).unwrap();
        texts.push(text_of(&dir.path().join("optimacore.prom")));
        snapshot = later(&snapshot);
    }
    assert!(texts[0].len() > 2 << 20 && texts[0].len() < 10 << 20, "{}", texts[0].len());
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2]);
}

#[test]
fn two_runs_of_one_second_do_not_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        exporter(dir.path()).tick(&example::snapshot()).unwrap();
    }
    assert_eq!(names(dir.path()).iter().filter(|name| name.ends_with(".ndjson")).count(), 3);
}
