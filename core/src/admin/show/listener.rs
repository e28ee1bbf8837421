//! The table of connections that listen for sessions.

use crate::admin::show::Facts;
use crate::admin::table::Row;
use crate::listen::LineCount;

impl Facts<'_> {
    pub(super) fn listeners(&self) -> Vec<Row> {
        let mut lines: Vec<LineCount> = Vec::new();
        for line in self.counts.iter().flat_map(|count| &count.lines) {
            let other = lines.iter_mut().try_fold(line.clone(), |line, known| known.add(line));
            lines.extend(other);
        }
        lines.sort_by(|a, b| a.database.cmp(&b.database));
        let row = |line: &LineCount| {
            Row::new()
                .text(&*line.database)
                .text(if line.backend.is_some() { "connected" } else { "closed" })
                .maybe(line.backend.map(|backend| backend.to_string()))
                .big(line.channels)
                .big(line.sessions)
                .big(line.heard)
                .big(line.losses)
        };
        lines.iter().map(row).collect()
    }
}
