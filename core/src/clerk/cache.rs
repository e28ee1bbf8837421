//! Users that were looked up, for a while: found ones and such as there are not, each so many at most.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Role;

/// Users of either kind; the oldest go first.
const USERS_MAX: usize = 10_000;
/// What was looked up just now is not out of date, whoever says so: nobody can make us ask all the time.
const YOUNG: Duration = Duration::from_secs(1);

/// See the module documentation.
pub(super) struct Cache {
    found: Side<Role>,
    missing: Side<()>,
}

/// What is remembered of a user.
pub(super) enum Memory<'m> {
    Nothing,
    Missing,
    Found(&'m Role),
}

impl Cache {
    pub(super) fn new(found_for: Duration, missing_for: Duration) -> Self {
        Self { found: Side::new(found_for), missing: Side::new(missing_for) }
    }

    pub(super) fn recall(&self, user: &str, now: Instant) -> Memory<'_> {
        match (self.found.get(user, now), self.missing.get(user, now)) {
            (Some(role), _) => Memory::Found(role),
            (None, Some(())) => Memory::Missing,
            (None, None) => Memory::Nothing,
        }
    }

    pub(super) fn remember(&mut self, user: &str, role: Option<Role>, now: Instant) {
        match role {
            Some(role) => {
                self.missing.users.remove(user);
                self.found.put(user, role, now);
            }
            None => {
                self.found.users.remove(user);
                self.missing.put(user, (), now);
            }
        }
    }

    /// A proof against what is remembered has failed, here or at PostgreSQL's: the password may have been changed.
    pub(super) fn forget(&mut self, user: &str, now: Instant) {
        let young = |side: &Instant| now.saturating_duration_since(*side) < YOUNG;
        if self.found.users.get(user).is_some_and(|(since, _)| !young(since)) {
            self.found.users.remove(user);
        }
    }
}

struct Side<T> {
    users: HashMap<String, (Instant, T)>,
    /// Names in the order they came; those that are gone from `users` may still be there.
    order: VecDeque<String>,
    keep_for: Duration,
}

impl<T> Side<T> {
    fn new(keep_for: Duration) -> Self {
        Self { users: HashMap::new(), order: VecDeque::new(), keep_for }
    }

    fn get(&self, user: &str, now: Instant) -> Option<&T> {
        let (since, value) = self.users.get(user)?;
        (now.saturating_duration_since(*since) < self.keep_for).then_some(value)
    }

    fn put(&mut self, user: &str, value: T, now: Instant) {
        if self.users.insert(user.to_owned(), (now, value)).is_none() {
            self.order.push_back(user.to_owned());
        }
        while self.order.len() > USERS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.users.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(cache: &Cache, user: &str, now: Instant) -> &'static str {
        match cache.recall(user, now) {
            Memory::Nothing => "nothing",
            Memory::Missing => "missing",
            Memory::Found(_) => "found",
        }
    }

    #[test]
    fn users_are_remembered_for_a_while() {
        let mut cache = Cache::new(Duration::from_secs(30), Duration::from_secs(5));
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        cache.remember("ann", Some(Role::of(None)), now);
        cache.remember("bob", None, now);
        assert_eq!([state(&cache, "ann", after(29)), state(&cache, "bob", after(4))], ["found", "missing"]);
        assert_eq!([state(&cache, "ann", after(30)), state(&cache, "bob", after(5))], ["nothing", "nothing"]);
        cache.remember("bob", Some(Role::of(None)), after(6));
        cache.remember("ann", None, after(6));
        assert_eq!([state(&cache, "ann", after(7)), state(&cache, "bob", after(7))], ["missing", "found"]);
        cache.forget("bob", after(6));
        assert_eq!(state(&cache, "bob", after(7)), "found");
        cache.forget("bob", after(8));
        assert_eq!(state(&cache, "bob", after(8)), "nothing");
    }

    #[test]
    fn many_names_push_out_the_oldest_of_their_kind_only() {
        let mut cache = Cache::new(Duration::from_secs(30), Duration::from_secs(30));
        let now = Instant::now();
        cache.remember("ann", Some(Role::of(None)), now);
        for number in 0..3 * USERS_MAX {
            cache.remember(&number.to_string(), None, now);
        }
        assert_eq!(cache.missing.users.len(), USERS_MAX);
        assert!(cache.missing.order.len() <= USERS_MAX);
        assert_eq!([state(&cache, "ann", now), state(&cache, "0", now)], ["found", "nothing"]);
        for _ in 0..3 * USERS_MAX {
            cache.remember("bob", Some(Role::of(None)), now);
            cache.remember("bob", None, now);
        }
        assert!(cache.found.order.len() <= USERS_MAX);
    }
}
