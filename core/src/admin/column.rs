//! The columns of everything that can be shown: those of PgBouncer 1.25 in its order, our own behind them.

use crate::admin::command::Show;
use crate::admin::table::{Column, Kind};

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int4 }
}

const fn long(name: &'static str) -> Column {
    Column { name, kind: Kind::Int8 }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: Kind::Numeric }
}

const fn bytes(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytes }
}

impl Show {
    /// Its columns; `None` where nothing but a notice comes.
    pub(crate) const fn columns(self) -> Option<&'static [Column]> {
        Some(match self {
            Self::Help => return None,
            Self::Clients | Self::Servers => &CONNECTIONS,
            Self::Sockets | Self::ActiveSockets => &SOCKETS,
            Self::Pools => &POOLS,
            Self::Databases => &DATABASES,
            Self::Users => &USERS,
            Self::Lists => &LISTS,
            Self::Config => &CONFIG,
            Self::State => &STATE,
            Self::Version => &VERSION,
            Self::Stats => &STATS,
            Self::StatsTotals | Self::StatsAverages => &STATS_PART,
            Self::Totals => &TOTALS,
            Self::Mem => &MEM,
            Self::Fds => &FDS,
            Self::DnsHosts => &DNS_HOSTS,
            Self::DnsZones => &DNS_ZONES,
            Self::Peers => &PEERS,
            Self::PeerPools => &PEER_POOLS,
            Self::Shards => &SHARDS,
            Self::Pipes => &PIPES,
            Self::Pins => &PINS,
            Self::Listeners => &LISTENERS,
        })
    }
}

const CONNECTIONS: [Column; 22] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
    int("shard"),
];

const SOCKETS: [Column; 29] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
    int("shard"),
];

const POOLS: [Column; 17] = [
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

const DATABASES: [Column; 17] = [
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
];

const USERS: [Column; 8] = [
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

const LISTS: [Column; 2] = [text("list"), int("items")];
const CONFIG: [Column; 4] = [text("key"), text("value"), text("default"), text("changeable")];
const STATE: [Column; 2] = [text("key"), text("value")];
const VERSION: [Column; 1] = [text("version")];

const STATS: [Column; 23] = [
    text("database"),
    number("total_server_assignment_count"),
    number("total_xact_count"),
    number("total_query_count"),
    number("total_received"),
    number("total_sent"),
    number("total_xact_time"),
    number("total_query_time"),
    number("total_wait_time"),
    number("total_client_parse_count"),
    number("total_server_parse_count"),
    number("total_bind_count"),
    number("avg_server_assignment_count"),
    number("avg_xact_count"),
    number("avg_query_count"),
    number("avg_recv"),
    number("avg_sent"),
    number("avg_xact_time"),
    number("avg_query_time"),
    number("avg_wait_time"),
    number("avg_client_parse_count"),
    number("avg_server_parse_count"),
    number("avg_bind_count"),
];

const STATS_PART: [Column; 12] = [
    text("database"),
    number("server_assignment_count"),
    number("xact_count"),
    number("query_count"),
    number("bytes_received"),
    number("bytes_sent"),
    number("xact_time"),
    number("query_time"),
    number("wait_time"),
    number("client_parse_count"),
    number("server_parse_count"),
    number("bind_count"),
];

/// The names under which `SHOW TOTALS` gives each of the figures, behind `total_` and `avg_`.
pub(crate) const TOTALS_NAMES: [&str; 11] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];

const TOTALS: [Column; 2] = [text("name"), number("value")];
const MEM: [Column; 5] = [text("name"), int("size"), int("used"), int("free"), int("memtotal")];

const FDS: [Column; 15] = [
    int("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int("port"),
    long("cancel"),
    int("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytes("scram_client_key"),
    bytes("scram_server_key"),
];

const DNS_HOSTS: [Column; 3] = [text("hostname"), long("ttl"), text("addrs")];
const DNS_ZONES: [Column; 3] = [text("zonename"), long("serial"), int("count")];
const PEERS: [Column; 4] = [int("peer_id"), text("host"), int("port"), int("pool_size")];

const PEER_POOLS: [Column; 5] = [
    int("database"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];

const SHARDS: [Column; 15] = [
    int("shard"),
    int("core"),
    int("clients"),
    int("clients_waiting"),
    int("servers"),
    int("pools"),
    number("buffer_bytes"),
    number("logins"),
    number("login_failures"),
    number("messages_in"),
    number("messages_out"),
    number("bytes_in"),
    number("bytes_out"),
    number("handed_over"),
    number("permits"),
];

const PIPES: [Column; 14] = [
    int("shard"),
    int("id"),
    text("database"),
    text("user"),
    text("state"),
    text("client"),
    int("in_flight"),
    int("owed"),
    text("left_behind"),
    int("settings"),
    int("prepared_statements"),
    int("remote_pid"),
    int("age"),
    int("idle"),
];

const LISTENERS: [Column; 7] = [
    text("database"),
    text("state"),
    int("process_id"),
    number("channels"),
    number("sessions"),
    number("notifications"),
    number("losses"),
];

const PINS: [Column; 9] = [
    int("client"),
    text("user"),
    text("database"),
    text("application_name"),
    text("reason"),
    text("since"),
    int("seconds"),
    text("server"),
    int("shard"),
];
