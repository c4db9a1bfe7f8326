//! The threads of the device: one reads the TUN, one each UDP socket, one keeps time. They only
//! move bytes between descriptors and the engine.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tracing::{info, warn};

use super::drops::Drop;
use super::engine::{Engine, LARGEST, Output, SCRATCH};
use super::session::Now;
use super::table::Path;
use super::tun::Tun;
use super::udp::{self, Udp};

/// boringtun asks to be called four times a second.
const TICK: Duration = Duration::from_millis(250);
/// How often a TUN that was deleted is made again, and the pause after an unforeseen error.
const RETRY: Duration = Duration::from_millis(500);

/// What the threads share.
pub(super) struct Shared {
    pub(super) link: String,
    pub(super) engine: Engine,
    pub(super) tun: ArcSwap<Tun>,
    pub(super) udp: ArcSwapOption<Udp>,
}

impl Output for Shared {
    fn network(&self, datagram: &[u8], path: Path) -> io::Result<()> {
        match &*self.udp.load() {
            Some(udp) => udp.send(datagram, path),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn tunnel(&self, packet: &[u8]) -> io::Result<()> {
        self.tun.load().write(packet)
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
        let mut fds = vec![PollFd::new(&self.event, PollFlags::IN)];
        fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // Whatever ends the wait, the caller looks again.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

/// Reads packets from the TUN until told to stop.
pub(super) fn read_tun(shared: &Shared, stop: &Stop) {
    let mut buffer = vec![0; LARGEST + 1];
    let mut scratch = vec![0; SCRATCH];
    let mut tun = shared.tun.load_full();
    while !stop.is_raised() {
        match tun.read(&mut buffer) {
            Ok(len) => {
                shared
                    .engine
                    .outbound(&mut buffer, len, &mut scratch, now(), shared);
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => stop.wait(Some(tun.as_fd()), None),
                Some(Errno::INTR) => {}
                // Somebody deleted the link.
                Some(Errno::BADFD) => {
                    if let Some(again) = reopen(shared, stop) {
                        tun = again;
                    }
                }
                // EIO: the link is down.
                _ => stop.wait(None, Some(RETRY)),
            },
        }
    }
}

/// Makes the deleted TUN again; its addresses and routes are the router's to restore.
fn reopen(shared: &Shared, stop: &Stop) -> Option<Arc<Tun>> {
    warn!(
        link = shared.link,
        "the TUN device was deleted: making it again"
    );
    let mut said = false;
    while !stop.is_raised() {
        match Tun::open(&shared.link) {
            Ok(tun) => {
                info!(link = shared.link, "the TUN device is back");
                let tun = Arc::new(tun);
                shared.tun.store(Arc::clone(&tun));
                return Some(tun);
            }
            Err(error) if !said => {
                warn!(link = shared.link, %error, "the TUN device cannot be made again yet");
                said = true;
            }
            Err(_) => {}
        }
        stop.wait(None, Some(RETRY));
    }
    None
}

/// Reads datagrams from one socket until told to stop.
pub(super) fn read_udp(socket: &UdpSocket, shared: &Shared, stop: &Stop) {
    let mut buffer = vec![0; LARGEST];
    let mut scratch = vec![0; SCRATCH];
    while !stop.is_raised() {
        match udp::receive(socket, &mut buffer) {
            Ok((len, arrived)) => {
                let datagram = &buffer[..len];
                shared
                    .engine
                    .inbound(datagram, arrived, &mut scratch, now(), shared);
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => stop.wait(Some(socket.as_fd()), None),
                Some(Errno::INTR) => {}
                // A pending ICMP error is reported once.
                Some(_) => stop.wait(Some(socket.as_fd()), Some(RETRY)),
                None => shared.engine.drops.count(Drop::NotWireguard),
            },
        }
    }
}

/// Keeps the sessions' time until told to stop.
pub(super) fn keep_time(shared: &Shared, stop: &Stop) {
    let mut scratch = vec![0; SCRATCH];
    while !stop.is_raised() {
        shared.engine.tick(&mut scratch, now(), shared);
        stop.wait(None, Some(TICK));
    }
}
