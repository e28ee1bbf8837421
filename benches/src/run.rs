//! The bench from start to end.

use std::time::Duration;

use crate::case::{Carrier, Case, Mode, Peer};
use crate::dress::{self, Dress};
use crate::idle;
use crate::interrupt::Interrupt;
use crate::load;
use crate::machine::{Machine, utc_now};
use crate::options::Options;
use crate::program::{Pgbouncer, Programs};
use crate::progress::Progress;
use crate::report::{CaseReport, DressReport, Report, Run, Settings};
use crate::selects;
use crate::stack::{POOL_SIZE, SCALE, Server, Stack};
use crate::wire::Client;

/// How long each peer is warmed up, once.
const WARM_UP: Duration = Duration::from_secs(1);

/// A bench that is going on.
#[derive(Debug)]
struct Bench<'b> {
    options: &'b Options,
    interrupt: &'b Interrupt,
    progress: &'b mut Progress,
    // dropped in this order: the proxies before what they lead to
    proxies: Vec<Server>,
    cluster: Server,
    stack: Stack,
    /// Whether pgbouncer takes prepared statements in transaction mode.
    pgbouncer_prepares: bool,
    notes: Vec<String>,
}

/// Does it all; everything that was started has ended when this returns.
pub fn run(options: &Options, interrupt: &Interrupt, progress: &mut Progress) -> anyhow::Result<Report> {
    let cases = options.cases()?;
    let started = utc_now();
    let file_limit = idle::raise_file_limit();
    let programs = Programs::find(options.pgbouncer.as_deref(), options.optimacore.as_deref())?;
    let machine = Machine::look(&programs, file_limit);
    let pgbouncer_prepares = programs.pgbouncer.as_ref().is_none_or(Pgbouncer::is_preparing);
    let mut notes = Vec::new();
    if programs.pgbouncer.is_none() {
        notes
            .push("pgbouncer is not installed and was left out; install it with: apt-get install pgbouncer".to_owned());
    } else if !pgbouncer_prepares {
        notes.push(
            "prepared statements in transaction mode need pgbouncer 1.21; this one was left out there".to_owned(),
        );
    }
    if cfg!(debug_assertions) {
        notes.push("this is not a release build; the figures mean nothing".to_owned());
    }
    for note in &notes {
        progress.note(note);
    }
    progress.begin("starting PostgreSQL and making its tables");
    let (stack, cluster) = Stack::start(programs, &options.cores, interrupt)?;
    let proxies = Vec::new();
    let mut bench = Bench { options, interrupt, progress, proxies, cluster, stack, pgbouncer_prepares, notes };
    let case_reports = bench.run_cases(&cases)?;
    let dresses = bench.run_dresses(&options.dresses())?;
    let idle = bench.measure_idle(idle::clients_possible(options.idle_clients(), file_limit))?;
    let settings = Settings {
        rounds: options.rounds(),
        seconds: options.time().as_secs(),
        scale: SCALE,
        pool_size: POOL_SIZE,
        cores: options.cores.clone(),
    };
    let notes = bench.notes;
    Ok(Report { started, machine, settings, notes, cases: case_reports, dresses, idle })
}

