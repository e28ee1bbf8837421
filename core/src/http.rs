//! The HTTP endpoint: metrics, the API, the dashboard. Only to be read.
//!
//! One thread of the control side speaks HTTP to everybody (`connection`, `route`, behind the `gate`), another takes snapshots
//! and makes texts of them (`sampler`). No shard takes part but by telling what it has counted, at most once a second. Both
//! threads give way to shards where they share a core. What a hostile or slow client can take is bounded: connections, the
//! length and time of requests, the time in which nothing is read, streams; nothing is kept for one reader.

mod asset;
mod connection;
mod gate;
mod health;
mod history;
mod incident;
mod preference;
mod route;
mod sampler;
mod socket;
mod stream;

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Context as _;
use config::{Config, Http};
use runtime::ShardHandle;

use crate::shard::{Board, Message};
use crate::tls::endpoint::Identity;
use gate::Gate;
use history::History;
use route::Sources;
use sampler::Sampler;

/// Connections at once.
const CONNECTIONS_MAX: u32 = 64;
/// Streams at once, live or of the history.
const STREAMS_MAX: u32 = 16;
/// How much the threads give way to others.
const NICENESS: i32 = 5;

/// The endpoint before it is served.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
    identity: Option<Identity>,
    settings: Http,
}

impl Endpoint {
    /// Listens where the configuration says; none where it says nothing.
    ///
    /// # Errors
    /// When nobody can listen there, or a certificate cannot be used.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        let settings = config.http.clone();
        let Some(address) = settings.listen else { return Ok(None) };
        let identity = Identity::load(&settings)?;
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address} for HTTP; is another program there already?"))?;
        listener.set_nonblocking(true)?;
        if identity.is_none() && !address.ip().to_canonical().is_loopback() {
            tracing::warn!(%address, "[http] has no tls_cert: the token and the metrics go over the network in clear");
        }
        Ok(Some(Self { listener, identity, settings }))
    }

    fn serve(self, shards: &[ShardHandle<Message>], board: &Arc<Board>) -> anyhow::Result<()> {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        let address = self.listener.local_addr()?;
        tracing::info!(address = format!("{scheme}://{address}/"), "the dashboard and metrics are here");
        let history = Arc::<History>::default();
        let sampler = Sampler::new(shards.to_vec(), Arc::clone(board), Arc::clone(&history));
        let (sender, tasks) = crossbeam::channel::unbounded();
        std::thread::Builder::new().name("sampler".to_owned()).spawn(move || {
            give_way();
            sampler.run(&tasks);
        })?;
        let sources = Sources { tasks: sender, history, places: Arc::default() };
        let app = route::routes(sources, Gate::new(&self.settings));
        let executor = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (listener, identity) = (self.listener, self.identity);
        std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            give_way();
            let served = executor.block_on(async {
                connection::serve(tokio::net::TcpListener::from_std(listener)?, app, identity).await;
                Ok::<(), std::io::Error>(())
            });
            if let Err(error) = served {
                tracing::error!(%error, "the HTTP endpoint cannot be served");
            }
        })?;
        Ok(())
    }
}

/// Serves it, if there is one, in threads of its own.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn serve(
    endpoint: Option<Endpoint>,
    shards: &[ShardHandle<Message>],
    board: &Arc<Board>,
) -> anyhow::Result<()> {
    endpoint.map_or(Ok(()), |endpoint| endpoint.serve(shards, board))
}

/// Has shards go first on the cores that they are pinned to.
fn give_way() {
    // of the calling thread alone, as Linux has it; where it is not allowed all the same works
    let _set: rustix::io::Result<()> = rustix::process::setpriority_process(None, NICENESS);
}
