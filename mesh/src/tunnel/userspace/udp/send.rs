//! Sending: datagrams that lie one after another leave in one system call, cut apart by the kernel
//! (`UDP_SEGMENT`) where the way takes that.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::io::Errno;
use socket2::SockAddr;
use tracing::info;

use super::control::Control;
use crate::tunnel::userspace::table::Path;

/// The most that one call carries, and the most datagrams of one message (the kernel's
/// UDP_MAX_SEGMENTS before 6.9).
pub(in crate::tunnel::userspace) const MOST_BYTES: usize = 65_507;
pub(in crate::tunnel::userspace) const MOST_SEGMENTS: usize = 64;
/// Messages of one system call.
const MESSAGES: usize = 16;

/// Datagrams that lie one after another: all of `size` bytes, the last maybe shorter. At most
/// [`MOST_BYTES`] and [`MOST_SEGMENTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::tunnel::userspace) struct Run {
    pub(in crate::tunnel::userspace) start: usize,
    pub(in crate::tunnel::userspace) len: usize,
    pub(in crate::tunnel::userspace) size: usize,
    /// Type of service or traffic class.
    pub(in crate::tunnel::userspace) class: u8,
}

impl Run {
    /// The datagrams one by one.
    fn apart(self) -> impl Iterator<Item = Self> {
        let end = self.start + self.len;
        (self.start..end)
            .step_by(self.size.max(1))
            .map(move |start| {
                let len = self.size.min(end - start);
                Self {
                    start,
                    len,
                    size: len,
                    ..self
                }
            })
    }
}

/// What is known of a way: up to which size the kernel cuts datagrams for it.
#[derive(Debug)]
pub(in crate::tunnel::userspace) struct Segmentation(AtomicU32);

impl Default for Segmentation {
    fn default() -> Self {
        Self(AtomicU32::new(u32::MAX))
    }
}

impl Segmentation {
    pub(super) fn takes(&self, size: usize) -> bool {
        (size as u32) < self.0.load(Relaxed)
    }

    fn refused(&self, size: usize) {
        self.0.fetch_min(size as u32, Relaxed);
    }

    /// The way may have changed.
    pub(in crate::tunnel::userspace) fn forget(&self) {
        if self.0.load(Relaxed) != u32::MAX {
            self.0.store(u32::MAX, Relaxed);
        }
    }
}

/// What was not sent.
#[derive(Debug, Default)]
pub(in crate::tunnel::userspace) struct Unsent {
    pub(in crate::tunnel::userspace) datagrams: u64,
    pub(in crate::tunnel::userspace) bytes: usize,
    /// Why the last of them was not.
    pub(in crate::tunnel::userspace) error: Option<io::Error>,
}

impl Unsent {
    /// Nothing of the runs is sent.
    pub(in crate::tunnel::userspace) fn all(runs: &[Run], error: io::Error) -> Self {
        let mut unsent = Self::default();
        unsent.add(runs, error);
        unsent
    }

    fn add(&mut self, runs: &[Run], error: io::Error) {
        for run in runs {
            self.datagrams += run.len.div_ceil(run.size.max(1)) as u64;
            self.bytes += run.len;
        }
        self.error = Some(error);
    }
}

