//! Probes through the tunnel: the socket and the clock around [`weft_mesh::probe`].
//!
//! The socket is bound to the mesh's link, so that WireGuard vouches for every sender.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info};
use weft_mesh::NodeId;
use weft_mesh::probe::{Health, LENGTH, Life, Message, Prober};

/// UDP port inside the mesh.
const PORT: u16 = 6784;
/// Between tries to open the socket, while the link is not there.
const REOPEN: Duration = Duration::from_millis(200);
/// How often to look whether the link is still the one that the socket is bound to.
const RECHECK: Duration = Duration::from_secs(1);

/// The prober of a node. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Probes {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// The set of peers changed: what is due next may have.
    wake: Notify,
    reopen: Notify,
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

impl Drop for Probes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    /// Probes over `link`, as soon as it is there.
    pub(super) fn start(link: &'static str) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            wake: Notify::new(),
            reopen: Notify::new(),
        });
        let task = tokio::spawn(run(link, Arc::clone(&shared)));
        Self { shared, task }
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
        self.shared.wake.notify_one();
    }

    /// The link was made anew: a socket bound to the old one hears nothing.
    pub(super) fn reopen(&self) {
        self.shared.reopen.notify_one();
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

async fn run(link: &str, shared: Arc<Shared>) {
    loop {
        match open(link) {
            Ok(socket) => {
                tokio::select! {
                    () = shared.reopen.notified() => {}
                    error = probe(&socket, link, &shared) => info!(%error, link, "the probes' socket is opened anew"),
                }
            }
            Err(error) => debug!(%error, link, "the probes' socket"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}

/// A socket that hears and speaks on the link alone; both families where the host has IPv6.
fn open(link: &str) -> io::Result<AsyncFd<UdpSocket>> {
    let make = |domain, address: SocketAddr| {
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.bind_device(Some(link.as_bytes()))?;
        socket.bind(&address.into())?;
        readable(socket.into())
    };
    make(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, PORT).into())
        .or_else(|_| make(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, PORT).into()))
}

/// Waits for reading only: to be told of room for writing after each probe costs a waking.
#[allow(unsafe_code)]
fn readable(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a `UdpSocket` gives one descriptor, and owns it for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

/// Sends what is due and takes what comes, until the socket fails for good.
async fn probe(socket: &AsyncFd<UdpSocket>, link: &str, shared: &Shared) -> io::Error {
    let is_v6 = socket
        .get_ref()
        .local_addr()
        .is_ok_and(|address| address.is_ipv6());
    let mut buffer = [0; LENGTH + 1];
    let mut checked = Instant::now();
    loop {
        let next = shared.state().prober.next();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            () = due => send_due(socket.get_ref(), shared, is_v6),
            () = shared.wake.notified() => Ok(()),
            received = socket.async_io(Interest::READABLE, |s| s.recv_from(&mut buffer)) => match received {
                Ok((length, from)) => receive(&buffer[..length], from, socket.get_ref(), shared),
                // ENETDOWN and the like while the link is down: look whether it is still ours.
                Err(error) => return error,
            },
        };
        if sent.is_err() || checked.elapsed() >= RECHECK {
            checked = Instant::now();
            if let Err(error) = still_on(socket.get_ref(), link) {
                return error;
            }
        }
    }
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
                state.prober.heard(&id, Instant::now());
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
