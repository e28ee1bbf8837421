//! Conditions that `ctl stats --until` waits for: `pool.waiting==0`, `optimacore_pool_clients{state="waiting"} < 5`.

use std::fmt;
use std::str::FromStr;

use serde_json::Value as Json;
use stats::Snapshot;
use stats::metric::{METRICS, Metric, Value, View};

/// Comparisons joined by `&&`.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    of: Figure,
    comparison: Comparison,
    bound: f64,
}

/// What is compared.
#[derive(Clone, Debug)]
enum Figure {
    /// A metric, all its series with these labels added up.
    Metric(&'static Metric, Vec<(usize, String)>),
    /// A field of what `-o json` prints, by where it is.
    Field(Whole, Vec<String>),
}

/// What fields are of.
#[derive(Clone, Copy, Debug)]
enum Whole {
    /// All pools together.
    Pool,
    /// All shards together.
    Shard,
    Process,
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Equal,
    Unequal,
    AtMost,
    AtLeast,
    Less,
    More,
}

/// The longer first: `<=` begins with `<`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

impl Condition {
    /// Whether it holds.
    pub(crate) fn holds(&self, snapshot: &Snapshot) -> bool {
        self.terms.iter().all(|term| term.comparison.holds(term.of.value(snapshot).unwrap_or_default(), term.bound))
    }

    /// The figures as they are.
    pub(crate) fn figures(&self, snapshot: &Snapshot) -> String {
        let values = self.terms.iter().map(|term| term.of.value(snapshot).unwrap_or_default().to_string());
        values.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let terms = text.split("&&").map(term).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), terms })
    }
}

fn term(text: &str) -> Result<Term, String> {
    // a value in quotes may hold anything
    let after = text.find('}').unwrap_or_default();
    let found = COMPARISONS.iter().filter_map(|(sign, comparison)| {
        let at = text.get(after..)?.find(sign)? + after;
        Some((at, std::cmp::Reverse(sign.len()), *sign, *comparison))
    });
    let (at, _, sign, comparison) = found
        .min_by_key(|(at, len, ..)| (*at, *len))
        .ok_or_else(|| format!("\"{}\" compares nothing; as in pool.waiting==0", text.trim()))?;
    let (name, bound) =
        (text.get(..at).unwrap_or_default().trim(), text.get(at + sign.len()..).unwrap_or_default().trim());
    let number = bound.parse::<f64>().ok().filter(|number| number.is_finite());
    let bound = number.ok_or_else(|| format!("\"{bound}\" is no number"))?;
    Ok(Term { of: Figure::named(name)?, comparison, bound })
}

impl Comparison {
    #[expect(clippy::float_cmp, reason = "figures are whole numbers mostly, and who compares others says so")]
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Equal => value == bound,
            Self::Unequal => value != bound,
            Self::AtMost => value <= bound,
            Self::AtLeast => value >= bound,
            Self::Less => value < bound,
            Self::More => value > bound,
        }
    }
}

impl Figure {
    fn named(name: &str) -> Result<Self, String> {
        if name.starts_with("optimacore_") {
            return metric_named(name);
        }
        let (whole, path) = name.split_once('.').unwrap_or((name, ""));
        let whole = match whole {
            "pool" => Whole::Pool,
            "shard" => Whole::Shard,
            "process" => Whole::Process,
            "host" => Whole::Host,
            _ => {
                return Err(format!(
                    "there is no \"{name}\": a metric's name, or a field of pool, shard, process or host"
                ));
            }
        };
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let json = whole.json(&Snapshot::default());
        // as people say it
        let (first, rest) = path.split_first().ok_or("a field is missing")?;
        let choices = [first.clone(), format!("clients_{first}"), format!("servers_{first}")];
        for choice in choices {
            let path: Vec<String> = std::iter::once(choice).chain(rest.iter().cloned()).collect();
            match field(&json, &path) {
                Some(Json::Number(_) | Json::Null) => return Ok(Self::Field(whole, path)),
                Some(Json::Bool(_) | Json::String(_) | Json::Array(_) | Json::Object(_)) | None => {}
            }
        }
        Err(format!("there is no number \"{name}\"; `ctl stats -o json` shows what there is"))
    }

    fn value(&self, snapshot: &Snapshot) -> Option<f64> {
        match self {
            Self::Metric(metric, wanted) => {
                let mut sum = 0.0;
                View::new(snapshot).visit(metric, &mut |labels, value| {
                    if wanted.iter().all(|(index, label)| labels.get(*index) == Some(&label.as_str())) {
                        sum += number(value);
                    }
                });
                Some(sum)
            }
            Self::Field(whole, path) => field(&whole.json(snapshot), path)?.as_f64(),
        }
    }
}

