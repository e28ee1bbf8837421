//! A program that runs for us: its output in a file, its end no later than that of the value.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt::{Interrupt, TICK};

/// How long a program has to end after it was asked.
const GRACE: Duration = Duration::from_secs(10);
const TAIL_LINES: usize = 12;

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ask: Signal,
}

impl Process {
    /// Starts a program with standard output and error in `log`. `ask` is the signal that makes it end at once and in order.
    pub fn start(name: &str, command: &mut Command, log: &Path, ask: Signal) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), ask })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All it has written.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// An error once it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended ({status}):\n{}", self.name, tail(&self.output()));
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, time: Duration, interrupt: &Interrupt) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            interrupt.check()?;
            if Instant::now() >= deadline {
                bail!("{} was still running after {} s:\n{}", self.name, time.as_secs(), tail(&self.output()));
            }
            thread::sleep(TICK);
        }
    }

    /// Waits until it has ended well.
    pub fn finish(&mut self, time: Duration, interrupt: &Interrupt) -> anyhow::Result<()> {
        let status = self.wait(time, interrupt)?;
        if !status.success() {
            bail!("{} has failed ({status}):\n{}", self.name, tail(&self.output()));
        }
        Ok(())
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, self.ask)?;
        }
        let deadline = Instant::now() + GRACE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            thread::sleep(TICK);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // there is nobody left to tell
        drop(self.stop());
    }
}

/// The last lines of a text, indented.
pub(crate) fn tail(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().rev().take(TAIL_LINES).collect();
    lines.reverse();
    if lines.is_empty() {
        return "  (it has said nothing)".to_owned();
    }
    lines.iter().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
}
