//! Probes through the tunnel: the socket, the clock and the thread around [`weft_mesh::probe`].
//!
//! The socket is bound to the mesh's link, so that WireGuard vouches for every sender. The thread has
//! it alone: in a mesh of a thousand, an executor's wakings would cost more than the probes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::watch;
use tracing::{debug, info};
use weft_mesh::NodeId;
use weft_mesh::probe::{Health, LENGTH, Life, Message, Prober};

/// UDP port inside the mesh.
const PORT: u16 = 6784;
/// Between tries to open the socket, while the link is not there.
const REOPEN: Duration = Duration::from_millis(200);
/// How often to look whether the link is still the one that the socket is bound to.
const RECHECK: Duration = Duration::from_secs(1);
/// Messages that are taken before what is due is looked at again.
const BATCH: usize = 64;

/// The prober of a node. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Probes {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// Wakes the thread: what is due next may have changed, or it is to reopen or to end.
    event: OwnedFd,
    is_reopened: AtomicBool,
    is_ended: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    prober: Prober<NodeId>,
    addresses: BTreeMap<NodeId, IpAddr>,
    /// The same, by address.
    ids: HashMap<IpAddr, NodeId>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn wake(&self) {
        // Fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Waits until `socket` is readable, somebody wakes the thread, or the time comes.
    fn wait(&self, socket: Option<&UdpSocket>, until: Option<Instant>) {
        let mut fds = vec![PollFd::new(&self.event, PollFlags::IN)];
        fds.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)));
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // Whatever ends the wait, the caller looks again.
        let _ = poll(&mut fds, timeout.as_ref());
        if fds[0].revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
    }

    fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // If it panicked, it has said so on standard error.
            let _ = thread.join();
        }
    }
}

impl Probes {
    /// Probes over `link`, as soon as it is there in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there can be no other thread.
    pub(super) fn start(link: &'static str) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_reopened: AtomicBool::new(false),
            is_ended: AtomicBool::new(false),
        });
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("weft-probes".to_owned())
            .spawn(move || run(link, &its))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Whom to probe, and at which address inside the mesh.
    pub(super) fn set_peers(&self, peers: &BTreeMap<NodeId, IpAddr>) {
        let mut state = self.shared.state();
        if state.addresses == *peers {
            return;
        }
        let wanted: BTreeSet<NodeId> = peers.keys().copied().collect();
        state.prober.set_peers(&wanted, Instant::now());
        state.addresses.clone_from(peers);
        state.ids = peers.iter().map(|(id, address)| (*address, *id)).collect();
        drop(state);
        self.shared.wake();
    }

    /// The link was made anew: a socket bound to the old one hears nothing.
    pub(super) fn reopen(&self) {
        self.shared.is_reopened.store(true, Ordering::SeqCst);
        self.shared.wake();
    }

    /// A number that changes when a peer came up or died.
    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    pub(super) fn health(&self, id: &NodeId) -> Option<Health> {
        self.shared.state().prober.health(id)
    }

    /// Peers that answer no more.
    pub(super) fn dead(&self) -> BTreeSet<NodeId> {
        let state = self.shared.state();
        let is_dead = |id: &&NodeId| {
            state
                .prober
                .health(id)
                .is_some_and(|h| h.life == Life::Dead)
        };
        state.addresses.keys().filter(is_dead).copied().collect()
    }
}

fn run(link: &str, shared: &Shared) {
    while !shared.is_ended() {
        match open(link) {
            Ok(socket) => {
                if let Err(error) = probe(&socket, link, shared) {
                    info!(%error, link, "the probes' socket is opened anew");
                }
            }
            Err(error) => debug!(%error, link, "the probes' socket"),
        }
        shared.wait(None, Some(Instant::now() + REOPEN));
    }
}

