//! The sockets of one shard and what is under way on each.

use std::os::fd::OwnedFd;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use socket2::SockAddr;

use crate::reactor::{SocketId, Token};
use crate::tls::Tls;

/// Receiving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receive {
    /// Nothing is armed.
    Off,
    /// A multishot receive is armed.
    Armed,
    /// A multishot receive is being cancelled.
    Cancelling,
}

/// Whether the reactor wants bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Yes,
    No,
}

/// Whether anything is still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    Sending,
    /// It has sent its last byte.
    Finished,
}

/// Where a socket is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    Connecting,
    Open,
    /// Closes when its output is sent, or then at the latest.
    Ending(Instant),
    /// Will be given to another shard when its operations have ended.
    Leaving,
    /// The reactor has been told or does not want to know; waits for its operations to end.
    Dead,
}

/// Sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sending {
    Idle,
    Queued,
    InFlight,
}

/// Whether unsent bytes are to be counted again at the end of the turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counting {
    Done,
    Queued,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) token: Token,
    pub(crate) life: Life,
    pub(crate) receive: Receive,
    pub(crate) wanted: Wanted,
    pub(crate) peer: Peer,
    pub(crate) sending: Sending,
    /// What the kernel is reading from; not touched while a send is in flight.
    pub(crate) in_flight: BytesMut,
    /// What the reactor has put out; plaintext, where there is TLS.
    pub(crate) output: BytesMut,
    pub(crate) tls: Option<Box<Tls>>,
    pub(crate) drained_wanted: bool,
    /// Unsent bytes as they were counted last.
    pub(crate) counted: usize,
    pub(crate) counting: Counting,
    /// Operations whose last completion has not come; the memory they use must stay.
    pub(crate) operations: u32,
    /// The address a connect reads from.
    pub(crate) address: Option<Box<SockAddr>>,
}

impl Socket {
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() + self.in_flight.len() + self.tls.as_ref().map_or(0, |tls| tls.unsent())
    }

    /// The kernel took so many bytes of what was in flight.
    pub(crate) fn on_sent(&mut self, len: usize) {
        self.in_flight.advance(len.min(self.in_flight.len()));
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    socket: Option<Box<Socket>>,
}

/// Sockets by index. A slot is used again only when every operation on its socket has ended.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Sockets {
    pub(crate) fn insert(&mut self, fd: OwnedFd, token: Token, life: Life) -> SocketId {
        let socket = Box::new(Socket {
            fd,
            token,
            life,
            receive: Receive::Off,
            wanted: Wanted::Yes,
            peer: Peer::Sending,
            sending: Sending::Idle,
            in_flight: BytesMut::new(),
            output: BytesMut::new(),
            tls: None,
            drained_wanted: false,
            counted: 0,
            counting: Counting::Done,
            operations: 0,
            address: None,
        });
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.socket = Some(socket);
            return SocketId { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, socket: Some(socket) });
        SocketId { index, generation: 0 }
    }

    /// The socket an id names, unless it is closed.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Socket> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.socket.as_deref()
    }

    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.socket.as_deref_mut()
    }

    /// The socket an operation belongs to, closed or not.
    pub(crate) fn at(&mut self, index: u32) -> Option<(SocketId, &mut Socket)> {
        let slot = self.slots.get_mut(index as usize)?;
        let id = SocketId { index, generation: slot.generation };
        slot.socket.as_deref_mut().map(|socket| (id, socket))
    }

    /// From now on the id names nothing; the socket stays until its operations have ended.
    pub(crate) fn retire(&mut self, id: SocketId) {
        if let Some(slot) = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation) {
            slot.generation = slot.generation.wrapping_add(1);
            if let Some(socket) = slot.socket.as_deref_mut() {
                socket.life = Life::Dead;
                socket.output = BytesMut::new();
                socket.tls = None;
            }
        }
        self.reap(id.index);
    }

    /// Takes a socket out, if it is leaving and no operation is left on it.
    pub(crate) fn take_left(&mut self, id: SocketId) -> Option<Box<Socket>> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let socket = slot.socket.take_if(|socket| socket.life == Life::Leaving && socket.operations == 0)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(socket)
    }

    /// Frees a dead socket with no operation left.
    pub(crate) fn reap(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && slot.socket.as_ref().is_some_and(|socket| socket.life == Life::Dead && socket.operations == 0)
        {
            slot.socket = None;
            self.free.push(index);
        }
    }

    /// Operations under way on all sockets.
    pub(crate) fn operations(&self) -> u32 {
        self.slots.iter().filter_map(|slot| slot.socket.as_ref()).map(|socket| socket.operations).sum()
    }

    pub(crate) fn ids(&self) -> Vec<SocketId> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.socket.as_ref().is_some_and(|socket| socket.life != Life::Dead))
            .map(|(index, slot)| SocketId { index, generation: slot.generation })
            .collect()
    }
}
