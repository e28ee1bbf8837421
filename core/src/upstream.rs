//! Where databases are: the addresses of their hosts. Names are looked up beside the data path, again and again.
//!
//! The [`Directory`] belongs to the control side: it may lock, and asks the system's resolver by threads that may block. Shards
//! are sent what has changed; what they have of it is theirs. Who cannot be looked up keeps the addresses it had: a resolver
//! that fails must not take a service down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::{Config, Dns, SessionAttrs, Upstream};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use runtime::{Address, ShardHandle};

use crate::shard::{Board, Message};
use crate::tls::{self, Hosts, Stamps, TlsState};

/// How long names are waited for when the process starts; who takes longer is found later.
const START_MAX: Duration = Duration::from_secs(5);
/// Pause where there are no names.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How long a look-up may take before it counts as failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// One address of a database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) address: Address,
    /// Which of the database's hosts it belongs to.
    pub(crate) host: usize,
}

/// Where a database is, the place to be tried first in front. Empty while no name of it is known.
pub(crate) type Places = Arc<[Place]>;

/// A name and what is known of it, for the console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostRow {
    pub(crate) name: String,
    /// Until it is looked up again.
    pub(crate) ttl: Duration,
    pub(crate) addresses: Vec<IpAddr>,
}

/// What is known of a name.
#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    /// When it is looked up again.
    next_at: Instant,
    failure: Option<String>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Directory {
    dns: Dns,
    state: Mutex<State>,
    /// Ends the pause between two look-ups.
    wake: (Sender<()>, Receiver<()>),
}

#[derive(Debug)]
struct State {
    /// Hosts of each database, in the configuration's order.
    hosts: Vec<Vec<Upstream>>,
    names: BTreeMap<String, Known>,
    places: Vec<Places>,
    config: Arc<Config>,
    tls: Arc<TlsState>,
}

/// Where databases are and how their hosts are encrypted: what belongs together, as shards are told of it.
pub(crate) struct Map {
    pub(crate) places: Arc<[Places]>,
    pub(crate) tls: Arc<TlsState>,
}

/// What has come of looking a name up.
type Outcome = (String, Result<Vec<IpAddr>, String>);

impl State {
    fn map(&self) -> Arc<Map> {
        Arc::new(Map { places: self.places.clone().into(), tls: Arc::clone(&self.tls) })
    }

    /// Whoever changes something posts it before it lets go of the lock, so that shards hear of changes in their order.
    fn post(&self, shards: &[ShardHandle<Message>]) {
        let map = self.map();
        shards.iter().for_each(|shard| shard.post(Message::Map(Arc::clone(&map))));
    }

    fn learn(&mut self, outcomes: Vec<Outcome>, dns: Dns) {
        for (name, outcome) in outcomes {
            if let Some(known) = self.names.get_mut(&name) {
                known.learn(&name, outcome, dns);
            }
        }
    }

    fn find_places(&self) -> Vec<Places> {
        self.hosts.iter().map(|hosts| places_of(hosts, &self.names)).collect()
    }
}

impl Directory {
    /// Looks all names up.
    pub(crate) fn new(config: &Arc<Config>, tls: TlsState) -> Self {
        let (names, places, tls) = (BTreeMap::new(), Vec::new(), Arc::new(tls));
        let state = State { hosts: Vec::new(), names, places, config: Arc::clone(config), tls: Arc::clone(&tls) };
        let directory = Self { dns: config.dns, state: Mutex::new(state), wake: bounded(1) };
        directory.move_to(config, tls, &[]);
        directory
    }

    /// Databases are where this configuration says. Names that are new are waited for, but not for long.
    pub(crate) fn move_to(&self, config: &Arc<Config>, tls: Arc<TlsState>, shards: &[ShardHandle<Message>]) {
        let hosts: Vec<Vec<Upstream>> = config
            .databases
            .iter()
            .map(|database| database.hosts.iter().map(|host| host.upstream(database.port)).collect())
            .collect();
        let named: BTreeSet<&String> = hosts.iter().flatten().filter_map(Upstream::name).collect();
        let new = {
            let state = self.state();
            named.iter().filter(|name| !state.names.contains_key(**name)).map(|name| (*name).clone()).collect()
        };
        let outcomes = look_up_all(new, START_MAX);
        let mut state = self.state();
        let mut old = std::mem::take(&mut state.names);
        for name in named {
            let known = old.remove(name).unwrap_or_else(Known::nothing);
            state.names.insert(name.clone(), known);
        }
        state.learn(outcomes, self.dns);
        state.hosts = hosts;
        state.places = state.find_places();
        state.config = Arc::clone(config);
        state.tls = tls;
        state.post(shards);
        // full means that it will look anyway
        let _woken: Result<(), _> = self.wake.0.try_send(());
    }

    /// All of it.
    pub(crate) fn map(&self) -> Arc<Map> {
        self.state().map()
    }