impl Bench<'_> {
    fn run_cases(&mut self, cases: &[Case]) -> anyhow::Result<Vec<CaseReport>> {
        if cases.is_empty() {
            return Ok(Vec::new());
        }
        for carrier in [Carrier::Plain, Carrier::Tls] {
            if !cases.iter().any(|case| case.carrier == carrier) {
                continue;
            }
            for peer in Peer::ALL {
                self.proxies.extend(self.stack.start_proxy(peer, carrier)?);
            }
            for peer in Peer::ALL {
                self.progress.update(&format!("warming up {}", peer.label()));
                let mut of_it = cases.iter().filter(|case| case.carrier == carrier);
                if let Some(first) = of_it.find(|case| self.is_possible(case, peer)) {
                    self.run_once(first, peer, WARM_UP)?;
                }
            }
        }
        let mut reports = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let name = format!("[{}/{}] {}", index + 1, cases.len(), case.name());
            self.progress.begin(&name);
            reports.push(self.run_case(case, index, &name)?);
        }
        self.proxies.clear();
        Ok(reports)
    }

    fn run_case(&mut self, case: &Case, index: usize, name: &str) -> anyhow::Result<CaseReport> {
        let mut runs = Vec::new();
        let rounds = self.options.rounds();
        for round in 1..=rounds {
            // each peer comes first, second and so on in turns: what the one before leaves behind is nobody's alone
            let first = (index + usize::try_from(round)?) % Peer::ALL.len();
            for peer in Peer::ALL.into_iter().cycle().skip(first).take(Peer::ALL.len()) {
                if !self.is_possible(case, peer) {
                    continue;
                }
                self.progress.update(&format!("{name}, round {round} of {rounds}: {}", peer.label()));
                runs.push(Run { round, ..self.run_once(case, peer, self.options.time())? });
            }
        }
        Ok(CaseReport::new(*case, runs))
    }

    /// Clients with settings of their own. All cases of a round follow each other, as they are compared with each other.
    fn run_dresses(&mut self, dresses: &[Dress]) -> anyhow::Result<Vec<DressReport>> {
        if dresses.is_empty() {
            return Ok(Vec::new());
        }
        self.progress.begin("clients with settings of their own");
        let mut client = Client::connect(std::net::Ipv4Addr::LOCALHOST, self.cluster.port)?;
        for index in 0..dress::CLIENTS {
            client.query(&format!("CREATE SCHEMA {}", dress::schema(index)))?;
        }
        drop(client);
        for peer in dress::PEERS {
            self.proxies.extend(self.stack.start_proxy(peer, Carrier::Plain)?);
        }
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); dresses.len()];
        let rounds = self.options.rounds();
        for round in 1..=rounds {
            let first = usize::try_from(round)?;
            for peer in dress::PEERS.into_iter().cycle().skip(first % dress::PEERS.len()).take(dress::PEERS.len()) {
                for index in (0..dresses.len()).cycle().skip(first % dresses.len()).take(dresses.len()) {
                    let (Some(dress), Some(runs)) = (dresses.get(index), runs.get_mut(index)) else { continue };
                    let name = dress.name();
                    self.progress.update(&format!("{name}, round {round} of {rounds}: {}", peer.label()));
                    runs.push(Run { round, ..self.run_dress(*dress, peer)? });
                }
            }
        }
        self.proxies.clear();
        let none = runs.first().cloned().unwrap_or_default();
        Ok(dresses.iter().zip(runs).map(|(dress, runs)| DressReport::new(*dress, runs, &none)).collect())
    }

    fn run_dress(&mut self, dress: Dress, peer: Peer) -> anyhow::Result<Run> {
        let server = self.proxies.iter_mut().find(|server| server.peer == peer).unwrap_or(&mut self.cluster);
        let result = selects::run(server, dress, self.options.time(), self.interrupt);
        self.interrupt.check()?;
        let (figures, error) = match result {
            Ok(figures) => (Some(figures), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        if let Some(error) = &error {
            self.note(format!("{} failed against {}: {error}", dress.name(), peer.label()));
            self.replace_if_ended(peer, Carrier::Plain)?;
        }
        Ok(Run { round: 0, peer, figures, error })
    }

    fn is_possible(&self, case: &Case, peer: Peer) -> bool {
        let is_there = peer == Peer::Direct || self.proxies.iter().any(|server| server.is(peer, case.carrier));
        is_there && (peer != Peer::Pgbouncer || case.mode == Mode::Simple || self.pgbouncer_prepares)
    }

    fn run_once(&mut self, case: &Case, peer: Peer, time: Duration) -> anyhow::Result<Run> {
        if case.script.is_writing() {
            // rows that everyone updates have long chains of versions by now
            let mut client = Client::connect(std::net::Ipv4Addr::LOCALHOST, self.cluster.port)?;
            client.query("VACUUM pgbench_branches, pgbench_tellers")?;
        }
        let result = match self.proxies.iter_mut().find(|server| server.is(peer, case.carrier)) {
            Some(server) => load::run(&self.stack, server, case, time, self.interrupt),
            None => load::run(&self.stack, &mut self.cluster, case, time, self.interrupt),
        };
        self.interrupt.check()?;
        let (figures, error) = match result {
            Ok(figures) => (Some(figures), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        if let Some(error) = &error {
            self.note(format!("{} failed against {}: {error}", case.name(), peer.label()));
            self.replace_if_ended(peer, case.carrier)?;
        }
        Ok(Run { round: 0, peer, figures, error })
    }

    /// A proxy that has ended is started again, so that the rest of the bench can be.
    fn replace_if_ended(&mut self, peer: Peer, carrier: Carrier) -> anyhow::Result<()> {
        if let Some(server) = self.proxies.iter_mut().find(|server| server.is(peer, carrier))
            && server.check().is_err()
            && let Some(new) = self.stack.start_proxy(peer, carrier)?
        {
            *server = new;
        }
        Ok(())
    }

    fn measure_idle(&mut self, clients: u32) -> anyhow::Result<Vec<idle::IdleFigures>> {
        let wanted = self.options.idle_clients();
        if clients < wanted {
            self.note(format!(
                "{clients} idle clients instead of {wanted}: no more files may be open, or clients let in"
            ));
        }
        let mut out = Vec::new();
        if clients == 0 {
            return Ok(out);
        }
        for peer in [Peer::Pgbouncer, Peer::Optimacore] {
            let Some(mut server) = self.stack.start_proxy(peer, Carrier::Plain)? else { continue };
            let name = format!("[idle] {}", peer.label());
            self.progress.begin(&name);
            let time = Duration::from_secs(self.options.idle_seconds);
            let progress = &mut *self.progress;
            let mut tell = |text: &str| progress.update(&format!("{name}: {text}"));
            let result = idle::measure(&mut server, clients, time, self.interrupt, &mut tell);
            self.interrupt.check()?;
            match result {
                Ok(figures) => out.push(figures),
                Err(error) => self.note(format!("idle clients of {}: {error:#}", peer.label())),
            }
        }
        Ok(out)
    }

    fn note(&mut self, text: String) {
        self.progress.note(&text);
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}
