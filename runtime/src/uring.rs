//! One shard's io_uring: sockets, listeners, and the [`Io`] a reactor sees.
//!
//! Sends of a turn are queued together and leave with the one system call that also waits. A socket's buffers belong to
//! its operations until their completions have come. Source: `io_uring_enter(2)`, `io_uring_prep_recv_multishot(3)`.
#![expect(unsafe_code, reason = "queue entries point at memory the kernel reads")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use socket2::SockAddr;

use crate::buffer::GROUP;
use crate::mesh::MeshEnd;
use crate::reactor::{Address, Io, LOW_WATER, Load, ShardId, SocketId, Tenure, Token};
use crate::socket::{Counting, Life, Peer, Receive, Sending, Socket, Sockets, Wanted};
use crate::tls::{Tls, TlsSide};

/// What a completion belongs to; the low 32 bits of its user data are the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Receive,
    Send,
    Connect,
    Accept,
    Doorbell,
    Cancel,
}

impl Operation {
    fn user_data(self, index: u32) -> u64 {
        let kind = match self {
            Self::Receive => 0_u64,
            Self::Send => 1,
            Self::Connect => 2,
            Self::Accept => 3,
            Self::Doorbell => 4,
            Self::Cancel => 5,
        };
        (kind << 32) | u64::from(index)
    }

    pub(crate) fn of(user_data: u64) -> (Self, u32) {
        let kind = match user_data >> 32 {
            0 => Self::Receive,
            1 => Self::Send,
            2 => Self::Connect,
            3 => Self::Accept,
            4 => Self::Doorbell,
            _ => Self::Cancel,
        };
        (kind, u32::try_from(user_data & 0xffff_ffff).unwrap_or_default())
    }
}

/// Pause after an accept for which there were no descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer of which nothing is heard for so long is asked whether it is there, so often, and given up after so many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 5);
/// How long what is sent to a server may stay unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// How long a socket may take to send its last output.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// Buffers kept for reuse, and the largest worth keeping.
const SPARE_COUNT: usize = 256;
const SPARE_LEN_MAX: usize = 64 * 1024;

/// The ring and everything on it.
pub(crate) struct RingIo<M> {
    pub(crate) ring: IoUring,
    pub(crate) sockets: Sockets,
    pub(crate) listeners: Vec<(OwnedFd, Token, Tenure)>,
    pub(crate) mesh: MeshEnd<M>,
    pub(crate) shard: ShardId,
    pub(crate) now: Instant,
    pub(crate) timer: Option<Instant>,
    pub(crate) running: bool,
    /// How long the thread was kept from its core.
    pub(crate) kept_waiting: Duration,
    /// Messages that came from other shards, and that went to them.
    pub(crate) heard: u64,
    posted: u64,
    dirty: Vec<SocketId>,
    ending: Vec<SocketId>,
    leaving: Vec<SocketId>,
    /// Listeners that accept again from then on.
    resting: Vec<(Instant, u32)>,
    /// Sockets whose handshake begins this turn.
    pub(crate) beginning: Vec<SocketId>,
    /// What TLS records are opened in, and what was in them; empty between events.
    pub(crate) records: BytesMut,
    pub(crate) plain: Vec<u8>,
    /// Sockets that have got output while a send was under way.
    grown: Vec<SocketId>,
    /// Unsent bytes of all sockets.
    buffered: usize,
    spare: Vec<BytesMut>,
    scratch: BytesMut,
}

impl<M> RingIo<M> {
    pub(crate) fn new(shard: ShardId, entries: u32, mesh: MeshEnd<M>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_cqsize(entries * 8)
            .build(entries)?;
        Ok(Self {
            ring,
            sockets: Sockets::default(),
            listeners: Vec::new(),
            mesh,
            shard,
            now: Instant::now(),
            timer: None,
            running: true,
            kept_waiting: Duration::ZERO,
            heard: 0,
            posted: 0,
            dirty: Vec::new(),
            ending: Vec::new(),
            leaving: Vec::new(),
            resting: Vec::new(),
            beginning: Vec::new(),
            records: BytesMut::new(),
            plain: Vec::new(),
            grown: Vec::new(),
            buffered: 0,
            spare: Vec::new(),
            scratch: BytesMut::new(),
        })
    }

