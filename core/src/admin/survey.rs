//! What a shard tells the desk: figures, and its connections one by one.
//!
//! Connections are told in pages, so that a shard with many never stops for long.

use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use runtime::SocketId;
use stats::{PoolStats, ShardStats};

use crate::admin::Record;
use crate::dress::Dress;
use crate::listen::LineCount;
use crate::pipe::{Cancel, List, Server, Soil};
use crate::pool::Pool;
use crate::pool::permit::PoolKey;
use crate::session::{Phase, Pin, Place, Session};
use crate::shard::{Shard, World};

/// Indices of connections in one page.
const PAGE_LEN: u32 = 256;

/// A shard's figures.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) shard: ShardStats,
    pub(crate) pools: Vec<PoolCount>,
    /// Sessions of the console.
    pub(crate) consoles: u64,
    /// Clients that have not been let in.
    pub(crate) starting: u64,
    pub(crate) sessions: Memory,
    pub(crate) servers: Memory,
    pub(crate) pool_size_of: u64,
    /// Bytes that the kernel has not taken yet.
    pub(crate) unsent: u64,
    /// Server connections that owe an answer.
    pub(crate) owing: u64,
    pub(crate) lines: Vec<LineCount>,
}

/// Entries of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) size: u64,
    pub(crate) used: u64,
    pub(crate) free: u64,
}

/// A shard's part of a pool.
#[derive(Debug)]
pub(crate) struct PoolCount {
    pub(crate) stats: PoolStats,
    pub(crate) settings: config::Pool,
    /// Server connections in whatever state.
    pub(crate) open: u64,
    /// Of those, to be closed as soon as they are free.
    pub(crate) stale: u64,
    /// Clients, waiting or not.
    pub(crate) clients: u64,
    /// Cancels on their way to Postgres.
    pub(crate) cancels: u64,
    /// Server connections with nothing else to do than wait for one.
    pub(crate) being_cancelled: u64,
    pub(crate) permits: u64,
    /// Connections beside the pool's that read its catalog, or listen for its sessions, while it is paused.
    pub(crate) catalog_readers: u64,
    /// How long the client in front of the queue has waited.
    pub(crate) longest_wait: Duration,
}

/// Some of a shard's connections.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) clients: Vec<ClientRow>,
    pub(crate) servers: Vec<ServerRow>,
    /// Where the next page begins; none after the last.
    pub(crate) next: Option<u32>,
}

/// Where a connection comes from and goes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) fd: Option<i32>,
    /// None for Unix sockets.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// The process at the other end of a Unix socket.
    pub(crate) peer_pid: Option<u32>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct ClientRow {
    pub(crate) record: Record,
    pub(crate) key: PoolKey,
    pub(crate) state: ClientState,
    pub(crate) ends: Ends,
    /// How long it has waited.
    pub(crate) waited: Option<Duration>,
    /// The number of its server connection.
    pub(crate) server: Option<u32>,
    pub(crate) application_name: String,
    pub(crate) statements: u64,
    pub(crate) pin: Pin,
    pub(crate) input: u64,
    pub(crate) unsent: u64,
    pub(crate) shard: u16,
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientState {
    Login,
    Idle,
    Waiting,
    Active,
}

/// A server connection.
#[derive(Debug)]
pub(crate) struct ServerRow {
    pub(crate) id: u32,
    pub(crate) key: PoolKey,
    /// Who we are there.
    pub(crate) server_user: String,
    pub(crate) address: runtime::Address,
    pub(crate) list: List,
    pub(crate) cancel: Cancel,
    pub(crate) ends: Ends,
    pub(crate) opened_at: Instant,
    pub(crate) requested_at: Instant,
    pub(crate) idle_since: Instant,
    pub(crate) stale: Stale,
    /// The number of the client it works for.
    pub(crate) client: Option<u32>,
    pub(crate) application_name: String,
    pub(crate) process_id: u32,
    pub(crate) statements: u64,
    pub(crate) depth: u64,
    pub(crate) owed: u64,
    pub(crate) soil: Soil,
    pub(crate) settings: u64,
    pub(crate) input: u64,
    pub(crate) unsent: u64,
    pub(crate) shard: u16,
}

/// Whether a connection is closed as soon as it is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stale {
    No,
    Yes,
}

