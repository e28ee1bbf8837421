//! The rules of the house: who may import whom, how long files are, what ARCHITECTURE.md promises.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file that one head holds; more need a reason beside it (`Length:` in its first lines).
const LINES_MAX: usize = 600;
/// Names that say nothing.
const NAMELESS: [&str; 8] = ["mod", "util", "utils", "common", "types", "helpers", "misc", "manager"];
/// Crates of ours that each folder may use.
const ARROWS: [(&str, &[&str]); 8] = [
    ("dbproto", &[]),
    ("runtime", &[]),
    ("core/config", &[]),
    ("core/stats", &[]),
    ("core", &["config", "dbproto", "runtime", "stats"]),
    ("ctl", &["config", "dbproto", "stats"]),
    ("tests", &["config", "dbproto", "stats"]),
    ("benches", &["config", "dbproto", "runtime", "stats"]),
];
const OURS: [&str; 8] =
    ["dbproto", "runtime", "config", "stats", "optimacore", "optimacore-tests", "optimacore-ctl", "optimacore-benches"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files below `dir` with this ending, relative to the root.
fn files(dir: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                files(&path, ending, out);
            }
        } else if name.ends_with(ending) {
            out.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut out = Vec::new();
    files(&root(), ".rs", &mut out);
    assert!(out.len() > 30, "the sources are found");
    out
}

/// Names in a table such as `[dependencies]` of a manifest.
fn table(manifest: &str, table: &str) -> Vec<String> {
    let mut inside = false;
    let mut out = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == format!("[{table}]");
        } else if inside
            && let Some((name, _)) = line.split_once(['=', '.'])
            && !line.starts_with('#')
        {
            out.push(name.trim().to_owned());
        }
    }
    out
}

#[test]
fn crates_use_only_the_crates_they_may() {
    for (folder, allowed) in ARROWS {
        let used = table(&read(&format!("{folder}/Cargo.toml")), "dependencies");
        for name in used.iter().filter(|name| OURS.contains(&name.as_str())) {
            assert!(allowed.contains(&name.as_str()), "{folder} uses {name}, which it must not know");
        }
    }
    for file in sources().iter().filter(|file| !file.starts_with("runtime") && !file.starts_with("tests")) {
        let text = read(&file.to_string_lossy());
        for name in ["glommio::", "io_uring::"] {
            assert!(!text.contains(name), "{} names {name}; only runtime does", file.display());
        }
    }
}

#[test]
fn every_folder_with_a_manifest_has_its_arrows() {
    let mut manifests = Vec::new();
    files(&root(), "Cargo.toml", &mut manifests);
    for manifest in manifests.iter().filter(|path| **path != *Path::new("Cargo.toml")) {
        let folder = manifest.parent().unwrap().to_string_lossy().into_owned();
        assert!(ARROWS.iter().any(|(known, _)| *known == folder), "{folder} is not in the list of arrows");
    }
}

#[test]
fn files_are_no_longer_than_one_head_holds() {
    for file in sources() {
        let text = read(&file.to_string_lossy());
        let reason = text.lines().take(20).any(|line| line.contains("Length:"));
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX || reason, "{} has {lines} lines and no reason for it", file.display());
    }
}

#[test]
fn files_have_names_that_say_something() {
    for file in sources() {
        let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!NAMELESS.contains(&stem.as_str()), "{}", file.display());
    }
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    for file in sources() {
        let text = read(&file.to_string_lossy());
        let tests = file.file_stem().unwrap() == "tests";
        assert!(tests || text.starts_with("//! "), "{} has no module documentation", file.display());
    }
}

#[test]
fn every_path_that_architecture_names_exists() {
    let text = read("ARCHITECTURE.md");
    let mut found = 0;
    for piece in text.split('`').skip(1).step_by(2) {
        let path = piece.trim_end_matches('/');
        let looks_like_one = !piece.contains(' ')
            && !piece.starts_with('/')
            && !piece.contains("::")
            && (piece.ends_with('/')
                || path
                    .rsplit_once('.')
                    .is_some_and(|(_, ending)| ["rs", "md", "toml", "sh", "py", "js", "mjs"].contains(&ending)));
        if looks_like_one {
            found += 1;
            assert!(root().join(path).exists(), "ARCHITECTURE.md names `{piece}`, which is not there");
        }
    }
    assert!(found > 20, "ARCHITECTURE.md names its files");
}

#[test]
fn every_dependency_has_a_reason() {
    let architecture = read("ARCHITECTURE.md");
    let mut manifests = Vec::new();
    files(&root(), "Cargo.toml", &mut manifests);
    let mut used: BTreeMap<String, PathBuf> = BTreeMap::new();
    for manifest in manifests {
        let text = read(&manifest.to_string_lossy());
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for name in table(&text, kind) {
                used.entry(name).or_insert_with(|| manifest.clone());
            }
        }
    }
    for (name, manifest) in used.iter().filter(|(name, _)| !OURS.contains(&name.as_str())) {
        let listed = architecture.contains(&format!("| `{name}` |"));
        assert!(listed, "{} uses {name}, for which ARCHITECTURE.md gives no reason", manifest.display());
    }
    for name in table(&read("Cargo.toml"), "workspace.dependencies") {
        assert!(used.contains_key(&name), "nobody uses {name} of the workspace's dependencies");
    }
}

#[test]
fn unsafe_code_is_where_architecture_says() {
    let architecture = read("ARCHITECTURE.md");
    for file in sources().iter().filter(|file| file.file_stem().unwrap() != "tidy") {
        let text = read(&file.to_string_lossy());
        let uses = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        let path = file.to_string_lossy();
        assert!(
            !uses || architecture.contains(&format!("| `{path}` |")),
            "{path} has unsafe code and no entry in the register"
        );
    }
}

/// What a macro call says whose arguments begin at the front: its last text.
fn said_by(arguments: &str) -> String {
    let (mut depth, mut texts) = (1, Vec::new());
    // what is at an odd place stands between quotes
    for (place, piece) in arguments.split('"').enumerate() {
        if place % 2 == 1 {
            texts.push(piece);
            continue;
        }
        for character in piece.chars() {
            depth += i32::from(character == '(') - i32::from(character == ')');
            if depth == 0 {
                // a short one stands between others
                return (*texts.iter().rfind(|text| text.len() > 5).unwrap()).to_owned();
            }
        }
    }
    panic!("{arguments} has no end")
}

#[test]
fn every_error_in_the_log_has_an_entry_in_the_runbook_and_every_entry_its_error() {
    let runbook = read("infra/RUNBOOK.md");
    let (_, entries) = runbook.split_once("## Messages of level ERROR").unwrap();
    let entries = entries.split_once("\n## ").map_or(entries, |(own, _)| own);
    let mut told: Vec<&str> =
        entries.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let mut said: Vec<String> = Vec::new();
    for file in sources().iter().filter(|file| !file.starts_with("tests")) {
        let text = read(&file.to_string_lossy());
        said.extend(text.split("tracing::error!(").skip(1).map(said_by));
    }
    said.sort();
    said.dedup();
    told.sort_unstable();
    assert!(said.len() >= 4, "they are found");
    assert_eq!(said, told, "on the left what is said at level ERROR, on the right what infra/RUNBOOK.md tells of");
}
