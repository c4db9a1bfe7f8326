//! A network namespace with a name below `/run/netns`, and threads that work inside it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::enter::unshare;
use super::process::confined;
use super::{During, NetError, Netlink};

const NAMES: &str = "/run/netns";
const LOOPBACK: u32 = 1;

/// A network namespace of ours. Dropping it takes its name away; it ends with its last user.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    fd: Arc<OwnedFd>,
    netlink: Netlink,
}

impl Netns {
    /// Makes an empty namespace, its loopback up, and names it.
    ///
    /// # Errors
    /// When the name is taken, or the kernel makes none.
    pub fn new(name: &str) -> Result<Self, NetError> {
        let path = Path::new(NAMES).join(name);
        fs::File::create_new(&path).during(|| format!("name namespace {name}"))?;
        let made = on_a_thread(|| {
            unshare(UnshareFlags::NEWNET).during(|| format!("make namespace {name}"))?;
            let ns = "/proc/thread-self/ns/net";
            mount_bind(ns, &path).during(|| format!("mount namespace {name}"))?;
            let fd = fs::File::open(ns).during(|| format!("open namespace {name}"))?;
            let netlink = Netlink::open()?;
            netlink.up(LOOPBACK)?;
            Ok((OwnedFd::from(fd), netlink))
        });
        match made {
            Ok((fd, netlink)) => Ok(Self {
                name: name.to_owned(),
                path,
                fd: Arc::new(fd),
                netlink,
            }),
            Err(error) => {
                take_away(&path);
                Err(error)
            }
        }
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path by which others open it, as a container runtime would give it (`CNI_NETNS`).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace itself.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// A netlink socket inside it.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Does `act` on a thread made for it, inside the namespace. Sockets opened there stay there.
    ///
    /// # Errors
    /// What `act` returns, or why the namespace was not entered.
    pub fn run<T, F>(&self, act: F) -> Result<T, NetError>
    where
        T: Send,
        F: FnOnce() -> Result<T, NetError> + Send,
    {
        on_a_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .during(|| format!("enter namespace {}", self.name))?;
            act()
        })
    }

    /// A command that will run inside, and die with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        confined(program, self, None)
    }

    /// Sets a sysctl of the namespace, by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// When there is no such setting or no such value.
    pub fn sysctl(&self, setting: &str, value: &str) -> Result<(), NetError> {
        self.run(|| super::enter::write(format!("/proc/sys/net/{setting}"), value))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        take_away(&self.path);
    }
}

fn take_away(path: &Path) {
    // Both fail only where the name is gone already, which is what is wanted.
    let _ = unmount(path, UnmountFlags::DETACH);
    let _ = fs::remove_file(path);
}

/// Runs `act` on a thread of its own, which may change namespace since it serves nothing else.
pub(super) fn on_a_thread<T, F>(act: F) -> Result<T, NetError>
where
    T: Send,
    F: FnOnce() -> Result<T, NetError> + Send,
{
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("weft-netns".to_owned())
            .spawn_scoped(scope, act)
            .during(|| "start a thread".to_owned())?;
        thread.join().unwrap_or_else(|_| {
            Err(NetError::io(
                "work in a namespace",
                io::Error::other("the thread panicked"),
            ))
        })
    })
}
