//! The report for people.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table, TableComponent};

use crate::case::Peer;
use crate::report::{CaseReport, Report, Spread, Summary};

const NOTHING: &str = "–";

/// All tables, and what belongs to them.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    line(&heading(report));
    if !report.cases.is_empty() {
        line(&cases(report).to_string());
        line("Medians (min..max) of the rounds; ratios are of runs of the same round.");
        line("µs/txn: CPU of the proxy alone. busy %: the whole machine, with pgbench and all else.");
    }
    if !report.dresses.is_empty() {
        line("");
        line(&dresses(report).to_string());
        line(
            "64 clients of our own with prepared SELECTs; × none: the same peer in the same round, nobody having set anything.",
        );
    }
    if !report.idle.is_empty() {
        line("");
        line(&idle(report).to_string());
        line("Growth of anonymous memory in user space for each client, logged in and after one SELECT.");
    }
    for note in &report.notes {
        line(&format!("Note: {note}"));
    }
    out
}

fn heading(report: &Report) -> String {
    let machine = &report.machine;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    format!(
        "{} | {} cores, {} | Linux {} | {} | {} | {} ({})\n{} rounds of {} s, pgbench scale {}, {} server connections each",
        report.started,
        machine.cores,
        or_unknown(&machine.processor),
        or_unknown(&machine.kernel),
        or_unknown(&machine.postgres),
        machine.pgbouncer.as_deref().unwrap_or("no pgbouncer"),
        or_unknown(&machine.optimacore),
        or_unknown(&machine.commit),
        report.settings.rounds,
        report.settings.seconds,
        report.settings.scale,
        report.settings.pool_size,
    )
}

fn cases(report: &Report) -> Table {
    let mut table = new_table(&[
        "case",
        "peer",
        "txn/s",
        "× direct",
        "× pgbouncer",
        "must",
        "mean µs",
        "p50 µs",
        "added p50 µs",
        "µs/txn",
        "busy %",
    ]);
    for case in &report.cases {
        if !table.is_empty() {
            // a line without anything between two cases
            table.add_row([""]);
        }
        let mut name = case.name.as_str();
        for peer in Peer::ALL {
            if let Some(row) = row(case, peer) {
                table.add_row([name, peer.label()].map(str::to_owned).into_iter().chain(row));
                name = "";
            }
        }
    }
    // the first two are words
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What stands behind a case and a peer; `None` for a peer that was not there.
fn row(case: &CaseReport, peer: Peer) -> Option<Vec<String>> {
    let Some(summary) = case.summaries.iter().find(|summary| summary.peer == peer) else {
        case.error(peer)?;
        return Some(vec!["failed".to_owned()]);
    };
    let Summary {
        tps, tps_to_direct, tps_to_pgbouncer, latency_us, cpu_us, machine_percent, p50_us, p50_added_us, ..
    } = summary;
    Some(vec![
        spread(Some(*tps), 0),
        spread(*tps_to_direct, 2),
        spread(*tps_to_pgbouncer, 2),
        least(case.case.least_to_pgbouncer(), peer),
        spread(Some(*latency_us), 0),
        spread(*p50_us, 0),
        spread(*p50_added_us, 0),
        spread(*cpu_us, 1),
        format!("{:.0}", machine_percent.median),
    ])
}

/// Clients with settings of their own.
fn dresses(report: &Report) -> Table {
    let mut table = new_table(&["case", "peer", "txn/s", "× none", "must", "× direct", "µs/txn", "busy %"]);
    for case in &report.dresses {
        let mut name = case.name.as_str();
        for summary in &case.summaries {
            table.add_row([
                std::mem::take(&mut name).to_owned(),
                summary.peer.label().to_owned(),
                spread(Some(summary.tps), 0),
                spread(summary.tps_to_none, 2),
                least(case.dress.least_to_none(), summary.peer),
                spread(summary.tps_to_direct, 2),
                spread(summary.cpu_us, 1),
                format!("{:.0}", summary.machine_percent.median),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What must be reached; by OptimaCore as it comes, and by nobody else.
fn least(least: Option<f64>, peer: Peer) -> String {
    match (least, peer) {
        (Some(least), Peer::Optimacore) => format!("≥ {least}"),
        _ => String::new(),
    }
}

fn idle(report: &Report) -> Table {
    let mut table = new_table(&[
        "idle clients",
        "peer",
        "KiB/client",
        "KiB/client, used",
        "all MiB",
        "CPU % of a core",
        "connects/s",
    ]);
    for figures in &report.idle {
        let clients = f64::from(figures.clients);
        table.add_row([
            figures.clients.to_string(),
            figures.peer.label().to_owned(),
            format!("{:.2}", figures.bytes_per_client / 1024.0),
            format!("{:.2}", figures.bytes_per_used_client / 1024.0),
            format!("{:.1}", figures.memory_used.rss as f64 / 1024.0 / 1024.0),
            format!("{:.2}", figures.cpu_percent),
            format!("{:.0}", clients / figures.connect_seconds),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY);
    // lines between rows make it long, and hard to see which rows belong together
    for component in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(component);
    }
    table.set_header(header.iter().copied());
    table
}

fn spread(spread: Option<Spread>, digits: usize) -> String {
    match spread {
        None => NOTHING.to_owned(),
        Some(Spread { median, min, max }) => {
            let [median, min, max] = [median, min, max].map(|figure| format!("{figure:.digits$}"));
            if min == max { median } else { format!("{median} ({min}..{max})") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_optimacore_must_reach_anything() {
        assert_eq!(least(Some(0.35), Peer::Optimacore), "≥ 0.35");
        assert_eq!(least(Some(0.35), Peer::OptimacoreUnshared), "");
        assert_eq!(least(None, Peer::Optimacore), "");
    }

    #[test]
    fn a_spread_of_one_figure_has_no_brackets() {
        assert_eq!(spread(Spread::of([1.25]), 1), "1.2");
        assert_eq!(spread(Spread::of([1.0, 3.0]), 0), "2 (1..3)");
        assert_eq!(spread(None, 0), NOTHING);
    }
}