impl Shard {
    pub(super) fn count(&self, io: &World<'_>) -> Count {
        let (shard, pools) = self.take_stock();
        let mut out = Count {
            shard,
            pools: pools
                .into_iter()
                .zip(&self.pools)
                .map(|(stats, pool)| count_pool(io.now(), self, stats, pool))
                .collect(),
            consoles: 0,
            starting: 0,
            sessions: memory::<Session>(self.sessions.len(), self.sessions.slots()),
            servers: memory::<Server>(self.servers.len(), self.servers.slots()),
            pool_size_of: size_of::<Pool>() as u64,
            unsent: 0,
            owing: 0,
            lines: self.count_lines(),
        };
        for session in self.sessions.values() {
            match session.phase {
                Phase::Startup | Phase::Authenticating(_) => out.starting += 1,
                Phase::Console(_) => out.consoles += 1,
                Phase::Welcoming | Phase::Ready => {
                    out.unsent += io.output_len(session.socket) as u64;
                    if let Some(pool) = out.pools.get_mut(session.pool.0 as usize) {
                        pool.clients += 1;
                    }
                }
                Phase::Leaving(_) => {}
            }
        }
        for server in self.servers.values().filter(|server| server.list != List::Closing) {
            out.unsent += io.output_len(server.socket) as u64;
            let owes = !server.pipeline.is_empty() || !server.in_flight.is_empty();
            out.owing += u64::from(owes);
            let Some(pool) = out.pools.get_mut(server.pool.0 as usize) else { continue };
            if server.cancel == Cancel::UnderWay {
                pool.cancels += 1;
                pool.being_cancelled += u64::from(!owes);
            }
            if self.is_stale(server) {
                pool.stale += 1;
            }
        }
        out
    }

    /// The connections from this index on.
    pub(super) fn survey(&self, io: &World<'_>, from: u32) -> Page {
        let to = from.saturating_add(PAGE_LEN);
        let clients = (from..to).filter_map(|index| self.sessions.key_at(index));
        let servers = (from..to).filter_map(|index| self.servers.key_at(index));
        let slots = self.sessions.slots().max(self.servers.slots());
        Page {
            clients: clients
                .filter_map(|id| self.sessions.get(id))
                .map(|session| self.client_row(io, session))
                .collect(),
            servers: servers
                .filter_map(|id| self.servers.get(id))
                .filter_map(|server| self.server_row(io, server))
                .collect(),
            next: (slots > to as usize).then_some(to),
        }
    }

    fn client_row(&self, io: &World<'_>, session: &Session) -> ClientRow {
        let (state, server) = match (&session.phase, session.place) {
            (Phase::Startup | Phase::Authenticating(_), _) => (ClientState::Login, None),
            (Phase::Console(console), _) if console.is_waiting() => (ClientState::Active, None),
            (_, Place::Waiting) => (ClientState::Waiting, None),
            (_, Place::Promised(id) | Place::Shared(id) | Place::Exclusive(id)) => (ClientState::Active, Some(id)),
            (_, Place::Idle) => (ClientState::Idle, None),
        };
        let key = match session.phase {
            Phase::Welcoming | Phase::Ready => self.pool(session.pool).map(key_of),
            Phase::Console(_) => Some(("pgbouncer".to_owned(), session.user.to_string())),
            Phase::Startup | Phase::Authenticating(_) | Phase::Leaving(_) => None,
        };
        ClientRow {
            record: session.record,
            key: key.unwrap_or_default(),
            state,
            ends: ends(io, session.socket),
            waited: (state == ClientState::Waiting).then(|| io.now().saturating_duration_since(session.waiting_since)),
            server: server.and_then(|id| self.servers.get(id)).map(|server| server.serial),
            application_name: application_name(&session.dress),
            statements: session.statements.len() as u64,
            pin: session.pin,
            input: session.input.len() as u64,
            unsent: io.output_len(session.socket) as u64,
            shard: io.shard().0,
        }
    }

    fn server_row(&self, io: &World<'_>, server: &Server) -> Option<ServerRow> {
        let pool = self.pool(server.pool)?;
        let session = server.head_session().or(server.promised).and_then(|id| self.sessions.get(id));
        Some(ServerRow {
            id: server.serial,
            key: key_of(pool),
            server_user: server.user.to_string(),
            address: server.address.clone(),
            list: server.list,
            cancel: server.cancel,
            ends: ends(io, server.socket),
            opened_at: server.opened_at,
            requested_at: server.head_since,
            idle_since: server.idle_since,
            stale: if self.is_stale(server) { Stale::Yes } else { Stale::No },
            client: session.map(|session| session.record.id),
            application_name: session.map(|session| application_name(&session.dress)).unwrap_or_default(),
            process_id: server.key.as_ref().map_or(0, |(process_id, _)| *process_id),
            statements: server.prepared.len() as u64,
            depth: server.in_flight.len() as u64,
            owed: server.pipeline.client_ready_count() as u64,
            soil: server.soil,
            settings: server.dress.settings().len() as u64,
            input: server.input.len() as u64,
            unsent: io.output_len(server.socket) as u64,
            shard: io.shard().0,
        })
    }

