//! A snapshot as bytes: rkyv's, checked before they are believed, behind a head of magic, version and length.
//!
//! Whoever connects to the statistics socket is sent one [`frame`], and the connection is closed.

use std::fmt;
use std::io::{self, Read, Write};

use rkyv::rancor;
use rkyv::util::AlignedVec;

use crate::Snapshot;

/// First four bytes of a frame: `OCST`.
pub const MAGIC: u32 = u32::from_be_bytes(*b"OCST");
/// Version of the layout; another program's snapshot of another version is refused.
pub const VERSION: u32 = 4;
/// Longest snapshot that is read: tens of thousands of pools.
const LEN_MAX: u32 = 256 * 1024 * 1024;

/// Why bytes are no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// They do not begin with [`MAGIC`].
    NoMagic,
    /// They are of another version.
    Version(u32),
    /// They end early, are too many, or break the layout.
    Malformed,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMagic => f.write_str("what answers is not the statistics socket of optimacore"),
            Self::Version(version) => {
                write!(f, "statistics are of version {version}, this program reads version {VERSION}")
            }
            Self::Malformed => f.write_str("the statistics are malformed"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// A snapshot's bytes without head.
#[must_use]
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    // fails only when a snapshot is too large for its 32-bit offsets; what is left then is refused by decode
    rkyv::to_bytes::<rancor::Error>(snapshot).map(AlignedVec::into_vec).unwrap_or_default()
}

/// Reads what [`encode`] made.
///
/// # Errors
/// [`DecodeError::Malformed`].
pub fn decode(bytes: &[u8]) -> Result<Snapshot, DecodeError> {
    let mut aligned: AlignedVec = AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    rkyv::from_bytes::<Snapshot, rancor::Error>(&aligned).map_err(|_| DecodeError::Malformed)
}

/// A snapshot with its head: all that is sent.
#[must_use]
pub fn frame(snapshot: &Snapshot) -> Vec<u8> {
    let bytes = encode(snapshot);
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&MAGIC.to_be_bytes()[..], &VERSION.to_be_bytes(), &len.to_be_bytes(), &bytes].concat()
}

/// Sends a snapshot.
///
/// # Errors
/// Those of `to`.
pub fn write(snapshot: &Snapshot, mut to: impl Write) -> io::Result<()> {
    to.write_all(&frame(snapshot))
}

/// Receives a snapshot.
///
/// # Errors
/// Those of `from`; a [`DecodeError`] inside `InvalidData`.
pub fn read(mut from: impl Read) -> io::Result<Snapshot> {
    let mut word = || -> io::Result<u32> {
        let mut word = [0; 4];
        from.read_exact(&mut word)?;
        Ok(u32::from_be_bytes(word))
    };
    let refuse = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
    if word()? != MAGIC {
        return Err(refuse(DecodeError::NoMagic));
    }
    let version = word()?;
    if version != VERSION {
        return Err(refuse(DecodeError::Version(version)));
    }
    let len = word()?;
    if len > LEN_MAX {
        return Err(refuse(DecodeError::Malformed));
    }
    // grows with what arrives, not with what was claimed
    let mut bytes = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if u32::try_from(bytes.len()) != Ok(len) {
        return Err(refuse(DecodeError::Malformed));
    }
    decode(&bytes).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PoolStats, ShardStats, StatementStats};

    fn snapshot() -> Snapshot {
        let mut pool = PoolStats { shard: 1, database: "db".into(), user: "ann".into(), ..PoolStats::default() };
        pool.count_error(b"40001");
        pool.count_pin("LISTEN");
        for us in [1, 900, 70_000, u64::MAX] {
            pool.server_time.record_us(us);
        }
        pool.bytes_to_server = u64::MAX;
        Snapshot {
            version: "1.2.3".into(),
            pid: 42,
            uptime_us: 1,
            taken_unix_us: 2,
            host: crate::machine::HostStats { name: "here".into(), ..Default::default() },
            shards: vec![ShardStats { shard: 1, core: 9, ..ShardStats::default() }],
            pools: vec![pool, PoolStats::default()],
            statements: vec![StatementStats { fingerprint: u64::MAX, calls: 7, ..StatementStats::default() }],
            ..Snapshot::default()
        }
    }

    fn refused(bytes: &[u8]) -> Option<DecodeError> {
        read(bytes).unwrap_err().get_ref().and_then(|error| error.downcast_ref().copied())
    }

    #[test]
    fn what_is_sent_arrives() {
        let mut bytes = Vec::new();
        write(&snapshot(), &mut bytes).unwrap();
        assert_eq!(read(&bytes[..]).unwrap(), snapshot());
        assert_eq!(decode(&encode(&Snapshot::default())), Ok(Snapshot::default()));
    }

    #[test]
    fn bytes_that_lie_anywhere_in_memory_are_read() {
        let bytes = encode(&snapshot());
        for offset in 0..16 {
            let moved = [vec![0; offset], bytes.clone()].concat();
            assert_eq!(decode(&moved[offset..]), Ok(snapshot()));
        }
    }

    #[test]
    fn other_programs_versions_and_lengths_are_refused() {
        let good = frame(&snapshot());
        let with = |at: usize, word: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            bytes
        };
        assert_eq!(refused(&with(0, 0)), Some(DecodeError::NoMagic));
        assert_eq!(refused(&with(4, VERSION + 1)), Some(DecodeError::Version(VERSION + 1)));
        assert_eq!(refused(&with(8, u32::MAX)), Some(DecodeError::Malformed));
        assert_eq!(refused(&with(8, 0)), Some(DecodeError::Malformed));
        assert_eq!(refused(&good[..good.len() - 1]), Some(DecodeError::Malformed));
        assert_eq!(read(&good[..7]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let good = encode(&snapshot());
        for end in 0..good.len() {
            drop(decode(&good[..end]));
        }
        for at in 0..good.len() {
            for bits in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= bits;
                drop(decode(&bad));
            }
        }
        assert_eq!(decode(&[]), Err(DecodeError::Malformed));
    }
}
