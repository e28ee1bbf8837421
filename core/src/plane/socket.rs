//! The sockets that clients come to: those of the configuration, or those that systemd passes to us.
//!
//! A socket of the configuration is one per shard and TCP address (`SO_REUSEPORT`). One that was passed is the same for all
//! shards: each accepts from a duplicate of it, and the kernel wakes one of them per client.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use config::{Config, Listen};
use listenfd::ListenFd;
use runtime::{Tenure, listen};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::shard::Listener;

/// What the `FileDescriptorName=` of the socket for statistics is.
const STATISTICS: &str = "stats";

/// Sockets that systemd has passed to us.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Where clients come, each with what people call it.
    clients: Vec<(Listener, String)>,
    statistics: Option<UnixListener>,
}

impl Passed {
    /// Takes what `systemd.socket(5)` passes: `LISTEN_FDS`, and their names in `LISTEN_FDNAMES`. Must come before anything else is
    /// opened: what is promised and not there would have the number of something of ours.
    ///
    /// # Errors
    /// What is of no use.
    pub(super) fn take() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let (mut own, tenure) = (Self::default(), Tenure::Shared);
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                let place = listener.local_addr()?.to_string();
                own.clients.push((Listener { socket: ready(listener.into(), &place)?, tenure, is_unix: false }, place));
            } else if let Ok(Some(listener)) = passed.take_unix_listener(index) {
                if name == STATISTICS {
                    listener.set_nonblocking(false)?;
                    own.statistics = Some(listener);
                    continue;
                }
                let address = listener.local_addr()?;
                let place = address.as_pathname().map_or_else(|| "unix".to_owned(), |path| path.display().to_string());
                own.clients.push((Listener { socket: ready(listener.into(), &place)?, tenure, is_unix: true }, place));
            } else {
                bail!(
                    "socket {index} of those that systemd passes (\"{name}\") is neither TCP nor a Unix stream socket"
                );
            }
        }
        Ok(own)
    }
}

/// A passed socket as the ring wants it.
fn ready(socket: OwnedFd, place: &str) -> anyhow::Result<OwnedFd> {
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        bail!("the socket {place} that systemd passes does not listen (Accept=yes is not meant for us)");
    }
    // the ring waits by itself, and would be told at once that there is nobody
    let flags = fcntl_getfl(&socket)?;
    fcntl_setfl(&socket, flags.difference(OFlags::NONBLOCK))?;
    Ok(socket)
}

/// All that is listened on.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// Those of each shard.
    pub(super) of_shards: Vec<Vec<Listener>>,
    /// Who comes here is given statistics.
    pub(super) statistics: Option<UnixListener>,
    /// Where clients come, for people.
    pub(super) places: Vec<String>,
    /// Socket files that are ours to remove.
    pub(super) files: Vec<PathBuf>,
}

impl Sockets {
    /// Listens where the configuration says, but for what was passed.
    ///
    /// # Errors
    /// Where nobody can listen.
    pub(super) fn open(config: &Config, passed: Passed, shards: usize) -> anyhow::Result<Self> {
        let mut sockets = Self { of_shards: (0..shards).map(|_| Vec::new()).collect(), ..Self::default() };
        sockets.statistics = passed.statistics;
        if passed.clients.is_empty() {
            sockets.open_configured(&config.listen)?;
        } else {
            tracing::info!("[listen] addresses and unix_socket_dir are not looked at: systemd has passed sockets");
            for (listener, place) in passed.clients {
                sockets.share_out(&listener)?;
                sockets.places.push(place);
            }
        }
        if let (None, Some(path)) = (&sockets.statistics, &config.stats.socket) {
            let listener =
                listen::unix(path, 16).with_context(|| format!("cannot give out statistics on {}", path.display()))?;
            sockets.statistics = Some(listener.into());
            sockets.files.push(path.clone());
        }
        Ok(sockets)
    }

    /// One listener per shard and TCP address; the Unix socket is the first shard's, which hands clients on.
    fn open_configured(&mut self, config: &Listen) -> anyhow::Result<()> {
        let (backlog, tenure) = (config.backlog, Tenure::Own);
        for address in &config.addresses {
            // sharing the port is for our own shards only: another process that listens there must be noticed
            drop(
                TcpListener::bind(address)
                    .with_context(|| format!("cannot listen on {address}; is another program there already?"))?,
            );
            for own in &mut self.of_shards {
                let socket =
                    listen::tcp_reuseport(*address, backlog).with_context(|| format!("cannot listen on {address}"))?;
                own.push(Listener { socket, tenure, is_unix: false });
            }
            self.places.push(address.to_string());
        }
        if let (Some(path), Some(first)) = (config.unix_socket(), self.of_shards.first_mut()) {
            let socket =
                listen::unix(&path, backlog).with_context(|| format!("cannot listen on {}", path.display()))?;
            first.push(Listener { socket, tenure, is_unix: true });
            self.places.push(path.display().to_string());
            self.files.push(path);
        }
        Ok(())
    }

    /// Every shard accepts from it.
    fn share_out(&mut self, listener: &Listener) -> io::Result<()> {
        let Listener { socket, tenure, is_unix } = listener;
        for own in &mut self.of_shards {
            own.push(Listener { socket: socket.try_clone()?, tenure: *tenure, is_unix: *is_unix });
        }
        Ok(())
    }
}

/// Removes socket files when the process ends.
pub(super) fn tidy_up(files: &[PathBuf]) {
    for path in files {
        // somebody may have tidied up before us
        let _removed: io::Result<()> = fs::remove_file(path);
    }
}
