//! A curve as tables for people.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::{Curve, Offer, P99_MS_MAX, PeerCurve, Point};

/// All that a person wants to know at once.
pub(super) fn render(curve: &Curve) -> String {
    let mut out = String::new();
    let machine = &curve.machine;
    let facts = [
        format!("{} cores", machine.cores),
        machine.processor.clone().unwrap_or_default(),
        machine.kernel.clone().map(|kernel| format!("Linux {kernel}")).unwrap_or_default(),
        machine.postgres.clone().unwrap_or_default(),
        machine.load_before.map(|load| format!("load before: {load:.2}")).unwrap_or_default(),
    ];
    // a string takes everything
    let _written: std::fmt::Result = writeln!(
        out,
        "{}, {} clients, {} server connections; generator, PostgreSQL and poolers on one machine: {}",
        curve.scenario,
        curve.clients,
        curve.pool_size,
        facts.join(", "),
    );
    for note in &curve.notes {
        let _written: std::fmt::Result = writeln!(out, "note: {note}");
    }
    let saturation = saturation_table(&curve.peers);
    let _written: std::fmt::Result = writeln!(out, "\nSaturation (p99 <= {P99_MS_MAX} ms)\n{saturation}");
    let latency = latency_table(&curve.peers);
    let _written: std::fmt::Result =
        writeln!(out, "\nLatency from the intended time, ms: p50 / p99, medians of {} rounds\n{latency}", curve.rounds);
    if !curve.scorecard.is_empty() {
        let mut table = table(["OptimaCore", "target", "here", ""]);
        for line in &curve.scorecard {
            let verdict = match line.reached {
                Some(true) => "reached",
                Some(false) => "not reached",
                None => "",
            };
            table.add_row([line.what, line.target, &line.figure, verdict]);
        }
        let _written: std::fmt::Result = writeln!(out, "\nTargets, on this machine\n{table}");
    }
    out
}

fn saturation_table(peers: &[PeerCurve]) -> Table {
    let mut table = table(["", "closed loop /s", "saturation /s"]);
    for peer in peers {
        let figures = [peer.closed_per_second, peer.saturation_per_second].map(|rate| format!("{rate:.0}"));
        let [closed, saturation] = figures;
        table.add_row([peer.name.clone(), closed, saturation]);
    }
    table
}

fn latency_table(peers: &[PeerCurve]) -> Table {
    let mut head = vec!["%".to_owned(), "offered /s".to_owned()];
    head.extend(peers.iter().map(|peer| peer.name.clone()));
    let mut table = table(head);
    for (number, first) in peers.first().map(|peer| &peer.points).into_iter().flatten().enumerate() {
        let mut row = vec![first.percent.to_string(), format!("{:.0}", first.per_second)];
        row.extend(peers.iter().map(|peer| peer.points.get(number).map(cell).unwrap_or_default()));
        table.add_row(row);
    }
    table
}

fn cell(point: &Point) -> String {
    let (p50, p99) = (point.median(|offer| offer.p50_ms), point.median(|offer| offer.p99_ms));
    let kept_up = point.offers.iter().filter(|offer| Offer::is_kept_up_with(offer)).count() * 2 >= point.offers.len();
    format!("{p50:.2} / {p99:.2}{}", if kept_up { "" } else { " !" })
}

fn table<T: Into<comfy_table::Row>>(head: T) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
