//! Bounds on how long things may take that have none unless one is set.

use std::time::Duration;

/// A bound on how long something may take, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeout(Option<Duration>);

impl Timeout {
    /// No bound.
    pub const OFF: Self = Self(None);

    /// This bound.
    #[must_use]
    pub const fn after(duration: Duration) -> Self {
        Self(Some(duration))
    }

    /// The bound, if there is one.
    #[must_use]
    pub const fn duration(self) -> Option<Duration> {
        self.0
    }
}

/// Keys of `[pool]` that bound what clients may do. Default: all off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeouts {
    /// How long PostgreSQL may work on one request.
    pub query: Timeout,
    /// How long a transaction may last.
    pub transaction: Timeout,
    /// How long a client may do nothing in a transaction.
    pub idle_transaction: Timeout,
    /// How long a client may do nothing outside one.
    pub client_idle: Timeout,
    /// How long a client may leave a result unread that keeps a server connection.
    pub client_stall: Timeout,
}

impl Timeouts {
    /// The shortest of those that concern a server connection clients are using.
    #[must_use]
    pub fn shortest_in_use(&self) -> Option<Duration> {
        let all = [self.query, self.transaction, self.idle_transaction, self.client_stall];
        all.into_iter().filter_map(Timeout::duration).min()
    }
}

/// Keys of [`Timeouts`] that a database or user has of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Timeouts")]
pub struct TimeoutOverrides {
    pub query: Option<Timeout>,
    pub transaction: Option<Timeout>,
    pub idle_transaction: Option<Timeout>,
    pub client_idle: Option<Timeout>,
    pub client_stall: Option<Timeout>,
}

impl TimeoutOverrides {
    /// What comes of timeouts when these keys are put over them.
    #[must_use]
    pub fn over(&self, timeouts: Timeouts) -> Timeouts {
        Timeouts {
            query: self.query.unwrap_or(timeouts.query),
            transaction: self.transaction.unwrap_or(timeouts.transaction),
            idle_transaction: self.idle_transaction.unwrap_or(timeouts.idle_transaction),
            client_idle: self.client_idle.unwrap_or(timeouts.client_idle),
            client_stall: self.client_stall.unwrap_or(timeouts.client_stall),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_in_use_leaves_out_what_concerns_idle_clients() {
        let of = |ms| Timeout::after(Duration::from_millis(ms));
        let mut timeouts = Timeouts { client_idle: of(1), ..Timeouts::default() };
        assert_eq!(timeouts.shortest_in_use(), None);
        (timeouts.query, timeouts.client_stall) = (of(30), of(20));
        assert_eq!(timeouts.shortest_in_use(), Some(Duration::from_millis(20)));
    }

    #[test]
    fn an_override_may_take_a_bound_away() {
        let bound = Timeout::after(Duration::from_secs(1));
        let common = Timeouts { query: bound, transaction: bound, ..Timeouts::default() };
        let own = TimeoutOverrides { query: Some(Timeout::OFF), ..TimeoutOverrides::default() };
        assert_eq!(own.over(common), Timeouts { transaction: bound, ..Timeouts::default() });
    }
}
