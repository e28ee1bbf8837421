//! One pinned executor per shard and the loop that drives its reactor.
//!
//! glommio pins the thread and owns the executor; the loop is its one task and waits in the shard's own ring, so that a
//! turn costs one system call and a sleeping shard costs none. `secure` is what happens to bytes of a socket with TLS.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::batch::{Contention, Nap};
use crate::buffer::BufferRing;
use crate::mesh::{Doorbell, MeshEnd, mesh};
use crate::reactor::{Closed, Event, Io as _, LOW_WATER, Reactor, ShardId};
use crate::socket::{Life, Peer, Receive, Socket};
use crate::topology::CoreId;
use crate::uring::{Operation, RingIo};

/// How shards are started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One shard is pinned to each.
    pub cores: Vec<CoreId>,
    /// Entries of a shard's submission queue; a power of two.
    pub ring_entries: u32,
    /// Receive buffers of a shard; a power of two.
    pub receive_buffer_count: u16,
    /// Bytes of a receive buffer.
    pub receive_buffer_len: usize,
    /// Messages a ring between two shards holds.
    pub mesh_capacity: usize,
}

impl Plan {
    /// The usual sizes for these cores.
    #[must_use]
    pub const fn new(cores: Vec<CoreId>) -> Self {
        Self { cores, ring_entries: 1024, receive_buffer_count: 512, receive_buffer_len: 8 * 1024, mesh_capacity: 1024 }
    }
}

/// Why shards cannot be started.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// The control side's way to a shard.
#[derive(Debug)]
pub struct ShardHandle<M> {
    sender: Sender<M>,
    bells: Arc<[Doorbell]>,
    index: usize,
}

impl<M> Clone for ShardHandle<M> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bells: Arc::clone(&self.bells), index: self.index }
    }
}

impl<M> ShardHandle<M> {
    /// Sends a message; a shard that has stopped does not get it.
    pub fn post(&self, message: M) {
        if self.sender.send(message).is_ok()
            && let Some(bell) = self.bells.get(self.index)
        {
            bell.ring();
        }
    }
}

/// Shards that run.
pub struct Running<M> {
    handles: Vec<ShardHandle<M>>,
    threads: Vec<ExecutorJoinHandle<io::Result<()>>>,
}

impl<M> fmt::Debug for Running<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({} shards)", self.threads.len())
    }
}

impl<M> Running<M> {
    /// One per shard.
    #[must_use]
    pub fn handles(&self) -> &[ShardHandle<M>] {
        &self.handles
    }

