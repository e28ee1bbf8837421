//! What a load has shown, for `run.json`, for `--json`, and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::generator::assignment::Assignment;
use crate::generator::measure::{Ending, Measurement, Outcome};
use crate::generator::sample::Latencies;
use crate::generator::schedule::Pace;

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    pub(crate) fn of(latencies: &Latencies) -> Self {
        Self {
            count: latencies.0.len(),
            mean: latencies.0.mean() / 1e3,
            p50: latencies.ms(0.5),
            p90: latencies.ms(0.9),
            p95: latencies.ms(0.95),
            p99: latencies.ms(0.99),
            p999: latencies.ms(0.999),
            max: latencies.0.max() as f64 / 1e3,
        }
    }
}

/// How a load was made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) scenario: String,
    pub(crate) description: String,
    pub(crate) target: String,
    /// `open` or `closed`.
    #[serde(rename = "loop")]
    pub(crate) loop_kind: &'static str,
    /// What was asked for, one after the other.
    pub(crate) rates: Vec<f64>,
    pub(crate) arrivals: Option<crate::generator::schedule::Law>,
    pub(crate) think_ms: f64,
    pub(crate) clients: u32,
    pub(crate) idle: u32,
    pub(crate) depth: u32,
    pub(crate) reconnect_after: u32,
    pub(crate) queue: usize,
    pub(crate) cores: Vec<u16>,
    pub(crate) warm_up_s: f64,
    pub(crate) seed: u64,
}

/// One operation.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OperationResults {
    pub(crate) name: String,
    pub(crate) completed: u64,
    pub(crate) response_ms: Percentiles,
    pub(crate) service_ms: Percentiles,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) interrupted: bool,
    pub(crate) seconds: f64,
    pub(crate) offered: u64,
    pub(crate) sent: u64,
    pub(crate) completed: u64,
    pub(crate) unsent: u64,
    pub(crate) failed: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) error_texts: BTreeMap<String, String>,
    pub(crate) offered_per_second: f64,
    pub(crate) achieved_per_second: f64,
    pub(crate) response_ms: Percentiles,
    pub(crate) service_ms: Percentiles,
    pub(crate) wait_ms: Percentiles,
    pub(crate) connect_ms: Percentiles,
    pub(crate) operations: Vec<OperationResults>,
}

impl Setup {
    pub(crate) fn of(measurement: &Measurement, rates: &[f64]) -> Self {
        let Assignment { scenario, target, pace, .. } = &measurement.assignment;
        let (loop_kind, arrivals, think) = match pace {
            Pace::Open { law, .. } => ("open", Some(*law), Duration::ZERO),
            Pace::Closed { think } => ("closed", None, *think),
        };
        Self {
            scenario: scenario.name.clone(),
            description: scenario.description.clone(),
            target: target.shown.clone(),
            loop_kind,
            rates: rates.to_vec(),
            arrivals,
            think_ms: think.as_secs_f64() * 1e3,
            clients: measurement.assignment.clients,
            idle: measurement.assignment.idle,
            depth: measurement.assignment.depth,
            reconnect_after: measurement.assignment.reconnect_after,
            queue: measurement.assignment.queue_max,
            cores: measurement.cores.iter().map(|core| core.0).collect(),
            warm_up_s: measurement.warm_up.as_secs_f64(),
            seed: measurement.assignment.seed,
        }
    }
}

impl Results {
    pub(crate) fn of(outcome: &Outcome, assignment: &Assignment) -> Self {
        let total = &outcome.total;
        let seconds = outcome.time.as_secs_f64().max(1e-9);
        let mut wait = Latencies::new();
        for operation in &total.operations {
            wait.add(&operation.wait);
        }
        let operations = assignment.scenario.operations.iter().zip(&total.operations);
        Self {
            interrupted: outcome.ending == Ending::Interrupted,
            seconds,
            offered: total.offered,
            sent: total.sent,
            completed: total.completed(),
            unsent: total.unsent,
            failed: total.failed(),
            errors: total.errors.clone(),
            error_texts: total.texts.clone(),
            offered_per_second: total.offered as f64 / seconds,
            achieved_per_second: outcome.completed_in_time as f64 / seconds,
            response_ms: Percentiles::of(&total.response()),
            service_ms: Percentiles::of(&total.service()),
            wait_ms: Percentiles::of(&wait),
            connect_ms: Percentiles::of(&total.connect),
            operations: operations
                .map(|(operation, counted)| OperationResults {
                    name: operation.name.clone(),
                    completed: counted.completed,
                    response_ms: Percentiles::of(&counted.response),
                    service_ms: Percentiles::of(&counted.service),
                })
                .collect(),
        }
    }

    /// Whether a reply was not what it had to be.
    pub(crate) fn is_wrong(&self) -> bool {
        self.errors.contains_key("wrong")
    }

    /// For people.
    pub(crate) fn table(&self, setup: &Setup) -> String {
        let mut out = String::new();
        let asked = match setup.rates.as_slice() {
            [] => format!("closed loop, think time {} ms", setup.think_ms),
            rates => {
                let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
                format!("open loop, {}/s", rates.join(", "))
            }
        };
        // a string takes everything
        let _written: std::fmt::Result = writeln!(
            out,
            "{} against {}: {asked}, {} clients, {:.1} s{}",
            setup.scenario,
            setup.target,
            setup.clients,
            self.seconds,
            if self.interrupted { ", interrupted" } else { "" },
        );
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header(["response, ms", "completed", "/s", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"]);
        let row = |name: &str, percentiles: &Percentiles| {
            let Percentiles { count, mean, p50, p90, p95, p99, p999, max } = *percentiles;
            let per_second = count as f64 / self.seconds;
            let mut row = vec![name.to_owned(), count.to_string(), format!("{per_second:.0}")];
            row.extend([mean, p50, p90, p95, p99, p999, max].map(|ms| format!("{ms:.3}")));
            row
        };
        if let [_, _, ..] = self.operations.as_slice() {
            for operation in &self.operations {
                table.add_row(row(&operation.name, &operation.response_ms));
            }
        }
        table.add_row(row("all", &self.response_ms));
        table.add_row(row("service only", &self.service_ms));
        table.add_row(row("wait only", &self.wait_ms));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let _written: std::fmt::Result = writeln!(
            out,
            "{table}\noffered {} ({:.1}/s), completed {} ({:.1}/s in time), failed {}, not sent in time {}",
            self.offered, self.offered_per_second, self.completed, self.achieved_per_second, self.failed, self.unsent,
        );
        for (class, count) in &self.errors {
            let text = self.error_texts.get(class).map_or("", String::as_str);
            let _written: std::fmt::Result = writeln!(out, "  {class}: {count}, the first: {text}");
        }
        out
    }
}
