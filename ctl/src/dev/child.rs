//! A program of the stack: its process, its log, its end.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// How often a condition that is waited for is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// How many lines of a log are shown when its program has ended.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;

/// A running program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) name: &'static str,
    process: process::Child,
    log: PathBuf,
    ending: Ending,
}

/// How a program is ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// The signal that asks it to.
    pub(crate) ask: Signal,
    /// The signal that makes it.
    pub(crate) force: Signal,
    /// How long it has for the first.
    pub(crate) grace: Duration,
}

impl Child {
    /// Starts a program with its output behind what its log holds already.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path, ending: Ending) -> anyhow::Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { name, process, log: log.to_owned(), ending })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.process.try_wait().with_context(|| format!("lost sight of {}", self.name))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.wait().with_context(|| format!("lost sight of {}", self.name))
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What to say of a program that ended by itself.
    pub(crate) fn obituary(&self, status: ExitStatus) -> String {
        let (name, log, tail) = (self.name, self.log.display(), tail(&self.log));
        if tail.is_empty() {
            return format!("{name} has ended ({status}); its log, {log}, is empty");
        }
        format!("{name} has ended ({status}); the end of its log, {log}:\n{tail}")
    }

    /// Asks it to end and waits; makes it end when it does not, or when `hurry` says so.
    pub(crate) fn stop(&mut self, hurry: &impl Fn() -> bool) -> anyhow::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let Some(pid) = pid(self.process.id()) else { bail!("{} has no process id", self.name) };
        let deadline = Instant::now() + self.ending.grace;
        signal(pid, self.ending.ask)?;
        while self.ended()?.is_none() {
            if Instant::now() >= deadline || hurry() {
                signal(pid, self.ending.force)?;
                self.process.wait()?;
                break;
            }
            thread::sleep(TICK);
        }
        Ok(())
    }
}

/// Ends a process that a stack which was itself killed has left behind. `mark` must stand in its command line: the id may by
/// now be another's.
pub(crate) fn end_leftover(id: u32, mark: &Path, ending: Ending) -> anyhow::Result<()> {
    let command_line = || fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let mark = mark.as_os_str().as_encoded_bytes();
    let is_ours = || command_line().split(|byte| *byte == 0).any(|word| word == mark);
    let Some(pid) = pid(id).filter(|_| is_ours()) else { return Ok(()) };
    let deadline = Instant::now() + ending.grace;
    signal(pid, ending.ask)?;
    while is_ours() && test_kill_process(pid).is_ok() {
        if Instant::now() >= deadline {
            signal(pid, ending.force)?;
        }
        if Instant::now() >= deadline + Duration::from_secs(10) {
            bail!("process {id} of an earlier start does not end");
        }
        thread::sleep(TICK);
    }
    Ok(())
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

fn signal(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {}", pid.as_raw_nonzero())),
    }
}

/// The last lines of a file, indented.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(TAIL_LINES).collect();
    lines.reverse();
    lines.iter().map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDING: Ending = Ending { ask: Signal::TERM, force: Signal::KILL, grace: Duration::from_secs(30) };

    #[test]
    fn a_tail_is_the_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, (0..5000).map(|i| format!("line {i}\n")).collect::<String>()).unwrap();
        let tail = tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("  line 4980\n") && tail.ends_with("  line 4999"), "{tail}");
    }

    #[test]
    fn a_program_that_does_not_listen_is_made_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
        let mut child = Child::start("deaf", &mut command, &log, ENDING).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while tail(&log) != "  ready" {
            assert!(Instant::now() < deadline, "{}", tail(&log));
            thread::sleep(TICK);
        }
        assert!(child.ended().unwrap().is_none());
        child.stop(&|| true).unwrap();
        let status = child.ended().unwrap().unwrap();
        assert!(!status.success());
        assert!(child.obituary(status).contains("deaf has ended (signal: 9"), "{}", child.obituary(status));
    }

    #[test]
    fn a_leftover_is_ended_only_when_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("tail").arg("-f").arg("/dev/null").spawn().unwrap();
        end_leftover(child.id(), dir.path(), ENDING).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        kill_process(pid(child.id()).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
        end_leftover(child.id(), Path::new("/dev/null"), ENDING).unwrap();
    }
}
