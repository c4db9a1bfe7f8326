//! Processes that we start in namespaces of ours: each dies with us, and is reaped.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Netns;

/// A child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn new(child: Child) -> Self {
        Self(child)
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Asks it to end, and kills it if it has not by `patience`; how it ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        // It may have ended by itself, which is as good.
        let _ = self.signal(Signal::TERM);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.kill()
    }

    /// Kills it at once; how it ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.kill();
    }
}

/// A command whose process will enter `netns`, and `mounts` where given, and die with the thread
/// that starts it. Our own settings (`WEFT_*`) are not handed down to it.
#[allow(unsafe_code)]
pub(super) fn confined(
    program: impl AsRef<OsStr>,
    netns: &Netns,
    mounts: Option<Arc<OwnedFd>>,
) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"WEFT_") {
            command.env_remove(name);
        }
    }
    let parent = getpid();
    let net = Arc::clone(netns.fd());
    let enter = move || -> io::Result<()> {
        if let Some(mounts) = &mounts {
            move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only: it takes no lock and
    // allocates nothing (`ErrorKind` into `io::Error` does not).
    unsafe {
        command.pre_exec(enter);
    }
    command
}
