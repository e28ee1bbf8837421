//! What `SHOW` shows, made of what all shards have told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use config::{Config, Database};
use runtime::Address;
use stats::{PoolStats, StatementStats};

use crate::admin::column::TOTALS_NAMES;
use crate::admin::command::Show;
use crate::admin::desk::Sample;
use crate::admin::survey::{ClientRow, Count, Memory, PoolCount, ServerRow};
use crate::admin::table::{Row, Table};
use crate::admin::{CONSOLE_VERSION, Levers, State, reload};
use crate::pool::open::written;
use crate::pool::permit::PoolKey;
use crate::upstream::HostRow;

mod connection;
mod listener;
mod statement;

use connection::Which;

/// The console's own database, as PgBouncer calls it.
const CONSOLE: &str = "pgbouncer";

/// Everything a table may be made of.
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    /// Host names of the configuration.
    pub(super) hosts: Vec<HostRow>,
    pub(super) levers: &'a Levers,
    pub(super) counts: Vec<Count>,
    pub(super) clients: Vec<ClientRow>,
    pub(super) servers: Vec<ServerRow>,
    pub(super) statements: Vec<StatementStats>,
    /// Since when averages are.
    pub(super) before: &'a Sample,
    /// Commands of consoles so far.
    pub(super) commands: u64,
}

/// What is counted, in the order of [`TOTALS_NAMES`].
type Sums = [u64; 11];

/// What has been counted, by database.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures(BTreeMap<String, Sums>);

impl Figures {
    pub(super) fn of(counts: &[Count], commands: u64) -> Self {
        let mut out: BTreeMap<String, Sums> = BTreeMap::new();
        for pool in counts.iter().flat_map(|count| &count.pools) {
            add(out.entry(pool.stats.database.clone()).or_default(), &sums(&pool.stats));
        }
        out.insert(CONSOLE.to_owned(), [0, commands, commands, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self(out)
    }

    fn total(&self) -> Sums {
        let mut out = Sums::default();
        self.0.values().for_each(|sums| add(&mut out, sums));
        out
    }
}

fn sums(stats: &PoolStats) -> Sums {
    [
        stats.assignments,
        stats.transactions,
        stats.requests(),
        stats.bytes_to_server,
        stats.bytes_from_server,
        stats.xact_us,
        stats.query_us,
        stats.wait_us,
        stats.client_parses,
        stats.prepared_parses,
        stats.client_binds,
    ]
}

fn add(to: &mut Sums, more: &Sums) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to = to.saturating_add(*more));
}

/// Averages: times per event, everything else per second.
fn averages(now: &Sums, before: &Sums, elapsed: Duration) -> Sums {
    let mut grown = *now;
    grown.iter_mut().zip(before).for_each(|(now, before)| *now = now.saturating_sub(*before));
    let [assignments, transactions, queries, .., transaction_us, query_us, wait_us, _, _, _] = grown;
    let micros = elapsed.as_micros().max(1);
    let mut out = grown.map(|count| u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX));
    let per = |us: u64, count: u64| us.checked_div(count).unwrap_or_default();
    let [.., transaction, query, wait, _, _, _] = &mut out;
    *transaction = per(transaction_us, transactions);
    *query = per(query_us, queries);
    *wait = per(wait_us, assignments);
    out
}

impl Show {
    /// Whether it tells of connections one by one.
    pub(super) const fn needs_connections(self) -> bool {
        matches!(
            self,
            Self::Clients | Self::Servers | Self::Sockets | Self::ActiveSockets | Self::Fds | Self::Pipes | Self::Pins
        )
    }
}

