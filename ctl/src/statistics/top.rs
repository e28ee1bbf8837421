//! `ctl stats --top`: the statements, those first that matter most.

use std::cmp::Reverse;

use comfy_table::Table;
use stats::{Snapshot, StatementStats};

use super::{span, table_aligned};

/// What they are ordered by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Order {
    /// Time that PostgreSQL worked on it, all calls together.
    Total,
    /// The time that one of a hundred calls takes at least.
    P99,
    /// How often it failed.
    Errors,
    /// How often it was called.
    Calls,
}

/// All of them, put together from all shards.
pub(super) fn ordered(snapshot: &Snapshot, order: Order) -> Vec<StatementStats> {
    let mut all = stats::statement::total(&snapshot.statements);
    all.sort_by_key(|one| {
        Reverse(match order {
            Order::Total => one.server_us,
            Order::P99 => one.server_time.quantile(0.99).unwrap_or_default(),
            Order::Errors => one.errors,
            Order::Calls => one.calls,
        })
    });
    all
}

/// As a table of so many, each text up to its length.
pub(super) fn table(all: &[StatementStats], count: usize, text_len: usize) -> Table {
    let head = [
        "statement id",
        "database",
        "user",
        "calls",
        "rows",
        "errors",
        "shared",
        "server total",
        "share",
        "p50",
        "p95",
        "p99",
        "queue p99",
        "statement",
    ];
    let total: u64 = all.iter().fold(0, |sum, one| sum.saturating_add(one.server_us));
    let rows = all.iter().take(count).map(|one| {
        let mut row = vec![stats::statement::id(one.fingerprint)];
        row.extend(counts(one));
        row.push(percent(one.server_us, total));
        row.extend(times(one, text_len));
        row
    });
    table_aligned(&head, |column| (3..13).contains(&column), rows)
}

/// Cells from `database` to `server total`.
pub(super) fn counts(one: &StatementStats) -> Vec<String> {
    let mut row = vec![one.database.clone(), one.user.clone()];
    row.extend([one.calls, one.rows, one.errors].map(|count| count.to_string()));
    row.push(percent(one.shared, one.shared.saturating_add(one.exclusive)));
    row.push(span(Some(one.server_us)));
    row
}

/// Cells from `p50` to `statement`, its text up to this length.
pub(super) fn times(one: &StatementStats, text_len: usize) -> Vec<String> {
    let mut row: Vec<String> = [0.5, 0.95, 0.99].map(|share| span(one.server_time.quantile(share))).into();
    row.push(span(one.queue_time.quantile(0.99)));
    let text = one.statement.as_deref().unwrap_or("(all others)");
    let short: String = text.chars().take(text_len).collect();
    row.push(if short.len() < text.len() { short + "…" } else { short });
    row
}

fn percent(part: u64, all: u64) -> String {
    let share = part.saturating_mul(100).checked_div(all);
    share.map_or_else(|| "-".to_owned(), |share| format!("{share} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(fingerprint: u64, calls: u64, us: u64, errors: u64) -> StatementStats {
        let mut one = StatementStats { fingerprint, calls, errors, shared: calls, ..StatementStats::default() };
        one.server_us = us * calls;
        (0..calls).for_each(|_| one.server_time.record_us(us));
        one.statement = Some("select ".repeat(20));
        one
    }

    #[test]
    fn statements_are_ordered_by_what_is_asked_for() {
        let snapshot = Snapshot {
            statements: vec![statement(1, 100, 50, 1), statement(2, 5, 900, 0), statement(3, 30, 200, 7)],
            ..Snapshot::default()
        };
        let first = |order| ordered(&snapshot, order).iter().map(|one| one.fingerprint).collect::<Vec<_>>();
        assert_eq!(first(Order::Total), [3, 1, 2]);
        assert_eq!(first(Order::P99), [2, 3, 1]);
        assert_eq!(first(Order::Errors), [3, 1, 2]);
        assert_eq!(first(Order::Calls), [1, 3, 2]);
        let text = table(&ordered(&snapshot, Order::Total), 2, 10).to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("0000000000000003") && text.contains("38 %") && text.contains("select sel…"), "{text}");
    }
}