/// As in `optimacore_pool_clients{state="waiting",user="ann"}`.
fn metric_named(text: &str) -> Result<Figure, String> {
    let (name, labels) = text.split_once('{').unwrap_or((text, ""));
    let metric = METRICS
        .iter()
        .find(|metric| metric.name == name.trim())
        .ok_or_else(|| format!("there is no metric \"{name}\"; core/METRICS.md lists them"))?;
    let labels = labels.trim_end().trim_end_matches('}');
    let wanted = labels.split(',').filter(|label| !label.trim().is_empty()).map(|label| {
        let (name, value) = label.split_once('=').ok_or_else(|| format!("\"{label}\" is no label and value"))?;
        let index = metric.labels.iter().position(|own| *own == name.trim());
        let index = index.ok_or_else(|| format!("{} has no label \"{}\"", metric.name, name.trim()))?;
        Ok((index, value.trim().trim_matches('"').to_owned()))
    });
    Ok(Figure::Metric(metric, wanted.collect::<Result<_, String>>()?))
}

impl Whole {
    fn json(self, snapshot: &Snapshot) -> Json {
        let json = match self {
            Self::Pool => {
                let mut pools = snapshot.pools.iter();
                let mut all = pools.next().cloned().unwrap_or_default();
                pools.for_each(|pool| all.add(pool));
                serde_json::to_value(all)
            }
            Self::Shard => serde_json::to_value(snapshot.shards_total()),
            Self::Process => serde_json::to_value(&snapshot.process),
            Self::Host => serde_json::to_value(&snapshot.host),
        };
        // fails for nothing that is in them
        json.unwrap_or_default()
    }
}

fn field<'j>(json: &'j Json, path: &[String]) -> Option<&'j Json> {
    path.iter().try_fold(json, |json, name| json.get(name))
}

/// Of durations: how many.
#[expect(clippy::cast_precision_loss, reason = "for a comparison")]
fn number(value: Value<'_>) -> f64 {
    match value {
        Value::Count(count) => count as f64,
        Value::Micros(us) => us as f64 / 1e6,
        Value::Real(value) => value,
        Value::Hist(hist) => hist.count() as f64,
        Value::Sketch(sketch) => sketch.count() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stats::PoolStats;

    fn snapshot() -> Snapshot {
        let pool = |user: &str, waiting| {
            let mut pool = PoolStats { user: user.into(), ..PoolStats::default() };
            pool.clients_waiting = waiting;
            pool.servers_idle = 4;
            (1..=100).for_each(|us| pool.server_time.record_us(us * 100));
            pool
        };
        Snapshot { pools: vec![pool("ann", 2), pool("bob", 3)], ..Snapshot::default() }
    }

    fn holds(text: &str) -> bool {
        text.parse::<Condition>().unwrap_or_else(|error| panic!("{text}: {error}")).holds(&snapshot())
    }

    #[test]
    fn figures_are_compared_as_they_are_called() {
        for text in [
            "pool.waiting==5",
            "pool.clients_waiting >= 5 && pool.idle==8",
            "pool.server_time.p99_us<10000",
            "shard.clients != 1",
            "optimacore_pool_clients{state=\"waiting\"} == 5",
            "optimacore_pool_clients{state=waiting,user=ann}<=2",
            "optimacore_request_seconds{phase=server}>199",
            "host.cpus<1",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["pool.waiting==0", "pool.waiting<5", "pool.idle>8", "pool.waiting==5&&pool.idle==0"] {
            assert!(!holds(text), "{text}");
        }
        let condition: Condition = "pool.waiting==0 && pool.idle==1".parse().unwrap();
        assert_eq!(condition.figures(&snapshot()), "5, 8");
    }

    #[test]
    fn what_is_no_condition_is_told_apart() {
        for (text, part) in [
            ("", "compares nothing"),
            ("pool.waiting", "compares nothing"),
            ("pool.waiting==x", "\"x\" is no number"),
            ("pool.waiting==NaN", "is no number"),
            ("pool.nonsense==1", "there is no number"),
            ("pool==1", "there is no number"),
            ("pool.database==1", "there is no number"),
            ("moon.phase==1", "a field of pool"),
            ("optimacore_nonsense==1", "there is no metric"),
            ("optimacore_pool_clients{moon=1}==1", "has no label \"moon\""),
        ] {
            let error = text.parse::<Condition>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
