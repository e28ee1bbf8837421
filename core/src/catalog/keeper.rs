//! Reads the system catalogs in the background: one thread and one connection per database.
//!
//! Off the data path: threads, blocking sockets. A shard asks for a database's catalog when its first pool of it opens, and
//! is sent one whenever it has changed; while it may be out of date, or cannot be read, shards have none, and then nothing
//! is shared. A shard that sees a statement change the catalog says so through [`Watch::note_change`], which makes
//! every older catalog void at once.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use config::{SessionAttrs, TlsMode};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use dbproto::auth::ClientAuth;
use dbproto::frame;
use dbproto::message::backend::{self, Authentication, ErrorFields};
use dbproto::message::frontend;
use dbproto::startup;
use runtime::{Address, ShardHandle};
use rustls::{ClientConnection, StreamOwned};

use crate::catalog::facts::{self, Row};
use crate::catalog::{Catalog, Facts};
use crate::pool::Target;
use crate::server::secure::{Hop, Way};
use crate::shard::Message;
use crate::tls::Upstream;
use crate::tls::binding::end_point;
use crate::upstream::{Place, unfit};

/// Databases that are watched at once; requests of further ones are not shared.
const WATCHES_MAX: usize = 64;
/// How often a catalog is looked at for changes made elsewhere.
const POLL_PAUSE: Duration = Duration::from_secs(1);
/// How long nothing must have changed before a changed catalog is read, and how long that is waited for.
const QUIET_PAUSE: Duration = Duration::from_millis(250);
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Readings in a row that may fail before the connection is taken to be the reason.
const FAILURES_MAX: u32 = 5;
/// Pauses after a failure.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long PostgreSQL may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const MESSAGE_LEN_MAX: usize = 64 * 1024 * 1024;

/// Names a database: which configured one, and what it is called there.
pub(crate) type DatabaseKey = (usize, String);

/// What shards and a keeper share about a database.
pub(crate) struct Watch {
    pub(crate) key: DatabaseKey,
    changes: AtomicU64,
    wake: Sender<()>,
    /// An administrator has paused the database: no connection to it is wanted.
    held: AtomicBool,
    /// Where new credentials go.
    targets: Sender<Target>,
    connected: AtomicBool,
}

impl Watch {
    /// A statement may have changed the catalog: what was read before is void.
    pub(crate) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Credentials have changed; those of other users do not matter.
    pub(crate) fn retarget(&self, target: Target) {
        // without a keeper there is nothing to tell
        let _sent: Result<(), _> = self.targets.send(target);
        self.wake();
    }