/// Sends the runs in order. Goes on past what cannot be sent, but not past a network device that is
/// stuck: each message would wait for it again.
pub(super) fn send(
    socket: &UdpSocket,
    runs: &[Run],
    arena: &[u8],
    mut path: Path,
    way: &Segmentation,
) -> Unsent {
    let mut unsent = Unsent::default();
    let mut rest = runs;
    let remote = path.remote;
    let mut attempt = |runs: &[Run]| match some(socket, runs, arena, path) {
        // The address may be this host's no more: then from whichever the routes choose.
        Err(error) if path.local.is_some() && !is_stuck(&error) && !is_too_long(&error) => {
            path.local = None;
            some(socket, runs, arena, path)
        }
        done => done,
    };
    while let Some((run, behind)) = rest.split_first() {
        let whole = |run: &Run| run.len <= run.size || way.takes(run.size);
        if !whole(run) {
            if let Err(error) = apart(*run, &mut attempt, &mut unsent) {
                unsent.add(behind, error);
                return unsent;
            }
            rest = behind;
            continue;
        }
        let fit = rest
            .iter()
            .take(MESSAGES)
            .take_while(|run| whole(run))
            .count();
        match attempt(&rest[..fit]) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if is_stuck(&error) => {
                unsent.add(rest, error);
                return unsent;
            }
            Err(error) => {
                let is_cut = run.len > run.size;
                match Errno::from_io_error(&error) {
                    // A segment is longer than this way carries in one piece; or the network device
                    // cannot make its checksum.
                    Some(Errno::INVAL | Errno::MSGSIZE) if is_cut => way.refused(run.size),
                    Some(Errno::IO) if is_cut => {
                        info!(to = %remote, "the network device cuts no UDP: one by one");
                        way.refused(0);
                    }
                    _ => {
                        unsent.add(&rest[..1], error);
                        rest = behind;
                    }
                }
            }
        }
    }
    unsent
}

/// Sends the run's datagrams as messages of their own, past those that cannot be sent. An error where
/// the network device is stuck.
fn apart(
    mut run: Run,
    attempt: &mut impl FnMut(&[Run]) -> io::Result<usize>,
    unsent: &mut Unsent,
) -> io::Result<()> {
    let mut pieces = [Run::default(); MESSAGES];
    while run.len > 0 {
        let mut count = 0;
        for (slot, piece) in pieces.iter_mut().zip(run.apart()) {
            *slot = piece;
            count += 1;
        }
        let done = match attempt(&pieces[..count]) {
            Ok(sent) => sent,
            Err(error) if is_stuck(&error) => {
                // Of the same kind, for whoever has to say the same of what comes behind.
                unsent.add(&[run], error.kind().into());
                return Err(error);
            }
            Err(error) => {
                unsent.add(&pieces[..1], error);
                1
            }
        };
        let bytes: usize = pieces[..done].iter().map(|piece| piece.len).sum();
        run.start += bytes;
        run.len -= bytes;
    }
    Ok(())
}

/// The buffer stayed full for as long as a send may wait.
fn is_stuck(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn is_too_long(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::MSGSIZE)
}

/// Sends up to [`MESSAGES`] runs in one call; how many were.
#[allow(unsafe_code)]
fn some(socket: &UdpSocket, runs: &[Run], arena: &[u8], path: Path) -> io::Result<usize> {
    let remote = SockAddr::from(path.remote);
    let mut controls = [Control::default(); MESSAGES];
    // SAFETY: all zero is a valid iovec and a valid mmsghdr, and musl's has private padding.
    let mut parts: [libc::iovec; MESSAGES] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { std::mem::zeroed() };
    let count = runs.len().min(MESSAGES);
    for (at, run) in runs[..count].iter().enumerate() {
        let control = &mut controls[at];
        if let Some(local) = path.local {
            control.source(local);
        }
        if run.class != 0 {
            control.class(path.remote.ip(), run.class);
        }
        if run.len > run.size {
            control.segment(run.size as u16);
        }
        let bytes = &arena[run.start..run.start + run.len];
        parts[at].iov_base = bytes.as_ptr().cast_mut().cast();
        parts[at].iov_len = bytes.len();
        let message = &mut messages[at].msg_hdr;
        message.msg_name = remote.as_ptr().cast_mut().cast();
        message.msg_namelen = remote.len();
        message.msg_iov = &raw mut parts[at];
        message.msg_iovlen = 1;
        if !control.bytes().is_empty() {
            message.msg_control = control.bytes().as_ptr().cast_mut().cast();
            message.msg_controllen = control.bytes().len() as _;
        }
    }
    // SAFETY: every pointer in the messages is to memory that outlives the call, with its size.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as u32, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
