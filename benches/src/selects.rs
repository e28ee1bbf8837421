//! A load of our own, for what pgbench cannot do: clients that each have set something of their own. Each sends the SELECT of
//! `pgbench -S -M prepared` as libpq would, waits for the answer and sends the next; one thread drives them all.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::case::Peer;
use crate::dress::{CLIENTS, Dress};
use crate::interrupt::Interrupt;
use crate::load::Figures;
use crate::stack::{SCALE, Server};
use crate::usage::{self, Cores};
use crate::wire::{Client, message};

/// How long it runs before anything is counted: connections are made, statements prepared and planned.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest wait for any answer.
const WAIT_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
const ACCOUNTS: u32 = SCALE * 100_000;
/// More than the longest answer.
const ANSWER_LEN_MAX: usize = 4096;

/// A client and what has come of the answer it waits for.
#[derive(Debug)]
struct Selecting {
    client: Client,
    answer: Vec<u8>,
}

/// Runs it against a server.
pub fn run(server: &mut Server, dress: Dress, time: Duration, interrupt: &Interrupt) -> anyhow::Result<Figures> {
    server.check()?;
    let mut clients = connect(server.port, dress)?;
    let poll = watch(&clients)?;
    let mut random = fastrand::Rng::with_seed(u64::from(server.port));
    for client in &mut clients {
        client.ask(&mut random)?;
    }
    answer_until(&mut clients, &poll, Instant::now() + WARM_UP, &mut random)?;
    interrupt.check()?;
    let proxy = (server.peer != Peer::Direct).then(|| server.id());
    let cpu = || proxy.map(usage::cpu_us).transpose();
    let (cores_before, cpu_before, start) = (Cores::now()?, cpu()?, Instant::now());
    let transactions = answer_until(&mut clients, &poll, start + time, &mut random)?;
    let (cores_after, cpu_after, elapsed) = (Cores::now()?, cpu()?, start.elapsed());
    server.check()?;
    ensure!(transactions > 0, "no transaction was done");
    for (index, client) in (0..).zip(&mut clients) {
        client.finish().and_then(|()| dress.check(&mut client.client, index))?;
    }
    let used = cpu_before.zip(cpu_after).map(|(before, after)| after.saturating_sub(before) as f64);
    let tps = transactions as f64 / elapsed.as_secs_f64();
    Ok(Figures {
        tps,
        latency_us: f64::from(CLIENTS) * 1e6 / tps,
        transactions,
        failed: 0,
        cpu_us: used.map(|used| used / transactions as f64),
        cpu_percent: used.map(|used| used / 1e4 / elapsed.as_secs_f64()),
        machine_percent: cores_after.busy_percent_since(cores_before),
        percentiles: None,
    })
}

/// Clients that are dressed and have prepared their statement.
fn connect(port: u16, dress: Dress) -> anyhow::Result<Vec<Selecting>> {
    let mut prepare = message(b'P', b"get\0SELECT abalance FROM pgbench_accounts WHERE aid = $1\0\0\0");
    prepare.extend(message(b'S', b""));
    let one = |index| {
        let mut client = Client::connect(Ipv4Addr::LOCALHOST, port)?;
        dress.put_on(&mut client, index)?;
        client.send(&prepare)?;
        anyhow::Ok(Selecting { client, answer: Vec::with_capacity(ANSWER_LEN_MAX) })
    };
    (0..CLIENTS).map(|index| one(index).with_context(|| format!("client {index}"))).collect()
}

/// Watches all sockets, which no longer block.
fn watch(clients: &[Selecting]) -> anyhow::Result<OwnedFd> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    for (index, client) in (0..).zip(clients) {
        client.client.0.set_nonblocking(true)?;
        epoll::add(&poll, &client.client.0, EventData::new_u64(index), EventFlags::IN)?;
    }
    Ok(poll)
}

/// Answers are read and the next SELECTs sent until then; gives how many there were.
fn answer_until(
    clients: &mut [Selecting],
    poll: &OwnedFd,
    end: Instant,
    random: &mut fastrand::Rng,
) -> anyhow::Result<u64> {
    let mut done = 0;
    let mut events = Vec::with_capacity(clients.len());
    while Instant::now() < end {
        epoll::wait(poll, spare_capacity(&mut events), Some(&WAIT_MAX))?;
        ensure!(!events.is_empty(), "no answer for {} s", WAIT_MAX.tv_sec);
        for event in events.drain(..) {
            let index = usize::try_from(event.data.u64())?;
            let Some(client) = clients.get_mut(index) else { continue };
            if client.is_answered()? {
                client.ask(random)?;
                done += 1;
            }
        }
    }
    Ok(done)
}

impl Selecting {
    fn ask(&mut self, random: &mut fastrand::Rng) -> anyhow::Result<()> {
        let aid = random.u32(1..=ACCOUNTS).to_string();
        // unnamed portal of "get", one parameter as text, one result as text
        let mut bind = b"\0get\0\0\0\0\x01".to_vec();
        bind.extend(u32::try_from(aid.len())?.to_be_bytes());
        bind.extend(aid.as_bytes());
        bind.extend(b"\0\x01\0\0");
        let mut request = message(b'B', &bind);
        request.extend(message(b'D', b"P\0"));
        request.extend(message(b'E', b"\0\0\0\0\0"));
        request.extend(message(b'S', b""));
        self.answer.clear();
        // far less than what a socket takes at once
        Ok(self.client.0.write_all(&request)?)
    }

    /// Reads what there is; gives whether the answer is complete.
    fn is_answered(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; ANSWER_LEN_MAX];
        let len = match self.client.0.read(&mut buffer) {
            Ok(0) => bail!("the connection was closed"),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.answer.extend(buffer.get(..len).unwrap_or_default());
        ensure!(self.answer.len() <= ANSWER_LEN_MAX, "an answer is far too long");
        judge(&self.answer)
    }

    /// Waits for the last answer, as a client that blocks.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.client.0.set_nonblocking(false)?;
        while !judge(&self.answer)? {
            let before = self.answer.len();
            self.is_answered()?;
            ensure!(self.answer.len() > before, "the last answer is missing");
        }
        Ok(())
    }
}

/// Whether an answer is complete; an error unless it has one row.
fn judge(answer: &[u8]) -> anyhow::Result<bool> {
    let mut rest = answer;
    let mut rows = 0;
    while let Some((&[tag, a, b, c, d], _)) = rest.split_first_chunk::<5>() {
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        let Some(after) = rest.get(len + 1..) else { return Ok(false) };
        match tag {
            b'D' => rows += 1,
            b'E' => bail!("an error instead of a row: {}", String::from_utf8_lossy(rest)),
            b'Z' => {
                ensure!(rows == 1 && after.is_empty(), "{rows} rows and {} bytes behind them", after.len());
                return Ok(true);
            }
            _ => (),
        }
        rest = after;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_row_and_the_ready_for_query() {
        let mut answer = message(b'2', b"");
        answer.extend(message(b'D', b"\0\x01\0\0\0\x011"));
        assert!(!judge(&answer).unwrap());
        answer.extend(message(b'Z', b"I"));
        assert!(judge(&answer).unwrap());
        assert!(!judge(answer.get(..answer.len() - 1).unwrap()).unwrap());
        assert!(judge(&message(b'Z', b"I")).is_err(), "no row");
        answer.push(b'Z');
        assert!(judge(&answer).is_err(), "more than was asked for");
        assert!(judge(&message(b'E', b"SERROR\0\0")).is_err());
    }
}
