//! What clients have set before they begin: cases in which sessions differ from each other, as data.

use anyhow::ensure;
use serde::Serialize;

use crate::case::{Extent, Peer, is_meant};
use crate::wire::Client;

/// How many clients there are in each of these cases.
pub const CLIENTS: u32 = 64;
/// Who is measured. pgbouncer is not: in transaction mode it mixes up what clients have set, so it does another work.
pub const PEERS: [Peer; 3] = [Peer::Direct, Peer::Optimacore, Peer::OptimacoreUnshared];

/// What each client has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dress {
    /// Nothing: what the others are compared with.
    None,
    /// One of four sets of settings.
    Four,
    /// An `application_name` and a `TimeZone` of its own.
    Zone,
    /// A `search_path` of its own, so that PostgreSQL plans anew whenever a connection changes hands.
    Path,
}

impl Dress {
    /// All, in the order of the table.
    pub const ALL: [Self; 4] = [Self::None, Self::Four, Self::Zone, Self::Path];

    /// Its name, as in `dress-four-64`.
    pub fn name(self) -> String {
        let word = match self {
            Self::None => "none",
            Self::Four => "four",
            Self::Zone => "zone",
            Self::Path => "path",
        };
        format!("dress-{word}-{CLIENTS}")
    }

    /// When it is part of a bench.
    pub fn extent(self) -> Extent {
        match self {
            Self::None | Self::Four => Extent::Quick,
            Self::Zone | Self::Path => Extent::Full,
        }
    }

    /// The least ratio to [`Dress::None`]'s throughput that OptimaCore must reach.
    pub fn least_to_none(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Four => Some(0.9),
            Self::Zone => Some(0.6),
            Self::Path => Some(0.35),
        }
    }

    /// Names and values that a client sets.
    fn settings(self, client: u32) -> Vec<(&'static str, String)> {
        let set = client % 4;
        match self {
            Self::None => Vec::new(),
            Self::Four => vec![
                ("application_name", format!("service {set}")),
                ("TimeZone", format!("Etc/GMT-{set}")),
                ("extra_float_digits", format!("{set}")),
                ("work_mem", format!("{}kB", 5000 + set)),
            ],
            Self::Zone => vec![
                ("application_name", format!("client {client}")),
                ("TimeZone", format!("<+00{client:02}>-00:{:02}", client % 60)),
            ],
            Self::Path => vec![("search_path", format!("{}, public", schema(client)))],
        }
    }

    /// Dresses a client.
    pub(crate) fn put_on(self, client: &mut Client, index: u32) -> anyhow::Result<()> {
        for (name, value) in self.settings(index) {
            let value = if name == "search_path" { value } else { format!("'{value}'") };
            client.query(&format!("SET {name} = {value}"))?;
        }
        Ok(())
    }

    /// An error if a client does not have what it has set.
    pub(crate) fn check(self, client: &mut Client, index: u32) -> anyhow::Result<()> {
        for (name, value) in self.settings(index) {
            let seen = client.query_value(&format!("SHOW {name}"))?.unwrap_or_default();
            ensure!(seen == value, "client {index} has set {name} to {value} and was found with {seen}");
        }
        Ok(())
    }
}

/// The schema that a client's `search_path` begins with.
pub(crate) fn schema(client: u32) -> String {
    format!("own_{client}")
}

/// The cases that are wanted; the one they are compared with is never missing.
pub(crate) fn choose(filter: Option<&str>, extent: Extent) -> Vec<Dress> {
    let is_wanted = |dress: &Dress| match filter {
        Some(filter) => is_meant(&dress.name(), filter),
        None => extent == Extent::Full || dress.extent() == Extent::Quick,
    };
    let mut out: Vec<Dress> = Dress::ALL.into_iter().filter(is_wanted).collect();
    if !out.is_empty() && !out.contains(&Dress::None) {
        out.insert(0, Dress::None);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_clients_have_the_same_zone_or_path() {
        for dress in [Dress::Zone, Dress::Path] {
            let mut all: Vec<_> = (0..CLIENTS).map(|client| dress.settings(client)).collect();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), usize::try_from(CLIENTS).unwrap(), "{dress:?}");
        }
        let four: std::collections::BTreeSet<_> = (0..CLIENTS).map(|client| Dress::Four.settings(client)).collect();
        assert_eq!(four.len(), 4);
    }

    #[test]
    fn what_is_compared_with_is_never_missing() {
        assert_eq!(choose(Some("dress path"), Extent::Full), [Dress::None, Dress::Path]);
        assert_eq!(choose(None, Extent::Quick), [Dress::None, Dress::Four]);
        assert_eq!(choose(None, Extent::Full), Dress::ALL);
        assert_eq!(choose(Some("tpcb"), Extent::Full), []);
    }
}
