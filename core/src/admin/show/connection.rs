//! Tables that tell of connections one by one.

use std::time::Duration;

use super::{CONSOLE, Facts, host_of, wall_clock};
use crate::admin::survey::{ClientRow, ClientState, Ends, ServerRow, Stale};
use crate::admin::table::Row;
use crate::pipe::{Cancel, List, Soil};
use crate::replication::Kind;
use crate::session::Pin;

/// Which sockets are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    All,
    Active,
}

impl Facts<'_> {
    pub(super) fn client_rows(&self) -> Vec<Row> {
        let clients = self.clients.iter().filter(|client| client.state != ClientState::Login);
        clients.map(|client| client_row(client).int(u64::from(client.shard))).collect()
    }

    pub(super) fn server_rows(&self) -> Vec<Row> {
        let servers = self.servers.iter().filter(|server| state_of(server).is_some());
        servers.map(|server| server_row(server).int(u64::from(server.shard))).collect()
    }

    pub(super) fn sockets(&self, which: Which) -> Vec<Row> {
        let shown = |active: bool| which == Which::All || active;
        let buffers = |row: Row, input: u64, unsent: u64| {
            row.int(input).int(0_u64).int(0_u64).int(0_u64).int(unsent).int(input).int(unsent)
        };
        let clients = self.clients.iter().filter(|client| shown(client.state == ClientState::Active));
        let servers = self.servers.iter().filter(|server| match state_of(server) {
            Some(state) => shown(state == "active"),
            None => false,
        });
        let clients =
            clients.map(|client| buffers(client_row(client), client.input, client.unsent).int(u64::from(client.shard)));
        let servers =
            servers.map(|server| buffers(server_row(server), server.input, server.unsent).int(u64::from(server.shard)));
        clients.chain(servers).collect()
    }

    /// Descriptors; what is secret about the connections is not shown.
    pub(super) fn descriptors(&self) -> Vec<Row> {
        let fd = |ends: &Ends| u64::try_from(ends.fd.unwrap_or_default()).unwrap_or_default();
        let end = |row: Row| (0..7).fold(row, |row, _| row.null());
        let fd_of_server = |id: Option<u32>| self.servers.iter().find(|server| Some(server.id) == id);
        let fd_of_client = |id: Option<u32>| self.clients.iter().find(|client| Some(client.record.id) == id);
        let clients = self.clients.iter().map(|client| {
            let (addr, port) = end_of(&client.ends);
            let row = Row::new().int(fd(&client.ends)).text("client").text(&*client.key.1).text(&*client.key.0);
            let link = fd_of_server(client.server).map(|server| fd(&server.ends).to_string());
            end(row.text(addr).int(port).big(0).maybe(link))
        });
        let servers = self.servers.iter().map(|server| {
            let (addr, port) = host_of(&server.address);
            let row = Row::new().int(fd(&server.ends)).text("server").text(&*server.server_user).text(&*server.key.0);
            let link = fd_of_client(server.client).map(|client| fd(&client.ends).to_string());
            end(row.text(addr).int(port).big(0).maybe(link))
        });
        clients.chain(servers).collect()
    }

    pub(super) fn pipes(&self) -> Vec<Row> {
        let row = |server: &ServerRow| {
            let left_behind = match server.soil {
                Soil::Clean => "nothing",
                Soil::Sequences => "sequences",
                Soil::Unknown => "anything",
            };
            let idle = if server.list == List::Idle { server.idle_since.elapsed() } else { Duration::ZERO };
            Row::new()
                .int(u64::from(server.shard))
                .int(server.id)
                .text(&*server.key.0)
                .text(&*server.key.1)
                .text(list_name(server.list))
                .maybe(server.client.map(|client| client.to_string()))
                .int(server.depth)
                .int(server.owed)
                .text(left_behind)
                .int(server.settings)
                .int(server.statements)
                .int(server.process_id)
                .int(server.opened_at.elapsed().as_secs())
                .int(idle.as_secs())
        };
        self.servers.iter().map(row).collect()
    }

    pub(super) fn pins(&self) -> Vec<Row> {
        let row = |client: &ClientRow| {
            let (Pin::Because(reason) | Pin::Found(reason)) = client.pin else { return None };
            // one that has begun in a transaction that goes on is as old as its last request
            let since = client.record.pinned_since.unwrap_or(client.record.requested_at);
            Some(
                Row::new()
                    .int(client.record.id)
                    .text(&*client.key.1)
                    .text(&*client.key.0)
                    .text(&*client.application_name)
                    .text(reason)
                    .moment(wall_clock(since))
                    .int(since.elapsed().as_secs())
                    .maybe(client.server.map(|server| server.to_string()))
                    .int(u64::from(client.shard)),
            )
        };
        self.clients.iter().filter_map(row).collect()
    }
}

