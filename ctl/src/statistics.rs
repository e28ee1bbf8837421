//! `ctl stats`: what the data plane is doing, as tables, JSON, a series or text for Prometheus.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use stats::{Hist, PoolStats, Snapshot};

use crate::dev::place;
use crate::terminal;
use condition::Condition;
use print::Form;
use top::Order;

mod condition;
mod export;
mod print;
mod top;
mod until;

/// Statements in the table; `ctl admin show statements` and `--json` give all.
const STATEMENTS_SHOWN: usize = 10;
const STATEMENT_LEN_SHOWN: usize = 60;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often `--until` looks, unless told.
const UNTIL_EVERY: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
#[command(
    after_help = "Rates are of the time between two looks, everything else is since the data plane's start; with --watch, \
                  times are of the time between two looks too.\n\n\
                  A condition compares a field of pool, shard, process or host, as `-o json` has it (`pool.waiting` is \
                  clients_waiting of all pools together), or a metric of core/METRICS.md, all its series or those with some labels: \
                  --until 'pool.waiting==0', --until 'optimacore_pool_clients{state=\"active\",user=\"app\"} < 5 && pool.idle > 0'. Exit \
                  code 6: it did not come to be in time.\n\n\
                  --export writes optimacore.prom, optimacore-<start>.ndjson, optimacore-<start>.hlog and run.json: docs/export.md."
)]
pub(crate) struct Options {
    /// The data plane's statistics socket. Default: that of the `ctl dev` started in this directory.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// As what it is printed.
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,
    /// The same as `-o json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Only the statements, ordered.
    #[arg(long, value_name = "ORDER", num_args = 0..=1, default_missing_value = "total", value_enum)]
    top: Option<Order>,
    /// Write files into this directory, once, or with --watch until Ctrl-C.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "json", "top", "until"])]
    export: Option<PathBuf>,
    /// Wait until this holds, and print nothing.
    #[arg(long, value_name = "CONDITION", conflicts_with_all = ["output", "json", "top"])]
    until: Option<Condition>,
    /// How long to wait for it: seconds, or as in `500ms`, `30s`, `2min`.
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "until", value_parser = duration)]
    timeout: Duration,
    /// Go on, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must be from 0.1 to 86400".to_owned())
    }
}

/// As in the configuration, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1.0), ("min", 60_000.0), ("s", 1000.0), ("h", 3_600_000.0)];
    let unit = units.iter().find_map(|(name, ms)| Some((text.strip_suffix(name)?, ms)));
    let (number, ms) = unit.unwrap_or((text, &1000.0));
    let ms = number.trim().parse::<f64>().ok().map(|number| number * ms).filter(|ms| (0.0..=8.64e9).contains(ms));
    ms.map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .ok_or_else(|| "is no duration such as 500ms, 30s or 2min".to_owned())
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let socket = match &options.socket {
        Some(socket) => socket.clone(),
        None => place::stats_socket(&place::dir(None)?),
    };
    if let Some(condition) = &options.until {
        return Ok(until::run(&socket, condition, options.timeout, options.watch.unwrap_or(UNTIL_EVERY)));
    }
    if let Some(dir) = &options.export {
        return export::run(&socket, dir, options.watch);
    }
    print::run(options, &socket)
}

impl Options {
    const fn form(&self) -> Form {
        if self.json { Form::Json } else { self.output }
    }
}

fn look(socket: &Path) -> anyhow::Result<Snapshot> {
    let stream = UnixStream::connect(socket).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::NotFound {
            "; is the data plane running? --socket names its [stats] socket"
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            "; the data plane that made it is no longer running"
        } else {
            ""
        };
        anyhow::anyhow!("{}: {error}{hint}", socket.display())
    })?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stats::read(stream).with_context(|| socket.display().to_string())
}