    /// Queues an entry; when the queue is full, what is in it is submitted first.
    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: every caller points the entry at memory that stays until its completion: a socket's buffers and
            // address live in its boxed slot, which `Sockets::reap` frees only when no operation is left.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            if self.ring.submit().is_err() {
                // out of kernel memory for requests: nothing can go on without this entry
                std::process::abort();
            }
        }
    }

    pub(crate) fn arm_doorbell(&mut self) {
        if let Some(bell) = self.mesh.doorbells.get(usize::from(self.shard.0)) {
            let entry = opcode::PollAdd::new(Fd(bell.raw_fd()), u32::from(libc::POLLIN.cast_unsigned()))
                .multi(true)
                .build()
                .user_data(Operation::Doorbell.user_data(0));
            self.push(entry);
        }
    }

    pub(crate) fn arm_accept(&mut self, index: u32) {
        if let Some((listener, ..)) = self.listeners.get(index as usize) {
            let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build()
                .user_data(Operation::Accept.user_data(index));
            self.push(entry);
        }
    }

    /// Accepts again after a pause.
    pub(crate) fn accept_later(&mut self, index: u32) {
        self.resting.push((self.now + ACCEPT_PAUSE, index));
    }

    /// Accepts again where the pause is over; the end of the next pause, if there is one.
    pub(crate) fn accept_again(&mut self) -> Option<Instant> {
        for (at, index) in std::mem::take(&mut self.resting) {
            if at <= self.now {
                self.arm_accept(index);
            } else {
                self.resting.push((at, index));
            }
        }
        self.resting.iter().map(|(at, _)| *at).min()
    }

    pub(crate) fn arm_receive(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let idle = socket.receive == Receive::Off && socket.life == Life::Open;
        if !idle || socket.wanted == Wanted::No || socket.peer == Peer::Finished {
            return;
        }
        socket.receive = Receive::Armed;
        socket.operations += 1;
        let fd = Fd(socket.fd.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build().user_data(Operation::Receive.user_data(id.index));
        self.push(entry);
    }

    fn cancel(&mut self, operation: Operation, index: u32) {
        let entry =
            opcode::AsyncCancel::new(operation.user_data(index)).build().user_data(Operation::Cancel.user_data(index));
        self.push(entry);
    }

    pub(crate) fn mark_dirty(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.sending == Sending::Idle {
            socket.sending = Sending::Queued;
            self.dirty.push(id);
        } else if socket.sending == Sending::InFlight && socket.counting == Counting::Done {
            socket.counting = Counting::Queued;
            self.grown.push(id);
        }
    }

    /// Counts a socket's unsent bytes anew.
    fn count(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            let unsent = socket.unsent();
            self.buffered = (self.buffered + unsent).saturating_sub(socket.counted);
            socket.counted = unsent;
            socket.counting = Counting::Done;
        }
    }

    /// Queues the sends of this turn.
    pub(crate) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.count(id);
            self.send(id);
        }
        self.dirty = dirty;
        let mut grown = std::mem::take(&mut self.grown);
        for id in grown.drain(..) {
            self.count(id);
        }
        self.grown = grown;
    }

    fn send(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if matches!(socket.life, Life::Connecting | Life::Leaving) {
            socket.sending = Sending::Idle;
            return;
        }
        if socket.in_flight.is_empty() {
            match socket.tls.as_deref_mut() {
                None => std::mem::swap(&mut socket.in_flight, &mut socket.output),
                Some(tls) => {
                    if let Some(spare) = self.spare.pop_if(|_| socket.in_flight.capacity() == 0) {
                        socket.in_flight = spare;
                    }
                    let sealed = tls.seal(&mut socket.output, &mut socket.in_flight);
                    if matches!(socket.life, Life::Ending(_)) {
                        tls.seal_goodbye(&mut socket.in_flight);
                    }
                    if sealed.is_err() {
                        // no key is good for more: the receive that is armed hears the end
                        shutdown(socket.fd.as_raw_fd());
                    }
                }
            }
        }
        if socket.in_flight.is_empty() {
            socket.sending = Sending::Idle;
            return;
        }
        socket.sending = Sending::InFlight;
        socket.operations += 1;
        let len = u32::try_from(socket.in_flight.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fd(socket.fd.as_raw_fd()), socket.in_flight.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(Operation::Send.user_data(id.index));
        self.push(entry);
    }

    /// A send has ended: goes on with what is left, gives the buffers back when nothing is.
    pub(crate) fn after_send(&mut self, id: SocketId) {
        self.count(id);
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.sending = Sending::Idle;
        let farewell_due =
            matches!(socket.life, Life::Ending(_)) && socket.tls.as_ref().is_some_and(|tls| tls.is_open());
        if socket.unsent() > 0 || farewell_due {
            self.mark_dirty(id);
            return;
        }
        for mut buffer in [std::mem::take(&mut socket.in_flight), std::mem::take(&mut socket.output)] {
            buffer.clear();
            if (1..=SPARE_LEN_MAX).contains(&buffer.capacity()) && self.spare.len() < SPARE_COUNT {
                self.spare.push(buffer);
            }
        }
        if matches!(socket.life, Life::Ending(_)) {
            self.close(id);
        }
    }

    /// Marks a connected socket open and receives from it.
    pub(crate) fn on_connected(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.life = Life::Open;
            socket.address = None;
        }
        self.arm_receive(id);
        self.mark_dirty(id);
    }

    /// Closes those that have had their five seconds; the instant of the next, if there is one.
    pub(crate) fn close_overdue(&mut self) -> Option<Instant> {
        let mut next = None;
        for id in std::mem::take(&mut self.ending) {
            match self.sockets.get(id).map(|socket| socket.life) {
                Some(Life::Ending(by)) if by <= self.now => self.close(id),
                Some(Life::Ending(by)) => {
                    next = Some(next.map_or(by, |other: Instant| other.min(by)));
                    self.ending.push(id);
                }
                Some(Life::Connecting | Life::Open | Life::Leaving | Life::Dead) | None => {}
            }
        }
        next
    }

    /// A connection that was to be given up and has nothing under way any more.
    pub(crate) fn poll_left(&mut self) -> Option<Box<Socket>> {
        let (sockets, mut left) = (&mut self.sockets, None);
        self.leaving.retain(|id| {
            if left.is_none() {
                left = sockets.take_left(*id);
            }
            sockets.get(*id).is_some_and(|socket| socket.life == Life::Leaving)
        });
        let mut socket = left?;
        self.buffered = self.buffered.saturating_sub(socket.counted);
        let mut unsent = std::mem::take(&mut socket.in_flight);
        match socket.tls.as_deref_mut() {
            None => {
                unsent.extend_from_slice(&socket.output);
                socket.output = unsent;
            }
            Some(tls) => tls.put_back(unsent),
        }
        Some(socket)
    }

    /// Submits what is queued and waits for `count` completions until `timeout`.
    pub(crate) fn enter(&mut self, count: usize, timeout: Duration) -> io::Result<()> {
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(count, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

/// Small messages leave at once, and peers that have vanished are noticed.
fn prepare_tcp(socket: &OwnedFd) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    let (idle, pause, count) = KEEPALIVE;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, pause)?;
    sockopt::set_tcp_keepcnt(socket, count)
}

