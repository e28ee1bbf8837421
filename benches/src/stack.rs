//! The servers that are measured: a PostgreSQL cluster, pgbouncer and OptimaCore before it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Signal;

use crate::case::{Carrier, Peer};
use crate::interrupt::Interrupt;
use crate::place::{Place, free_port};
use crate::process::{Process, tail};
use crate::program::{Pgbouncer, Programs};
use crate::wire::{Client, DATABASE, USER};

/// Server connections of each pool.
pub const POOL_SIZE: u32 = 8;
/// Client connections each proxy takes at most.
pub const CLIENTS_MAX: u32 = 12_000;
/// Direct clients at once, and some to spare.
const SERVER_CONNECTIONS_MAX: u32 = 400;
/// pgbench's scale: 100,000 accounts each.
pub const SCALE: u32 = 10;
const START_TIME_MAX: Duration = Duration::from_secs(60);
const SETUP_TIME_MAX: Duration = Duration::from_secs(300);

/// How the cluster differs from what initdb makes: it shall not be the disk that is measured, nor housekeeping.
const SETTINGS: [(&str, &str); 10] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("shared_buffers", "256MB"),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("log_checkpoints", "off"),
];

/// Everything servers are started from.
#[derive(Debug)]
pub struct Stack {
    programs: Programs,
    /// Which cores OptimaCore uses.
    cores: String,
    interrupt: Interrupt,
    /// Where the cluster listens.
    port: u16,
    /// Who all servers say they are.
    identity: Identity,
    place: Place,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Who it is.
    pub peer: Peer,
    /// What leads from it to PostgreSQL. Its clients may come either way.
    pub carrier: Carrier,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    process: Process,
}

impl Stack {
    /// Makes and starts the cluster, with pgbench's tables in it. Its directory goes with the stack, so it must end before.
    pub fn start(programs: Programs, cores: &str, interrupt: &Interrupt) -> anyhow::Result<(Self, Server)> {
        let place = Place::make()?;
        let data = place.make_dir("data")?;
        let mut initdb = place.server_command(&programs.initdb);
        initdb.args(["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--username", USER, "--pgdata"]);
        initdb.arg(&data);
        Process::start("initdb", &mut initdb, &place.path("initdb.log"), Signal::TERM)?
            .finish(SETUP_TIME_MAX, interrupt)?;
        let port = free_port()?;
        let identity = Identity::make(&place)?;
        let mut postgres = place.server_command(&programs.postgres);
        postgres.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        postgres.args(["-c", &format!("max_connections={SERVER_CONNECTIONS_MAX}")]);
        for (name, value) in SETTINGS {
            postgres.args(["-c", &format!("{name}={value}")]);
        }
        postgres.args(["-c", "ssl=on", "-c", &format!("ssl_cert_file={}", identity.certificate.display())]);
        postgres.args(["-c", &format!("ssl_key_file={}", identity.key.display())]);
        // its data is about to be removed, so an immediate end is in order
        let process = Process::start("PostgreSQL", &mut postgres, &place.path("postgres.log"), Signal::QUIT)?;
        let mut cluster = Server { peer: Peer::Direct, carrier: Carrier::Plain, port, process };
        cluster.wait_until_ready(interrupt)?;
        let stack = Self { programs, cores: cores.to_owned(), interrupt: interrupt.clone(), port, identity, place };
        let mut tables = stack.pgbench(port, Carrier::Plain);
        tables.args(["-i", "-q", "-s", &SCALE.to_string(), DATABASE]);
        Process::start("pgbench -i", &mut tables, &stack.place.path("pgbench-init.log"), Signal::TERM)?
            .finish(SETUP_TIME_MAX, interrupt)?;
        Ok((stack, cluster))
    }

    /// A path for files of a run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// pgbench, bound for a port; where it connects to is in its environment, so that only the load is left to say.
    pub(crate) fn pgbench(&self, port: u16, carrier: Carrier) -> Command {
        let mode = match carrier {
            Carrier::Plain => "disable",
            Carrier::Tls => "require",
        };
        let mut command = self.place.command(&self.programs.pgbench);
        command.env("PGHOST", "127.0.0.1").env("PGPORT", port.to_string()).env("PGUSER", USER);
        command.env("PGSSLMODE", mode).env("PGGSSENCMODE", "disable");
        command
    }

    /// Starts one of the proxies, or gives `None` for one that is not installed.
    pub fn start_proxy(&self, peer: Peer, carrier: Carrier) -> anyhow::Result<Option<Server>> {
        let port = free_port()?;
        let process = match (peer, &self.programs.pgbouncer) {
            (Peer::Direct, _) | (Peer::Pgbouncer, None) => return Ok(None),
            (Peer::Pgbouncer, Some(pgbouncer)) => self.start_pgbouncer(pgbouncer, port, carrier)?,
            (Peer::Optimacore, _) => self.start_optimacore("on", port, carrier)?,
            (Peer::OptimacoreUnshared, _) => self.start_optimacore("off", port, carrier)?,
        };
        let mut server = Server { peer, carrier, port, process };
        server.wait_until_ready(&self.interrupt)?;
        Ok(Some(server))
    }