    /// Whether a connection has to go as soon as it is free.
    pub(crate) fn is_stale(&self, server: &Server) -> bool {
        self.pool(server.pool).is_some_and(|pool| server.generation < pool.generation)
    }
}

fn count_pool(now: Instant, shard: &Shard, stats: PoolStats, pool: &Pool) -> PoolCount {
    let front = pool.waiting.iter().find_map(|id| shard.sessions.get(id)).map(|session| session.waiting_since);
    PoolCount {
        stats,
        settings: pool.settings,
        open: u64::from(pool.open),
        stale: 0,
        clients: 0,
        cancels: 0,
        being_cancelled: 0,
        permits: u64::from(pool.permits),
        catalog_readers: u64::from(pool.paused && pool.news.as_ref().is_some_and(|news| news.watch.is_connected()))
            + u64::from(pool.paused && shard.has_line(&pool.database)),
        longest_wait: front.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
    }
}

fn key_of(pool: &Pool) -> PoolKey {
    (pool.stats.database.clone(), pool.stats.user.clone())
}

fn memory<T>(used: usize, slots: usize) -> Memory {
    Memory { size: size_of::<T>() as u64, used: used as u64, free: slots.saturating_sub(used) as u64 }
}

/// What the kernel knows of a socket.
fn ends(io: &World<'_>, socket: SocketId) -> Ends {
    let Some(fd) = io.descriptor(socket) else { return Ends::default() };
    let address = |found: rustix::io::Result<rustix::net::SocketAddrAny>| {
        let address = found.ok().and_then(|address| SocketAddr::try_from(address).ok())?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    let peer = address(rustix::net::getpeername(fd).and_then(|peer| peer.ok_or(rustix::io::Errno::NOTCONN)));
    let peer_pid = match peer {
        Some(_) => None,
        None => rustix::net::sockopt::socket_peercred(fd).ok(),
    };
    Ends {
        fd: Some(fd.as_raw_fd()),
        peer,
        local: address(rustix::net::getsockname(fd)),
        peer_pid: peer_pid.and_then(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok()),
    }
}

/// The name a session's application gives itself.
pub(crate) fn application_name(dress: &Dress) -> String {
    let setting = dress.settings().iter().find(|setting| &*setting.name == "application_name");
    setting.map(|setting| last_literal(&setting.apply)).unwrap_or_default()
}

/// The last text in quotes of a statement: the value it sets, in `set_config('name', 'value', false)` as in `SET name = 'value'`;
/// without quotes the last word.
fn last_literal(statement: &str) -> String {
    let statement = statement.trim_end().trim_end_matches(';').trim_end();
    let Some((before, _)) = statement.rsplit_once('\'') else {
        let word = statement.rsplit(|c: char| c.is_whitespace() || c == '=').next();
        return word.unwrap_or_default().to_owned();
    };
    // its beginning: the first quote from the end that is not one of a pair
    let mut start = before.len();
    let bytes = before.as_bytes();
    while start > 0 {
        let quote = bytes.get(start - 1) == Some(&b'\'');
        let pair = start > 1 && bytes.get(start - 2) == Some(&b'\'');
        match (quote, pair) {
            (true, true) => start -= 2,
            (true, false) => break,
            (false, _) => start -= 1,
        }
    }
    let text = before.get(start..).unwrap_or_default().replace("''", "'");
    let escaped = before.get(..start).is_some_and(|rest| rest.ends_with("E'") || rest.ends_with("e'"));
    if escaped { text.replace("\\\\", "\\") } else { text }
}

/// Sends what was asked for; whoever asked may have given up.
pub(super) fn reply<T>(to: &crossbeam::channel::Sender<T>, what: T) {
    let _sent: Result<(), _> = to.send(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_setting_is_found_in_either_form() {
        for (statement, value) in [
            ("SELECT pg_catalog.set_config('application_name', 'it''s mine', false)", "it's mine"),
            ("SET application_name = 'psql'", "psql"),
            ("set application_name to web;", "web"),
            ("SET application_name='''';", "'"),
            ("SET application_name = ''", ""),
            ("SELECT pg_catalog.set_config('application_name',  E'a\\\\b', false)", "a\\b"),
            ("'", ""),
            ("", ""),
        ] {
            assert_eq!(last_literal(statement), value, "{statement}");
        }
    }
}
