//! The threads of the device: one reads each queue of the TUN, one each UDP socket, one keeps time. They only
//! move bytes between descriptors and the engine.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tracing::{info, warn};

use super::coalesce::Write;
use super::engine::{Engine, Output, SCRATCH};
use super::incoming::Incoming;
use super::outgoing::{LARGEST, Outgoing};
use super::session::Now;
use super::table::Path;
use super::tun::{Hold, Options, Tun};
use super::udp::{Receiver, Run, Segmentation, Udp, Unsent};

/// boringtun asks to be called four times a second.
const TICK: Duration = Duration::from_millis(250);
/// How often a TUN that was deleted is made again, and the pause after an unforeseen error.
const RETRY: Duration = Duration::from_millis(500);
/// A packet of this length is sent before the next is read: it is a whole system call's worth.
const AT_ONCE: usize = 16 * 1024;

/// Packets that are read before another thread has a turn at the queue.
const BURST: usize = 256;
/// Packets that a thread which receives takes on: acknowledgements, the answer to a ping.
const ANSWERS: usize = 4;

/// What the threads share.
pub(super) struct Shared {
    pub(super) link: String,
    pub(super) _hold: Hold,
    pub(super) options: Options,
    pub(super) deleted: Deleted,
    pub(super) engine: Engine,
    pub(super) tun: ArcSwap<Tun>,
    /// One a queue.
    pub(super) outlets: Vec<Mutex<Outlet>>,
    pub(super) udp: ArcSwapOption<Udp>,
}

impl Output for Shared {
    fn network(&self, runs: &[Run], arena: &[u8], path: Path, way: &Segmentation) -> Unsent {
        match &*self.udp.load() {
            Some(udp) => udp.send(runs, arena, path, way),
            None => Unsent::all(runs, io::ErrorKind::NotConnected.into()),
        }
    }

    fn tunnel(&self, write: &Write<'_>, arena: &[u8]) -> io::Result<()> {
        self.tun.load().write(write, arena)
    }
}

impl Shared {
    /// Makes the deleted TUN again, once for all its readers; its addresses and routes are the
    /// router's to restore. None when it is not wanted again, or the order to end came.
    fn reopen(&self, old: &Arc<Tun>, stop: &Stop) -> Option<Arc<Tun>> {
        let mut deleted = self.deleted.lock();
        if !self.options.persistent {
            deleted.set();
            return None;
        }
        let present = self.tun.load_full();
        if !Arc::ptr_eq(&present, old) {
            return Some(present);
        }
        warn!(
            link = self.link,
            "the TUN device was deleted: making it again"
        );
        let mut said = false;
        while !stop.is_raised() {
            match Tun::open(&self.link, self.options) {
                Ok(tun) => {
                    info!(link = self.link, "the TUN device is back");
                    let tun = Arc::new(tun);
                    self.tun.store(Arc::clone(&tun));
                    return Some(tun);
                }
                Err(error) if !said => {
                    warn!(link = self.link, %error, "the TUN device cannot be made again yet");
                    said = true;
                }
                Err(_) => {}
            }
            stop.wait(None, Some(RETRY));
        }
        None
    }
}

/// Whether the TUN was deleted, for whoever waits for that. Its lock is for making it again, too.
#[derive(Default)]
pub(super) struct Deleted {
    is_so: Mutex<bool>,
    changed: Condvar,
}

impl Deleted {
    fn lock(&self) -> DeletedGuard<'_> {
        let is_so = self.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        DeletedGuard { is_so, of: self }
    }

    /// Waits for it.
    pub(super) fn wait(&self) {
        let is_so = self.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(is_so, |is_so| !*is_so));
    }
}

struct DeletedGuard<'a> {
    is_so: MutexGuard<'a, bool>,
    of: &'a Deleted,
}

impl DeletedGuard<'_> {
    fn set(&mut self) {
        *self.is_so = true;
        self.of.changed.notify_all();
    }
}

/// Threads that end together when this is dropped.
pub(super) struct Workers {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn new() -> io::Result<Self> {
        let stop = Stop {
            raised: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        Ok(Self {
            stop: Arc::new(stop),
            threads: Vec::new(),
        })
    }

    pub(super) fn start(
        &mut self,
        name: &str,
        shared: &Arc<Shared>,
        work: impl FnOnce(&Shared, &Stop) + Send + 'static,
    ) -> io::Result<()> {
        let (shared, stop) = (Arc::clone(shared), Arc::clone(&self.stop));
        let builder = thread::Builder::new().name(name.to_owned());
        self.threads
            .push(builder.spawn(move || work(&shared, &stop))?);
        Ok(())
    }
}

impl std::ops::Drop for Workers {
    fn drop(&mut self) {
        self.stop.raised.store(true, Ordering::SeqCst);
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.stop.event, &1_u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on standard error.
            let _ = thread.join();
        }
    }
}