    /// Where a database is.
    pub(crate) fn places(&self, number: usize) -> Places {
        self.state().places.get(number).cloned().unwrap_or_default()
    }

    /// How the hosts of a database are encrypted.
    pub(crate) fn tls(&self, number: usize) -> Hosts {
        self.state().tls.servers.get(number).cloned().unwrap_or_default()
    }

    /// All names.
    pub(crate) fn rows(&self) -> Vec<HostRow> {
        let (state, now) = (self.state(), Instant::now());
        let row = |(name, known): (&String, &Known)| HostRow {
            name: name.clone(),
            ttl: known.next_at.saturating_duration_since(now),
            addresses: known.addresses.clone(),
        };
        state.names.iter().map(row).collect()
    }

    /// Reads certificates again if their files are not those that were seen; shards are told what has come of it.
    pub(crate) fn renew(&self, seen: &mut Stamps, shards: &[ShardHandle<Message>]) {
        let mut state = self.state();
        match tls::read_again(&state.config, seen) {
            None => {}
            Some(Ok(new)) => {
                state.tls = Arc::new(new);
                state.post(shards);
                tracing::info!("certificates have changed; new connections get the new ones");
            }
            // perhaps the other half is still to come; it is told once per change
            Some(Err(error)) => {
                tracing::warn!("certificates have changed and cannot be used; the old ones stay: {error:#}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // nobody leaves it half changed
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up the names whose time has come; shards are told when some place is another one now.
    fn refresh(&self, shards: &[ShardHandle<Message>]) {
        let (now, state) = (Instant::now(), self.state());
        let due = state.names.iter().filter(|(_, known)| known.next_at <= now).map(|(name, _)| name.clone()).collect();
        drop(state);
        let outcomes = look_up_all(due, ANSWER_MAX);
        let mut state = self.state();
        state.learn(outcomes, self.dns);
        let places = state.find_places();
        if state.places != places {
            state.places = places;
            state.post(shards);
        }
    }

    /// Waits until the next name is to be looked up.
    fn pause(&self) {
        let next = self.state().names.values().map(|known| known.next_at).min();
        let at = next.unwrap_or_else(|| Instant::now() + PAUSE_MAX);
        // whether somebody woke us or the time is over, we look again
        let _woken: Result<(), _> = self.wake.1.recv_deadline(at);
    }
}

impl Known {
    fn nothing() -> Self {
        Self { addresses: Vec::new(), next_at: Instant::now(), failure: None }
    }

    fn learn(&mut self, name: &str, outcome: Result<Vec<IpAddr>, String>, dns: Dns) {
        let now = Instant::now();
        match outcome {
            Ok(found) => {
                self.next_at = now + dns.max_ttl;
                let same = found.len() == self.addresses.len() && found.iter().all(|ip| self.addresses.contains(ip));
                if self.failure.take().is_some() || !same {
                    tracing::info!(name, addresses = ?found, "a host name was looked up");
                }
                // some resolvers turn the list at every question; that is no news
                if !same {
                    self.addresses = found;
                }
            }
            Err(error) => {
                self.next_at = now + dns.nxdomain_ttl;
                if self.failure.as_ref() != Some(&error) {
                    tracing::warn!(name, kept = ?self.addresses, error, "a host name cannot be looked up");
                }
                self.failure = Some(error);
            }
        }
    }
}

/// Looks names up side by side. One that takes too long counts as failed; its thread ends when the resolver answers.
fn look_up_all(names: Vec<String>, limit: Duration) -> Vec<Outcome> {
    let (sender, replies) = unbounded::<Outcome>();
    let until = Instant::now() + limit;
    let mut open = names;
    for name in open.clone() {
        let sender = sender.clone();
        let ask = move || {
            let outcome = config::look_up(&name).map_err(|error| error.to_string());
            // who asked may have given up
            let _sent: Result<(), _> = sender.send((name, outcome));
        };
        if let Err(error) = std::thread::Builder::new().name("resolver".to_owned()).spawn(ask) {
            tracing::warn!(%error, "a host name cannot be looked up: no thread");
        }
    }
    drop(sender);
    let mut outcomes = Vec::new();
    while let Ok((name, outcome)) = replies.recv_deadline(until) {
        open.retain(|other| *other != name);
        outcomes.push((name, outcome));
    }
    outcomes.extend(open.into_iter().map(|name| (name, Err("the resolver does not answer".to_owned()))));
    outcomes
}

fn places_of(hosts: &[Upstream], names: &BTreeMap<String, Known>) -> Places {
    let mut places: Vec<Place> = Vec::new();
    for (host, upstream) in hosts.iter().enumerate() {
        let mut put = |address| {
            // two names may be one address; the first one's certificate counts
            if !places.iter().any(|place| place.address == address) {
                places.push(Place { address, host });
            }
        };
        match upstream {
            Upstream::Tcp(address) => put(Address::Tcp(*address)),
            Upstream::Unix(path) => put(Address::Unix(path.clone())),
            Upstream::Named(name, port) => {
                let known = names.get(name).map(|known| known.addresses.as_slice()).unwrap_or_default();
                known.iter().for_each(|ip| put(Address::Tcp(SocketAddr::new(*ip, *port))));
            }
        }
    }
    places.into()
}

/// Looks names up for as long as the process lives, in a thread of its own, and tells shards what has changed.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn watch(board: &Arc<Board>, shards: Vec<ShardHandle<Message>>) -> std::io::Result<()> {
    let board = Arc::clone(board);
    let keep_watching = move || loop {
        board.directory.pause();
        board.directory.refresh(&shards);
    };
    std::thread::Builder::new().name("names".to_owned()).spawn(keep_watching)?;
    Ok(())
}

/// Why a server is not what is wanted, by the parameters that it reports when it lets us in.
pub(crate) fn unfit<'a>(wanted: SessionAttrs, parameter: impl Fn(&str) -> Option<&'a [u8]>) -> Option<&'static str> {
    let is_on = |name: &str| parameter(name) == Some(b"on");
    if wanted != SessionAttrs::Any && parameter("in_hot_standby").is_none() {
        return Some(
            "it does not tell whether it is a standby, which target_session_attrs needs (PostgreSQL 14 or later does)",
        );
    }
    let standby = is_on("in_hot_standby");
    let read_only = standby || is_on("default_transaction_read_only");
    match wanted {
        SessionAttrs::ReadWrite if read_only => {
            Some("its sessions are read-only, and target_session_attrs = \"read-write\"")
        }
        SessionAttrs::ReadOnly if !read_only => {
            Some("its sessions may write, and target_session_attrs = \"read-only\"")
        }
        SessionAttrs::Primary if standby => Some("it is a standby, and target_session_attrs = \"primary\""),
        SessionAttrs::Standby if !standby => Some("it is no standby, and target_session_attrs = \"standby\""),
        SessionAttrs::Any
        | SessionAttrs::ReadWrite
        | SessionAttrs::ReadOnly
        | SessionAttrs::Primary
        | SessionAttrs::Standby => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(addresses: &[&str]) -> Known {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Known { addresses, next_at: Instant::now(), failure: None }
    }

    #[test]
    fn places_come_in_the_order_of_hosts_and_none_comes_twice() {
        let hosts = [
            Upstream::Named("two".to_owned(), 5432),
            Upstream::Named("nobody".to_owned(), 5432),
            Upstream::Tcp("10.0.0.2:5432".parse().unwrap()),
            Upstream::Tcp("10.0.0.2:5433".parse().unwrap()),
        ];
        let names = BTreeMap::from([("two".to_owned(), known(&["10.0.0.1", "10.0.0.2"]))]);
        let places = places_of(&hosts, &names);
        let found: Vec<(String, usize)> = places.iter().map(|place| (place.address.to_string(), place.host)).collect();
        let wanted = [("10.0.0.1:5432", 0), ("10.0.0.2:5432", 0), ("10.0.0.2:5433", 3)];
        assert_eq!(found, wanted.map(|(address, host)| (address.to_owned(), host)));
    }

    #[test]
    fn what_cannot_be_looked_up_keeps_what_it_had_and_a_turned_list_is_no_news() {
        let dns = Dns::default();
        let list = |ips: &[&str]| Ok(ips.iter().map(|ip| ip.parse().unwrap()).collect());
        let mut own = known(&["10.0.0.1", "10.0.0.2"]);
        let before = own.addresses.clone();
        own.learn("db", Err("nobody answers".to_owned()), dns);
        assert_eq!(own.addresses, before);
        assert!(own.failure.is_some() && own.next_at > Instant::now());
        own.learn("db", list(&["10.0.0.2", "10.0.0.1"]), dns);
        assert_eq!((own.addresses.clone(), own.failure.clone()), (before, None));
        own.learn("db", list(&["10.0.0.2"]), dns);
        assert_eq!(own.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_server_is_judged_by_what_it_reports() {
        use SessionAttrs::{Any, Primary, ReadOnly, ReadWrite, Standby};
        for (standby, read_only, fit) in [
            ("off", "off", [Any, ReadWrite, Primary].as_slice()),
            ("off", "on", &[Any, ReadOnly, Primary]),
            ("on", "off", &[Any, ReadOnly, Standby]),
        ] {
            for wanted in [Any, ReadWrite, ReadOnly, Primary, Standby] {
                let parameter =
                    |name: &str| Some(if name == "in_hot_standby" { standby.as_bytes() } else { read_only.as_bytes() });
                assert_eq!(
                    unfit(wanted, parameter).is_none(),
                    fit.contains(&wanted),
                    "{standby} {read_only} {wanted:?}"
                );
            }
        }
        assert!(unfit(Any, |_| None).is_none() && unfit(Primary, |_| None).is_some());
    }
}
