//! A node: a network namespace, its own view of `/run/weft`, and the commands run in both.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::enter::unshare;
use super::netns::on_a_thread;
use super::{During, NetError, Netns};

/// A machine of the lab, as far as namespaces make one.
#[derive(Debug)]
pub struct Node {
    netns: Netns,
    mounts: Arc<OwnedFd>,
    dir: PathBuf,
}

impl Node {
    /// Makes the node `name`, with an empty network namespace and a directory of its own in `base`.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses a namespace.
    pub fn new(base: &Path, name: &str) -> Result<Self, NetError> {
        let netns = Netns::new(name)?;
        let dir = base.join(name);
        let run = dir.join("run");
        fs::create_dir_all(&run).during(|| format!("make {}", run.display()))?;
        let mounts = on_a_thread(|| {
            unshare(UnshareFlags::NEWNS).during(|| format!("make mounts of {name}"))?;
            // Names given later are to be seen here; what is mounted here is nobody else's.
            mount_change(
                "/",
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            )
            .during(|| format!("separate the mounts of {name}"))?;
            mount_bind(&run, "/run/weft").during(|| format!("mount /run/weft of {name}"))?;
            let mounts = fs::File::open("/proc/thread-self/ns/mnt")
                .during(|| format!("open the mounts of {name}"))?;
            Ok(Arc::new(OwnedFd::from(mounts)))
        })?;
        Ok(Self { netns, mounts, dir })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.netns.name()
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A directory of its own, on the private tmpfs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that will run on this node, and die with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_in(&self.netns, program)
    }

    /// A command that will run with this node's files, but in the network of `netns`: a process of
    /// one of its pods.
    pub fn command_in(&self, netns: &Netns, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"WEFT_") {
                command.env_remove(name);
            }
        }
        confine(
            &mut command,
            Arc::clone(&self.mounts),
            Arc::clone(netns.fd()),
        );
        command
    }
}

/// Makes the command's process enter both namespaces and die with the thread that starts it.
#[allow(unsafe_code)]
fn confine(command: &mut Command, mounts: Arc<OwnedFd>, net: Arc<OwnedFd>) {
    let parent = getpid();
    let enter = move || -> io::Result<()> {
        move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
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
}
