//! Which cores there are, and which of them shards are pinned to.

use std::fmt;
use std::path::Path;

/// A CPU of this machine, as the kernel numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CoreId(pub u16);

/// Why cores cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TopologyError {
    /// A core that was asked for is not one this process may run on.
    NotAllowed {
        /// The core.
        core: u16,
        /// Those it may run on.
        allowed: Vec<u16>,
    },
    /// The system did not say which cores there are.
    Unknown,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { core, allowed } => write!(
                f,
                "core {core} is not one this process may run on (it may use {allowed:?}); change runtime.cores or the cpuset"
            ),
            Self::Unknown => f.write_str("the system does not say which cores this process may run on"),
        }
    }
}

impl std::error::Error for TopologyError {}

/// The cores this process may run on: its affinity, which the kernel keeps inside its cpuset.
#[must_use]
pub fn allowed() -> Vec<CoreId> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().filter_map(|core| u16::try_from(core.id).ok()).map(CoreId).collect()
}

/// The cores to pin to: those asked for, or all that are allowed.
///
/// # Errors
/// When one that was asked for is not allowed, or none is known.
pub fn pick(requested: Option<&[u16]>) -> Result<Vec<CoreId>, TopologyError> {
    let allowed = allowed();
    if allowed.is_empty() {
        return Err(TopologyError::Unknown);
    }
    let Some(requested) = requested else {
        return Ok(allowed);
    };
    if let Some(core) = requested.iter().find(|core| !allowed.contains(&CoreId(**core))) {
        return Err(TopologyError::NotAllowed { core: *core, allowed: allowed.iter().map(|core| core.0).collect() });
    }
    Ok(requested.iter().copied().map(CoreId).collect())
}

/// Where a core is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The core.
    pub core: CoreId,
    /// Cores that share its execution units (SMT), itself among them.
    pub siblings: Vec<CoreId>,
    /// Its NUMA node; 0 where the machine has one.
    pub node: u16,
}

/// Where a core is, as the kernel tells in `/sys/devices/system/cpu`; alone on node 0 where it does not.
#[must_use]
pub fn placement(core: CoreId) -> Placement {
    read_placement(Path::new("/sys/devices/system/cpu"), core)
}

fn read_placement(cpus: &Path, core: CoreId) -> Placement {
    let dir = cpus.join(format!("cpu{}", core.0));
    let list = std::fs::read_to_string(dir.join("topology/thread_siblings_list")).unwrap_or_default();
    let mut siblings = read_list(&list);
    if siblings.is_empty() {
        siblings.push(core);
    }
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let node = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
        .next()
        .unwrap_or_default();
    Placement { core, siblings, node }
}

/// The kernel's lists of cores: `0-3,8`.
fn read_list(text: &str) -> Vec<CoreId> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            out.extend((first..=last).map(CoreId));
        }
    }
    out
}

/// What is worth telling about a choice of cores: pairs that share execution units, more than one NUMA node.
#[must_use]
pub fn remarks(cores: &[CoreId]) -> Vec<String> {
    let places: Vec<Placement> = cores.iter().map(|core| placement(*core)).collect();
    let mut out = Vec::new();
    for place in &places {
        let others: Vec<u16> = place
            .siblings
            .iter()
            .filter(|other| other.0 > place.core.0 && cores.contains(other))
            .map(|o| o.0)
            .collect();
        if !others.is_empty() {
            out.push(format!(
                "core {} shares its execution units with {others:?}; shards on one of them would run better",
                place.core.0
            ));
        }
    }
    let mut nodes: Vec<u16> = places.iter().map(|place| place.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.len() > 1 {
        out.push(format!(
            "the cores are on NUMA nodes {nodes:?}; messages between shards of different nodes take longer"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_and_nodes_are_read_as_the_kernel_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let cpu = dir.path().join("cpu2");
        std::fs::create_dir_all(cpu.join("topology")).unwrap();
        std::fs::create_dir_all(cpu.join("node1")).unwrap();
        std::fs::write(cpu.join("topology/thread_siblings_list"), "2,6-7\n").unwrap();
        let place = read_placement(dir.path(), CoreId(2));
        assert_eq!(place.siblings, [CoreId(2), CoreId(6), CoreId(7)]);
        assert_eq!(place.node, 1);
        let unknown = read_placement(dir.path(), CoreId(9));
        assert_eq!((unknown.siblings, unknown.node), (vec![CoreId(9)], 0));
    }

    #[test]
    fn a_core_that_is_not_there_is_refused_by_name() {
        let all = pick(None).unwrap();
        assert!(!all.is_empty());
        assert_eq!(pick(Some(&[all[0].0])), Ok(vec![all[0]]));
        assert!(matches!(pick(Some(&[60_000])), Err(TopologyError::NotAllowed { core: 60_000, .. })));
    }
}
