//! The whole process: shards on their cores, the statistics socket, signals, the orderly end.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use config::Config;
use crossbeam::channel::Receiver;
use runtime::{Plan, ShardHandle, ShardId, topology};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use stats::Snapshot;

use crate::admin::desk::Desk;
use crate::admin::{Petition, Stop};
use crate::catalog::keeper::{self, WatchRequest};
use crate::clerk::{self, Ask};
use crate::export::{self, Export};
use crate::http::{self, Endpoint};
use crate::listen::line;
use crate::log;
use crate::shard::{Asked, Board, Message, Shard};
use crate::stock::Stock;
use crate::systemd::{self, Herald};
use crate::tls::{self, TlsState};
use crate::upstream::{self, Directory};
use socket::{Passed, Sockets};

mod socket;

/// How long a shard may take to tell its statistics.
const SNAPSHOT_MAX: Duration = Duration::from_secs(2);
/// Descriptors beyond those of clients: servers, listeners, rings.
const SPARE_DESCRIPTORS: u64 = 256;

/// Runs the data plane until a signal or a console ends it. `file` is where the configuration is read from anew.
///
/// # Errors
/// What is missing on this machine, or an address that cannot be listened on, with what to do about it.
pub fn run(config: Config, file: &Path) -> anyhow::Result<()> {
    let passed = Passed::take()?;
    // before the first thread, so that all of them leave the signals to us
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])?;
    // what is said last is written when this is dropped
    let (log, _pen) = log::start(config.log)?;
    let herald = Arc::new(Herald::from_environment());
    raise_descriptor_limit(&config);
    let cores = topology::pick(config.runtime.cores.as_deref())?;
    for remark in topology::remarks(&cores) {
        tracing::info!("{remark}");
    }
    if cores.len() > 256 {
        bail!("{} cores are more than the 256 that cancel keys can name; set runtime.cores", cores.len());
    }
    let tls = TlsState::load(&config)?;
    let endpoint = Endpoint::open(&config)?;
    let config = Arc::new(config);
    let directory = Directory::new(&config, tls);
    let (keeper, catalog_requests) = crossbeam::channel::unbounded();
    let (lines, line_requests) = crossbeam::channel::unbounded();
    let (clerk, asks) = crossbeam::channel::unbounded();
    let (desk, petitions) = crossbeam::channel::unbounded();
    let board = Arc::new(Board::new(&config, directory, cores.len(), Asked { keeper, lines, clerk, desk }));
    let mut sockets = Sockets::open(&config, passed, cores.len())?;
    let (places, files) = (sockets.places.join(","), std::mem::take(&mut sockets.files));

    let plan = Plan::new(cores.clone());
    let make = {
        let (config, board, cores) = (Arc::clone(&config), Arc::clone(&board), cores.clone());
        let listeners = Arc::new(std::sync::Mutex::new(std::mem::take(&mut sockets.of_shards)));
        move |shard: ShardId| {
            let index = usize::from(shard.0);
            let own = listeners.lock().ok().and_then(|mut all| all.get_mut(index).map(std::mem::take));
            let core = cores.get(index).map_or(0, |core| core.0);
            Shard::new(Arc::clone(&config), Arc::clone(&board), core, own.unwrap_or_default())
        }
    };
    let running = runtime::launch(&plan, make)?;
    start_asking(running.handles(), &board, catalog_requests, asks)?;
    let handles = running.handles().to_vec();
    std::thread::Builder::new().name("listeners".to_owned()).spawn(move || line::run(&line_requests, &handles))?;
    tls::watch(&board, running.handles().to_vec())?;
    upstream::watch(&board, running.handles().to_vec())?;
    let export = start_telling(sockets.statistics, &config, running.handles(), &board)?;
    http::serve(endpoint, running.handles(), &board)?;
    {
        let desk = Desk::new(running.handles().to_vec(), Arc::clone(&board), Arc::clone(&config));
        let desk = desk.with(std::path::absolute(file)?, log, (Arc::clone(&herald), places.clone()));
        std::thread::Builder::new().name("desk".to_owned()).spawn(move || desk.run(&petitions))?;
    }
    let core_list: Vec<String> = cores.iter().map(|core| core.0.to_string()).collect();
    systemd::keep_watch(&herald, running.handles().to_vec())?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            on_signal(signal, &board);
        }
    })?;
    tracing::info!(
        addresses = places,
        cores = core_list.join(","),
        version = env!("CARGO_PKG_VERSION"),
        "ready for clients"
    );
    herald.ready(&format!("Clients come to {places}"));
    let outcome = running.join().context("a shard failed");
    if let Some(export) = export {
        export.stop();
    }
    socket::tidy_up(&files);
    tracing::info!("stopped");
    outcome
}