/// The order to end.
pub(super) struct Stop {
    raised: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Waits until `other` is readable, the order comes, or the time is over.
    fn wait(&self, other: Option<BorrowedFd<'_>>, timeout: Option<Duration>) {
        let own = PollFd::new(&self.event, PollFlags::IN);
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // Whatever ends the wait, the caller looks again.
        let _ = match other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)) {
            Some(other) => poll(&mut [own, other], timeout.as_ref()),
            None => poll(&mut [own], timeout.as_ref()),
        };
    }
}

/// What one thread at a time has of a queue of the TUN, from the reading of a packet until it is sent:
/// a flow stays in order.
pub(super) struct Outlet {
    buffer: Vec<u8>,
    outgoing: Outgoing,
}

impl Default for Outlet {
    fn default() -> Self {
        Self {
            buffer: vec![0; LARGEST],
            outgoing: Outgoing::default(),
        }
    }
}

impl Outlet {
    /// Sends what the queue has, up to so many packets; why it ended before.
    fn drain(&mut self, queue: usize, most: usize, tun: &Tun, shared: &Shared) -> io::Result<()> {
        let Self { buffer, outgoing } = self;
        let engine = &shared.engine;
        // Read with the first packet of each batch: a queue is mostly found empty.
        let mut now = None;
        let drained = (0..most).try_for_each(|_| {
            let (vnet, len) = tun.read(queue, buffer)?;
            let at = *now.get_or_insert_with(Now::read);
            engine.outbound(vnet, &mut buffer[..len], outgoing, at, shared);
            if len >= AT_ONCE {
                engine.send_staged(outgoing, at, shared);
                now = None;
            }
            Ok(())
        });
        if let Some(at) = now {
            engine.send_staged(outgoing, at, shared);
        }
        drained
    }
}

/// Reads packets from a queue of the TUN until told to stop.
pub(super) fn read_tun(queue: usize, shared: &Shared, stop: &Stop) {
    let mut tun = shared.tun.load_full();
    while !stop.is_raised() {
        if queue >= tun.queues() {
            // It was made again with fewer, and each is one thread's.
            stop.wait(None, None);
            continue;
        }
        let mut outlet = lock(&shared.outlets[queue]);
        let drained = outlet.drain(queue, BURST, &tun, shared);
        drop(outlet);
        let Err(error) = drained else {
            continue;
        };
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => stop.wait(Some(tun.queue(queue)), None),
            Some(Errno::INTR) => {}
            // Somebody deleted the link.
            Some(Errno::BADFD) => match shared.reopen(&tun, stop) {
                Some(again) => tun = again,
                None => return,
            },
            // EIO: the link is down.
            _ => stop.wait(None, Some(RETRY)),
        }
    }
}

/// What the host answers at once is in the TUN when it has been given the packet: it goes out by the
/// thread that is awake, unless another is at that queue.
fn answer(queue: usize, shared: &Shared) {
    let tun = shared.tun.load();
    let queue = queue % tun.queues();
    if let Some(outlet) = shared.outlets.get(queue)
        && let Ok(mut outlet) = outlet.try_lock()
    {
        // An error is the queue's own thread's to deal with.
        let _ = outlet.drain(queue, ANSWERS, &tun, shared);
    }
}

fn lock(outlet: &Mutex<Outlet>) -> MutexGuard<'_, Outlet> {
    outlet.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads datagrams from one socket until told to stop.
pub(super) fn read_udp(socket: &UdpSocket, shared: &Shared, stop: &Stop) {
    let mut receiver = Receiver::new();
    let mut incoming = Incoming::default();
    while !stop.is_raised() {
        match receiver.receive(socket) {
            Ok(messages) => {
                let now = Now::read();
                incoming.offloads = shared.tun.load().offloads();
                for received in (0..messages).filter_map(|at| receiver.message(at)) {
                    shared.engine.inbound(&received, &mut incoming, now, shared);
                }
                if let Some(queue) = shared.engine.deliver(&mut incoming, now, shared) {
                    answer(queue, shared);
                }
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => stop.wait(Some(socket.as_fd()), None),
                Some(Errno::INTR) => {}
                // A pending ICMP error is reported once.
                _ => stop.wait(Some(socket.as_fd()), Some(RETRY)),
            },
        }
    }
}

/// Keeps the sessions' time until told to stop.
pub(super) fn keep_time(shared: &Shared, stop: &Stop) {
    let mut scratch = vec![0; SCRATCH];
    while !stop.is_raised() {
        shared.engine.tick(&mut scratch, Now::read(), shared);
        stop.wait(None, Some(TICK));
    }
}
