//! The control groups of a cluster and its nodes, in every hierarchy that the machine has: version 1,
//! version 2, or both. By them everything that runs on a node is found, whoever started it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const MOUNT: &str = "/sys/fs/cgroup";
/// How long killed processes may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most levels below a cluster's group: a container is five deep.
const DEPTH: u8 = 12;

/// A control group, by its path in each hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// From the root, without the slash.
    path: String,
}

impl Group {
    /// The group of this path, which may not be there.
    pub(super) fn new(path: impl Into<String>) -> Self {
        Self { path: path.into() }
    }

    /// Its path, as kubelets and runtimes have it.
    pub(super) fn path(&self) -> String {
        format!("/{}", self.path)
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self::new(format!("{}/{name}", self.path))
    }

    /// Makes it in every hierarchy, with all that those above it have.
    pub(super) fn make(&self) -> Result<()> {
        for hierarchy in hierarchies()? {
            let mut above = hierarchy;
            for part in self.path.split('/') {
                let dir = above.join(part);
                fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
                delegate(&above)?;
                inherit(&above, &dir)?;
                above = dir;
            }
        }
        Ok(())
    }

    /// Puts a process, and what it will start, into it.
    pub(super) fn add(&self, process: u32) -> Result<()> {
        for dir in self.dirs()? {
            let file = dir.join("cgroup.procs");
            fs::write(&file, process.to_string())
                .with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }

    /// A process in it, as this process knows it.
    pub(super) fn first(&self) -> Result<Option<u32>> {
        let first = self.processes()?.into_iter().next();
        Ok(first.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()))
    }

    /// Kills everything in it and below it, until nothing is left.
    pub(super) fn kill(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let processes = self.processes()?;
            if processes.is_empty() {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                bail!("{} of {} do not die", processes.len(), self.path);
            }
            for process in processes {
                // It may end at this very moment.
                let _ = kill_process(process, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes it and all below it away, once nothing runs in it.
    pub(super) fn remove(&self) -> Result<()> {
        for dir in self.dirs()? {
            remove(&dir, DEPTH).with_context(|| format!("remove {}", dir.display()))?;
        }
        Ok(())
    }

    fn processes(&self) -> Result<Vec<Pid>> {
        let mut found = Vec::new();
        for dir in self.dirs()? {
            collect(&dir, DEPTH, &mut found);
        }
        Ok(found)
    }

    fn dirs(&self) -> Result<Vec<PathBuf>> {
        let all = hierarchies()?.into_iter().map(|dir| dir.join(&self.path));
        Ok(all.filter(|dir| dir.is_dir()).collect())
    }
}

/// The root of each hierarchy.
fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        return Ok(vec![MOUNT.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(MOUNT).context("look for control groups")? {
        let entry = entry?;
        // Two controllers on one hierarchy have links to it.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        bail!("no control groups are mounted on {MOUNT}, and Kubernetes needs them");
    }
    Ok(found)
}

/// In version 2 a group has the controllers that the one above hands down.
fn delegate(above: &Path) -> Result<()> {
    let Ok(controllers) = fs::read_to_string(above.join("cgroup.controllers")) else {
        return Ok(());
    };
    for controller in controllers.split_whitespace() {
        // The machine may keep one to itself; a kubelet says which it misses.
        let _ = fs::write(
            above.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    Ok(())
}

/// In version 1 a new group has no processors and no memory to run on.
fn inherit(above: &Path, dir: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = dir.join(name);
        let empty = |text: String| text.trim().is_empty();
        if fs::read_to_string(&file).is_ok_and(empty) && !dir.join("cgroup.controllers").exists() {
            let value = fs::read_to_string(above.join(name))?;
            fs::write(&file, value.trim()).with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(())
}

fn collect(dir: &Path, depth: u8, found: &mut Vec<Pid>) {
    // Groups come and go with their containers.
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        text.lines()
            .filter_map(|line| Pid::from_raw(line.parse().ok()?)),
    );
    if depth > 0 {
        for below in folders(dir) {
            collect(&below, depth - 1, found);
        }
    }
}

fn remove(dir: &Path, depth: u8) -> Result<()> {
    if depth > 0 {
        for below in folders(dir) {
            remove(&below, depth - 1)?;
        }
    }
    let started = Instant::now();
    loop {
        match fs::remove_dir(dir) {
            // What was killed is still ending.
            Err(error)
                if error.kind() == ErrorKind::ResourceBusy && started.elapsed() < PATIENCE =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => return Ok(other?),
        }
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