fn shutdown(fd: RawFd) {
    // SAFETY: the descriptor is owned by the caller's socket.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // the peer may have gone first
    let _done: Result<(), rustix::io::Errno> = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
}

impl<M> Io<M> for RingIo<M> {
    fn now(&self) -> Instant {
        self.now
    }

    fn shard(&self) -> ShardId {
        self.shard
    }

    fn shard_count(&self) -> usize {
        self.mesh.doorbells.len()
    }

    fn listen(&mut self, listener: OwnedFd, tenure: Tenure, token: Token) {
        let index = u32::try_from(self.listeners.len()).unwrap_or(u32::MAX);
        self.listeners.push((listener, token, tenure));
        self.arm_accept(index);
    }

    fn stop_listening(&mut self) {
        for (index, (listener, _, tenure)) in (0..).zip(std::mem::take(&mut self.listeners)) {
            if tenure == Tenure::Own {
                shutdown(listener.as_raw_fd());
            }
            self.cancel(Operation::Accept, index);
        }
    }

    fn attach(&mut self, socket: OwnedFd, token: Token) -> SocketId {
        // Unix sockets refuse it, and need it not
        let _set: Result<(), rustix::io::Errno> = prepare_tcp(&socket);
        let id = self.sockets.insert(socket, token, Life::Open);
        self.arm_receive(id);
        id
    }

