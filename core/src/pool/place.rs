//! Which of its places a pool tries next, and connections to places that are none any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use config::TlsMode;
use runtime::Address;

use crate::listen::Order;
use crate::pipe::{List, Server, ServerId};
use crate::pool::open::written;
use crate::pool::{PoolId, Target};
use crate::shard::{Shard, World};
use crate::tls::Upstream;
use crate::upstream::{Place, Places};

/// How long a place that has failed is passed over, at first and at most.
const PASS_MIN: Duration = Duration::from_millis(500);
const PASS_MAX: Duration = Duration::from_secs(30);
/// How long a place that has failed is waited for when it is tried again.
const SECOND_TRY_MAX: Duration = Duration::from_secs(1);

/// Places that have failed.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    list: Vec<Fate>,
    turn: Turn,
}

/// Whether the next attempt goes elsewhere than the last one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Turn {
    #[default]
    Stay,
    Next,
}

#[derive(Debug)]
struct Fate {
    address: Address,
    delay: Duration,
    until: Instant,
}

impl Fates {
    fn passed_over_until(&self, address: &Address) -> Option<Instant> {
        self.list.iter().find(|fate| fate.address == *address).map(|fate| fate.until)
    }

    /// The first place that is not passed over; where all are, the one whose time is over first.
    pub(crate) fn choose<'p>(&self, places: &'p [Place], now: Instant) -> Option<&'p Place> {
        let until = |place: &&Place| self.passed_over_until(&place.address).filter(|until| *until > now);
        places.iter().find(|place| until(place).is_none()).or_else(|| places.iter().min_by_key(until))
    }

    /// A connection could not be made there.
    pub(crate) fn failed(&mut self, address: &Address, now: Instant) {
        self.turn = Turn::Next;
        if let Some(fate) = self.list.iter_mut().find(|fate| fate.address == *address) {
            // several attempts that were under way at once have failed once
            if fate.until <= now {
                fate.delay = (fate.delay * 2).min(PASS_MAX);
                fate.until = now + fate.delay;
            }
        } else {
            self.list.push(Fate { address: address.clone(), delay: PASS_MIN, until: now + PASS_MIN });
        }
    }

    /// How long an attempt there may take: one that has failed before does not hold clients up for long while another is well.
    pub(crate) fn patience(&self, place: &Place, places: &[Place], now: Instant, usual: Duration) -> Duration {
        let suspect = self.passed_over_until(&place.address).is_some();
        let well = |other: &Place| self.passed_over_until(&other.address).is_none_or(|until| until <= now);
        let is_another_well = places.iter().any(|other| other.address != place.address && well(other));
        if suspect && is_another_well { usual.min(SECOND_TRY_MAX) } else { usual }
    }

    /// A connection was made there.
    pub(crate) fn succeeded(&mut self, address: &Address) {
        self.list.retain(|fate| fate.address != *address);
    }

    /// After a failure: whether another place can be tried at once.
    pub(crate) fn take_turn(&mut self, places: &[Place], now: Instant) -> Turn {
        let turn = std::mem::take(&mut self.turn);
        if places.len() > 1 && self.has_another(places, now) { turn } else { Turn::Stay }
    }

    /// Whether some place is not passed over.
    pub(crate) fn has_another(&self, places: &[Place], now: Instant) -> bool {
        places.iter().any(|place| self.passed_over_until(&place.address).is_none_or(|until| until <= now))
    }

    /// Only these places are left.
    fn keep(&mut self, places: &[Place]) {
        self.list.retain(|fate| places.iter().any(|place| place.address == fate.address));
    }
}

impl Target {
    /// How a place is encrypted.
    pub(crate) fn tls_at(&self, place: &Place) -> Option<&Arc<Upstream>> {
        self.tls.get(place.host).and_then(Option::as_ref)
    }

    /// How much TLS there is, where there can be any.
    pub(crate) fn tls_mode(&self) -> TlsMode {
        self.tls.iter().flatten().next().map_or(TlsMode::Disable, |tls| tls.mode)
    }

    /// Where it is, for people.
    pub(crate) fn whereabouts(&self) -> String {
        match &*self.places {
            [place] => place.address.to_string(),
            [] | [_, ..] => self.host.to_string(),
        }
    }

    fn holds(&self, address: &Address) -> bool {
        self.places.iter().any(|place| place.address == *address)
    }
}

impl Shard {
    /// A connection could not be made, and its place is the reason: others are tried first for a while.
    pub(crate) fn blame(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        if let Some(pool) = self.pools.get_mut(server.pool.0 as usize) {
            pool.fates.failed(&server.address, io.now());
        }
    }

    /// Whether there is a place that has not failed lately.
    pub(crate) fn has_another_place(&self, io: &World<'_>, id: PoolId) -> bool {
        self.pool(id).is_some_and(|pool| pool.fates.has_another(&pool.target.places, io.now()))
    }

