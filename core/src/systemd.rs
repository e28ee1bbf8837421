//! What systemd is told: that we are ready, that we reload or stop, and that every shard is alive.
//!
//! All of it is control side. Where nobody asks to be told (`NOTIFY_SOCKET`, `WATCHDOG_USEC`), nothing is. Source: `sd_notify(3)`
//! and `systemd.service(5)`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, bounded};
use runtime::ShardHandle;
use rustix::time::{ClockId, clock_gettime};

use crate::admin::Order;
use crate::shard::Message;

/// How long systemd may take to hear us.
const SAY_MAX: Duration = Duration::from_secs(1);

/// Tells systemd, if it listens.
#[derive(Debug, Default)]
pub(crate) struct Herald {
    socket: Option<UnixDatagram>,
}

impl Herald {
    /// Tells whom the environment names.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match reach(&name) {
            Ok(socket) => Self { socket: Some(socket) },
            Err(error) => {
                tracing::warn!(%error, socket = %name.display(), "systemd cannot be told anything");
                Self::default()
            }
        }
    }

    /// Clients are let in; `status` is for people.
    pub(crate) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The configuration is read anew; [`Herald::ready`] tells the end of it.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={us}\nSTATUS=Reading the configuration"));
    }

    /// The end has begun.
    pub(crate) fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    fn say(&self, text: &str) {
        if let Some(Err(error)) = self.socket.as_ref().map(|socket| socket.send(text.as_bytes())) {
            tracing::debug!(%error, "systemd did not hear us");
        }
    }
}

/// Lines have a meaning of their own there.
fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

fn reach(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SAY_MAX))?;
    Ok(socket)
}

/// After how long without a sign of life systemd restarts us; none if it does not.
fn watchdog_limit() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let for_us =
        std::env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|us| for_us && *us > 0).map(Duration::from_micros)
}

/// Gives signs of life for as long as every shard goes on, if systemd wants any: a shard that hangs makes it restart us.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn keep_watch(herald: &Arc<Herald>, shards: Vec<ShardHandle<Message>>) -> io::Result<()> {
    if let Some(limit) = watchdog_limit() {
        let herald = Arc::clone(herald);
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(&herald, &shards, limit))?;
    }
    Ok(())
}

fn watch(herald: &Herald, shards: &[ShardHandle<Message>], limit: Duration) {
    // three looks in the time that systemd waits, so that a late one does no harm
    let pause = limit / 3;
    loop {
        let began = Instant::now();
        let stuck = first_stuck(shards, began + pause);
        match stuck {
            None => herald.say("WATCHDOG=1"),
            Some(shard) => tracing::error!(shard, ?pause, "a shard hangs; systemd is not told that we are alive"),
        }
        std::thread::sleep(pause.saturating_sub(began.elapsed()));
    }
}

/// A shard that does not answer by then. One that has ended does not have to.
fn first_stuck(shards: &[ShardHandle<Message>], until: Instant) -> Option<usize> {
    let asked = shards.iter().map(|shard| {
        let (sender, reply) = bounded(1);
        shard.post(Message::Admin(Box::new(Order::Beat(sender))));
        reply
    });
    let asked: Vec<_> = asked.collect();
    asked.iter().position(|reply| reply.recv_deadline(until) == Err(RecvTimeoutError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_named_by_a_path_or_an_abstract_name() {
        let name = format!("optimacore-herald-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let abstract_one = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let one_with_path = UnixDatagram::bind(&path).unwrap();
        for (socket, name) in [(abstract_one, OsStr::new(&format!("@{name}"))), (one_with_path, path.as_os_str())] {
            let herald = Herald { socket: Some(reach(name).unwrap()) };
            herald.ready("two\nlines");
            let mut heard = [0; 64];
            let len = socket.recv(&mut heard).unwrap();
            assert_eq!(&heard[..len], b"READY=1\nSTATUS=two; lines");
        }
        std::fs::remove_file(path).unwrap();
        // whoever does not listen is not told, and nobody waits
        Herald::default().reloading();
    }
}
