//! The metrics of a load, and their values in one second.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::generator::assignment::Assignment;
use crate::generator::measure::Tick;

/// What is said of a metric at the head of a series.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
    pub(crate) normal: &'static str,
}

const fn metric(
    (name, kind, unit): (&'static str, &'static str, &'static str),
    labels: &'static [&'static str],
    help: &'static str,
    normal: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help, normal }
}

/// All of them.
pub(crate) const METRICS: [Metric; 16] = [
    metric(
        ("optimacore_bench_offered_total", "counter", "count"),
        &[],
        "Operations that were meant to begin",
        "the rate that was asked for",
    ),
    metric(
        ("optimacore_bench_sent_total", "counter", "count"),
        &[],
        "Operations that began",
        "as many as were offered",
    ),
    metric(
        ("optimacore_bench_completed_total", "counter", "count"),
        &["operation"],
        "Operations whose replies were all right",
        "as many as were offered",
    ),
    metric(
        ("optimacore_bench_errors_total", "counter", "count"),
        &["class"],
        "Operations and connections that failed, by class of SQLSTATE or kind",
        "none",
    ),
    metric(
        ("optimacore_bench_unsent_total", "counter", "count"),
        &[],
        "Operations that could not begin, because too many waited for a connection already",
        "none",
    ),
    metric(
        ("optimacore_bench_seconds", "histogram", "seconds"),
        &["operation", "phase"],
        "Latency of operations: response from when they were meant to begin, service from when they were sent, wait between",
        "wait is next to nothing",
    ),
    metric(
        ("optimacore_bench_connect_seconds", "histogram", "seconds"),
        &[],
        "From the beginning of a connection to its first use",
        "milliseconds",
    ),
    metric(("optimacore_bench_connects_total", "counter", "count"), &[], "Connections made", "none, unless asked for"),
    metric(
        ("optimacore_bench_in_flight", "gauge", "count"),
        &[],
        "Operations sent and not answered",
        "rate times latency",
    ),
    metric(("optimacore_bench_queued", "gauge", "count"), &[], "Operations that wait for a connection", "none"),
    metric(
        ("optimacore_bench_connections", "gauge", "count"),
        &["state"],
        "Open connections: used by operations, or idle",
        "what was asked for",
    ),
    metric(("optimacore_bench_target_rate", "gauge", "count"), &[], "Operations a second that are asked for", ""),
    metric(("optimacore_bench_received_bytes_total", "counter", "bytes"), &[], "Bytes that came from the server", ""),
    metric(
        ("optimacore_process_cpu_seconds_total", "counter", "seconds"),
        &[],
        "CPU time of the load generator",
        "well below a core for each of its threads",
    ),
    metric(
        ("optimacore_host_cpu_busy_ratio", "gauge", "ratio"),
        &[],
        "How busy all cores of the load generator's machine are",
        "below 0.9; above it the load generator itself may be what is slow",
    ),
    metric(("optimacore_host_cpus", "gauge", "count"), &[], "Cores of the load generator's machine", ""),
];

/// A value in one second.
#[derive(Debug)]
pub(crate) struct Point<'t> {
    pub(crate) metric: &'static str,
    /// Values of its labels, in their order.
    pub(crate) labels: Vec<&'t str>,
    pub(crate) value: Reading<'t>,
}

/// What it is.
#[derive(Debug)]
pub(crate) enum Reading<'t> {
    /// What was added.
    Count(u64),
    /// What was added, in seconds.
    Seconds(f64),
    /// As of now.
    Gauge(f64),
    /// What was added, in microseconds.
    Histogram(&'t Histogram<u64>),
}

/// What the machine did in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// The part of all cores' time that was used.
    pub(crate) busy: f64,
    /// CPU time of this process, in seconds.
    pub(crate) own: f64,
}

/// All values of a second.
pub(crate) fn points<'t>(
    tick: &Tick<'t>,
    assignment: &'t Assignment,
    rate: Option<f64>,
    machine: Machine,
) -> Vec<Point<'t>> {
    let sample = tick.sample;
    let plain = |metric, value| Point { metric, labels: Vec::new(), value };
    let gauge = |metric, value: u64| plain(metric, Reading::Gauge(value as f64));
    let mut out = vec![
        plain("optimacore_bench_offered_total", Reading::Count(sample.offered)),
        plain("optimacore_bench_sent_total", Reading::Count(sample.sent)),
        plain("optimacore_bench_unsent_total", Reading::Count(sample.unsent)),
        plain("optimacore_bench_connect_seconds", Reading::Histogram(&sample.connect.0)),
        plain("optimacore_bench_connects_total", Reading::Count(sample.connects)),
        gauge("optimacore_bench_in_flight", sample.level.in_flight),
        gauge("optimacore_bench_queued", sample.level.queued),
        plain("optimacore_bench_received_bytes_total", Reading::Count(sample.received)),
        plain("optimacore_process_cpu_seconds_total", Reading::Seconds(machine.own)),
        plain("optimacore_host_cpu_busy_ratio", Reading::Gauge(machine.busy)),
    ];
    out.extend(rate.map(|rate| plain("optimacore_bench_target_rate", Reading::Gauge(rate))));
    if let Ok(cpus) = std::thread::available_parallelism() {
        out.push(gauge("optimacore_host_cpus", usize::from(cpus) as u64));
    }
    for (state, value) in [("used", sample.level.open), ("idle", sample.level.idle)] {
        let metric = "optimacore_bench_connections";
        out.push(Point { metric, labels: vec![state], value: Reading::Gauge(value as f64) });
    }
    for (class, count) in &sample.errors {
        let metric = "optimacore_bench_errors_total";
        out.push(Point { metric, labels: vec![class.as_str()], value: Reading::Count(*count) });
    }
    for (operation, counted) in assignment.scenario.operations.iter().zip(&sample.operations) {
        let name = operation.name.as_str();
        let value = Reading::Count(counted.completed);
        out.push(Point { metric: "optimacore_bench_completed_total", labels: vec![name], value });
        let phases = [("response", &counted.response), ("service", &counted.service), ("wait", &counted.wait)];
        for (phase, latencies) in phases {
            let value = Reading::Histogram(&latencies.0);
            out.push(Point { metric: "optimacore_bench_seconds", labels: vec![name, phase], value });
        }
    }
    out
}
