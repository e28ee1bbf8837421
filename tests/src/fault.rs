//! The network between two programs on a bad day: connections are cut and reset, also in the middle of a message, stand still,
//! and come byte by byte. What happens is drawn from a seed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often a direction of a connection looks whether the other one is dead.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// One piece in so many is met by a fault that ends its connection, and by one that delays it.
const DEADLY_ONE_IN: u32 = 1_500;
const SLOW_ONE_IN: u32 = 150;
/// Bytes that come one by one at most.
const TRICKLE_MAX: usize = 300;

/// What all connections share.
#[derive(Debug, Default)]
struct Weather {
    over: AtomicBool,
    calm: AtomicBool,
    deadly: AtomicU64,
    slow: AtomicU64,
}

/// A TCP proxy. Ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    weather: Arc<Weather>,
}

/// What is done with a piece.
enum Fate {
    Pass,
    Stall(u64),
    Trickle,
    Cut(usize),
    Reset(usize),
}

impl FaultProxy {
    /// Passes connections on to that port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(target: u16, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let weather = Arc::<Weather>::default();
        let shared = Arc::clone(&weather);
        std::thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            for client in listener.incoming().flatten() {
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                // whoever cannot be passed on is hung up on
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                pass_both_ways(client, server, &shared, rng.fork());
            }
        });
        Self { port, weather }
    }

    /// Where it listens on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// No faults any more.
    pub fn calm(&self) {
        self.weather.calm.store(true, Ordering::Relaxed);
    }

    /// How many connections were ended, and how many pieces delayed.
    #[must_use]
    pub fn faults(&self) -> (u64, u64) {
        (self.weather.deadly.load(Ordering::Relaxed), self.weather.slow.load(Ordering::Relaxed))
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.weather.over.store(true, Ordering::Relaxed);
        // wakes the listener up
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn pass_both_ways(client: TcpStream, server: TcpStream, weather: &Arc<Weather>, mut rng: fastrand::Rng) {
    let dead = Arc::new(AtomicBool::new(false));
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    for (from, to) in [(client, server), (server_too, client_too)] {
        let way = Way { from, to, dead: Arc::clone(&dead), weather: Arc::clone(weather), rng: rng.fork() };
        std::thread::spawn(move || way.run());
    }
}

/// One direction of a connection.
struct Way {
    from: TcpStream,
    to: TcpStream,
    dead: Arc<AtomicBool>,
    weather: Arc<Weather>,
    rng: fastrand::Rng,
}

impl Way {
    fn run(mut self) {
        let _set: [std::io::Result<()>; 2] = [self.from.set_read_timeout(Some(LOOK_EVERY)), self.to.set_nodelay(true)];
        let mut chunk = vec![0; 16 * 1024];
        while !self.dead.load(Ordering::Relaxed) && !self.weather.over.load(Ordering::Relaxed) {
            let len = match self.from.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            if !self.pass(chunk.get(..len).unwrap_or_default()) {
                // both directions let go of it
                self.dead.store(true, Ordering::Relaxed);
                return;
            }
        }
        // an end is passed on; the other direction goes on until its own
        let _shut: std::io::Result<()> = self.to.shutdown(Shutdown::Write);
    }

    fn draw(&mut self, len: usize) -> Fate {
        if self.weather.calm.load(Ordering::Relaxed) {
            return Fate::Pass;
        }
        let there = self.rng.usize(..=len);
        if self.rng.u32(..DEADLY_ONE_IN) == 0 {
            self.weather.deadly.fetch_add(1, Ordering::Relaxed);
            return if self.rng.bool() { Fate::Cut(there) } else { Fate::Reset(there) };
        }
        if self.rng.u32(..SLOW_ONE_IN) == 0 {
            self.weather.slow.fetch_add(1, Ordering::Relaxed);
            return if self.rng.bool() { Fate::Stall(self.rng.u64(1..60)) } else { Fate::Trickle };
        }
        Fate::Pass
    }

    /// Passes a piece on, or not; gives whether the connection lives.
    fn pass(&mut self, piece: &[u8]) -> bool {
        match self.draw(piece.len()) {
            Fate::Pass => self.to.write_all(piece).is_ok(),
            Fate::Stall(ms) => {
                std::thread::sleep(Duration::from_millis(ms));
                self.to.write_all(piece).is_ok()
            }
            Fate::Trickle => {
                let (slow, rest) = piece.split_at(piece.len().min(TRICKLE_MAX));
                slow.chunks(1).all(|byte| self.to.write_all(byte).is_ok()) && self.to.write_all(rest).is_ok()
            }
            Fate::Cut(len) => {
                let _sent: std::io::Result<()> = self.to.write_all(piece.get(..len).unwrap_or_default());
                for stream in [&self.from, &self.to] {
                    let _shut: std::io::Result<()> = stream.shutdown(Shutdown::Both);
                }
                false
            }
            Fate::Reset(len) => {
                let _sent: std::io::Result<()> = self.to.write_all(piece.get(..len).unwrap_or_default());
                for stream in [&self.from, &self.to] {
                    let _set: rustix::io::Result<()> =
                        rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
                }
                false
            }
        }
    }
}
