//! The table for people, `METRICS.md`, and for the dashboard, `metrics.json`.

use std::fmt::Write as _;

use super::{METRICS, Read};

/// What `core/METRICS.md` must hold.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         Generated from the table in `core/stats/src/metric/table.rs`; a test fails when it is stale\n\
         (`UPDATE_EXPECT=1 cargo test -p optimacore-stats` writes it anew).\n\n\
         The same names stand in `optimacore.prom`, in `ctl stats -o prom`, and in the header of `optimacore-<start>.ndjson`. A counter only\n\
         grows while the process runs. Counts are per shard; add them up over `shard` for the whole. A histogram's series is there from the first\n\
         duration on.\n",
    );
    let mut part = "";
    for metric in METRICS {
        let own = match metric.read {
            Read::Whole(_) if metric.labels.contains(&"user") => "By pool: a database and a user",
            Read::Whole(_) => "The process and its machine",
            Read::Shard(_) => "By shard",
            Read::Pool(_) => "By pool: a database and a user",
            Read::Statement(_) => "By statement",
        };
        if own != part {
            part = own;
            // writing to a String cannot fail
            let _written = write!(
                out,
                "\n## {own}\n\n| Name | Type | Unit | Labels | Meaning | Normal |\n|---|---|---|---|---|---|\n"
            );
        }
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _written = writeln!(
            out,
            "| `{}` | {} | {} | {labels} | {} | {} |",
            metric.name,
            metric.kind.name(),
            metric.unit.name(),
            metric.help,
            metric.normal
        );
    }
    out
}

/// What `dashboard/src/generated/metrics.json` must hold.
#[must_use]
pub fn json() -> String {
    let text = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let metrics: Vec<String> = METRICS
        .iter()
        .map(|metric| {
            let labels = metric.labels.iter().map(|label| text(label)).collect::<Vec<_>>().join(", ");
            format!(
                "    {{\n      \"name\": {},\n      \"type\": \"{}\",\n      \"unit\": \"{}\",\n      \"labels\": [{labels}],\n      \
                 \"help\": {},\n      \"normal\": {}\n    }}",
                text(metric.name),
                metric.kind.name(),
                metric.unit.name(),
                text(metric.help),
                text(metric.normal)
            )
        })
        .collect();
    format!("{{\n  \"schema\": \"optimacore.metrics/1\",\n  \"metrics\": [\n{}\n  ]\n}}\n", metrics.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_md_is_fresh() {
        expect_test::expect_file!["../../../METRICS.md"].assert_eq(&markdown());
    }

    #[test]
    fn what_the_dashboard_knows_is_fresh() {
        serde_json::from_str::<serde_json::Value>(&json()).unwrap();
        expect_test::expect_file!["../../../../dashboard/src/generated/metrics.json"].assert_eq(&json());
    }
}
