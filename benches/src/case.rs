//! What is measured: the cases, as data, and the peers they run against.

use serde::Serialize;

/// Whom the load goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// PostgreSQL itself.
    Direct,
    /// pgbouncer, transaction mode.
    Pgbouncer,
    /// OptimaCore as it comes.
    Optimacore,
    /// OptimaCore with `share = "off"`: a transaction has its server connection for itself.
    OptimacoreUnshared,
}

impl Peer {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Pgbouncer, Self::Optimacore, Self::OptimacoreUnshared];

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pgbouncer => "pgbouncer",
            Self::Optimacore => "optimacore",
            Self::OptimacoreUnshared => "optimacore, share off",
        }
    }
}

/// pgbench's built-in scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Script {
    /// `-S`: one SELECT by key.
    Select,
    /// `-N`: a transaction of five statements whose rows do not collide.
    Update,
    /// TPC-B-like: a transaction of seven messages, with rows that everyone wants.
    Tpcb,
}

impl Script {
    /// Whether it writes.
    pub fn is_writing(self) -> bool {
        self != Self::Select
    }
}

/// How pgbench sends its statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As text, in Query messages.
    Simple,
    /// Prepared once, then bound and executed.
    Prepared,
}

/// What carries the messages, between pgbench and the proxy and between the proxy and PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// TCP as it is.
    Plain,
    /// TLS on both sides.
    Tls,
}

/// When a case is part of a bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always.
    Quick,
    /// Not with `--quick`.
    Full,
}

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// What is run.
    pub script: Script,
    /// How it is sent.
    pub mode: Mode,
    /// How many clients run it at once.
    pub clients: u32,
    /// What carries it.
    pub carrier: Carrier,
    /// When it is part.
    #[serde(skip)]
    pub extent: Extent,
}

/// All cases, in the order they run in.
pub const CASES: [Case; 17] = [
    case(Script::Select, Mode::Simple, 1, Extent::Quick),
    case(Script::Select, Mode::Simple, 4, Extent::Full),
    case(Script::Select, Mode::Simple, 16, Extent::Quick),
    case(Script::Select, Mode::Simple, 64, Extent::Quick),
    case(Script::Select, Mode::Simple, 256, Extent::Full),
    case(Script::Select, Mode::Prepared, 1, Extent::Quick),
    case(Script::Select, Mode::Prepared, 4, Extent::Full),
    case(Script::Select, Mode::Prepared, 16, Extent::Full),
    case(Script::Select, Mode::Prepared, 64, Extent::Quick),
    case(Script::Select, Mode::Prepared, 256, Extent::Full),
    case(Script::Update, Mode::Simple, 16, Extent::Quick),
    case(Script::Update, Mode::Simple, 64, Extent::Full),
    case(Script::Tpcb, Mode::Simple, 16, Extent::Quick),
    case(Script::Tpcb, Mode::Simple, 64, Extent::Full),
    tls(case(Script::Select, Mode::Simple, 16, Extent::Full)),
    tls(case(Script::Select, Mode::Simple, 64, Extent::Quick)),
    tls(case(Script::Update, Mode::Simple, 16, Extent::Full)),
];

const fn case(script: Script, mode: Mode, clients: u32, extent: Extent) -> Case {
    Case { script, mode, clients, carrier: Carrier::Plain, extent }
}

const fn tls(case: Case) -> Case {
    Case { carrier: Carrier::Tls, ..case }
}

impl Case {
    /// Its name, as in `select-prepared-64`.
    pub fn name(&self) -> String {
        let script = match self.script {
            Script::Select => "select",
            Script::Update => "update",
            Script::Tpcb => "tpcb",
        };
        let mode = match self.mode {
            Mode::Simple => "simple",
            Mode::Prepared => "prepared",
        };
        let carrier = match self.carrier {
            Carrier::Plain => "",
            Carrier::Tls => "-tls",
        };
        format!("{script}-{mode}-{}{carrier}", self.clients)
    }

    /// The least ratio to pgbouncer's throughput that OptimaCore must reach; `None` where nothing is promised.
    pub fn least_to_pgbouncer(&self) -> Option<f64> {
        match (self.carrier, self.script) {
            (Carrier::Tls, Script::Select) => Some(1.3),
            (Carrier::Plain, Script::Update | Script::Tpcb) => Some(1.0),
            (Carrier::Tls, Script::Update | Script::Tpcb) | (Carrier::Plain, Script::Select) => None,
        }
    }

    /// Whether every transaction is timed by itself: only where that does not change what is measured.
    pub fn is_timed_singly(&self) -> bool {
        self.clients == 1
    }

    /// Whether a filter means this case.
    pub fn is_meant_by(&self, filter: &str) -> bool {
        is_meant(&self.name(), filter)
    }

    /// What pgbench must be told of it.
    pub fn arguments(&self) -> Vec<String> {
        let mut out: Vec<String> = match self.script {
            Script::Select => vec!["-S".into()],
            Script::Update => vec!["-N".into()],
            Script::Tpcb => vec!["-b".into(), "tpcb-like".into()],
        };
        let mode = match self.mode {
            Mode::Simple => "simple",
            Mode::Prepared => "prepared",
        };
        let jobs = self.clients.clamp(1, 2).to_string();
        out.extend(["-M", mode, "-c", &self.clients.to_string(), "-j", &jobs].map(str::to_owned));
        out
    }
}

/// Whether a filter means something of this name: alternatives between commas, each of words between spaces or dashes that
/// must all be words of the name.
pub(crate) fn is_meant(name: &str, filter: &str) -> bool {
    let is_word = |word: &str| name.split('-').any(|own| own == word);
    filter.split(',').any(|one| {
        let mut words = one.split([' ', '-']).filter(|word| !word.is_empty()).peekable();
        words.peek().is_some() && words.all(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(filter: &str) -> Vec<String> {
        CASES.iter().filter(|case| case.is_meant_by(filter)).map(Case::name).collect()
    }

    #[test]
    fn a_filter_takes_whole_words() {
        assert_eq!(meant("1"), ["select-simple-1", "select-prepared-1"]);
        assert_eq!(meant("select-prepared-16, tpcb 64"), ["select-prepared-16", "tpcb-simple-64"]);
        assert_eq!(meant("update"), ["update-simple-16", "update-simple-64", "update-simple-16-tls"]);
        assert_eq!(meant("64 tls"), ["select-simple-64-tls"]);
        assert!(meant("").is_empty() && meant("x").is_empty());
    }

    #[test]
    fn one_client_has_one_thread() {
        let arguments = case(Script::Select, Mode::Prepared, 1, Extent::Full).arguments();
        assert_eq!(arguments, ["-S", "-M", "prepared", "-c", "1", "-j", "1"]);
    }
}