    /// Waits until every shard has stopped.
    ///
    /// # Errors
    /// What ended a shard that did not stop by itself.
    pub fn join(self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().map_err(|error| io::Error::other(error.to_string())).and_then(|ended| ended);
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Starts one shard per core of the plan; `make` builds its reactor on the shard's own thread.
///
/// # Errors
/// When a ring or an executor cannot be had: what is missing and what to do.
pub fn launch<R: Reactor>(
    plan: &Plan,
    make: impl Fn(ShardId) -> R + Send + Clone + 'static,
) -> Result<Running<R::Message>, StartError> {
    io_uring::IoUring::new(8).map_err(|error| {
        StartError(format!(
            "io_uring is not available ({error}); check `sysctl kernel.io_uring_disabled` (0 is needed), the container's seccomp profile and the limit of locked memory (ulimit -l)"
        ))
    })?;
    let ends = mesh(plan.cores.len(), plan.mesh_capacity)
        .map_err(|error| StartError(format!("cannot make the rings between shards: {error}")))?;
    let mut running = Running { handles: Vec::new(), threads: Vec::new() };
    for (index, (core, end)) in plan.cores.iter().zip(ends).enumerate() {
        let (sender, control) = unbounded();
        running.handles.push(ShardHandle { sender, bells: Arc::clone(&end.doorbells), index });
        let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
        let (make, plan) = (make.clone(), plan.clone());
        let thread = LocalExecutorBuilder::new(Placement::Fixed(usize::from(core.0)))
            .name(&format!("shard-{shard}"))
            .io_memory(64 * 1024)
            .spawn(move || async move { run(make(shard), shard, &plan, end, &control) })
            .map_err(|error| {
                StartError(format!(
                    "cannot start the executor on core {}: {error}; raise the limit of locked memory (ulimit -l) or use fewer cores",
                    core.0
                ))
            })?;
        running.threads.push(thread);
    }
    Ok(running)
}

/// Longest sleep of a shard with nothing to do.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

fn run<R: Reactor>(
    mut reactor: R,
    shard: ShardId,
    plan: &Plan,
    end: MeshEnd<R::Message>,
    control: &Receiver<R::Message>,
) -> io::Result<()> {
    let mut io = RingIo::new(shard, plan.ring_entries, end)?;
    let mut buffers = BufferRing::register(&io.ring.submitter(), plan.receive_buffer_count, plan.receive_buffer_len)?;
    io.arm_doorbell();
    reactor.on_start(&mut io);
    let mut completions: Vec<(u64, i32, u32)> = Vec::new();
    let mut contention = Contention::of_this_thread(io.now);
    while io.running {
        io.now = std::time::Instant::now();
        let heard = drain_messages(&mut reactor, &mut io, control);
        completions.extend(io.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        for (user_data, result, flags) in completions.drain(..) {
            on_completion(&mut reactor, &mut io, &mut buffers, (user_data, result, flags));
        }
        if io.timer.is_some_and(|at| at <= io.now) {
            io.timer = None;
            reactor.on_timer(&mut io);
        }
        while let Some(id) = io.beginning.pop() {
            secure::on_bytes(&mut reactor, &mut io, id, &[]);
        }
        while let Some(left) = io.poll_left() {
            let Socket { token, fd: socket, output, tls, .. } = *left;
            reactor.on_event(&mut io, Event::Detached { token, socket, output, tls });
        }
        let overdue = io.close_overdue();
        io.flush();
        reactor.on_turn_end(std::time::Instant::now());
        let accept = io.accept_again();
        let until = [io.timer, overdue, accept].into_iter().flatten().min();
        let mut timeout = until.map_or(SLEEP_MAX, |at| at.saturating_duration_since(io.now));
        if heard || !io.running {
            timeout = Duration::ZERO;
        }
        let now = io.now;
        let nap = contention.nap(now, || reactor.expects(now)).filter(|nap| nap.longest < timeout);
        io.kept_waiting = contention.kept_waiting();
        sleep(&mut io, control, timeout, nap)?;
    }
    finish(&mut io, &mut buffers)
}

/// Waits in the ring, unless a message came while the doorbell was being hung up.
fn sleep<M>(io: &mut RingIo<M>, control: &Receiver<M>, mut timeout: Duration, nap: Option<Nap>) -> io::Result<()> {
    let bells = Arc::clone(&io.mesh.doorbells);
    let bell = bells.get(usize::from(io.shard.0));
    if timeout > Duration::ZERO
        && let Some(bell) = bell
    {
        bell.begin_sleep();
        let waiting = !control.is_empty() || io.mesh.incoming.iter().flatten().any(|ring| !ring.is_empty());
        if waiting {
            timeout = Duration::ZERO;
        }
    }
    if let Some(nap) = nap.filter(|_| timeout > Duration::ZERO) {
        io.enter(nap.events, nap.longest)?;
        if !io.ring.completion().is_empty() {
            timeout = Duration::ZERO;
        }
    }
    if nap.is_none() || timeout > Duration::ZERO {
        io.enter(1, timeout)?;
    }
    if let Some(bell) = bell {
        bell.end_sleep();
    }
    Ok(())
}

/// After the last turn: outputs are sent, everything is closed, and memory is kept until the kernel has let go of it.
fn finish<M>(io: &mut RingIo<M>, buffers: &mut BufferRing) -> io::Result<()> {
    let give_up = std::time::Instant::now() + Duration::from_secs(5);
    for id in io.sockets.ids() {
        io.close_after_output(id);
    }
    io.stop_listening();
    while io.sockets.operations() > 0 && io.now < give_up {
        io.now = std::time::Instant::now();
        io.flush();
        io.enter(1, Duration::from_millis(50))?;
        let completions: Vec<_> =
            io.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())).collect();
        for completion in completions {
            on_completion(&mut Nobody, io, buffers, completion);
        }
    }
    for id in io.sockets.ids() {
        io.close(id);
    }
    Ok(())
}

fn drain_messages<R: Reactor>(reactor: &mut R, io: &mut RingIo<R::Message>, control: &Receiver<R::Message>) -> bool {
    let mut heard = false;
    for from in 0..io.mesh.incoming.len() {
        // what is there now; what comes meanwhile is for the next turn
        let count = io.mesh.incoming.get(from).and_then(|ring| ring.as_ref()).map_or(0, |ring| ring.slots());
        for _ in 0..count {
            if let Some(Some(ring)) = io.mesh.incoming.get_mut(from)
                && let Ok(message) = ring.pop()
            {
                heard = true;
                io.heard += 1;
                reactor.on_message(io, ShardId(u16::try_from(from).unwrap_or(u16::MAX)), message);
            }
        }
    }
    while let Ok(message) = control.try_recv() {
        heard = true;
        reactor.on_control(io, message);
    }
    heard
}

/// Where completions go that a reactor is called for; [`Nobody`] after it has stopped.
trait Hears<M> {
    fn hear(&mut self, io: &mut RingIo<M>, event: Event<'_>);
}

impl<R: Reactor> Hears<R::Message> for R {
    fn hear(&mut self, io: &mut RingIo<R::Message>, event: Event<'_>) {
        self.on_event(io, event);
    }
}

struct Nobody;

impl<M> Hears<M> for Nobody {
    fn hear(&mut self, _io: &mut RingIo<M>, _event: Event<'_>) {}
}

fn on_completion<M>(
    reactor: &mut impl Hears<M>,
    io: &mut RingIo<M>,
    buffers: &mut BufferRing,
    (user_data, result, flags): (u64, i32, u32),
) {
    let (operation, index) = Operation::of(user_data);
    match operation {
        Operation::Receive => on_receive(reactor, io, buffers, (index, result, flags)),
        Operation::Send => on_send(reactor, io, index, result),
        Operation::Connect => on_connect(reactor, io, index, result),
        Operation::Accept => on_accept(reactor, io, index, (result, flags)),
        Operation::Doorbell => {
            if let Some(bell) = io.mesh.doorbells.get(usize::from(io.shard.0)) {
                bell.silence();
            }
            if !io_uring::cqueue::more(flags) {
                io.arm_doorbell();
            }
        }
        Operation::Cancel => {}
    }
}

fn on_receive<M>(
    reactor: &mut impl Hears<M>,
    io: &mut RingIo<M>,
    buffers: &mut BufferRing,
    (index, result, flags): (u32, i32, u32),
) {
    let last = !io_uring::cqueue::more(flags);
    let Some((id, socket)) = io.sockets.at(index) else { return };
    if last {
        socket.receive = Receive::Off;
        socket.operations -= 1;
    }
    let (token, life, secured) = (socket.token, socket.life, socket.tls.is_some());
    if let Some(buffer) = io_uring::cqueue::buffer_select(flags) {
        if matches!(life, Life::Open | Life::Leaving)
            && let Ok(len) = usize::try_from(result)
            && len > 0
        {
            let bytes = buffers.filled(buffer, len);
            if secured {
                secure::on_bytes(reactor, io, id, bytes);
            } else {
                reactor.hear(io, Event::Received { socket: id, token, bytes });
            }
        }
        buffers.give_back(buffer);
    }
    if life == Life::Dead {
        io.sockets.reap(index);
        return;
    }
    match -result {
        libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN => io.arm_receive(id),
        0 => finished(reactor, io, id),
        error if error > 0 => close(reactor, io, id, Closed::Error(io::Error::from_raw_os_error(error))),
        _ => {
            if last {
                io.arm_receive(id);
            }
        }
    }
}

fn on_send<M>(reactor: &mut impl Hears<M>, io: &mut RingIo<M>, index: u32, result: i32) {
    let Some((id, socket)) = io.sockets.at(index) else { return };
    socket.operations -= 1;
    if socket.life == Life::Dead {
        io.sockets.reap(index);
        return;
    }
    let Ok(len) = usize::try_from(result) else {
        close(reactor, io, id, Closed::Error(io::Error::from_raw_os_error(-result)));
        return;
    };
    socket.on_sent(len);
    let token = socket.token;
    let drained = socket.drained_wanted && socket.unsent() <= LOW_WATER;
    if drained {
        socket.drained_wanted = false;
    }
    io.after_send(id);
    if drained {
        reactor.hear(io, Event::Drained { socket: id, token });
    }
}

fn on_connect<M>(reactor: &mut impl Hears<M>, io: &mut RingIo<M>, index: u32, result: i32) {
    let Some((id, socket)) = io.sockets.at(index) else { return };
    socket.operations -= 1;
    if socket.life == Life::Dead {
        io.sockets.reap(index);
    } else if result == 0 {
        let token = socket.token;
        io.on_connected(id);
        reactor.hear(io, Event::Connected { socket: id, token });
    } else {
        close(reactor, io, id, Closed::Error(io::Error::from_raw_os_error(-result)));
    }
}

fn on_accept<M>(reactor: &mut impl Hears<M>, io: &mut RingIo<M>, index: u32, (result, flags): (i32, u32)) {
    if result >= 0 {
        let socket = accepted(result);
        if let Some(token) = io.listeners.get(index as usize).map(|(_, token, _)| *token) {
            reactor.hear(io, Event::Accepted { token, socket });
        }
    }
    if io_uring::cqueue::more(flags) {
        return;
    }
    match -result {
        libc::ECANCELED | libc::EINVAL => {}
        // no descriptor or memory is left: asked again at once, the kernel would say the same
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => io.accept_later(index),
        _ => io.arm_accept(index),
    }
}

#[expect(unsafe_code, reason = "a descriptor number from the kernel becomes an owned descriptor")]
fn accepted(fd: i32) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd as _;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

fn close<M>(reactor: &mut impl Hears<M>, io: &mut RingIo<M>, id: crate::SocketId, cause: Closed) {
    let token = io.sockets.get(id).map(|socket| (socket.token, socket.life));
    io.close(id);
    if let Some((token, Life::Open | Life::Leaving | Life::Connecting)) = token {
        reactor.hear(io, Event::Closed { socket: id, token, cause });
    }
}

/// The peer has sent its last byte. One that is being closed, or goes to another shard, need not be told so here.
fn finished<M>(reactor: &mut impl Hears<M>, io: &mut RingIo<M>, id: crate::SocketId) {
    let Some(socket) = io.sockets.get_mut(id) else { return };
    let (token, before) = (socket.token, std::mem::replace(&mut socket.peer, Peer::Finished));
    if before == Peer::Sending && socket.life == Life::Open {
        reactor.hear(io, Event::Finished { socket: id, token });
    }
}

mod secure;
#[cfg(test)]
mod tests;
