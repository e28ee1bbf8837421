//! What the kernel knows of the process and of the machine it runs on.

use rkyv::{Archive, Deserialize, Serialize};

/// The process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct ProcessStats {
    /// Bytes of memory it occupies.
    pub resident_bytes: u64,
    /// Microseconds of processor time it has used, all threads together.
    pub cpu_us: u64,
    /// Descriptors it has open.
    pub open_fds: u64,
    /// How many it may have open.
    pub max_fds: u64,
}

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct HostStats {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Its processors, as the kernel counts them.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of memory that programs could still have.
    pub memory_available_bytes: u64,
    /// The share of all processors' time that was used lately, in millionths.
    pub cpu_busy_ppm: u32,
    /// The load of the last minute, in hundredths.
    pub load1_hundredths: u32,
}