impl Facts<'_> {
    pub(super) fn table(&self, show: Show) -> Table {
        let rows = match show {
            Show::Clients => self.client_rows(),
            Show::Servers => self.server_rows(),
            Show::Sockets => self.sockets(Which::All),
            Show::ActiveSockets => self.sockets(Which::Active),
            Show::Fds => self.descriptors(),
            Show::Pipes => self.pipes(),
            Show::Pins => self.pins(),
            Show::Statements => self.statement_rows(),
            Show::Listeners => self.listeners(),
            Show::Pools => self.pools(),
            Show::Databases => self.databases(),
            Show::Users => self.users(),
            Show::Lists => self.lists(),
            Show::Config => self.settings(),
            Show::State => self.state(),
            Show::Version => {
                let own = env!("CARGO_PKG_VERSION");
                vec![Row::new().text(format!("PgBouncer {CONSOLE_VERSION} (OptimaCore {own})"))]
            }
            Show::Stats => self.stats(Part::Both),
            Show::StatsTotals => self.stats(Part::Totals),
            Show::StatsAverages => self.stats(Part::Averages),
            Show::Totals => self.totals(),
            Show::Mem => self.memory(),
            Show::DnsHosts => self.host_rows(),
            Show::Shards => self.shards(),
            // there are no peers, no zones, and the help comes as a notice
            Show::DnsZones | Show::Peers | Show::PeerPools | Show::Help => Vec::new(),
        };
        Table { columns: show.columns().unwrap_or_default(), rows }
    }

    /// Pools with all shards' parts put together.
    fn pool_totals(&self) -> BTreeMap<PoolKey, Pool<'_>> {
        let mut out: BTreeMap<PoolKey, Pool<'_>> = BTreeMap::new();
        for part in self.counts.iter().flat_map(|count| &count.pools) {
            let key = (part.stats.database.clone(), part.stats.user.clone());
            out.entry(key).or_insert_with(|| Pool::new(part)).add(part);
        }
        out
    }

    fn pools(&self) -> Vec<Row> {
        let consoles = self.counts.iter().map(|count| count.consoles).sum::<u64>();
        let mut rows: Vec<Row> = self
            .pool_totals()
            .into_iter()
            .map(|((database, user), pool)| {
                let stats = &pool.stats;
                let busy = stats.servers_busy_shared + stats.servers_exclusive + stats.servers_pinned;
                Row::new()
                    .text(database)
                    .text(user)
                    .int(pool.clients.saturating_sub(stats.clients_waiting))
                    .int(stats.clients_waiting)
                    .int(pool.cancels)
                    .int(0_u64)
                    .int(busy.saturating_sub(pool.being_cancelled))
                    .int(pool.cancels)
                    .int(pool.being_cancelled)
                    .int(stats.servers_idle)
                    .int(0_u64)
                    .int(stats.servers_cleaning)
                    .int(stats.servers_connecting)
                    .span(pool.longest_wait)
                    .text(pool.part.settings.mode.name())
                    .null()
            })
            .collect();
        let console = Row::new().text(CONSOLE).text(CONSOLE).int(consoles);
        let console = (0..10).fold(console, |row, _| row.int(0_u64));
        rows.push(console.int(0_u64).int(0_u64).text("statement").null());
        rows
    }

    /// Databases by the names clients use: those configured, and those that `*` has let in.
    fn database_names(&self) -> BTreeMap<String, &Database> {
        let configured = self.config.databases.iter().map(|database| database.name.clone());
        let used = self.counts.iter().flat_map(|count| &count.pools).map(|pool| pool.stats.database.clone());
        let names = configured.filter(|name| name != "*").chain(used);
        names.filter_map(|name| self.config.database(&name).map(|database| (name, database))).collect()
    }

    fn databases(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, database) in self.database_names() {
            let pools = || {
                let parts = self.counts.iter().flat_map(|count| &count.pools);
                parts.filter(|pool| pool.stats.database == name)
            };
            let settings = database.pool.over(self.config.pool);
            let mode = database.pool.mode.map(config::PoolMode::name);
            rows.push(
                Row::new()
                    .text(name.as_str())
                    .text(&*written(database))
                    .int(u64::from(database.port))
                    .text(database.dbname.as_deref().unwrap_or(&name))
                    .maybe(database.user.as_deref())
                    .int(u64::from(settings.size))
                    .int(u64::from(settings.min_pool_size))
                    .int(u64::from(settings.reserve_pool_size))
                    .int(settings.server_lifetime.as_secs())
                    .maybe(mode)
                    .null()
                    .int(database.max_connections.unwrap_or_default())
                    .int(pools().map(|pool| pool.open).sum::<u64>())
                    .int(database.max_client_connections.unwrap_or_default())
                    .int(pools().map(|pool| pool.clients).sum::<u64>())
                    .int(u64::from(self.levers.pauses(&name)))
                    .int(u64::from(self.levers.disabled.contains(&name))),
            );
        }
        let consoles = self.counts.iter().map(|count| count.consoles).sum::<u64>();
        let port = self.config.listen.addresses.first().map_or(0, std::net::SocketAddr::port);
        let row = Row::new().text(CONSOLE).null().int(u64::from(port)).text(CONSOLE).text(CONSOLE);
        let row = row.int(0_u64).int(0_u64).int(0_u64).int(0_u64).text("statement").null();
        rows.push(row.int(0_u64).int(0_u64).int(0_u64).int(consoles).int(0_u64).int(0_u64));
        rows
    }

    fn users(&self) -> Vec<Row> {
        let pools = |name: &str| {
            let parts = self.counts.iter().flat_map(|count| &count.pools);
            parts.filter(move |pool| pool.stats.user == name).collect::<Vec<_>>()
        };
        let row = |user: &config::User| {
            let pools = pools(&user.name);
            Row::new()
                .text(user.name.as_str())
                .maybe(user.pool.size.map(|size| size.to_string()))
                .maybe(user.pool.reserve_pool_size.map(|size| size.to_string()))
                .maybe(user.pool.mode.map(config::PoolMode::name))
                .int(user.max_server_connections.unwrap_or_default())
                .int(pools.iter().map(|pool| pool.open).sum::<u64>())
                .int(user.max_client_connections.unwrap_or_default())
                .int(pools.iter().map(|pool| pool.clients).sum::<u64>())
        };
        self.config.users.iter().map(row).collect()
    }

    fn lists(&self) -> Vec<Row> {
        let sum = |figure: fn(&Count) -> u64| self.counts.iter().map(figure).sum::<u64>();
        let items = [
            ("databases", self.database_names().len() as u64 + 1),
            ("users", self.config.users.len() as u64),
            ("peers", 0),
            ("pools", self.pool_totals().len() as u64 + 1),
            ("peer_pools", 0),
            ("free_clients", sum(|count| count.sessions.free)),
            ("used_clients", sum(|count| count.sessions.used)),
            ("login_clients", sum(|count| count.starting)),
            ("free_servers", sum(|count| count.servers.free)),
            ("used_servers", sum(|count| count.servers.used)),
            ("dns_names", self.hosts.len() as u64),
            ("dns_zones", 0),
            ("dns_queries", 0),
            ("dns_pending", 0),
        ];
        items.into_iter().map(|(list, items)| Row::new().text(list).int(items)).collect()
    }

    /// First what exporters look for under PgBouncer's names, then every key by its own.
    fn settings(&self) -> Vec<Row> {
        let default = default_config();
        let changeable = |key: &str| if reload::is_settable(key) { "yes" } else { "no" };
        let pair = |of: &Config| {
            let seconds = |duration: Duration| duration.as_secs().to_string();
            let port = of.listen.addresses.first().map(|address| address.port().to_string());
            [
                ("max_client_conn", of.limits.max_client_connections.to_string(), "limits."),
                ("default_pool_size", of.pool.size.to_string(), "pool."),
                ("min_pool_size", of.pool.min_pool_size.to_string(), "pool."),
                ("reserve_pool_size", of.pool.reserve_pool_size.to_string(), "pool."),
                // bounds of this kind are a database's or a user's own
                ("max_db_connections", "0".to_owned(), ""),
                ("max_user_connections", "0".to_owned(), ""),
                ("pool_mode", of.pool.mode.name().to_owned(), "pool."),
                ("max_prepared_statements", of.pool.prepared_statements.to_string(), "pool."),
                ("query_wait_timeout", seconds(of.pool.query_wait_timeout), "pool."),
                ("server_connect_timeout", seconds(of.pool.server_connect_timeout), "pool."),
                ("server_idle_timeout", seconds(of.pool.server_idle_timeout), "pool."),
                ("server_lifetime", seconds(of.pool.server_lifetime), "pool."),
                ("client_login_timeout", seconds(of.limits.auth_timeout), "limits."),
                ("listen_port", port.unwrap_or_default(), ""),
                ("stats_period", super::desk::STATS_PERIOD.as_secs().to_string(), ""),
            ]
        };
        let defaults = pair(default.as_ref().unwrap_or(self.config));
        let mut rows: Vec<Row> = Vec::new();
        for ((key, value, table), (_, default, _)) in pair(self.config).into_iter().zip(defaults) {
            rows.push(Row::new().text(key).text(value).text(default).text(changeable(table)));
        }
        let defaults = default.map(|config| config.listing()).unwrap_or_default();
        for entry in self.config.listing() {
            let default = defaults.iter().find(|other| other.key == entry.key).map(|other| other.value.clone());
            let yes = changeable(&entry.key);
            rows.push(Row::new().text(entry.key).text(entry.value).maybe(default).text(yes));
        }
        rows
    }

    fn state(&self) -> Vec<Row> {
        let states = [("active", State::Active), ("paused", State::Paused), ("suspended", State::Suspended)];
        let word = |state| if self.levers.state == state { "yes" } else { "no" };
        states.into_iter().map(|(key, state)| Row::new().text(key).text(word(state))).collect()
    }

    fn stats(&self, part: Part) -> Vec<Row> {
        let figures = Figures::of(&self.counts, self.commands);
        let elapsed = self.before.at.elapsed();
        let row = |(database, now): (&String, &Sums)| {
            let before = self.before.figures.0.get(database).copied().unwrap_or_default();
            let averages = averages(now, &before, elapsed);
            let (totals, averages) = match part {
                Part::Both => (&now[..], &averages[..]),
                Part::Totals => (&now[..], &[][..]),
                Part::Averages => (&[][..], &averages[..]),
            };
            totals.iter().chain(averages).fold(Row::new().text(database.as_str()), |row, figure| row.big(*figure))
        };
        figures.0.iter().map(row).collect()
    }

    fn totals(&self) -> Vec<Row> {
        let now = Figures::of(&self.counts, self.commands).total();
        let averages = averages(&now, &self.before.figures.total(), self.before.at.elapsed());
        let of = |prefix: &'static str, sums: Sums| {
            let named = TOTALS_NAMES.into_iter().zip(sums);
            named.map(move |(name, figure)| Row::new().text(format!("{prefix}_{name}")).big(figure))
        };
        of("total", now).chain(of("avg", averages)).collect()
    }

    fn memory(&self) -> Vec<Row> {
        let of = |figure: fn(&Count) -> Memory| {
            self.counts.iter().map(figure).fold(Memory::default(), |sum, part| Memory {
                size: part.size,
                used: sum.used + part.used,
                free: sum.free + part.free,
            })
        };
        let pools: usize = self.counts.iter().map(|count| count.pools.len()).sum();
        let pool_size = self.counts.first().map_or(0, |count| count.pool_size_of);
        let buffers = self.counts.iter().map(|count| count.shard.buffer_bytes).sum::<u64>();
        let caches = [
            ("client_cache", of(|count| count.sessions)),
            ("server_cache", of(|count| count.servers)),
            ("pool_cache", Memory { size: pool_size, used: pools as u64, free: 0 }),
            ("iobuf_cache", Memory { size: 1, used: buffers, free: 0 }),
        ];
        caches
            .into_iter()
            .map(|(name, memory)| {
                let total = memory.size.saturating_mul(memory.used + memory.free);
                Row::new().text(name).int(memory.size).int(memory.used).int(memory.free).int(total)
            })
            .collect()
    }

    /// Host names, and when they are looked up again.
    fn host_rows(&self) -> Vec<Row> {
        let row = |host: &HostRow| {
            let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
            Row::new().text(host.name.as_str()).big(host.ttl.as_secs()).text(addresses.join(","))
        };
        self.hosts.iter().map(row).collect()
    }

    fn shards(&self) -> Vec<Row> {
        let row = |count: &Count| {
            let shard = &count.shard;
            Row::new()
                .int(u64::from(shard.shard))
                .int(u64::from(shard.core))
                .int(shard.clients)
                .int(shard.clients_waiting)
                .int(count.servers.used)
                .int(count.pools.len() as u64)
                .big(shard.buffer_bytes)
                .big(shard.logins)
                .big(shard.login_failures)
                .big(shard.messages_in)
                .big(shard.messages_out)
                .big(shard.bytes_in)
                .big(shard.bytes_out)
                .big(shard.handed_over)
                .big(count.pools.iter().map(|pool| pool.permits).sum::<u64>())
        };
        self.counts.iter().map(row).collect()
    }
}