/// The threads that shards ask.
fn start_asking(
    shards: &[ShardHandle<Message>],
    board: &Arc<Board>,
    catalog_requests: Receiver<WatchRequest>,
    asks: Receiver<Ask>,
) -> std::io::Result<()> {
    let handles = shards.to_vec();
    std::thread::Builder::new().name("catalogs".to_owned()).spawn(move || keeper::run(&catalog_requests, &handles))?;
    let (handles, own) = (shards.to_vec(), Arc::clone(board));
    std::thread::Builder::new().name("clerk".to_owned()).spawn(move || clerk::run(&asks, &handles, &own))?;
    Ok(())
}

/// The threads that tell what is measured.
fn start_telling(
    listener: Option<UnixListener>,
    config: &Config,
    shards: &[ShardHandle<Message>],
    board: &Arc<Board>,
) -> std::io::Result<Option<Export>> {
    if let Some(listener) = listener {
        let (handles, board) = (shards.to_vec(), Arc::clone(board));
        std::thread::Builder::new()
            .name("statistics".to_owned())
            .spawn(move || give_statistics(&listener, &handles, &board))?;
    }
    export::start(&config.stats, shards, board)
}

fn on_signal(signal: i32, board: &Board) {
    let petition = match signal {
        SIGHUP => Petition::Reload,
        SIGUSR1 => Petition::Pause,
        SIGUSR2 => Petition::Resume,
        SIGINT => Petition::Stop(Stop::WaitForServers),
        SIGQUIT => Petition::Stop(Stop::Now),
        // SIGTERM
        _ => Petition::Stop(Stop::Drain),
    };
    if board.desk.send(petition).is_err() {
        tracing::warn!(signal, "nobody is there to hear the signal");
    }
}

/// Every client is a descriptor.
fn raise_descriptor_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("the limit of open files could not be raised to its maximum");
    }
    let wanted = u64::from(config.limits.max_client_connections) + SPARE_DESCRIPTORS;
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < wanted) {
        tracing::warn!(
            maximum,
            wanted,
            "fewer open files are allowed than clients; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
}

/// Whoever connects is given one snapshot.
fn give_statistics(listener: &UnixListener, handles: &[ShardHandle<Message>], board: &Board) {
    for client in listener.incoming() {
        let Ok(mut client) = client else { continue };
        let bytes = stats::frame(&take_snapshot(handles, board));
        let sent = client.set_write_timeout(Some(SNAPSHOT_MAX)).and_then(|()| client.write_all(&bytes));
        if let Err(error) = sent {
            tracing::debug!(%error, "statistics were asked for and not taken");
        }
    }
}

/// Asks all shards what they have counted; one that does not answer in time is left out.
pub(crate) fn take_snapshot(handles: &[ShardHandle<Message>], board: &Board) -> Snapshot {
    let (sender, replies) = crossbeam::channel::unbounded();
    for handle in handles {
        handle.post(Message::Snapshot(sender.clone()));
    }
    drop(sender);
    let mut snapshot = board.machine.snapshot(board.started.elapsed());
    let until = Instant::now() + SNAPSHOT_MAX;
    while let Ok(Stock { shard, pools, statements }) = replies.recv_deadline(until) {
        snapshot.shards.push(shard);
        snapshot.pools.extend(pools);
        snapshot.statements.extend(statements);
    }
    snapshot.shards.sort_by_key(|shard| shard.shard);
    snapshot.pools.sort_by(|a, b| (&a.database, &a.user, a.shard).cmp(&(&b.database, &b.user, b.shard)));
    snapshot
}
