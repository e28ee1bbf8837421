//! `SHOW STATEMENTS`.

use stats::{Sketch, statement};

use crate::admin::show::Facts;
use crate::admin::table::Row;

impl Facts<'_> {
    /// Statements with all shards' parts put together, those on which PostgreSQL has worked longest first.
    pub(super) fn statement_rows(&self) -> Vec<Row> {
        let rows = statement::total(&self.statements).into_iter().map(|one| {
            let fingerprint = one.statement.is_some().then(|| format!("{:016x}", one.fingerprint));
            let row = Row::new().text(one.database).text(one.user).maybe(fingerprint).maybe(one.statement);
            let row = [one.calls, one.rows, one.errors, one.shared, one.exclusive, one.server_us]
                .into_iter()
                .fold(row, Row::big);
            quantiles(quantiles(row, &one.queue_time), &one.server_time)
        });
        rows.collect()
    }
}

/// NULL where nothing is counted.
fn quantiles(row: Row, times: &Sketch) -> Row {
    [0.5, 0.95, 0.99].into_iter().fold(row, |row, share| row.maybe(times.quantile(share).map(|us| us.to_string())))
}
