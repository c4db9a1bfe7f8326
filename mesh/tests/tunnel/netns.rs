//! Network namespaces for the tests of tunnels: each test is a process in its own, each node a
//! thread in its own below it. Works as root and where user namespaces are allowed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

const INSIDE: &str = "WEFT_TEST_INSIDE";

/// Runs `test` in a process in namespaces of its own. `name` is the test function's.
pub(crate) fn isolated(name: &str, test: fn()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return test();
    }
    let run = |arguments: &[&str]| {
        let mut command = Command::new(std::env::current_exe().expect("this test is a file"));
        command.args(arguments).env(INSIDE, name);
        enter(&mut command);
        command.output()
    };
    // Listing tests needs nothing: it tells whether the namespaces are to be had.
    if let Err(error) = run(&["--list"]) {
        skipped(name, &format!("no namespaces of its own: {error}"));
        return;
    }
    if let Err(error) = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        skipped(name, &format!("/dev/net/tun: {error}"));
        return;
    }
    let output =
        run(&["--exact", name, "--include-ignored", "--nocapture"]).expect("it ran a moment ago");
    // A run of no test succeeds as well.
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(
        output.status.success() && ran,
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Past the test runner, which shows nothing of a test that passes.
fn skipped(name: &str, reason: &str) {
    writeln!(io::stderr(), "SKIPPED: {name}: {reason}").expect("standard error is there");
}

#[allow(unsafe_code)]
fn enter(command: &mut Command) {
    let (user, group, root) = (geteuid(), getegid(), geteuid().is_root());
    let identity = [
        format!("0 {} 1", user.as_raw()),
        format!("0 {} 1", group.as_raw()),
    ];
    let unshare = move || -> io::Result<()> {
        let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
        let flags = if root {
            flags
        } else {
            flags | UnshareFlags::NEWUSER
        };
        // SAFETY: none of the flags parts threads from their descriptors.
        unsafe { rustix::thread::unshare_unsafe(flags)? };
        if root {
            return Ok(());
        }
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", &identity[0])?;
        fs::write("/proc/self/gid_map", &identity[1])
    };
    // SAFETY: the child of the fork has one thread and only makes system calls before it executes.
    unsafe { command.pre_exec(unshare) };
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub(crate) struct Node {
    jobs: Sender<Job>,
    /// What `ip link set … netns` takes.
    thread: i32,
}

impl Node {
    pub(crate) fn new() -> Self {
        let (jobs, queue): (Sender<Job>, Receiver<Job>) = channel();
        thread::spawn(move || queue.into_iter().for_each(|job| job()));
        let mut node = Self { jobs, thread: 0 };
        node.thread = node.run(|| {
            unshare_net();
            ip("link set lo up");
            rustix::thread::gettid().as_raw_nonzero().get()
        });
        node
    }

    /// Runs `job` inside and returns what it returns; a panic in it is the test's.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = channel();
        let job = Box::new(move || {
            // The receiver is gone only when the test has failed already.
            let _ = answer.send(job());
        });
        self.jobs
            .send(job)
            .expect("the node's thread runs until the node is dropped");
        answered.recv().expect("the job ended without a panic")
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }
}

/// The Ethernet addresses of the two ends that [`join`] makes.
pub(crate) const ENDS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

/// Joins two nodes by a link called `wire` at both ends, up.
pub(crate) fn join(a: &Node, b: &Node, wire: &str) {
    let (peer, [near, far]) = (b.thread, ENDS);
    a.ip(&format!(
        "link add {wire} address {near} type veth peer name {wire} address {far} netns {peer}"
    ));
    for node in [a, b] {
        node.ip(&format!("link set {wire} up"));
    }
}

#[allow(unsafe_code)]
fn unshare_net() {
    // SAFETY: NEWNET touches neither memory nor descriptors of other threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .expect("a namespace of its own");
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until `condition` holds, at most ten seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
