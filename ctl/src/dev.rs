//! `ctl dev`: a private PostgreSQL primary, a streaming replica and the data plane in front, under one directory.
//!
//! Data stay when it stops; a second start resumes. Everything runs as children of this process and ends with it.

mod child;
mod cluster;
pub(crate) mod place;
mod programs;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use config::Config;
use rustix::process::Signal;
use serde::Serialize;

use crate::dev::child::{Child, Ending, TICK, end_leftover};
use crate::dev::cluster::{Cluster, Role};
use crate::dev::place::Place;
use crate::dev::programs::Programs;
use crate::probe::{self, Target};
use crate::{terminal, verifier};

/// How long each program has to answer after its start; PostgreSQL may have to recover first.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// The plane's `shutdown_timeout` here, and what it has on top of that before it is killed.
const PLANE_SHUTDOWN: Duration = Duration::from_secs(5);
/// Where the dashboard is by default, and how many ports are tried from there on.
const HTTP_PORT: u16 = 6480;
const HTTP_PORTS: u16 = 100;
const PLANE_ENDING: Ending = Ending { ask: Signal::TERM, force: Signal::KILL, grace: Duration::from_secs(10) };

#[derive(clap::Args)]
#[command(
    after_help = "Connect as user postgres to database postgres. Ctrl-C stops everything; the data stay, and the next \
                        start resumes with them."
)]
pub(crate) struct Options {
    /// Where data, logs and sockets are kept. Default: ./.optimacore-dev, or a directory below /var/lib/optimacore-dev for
    /// root in a directory that PostgreSQL's user may not enter.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where clients connect to the data plane.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6432")]
    listen: SocketAddr,
    /// The primary's port on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 5532, value_parser = clap::value_parser!(u16).range(1..))]
    primary_port: u16,
    /// The replica's port on 127.0.0.1.
    #[arg(long, value_name = "PORT", default_value_t = 5533, value_parser = clap::value_parser!(u16).range(1..))]
    replica_port: u16,
    /// Cores the data plane is pinned to, as in 0-3,8.
    #[arg(long, value_name = "LIST", default_value = "auto")]
    cores: String,
    /// Server connections of each pool.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pool_size: u32,
    /// Ask clients, the plane's and PostgreSQL's, for this password. Without it, loopback needs none.
    #[arg(long)]
    password: Option<String>,
    /// The data plane's program. Default: the one beside ctl, or in $PATH.
    #[arg(long, value_name = "FILE")]
    optimacore: Option<PathBuf>,
    #[command(flatten)]
    endpoint: Endpoint,
    /// Print one line of JSON when everything is ready.
    #[arg(long)]
    json: bool,
}

/// Where metrics and the dashboard are looked at.
#[derive(clap::Args)]
struct Endpoint {
    /// Where the dashboard and metrics are. Default: 127.0.0.1:6480, or the next port that is free.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "no_http")]
    http: Option<SocketAddr>,
    /// Have neither.
    #[arg(long)]
    no_http: bool,
}

/// Where a running stack can be reached.
#[derive(Serialize)]
struct Ready {
    plane: String,
    primary: String,
    replica: String,
    http: Option<String>,
    stats_socket: PathBuf,
    dir: PathBuf,
    optimacore_pid: u32,
}

/// How often somebody has asked us to stop.
#[derive(Clone)]
struct Stops(Arc<AtomicUsize>);

