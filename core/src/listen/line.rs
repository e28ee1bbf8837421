//! The thread behind a [`Line`]: one connection that listens in one database for the sessions of all shards.
//!
//! Off the data path: it waits for its connection and for orders, answers one round of orders after the other, and posts what it
//! hears to the shards. What shards have not dealt with is bounded: beyond, nothing is read, and PostgreSQL keeps it.
//! The connection is made when a session first needs it, again whenever it was lost, and ends when nobody has listened for
//! a while.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, unbounded};
use dbproto::message::backend::Notification;
use runtime::{ShardHandle, ShardId};
use rustix::event::{PollFd, PollFlags, poll};

use crate::catalog::keeper::{DatabaseKey, Link, refusal};
use crate::listen::{Batch, Channel, Heard, Line, Mark, News, Order, about, quote};
use crate::pool::Target;
use crate::shard::Message;

/// Lines at once; sessions of further databases keep their connections when they listen.
const LINES_MAX: usize = 64;
/// Pauses after a failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long PostgreSQL may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A connection that has said nothing for so long is asked whether it is there.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// How long a connection is kept that nobody needs.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// Bytes that shards have not dealt with, above which nothing is read.
const UNTOLD_MAX: usize = 8 * 1024 * 1024;
/// Bytes that are told together at most.
const BATCH_MAX: usize = 64 * 1024;
/// Pause while shards have too much to deal with.
const BREATH: Duration = Duration::from_millis(2);

/// A shard wants a database's line.
pub(crate) struct LineRequest {
    pub(crate) key: DatabaseKey,
    pub(crate) target: Target,
}

/// Serves requests until every shard has gone.
pub(crate) fn run(requests: &Receiver<LineRequest>, shards: &[ShardHandle<Message>]) {
    let mut known: HashMap<DatabaseKey, Arc<Line>> = HashMap::new();
    for request in requests {
        if let Some(line) = known.get(&request.key) {
            line.order(Order::Open(request.target));
            continue;
        }
        if known.len() >= LINES_MAX {
            continue;
        }
        match begin(request, shards) {
            Ok(line) => {
                known.insert(line.key.clone(), line);
            }
            Err(error) => tracing::warn!(%error, "notifications of a database cannot be told by one connection"),
        }
    }
}

fn begin(request: LineRequest, shards: &[ShardHandle<Message>]) -> io::Result<Arc<Line>> {
    let (bell, woken) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let (sender, orders) = unbounded();
    let mut secret = [0; 16];
    crate::cancel::fill_random(&mut secret);
    let marks = format!("_optimacore_{:032x}", u128::from_be_bytes(secret));
    let line = Arc::new(Line {
        key: request.key,
        marks: marks.into_bytes().into(),
        orders: sender,
        bell,
        untold: AtomicUsize::new(0),
        backend: AtomicU32::new(0),
        channels: AtomicU64::new(0),
        heard: AtomicU64::new(0),
        losses: AtomicU64::new(0),
    });
    let keeper = Keeper {
        line: Arc::clone(&line),
        target: request.target,
        shards: shards.to_vec(),
        orders,
        woken,
        interest: HashMap::new(),
        todo: Vec::new(),
        batch: Vec::new(),
        batch_len: 0,
        wanted: Wanted::Yes,
        held: Held::No,
    };
    std::thread::Builder::new().name("listener".to_owned()).spawn(move || keeper.keep())?;
    Ok(line)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    /// Until somebody asks again.
    No,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    /// The database is paused.
    Yes,
}

