//! One PostgreSQL: made by initdb or copied from its primary, started, asked whether it answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use super::child::{Child, Ending, end_leftover, tail};
use super::place::Place;
use super::programs::Programs;
use crate::probe::Target;

/// PostgreSQL's: SIGINT is a fast shutdown, SIGQUIT an immediate one.
pub(crate) const ENDING: Ending = Ending { ask: Signal::INT, force: Signal::QUIT, grace: Duration::from_secs(60) };

/// What a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It takes writes.
    Primary,
    /// It follows the primary that listens on this port.
    Replica { primary_port: u16 },
}

/// One cluster of a stack.
#[derive(Debug)]
pub(crate) struct Cluster<'p> {
    place: &'p Place,
    programs: &'p Programs,
    role: Role,
    port: u16,
}

impl<'p> Cluster<'p> {
    pub(crate) fn new(place: &'p Place, programs: &'p Programs, role: Role, port: u16) -> Self {
        Self { place, programs, role, port }
    }

    /// Ends a postmaster that an earlier start has left behind.
    pub(crate) fn end_leftover(&self) -> anyhow::Result<()> {
        let data = self.data();
        let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return Ok(()) };
        match text.lines().next().and_then(|line| line.trim().parse().ok()) {
            Some(id) => end_leftover(id, &data, ENDING),
            None => Ok(()),
        }
    }

    /// Makes its data directory where there is none.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        let data = self.data();
        if data.join("PG_VERSION").is_file() {
            return Ok(());
        }
        // under another name until it is whole
        let unfinished = self.place.dir.join(format!("{}.unfinished", self.name()));
        self.place.make_data_dir(&unfinished)?;
        let mut command = match self.role {
            Role::Primary => {
                let mut initdb = self.place.command(&self.programs.path("initdb"));
                initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--pgdata"]);
                initdb
            }
            Role::Replica { primary_port } => {
                let mut copy = self.place.command(&self.programs.path("pg_basebackup"));
                copy.arg("--host").arg(&self.place.sockets).arg("--port").arg(primary_port.to_string());
                copy.args(["--username=postgres", "--checkpoint=fast", "--wal-method=stream", "--pgdata"]);
                copy
            }
        };
        command.arg(&unfinished);
        let log = self.place.dir.join("log/setup.log");
        let mut child = Child::start("the set-up of PostgreSQL", &mut command, &log, ENDING)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("{} could not be made ({status}):\n{}", data.display(), tail(&log));
        }
        if self.role != Role::Primary {
            self.place.write_given(&unfinished.join("standby.signal"), "")?;
        }
        fs::rename(&unfinished, &data).with_context(|| format!("cannot make {}", data.display()))
    }

    /// Starts it. All that depends on this start goes by the command line, which goes before the files in its directory.
    pub(crate) fn start(&self, hba: &Path) -> anyhow::Result<Child> {
        let sockets = self.place.sockets.display();
        let mut command = self.place.command(&self.programs.path("postgres"));
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set("listen_addresses", "127.0.0.1");
        set("unix_socket_directories", &format!("\"{}\"", sockets.to_string().replace('"', "\"\"")));
        set("hba_file", &hba.display().to_string());
        set("password_encryption", "scram-sha-256");
        set("max_connections", "200");
        set("wal_level", "replica");
        set("wal_keep_size", "256MB");
        set("hot_standby", "on");
        set("logging_collector", "off");
        set("log_destination", "stderr");
        if let Role::Replica { primary_port } = self.role {
            let host = sockets.to_string().replace('\\', "\\\\").replace('\'', "\\'");
            set(
                "primary_conninfo",
                &format!("host='{host}' port={primary_port} user=postgres application_name=replica"),
            );
        }
        Child::start(self.title(), &mut command, &self.place.dir.join(format!("log/{}.log", self.name())), ENDING)
    }

    /// Its Unix socket, through which `postgres` needs no password.
    pub(crate) fn target(&self) -> Target {
        Target::Unix(self.place.sockets.join(format!(".s.PGSQL.{}", self.port)))
    }

    fn data(&self) -> PathBuf {
        self.place.dir.join(self.name())
    }

    const fn name(&self) -> &'static str {
        match self.role {
            Role::Primary => "primary",
            Role::Replica { .. } => "replica",
        }
    }

    const fn title(&self) -> &'static str {
        match self.role {
            Role::Primary => "the PostgreSQL primary",
            Role::Replica { .. } => "the PostgreSQL replica",
        }
    }
}

/// The major version that made the data of a directory, if there is any.
pub(crate) fn major(dir: &Path) -> Option<u32> {
    fs::read_to_string(dir.join("primary/PG_VERSION")).ok()?.trim().parse().ok()
}

/// Who may log in. The Unix socket lies in a directory that only PostgreSQL's user may enter.
pub(crate) fn hba(method: &str) -> String {
    format!(
        "local all all trust\n\
         local replication all trust\n\
         host all all 127.0.0.1/32 {method}\n\
         host all all ::1/128 {method}\n"
    )
}
