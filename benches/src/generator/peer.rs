//! The servers that are compared: which there are says `benches/peers.toml`, or a file like it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use runtime::Address;
use serde::Deserialize;

use crate::case::{Carrier, Peer as Kind};
use crate::generator::talk::Talk;
use crate::generator::target::Target;
use crate::generator::trouble::Trouble;
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::stack::{Server, Stack};
use crate::wire::{DATABASE, USER};

const USUAL: &str = include_str!("../../peers.toml");
/// Longest time for a program to let clients in.
const START_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    peer: Vec<Spec>,
}

/// A server, as it is configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) name: String,
    start: Option<Start>,
    address: Option<String>,
    command: Option<Vec<String>>,
    config: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Start {
    Postgresql,
    Pgbouncer,
    Optimacore,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) target: Target,
    running: Ours,
}

/// What of it is ours.
#[derive(Debug)]
enum Ours {
    /// It runs by itself.
    Nothing,
    /// The bench's own.
    Server(Server),
    /// A program of somebody else's.
    Program(Process),
}

/// The servers of a file.
///
/// # Errors
/// [`Trouble::Usage`] when it is wrong.
pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Vec<Spec>> {
    let (name, text) = match file {
        None => ("benches/peers.toml".to_owned(), USUAL.to_owned()),
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| Trouble::Usage(format!("{} cannot be read: {error}", path.display())))?;
            (path.display().to_string(), text)
        }
    };
    parse(&name, &text).map_err(|error| Trouble::Usage(error).into())
}

/// A server of the bench's own, on that port.
pub(crate) fn local(port: u16) -> Target {
    Target {
        address: Address::Tcp((std::net::Ipv4Addr::LOCALHOST, port).into()),
        user: USER.to_owned(),
        database: DATABASE.to_owned(),
        password: None,
        shown: format!("postgres://{USER}@127.0.0.1:{port}/{DATABASE}"),
    }
}

fn parse(name: &str, text: &str) -> Result<Vec<Spec>, String> {
    let File { peer: peers } = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
        format!("{name}:{line}: {}", error.message().trim())
    })?;
    if peers.is_empty() {
        return Err(format!("{name}: there is no [[peer]]"));
    }
    for (index, peer) in peers.iter().enumerate() {
        let ways = [peer.start.is_some(), peer.address.is_some(), peer.command.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err(format!("{name}: the peer {} has one of start, address and command", peer.name));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if peer.name.is_empty() || !peer.name.chars().all(is_name) {
            return Err(format!("{name}: the name {:?} has other characters than letters, digits and -", peer.name));
        }
        if peers.iter().take(index).any(|other| other.name == peer.name) {
            return Err(format!("{name}: there are two peers of the name {}", peer.name));
        }
    }
    Ok(peers)
}

impl Peer {
    /// Starts it, if it is to be started; `None` for a pgbouncer that is not installed.
    pub(crate) fn start(spec: &Spec, stack: &Stack, interrupt: &Interrupt) -> anyhow::Result<Option<Self>> {
        let name = spec.name.clone();
        let kind = match (spec.start, &spec.address, &spec.command) {
            (Some(Start::Postgresql), ..) => {
                return Ok(Some(Self { name, target: local(stack.port()), running: Ours::Nothing }));
            }
            (Some(Start::Pgbouncer), ..) => Kind::Pgbouncer,
            (Some(Start::Optimacore), ..) => Kind::Optimacore,
            (None, Some(address), _) => {
                let password = std::env::var("PGPASSWORD").ok();
                let target = Target::parse(address, password).map_err(|error| Trouble::Usage(format!("{error:#}")))?;
                Talk::connect(&target)?;
                return Ok(Some(Self { name, target, running: Ours::Nothing }));
            }
            (None, None, command) => {
                let command = command.as_deref().unwrap_or_default();
                let (process, port) = stack.start_command(&name, command, spec.config.as_deref())?;
                let mut peer = Self { name, target: local(port), running: Ours::Program(process) };
                peer.wait_until_ready(interrupt)?;
                return Ok(Some(peer));
            }
        };
        let server = stack.start_proxy(kind, Carrier::Plain)?;
        Ok(server.map(|server| Self { name, target: local(server.port), running: Ours::Server(server) }))
    }

    /// An error once it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match &mut self.running {
            Ours::Nothing => Ok(()),
            Ours::Server(server) => server.check(),
            Ours::Program(process) => process.check(),
        }
    }

    /// Whether it is an OptimaCore that the bench has started.
    pub(crate) fn is_optimacore(&self) -> bool {
        matches!(&self.running, Ours::Server(server) if server.peer == Kind::Optimacore)
    }

    fn wait_until_ready(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            self.check()?;
            match Talk::connect(&self.target) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| format!("{} lets nobody in", self.name));
                }
                Err(_) => interrupt.sleep(Duration::from_millis(50))?,
            }
            if interrupt.is_set() {
                bail!(Trouble::Interrupted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_peers_are_three_and_wrong_ones_are_told() {
        let names: Vec<String> = parse("x", USUAL).unwrap().into_iter().map(|peer| peer.name).collect();
        assert_eq!(names, ["direct", "pgbouncer", "optimacore"]);
        assert_eq!(parse("x", "").unwrap_err(), "x: there is no [[peer]]");
        let two = "[[peer]]\nname = \"a\"\nstart = \"pgbouncer\"\naddress = \"b\"\n";
        assert_eq!(parse("x", two).unwrap_err(), "x: the peer a has one of start, address and command");
        assert!(parse("x", "[[peer]]\nname = \"a\"\nport = 1\n").unwrap_err().starts_with("x:3: unknown field `port`"));
        let same = "[[peer]]\nname = \"a\"\nstart = \"pgbouncer\"\n".repeat(2);
        assert_eq!(parse("x", &same).unwrap_err(), "x: there are two peers of the name a");
    }
}