    fn connect(&mut self, address: &Address, token: Token) -> io::Result<SocketId> {
        let (family, sockaddr) = match address {
            Address::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                (family, SockAddr::from(*address))
            }
            Address::Unix(path) => (AddressFamily::UNIX, SockAddr::unix(path)?),
        };
        let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let _set: Result<(), rustix::io::Errno> = prepare_tcp(&fd).and_then(|()| {
            let ms = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(&fd, ms)
        });
        let raw = fd.as_raw_fd();
        let id = self.sockets.insert(fd, token, Life::Connecting);
        let Some(socket) = self.sockets.get_mut(id) else { return Err(io::ErrorKind::OutOfMemory.into()) };
        socket.operations += 1;
        let kept = socket.address.insert(Box::new(sockaddr));
        let entry = opcode::Connect::new(Fd(raw), kept.as_ptr().cast(), kept.len())
            .build()
            .user_data(Operation::Connect.user_data(id.index));
        self.push(entry);
        Ok(id)
    }

    fn output(&mut self, id: SocketId) -> &mut BytesMut {
        self.mark_dirty(id);
        let Some(socket) = self.sockets.get_mut(id) else {
            self.scratch.clear();
            return &mut self.scratch;
        };
        if socket.output.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            socket.output = spare;
        }
        &mut socket.output
    }

    fn output_len(&self, id: SocketId) -> usize {
        self.sockets.get(id).map_or(0, |socket| socket.unsent())
    }

    fn descriptor(&self, id: SocketId) -> Option<BorrowedFd<'_>> {
        self.sockets.get(id).map(|socket| socket.fd.as_fd())
    }

    fn buffered(&self) -> usize {
        self.buffered
    }

    fn notify_drained(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.drained_wanted = true;
            debug_assert!(socket.unsent() > LOW_WATER, "asked for only when there is something to wait for");
        }
    }

    fn pause(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.wanted = Wanted::No;
        if socket.receive == Receive::Armed {
            socket.receive = Receive::Cancelling;
            self.cancel(Operation::Receive, id.index);
        }
    }

    fn resume(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.wanted = Wanted::Yes;
        }
        self.arm_receive(id);
    }

    fn close(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let connecting = socket.life == Life::Connecting;
        let armed = socket.receive == Receive::Armed;
        shutdown(socket.fd.as_raw_fd());
        self.buffered = self.buffered.saturating_sub(std::mem::take(&mut socket.counted));
        self.sockets.retire(id);
        if connecting {
            self.cancel(Operation::Connect, id.index);
        } else if armed {
            self.cancel(Operation::Receive, id.index);
        }
    }

    fn close_after_output(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let open = socket.tls.as_ref().is_some_and(|tls| tls.is_open());
        if socket.tls.is_some() && !open {
            // there is no key to say it with
            socket.output.clear();
        }
        if socket.unsent() == 0 && !open {
            self.close(id);
            return;
        }
        socket.life = Life::Ending(self.now + ENDING_MAX);
        self.ending.push(id);
        self.pause(id);
        self.mark_dirty(id);
    }

    fn detach(&mut self, id: SocketId) {
        self.pause(id);
        if let Some(socket) = self.sockets.get_mut(id).filter(|socket| socket.life == Life::Open) {
            socket.life = Life::Leaving;
            self.leaving.push(id);
        }
    }

    fn start_tls(&mut self, id: SocketId, side: TlsSide, received: &[u8]) -> Result<(), rustls::Error> {
        let Some(socket) = self.sockets.get_mut(id) else { return Ok(()) };
        socket.tls = Some(Box::new(Tls::new(side, std::mem::take(&mut socket.output), received)?));
        self.beginning.push(id);
        Ok(())
    }

    fn resume_tls(&mut self, id: SocketId, tls: Box<Tls>) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.tls = Some(tls);
            self.mark_dirty(id);
        }
    }

    fn post(&mut self, to: ShardId, message: M) -> Result<(), M> {
        let Some(Some(ring)) = self.mesh.outgoing.get_mut(usize::from(to.0)) else { return Err(message) };
        ring.push(message).map_err(|rtrb::PushError::Full(message)| message)?;
        self.posted += 1;
        if let Some(bell) = self.mesh.doorbells.get(usize::from(to.0)) {
            bell.ring();
        }
        Ok(())
    }

    fn load(&self) -> Load {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let seconds = u64::try_from(used.tv_sec).unwrap_or_default();
        Load {
            busy: Duration::new(seconds, u32::try_from(used.tv_nsec).unwrap_or_default()),
            kept_waiting: self.kept_waiting,
            messages_out: self.posted,
            messages_in: self.heard,
        }
    }

    fn set_timer(&mut self, at: Option<Instant>) {
        self.timer = at;
    }

    fn stop(&mut self) {
        self.running = false;
    }
}