    /// Where the cluster listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts somebody else's program before the cluster; gives where it listens. `{port}`, `{postgres_port}` and `{config}`
    /// stand for what they say.
    pub(crate) fn start_command(
        &self,
        name: &str,
        command: &[String],
        config: Option<&str>,
    ) -> anyhow::Result<(Process, u16)> {
        let port = free_port()?;
        let fill =
            |text: &str| text.replace("{port}", &port.to_string()).replace("{postgres_port}", &self.port.to_string());
        let config = config.map(|text| self.place.write(&format!("{name}-{port}.conf"), &fill(text))).transpose()?;
        let config = config.map(|path| path.display().to_string()).unwrap_or_default();
        let (program, arguments) = command.split_first().with_context(|| format!("the command of {name} is empty"))?;
        let mut started = self.place.server_command(Path::new(program));
        started.args(arguments.iter().map(|argument| fill(argument).replace("{config}", &config)));
        let log = self.place.path(&format!("{name}-{port}.log"));
        Ok((Process::start(name, &mut started, &log, Signal::TERM)?, port))
    }

    fn start_pgbouncer(&self, pgbouncer: &Pgbouncer, port: u16, carrier: Carrier) -> anyhow::Result<Process> {
        let users = self.place.write("pgbouncer-users.txt", &format!("\"{USER}\" \"\"\n"))?;
        let prepared = if pgbouncer.is_preparing() { "max_prepared_statements = 200\n" } else { "" };
        let Identity { certificate, key } = &self.identity;
        let tls = match carrier {
            Carrier::Plain => String::new(),
            Carrier::Tls => format!(
                "client_tls_sslmode = allow\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n\
                 server_tls_sslmode = require\n",
                certificate.display(),
                key.display(),
            ),
        };
        let text = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nlisten_backlog = 4096\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = {CLIENTS_MAX}\n\
             log_connections = 0\nlog_disconnections = 0\n{prepared}{tls}",
            self.port,
            users.display(),
        );
        let config = self.place.write(&format!("pgbouncer-{port}.ini"), &text)?;
        let mut command = self.place.server_command(&pgbouncer.path);
        command.arg(config);
        Process::start("pgbouncer", &mut command, &self.place.path(&format!("pgbouncer-{port}.log")), Signal::TERM)
    }

    fn start_optimacore(&self, share: &str, port: u16, carrier: Carrier) -> anyhow::Result<Process> {
        let Identity { certificate, key } = &self.identity;
        let tls = match carrier {
            Carrier::Plain => String::new(),
            Carrier::Tls => format!(
                "[listen.tls]\nmode = \"allow\"\ncertificate = {certificate:?}\nkey = {key:?}\n\n\
                 [server]\ntls = \"require\"\n\n"
            ),
        };
        let text = format!(
            "[listen]\naddresses = [\"127.0.0.1:{port}\"]\nbacklog = 4096\n\n{tls}[runtime]\ncores = {:?}\n\n\
             [limits]\nmax_client_connections = {CLIENTS_MAX}\nshutdown_timeout = \"1s\"\n\n\
             [pool]\nsize = {POOL_SIZE}\nshare = \"{share}\"\n\n[log]\nlevel = \"warn\"\n\n\
             [[database]]\nname = \"{DATABASE}\"\nhost = \"127.0.0.1\"\nport = {}\n\n\
             [[user]]\nname = \"{USER}\"\ntrust = [\"127.0.0.0/8\"]\n",
            self.cores, self.port,
        );
        let config = self.place.write(&format!("optimacore-{port}.toml"), &text)?;
        let mut command = self.place.server_command(&self.programs.optimacore);
        command.arg("--config").arg(config);
        Process::start("optimacore", &mut command, &self.place.path(&format!("optimacore-{port}.log")), Signal::TERM)
    }
}

/// A certificate for 127.0.0.1 that signs itself, and its key.
#[derive(Debug)]
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    fn make(place: &Place) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .context("no certificate could be made")?;
        Ok(Self {
            certificate: place.write("server.crt", &made.cert.pem())?,
            key: place.write_secret("server.key", &made.signing_key.serialize_pem())?,
        })
    }
}

impl Server {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it is this peer, and led to PostgreSQL this way.
    pub fn is(&self, peer: Peer, carrier: Carrier) -> bool {
        (self.peer, self.carrier) == (peer, carrier)
    }

    /// An error once it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.process.check()
    }

    /// Waits until a client can log in.
    fn wait_until_ready(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            self.process.check()?;
            match Client::connect(Ipv4Addr::LOCALHOST, self.port) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let output = tail(&self.process.output());
                    return Err(error).with_context(|| format!("{} lets nobody in:\n{output}", self.peer.label()));
                }
                Err(_) => interrupt.sleep(Duration::from_millis(50))?,
            }
        }
    }
}
