//! What is told of what is measured, and where.

use std::path::PathBuf;
use std::time::Duration;

/// `[stats]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// The Unix socket that gives out statistics. Default: none.
    pub socket: Option<PathBuf>,
    /// Statements that each shard counts singly; none if 0. Default 500.
    pub statements: u32,
    /// The directory that what is measured is written into. Default: none.
    pub export_dir: Option<PathBuf>,
    /// How often. Default 1s.
    pub export_interval: Duration,
    /// Bytes of the files there that are no longer written. Default 1 GiB.
    pub export_size_max: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            socket: None,
            statements: 500,
            export_dir: None,
            export_interval: Duration::from_secs(1),
            export_size_max: 1 << 30,
        }
    }
}
