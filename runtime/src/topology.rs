//! Which cores there are, and which of them shards are pinned to.

use std::fmt;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_not_there_is_refused_by_name() {
        let all = pick(None).unwrap();
        assert!(!all.is_empty());
        assert_eq!(pick(Some(&[all[0].0])), Ok(vec![all[0]]));
        assert!(matches!(pick(Some(&[60_000])), Err(TopologyError::NotAllowed { core: 60_000, .. })));
    }
}