/// All tables. `interval` gives the rates, `times` the quantiles.
fn picture(now: &Snapshot, interval: Option<&Snapshot>, times: &Snapshot, form: Form) -> String {
    let head = format!("optimacore {}, process {}, up {}", now.version, now.pid, age(now.uptime_us / 1_000_000));
    let titled = |title: &str, table: &Table| format!("{}\n{table}", terminal::bold(title));
    let tables = [
        head,
        titled("Shards", &shards(now, interval)),
        titled("Pools", &pools(now, interval)),
        titled("Requests", &requests(now, interval)),
        titled("State", &state(now)),
        titled("Times", &durations(times)),
    ];
    let heaviest = heaviest(times, form);
    let tables = tables.into_iter().chain(heaviest.map(|table| titled("Statements", &table))).collect::<Vec<_>>();
    let lines = tables.join("\n\n");
    lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn table(head: &[&str], texts: usize, rows: impl Iterator<Item = Vec<String>>) -> Table {
    table_aligned(head, |column| column >= texts, rows)
}

/// A table whose columns of numbers are aligned to the right.
pub(crate) fn table_aligned(
    head: &[&str],
    is_number: impl Fn(usize) -> bool,
    rows: impl Iterator<Item = Vec<String>>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        if is_number(column.index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn shards(now: &Snapshot, interval: Option<&Snapshot>) -> Table {
    let head = [
        "shard",
        "core",
        "clients",
        "waiting",
        "logins",
        "failed",
        "handed over",
        "messages in/s",
        "out/s",
        "bytes in/s",
        "out/s",
        "buffers",
        "busy",
        "kept waiting",
        "ring in/s",
        "out/s",
    ];
    let rows = now.shards.iter().map(|shard| {
        let last = interval.and_then(|interval| interval.shards.iter().find(|other| other.shard == shard.shard));
        let rate = |count: fn(&stats::ShardStats) -> u64| rate(interval, last.map(count));
        let bytes_rate = |count: fn(&stats::ShardStats) -> u64| bytes_rate(interval, last.map(count));
        vec![
            shard.shard.to_string(),
            shard.core.to_string(),
            shard.clients.to_string(),
            shard.clients_waiting.to_string(),
            shard.logins.to_string(),
            shard.login_failures.to_string(),
            shard.handed_over.to_string(),
            rate(|shard| shard.messages_in),
            rate(|shard| shard.messages_out),
            bytes_rate(|shard| shard.bytes_in),
            bytes_rate(|shard| shard.bytes_out),
            bytes(shard.buffer_bytes),
            share(interval, last.map(|shard| shard.busy_us)),
            share(interval, last.map(|shard| shard.kept_waiting_us)),
            rate(|shard| shard.ring_messages_in),
            rate(|shard| shard.ring_messages_out),
        ]
    });
    table(&head, 0, rows)
}

fn pools(now: &Snapshot, interval: Option<&Snapshot>) -> Table {
    let head = [
        "database",
        "user",
        "active",
        "waiting",
        "longest",
        "pipes",
        "size",
        "idle",
        "shared",
        "exclusive",
        "pinned",
        "connecting",
        "cleaning",
        "connects",
        "failed",
        "in use",
    ];
    let last = interval.map(Snapshot::pools_total).unwrap_or_default();
    let rows = now.pools_total().into_iter().map(|pool| {
        let last = last.iter().find(|other| (&other.database, &other.user) == (&pool.database, &pool.user));
        // of one connection; the pool has several
        let used = last.and_then(|last| last.busy_us.checked_div(pool.pool_size));
        vec![
            pool.database.clone(),
            pool.user.clone(),
            pool.clients_active.to_string(),
            pool.clients_waiting.to_string(),
            span(Some(pool.maxwait_us).filter(|_| pool.clients_waiting > 0)),
            pool.permits_held.to_string(),
            pool.pool_size.to_string(),
            pool.servers_idle.to_string(),
            pool.servers_busy_shared.to_string(),
            pool.servers_exclusive.to_string(),
            pool.servers_pinned.to_string(),
            pool.servers_connecting.to_string(),
            pool.servers_cleaning.to_string(),
            pool.connects.to_string(),
            pool.connect_failures.to_string(),
            share(interval, used),
        ]
    });
    table(&head, 2, rows)
}

fn requests(now: &Snapshot, interval: Option<&Snapshot>) -> Table {
    let head = [
        "database",
        "user",
        "queries/s",
        "shared",
        "exclusive",
        "relayed",
        "retried",
        "cancelled",
        "timed out",
        "to server",
        "from server",
        "errors by class",
        "ours",
        "limits reached",
    ];
    let last = interval.map(Snapshot::pools_total).unwrap_or_default();
    let rows = now.pools_total().into_iter().map(|pool| {
        let last = last.iter().find(|other| (&other.database, &other.user) == (&pool.database, &pool.user));
        let limits = pool.limits.iter().map(|limit| format!("{} {}", limit.limit, limit.count));
        vec![
            pool.database.clone(),
            pool.user.clone(),
            rate(interval, last.map(PoolStats::requests)),
            pool.requests_shared.to_string(),
            pool.requests_exclusive.to_string(),
            pool.requests_relayed.to_string(),
            pool.requests_retried.to_string(),
            pool.requests_cancelled.to_string(),
            pool.wait_timeouts.to_string(),
            bytes(pool.bytes_to_server),
            bytes(pool.bytes_from_server),
            classes(&pool.errors),
            classes(&pool.plane_errors),
            limits.collect::<Vec<_>>().join(", "),
        ]
    });
    table(&head, 2, rows)
}

/// What sessions leave on server connections, and what that costs.
fn state(now: &Snapshot) -> Table {
    let head = [
        "database",
        "user",
        "cleanings",
        "asked",
        "prepared",
        "already",
        "evicted",
        "pinned now",
        "pins by what was there",
    ];
    let rows = now.pools_total().into_iter().map(|pool| {
        let pins = pool.pins.iter().map(|pin| format!("{} {}", pin.reason, pin.count));
        vec![
            pool.database.clone(),
            pool.user.clone(),
            pool.cleanings.to_string(),
            pool.probes.to_string(),
            pool.prepared_parses.to_string(),
            pool.prepared_hits.to_string(),
            pool.prepared_evicted.to_string(),
            pool.servers_pinned.to_string(),
            pins.collect::<Vec<_>>().join(", "),
        ]
    });
    table(&head, 2, rows)
}

fn durations(times: &Snapshot) -> Table {
    let head = [
        "database",
        "user",
        "queue p50",
        "p99",
        "p99.9",
        "pipe wait p50",
        "p99",
        "p99.9",
        "server p50",
        "p95",
        "p99",
        "p99.9",
        "proxy p50",
        "p99",
        "p99.9",
    ];
    let rows = times.pools_total().into_iter().map(|pool| {
        let mut row = vec![pool.database.clone(), pool.user.clone()];
        let mut add = |hist: &Hist, shares: &[f64]| row.extend(shares.iter().map(|share| time(hist, *share)));
        add(&pool.queue_time, &[0.5, 0.99, 0.999]);
        add(&pool.pipe_wait_time, &[0.5, 0.99, 0.999]);
        add(&pool.server_time, &[0.5, 0.95, 0.99, 0.999]);
        add(&pool.proxy_time, &[0.5, 0.99, 0.999]);
        row
    });
    table(&head, 2, rows)
}

/// The statements on which PostgreSQL has worked longest; none where none are counted.
fn heaviest(times: &Snapshot, form: Form) -> Option<Table> {
    let all = stats::statement::total(&times.statements);
    let (count, text_len) =
        if form == Form::Wide { (usize::MAX, usize::MAX) } else { (STATEMENTS_SHOWN, STATEMENT_LEN_SHOWN) };
    let head = [
        "database",
        "user",
        "calls",
        "rows",
        "errors",
        "shared",
        "server total",
        "p50",
        "p95",
        "p99",
        "queue p99",
        "statement",
    ];
    let rows = all.iter().take(count).map(|one| {
        let mut row = top::counts(one);
        row.extend(top::times(one, text_len));
        row
    });
    (!all.is_empty()).then(|| table_aligned(&head, |column| (2..11).contains(&column), rows))
}

fn classes(errors: &[stats::ClassCount]) -> String {
    let classes = errors.iter().map(|e| format!("{} {}", String::from_utf8_lossy(&e.class), e.count));
    classes.collect::<Vec<_>>().join(", ")
}

/// How much of the time something lasted.
fn share(interval: Option<&Snapshot>, us: Option<u64>) -> String {
    let percent = interval.zip(us).map(|(interval, us)| interval.per_second(us) / 1e4);
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %"))
}

fn rate(interval: Option<&Snapshot>, count: Option<u64>) -> String {
    let rate = interval.zip(count).map(|(interval, count)| interval.per_second(count));
    rate.map_or_else(|| "-".to_owned(), |rate| if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and is shown rounded"
)]
fn bytes_rate(interval: Option<&Snapshot>, count: Option<u64>) -> String {
    let rate = interval.zip(count).map(|(interval, count)| interval.per_second(count));
    rate.map_or_else(|| "-".to_owned(), |rate| bytes(rate as u64))
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn bytes(count: u64) -> String {
    let mut rest = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1024.0 {
            let digits = usize::from(unit != "B" && rest < 10.0);
            return format!("{rest:.digits$} {unit}");
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} TiB")
}

fn time(hist: &Hist, share: f64) -> String {
    span(hist.quantile(share))
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn span(us: Option<u64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1000 => format!("{us} µs"),
        Some(us) if us < 10_000 => format!("{:.2} ms", us as f64 / 1e3),
        Some(us) if us < 1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use expect_test::expect;
    use stats::ShardStats;

    fn snapshot(uptime_us: u64, requests: u64) -> Snapshot {
        let pool = |shard, user: &str| {
            let mut pool = PoolStats { shard, database: "shop".into(), user: user.into(), ..PoolStats::default() };
            pool.requests_shared = requests;
            pool.requests_exclusive = requests / 10;
            pool.pool_size = 20;
            pool.permits_held = 4;
            pool.bytes_from_server = requests * 2000;
            (1..=requests).for_each(|us| pool.server_time.record_us(us * 20));
            if user == "ann" {
                pool.count_error(b"23505");
                pool.count_error(b"40001");
            }
            pool
        };
        let shard = |shard| ShardStats {
            shard,
            core: shard * 2,
            clients: 7,
            messages_in: requests * 3,
            bytes_in: requests * 100,
            buffer_bytes: 65_536,
            ..ShardStats::default()
        };
        Snapshot {
            version: "0.1.0".into(),
            pid: 42,
            uptime_us,
            taken_unix_us: 0,
            shards: vec![shard(0), shard(1)],
            pools: vec![pool(0, "ann"), pool(1, "ann"), pool(0, "bob")],
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_tables_show_shards_and_pools() {
        let (before, now) = (snapshot(3_599_000_000, 1000), snapshot(3_601_000_000, 5000));
        let interval = now.since(&before);
        expect![[r#"
            optimacore 0.1.0, process 42, up 1 h 0 min

            Shards
             shard  core  clients  waiting  logins  failed  handed over  messages in/s  out/s  bytes in/s  out/s  buffers  busy  kept waiting  ring in/s  out/s
                 0     0        7        0       0       0            0           6000    0.0     195 KiB    0 B   64 KiB   0 %           0 %        0.0    0.0
                 1     2        7        0       0       0            0           6000    0.0     195 KiB    0 B   64 KiB   0 %           0 %        0.0    0.0

            Pools
             database  user  active  waiting  longest  pipes  size  idle  shared  exclusive  pinned  connecting  cleaning  connects  failed  in use
             shop      ann        0        0        -      8    20     0       0          0       0           0         0         0       0     0 %
             shop      bob        0        0        -      4    20     0       0          0       0           0         0         0       0     0 %

            Requests
             database  user  queries/s  shared  exclusive  relayed  retried  cancelled  timed out  to server  from server  errors by class  ours  limits reached
             shop      ann        4400   10000       1000        0        0          0          0        0 B       19 MiB       23 2, 40 2
             shop      bob        2200    5000        500        0        0          0          0        0 B      9.5 MiB

            State
             database  user  cleanings  asked  prepared  already  evicted  pinned now  pins by what was there
             shop      ann           0      0         0        0        0           0
             shop      bob           0      0         0        0        0           0

            Times
             database  user  queue p50  p99  p99.9  pipe wait p50  p99  p99.9  server p50    p95    p99   p99.9  proxy p50  p99  p99.9
             shop      ann           -    -      -              -    -      -       50 ms  95 ms  99 ms  100 ms          -    -      -
             shop      bob           -    -      -              -    -      -       50 ms  95 ms  99 ms  100 ms          -    -      -"#]]
        .assert_eq(&picture(&now, interval.as_ref(), &now, Form::Table));
    }

    #[test]
    fn the_heaviest_statements_are_shown_and_long_ones_cut() {
        let mut now = snapshot(10, 1);
        let statement = |text: Option<&str>, server_us| stats::StatementStats {
            database: "shop".into(),
            user: "ann".into(),
            fingerprint: server_us,
            statement: text.map(str::to_owned),
            calls: 4,
            rows: 4,
            errors: 1,
            shared: 3,
            exclusive: 1,
            server_us,
            ..stats::StatementStats::default()
        };
        let long = "select ".repeat(20);
        now.statements =
            vec![statement(None, 1_000), statement(Some(&long), 70), statement(Some("select ?"), 5_000_000)];
        let text = picture(&now, None, &now, Form::Table);
        let (_, table) = text.split_once("Statements\n").unwrap();
        expect![[r#"
            Statements
             database  user  calls  rows  errors  shared  server total  p50  p95  p99  queue p99  statement
             shop      ann       4     4       1    75 %         5.0 s    -    -    -          -  select ?
             shop      ann       4     4       1    75 %       1.00 ms    -    -    -          -  (all others)
             shop      ann       4     4       1    75 %         70 µs    -    -    -          -  select select select select select select select select sele…"#]]
        .assert_eq(&format!("Statements\n{table}"));
    }

    #[test]
    fn a_restarted_data_plane_has_no_rates() {
        let text = picture(&snapshot(5, 10), None, &snapshot(5, 0), Form::Table);
        assert!(text.contains("up 0 s") && text.contains('-'), "{text}");
    }

    #[test]
    fn a_snapshot_is_read_from_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let error = look(&socket).unwrap_err().to_string();
        assert!(error.contains("is the data plane running?"), "{error}");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stats::write(&snapshot(1, 50), stream).unwrap();
        });
        assert_eq!(look(&socket).unwrap(), snapshot(1, 50));
        server.join().unwrap();
        assert!(look(&socket).unwrap_err().to_string().contains("no longer running"));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [0, 1023, 1024, 10_240, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "10 KiB", "16777216.0 TiB"]
        );
        assert_eq!([5, 65, 3700, 90_000].map(age), ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("x").is_err() && seconds("NaN").is_err());
    }
}