    /// Some databases are elsewhere now.
    pub(crate) fn on_places(&mut self, io: &mut World<'_>, all: &Arc<[Places]>) {
        self.places = Arc::clone(all);
        for id in (0..self.pools.len()).filter_map(|index| u32::try_from(index).ok()).map(PoolId) {
            let Some(pool) = self.pools.get_mut(id.0 as usize) else { continue };
            let Some(database) = self.config.databases.get(pool.database.0) else { continue };
            let Some(places) = all.get(pool.database.0) else { continue };
            let scope = match (*places == pool.target.places, database.target_session_attrs == pool.target.attrs) {
                (true, true) => continue,
                (false, true) => Leaving::Elsewhere,
                (_, false) => Leaving::All,
            };
            pool.target.host = written(database);
            pool.target.attrs = database.target_session_attrs;
            pool.target.places = Arc::clone(places);
            pool.fates.keep(places);
            if let Some(news) = &pool.news {
                news.watch.retarget(pool.target.clone());
            }
            let target = pool.target.clone();
            self.hold_line(id, Order::Move(target));
            self.leave_places(io, id, scope);
            self.serve(io, id);
            self.hurry(io);
        }
    }

    /// Connections to where the database is not any more end as soon as they are free.
    fn leave_places(&mut self, io: &mut World<'_>, id: PoolId, scope: Leaving) {
        let Some(pool) = self.pool(id) else { return };
        let old = |server: &ServerId| {
            let server = self.servers.get(*server);
            let goes = |server: &Server| scope == Leaving::All || !pool.target.holds(&server.address);
            server.is_some_and(|server| server.pool == id && goes(server))
        };
        let servers: Vec<ServerId> = self.servers.keys().into_iter().filter(old).collect();
        for id in servers {
            let Some(server) = self.servers.get_mut(id) else { continue };
            server.generation = OUT_OF_PLACE;
            match server.list {
                List::Idle => self.dismiss(io, id),
                List::Shared => self.move_to(id, List::Draining),
                List::Connecting
                | List::Draining
                | List::Exclusive
                | List::Working
                | List::Relaying
                | List::Leaving(_)
                | List::Closing => {}
            }
        }
    }
}

/// Which connections are left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    /// Those to other places.
    Elsewhere,
    /// All: another kind of server is wanted.
    All,
}

/// Before the first generation of any pool's connections.
const OUT_OF_PLACE: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(ports: &[u16]) -> Vec<Place> {
        let address = |port| Address::Tcp(([127, 0, 0, 1], port).into());
        ports.iter().enumerate().map(|(host, port)| Place { address: address(*port), host }).collect()
    }

    #[test]
    fn places_are_tried_in_their_order_and_passed_over_for_longer_each_time() {
        let (all, mut fates, start) = (places(&[1, 2, 3]), Fates::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let host = |fates: &Fates, ms| fates.choose(&all, at(ms)).map(|place| place.host);
        assert_eq!(host(&fates, 0), Some(0));
        fates.failed(&all[0].address, at(0));
        fates.failed(&all[0].address, at(1));
        assert_eq!((host(&fates, 2), host(&fates, 499), host(&fates, 500)), (Some(1), Some(1), Some(0)));
        let patience = |fates: &Fates, place: usize, ms| fates.patience(&all[place], &all, at(ms), PASS_MAX);
        assert_eq!(patience(&fates, 0, 500), SECOND_TRY_MAX, "others are well");
        assert_eq!(patience(&fates, 1, 500), PASS_MAX);
        assert_eq!(fates.patience(&all[0], &all[..1], at(500), PASS_MAX), PASS_MAX, "there is no other");
        fates.failed(&all[0].address, at(600));
        assert_eq!((host(&fates, 1599), host(&fates, 1600)), (Some(1), Some(0)), "twice as long");
        fates.failed(&all[1].address, at(700));
        assert_eq!(fates.take_turn(&all, at(701)), Turn::Next);
        assert_eq!(fates.take_turn(&all, at(702)), Turn::Stay, "what is no place's fault is waited for");
        fates.failed(&all[2].address, at(750));
        assert_eq!(fates.take_turn(&all, at(751)), Turn::Stay, "all have failed");
        assert_eq!(fates.patience(&all[1], &all, at(751), PASS_MAX), PASS_MAX, "no other is better");
        assert_eq!(host(&fates, 751), Some(1), "the one whose time is over first");
        fates.succeeded(&all[0].address);
        assert_eq!(host(&fates, 751), Some(0));
        fates.keep(&all[..1]);
        assert_eq!(fates.list.len(), 0);
        for round in 0..20 {
            fates.failed(&all[0].address, start + PASS_MAX * (round + 1) * 2);
        }
        assert_eq!(fates.list[0].delay, PASS_MAX);
        assert_eq!(Fates::default().choose(&[], start), None);
    }
}
