//! A network namespace for one test, and other people's tools inside it.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Set in a child that has a user namespace of its own already.
const INSIDE: &str = "WEFT_TEST_INSIDE";

/// Runs `test` on a thread in a new network namespace, with loopback up and a tokio runtime; for
/// users other than root, in a child process in a user namespace of its own.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let name = thread::current().name().unwrap_or("?").to_owned();
    let outcome = thread::scope(|scope| {
        let inside = scope.spawn(|| -> io::Result<()> {
            new_network()?;
            sh("ip link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(test());
            Ok(())
        });
        match inside.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    let Err(error) = outcome else { return };
    if std::env::var_os(INSIDE).is_some() {
        skipped(&name, &format!("no network namespace: {error}"));
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([&name, "--exact", "--nocapture"])
        .env(INSIDE, "1");
    match in_user_namespace(child).status() {
        Ok(status) => assert!(status.success(), "{name} failed in its user namespace"),
        Err(error) => skipped(&name, &format!("no user namespace: {error}")),
    }
}

#[allow(unsafe_code)]
fn new_network() -> io::Result<()> {
    // SAFETY: a network namespace of its own takes nothing from other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

#[allow(unsafe_code)]
fn in_user_namespace(mut command: Command) -> Command {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    // SAFETY: between fork and exec only system calls are made, on memory from before the fork.
    unsafe {
        command.pre_exec(move || {
            unshare_unsafe(flags)?;
            for (path, text) in &maps {
                let file =
                    rustix::fs::open(*path, rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty())?;
                rustix::io::write(&file, text.as_bytes())?;
            }
            Ok(())
        });
    }
    command
}

/// Runs a line of shell in this thread's namespace; its output.
pub(crate) fn sh(line: &str) -> String {
    let (good, output) = try_sh(line);
    assert!(good, "{line}: {output}");
    output
}

/// The same; whether it succeeded, and both its outputs.
pub(crate) fn try_sh(line: &str) -> (bool, String) {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    outcome(command)
}

fn outcome(mut command: Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Straight to standard error: what is printed by a test that passes is kept from view.
fn skipped(name: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {name}: {reason}");
}

/// Whether a tool is there; says so when not.
pub(crate) fn has(tool: &str) -> bool {
    let (found, _) = try_sh(&format!("command -v {tool}"));
    if !found {
        let name = thread::current().name().unwrap_or("?").to_owned();
        skipped(&name, &format!("no {tool}"));
    }
    found
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "in 20 s not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A second namespace, as a pod's; held by a child that does nothing.
pub(crate) struct Pod(std::process::Child);

impl Pod {
    pub(crate) fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()
            .unwrap();
        let pod = Self(child);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::read_link(pod.path()).unwrap() == own {
            assert!(
                Instant::now() < deadline,
                "unshare did not enter a namespace"
            );
            thread::yield_now();
        }
        pod
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    pub(crate) fn netns(&self) -> std::os::fd::OwnedFd {
        weft_router::kernel::netns::open(self.path().as_ref()).unwrap()
    }

    /// Runs a line of shell inside.
    pub(crate) fn sh(&self, line: &str) -> String {
        let (good, output) = self.try_sh(line);
        assert!(good, "{line}: {output}");
        output
    }

    pub(crate) fn try_sh(&self, line: &str) -> (bool, String) {
        self.try_exec(&["sh", "-c", line])
    }

    pub(crate) fn try_exec(&self, words: &[&str]) -> (bool, String) {
        outcome(self.command(words))
    }

    /// Runs a program inside until the guard is dropped.
    pub(crate) fn spawn(&self, words: &[&str]) -> Running {
        Running(self.command(words).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).args(words);
        command
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
