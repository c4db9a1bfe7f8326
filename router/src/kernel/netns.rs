//! Work inside another network namespace, on a thread made for it and ended after it.
//!
//! A socket keeps the namespace it was opened in, so what is opened inside is used outside.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Opens a namespace by its path (`/run/netns/x`, `/proc/1/ns/net`).
///
/// # Errors
/// When it cannot be opened. That it is a network namespace is found by [`run`].
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The namespace of this thread.
///
/// # Errors
/// When /proc is not there.
pub fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// Runs `inside` on a new thread in the namespace and waits for it. Short work only.
///
/// # Errors
/// When there is no thread to be had, the descriptor is no network namespace (`EINVAL`), or we may
/// not enter it (`EPERM`); else what `inside` returns.
pub fn run<T: Send>(
    netns: BorrowedFd<'_>,
    inside: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| finish(start(scope, netns, inside)?))
}

/// As [`run`], but the caller goes on meanwhile, until [`finish`].
///
/// # Errors
/// When there is no thread to be had.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    netns: BorrowedFd<'scope>,
    inside: impl FnOnce() -> io::Result<T> + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, io::Result<T>>> {
    thread::Builder::new()
        .name("weft-netns".into())
        .stack_size(256 * 1024)
        .spawn_scoped(scope, move || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
            inside()
        })
}

/// Waits for what was [started](start).
///
/// # Errors
/// As [`run`].
pub fn finish<T>(started: ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    started
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}
