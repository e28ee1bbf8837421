//! What is counted. Gauges say how much there is now, counters how often something happened since the start.

use rkyv::{Archive, Deserialize, Serialize};

use crate::hist::{AsPairs, Grade, Hist};

/// How many different SQLSTATE classes are told apart; PostgreSQL has about 45. Further ones count as class `??`.
const CLASSES_MAX: usize = 64;

/// Declares a struct of statistics and how two of them combine, so that no field can be forgotten there.
macro_rules! statistics {
    (
        $(#[$doc:meta])* $name:ident
        keys { $($(#[$key_doc:meta])* $key:ident: $key_type:ty,)* }
        limits { $($(#[$limit_doc:meta])* $limit:ident,)* }
        gauges { $($(#[$gauge_doc:meta])* $gauge:ident,)* }
        counters { $($(#[$counter_doc:meta])* $counter:ident,)* }
        hists { $($(#[$hist_doc:meta])* $hist:ident,)* }
        lists { $($(#[$list_doc:meta])* $list:ident: $entry:ty,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
        pub struct $name {
            $($(#[$key_doc])* pub $key: $key_type,)*
            $($(#[$limit_doc])* pub $limit: u64,)*
            $($(#[$gauge_doc])* pub $gauge: u64,)*
            $($(#[$counter_doc])* pub $counter: u64,)*
            $($(#[$hist_doc])* #[rkyv(with = AsPairs)] pub $hist: Hist,)*
            $($(#[$list_doc])* pub $list: Vec<$entry>,)*
        }

        impl $name {
            /// Adds another shard's: gauges and counters are sums, limits the greater, the keys stay.
            pub fn add(&mut self, other: &Self) {
                $(self.$limit = self.$limit.max(other.$limit);)*
                $(self.$gauge = self.$gauge.saturating_add(other.$gauge);)*
                $(self.$counter = self.$counter.saturating_add(other.$counter);)*
                $(self.$hist.merge(&other.$hist);)*
                $(add_list(&mut self.$list, &other.$list);)*
            }

            /// Takes an earlier state's counters away; gauges, limits and keys stay.
            pub fn subtract(&mut self, earlier: &Self) {
                $(self.$counter = self.$counter.saturating_sub(earlier.$counter);)*
                $(self.$hist.subtract(&earlier.$hist);)*
                $(subtract_list(&mut self.$list, &earlier.$list);)*
            }
        }
    };
}

statistics! {
    /// One shard's clients and work.
    ShardStats
    keys {
        /// The shard.
        shard: u16,
        /// The core it is pinned to.
        core: u16,
    }
    limits {}
    gauges {
        /// Clients connected.
        clients,
        /// Of those, waiting for a server connection.
        clients_waiting,
        /// Bytes of buffers in use.
        buffer_bytes,
    }
    counters {
        /// Clients that logged in.
        logins,
        /// Clients that did not.
        login_failures,
        /// Messages from clients.
        messages_in,
        /// Messages to clients.
        messages_out,
        /// Accepted connections handed to another shard.
        handed_over,
        /// Bytes from clients.
        bytes_in,
        /// Bytes to clients.
        bytes_out,
        /// Microseconds of CPU that the shard has used, work of the kernel's for it included.
        busy_us,
        /// Microseconds in which it could have worked and its core was given to others.
        kept_waiting_us,
        /// Messages to other shards.
        ring_messages_out,
        /// Messages from other shards.
        ring_messages_in,
    }
    hists {}
    lists {
        /// Errors of ours that clients got before they had a pool, by SQLSTATE class.
        errors: ClassCount,
    }
}

statistics! {
    /// One shard's part of a pool. Requests are [`PoolStats::requests_shared`] and [`PoolStats::requests_exclusive`] together; the
    /// other `requests_` say what else was true of some of them.
    PoolStats
    keys {
        /// The shard.
        shard: u16,
        /// The database, as clients ask for it.
        database: String,
        /// The user, as clients log in.
        user: String,
        /// Where its server connections go, as the configuration says.
        target: String,
    }
    limits {
        /// How many server connections the pool may have, all shards together.
        pool_size,
        /// Microseconds that the session that waits longest has waited for a server connection until now.
        maxwait_us,
    }
    gauges {
        /// Sessions with a request in flight or a server connection of their own.
        clients_active,
        /// Sessions waiting for a server connection.
        clients_waiting,
        /// Sessions for which one connection per database listens.
        clients_listening,
        /// Server connections with nothing in flight.
        servers_idle,
        /// Server connections with requests of any number of sessions in flight.
        servers_busy_shared,
        /// Server connections kept by one session for a transaction.
        servers_exclusive,
        /// Server connections kept by one session because of state it has there.
        servers_pinned,
        /// Server connections being made.
        servers_connecting,
        /// Server connections being reset.
        servers_cleaning,
        /// Permits for server connections this shard holds; all shards' are at most `pool_size`.
        permits_held,
    }
    counters {
        /// Requests that went over a shared server connection.
        requests_shared,
        /// Requests that went over a server connection of the session's own.
        requests_exclusive,
        /// Requests for which another shard gave up a server connection.
        requests_relayed,
        /// Requests sent a second time, because the first certainly had no effect.
        requests_retried,
        /// Requests cancelled by their client.
        requests_cancelled,
        /// Transactions ended.
        transactions,
        /// Resets of server connections between two sessions.
        cleanings,
        /// Server connections asked what their session had left there.
        probes,
        /// Sessions whose channels were taken over from their server connection.
        listens_moved,
        /// Notifications told to clients.
        notifications,
        /// Settings of sessions that were applied on server connections, or sent along with requests.
        settings_replayed,
        /// Statements prepared on a server connection for a client.
        prepared_parses,
        /// Statements that were prepared there already.
        prepared_hits,
        /// Statements dropped there for want of room.
        prepared_evicted,
        /// Server connections made.
        connects,
        /// Attempts that failed.
        connect_failures,
        /// Server connections closed because their state was in doubt.
        closes_in_doubt,
        /// Clients that waited for `query_wait_timeout` in vain.
        wait_timeouts,
        /// Bytes from PostgreSQL.
        bytes_from_server,
        /// Bytes to PostgreSQL.
        bytes_to_server,
        /// Statements that clients prepared.
        client_parses,
        /// Prepared statements that clients readied for execution.
        client_binds,
        /// Microseconds in transactions, from the first request to the end.
        xact_us,
        /// Microseconds in which PostgreSQL worked on requests.
        query_us,
        /// Microseconds that clients waited for server connections.
        wait_us,
        /// How often a session was given a server connection, or a place on a shared one.
        assignments,
        /// Microseconds in which server connections were in use: by sessions, or being cleaned or dressed for them.
        busy_us,
    }
    hists {
        /// Of each request that PostgreSQL has answered: from its arrival until it was written to a server connection.
        queue_time,
        /// From then until the connection was done with what was ahead of it; 0 where nothing was.
        pipe_wait_time,
        /// From then to the end of PostgreSQL's reply.
        server_time,
        /// The rest of the time from its arrival until its reply was handed to the client's socket.
        proxy_time,
    }
    lists {
        /// Errors from PostgreSQL, by SQLSTATE class.
        errors: ClassCount,
        /// Errors of ours that clients got, by SQLSTATE class.
        plane_errors: ClassCount,
        /// How often server connections were kept for a session's state, by what it was.
        pins: PinCount,
        /// How often clients reached a limit, by the limit's key in the configuration.
        limits: LimitCount,
    }
}

impl PoolStats {
    /// All requests.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.requests_shared.saturating_add(self.requests_exclusive)
    }

    /// Counts an error of PostgreSQL's by its SQLSTATE.
    pub fn count_error(&mut self, sqlstate: &[u8]) {
        count_class(&mut self.errors, sqlstate);
    }

    /// Counts an error of ours.
    pub fn count_plane_error(&mut self, sqlstate: &[u8]) {
        count_class(&mut self.plane_errors, sqlstate);
    }

    /// How finely its durations are told apart; what was counted is forgotten.
    pub fn grade(&mut self, grade: Grade) {
        self.queue_time = Hist::graded(grade);
        self.pipe_wait_time = Hist::graded(grade);
        self.server_time = Hist::graded(grade);
        self.proxy_time = Hist::graded(grade);
    }

    /// Counts that a server connection was kept for a session's state.
    pub fn count_pin(&mut self, reason: &'static str) {
        match self.pins.iter_mut().find(|pin| pin.reason == reason) {
            Some(pin) => pin.count = pin.count.saturating_add(1),
            None => self.pins.push(PinCount { reason: reason.to_owned(), count: 1 }),
        }
    }

    /// Counts that a client reached a limit.
    pub fn count_limit(&mut self, limit: &'static str) {
        match self.limits.iter_mut().find(|count| count.limit == limit) {
            Some(count) => count.count = count.count.saturating_add(1),
            None => self.limits.push(LimitCount { limit: limit.to_owned(), count: 1 }),
        }
    }

    pub(crate) fn key(&self) -> (u16, &str, &str) {
        (self.shard, &self.database, &self.user)
    }
}

impl ShardStats {
    /// Counts an error of ours that somebody got who had no pool.
    pub fn count_error(&mut self, sqlstate: &[u8]) {
        count_class(&mut self.errors, sqlstate);
    }
}

fn count_class(errors: &mut Vec<ClassCount>, sqlstate: &[u8]) {
    let class = sqlstate.first_chunk::<2>().filter(|class| class.iter().all(u8::is_ascii_alphanumeric));
    let known = class.filter(|class| errors.len() < CLASSES_MAX || errors.iter().any(|e| e.class == **class));
    add_list(errors, &[ClassCount { class: *known.unwrap_or(b"??"), count: 1 }]);
}

/// Errors of one SQLSTATE class.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct ClassCount {
    /// The first two characters of the SQLSTATE.
    pub class: [u8; 2],
    /// How many.
    pub count: u64,
}

impl serde::Serialize for ClassCount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut out = serializer.serialize_struct("ClassCount", 2)?;
        out.serialize_field("class", &String::from_utf8_lossy(&self.class))?;
        out.serialize_field("count", &self.count)?;
        out.end()
    }
}

/// How often server connections were kept for one reason.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct PinCount {
    /// What kept them.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// How often clients reached one limit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct LimitCount {
    /// The key of the limit in the configuration.
    pub limit: String,
    /// How often.
    pub count: u64,
}

/// An entry of a list: what is counted, and how often.
trait Entry: Clone {
    fn is_same(&self, other: &Self) -> bool;
    fn count(&mut self) -> &mut u64;
}

impl Entry for ClassCount {
    fn is_same(&self, other: &Self) -> bool {
        self.class == other.class
    }
    fn count(&mut self) -> &mut u64 {
        &mut self.count
    }
}

impl Entry for PinCount {
    fn is_same(&self, other: &Self) -> bool {
        self.reason == other.reason
    }
    fn count(&mut self) -> &mut u64 {
        &mut self.count
    }
}

impl Entry for LimitCount {
    fn is_same(&self, other: &Self) -> bool {
        self.limit == other.limit
    }
    fn count(&mut self) -> &mut u64 {
        &mut self.count
    }
}

fn add_list<E: Entry>(list: &mut Vec<E>, other: &[E]) {
    for entry in other {
        let mut entry = entry.clone();
        match list.iter_mut().find(|own| own.is_same(&entry)) {
            Some(own) => *own.count() = own.count().saturating_add(*entry.count()),
            None => list.push(entry),
        }
    }
}

fn subtract_list<E: Entry>(list: &mut Vec<E>, earlier: &[E]) {
    for entry in earlier {
        let mut entry = entry.clone();
        if let Some(own) = list.iter_mut().find(|own| own.is_same(&entry)) {
            *own.count() = own.count().saturating_sub(*entry.count());
        }
    }
    list.retain_mut(|entry| *entry.count() > 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_classes_are_bounded_whatever_a_server_sends() {
        let mut pool = PoolStats::default();
        for state in [&b""[..], b"2", b"\xff\xff000"] {
            pool.count_error(state);
        }
        assert_eq!(pool.errors, [ClassCount { class: *b"??", count: 3 }]);
        for a in b'A'..=b'Z' {
            for b in b'A'..=b'Z' {
                pool.count_error(&[a, b, b'0', b'0', b'0']);
            }
        }
        pool.count_error(b"AA111");
        assert!(pool.errors.len() <= CLASSES_MAX + 1);
        assert_eq!(pool.errors[1], ClassCount { class: *b"AA", count: 2 });
        assert_eq!(pool.errors.iter().map(|error| error.count).sum::<u64>(), 3 + 26 * 26 + 1);
    }
}