impl Stops {
    fn listen() -> anyhow::Result<Self> {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let asks = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
        let mut signals = signal_hook::iterator::Signals::new(asks)?;
        thread::spawn(move || {
            for _ in signals.forever() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self(count))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    check(options)?;
    let stops = Stops::listen()?;
    let optimacore = programs::optimacore(options.optimacore.as_deref())?;
    let programs = Programs::find(cluster::major(&place::dir(options.dir.as_deref())?))?;
    let place = Place::open(options.dir.as_deref())?;
    let http = options.endpoint.address(&[options.listen.port(), options.primary_port, options.replica_port])?;
    let stack = Stack { options, place: &place, programs: &programs, optimacore, http, stops: stops.clone() };
    let mut children = Vec::new();
    let outcome = stack.start(&mut children).and_then(|()| stack.supervise(&mut children));
    let hurry = stops.count() + 1;
    // the plane first, then the replica, then the primary
    for child in children.iter_mut().rev() {
        if let Err(error) = child.stop(&|| stops.count() >= hurry) {
            terminal::complain(&format!("{} {error:#}", terminal::red("error:")));
        }
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

fn check(options: &Options) -> anyhow::Result<()> {
    let ports = [options.listen.port(), options.primary_port, options.replica_port];
    let [plane, primary, replica] = ports;
    ensure!(plane != 0, "--listen needs a port");
    ensure!(
        plane != primary && plane != replica && primary != replica,
        "--listen, --primary-port and --replica-port need ports of their own"
    );
    ensure!(options.endpoint.http.is_none_or(|http| !ports.contains(&http.port())), "--http needs a port of its own");
    ensure!(options.password.as_deref() != Some(""), "--password is empty");
    Ok(())
}

struct Stack<'s> {
    options: &'s Options,
    place: &'s Place,
    programs: &'s Programs,
    optimacore: PathBuf,
    http: Option<SocketAddr>,
    stops: Stops,
}

impl Endpoint {
    /// Where it is to listen: where it was asked for, else where nobody else does. None if it is not wanted.
    fn address(&self, taken: &[u16]) -> anyhow::Result<Option<SocketAddr>> {
        if self.no_http || self.http.is_some() {
            return Ok(self.http);
        }
        let places = (0..HTTP_PORTS).map(|further| SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT + further)));
        let mut free = places.filter(|place| !taken.contains(&place.port()) && TcpListener::bind(place).is_ok());
        let found = free.next().with_context(|| {
            format!("none of {HTTP_PORTS} ports from {HTTP_PORT} on is free for the dashboard; choose one by --http, or --no-http")
        })?;
        Ok(Some(found))
    }
}

impl Stack<'_> {
    /// Starts all, one behind the other, each when what it needs answers.
    fn start(&self, children: &mut Vec<Child>) -> anyhow::Result<()> {
        let options = self.options;
        let config = self.place.dir.join("optimacore.toml");
        let primary = Cluster::new(self.place, self.programs, Role::Primary, options.primary_port);
        let follows = Role::Replica { primary_port: options.primary_port };
        let replica = Cluster::new(self.place, self.programs, follows, options.replica_port);
        self.end_leftovers(&primary, &replica)?;
        self.check_ports()?;

        let text = self.config()?;
        place::write_private(&config, &text)?;
        Config::parse(&text, &config.display().to_string()).context("the options make no sound configuration")?;
        let hba = self.place.dir.join("pg_hba.conf");
        let method = if options.password.is_some() { "scram-sha-256" } else { "trust" };
        self.place.write_given(&hba, &cluster::hba(method))?;

        if !self.place.dir.join("primary/PG_VERSION").is_file() {
            self.tell("making a PostgreSQL primary");
            // a replica of a primary that is gone is of no use
            self.remove("replica")?;
        }
        primary.make()?;
        self.add(children, primary.start(&hba)?, |_| probe::query(&primary.target(), None, "SELECT 1"))?;
        if let Some(password) = &options.password {
            let secret = verifier::scram_verifier(password, dbproto::auth::server::SCRAM_ITERATIONS)?;
            let sql = format!("ALTER ROLE postgres PASSWORD '{secret}'");
            probe::query(&primary.target(), None, &sql).context("cannot set the password")?;
        }
        if !self.place.dir.join("replica/PG_VERSION").is_file() {
            self.tell("copying it to a replica");
        }
        replica.make()?;
        self.add(children, replica.start(&hba)?, |_| probe::query(&replica.target(), None, "SELECT 1"))?;
        self.start_plane(children, &config)
    }

    fn start_plane(&self, children: &mut Vec<Child>, config: &std::path::Path) -> anyhow::Result<()> {
        let mut command = Command::new(&self.optimacore);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.arg("--config").arg(config).current_dir(&self.place.dir);
        let plane = Child::start("optimacore", &mut command, &self.place.dir.join("log/optimacore.log"), PLANE_ENDING)?;
        let id = plane.id();
        place::write_private(&self.place.dir.join("optimacore.pid"), &id.to_string())?;
        let target = Target::Tcp(reachable(self.options.listen));
        let password = self.options.password.as_deref();
        self.add(children, plane, |_| probe::query(&target, password, "SELECT 1"))?;
        self.announce(id)
    }

