//! What may stand in a pgbouncer.ini, and what becomes of it: every key of PgBouncer 1.25, and some that came later.

use super::Fate;

/// What a value must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A whole number.
    Int,
    /// A number of seconds.
    Time,
    /// Anything.
    Text,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
}

/// What a number of 0 stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Zero {
    /// Itself.
    Nothing,
    /// `"off"`.
    Off,
    /// Longer than anybody waits.
    Never,
    /// No bound: the key is left out.
    NoBound,
    /// As little as may be.
    Least,
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// A number under this key.
    Number(&'static str, Zero),
    /// A duration under this key.
    Duration(&'static str, Zero),
    /// The same word under this key.
    Word(&'static str),
    /// The same text.
    Text(&'static str),
    /// A path; it begins where the program was started.
    File(&'static str),
    /// It need not be said.
    NotNeeded(&'static str),
    /// What it says cannot be had, unless it says one of these values.
    Only(&'static [&'static str], Fate, &'static str),
    /// It takes more than one key; what comes of it, in a word.
    Own(&'static str),
}

/// A key.
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What PgBouncer takes it to be where it is not said, if that is not what we do.
    pub(super) unsaid: Option<&'static str>,
    /// The table, and what is written there.
    pub(super) table: &'static str,
    pub(super) how: How,
}

impl Known {
    /// Whether two keys say the same thing.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let written = matches!(self.how, How::Number(..) | How::Duration(..) | How::Word(_) | How::Text(_));
        self.name == other.name || written && self.how == other.how
    }
}

const fn known(name: &'static str, kind: Kind, table: &'static str, how: How) -> Known {
    Known { name, kind, unsaid: None, table, how }
}

/// One whose default is not ours.
const fn unsaid(default: &'static str, known: Known) -> Known {
    Known { unsaid: Some(default), ..known }
}

const fn not_needed(name: &'static str, kind: Kind, why: &'static str) -> Known {
    known(name, kind, "", How::NotNeeded(why))
}

/// One that cannot be had, which those who run it should know.
const fn lost(name: &'static str, kind: Kind, fine: &'static [&'static str], why: &'static str) -> Known {
    known(name, kind, "", How::Only(fine, Fate::NotSupported, why))
}

/// One that cannot be had, without which it must not run.
const fn vital(name: &'static str, kind: Kind, fine: &'static [&'static str], why: &'static str) -> Known {
    known(name, kind, "", How::Only(fine, Fate::Blocks, why))
}

const MODES: Kind = Kind::Word(&["session", "transaction", "statement"]);
const SESSION_ATTRS: Kind = Kind::Word(&["any", "read-write", "read-only", "primary", "standby"]);
const HOST_TURNS: Kind = Kind::Word(&["disable", "round-robin"]);
const SSL_MODES: Kind = Kind::Word(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]);
/// How `auth_type` may ask.
const AUTH_TYPES: Kind = Kind::Word(&["any", "trust", "plain", "md5", "cert", "hba", "ldap", "pam", "scram-sha-256"]);

const LIMITS: &str = "[limits]";
const POOL: &str = "[pool]";
const LISTEN: &str = "[listen]";
const AUTH: &str = "[auth]";
const DATABASE: &str = "[[database]]";
const USER: &str = "[[user]]";
const LISTEN_TLS: &str = "[listen.tls]";
const SERVER: &str = "[server]";

const OWN_SUITES: &str = "rustls offers its own, all of them safe";
const BUFFERS: &str = "buffers grow and shrink with what they hold";
const LOG: &str = "what goes wrong is logged in any case";
const STDERR: &str = "the log goes to standard error, where systemd's journal finds it";
const RESOLVER: &str = "the system's resolver is asked as it is configured";
const KEEPALIVE: &str = "keep-alive is always on: after 60 s, every 10 s, 5 times";

/// `[pgbouncer]`.
pub(super) const GLOBAL: &[Known] = &[
    known("admin_users", Kind::Text, "[admin]", How::Own("admin.admin_users")),
    lost(
        "application_name_add_host",
        Kind::Int,
        &["0"],
        "application_name is the client's; SHOW CLIENTS has its address",
    ),
    known("auth_dbname", Kind::Text, AUTH, How::Own("auth.auth_dbname")),
    known("auth_file", Kind::Text, AUTH, How::File("auth_file")),
    known("auth_hba_file", Kind::Text, AUTH, How::Own("auth.hba_file")),
    known("auth_ident_file", Kind::Text, AUTH, How::Own("auth.ident_file")),
    lost("auth_ldap_options", Kind::Text, &[""], "there is no LDAP"),
    known("auth_query", Kind::Text, AUTH, How::Own("auth.auth_query")),
    known("auth_type", AUTH_TYPES, "[[hba]]", How::Own("[[hba]]")),
    known("auth_user", Kind::Text, AUTH, How::Own("auth.auth_user")),
    not_needed("autodb_idle_timeout", Kind::Time, "databases let in by * cost nothing while nobody uses them"),
    not_needed("cancel_wait_timeout", Kind::Time, "a cancel request waits for no connection of the pool"),
    known("client_idle_timeout", Kind::Time, POOL, How::Duration("client_idle_timeout", Zero::Off)),
    unsaid("60", known("client_login_timeout", Kind::Time, LIMITS, How::Duration("auth_timeout", Zero::Never))),
    lost("client_tls13_ciphers", Kind::Text, &[""], OWN_SUITES),
    known("client_tls_ca_file", Kind::Text, LISTEN_TLS, How::Own("listen.tls.client_ca")),
    known("client_tls_cert_file", Kind::Text, LISTEN_TLS, How::Own("listen.tls.certificate")),
    lost("client_tls_ciphers", Kind::Text, &["", "default", "secure", "fast", "normal"], OWN_SUITES),
    lost("client_tls_dheparams", Kind::Text, &["", "auto"], OWN_SUITES),
    lost("client_tls_ecdhcurve", Kind::Text, &["", "auto"], OWN_SUITES),
    known("client_tls_key_file", Kind::Text, LISTEN_TLS, How::Own("listen.tls.key")),
    known("client_tls_protocols", Kind::Text, "", How::Own("TLS 1.2 and 1.3")),
    known("client_tls_sslmode", SSL_MODES, LISTEN_TLS, How::Own("listen.tls.mode")),
    vital("conffile", Kind::Text, &[], "the file is the one of the command line"),
    known("default_pool_size", Kind::Int, POOL, How::Number("size", Zero::Nothing)),
    vital("disable_pqexec", Kind::Int, &["0"], "the simple query protocol cannot be switched off"),
    known("dns_max_ttl", Kind::Time, "[dns]", How::Duration("max_ttl", Zero::Least)),
    known("dns_nxdomain_ttl", Kind::Time, "[dns]", How::Duration("nxdomain_ttl", Zero::Least)),
    lost("dns_zone_check_period", Kind::Time, &["0"], "zones are not watched"),
    known("idle_transaction_timeout", Kind::Time, POOL, How::Duration("idle_transaction_timeout", Zero::Off)),
    known("ignore_startup_parameters", Kind::Text, AUTH, How::Own("auth.ignore_startup_parameters")),
    not_needed("job_name", Kind::Text, "it is of Windows' services"),
    known("listen_addr", Kind::Text, LISTEN, How::Own("listen.addresses")),
    unsaid("128", known("listen_backlog", Kind::Int, LISTEN, How::Number("backlog", Zero::Nothing))),
    known("listen_port", Kind::Int, LISTEN, How::Own("listen.addresses")),
    known("log_connections", Kind::Int, "[log]", How::Own("log.connections")),
    known("log_disconnections", Kind::Int, "[log]", How::Own("log.connections")),
    not_needed("log_pooler_errors", Kind::Int, LOG),
    not_needed("log_stats", Kind::Int, "statistics are asked for: ctl stats, SHOW STATS"),
    not_needed("logfile", Kind::Text, STDERR),
    lost("login_notify_message", Kind::Text, &[""], "nobody is greeted"),
    unsaid("100", known("max_client_conn", Kind::Int, LIMITS, How::Number("max_client_connections", Zero::Nothing))),
    known("max_db_client_connections", Kind::Int, DATABASE, How::Own("max_client_connections of every [[database]]")),
    known("max_db_connections", Kind::Int, DATABASE, How::Own("max_connections of every [[database]]")),
    lost("max_packet_size", Kind::Int, &["2147483647"], "messages may have up to 1 GiB, as in PostgreSQL"),
    unsaid("200", known("max_prepared_statements", Kind::Int, POOL, How::Number("prepared_statements", Zero::NoBound))),
    known("max_user_client_connections", Kind::Int, USER, How::Own("max_client_connections of every [[user]]")),
    known("max_user_connections", Kind::Int, USER, How::Own("max_server_connections of every [[user]]")),
    known("min_pool_size", Kind::Int, POOL, How::Own("pool.min_pool_size")),
    not_needed("peer_id", Kind::Int, "one process uses all cores and finds every cancel key"),
    not_needed("pidfile", Kind::Text, "the program stays in the foreground; who started it knows its pid"),
    not_needed("pkt_buf", Kind::Int, BUFFERS),
    not_needed("pool_idle_timeout", Kind::Time, "a pool costs nothing while nobody uses it"),
    unsaid("session", known("pool_mode", MODES, POOL, How::Word("mode"))),
    known("query_timeout", Kind::Time, POOL, How::Duration("query_timeout", Zero::Off)),
    lost(
        "query_wait_notify",
        Kind::Int,
        &["0"],
        "who waits is told nothing until query_wait_timeout; SHOW CLIENTS tells it",
    ),
    known("query_wait_timeout", Kind::Time, POOL, How::Duration("query_wait_timeout", Zero::Never)),
    known("reserve_pool_size", Kind::Int, POOL, How::Number("reserve_pool_size", Zero::Nothing)),
    known("reserve_pool_timeout", Kind::Time, POOL, How::Duration("reserve_pool_timeout", Zero::Never)),
    lost("resolv_conf", Kind::Text, &[""], RESOLVER),
    not_needed("sbuf_loopcnt", Kind::Int, "turns are bounded by bytes"),
    lost(
        "scram_iterations",
        Kind::Int,
        &["4096"],
        "passwords in clear are hashed 4096 times; ctl password-verifier makes others",
    ),
    not_needed("server_check_delay", Kind::Time, "a connection that dies is noticed at once"),
    not_needed("server_check_query", Kind::Text, "a connection that dies is noticed at once"),
    unsaid(
        "15",
        known("server_connect_timeout", Kind::Time, POOL, How::Duration("server_connect_timeout", Zero::Never)),
    ),
    lost("server_fast_close", Kind::Int, &["0"], "in session mode a connection is closed when its session ends"),
    known("server_idle_timeout", Kind::Time, POOL, How::Duration("server_idle_timeout", Zero::Never)),
    known("server_lifetime", Kind::Time, POOL, How::Duration("server_lifetime", Zero::Nothing)),
    not_needed(
        "server_login_retry",
        Kind::Time,
        "after a failure one attempt at a time is made, with pauses of 200 ms at most",
    ),
    known("server_reset_query", Kind::Text, POOL, How::Own("pool.server_clean")),
    known("server_reset_query_always", Kind::Int, POOL, How::Own("pool.server_clean")),
    lost("server_round_robin", Kind::Int, &["0"], "the connection that was used last is used first"),
    lost("server_tls13_ciphers", Kind::Text, &[""], OWN_SUITES),
    known("server_tls_ca_file", Kind::Text, SERVER, How::Own("server.tls_ca")),
    known("server_tls_cert_file", Kind::Text, SERVER, How::Own("server.tls_certificate")),
    lost("server_tls_ciphers", Kind::Text, &["", "default", "secure", "fast", "normal"], OWN_SUITES),
    known("server_tls_key_file", Kind::Text, SERVER, How::Own("server.tls_key")),
    known("server_tls_protocols", Kind::Text, "", How::Own("TLS 1.2 and 1.3")),
    unsaid("prefer", known("server_tls_sslmode", SSL_MODES, SERVER, How::Own("server.tls"))),
    not_needed("service_name", Kind::Text, "it is of Windows' services"),
    not_needed("so_reuseport", Kind::Int, "every core of the one process has a listener of its own"),
    lost("stats_period", Kind::Int, &["60"], "averages are of one to two minutes"),
    known("stats_users", Kind::Text, "[admin]", How::Own("admin.stats_users")),
    not_needed("suspend_timeout", Kind::Time, "SUSPEND waits until everything under way is sent"),
    lost("syslog", Kind::Int, &["0"], STDERR),
    not_needed("syslog_facility", Kind::Text, STDERR),
    not_needed("syslog_ident", Kind::Text, STDERR),
    not_needed("tcp_defer_accept", Kind::Int, "clients that say nothing are closed after limits.auth_timeout"),
    lost("tcp_keepalive", Kind::Int, &["1"], KEEPALIVE),
    lost("tcp_keepcnt", Kind::Int, &["0", "5"], KEEPALIVE),
    lost("tcp_keepidle", Kind::Int, &["0", "60"], KEEPALIVE),
    lost("tcp_keepintvl", Kind::Int, &["0", "10"], KEEPALIVE),
    lost("tcp_socket_buffer", Kind::Int, &["0"], "the kernel sizes them itself"),
    lost("tcp_user_timeout", Kind::Int, &["0"], "keep-alive finds who has gone"),
    not_needed("track_extra_parameters", Kind::Text, "every setting of a session is carried"),
    known("transaction_timeout", Kind::Time, POOL, How::Duration("transaction_timeout", Zero::Off)),
    unsaid("/tmp", known("unix_socket_dir", Kind::Text, LISTEN, How::Own("listen.unix_socket_dir"))),
    lost("unix_socket_group", Kind::Text, &[""], "anybody on the machine may connect; rules and passwords decide"),
    vital("unix_socket_mode", Kind::Int, &["0777"], "anybody on the machine may connect to the socket"),
    lost("user", Kind::Text, &[""], "start the program as that user: User= in the systemd unit"),
    known("verbose", Kind::Int, "[log]", How::Own("log.level")),
];

/// A line of `[databases]`.
pub(super) const OF_DATABASE: &[Known] = &[
    known("application_name", Kind::Text, DATABASE, How::Own("settings")),
    known("auth_dbname", Kind::Text, DATABASE, How::Own("auth.auth_dbname, the same for all")),
    known("auth_query", Kind::Text, DATABASE, How::Own("auth.auth_query, the same for all")),
    known("auth_user", Kind::Text, DATABASE, How::Own("auth.auth_user, the same for all")),
    known("client_encoding", Kind::Text, DATABASE, How::Own("settings")),
    known("connect_query", Kind::Text, DATABASE, How::Text("connect_query")),
    known("datestyle", Kind::Text, DATABASE, How::Own("settings")),
    known("dbname", Kind::Text, DATABASE, How::Text("dbname")),
    known("host", Kind::Text, DATABASE, How::Own("host")),
    known(
        "load_balance_hosts",
        HOST_TURNS,
        DATABASE,
        How::Own("`disable` is what we do: hosts are tried in their order"),
    ),
    known("max_db_client_connections", Kind::Int, DATABASE, How::Number("max_client_connections", Zero::NoBound)),
    known("max_db_connections", Kind::Int, DATABASE, How::Number("max_connections", Zero::NoBound)),
    known("min_pool_size", Kind::Int, DATABASE, How::Own("pool.min_pool_size")),
    known("password", Kind::Text, DATABASE, How::Own("password")),
    known("pool_mode", MODES, DATABASE, How::Word("pool.mode")),
    known("pool_size", Kind::Int, DATABASE, How::Number("pool.size", Zero::Nothing)),
    known("port", Kind::Int, DATABASE, How::Number("port", Zero::Nothing)),
    known("query_wait_timeout", Kind::Time, DATABASE, How::Duration("pool.query_wait_timeout", Zero::Never)),
    known("reserve_pool", Kind::Int, DATABASE, How::Number("pool.reserve_pool_size", Zero::Nothing)),
    known("reserve_pool_size", Kind::Int, DATABASE, How::Number("pool.reserve_pool_size", Zero::Nothing)),
    known("server_lifetime", Kind::Time, DATABASE, How::Duration("pool.server_lifetime", Zero::Nothing)),
    known("target_session_attrs", SESSION_ATTRS, DATABASE, How::Word("target_session_attrs")),
    known("timezone", Kind::Text, DATABASE, How::Own("settings")),
    known("user", Kind::Text, DATABASE, How::Text("user")),
];

/// A line of `[users]`.
pub(super) const OF_USER: &[Known] = &[
    known("client_idle_timeout", Kind::Time, USER, How::Duration("pool.client_idle_timeout", Zero::Off)),
    known("idle_transaction_timeout", Kind::Time, USER, How::Duration("pool.idle_transaction_timeout", Zero::Off)),
    known("max_user_client_connections", Kind::Int, USER, How::Number("max_client_connections", Zero::NoBound)),
    known("max_user_connections", Kind::Int, USER, How::Number("max_server_connections", Zero::NoBound)),
    known("pool_mode", MODES, USER, How::Word("pool.mode")),
    known("pool_size", Kind::Int, USER, How::Number("pool.size", Zero::Nothing)),
    known("query_timeout", Kind::Time, USER, How::Duration("pool.query_timeout", Zero::Off)),
    known("query_wait_timeout", Kind::Time, USER, How::Duration("pool.query_wait_timeout", Zero::Never)),
    known("reserve_pool_size", Kind::Int, USER, How::Number("pool.reserve_pool_size", Zero::Nothing)),
    known("transaction_timeout", Kind::Time, USER, How::Duration("pool.transaction_timeout", Zero::Off)),
];

/// A line of `[peers]`.
pub(super) const OF_PEER: &[Known] = &[
    not_needed("host", Kind::Text, "one process uses all cores"),
    not_needed("pool_size", Kind::Int, "one process uses all cores"),
    not_needed("port", Kind::Int, "one process uses all cores"),
];

/// A whole number as C reads it: decimal, octal behind a 0, hexadecimal behind 0x.
pub(super) fn number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    i64::from_str_radix(digits, radix).ok().map(|number| if negative { -number } else { number })
}

/// Seconds, perhaps with a fraction, as milliseconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    /// More than any duration may be.
    const SECONDS_MAX: f64 = 1e12;
    let sound = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    let seconds: f64 = text.parse().ok().filter(|_| sound)?;
    if !(0.0..SECONDS_MAX).contains(&seconds) {
        return None;
    }
    u64::try_from(std::time::Duration::from_secs_f64(seconds).as_millis()).ok()
}

impl Kind {
    /// Whether PgBouncer takes a value; if not, what it must be.
    pub(super) fn judge(self, value: &str) -> Result<(), String> {
        match self {
            Self::Int if number(value).is_none() => Err(format!("\"{value}\" is no whole number")),
            Self::Time if milliseconds(value).is_none() => Err(format!("\"{value}\" is no number of seconds")),
            Self::Word(words) if !words.iter().any(|word| word.eq_ignore_ascii_case(value)) => {
                Err(format!("\"{value}\" is none of {}", words.join(", ")))
            }
            Self::Int | Self::Time | Self::Word(_) | Self::Text => Ok(()),
        }
    }

    /// Whether two values mean the same.
    pub(super) fn same(self, one: &str, other: &str) -> bool {
        match self {
            Self::Int => number(one) == number(other),
            Self::Time => milliseconds(one) == milliseconds(other),
            Self::Text | Self::Word(_) => one.eq_ignore_ascii_case(other),
        }
    }
}
