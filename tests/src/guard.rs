//! What ends a program when the test that started it is gone, however that happened.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use std::os::unix::process::CommandExt as _;

/// A shell that waits for its standard input to end, which the end of this process brings about, and then cleans up.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    /// `script` runs when this is dropped or the process ends; `command` is a shell with everything but its script, which finds
    /// `dir` as `$1`.
    pub(crate) fn new(mut shell: Command, script: &str, dir: &Path) -> Self {
        let script = format!("read -r nothing; {script}");
        let shell = shell
            .args(["-c", &script, "sh"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // a ^C is for the tests, not for those who clean up behind them
            .process_group(0)
            .spawn()
            .unwrap();
        Self { shell }
    }

    /// The program has ended: there is nothing left to do.
    pub(crate) fn dismiss(&mut self) {
        // it may have been told to end along with everything else
        let _killed: std::io::Result<()> = self.shell.kill();
        self.shell.wait().unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ended: std::io::Result<std::process::ExitStatus> = self.shell.wait();
    }
}