    /// Keeps a program among the children, and waits until it answers.
    fn add(
        &self,
        children: &mut Vec<Child>,
        child: Child,
        probe: impl Fn(&Child) -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let child = children.push_mut(child);
        loop {
            if let Some(status) = child.ended()? {
                bail!("{}", child.obituary(status));
            }
            ensure!(self.stops.count() == 0, "stopped before everything was ready");
            match probe(child) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("{} does not answer", child.name)));
                }
                Err(_) => thread::sleep(TICK),
            }
        }
    }

    /// Waits for a reason to stop.
    fn supervise(&self, children: &mut [Child]) -> anyhow::Result<()> {
        while self.stops.count() == 0 {
            for child in children.iter_mut() {
                if let Some(status) = child.ended()? {
                    bail!("{}", child.obituary(status));
                }
            }
            thread::sleep(TICK);
        }
        self.tell("stopping; the data stay");
        Ok(())
    }

    fn end_leftovers(&self, primary: &Cluster<'_>, replica: &Cluster<'_>) -> anyhow::Result<()> {
        let id =
            fs::read_to_string(self.place.dir.join("optimacore.pid")).ok().and_then(|text| text.trim().parse().ok());
        if let Some(id) = id {
            end_leftover(id, &self.place.dir.join("optimacore.toml"), PLANE_ENDING)?;
        }
        replica.end_leftover()?;
        primary.end_leftover()
    }

    fn check_ports(&self) -> anyhow::Result<()> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let places = [
            (self.options.listen, "--listen"),
            (local(self.options.primary_port), "--primary-port"),
            (local(self.options.replica_port), "--replica-port"),
        ];
        for (address, option) in places.into_iter().chain(self.http.map(|address| (address, "--http"))) {
            // std sets SO_REUSEADDR, so that only a listener stands in the way
            TcpListener::bind(address)
                .with_context(|| format!("cannot listen on {address}; choose another {option}"))?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let dir = self.place.dir.join(name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// The plane's configuration.
    fn config(&self) -> anyhow::Result<String> {
        let options = self.options;
        let stats = self.place.stats_socket();
        let http = self.http.map_or_else(String::new, |address| format!("[http]\nlisten = \"{address}\"\n"));
        let (server_password, proof) = match &options.password {
            Some(password) => {
                let secret = verifier::scram_verifier(password, dbproto::auth::server::SCRAM_ITERATIONS)?;
                (format!("password = {}\n", quoted(password)?), format!("password = {}\n", quoted(&secret)?))
            }
            None => (String::new(), "trust = [\"127.0.0.1\", \"::1\", \"local\"]\n".to_owned()),
        };
        Ok(format!(
            "# written anew by every ctl dev\n\
             [listen]\naddresses = [\"{}\"]\n\
             [runtime]\ncores = {}\n\
             [limits]\nshutdown_timeout = \"{}s\"\n\
             [pool]\nsize = {}\n\
             [stats]\nsocket = {}\n{http}\
             [[database]]\nname = \"*\"\nhost = \"127.0.0.1\"\nport = {}\n{server_password}\
             [admin]\nadmin_users = [\"postgres\"]\n[[user]]\nname = \"postgres\"\n{proof}",
            options.listen,
            quoted(&options.cores)?,
            PLANE_SHUTDOWN.as_secs(),
            options.pool_size,
            quoted(stats.to_str().context("--dir must be UTF-8")?)?,
            options.primary_port,
        ))
    }

    fn announce(&self, optimacore_pid: u32) -> anyhow::Result<()> {
        let plane = reachable(self.options.listen);
        let (primary_port, replica_port) = (self.options.primary_port, self.options.replica_port);
        let (stats_socket, dir) = (self.place.stats_socket(), self.place.dir.clone());
        let http = self.http.map(|address| format!("http://{}/", reachable(address)));
        if self.options.json {
            let ready = Ready {
                plane: format!("postgresql://postgres@{plane}/postgres"),
                primary: format!("postgresql://postgres@127.0.0.1:{primary_port}/postgres"),
                replica: format!("postgresql://postgres@127.0.0.1:{replica_port}/postgres"),
                http,
                stats_socket,
                dir,
                optimacore_pid,
            };
            return terminal::print(&serde_json::to_string(&ready)?);
        }
        let psql = |host: IpAddr, port: u16| format!("psql -h {host} -p {port} -U postgres postgres");
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let dashboard =
            http.map(|place| format!("  dashboard   {}   (metrics: {place}metrics)", terminal::bold(&place)));
        let mut lines = vec![
            terminal::bold("OptimaCore is ready."),
            String::new(),
            format!("  data plane  {}", terminal::bold(&psql(plane.ip(), plane.port()))),
            format!("  primary     {}", psql(local, primary_port)),
            format!("  replica     {}   (reads only)", psql(local, replica_port)),
            format!("  statistics  ctl stats --watch --socket {}", stats_socket.display()),
            format!("  data, logs  {}", dir.display()),
            String::new(),
            match self.options.password {
                Some(_) => "User postgres logs in with the password given.".to_owned(),
                None => "User postgres needs no password from this machine.".to_owned(),
            },
            "Ctrl-C stops everything; the data stay.".to_owned(),
        ];
        if let Some(dashboard) = dashboard {
            lines.insert(5, dashboard);
        }
        terminal::print(&lines.join("\n"))
    }

    fn tell(&self, what: &str) {
        terminal::complain(&format!("ctl dev: {what}"));
    }
}

/// An address through which one that is listened on can be reached.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A TOML string: JSON's escapes are all TOML's too, but DEL must be escaped as well.
fn quoted(text: &str) -> anyhow::Result<String> {
    Ok(serde_json::to_string(text)?.replace('\x7f', "\\u007f"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_so_that_toml_reads_them() {
        let nasty = "a\"b\\c\n\u{1}\u{7f}é'#";
        let text = format!(
            "[[database]]\nname = {}\nhost = \"::1\"\npassword = {}\n",
            quoted(nasty).unwrap(),
            quoted(nasty).unwrap()
        );
        let config = Config::parse(&text, "x").unwrap();
        assert_eq!(config.databases[0].name, nasty);
        assert_eq!(config.databases[0].password.as_ref().map(config::Password::as_str), Some(nasty));
    }

    #[test]
    fn what_listens_everywhere_is_reached_on_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse::<SocketAddr>().unwrap());
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse::<SocketAddr>().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse::<SocketAddr>().unwrap());
    }
}