/// Address and port of a client.
fn end_of(ends: &Ends) -> (String, u64) {
    match ends.peer {
        Some(peer) => (peer.ip().to_string(), u64::from(peer.port())),
        None => ("unix".to_owned(), 0),
    }
}

fn local_of(ends: &Ends) -> (String, u64) {
    match ends.local {
        Some(local) => (local.ip().to_string(), u64::from(local.port())),
        None => ("unix".to_owned(), 0),
    }
}

/// What stands where PgBouncer has the address of its object: a name for the connection.
fn name(kind: char, id: u32) -> String {
    format!("{kind}{id}")
}

fn client_row(client: &ClientRow) -> Row {
    let state = match client.state {
        ClientState::Login => "login",
        ClientState::Idle => "idle",
        ClientState::Waiting => "waiting",
        ClientState::Active => "active",
    };
    let ((addr, port), (local_addr, local_port)) = (end_of(&client.ends), local_of(&client.ends));
    let database = if client.key.0 == CONSOLE { CONSOLE } else { &client.key.0 };
    Row::new()
        .text("C")
        .text(&*client.key.1)
        .text(database)
        .text(client.replication.map_or("none", Kind::name))
        .text(state)
        .text(addr)
        .int(port)
        .text(local_addr)
        .int(local_port)
        .moment(wall_clock(client.record.connected_at))
        .moment(wall_clock(client.record.requested_at))
        .span(client.waited.unwrap_or_default())
        .int(0_u64)
        .text(name('c', client.record.id))
        .text(client.server.map(|server| name('s', server)).unwrap_or_default())
        .int(client.ends.peer_pid.unwrap_or_default())
        .text("")
        .text(&*client.application_name)
        .int(client.statements)
        .int(client.record.id)
}

fn server_row(server: &ServerRow) -> Row {
    let (addr, port) = host_of(&server.address);
    let (local_addr, local_port) = local_of(&server.ends);
    Row::new()
        .text("S")
        .text(&*server.server_user)
        .text(&*server.key.0)
        .text(server.replication.map_or("none", Kind::name))
        .text(state_of(server).unwrap_or_default())
        .text(addr)
        .int(port)
        .text(local_addr)
        .int(local_port)
        .moment(wall_clock(server.opened_at))
        .moment(wall_clock(server.requested_at))
        .span(Duration::ZERO)
        .int(u64::from(server.stale == Stale::Yes))
        .text(name('s', server.id))
        .text(server.client.map(|client| name('c', client)).unwrap_or_default())
        .int(server.process_id)
        .text("")
        .text(&*server.application_name)
        .int(server.statements)
        .int(server.id)
}

/// A server connection's state in PgBouncer's words; none for one that is told to go.
fn state_of(server: &ServerRow) -> Option<&'static str> {
    match server.list {
        _ if server.cancel == Cancel::UnderWay && server.owed == 0 => Some("being_canceled"),
        List::Connecting => Some("new"),
        List::Idle | List::Leaving(_) => Some("idle"),
        List::Shared | List::Draining | List::Exclusive | List::Relaying => Some("active"),
        List::Working => Some("tested"),
        List::Closing => None,
    }
}

/// A server connection's list in our words.
fn list_name(list: List) -> &'static str {
    match list {
        List::Connecting => "connecting",
        List::Idle => "idle",
        List::Shared => "shared",
        List::Draining => "draining",
        List::Exclusive => "exclusive",
        List::Working => "working",
        List::Relaying => "relaying",
        List::Leaving(_) => "leaving",
        List::Closing => "closing",
    }
}