    /// The catalog is not to be read until [`Watch::let_go`].
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Release);
        self.wake();
    }

    /// The catalog may be read again.
    pub(crate) fn let_go(&self) {
        self.held.store(false, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // full means that it will look anyway
        let _sent: Result<(), _> = self.wake.try_send(());
    }

    fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Whether there is a connection to read it by.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// How many changes have been seen; a catalog with this version is not void.
    pub(crate) fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

/// A shard wants to know a database's catalog.
pub(crate) struct WatchRequest {
    pub(crate) key: DatabaseKey,
    pub(crate) target: Target,
}

/// News of a database's catalog.
#[derive(Clone)]
pub(crate) struct News {
    pub(crate) watch: Arc<Watch>,
    /// None while it is not known.
    pub(crate) catalog: Option<Arc<Catalog>>,
}

/// Serves requests until every shard has gone.
pub(crate) fn run(requests: &Receiver<WatchRequest>, shards: &[ShardHandle<Message>]) {
    let mut known: HashMap<DatabaseKey, ()> = HashMap::new();
    for request in requests {
        if known.len() >= WATCHES_MAX || known.insert(request.key.clone(), ()).is_some() {
            continue;
        }
        let (wake, woken) = bounded(1);
        let (targets, new_targets) = unbounded();
        let watch = Arc::new(Watch {
            key: request.key,
            changes: AtomicU64::new(0),
            wake,
            held: AtomicBool::new(false),
            targets,
            connected: AtomicBool::new(false),
        });
        let shards = shards.to_vec();
        let keeper = Keeper { watch, target: request.target, shards, woken, new_targets };
        let spawned = std::thread::Builder::new().name("catalog".to_owned()).spawn(move || keeper.keep());
        if let Err(error) = spawned {
            tracing::warn!(%error, "the catalog of a database cannot be watched; its requests are not shared");
        }
    }
}

struct Keeper {
    watch: Arc<Watch>,
    target: Target,
    shards: Vec<ShardHandle<Message>>,
    woken: Receiver<()>,
    new_targets: Receiver<Target>,
}

impl Keeper {
    fn keep(mut self) {
        self.publish(None);
        let mut pause = RETRY_MIN;
        let mut reported = false;
        loop {
            while self.watch.is_held() {
                // whether somebody woke us or the time is over, we look again
                let _woken: Result<(), _> = self.woken.recv_timeout(POLL_PAUSE);
            }
            while let Ok(target) = self.new_targets.try_recv() {
                if target.user == self.target.user {
                    self.target = target;
                }
            }
            self.watch.connected.store(true, Ordering::Release);
            let error = self.watch_until_lost(&mut pause);
            self.watch.connected.store(false, Ordering::Release);
            self.publish(None);
            if !std::mem::replace(&mut reported, true) {
                tracing::info!(database = self.watch.key.1, %error, "the catalog cannot be read; nothing is shared meanwhile");
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn publish(&self, catalog: Option<Arc<Catalog>>) {
        for shard in &self.shards {
            shard.post(Message::Catalog(News { watch: Arc::clone(&self.watch), catalog: catalog.clone() }));
        }
    }

    fn watch_until_lost(&mut self, pause: &mut Duration) -> io::Error {
        let mut link = match Link::open(&self.target) {
            Ok(link) => link,
            Err(error) => return error,
        };
        let mut seen: Option<(Vec<Row>, u64)> = None;
        let mut failures: u32 = 0;
        loop {
            if self.watch.is_held() {
                return io::Error::other("the database is paused");
            }
            let newest = self.new_targets.try_iter().filter(|target| target.user == self.target.user).last();
            if let Some(target) = newest {
                self.target = target;
                if !link.goes_to(&self.target) {
                    return io::Error::other("the database is elsewhere now");
                }
            }
            // read before the catalog is: a change in between makes what is read void, not the other way round
            let version = self.watch.version();
            let mark = match link.query(facts::CHANGE_MARK) {
                Ok(mark) => mark,
                Err(error) => return error,
            };
            let now = Some((mark, version));
            if seen != now {
                match link.read_facts() {
                    Ok((facts, texts)) => {
                        self.publish(Some(Arc::new(Catalog::build(facts, version))));
                        seen = now.filter(|_| texts == Texts::All);
                        failures = 0;
                        *pause = RETRY_MIN;
                    }
                    // what was just found may be gone already
                    Err(error) if error.kind() == io::ErrorKind::Other && failures < FAILURES_MAX => {
                        failures += 1;
                        seen = None;
                        self.publish(None);
                        self.settle();
                        continue;
                    }
                    Err(error) => return error,
                }
            }
            // whether somebody woke us or the time is over, we look again
            if self.woken.recv_timeout(POLL_PAUSE).is_ok() {
                self.settle();
            }
        }
    }

    /// A change seldom comes alone: what is read between two is void at once, and whoever reads holds back VACUUM.
    fn settle(&self) {
        let until = Instant::now() + SETTLE_MAX;
        while Instant::now() < until && !self.watch.is_held() && self.woken.recv_timeout(QUIET_PAUSE).is_ok() {}
    }
}

/// Whether the text of every view could be read. Somebody may hold what a view reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Texts {
    All,
    Some,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A blocking connection to PostgreSQL.
pub(crate) struct Link {
    stream: Box<dyn Stream>,
    /// The socket under it.
    socket: OwnedFd,
    input: BytesMut,
    /// Where it goes.
    address: Address,
    /// What the server had to be like.
    attrs: SessionAttrs,
}

impl Link {
    fn open(target: &Target) -> io::Result<Self> {
        Self::open_with(target, &[("application_name", "optimacore catalog")])
    }

    /// Logs in with these settings, in the ways that the database's mode of TLS allows, the first one first.
    pub(crate) fn open_with(target: &Target, settings: &[(&str, &str)]) -> io::Result<Self> {
        let mut outcome = Err(io::Error::other("its host name cannot be looked up"));
        for place in target.places.iter() {
            let open = |way| Self::open_by(target, (place, way), settings);
            outcome = match target.tls_mode() {
                TlsMode::Allow | TlsMode::Prefer => open(Way::First).or_else(|_| open(Way::Second)),
                TlsMode::Disable | TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => open(Way::First),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn open_by(target: &Target, (place, way): (&Place, Way), settings: &[(&str, &str)]) -> io::Result<Self> {
        let mut auth = target.login();
        let (stream, socket): (Box<dyn Stream>, OwnedFd) = match &place.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, Duration::from_secs(5))?;
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.set_nodelay(true)?;
                let socket = stream.try_clone()?.into();
                match Hop::first(target.tls_at(place), way) {
                    Hop::Clear => (Box::new(stream), socket),
                    Hop::Asking(tls) | Hop::Handshaking(tls) | Hop::Secured(tls) => {
                        (secure(stream, &tls, &mut auth)?, socket)
                    }
                }
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                let socket = stream.try_clone()?.into();
                (Box::new(stream), socket)
            }
        };
        let mut link =
            Self { stream, socket, input: BytesMut::new(), address: place.address.clone(), attrs: target.attrs };
        let mut out = BytesMut::new();
        let mut parameters: Vec<(&[u8], &[u8])> = vec![
            (b"user", target.user.as_bytes()),
            (b"database", target.database.as_bytes()),
            (b"client_encoding", b"UTF8"),
        ];
        parameters.extend(settings.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        startup::write_startup(&mut out, &parameters);
        link.stream.write_all(&out)?;
        link.be_let_in(target, &mut auth)?;
        Ok(link)
    }

    /// Proves who we are, and finds out whether this is a server that is wanted.
    fn be_let_in(&mut self, target: &Target, auth: &mut ClientAuth) -> io::Result<()> {
        let (mut out, mut reported) = (BytesMut::new(), HashMap::new());
        loop {
            let (tag, body) = self.message()?;
            match tag {
                b'S' => {
                    let (name, value) = backend::parameter_status(&body).map_err(io::Error::other)?;
                    reported.insert(name.to_vec(), value.to_vec());
                }
                b'R' => {
                    let request = Authentication::read(&body).map_err(io::Error::other)?;
                    out.clear();
                    auth.handle(request, &mut out).map_err(io::Error::other)?;
                    self.stream.write_all(&out)?;
                }
                b'Z' => {
                    let parameter = |name: &str| reported.get(name.as_bytes()).map(Vec::as_slice);
                    return unfit(target.attrs, parameter).map_or(Ok(()), |why| Err(io::Error::other(why)));
                }
                b'E' => return Err(refusal(&body)),
                _ => {}
            }
        }
    }

    /// Whether the database is still where this connection goes, and the same is asked of its server.
    pub(crate) fn goes_to(&self, target: &Target) -> bool {
        self.attrs == target.attrs && target.places.iter().any(|place| place.address == self.address)
    }

    /// The texts of views, then all other facts as of one moment. A view that changes in between has changed the mark.
    fn read_facts(&mut self) -> io::Result<(Facts, Texts)> {
        self.query("SET lock_timeout TO '100ms'")?;
        let mut views = HashMap::new();
        let mut texts = Texts::All;
        for row in self.query(facts::VIEWS)? {
            // without its text a view is nothing that could be shared
            match self.query(&facts::view(&facts::text(&row, 0))) {
                Ok(found) => {
                    let text = found.into_iter().next().and_then(|row| row.into_iter().next().flatten());
                    views.extend(text.map(|text| (facts::number(&row, 0), text)));
                }
                // gone meanwhile, or not to be had
                Err(error) if error.kind() == io::ErrorKind::Other => {
                    if error.to_string().contains("(55P03)") {
                        texts = Texts::Some;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let read = facts::read(views, |text| self.query(text));
        self.query("COMMIT")?;
        Ok((read?, texts))
    }

    pub(crate) fn query(&mut self, text: &str) -> io::Result<Vec<Row>> {
        self.ask(text.as_bytes())
    }

    /// As [`Link::query`], for a text that need not be UTF-8.
    pub(crate) fn ask(&mut self, text: &[u8]) -> io::Result<Vec<Row>> {
        let mut out = BytesMut::new();
        frontend::write_query(&mut out, text).map_err(io::Error::other)?;
        self.rows_of(&out)
    }

    /// From now on only [`Link::poll_message`] and [`Link::send`] may be used.
    pub(crate) fn never_block(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, true)?)
    }

    /// Where it goes.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// The socket, to wait for what comes.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a query.
    pub(crate) fn send(&mut self, text: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::new();
        frontend::write_query(&mut out, text).map_err(io::Error::other)?;
        rustix::io::ioctl_fionbio(&self.socket, false)?;
        let sent = self.stream.write_all(&out).and_then(|()| self.stream.flush());
        rustix::io::ioctl_fionbio(&self.socket, true)?;
        sent
    }

    /// The next message, if it is there.
    pub(crate) fn poll_message(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        match self.message() {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and gives the rows of its answer.
    pub(crate) fn rows_of(&mut self, request: &[u8]) -> io::Result<Vec<Row>> {
        self.stream.write_all(request)?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let (tag, body) = self.message()?;
            match tag {
                b'D' => {
                    let row: Result<Row, _> =
                        backend::columns(&body).map(|column| column.map(|value| value.map(<[u8]>::to_vec))).collect();
                    rows.push(row.map_err(io::Error::other)?);
                }
                b'E' => failure = Some(refusal(&body)),
                b'Z' => return failure.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((message, _)) = frame::split(&self.input).map_err(io::Error::other)? {
                let (tag, body, len) = (message.tag, message.body.to_vec(), message.bytes.len());
                bytes::Buf::advance(&mut self.input, len);
                return Ok((tag, body));
            }
            if self.input.len() > MESSAGE_LEN_MAX {
                return Err(io::Error::other("a message is too long"));
            }
            let mut buffer = [0; 16 * 1024];
            let len = self.stream.read(&mut buffer)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(buffer.get(..len).unwrap_or_default());
        }
    }
}

/// Asks for TLS and shakes hands, with the certificates as they are now.
fn secure(mut stream: TcpStream, tls: &Upstream, auth: &mut ClientAuth) -> io::Result<Box<dyn Stream>> {
    let mut out = BytesMut::new();
    startup::write_ssl_request(&mut out);
    stream.write_all(&out)?;
    let mut answer = [0];
    // this byte and no more: what came behind it in clear is taken for a handshake, which it is not
    stream.read_exact(&mut answer)?;
    match (answer, tls.mode.is_required()) {
        ([b'S'], _) => {
            let tls = tls.afresh().map_err(io::Error::other)?;
            let mut connection = ClientConnection::new(tls.config, tls.name).map_err(io::Error::other)?;
            while connection.is_handshaking() {
                connection.complete_io(&mut stream)?;
            }
            let certificate = connection.peer_certificates().and_then(<[_]>::first);
            if let Some(channel) = certificate.and_then(|der| end_point(der)) {
                auth.bind(channel);
            }
            Ok(Box::new(StreamOwned::new(connection, stream)))
        }
        ([b'N'], false) => Ok(Box::new(stream)),
        _ => Err(io::Error::other("it does not speak TLS")),
    }
}

/// What an ErrorResponse says.
pub(crate) fn refusal(body: &[u8]) -> io::Error {
    let fields = ErrorFields::new(body);
    let text = |code| String::from_utf8_lossy(fields.get(code).unwrap_or_default()).into_owned();
    io::Error::other(format!("{} ({})", text(b'M'), text(b'C')))
}
