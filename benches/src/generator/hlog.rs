//! A log of histograms that the public tools of HdrHistogram read: log format 1.3, V2 with deflate, values in microseconds.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

/// A file that is written. It is complete after each call.
#[derive(Debug)]
pub(crate) struct Hlog {
    out: BufWriter<File>,
    start_us: u64,
}

impl Hlog {
    /// Makes the file.
    pub(crate) fn create(path: &Path, start_us: u64) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        writeln!(out, "#[Logged by optimacore-bench {}, values in microseconds]", env!("CARGO_PKG_VERSION"))?;
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[StartTime: {} (seconds since epoch)]", seconds(start_us))?;
        writeln!(out, "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"")?;
        out.flush()?;
        Ok(Self { out, start_us })
    }

    /// What was recorded in the time `dt` up to `t`, both in microseconds. A tag has no commas and no spaces.
    pub(crate) fn write(&mut self, tag: &str, (t, dt): (u64, u64), histogram: &Histogram<u64>) -> io::Result<()> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut bytes)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let begin = t.saturating_sub(dt).saturating_sub(self.start_us);
        let max = seconds(histogram.max().saturating_mul(1000));
        writeln!(self.out, "Tag={tag},{},{},{max},{}", seconds(begin), seconds(dt), STANDARD.encode(&bytes))?;
        self.out.flush()
    }
}

/// With three digits behind the point.
fn seconds(us: u64) -> String {
    let ms = us / 1000;
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn the_log_is_read_by_the_readers_of_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.hlog");
        let mut log = Hlog::create(&path, 1_700_000_000_123_000).unwrap();
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).unwrap();
        histogram.record_n(1500, 40).unwrap();
        histogram.record(90_000).unwrap();
        log.write("mix/read/response", (1_700_000_002_123_000, 1_000_000), &histogram).unwrap();
        let text = std::fs::read(&path).unwrap();
        let mut found = 0;
        for entry in IntervalLogIterator::new(&text) {
            match entry.unwrap() {
                LogEntry::Interval(interval) => {
                    found += 1;
                    assert_eq!(interval.tag().unwrap().as_str(), "mix/read/response");
                    assert_eq!(interval.start_timestamp().as_millis(), 1000);
                    assert_eq!(interval.duration().as_millis(), 1000);
                    assert!((interval.max() - 90.0).abs() < 0.1);
                    let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
                    let read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
                    assert_eq!(read, histogram);
                }
                LogEntry::StartTime(time) => assert_eq!(time.as_millis(), 1_700_000_000_123),
                LogEntry::BaseTime(_) => {}
            }
        }
        assert_eq!(found, 1);
    }
}