/// A socket that hears and speaks on the link alone; both families where the host has IPv6.
fn open(link: &str) -> io::Result<UdpSocket> {
    let make = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.bind_device(Some(link.as_bytes()))?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket.into())
    };
    make(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, PORT).into())
        .or_else(|_| make(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, PORT).into()))
}

/// Sends what is due and takes what comes, until told otherwise.
///
/// # Errors
/// When the socket fails for good.
fn probe(socket: &UdpSocket, link: &str, shared: &Shared) -> io::Result<()> {
    let is_v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
    let mut checked = Instant::now();
    while !shared.is_ended() && !shared.is_reopened.swap(false, Ordering::SeqCst) {
        let next = shared.state().prober.next();
        shared.wait(Some(socket), next);
        let mut sent = take(socket, shared)?;
        if next.is_some_and(|next| next <= Instant::now()) {
            sent = sent.and(send_due(socket, shared, is_v6));
        }
        if sent.is_err() || checked.elapsed() >= RECHECK {
            checked = Instant::now();
            still_on(socket, link)?;
        }
    }
    Ok(())
}

/// Takes what has come; within, the last error of an answer that could not be sent.
///
/// # Errors
/// ENETDOWN and the like while the link is down: look whether it is still ours.
fn take(socket: &UdpSocket, shared: &Shared) -> io::Result<io::Result<()>> {
    let mut buffer = [0; LENGTH + 1];
    let mut sent = Ok(());
    for _ in 0..BATCH {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                sent = sent.and(receive(&buffer[..length], from, socket, shared));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Fails where the link that the socket is bound to is no more, though another may bear its name.
fn still_on(socket: &UdpSocket, link: &str) -> io::Result<()> {
    // The socket holds an index, for which the kernel looks up the name.
    match SockRef::from(socket).device()? {
        Some(name) if name == link.as_bytes() => Ok(()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Sends what is due; the last error, where a probe could not be sent.
fn send_due(socket: &UdpSocket, shared: &Shared, is_v6: bool) -> io::Result<()> {
    let mut out = Vec::new();
    let died = {
        let mut state = shared.state();
        let due = state.prober.due(Instant::now(), random);
        for (id, nonce) in due.probes {
            if let Some(address) = state.addresses.get(&id) {
                out.push((*address, nonce));
            }
        }
        due.died
    };
    for id in &died {
        info!(peer = id.short(), "a peer answers no more");
    }
    if !died.is_empty() {
        shared.changed.send_modify(|n| *n += 1);
    }
    let mut sent = Ok(());
    for (address, nonce) in out {
        let to = match address {
            IpAddr::V4(v4) if is_v6 => IpAddr::V6(v4.to_ipv6_mapped()),
            other => other,
        };
        // A probe that cannot be sent is lost, and counts so.
        if let Err(error) = socket.send_to(&Message::Probe(nonce).encode(), (to, PORT)) {
            sent = Err(error);
        }
    }
    sent
}

fn receive(bytes: &[u8], from: SocketAddr, socket: &UdpSocket, shared: &Shared) -> io::Result<()> {
    let Some(message) = Message::decode(bytes) else {
        return Ok(());
    };
    match message {
        Message::Probe(nonce) => {
            socket.send_to(&Message::Answer(nonce).encode(), from)?;
            // What is due is looked at before the next wait.
            let mut state = shared.state();
            if let Some(id) = state.ids.get(&from.ip().to_canonical()).copied() {
                state.prober.heard(&id, nonce, Instant::now());
            }
        }
        Message::Answer(nonce) => {
            let address = from.ip().to_canonical();
            let mut state = shared.state();
            let id = state.ids.get(&address).copied();
            let answered = id.and_then(|id| state.prober.answered(&id, nonce, Instant::now()));
            drop(state);
            if answered.is_some_and(|answered| answered.came_up) {
                shared.changed.send_modify(|n| *n += 1);
            }
        }
    }
    Ok(())
}

/// Unpredictable, so that nobody answers a probe that was not received.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}
