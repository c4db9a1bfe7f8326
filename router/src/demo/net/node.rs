//! A node: a network namespace, its own view of `/run/weft` and `/run/wireguard`, and the commands run in both.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use super::enter::unshare;
use super::netns::on_a_thread;
use super::process::confined;
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
        let own = [("run", "/run/weft"), ("wireguard", "/run/wireguard")]
            .map(|(own, seen)| (dir.join(own), seen));
        for (own, _) in &own {
            fs::create_dir_all(own).during(|| format!("make {}", own.display()))?;
        }
        let mounts = on_a_thread(|| {
            unshare(UnshareFlags::NEWNS).during(|| format!("make mounts of {name}"))?;
            // Names given later are to be seen here; what is mounted here is nobody else's.
            mount_change(
                "/",
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            )
            .during(|| format!("separate the mounts of {name}"))?;
            for (own, seen) in &own {
                mount_bind(own, *seen).during(|| format!("mount {seen} of {name}"))?;
            }
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
        confined(program, netns, Some(Arc::clone(&self.mounts)))
    }
}
