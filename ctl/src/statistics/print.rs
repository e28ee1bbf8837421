//! The forms in which `ctl stats` prints.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde::Serialize;
use stats::series::{Recorder, Run};
use stats::{Snapshot, StatementStats};

use super::top::{self, Order};
use super::{Options, STATEMENT_LEN_SHOWN, look, picture};
use crate::terminal;

/// Statements that `--top` shows.
const TOP_SHOWN: usize = 30;

/// How what is measured is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Form {
    /// Tables, of pools all shards together, and of the heaviest statements.
    Table,
    /// Tables with each shard's part of a pool, and all statements.
    Wide,
    /// An object with `since_start` and `interval`; with --watch one a line.
    Json,
    /// The lines of an exported series: header, series, statements, ticks.
    Ndjson,
    /// The text that Prometheus reads.
    Prom,
}

#[derive(Serialize)]
struct Looks<'s> {
    schema: &'static str,
    since_start: &'s Snapshot,
    /// What happened between the last two looks.
    interval: Option<&'s Snapshot>,
}

pub(super) fn run(options: &Options, socket: &Path) -> anyhow::Result<ExitCode> {
    match (options.form(), options.top) {
        (Form::Prom, _) => repeat(options, socket, |now| stats::text::prometheus(now).trim_end().to_owned()),
        (Form::Ndjson, _) => {
            let mut recorder = None;
            repeat(options, socket, |now| lines(&mut recorder, now, options.watch))
        }
        (form @ (Form::Table | Form::Wide | Form::Json), top) => show(options, socket, form, top),
    }
}

/// Prints something of one moment; with `--watch` of many.
fn repeat(options: &Options, socket: &Path, mut text: impl FnMut(&Snapshot) -> String) -> anyhow::Result<ExitCode> {
    loop {
        terminal::print(&text(&look(socket)?))?;
        let Some(pause) = options.watch else { return Ok(ExitCode::SUCCESS) };
        thread::sleep(pause);
    }
}

/// The lines of a series; another process begins another one.
fn lines(recorder: &mut Option<(Run, Recorder)>, now: &Snapshot, watch: Option<Duration>) -> String {
    let run = Run::of(now);
    let mut out = Vec::new();
    let known = recorder.take().filter(|(before, _)| *before == run);
    let (_, recorder) = recorder.insert(known.unwrap_or_else(|| {
        let new = Recorder::new(&run, watch.unwrap_or(Duration::from_secs(1)));
        out.push(new.header());
        (run, new)
    }));
    out.extend(recorder.tick(now));
    out.join("\n")
}

/// What needs two looks.
fn show(options: &Options, socket: &Path, form: Form, top: Option<Order>) -> anyhow::Result<ExitCode> {
    let mut before = look(socket)?;
    loop {
        thread::sleep(options.watch.unwrap_or(Duration::from_secs(1)));
        let now = look(socket)?;
        let interval = now.since(&before);
        let times = options.watch.and(interval.as_ref()).unwrap_or(&now);
        let clear = if options.watch.is_some() { terminal::clear() } else { "" };
        let text = match (form, top) {
            (Form::Json, None) => serde_json::to_string(&Looks {
                schema: "optimacore.stats/1",
                since_start: &now,
                interval: interval.as_ref(),
            })?,
            (Form::Json, Some(order)) => serde_json::to_string(&Top {
                schema: "optimacore.statements/1",
                statements: &top::ordered(times, order),
            })?,
            (Form::Wide, Some(order)) => {
                format!("{clear}{}", top::table(&top::ordered(times, order), usize::MAX, usize::MAX))
            }
            (_, Some(order)) => {
                format!("{clear}{}", top::table(&top::ordered(times, order), TOP_SHOWN, STATEMENT_LEN_SHOWN))
            }
            (Form::Wide, None) => {
                let (now, interval, times) = (by_shard(&now), interval.as_ref().map(by_shard), by_shard(times));
                format!("{clear}{}", picture(&now, interval.as_ref(), &times, form))
            }
            (_, None) => format!("{clear}{}", picture(&now, interval.as_ref(), times, form)),
        };
        terminal::print(&text)?;
        if options.watch.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

#[derive(Serialize)]
struct Top<'s> {
    schema: &'static str,
    statements: &'s [StatementStats],
}

/// Each shard's part of a pool is a pool of its own.
fn by_shard(snapshot: &Snapshot) -> Snapshot {
    let mut out = snapshot.clone();
    for pool in &mut out.pools {
        pool.user = format!("{} (shard {})", pool.user, pool.shard);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use stats::PoolStats;

    #[test]
    fn a_series_begins_with_its_header_and_again_with_another_process() {
        let (mut recorder, mut now) = (None, Snapshot { pid: 1, uptime_us: 5, ..Snapshot::default() });
        let first = lines(&mut recorder, &now, None);
        assert!(first.starts_with("{\"schema\":\"optimacore.series/1\"") && first.lines().count() == 3, "{first}");
        now.uptime_us = 9;
        assert_eq!(lines(&mut recorder, &now, None), "{\"t\":0,\"dt\":4,\"v\":{}}");
        now.pid = 2;
        now.uptime_us = 3;
        assert!(lines(&mut recorder, &now, None).starts_with("{\"schema\""));
    }

    #[test]
    fn the_wide_form_has_a_row_for_each_shard() {
        let pool = |shard| PoolStats { shard, database: "db".into(), user: "ann".into(), ..PoolStats::default() };
        let now = Snapshot { pools: vec![pool(0), pool(1)], ..Snapshot::default() };
        let text = picture(&by_shard(&now), None, &by_shard(&now), Form::Wide);
        assert!(text.contains("ann (shard 0)") && text.contains("ann (shard 1)"), "{text}");
    }
}
