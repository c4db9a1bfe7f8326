//! The server: a zone, who may ask, whom to ask, and a set of listening addresses that changes at
//! run time.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::cache::CacheLimits;
use crate::core::{Bucket, Core, Turns};
use crate::forward::Upstream;
use crate::resolve::Resolver;
use crate::stats::{Counters, Stats};
use crate::tcp::{self, Connections};
use crate::udp;
use crate::zone::Zone;

/// UDP clients that wait for other servers at a time.
const WAITING: usize = 4096;
/// What the kernel keeps of queries while we are busy, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;
const BACKLOG: i32 = 256;

/// What a server needs.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The names; whoever holds the other end swaps in a new zone at any time.
    pub zone: Arc<ArcSwap<Zone>>,
    /// Sources that may ask, loopback included only if it is named. Others are refused.
    pub allowed: Vec<IpNet>,
    /// Who answers for all other names.
    pub upstream: Arc<dyn Upstream>,
    pub cache: CacheLimits,
}

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen for DNS on {address}")]
pub struct ListenError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// A running server. Dropped, it stops.
#[derive(Debug)]
pub struct Server {
    core: Arc<Core>,
    waiting: Arc<Semaphore>,
    connections: Arc<Connections>,
    listeners: tokio::sync::Mutex<BTreeMap<SocketAddr, Listener>>,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Listener {
    /// Returns when the sockets are closed and the address is free again.
    async fn close(mut self) {
        for task in &mut self.tasks {
            task.abort();
            // Aborted, so an error is what is expected.
            let _ = task.await;
        }
        tracing::info!(address = %self.address, "listening for DNS no more");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Server {
    /// A server that listens nowhere yet.
    pub fn start(config: ServerConfig) -> Self {
        let counters = Arc::new(Counters::default());
        let resolver = Resolver::new(config.upstream, config.cache, Arc::clone(&counters));
        let core = Core {
            zone: config.zone,
            allowed: ArcSwap::from_pointee(config.allowed),
            own: ArcSwap::default(),
            resolver: Arc::new(resolver),
            counters,
            refusals: Mutex::new(Bucket::default()),
            turns: Turns::default(),
        };
        Self {
            core: Arc::new(core),
            waiting: Arc::new(Semaphore::new(WAITING)),
            connections: Arc::default(),
            listeners: tokio::sync::Mutex::default(),
        }
    }

    /// Listens on these addresses, UDP and TCP, and no longer on others; those that stay are not
    /// disturbed. An address that the host does not have yet is fine. Those that fail are
    /// returned; calling again tries them again. Call it inside a tokio runtime; the sockets
    /// belong to the caller's network namespace.
    pub async fn listen(&self, addresses: &[SocketAddr]) -> Vec<ListenError> {
        let mut listeners = self.listeners.lock().await;
        let held: Vec<_> = listeners.keys().copied().collect();
        for address in held {
            if !addresses.contains(&address)
                && let Some(listener) = listeners.remove(&address)
            {
                listener.close().await;
            }
        }
        let mut failed = Vec::new();
        for address in addresses {
            if listeners.contains_key(address) {
                continue;
            }
            match self.bind(*address) {
                Ok(listener) => {
                    tracing::info!(address = %listener.address, "listening for DNS");
                    listeners.insert(*address, listener);
                }
                Err(source) => failed.push(ListenError {
                    address: *address,
                    source,
                }),
            }
        }
        let bound: Vec<_> = listeners
            .values()
            .map(|listener| listener.address)
            .collect();
        self.core.own.store(Arc::new(bound));
        failed
    }

    /// The addresses listened on; where port 0 was asked for, the port that was given.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.core.own.load().to_vec()
    }

    /// Changes who may ask, from the next message on.
    pub fn set_allowed(&self, allowed: Vec<IpNet>) {
        self.core.allowed.store(Arc::new(allowed));
    }

    /// The servers that other names are asked of, in order.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.core.resolver.upstream().servers()
    }

    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Listener> {
        if address.ip().is_unspecified() {
            // Replies would leave from whatever address the route prefers.
            let reason = "one address is needed, not all of them";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let (udp, tcp) = sockets(address)?;
        let address = udp.local_addr()?;
        let core = || Arc::clone(&self.core);
        let tasks = [
            tokio::spawn(udp::serve(core(), udp, Arc::clone(&self.waiting))),
            tokio::spawn(tcp::serve(core(), tcp, Arc::clone(&self.connections))),
        ];
        Ok(Listener { address, tasks })
    }
}

/// A UDP and a TCP socket at one port.
fn sockets(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = socket(address, Type::DGRAM)?;
    // Best effort: the kernel caps it.
    let _ = udp.set_recv_buffer_size(RECEIVE_BUFFER);
    let udp = UdpSocket::from_std(udp.into())?;
    let tcp = socket(udp.local_addr()?, Type::STREAM)?;
    tcp.listen(BACKLOG)?;
    Ok((udp, TcpListener::from_std(tcp.into())?))
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = match kind {
        Type::STREAM => Protocol::TCP,
        _ => Protocol::UDP,
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if kind == Type::STREAM {
        // A connection of a server that has just stopped does not hold its address.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}