/// Why a connection was given up.
enum End {
    /// Nobody needs it.
    Unwanted,
    Lost(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// What is under way on the connection.
struct Round {
    orders: Vec<Order>,
    asked_at: Instant,
    failure: Option<io::Error>,
}

struct Keeper {
    line: Arc<Line>,
    target: Target,
    shards: Vec<ShardHandle<Message>>,
    orders: Receiver<Order>,
    woken: UnixStream,
    /// What is listened to, and by the sessions of which shards.
    interest: HashMap<Channel, Vec<ShardId>>,
    todo: Vec<Order>,
    batch: Vec<Heard>,
    batch_len: usize,
    wanted: Wanted,
    held: Held,
}

impl Keeper {
    fn keep(mut self) {
        for shard in &self.shards {
            shard.post(Message::Line(Box::new(News::Made(Arc::clone(&self.line)))));
        }
        let mut pause = RETRY_MIN;
        let mut reported = false;
        loop {
            self.wait_until_wanted();
            let end = match self.open() {
                Ok(link) => {
                    (pause, reported) = (RETRY_MIN, false);
                    let address = link.address().clone();
                    self.post(|key| News::Up(key, address.clone()));
                    let end = self.attend(link);
                    self.line.backend.store(0, Ordering::Release);
                    self.publish();
                    if let End::Lost(_) = end {
                        self.line.losses.fetch_add(1, Ordering::Relaxed);
                    }
                    end
                }
                Err(error) => End::Lost(error),
            };
            let left = std::mem::take(&mut self.todo);
            self.fail(&left);
            self.post(News::Down);
            let End::Lost(error) = end else { continue };
            if !std::mem::replace(&mut reported, true) {
                tracing::warn!(database = self.line.key.1, %error, "the connection that listens for sessions is lost; it is made again");
            }
            let until = Instant::now() + pause;
            while self.wait_for_order(Some(until)) {}
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Waits while no connection is wanted.
    fn wait_until_wanted(&mut self) {
        while self.held == Held::Yes || (self.wanted == Wanted::No && self.interest.is_empty()) {
            self.wait_for_order(None);
        }
    }

    /// Deals with one order that comes while there is no connection; gives whether one came in time.
    fn wait_for_order(&mut self, until: Option<Instant>) -> bool {
        let order = match until {
            Some(until) => match self.orders.recv_deadline(until) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            },
            None => match self.orders.recv() {
                Ok(order) => order,
                Err(_) => return false,
            },
        };
        self.take(order);
        let left = std::mem::take(&mut self.todo);
        self.fail(&left);
        true
    }

    /// Notes an order; what PostgreSQL must be asked for is to be done.
    fn take(&mut self, order: Order) {
        match order {
            Order::Open(target) => {
                self.target = target;
                self.wanted = Wanted::Yes;
            }
            Order::Move(target) => self.target = target,
            Order::Hold => self.held = Held::Yes,
            Order::Go => self.held = Held::No,
            Order::Join { .. } | Order::Mark(_) | Order::Leave { .. } => self.todo.push(order),
        }
    }

    fn post(&self, news: impl Fn(DatabaseKey) -> News) {
        for shard in &self.shards {
            shard.post(Message::Line(Box::new(news(self.line.key.clone()))));
        }
    }

    /// These marks are not made.
    fn fail(&mut self, orders: &[Order]) {
        for order in orders {
            match order {
                Order::Join { mark, .. } | Order::Mark(mark) => {
                    if let Order::Join { channels, .. } = order {
                        // listened to they will be all the same, as soon as there is a connection
                        for channel in channels {
                            self.join(mark.shard, channel);
                        }
                    }
                    let key = self.line.key.clone();
                    if let Some(shard) = self.shards.get(usize::from(mark.shard.0)) {
                        shard.post(Message::Line(Box::new(News::Failed(key, vec![*mark]))));
                    }
                }
                Order::Leave { shard, channels } => {
                    for channel in channels {
                        self.leave(*shard, channel);
                    }
                }
                Order::Open(_) | Order::Move(_) | Order::Hold | Order::Go => {}
            }
        }
        self.count_channels();
    }

    fn join(&mut self, shard: ShardId, channel: &Channel) {
        let shards = self.interest.entry(Arc::clone(channel)).or_default();
        if !shards.contains(&shard) {
            shards.push(shard);
        }
    }

    /// Gives whether nobody listens to it any more.
    fn leave(&mut self, shard: ShardId, channel: &Channel) -> bool {
        let Some(shards) = self.interest.get_mut(channel) else { return false };
        shards.retain(|other| *other != shard);
        let unheard = shards.is_empty();
        if unheard {
            self.interest.remove(channel);
        }
        unheard
    }

    fn count_channels(&self) {
        self.line.channels.store(self.interest.len() as u64, Ordering::Relaxed);
    }

    /// A connection that listens to the marks and to everything that is listened to.
    fn open(&mut self) -> io::Result<Link> {
        let mut link = Link::open_with(&self.target, &[("application_name", "optimacore listener")])?;
        let mut text = Vec::new();
        about(&mut text, "LISTEN", &self.line.marks);
        for channel in self.interest.keys() {
            about(&mut text, "LISTEN", channel);
        }
        text.extend_from_slice(b"SELECT pg_catalog.pg_backend_pid()");
        let rows = link.ask(&text)?;
        let pid = rows.first().and_then(|row| row.first()?.as_deref()).and_then(|pid| std::str::from_utf8(pid).ok());
        self.line.backend.store(pid.and_then(|pid| pid.parse().ok()).unwrap_or(u32::MAX), Ordering::Release);
        link.never_block()?;
        Ok(link)
    }

    /// Hears and carries out orders until the connection is lost or not wanted.
    fn attend(&mut self, mut link: Link) -> End {
        let mut round: Option<Round> = None;
        let (mut heard_at, mut used_at) = (Instant::now(), Instant::now());
        loop {
            let step = self.hear(&mut link, &mut round, &mut heard_at);
            self.publish();
            let asked = step.and_then(|()| {
                while let Ok(order) = self.orders.try_recv() {
                    self.take(order);
                }
                self.ask(&mut link, &mut round, heard_at)
            });
            let late = round.as_ref().is_some_and(|round| round.asked_at.elapsed() > ANSWER_MAX);
            let end = match asked {
                Err(error) => Some(End::Lost(error)),
                Ok(()) if self.held == Held::Yes => Some(End::Unwanted),
                Ok(()) if !link.goes_to(&self.target) => {
                    Some(End::Lost(io::Error::other("the database is elsewhere now")))
                }
                Ok(()) if late => Some(End::Lost(io::Error::other("it does not answer"))),
                Ok(()) if round.is_none() && self.interest.is_empty() && used_at.elapsed() > UNUSED_MAX => {
                    self.wanted = Wanted::No;
                    Some(End::Unwanted)
                }
                Ok(()) => None,
            };
            if !self.interest.is_empty() || round.is_some() {
                used_at = Instant::now();
            }
            let waited = match end {
                Some(end) => Err(end),
                None => self.wait(&link).map_err(End::Lost),
            };
            if let Err(end) = waited {
                if let Some(round) = round {
                    self.fail(&round.orders);
                }
                return end;
            }
        }
    }

    /// Takes what has come, unless the shards have enough to deal with.
    fn hear(&mut self, link: &mut Link, round: &mut Option<Round>, heard_at: &mut Instant) -> io::Result<()> {
        while self.line.untold.load(Ordering::Acquire) < UNTOLD_MAX {
            let Some((tag, body)) = link.poll_message()? else { break };
            *heard_at = Instant::now();
            match tag {
                b'A' => self.note(&body),
                b'E' => match round {
                    Some(round) => round.failure = Some(refusal(&body)),
                    None => return Err(refusal(&body)),
                },
                b'Z' => {
                    if let Some(Round { orders, failure: Some(error), .. }) = round.take() {
                        // it begins anew, and then listens to what is still wanted
                        self.publish();
                        self.fail(&orders);
                        return Err(error);
                    }
                }
                _ => {}
            }
            if self.batch_len > BATCH_MAX {
                self.publish();
            }
        }
        Ok(())
    }

    fn note(&mut self, body: &[u8]) {
        let Ok(heard) = Notification::read(body) else { return };
        self.batch_len += body.len() + size_of::<Heard>();
        if *heard.channel == *self.line.marks {
            if let Some(mark) = Mark::read(heard.payload) {
                self.batch.push(Heard::Mark(mark));
            }
            return;
        }
        self.line.heard.fetch_add(1, Ordering::Relaxed);
        if let Some((channel, _)) = self.interest.get_key_value(heard.channel) {
            let channel = Arc::clone(channel);
            self.batch.push(Heard::Notification {
                channel,
                process_id: heard.process_id,
                payload: heard.payload.into(),
            });
        }
    }

    /// Tells the shards what was heard.
    fn publish(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut wanted = vec![false; self.shards.len()];
        let mut want = |shard: ShardId| {
            if let Some(wanted) = wanted.get_mut(usize::from(shard.0)) {
                *wanted = true;
            }
        };
        for heard in &self.batch {
            match heard {
                Heard::Notification { channel, .. } => {
                    self.interest.get(channel).into_iter().flatten().copied().for_each(&mut want);
                }
                Heard::Mark(mark) => want(mark.shard),
            }
        }
        let len = std::mem::take(&mut self.batch_len);
        self.line.untold.fetch_add(len, Ordering::AcqRel);
        let batch = Arc::new(Batch { line: Arc::clone(&self.line), all: std::mem::take(&mut self.batch), len });
        for (shard, _) in self.shards.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            shard.post(Message::Line(Box::new(News::Heard(Arc::clone(&batch)))));
        }
    }

    /// Asks PostgreSQL for what is to be done, all of it in one transaction, or whether it is there.
    fn ask(&mut self, link: &mut Link, round: &mut Option<Round>, heard_at: Instant) -> io::Result<()> {
        if round.is_some() {
            return Ok(());
        }
        let orders = std::mem::take(&mut self.todo);
        let mut text = Vec::new();
        for order in &orders {
            match order {
                Order::Join { mark, channels } => {
                    for channel in channels {
                        if !self.interest.contains_key(channel) {
                            about(&mut text, "LISTEN", channel);
                        }
                        self.join(mark.shard, channel);
                    }
                    self.mark(&mut text, *mark);
                }
                Order::Mark(mark) => self.mark(&mut text, *mark),
                Order::Leave { shard, channels } => {
                    for channel in channels {
                        if self.leave(*shard, channel) {
                            about(&mut text, "UNLISTEN", channel);
                        }
                    }
                }
                Order::Open(_) | Order::Move(_) | Order::Hold | Order::Go => {}
            }
        }
        self.count_channels();
        if text.is_empty() && (!orders.is_empty() || heard_at.elapsed() < QUIET_MAX) {
            return Ok(());
        }
        link.send(&text)?;
        *round = Some(Round { orders, asked_at: Instant::now(), failure: None });
        Ok(())
    }

    fn mark(&self, text: &mut Vec<u8>, mark: Mark) {
        text.extend_from_slice(b"NOTIFY ");
        quote(text, &self.line.marks);
        text.extend_from_slice(format!(", '{}';\n", mark.payload()).as_bytes());
    }

    /// Waits until something comes or is wanted.
    fn wait(&self, link: &Link) -> io::Result<()> {
        let full = self.line.untold.load(Ordering::Acquire) >= UNTOLD_MAX;
        let pause = if full { BREATH } else { Duration::from_secs(1) };
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or_default(),
            tv_nsec: pause.subsec_nanos().into(),
        };
        let mut all = [
            PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(link.descriptor(), PollFlags::IN),
        ];
        let watched = if full { all.get_mut(..1) } else { Some(&mut all[..]) };
        match poll(watched.unwrap_or_default(), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut rings = [0; 64];
        // nothing there is no error
        let _read: io::Result<usize> = (&self.woken).read(&mut rings);
        Ok(())
    }
}
