//! The command line.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::case::{CASES, Case, Extent};
use crate::dress::{self, Dress};

/// Measures OptimaCore against PostgreSQL itself and against pgbouncer, on this machine, in turns.
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line, not a state")]
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "bench",
    version,
    after_help = "All it needs is started in a temporary directory and removed at the end. The whole takes about 20 minutes, \
                  --quick about 4. benches/README.md says what the figures mean."
)]
pub struct Options {
    /// Two rounds of two seconds, fewer cases, 2000 idle clients.
    #[arg(long)]
    pub quick: bool,
    /// How often each case runs against each peer [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// How long each run lasts [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: Option<u64>,
    /// Only cases with these words in their names, as in "select 16, tpcb"; "none" for none.
    #[arg(long, value_name = "FILTER")]
    pub cases: Option<String>,
    /// Names the cases and ends.
    #[arg(long)]
    pub list: bool,
    /// Idle clients whose memory is measured; 0 for not at all [default: 10000].
    #[arg(long, value_name = "N")]
    pub idle_clients: Option<u32>,
    /// How long idle clients are watched.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub idle_seconds: u64,
    /// The cores OptimaCore uses, as its runtime.cores.
    #[arg(long, value_name = "LIST", default_value = "auto")]
    pub cores: String,
    /// OptimaCore's program [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    pub optimacore: Option<PathBuf>,
    /// pgbouncer's program [default: the one that is installed].
    #[arg(long, value_name = "FILE")]
    pub pgbouncer: Option<PathBuf>,
    /// Prints all that was measured as JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Where the JSON is kept [default: benches/results].
    #[arg(long, value_name = "DIR")]
    pub results: Option<PathBuf>,
}

impl Options {
    /// How often each case runs against each peer.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// How long each run lasts.
    pub fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 2 } else { 3 }))
    }

    /// How many idle clients are wanted.
    pub fn idle_clients(&self) -> u32 {
        self.idle_clients.unwrap_or(if self.quick { 2_000 } else { 10_000 })
    }

    /// The cases that are wanted. One that is named need not be quick.
    pub fn cases(&self) -> anyhow::Result<Vec<Case>> {
        let Some(filter) = &self.cases else {
            return Ok(CASES.iter().filter(|case| !self.quick || case.extent == Extent::Quick).copied().collect());
        };
        let cases: Vec<Case> = CASES.iter().filter(|case| case.is_meant_by(filter)).copied().collect();
        let is_any = filter == "none" || !cases.is_empty() || !self.dresses().is_empty();
        anyhow::ensure!(is_any, "no case is meant by {filter:?}; --list names them all");
        Ok(cases)
    }

    /// The cases of clients with settings of their own that are wanted.
    pub fn dresses(&self) -> Vec<Dress> {
        if self.cases.as_deref() == Some("none") {
            return Vec::new();
        }
        dress::choose(self.cases.as_deref(), if self.quick { Extent::Quick } else { Extent::Full })
    }

    /// Where results are kept.
    pub fn results(&self) -> PathBuf {
        let beside = || match env::var_os("CARGO_MANIFEST_DIR") {
            Some(dir) => PathBuf::from(dir).join("results"),
            None => PathBuf::from("benches/results"),
        };
        self.results.clone().unwrap_or_else(beside)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn quick_gives_way_to_what_is_said() {
        let options = Options::try_parse_from(["bench", "--quick", "--rounds", "7"]).unwrap();
        assert_eq!((options.rounds(), options.time()), (7, Duration::from_secs(2)));
        assert!(options.cases().unwrap().len() < CASES.len());
    }

    #[test]
    fn a_filter_without_a_case_is_an_error() {
        let cases = |filter| Options::try_parse_from(["bench", "--cases", filter]).unwrap().cases();
        assert!(cases("delete").is_err());
        assert!(cases("none").unwrap().is_empty());
        assert_eq!(cases("prepared 256").unwrap().len(), 1);
        assert!(cases("dress").unwrap().is_empty());
    }
}
