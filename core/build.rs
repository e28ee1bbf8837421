//! Puts the dashboard into the program: every file of `dashboard/dist`, as it is and compressed, with a table of them.
//!
//! Where nobody has built the dashboard there is nothing to put in, and the endpoint shows a page that says so.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// How browsers are told what a file is.
const KINDS: [(&str, &str); 14] = [
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("ico", "image/x-icon"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("webmanifest", "application/manifest+json"),
    ("woff2", "font/woff2"),
    ("ttf", "font/ttf"),
    ("wasm", "application/wasm"),
    ("txt", "text/plain; charset=utf-8"),
];

fn main() -> io::Result<()> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(name));
    let (own, out) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
    let dist = own.join("../dashboard/dist");
    // cargo would run this at every build for a directory that is not there, and notice nothing for one that it was not told of
    let watched = fs::create_dir_all(&dist).is_ok();
    let mut paths = Vec::new();
    if dist.join("index.html").is_file() {
        collect(&dist, &mut paths)?;
    }
    paths.sort();
    let mut table = String::from("&[\n");
    for (number, path) in paths.iter().enumerate() {
        let name = path.strip_prefix(&dist).map_err(io::Error::other)?;
        let entry = embed(&fs::read(path)?, &name.to_string_lossy(), &out.join(number.to_string()))?;
        table.push_str(&entry);
    }
    table.push_str("]\n");
    fs::write(out.join("assets.rs"), table)?;
    let mut cargo = io::stdout().lock();
    writeln!(cargo, "cargo:rerun-if-changed=build.rs")?;
    if watched {
        writeln!(cargo, "cargo:rerun-if-changed={}", dist.display())?;
    }
    Ok(())
}

/// All files below a directory.
fn collect(dir: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, out)?;
        } else {
            out.push(path);
        }
    }
    Ok(())
}

/// Writes a file beside its compressed forms; gives its entry of the table.
fn embed(bytes: &[u8], name: &str, to: &Path) -> io::Result<String> {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    let kind = KINDS.iter().find(|(known, _)| *known == ending).map_or("application/octet-stream", |(_, kind)| kind);
    let mut tag = String::new();
    for byte in Sha256::digest(bytes) {
        // writing to a String cannot fail
        let _ = write!(tag, "{byte:02x}");
    }
    let include = |ending: &str, content: &[u8]| -> io::Result<String> {
        let path = to.with_extension(ending);
        fs::write(&path, content)?;
        Ok(format!("include_bytes!({:?})", path.display().to_string()))
    };
    let smaller = |ending: &str, content: Vec<u8>| -> io::Result<String> {
        if content.len() >= bytes.len() {
            return Ok("None".to_owned());
        }
        Ok(format!("Some({})", include(ending, &content)?))
    };
    let plain = include("plain", bytes)?;
    let (brotli, gzip) = (smaller("br", brotli(bytes)?)?, smaller("gz", gzip(bytes)?)?);
    let is_hashed = is_hashed(name);
    Ok(format!(
        "    Asset {{ path: {:?}, kind: {kind:?}, tag: {tag:?}, is_hashed: {is_hashed}, plain: {plain}, brotli: {brotli}, gzip: {gzip} }},\n",
        format!("/{name}"),
    ))
}

/// Whether the name changes with what is in the file, as in `assets/index-DxQ7aZ3c.js`.
fn is_hashed(name: &str) -> bool {
    let stem = name.strip_prefix("assets/").and_then(|name| name.split_once('.')).map_or("", |(stem, _)| stem);
    let Some(start) = stem.len().checked_sub(9) else { return false };
    let (hyphen, hash) =
        stem.split_at_checked(start).map_or(("", ""), |(_, end)| end.split_at_checked(1).unwrap_or(("", "")));
    hyphen == "-" && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn brotli(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = brotli::CompressorWriter::new(&mut out, 64 * 1024, 9, 22);
    writer.write_all(bytes)?;
    writer.flush()?;
    drop(writer);
    Ok(out)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    writer.finish()
}
