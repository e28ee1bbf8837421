//! Failed logins: who guesses passwords has to wait, and nobody else.
//!
//! Counts per (address, user), in a table of fixed size that all shards share without a lock. What is held back is the proof,
//! not the connection: a client may connect as often as it likes, but of what it sends to prove who it is, one after the
//! other is looked at, with pauses that grow. A login that succeeds clears the count.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures that cost nothing: people mistype.
const FREE_FAILURES: u64 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A failure is forgotten when none has followed for so long.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Pauses of the longest kind that one may have to wait for; who comes when more are ahead is turned away.
const QUEUE_MAX: u32 = 2;
const SETS: usize = 4096;
const WAYS: usize = 4;

/// Who tries to log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspect(u64);

/// What becomes of a proof that has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// It is looked at.
    Now,
    /// It is looked at then.
    At(Instant),
    /// It is not: too many are waiting before it.
    Refused,
}

/// The table. An entry is 16 bits that tell suspects apart, 8 bits of failures, 40 bits of milliseconds: when the next proof
/// may be looked at.
pub(crate) struct Throttle {
    entries: Box<[[AtomicU64; WAYS]]>,
    hasher: foldhash::quality::RandomState,
    began: Instant,
    pause_max: Duration,
}

const MILLIS: u64 = (1 << 40) - 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u64,
    failures: u64,
    free_at: u64,
}

impl Entry {
    fn unpack(bits: u64) -> Self {
        Self { tag: bits >> 48, failures: bits >> 40 & 0xff, free_at: bits & MILLIS }
    }

    fn pack(self) -> u64 {
        self.tag << 48 | self.failures.min(0xff) << 40 | self.free_at.min(MILLIS)
    }
}

impl Throttle {
    /// Nobody has failed. A longest pause of zero switches it off.
    pub(crate) fn new(pause_max: Duration) -> Self {
        Self {
            entries: (0..SETS).map(|_| Default::default()).collect(),
            hasher: foldhash::quality::RandomState::default(),
            began: Instant::now(),
            pause_max,
        }
    }

    /// Somebody, by its address (or which user of this machine it is) and the user it wants to be. IPv6 addresses of one network are one, since each host has as
    /// many as it likes.
    pub(crate) fn suspect(&self, address: Option<IpAddr>, uid: Option<u32>, user: &str) -> Suspect {
        let mut hasher = self.hasher.build_hasher();
        match address.map(|address| address.to_canonical()) {
            None => hasher.write_u64(uid.map_or(u64::MAX, u64::from)),
            Some(IpAddr::V4(address)) => hasher.write_u32(address.to_bits()),
            Some(IpAddr::V6(address)) => hasher.write_u128(address.to_bits() >> 64 << 64),
        }
        hasher.write(user.as_bytes());
        Suspect(hasher.finish())
    }

    /// A proof has come: when is it looked at?
    pub(crate) fn turn(&self, suspect: Suspect, now: Instant) -> Turn {
        let now_ms = self.millis(now);
        let queue_ms = millis(self.pause_max) * u64::from(QUEUE_MAX);
        let mut turn = Turn::Now;
        self.update(suspect, now_ms, |entry| {
            turn = Turn::Now;
            if entry.failures < FREE_FAILURES {
                return None;
            }
            let at = entry.free_at.max(now_ms);
            if at - now_ms > queue_ms {
                turn = Turn::Refused;
                return None;
            }
            if at > now_ms {
                turn = Turn::At(now + Duration::from_millis(at - now_ms));
            }
            Some(Entry { free_at: at + self.pause_ms(entry.failures), ..entry })
        });
        turn
    }

    /// A proof was wrong.
    pub(crate) fn note_failure(&self, suspect: Suspect, now: Instant) {
        if self.pause_max.is_zero() {
            return;
        }
        let now_ms = self.millis(now);
        let failed = |entry: Entry| {
            let failures = entry.failures + 1;
            let pause = if failures < FREE_FAILURES { 0 } else { self.pause_ms(failures) };
            Entry { failures, free_at: entry.free_at.max(now_ms + pause), ..entry }
        };
        if !self.update(suspect, now_ms, |entry| Some(failed(entry))) {
            self.insert(suspect, now_ms, failed(Entry { tag: tag(suspect), failures: 0, free_at: now_ms }));
        }
    }

    /// It has proved who it is.
    pub(crate) fn clear(&self, suspect: Suspect, now: Instant) {
        self.update(suspect, self.millis(now), |_| Some(Entry { tag: 0, failures: 0, free_at: 0 }));
    }