/// Which figures are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Both,
    Totals,
    Averages,
}

/// A pool, all shards' parts together.
struct Pool<'a> {
    /// One part, for what all have in common.
    part: &'a PoolCount,
    stats: PoolStats,
    clients: u64,
    cancels: u64,
    being_cancelled: u64,
    longest_wait: Duration,
}

impl<'a> Pool<'a> {
    fn new(part: &'a PoolCount) -> Self {
        let stats = PoolStats::default();
        Self { part, stats, clients: 0, cancels: 0, being_cancelled: 0, longest_wait: Duration::ZERO }
    }

    fn add(&mut self, part: &PoolCount) {
        self.stats.add(&part.stats);
        self.clients += part.clients;
        self.cancels += part.cancels;
        self.being_cancelled += part.being_cancelled;
        self.longest_wait = self.longest_wait.max(part.longest_wait);
    }
}

/// What holds where the file says nothing.
fn default_config() -> Option<Config> {
    Config::parse("[[database]]\nname = \"*\"\nhost = \"::1\"\n", "default").ok()
}

/// When something happened that a shard's clock has noted.
fn wall_clock(at: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(at.elapsed()).unwrap_or(now)
}

/// Where a database is, if that needs no resolver.
fn host_of(address: &Address) -> (String, u64) {
    match address {
        Address::Tcp(address) => (address.ip().to_string(), u64::from(address.port())),
        Address::Unix(path) => {
            let port = path.extension().and_then(|port| port.to_str()).and_then(|port| port.parse().ok());
            ("unix".to_owned(), port.unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_of_times_are_per_event_and_those_of_counts_per_second() {
        let before = [10, 10, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        let now = [20, 30, 50, 4000, 8000, 6000, 8000, 500, 2, 4, 6];
        let averages = averages(&now, &before, Duration::from_secs(2));
        assert_eq!(averages, [5, 10, 20, 2000, 4000, 300, 200, 50, 1, 2, 3]);
        assert_eq!(super::averages(&before, &before, Duration::ZERO), [0; 11]);
    }

    #[test]
    fn every_table_has_as_many_values_as_columns() {
        let config = Config::parse(
            "[[database]]\nname = \"a\"\nhost = \"::1\"\n[[user]]\nname = \"u\"\ntrust = [\"local\"]\n",
            "f",
        );
        let (config, levers) = (config.unwrap(), Levers::default());
        let before = Sample { at: Instant::now(), figures: Figures::default() };
        let facts = Facts {
            config: &config,
            hosts: Vec::new(),
            levers: &levers,
            counts: Vec::new(),
            clients: Vec::new(),
            servers: Vec::new(),
            statements: Vec::new(),
            before: &before,
            commands: 3,
        };
        for (show, name) in Show::ALL {
            let table = facts.table(show);
            for row in &table.rows {
                assert_eq!(row.0.len(), table.columns.len(), "{name}: {row:?}");
            }
        }
        assert_eq!(facts.table(Show::Totals).rows.len(), 22);
    }
}
