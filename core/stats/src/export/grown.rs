//! A file that grows by whole lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use sha2::{Digest as _, Sha256};

use super::named;
use super::paper::Note;
use crate::hist;
use crate::series::Interval;

/// Who may read files with names of users and texts of statements.
const MODE: u32 = 0o640;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Grown {
    name: String,
    file: File,
    len: u64,
    hash: Sha256,
}

impl Grown {
    /// A new file with this head.
    pub(super) fn begin(dir: &Path, name: &str, head: &[u8]) -> io::Result<Self> {
        let path = dir.join(name);
        let opened = OpenOptions::new().append(true).create_new(true).mode(MODE).open(&path);
        let file = opened.map_err(|error| named(name, &error))?;
        let mut new = Self { name: name.to_owned(), file, len: 0, hash: Sha256::new() };
        if let Err(error) = new.append(head) {
            // half a head is worth nothing, and the name is wanted again
            let _removed: io::Result<()> = fs::remove_file(&path);
            return Err(error);
        }
        Ok(new)
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// All of it, or nothing.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines) {
            // if this fails too the last line is not whole, and whoever reads says so
            let _cut: io::Result<()> = self.file.set_len(self.len);
            return Err(named(&self.name, &error));
        }
        self.len += lines.len() as u64;
        self.hash.update(lines);
        Ok(())
    }

    /// What is in it.
    pub(super) fn note(&self) -> Note {
        Note { name: self.name.clone(), bytes: self.len, sha256: hex(self.hash.clone()) }
    }

    /// Puts a packed file in its place.
    pub(super) fn pack(&self, dir: &Path) -> io::Result<Note> {
        let name = format!("{}.gz", self.name);
        let (from, next) = (dir.join(&self.name), dir.join(format!(".{name}.{}", std::process::id())));
        let packed = pack(&from, &next, self.len).and_then(|sums| fs::rename(&next, dir.join(&name)).map(|()| sums));
        match packed {
            Ok((bytes, sha256)) => {
                fs::remove_file(&from).map_err(|error| named(&self.name, &error))?;
                Ok(Note { name, bytes, sha256 })
            }
            Err(error) => {
                let _removed: io::Result<()> = fs::remove_file(&next);
                Err(named(&name, &error))
            }
        }
    }
}

#[cfg(test)]
impl Grown {
    /// From here on another file is in its place.
    pub(super) fn replace_with(&mut self, file: File) {
        self.file = file;
    }
}

/// Counts and sums what goes through.
struct Summing {
    file: File,
    len: u64,
    hash: Sha256,
}

impl Write for Summing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn pack(from: &Path, to: &Path, len: u64) -> io::Result<(u64, String)> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(to)?;
    let mut packer = GzEncoder::new(Summing { file, len: 0, hash: Sha256::new() }, Compression::default());
    io::copy(&mut BufReader::new(File::open(from)?).take(len), &mut packer)?;
    let sums = packer.finish()?;
    sums.file.sync_data()?;
    Ok((sums.len, hex(sums.hash)))
}

/// A whole file, on the disk when this returns.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How an `.hlog` begins.
#[expect(clippy::cast_precision_loss, reason = "told in milliseconds")]
pub(super) fn interval_head(unix_us: u64) -> String {
    format!(
        "#[Histogram log format version 1.3]\n#[Values in microseconds; Tag=database/user/phase]\n#[StartTime: {:.3} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        unix_us as f64 / 1e6
    )
}

/// A line of an `.hlog`; the moments are in microseconds since 1970 began.
pub(super) fn write_interval(out: &mut String, interval: &Interval, (from_us, to_us): (u64, u64)) {
    let Some(histogram) = hist::histogram(&interval.pairs) else { return };
    // a comma would end the tag, a space is not allowed in it
    let tag = [&interval.database, &interval.user, &interval.phase]
        .map(|part| part.replace([',', ' ', '\r', '\n', '/'], "_"));
    let tag = tag.join("/");
    let (mut line, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let written = IntervalLogWriterBuilder::new().begin_log_with(&mut line, &mut serializer).is_ok_and(|mut log| {
        let span = Duration::from_micros(to_us.saturating_sub(from_us));
        log.write_histogram(&histogram, Duration::from_micros(from_us), span, Tag::new(&tag)).is_ok()
    });
    if written {
        out.push_str(&String::from_utf8_lossy(&line));
    }
}