    /// Changes the entry of a suspect, if it has one; gives whether it has.
    fn update(&self, suspect: Suspect, now_ms: u64, mut change: impl FnMut(Entry) -> Option<Entry>) -> bool {
        for slot in self.set(suspect) {
            let mut bits = slot.load(Ordering::Acquire);
            loop {
                let entry = Entry::unpack(bits);
                if entry.failures == 0 || entry.tag != tag(suspect) || is_old(entry, now_ms) {
                    break;
                }
                let Some(changed) = change(entry) else { return true };
                match slot.compare_exchange_weak(bits, changed.pack(), Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return true,
                    Err(other) => bits = other,
                }
            }
        }
        false
    }

    /// Puts an entry in the place of the one that matters least.
    fn insert(&self, suspect: Suspect, now_ms: u64, entry: Entry) {
        let weight = |slot: &&AtomicU64| {
            let other = Entry::unpack(slot.load(Ordering::Acquire));
            if is_old(other, now_ms) { (0, 0) } else { (other.failures, other.free_at) }
        };
        if let Some(slot) = self.set(suspect).iter().min_by_key(weight) {
            slot.store(entry.pack(), Ordering::Release);
        }
    }

    fn set(&self, suspect: Suspect) -> &[AtomicU64] {
        let index = usize::try_from(suspect.0 & 0xffff_ffff).unwrap_or_default() % SETS;
        self.entries.get(index).map_or(&[], |set| set.as_slice())
    }

    fn pause_ms(&self, failures: u64) -> u64 {
        let doublings = u32::try_from(failures.saturating_sub(FREE_FAILURES)).unwrap_or(u32::MAX).min(20);
        millis((PAUSE_MIN * (1 << doublings)).min(self.pause_max))
    }

    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.began))
    }
}

fn tag(suspect: Suspect) -> u64 {
    suspect.0 >> 48
}

fn is_old(entry: Entry, now_ms: u64) -> bool {
    entry.failures == 0 || entry.free_at + millis(FORGET_AFTER) < now_ms
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(throttle: &Throttle, suspect: Suspect, now: Instant, times: u32) {
        (0..times).for_each(|_| throttle.note_failure(suspect, now));
    }

    #[test]
    fn pauses_grow_and_others_do_not_wait() {
        let throttle = Throttle::new(Duration::from_secs(1));
        let now = throttle.began + Duration::from_secs(5);
        let here = Some("10.0.0.1".parse().unwrap());
        let mallory = throttle.suspect(here, None, "ann");
        fail(&throttle, mallory, now, 2);
        assert_eq!(throttle.turn(mallory, now), Turn::Now);
        fail(&throttle, mallory, now, 1);
        assert_eq!(throttle.turn(mallory, now), Turn::At(now + PAUSE_MIN));
        // the next in the queue waits longer
        assert_eq!(throttle.turn(mallory, now), Turn::At(now + PAUSE_MIN * 2));
        let (local, other) = (throttle.suspect(None, Some(1), "ann"), throttle.suspect(None, Some(2), "ann"));
        fail(&throttle, local, now, 40);
        for other in [throttle.suspect(here, None, "bob"), other] {
            assert_eq!(throttle.turn(other, now), Turn::Now);
        }
        fail(&throttle, mallory, now, 40);
        let turns: Vec<Turn> = (0..8).map(|_| throttle.turn(mallory, now)).collect();
        assert!(turns.contains(&Turn::Refused), "{turns:?}");
        let later = now + Duration::from_secs(4);
        assert_ne!(throttle.turn(mallory, later), Turn::Refused);
        throttle.clear(mallory, later);
        assert_eq!(throttle.turn(mallory, later), Turn::Now);
    }

    #[test]
    fn failures_are_forgotten() {
        let throttle = Throttle::new(Duration::from_secs(5));
        let now = throttle.began;
        let somebody = throttle.suspect(None, Some(1), "ann");
        fail(&throttle, somebody, now, 10);
        assert_ne!(throttle.turn(somebody, now), Turn::Now);
        assert_eq!(throttle.turn(somebody, now + Duration::from_secs(90)), Turn::Now);
        fail(&throttle, somebody, now + Duration::from_secs(90), 1);
        assert_eq!(throttle.turn(somebody, now + Duration::from_secs(90)), Turn::Now);
    }

    #[test]
    fn a_flood_of_names_takes_no_memory_and_a_pause_of_zero_switches_it_off() {
        let throttle = Throttle::new(Duration::from_secs(5));
        for number in 0..100_000 {
            fail(&throttle, throttle.suspect(None, None, &number.to_string()), throttle.began, 1);
        }
        let off = Throttle::new(Duration::ZERO);
        let somebody = off.suspect(None, Some(1), "ann");
        fail(&off, somebody, off.began, 10);
        assert_eq!(off.turn(somebody, off.began), Turn::Now);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one() {
        let throttle = Throttle::new(Duration::ZERO);
        let of = |address: &str| throttle.suspect(Some(address.parse().unwrap()), None, "a");
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
    }
}
