//! The userspace WireGuard device: a TUN that outlives the process, UDP sockets, threads between
//! them, and boringtun as the protocol engine. It sets neither addresses nor MTU nor routes.

mod allowed_ips;
mod checksum;
mod coalesce;
mod configure;
mod datagram;
mod drops;
mod ecn;
mod engine;
mod identity;
mod incoming;
#[cfg(test)]
mod offload_tests;
mod outgoing;
mod queue;
mod segment;
mod session;
mod sources;
mod table;
#[cfg(feature = "testing")]
mod transport;
mod tun;
mod uapi;
mod udp;
mod update;
mod vnet;
mod wire;
mod worker;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use arc_swap::{ArcSwap, ArcSwapOption};

use self::configure::Device;
use self::engine::Engine;
use self::tun::{Hold, Options, Tun};
use self::update::Update;
use self::worker::{Deleted, Shared, Workers};
use super::{Tunnel, TunnelError};
use crate::device::{Change, DeviceStatus};

pub use datagram::Datagram;
#[cfg(feature = "testing")]
pub use transport::{Transport, use_transport};
pub use uapi::Access;

/// Where `wg` looks for devices that are not the kernel's.
pub const SOCKETS: &str = "/var/run/wireguard";

/// Threads that read the TUN, where there are as many processors.
const MOST_QUEUES: usize = 4;

/// A WireGuard device in this process. Dropping it ends its threads and leaves the TUN in place,
/// where routes over it keep packets from leaving in the clear.
pub struct UserspaceTunnel {
    device: Arc<Device>,
    /// Who asks by WireGuard's own protocol is answered.
    server: Mutex<Option<uapi::Server>>,
}

impl UserspaceTunnel {
    /// Makes the TUN `link`, or adopts the one that an earlier run left, in the network namespace
    /// of the calling thread. UDP sockets are opened in that of the thread that applies the change.
    ///
    /// # Errors
    /// Without `/dev/net/tun` or the privilege to make a TUN; when another process is attached to
    /// the link; when a link of this name is no TUN.
    pub fn open(link: &str) -> Result<Self, TunnelError> {
        Self::open_with(link, true)
    }

    /// The same with a TUN that goes with the process.
    ///
    /// # Errors
    /// As [`UserspaceTunnel::open`].
    pub fn open_for_process(link: &str) -> Result<Self, TunnelError> {
        Self::open_with(link, false)
    }

    /// Waits until somebody deletes the link of a tunnel that was opened for this process.
    pub fn wait_deleted(&self) {
        self.device.shared.deleted.wait();
    }

    fn open_with(link: &str, persistent: bool) -> Result<Self, TunnelError> {
        let io = |source| TunnelError::Io {
            act: format!("start the threads of {link}"),
            source,
        };
        let queues = thread::available_parallelism().map_or(1, usize::from);
        let options = Options {
            queues: queues.min(MOST_QUEUES),
            persistent,
        };
        let hold = Hold::take(link)?;
        let tun = Tun::open(link, options)?;
        let queues = tun.queues();
        // One that is made again has as many as there are threads for.
        let options = Options { queues, ..options };
        let shared = Arc::new(Shared {
            link: link.to_owned(),
            _hold: hold,
            options,
            deleted: Deleted::default(),
            engine: Engine::default(),
            tun: ArcSwap::from_pointee(tun),
            outlets: (0..queues).map(|_| Mutex::default()).collect(),
            udp: ArcSwapOption::empty(),
        });
        let mut workers = Workers::new().map_err(io)?;
        for queue in 0..queues {
            let read = move |shared: &Shared, stop: &worker::Stop| {
                worker::read_tun(queue, shared, stop);
            };
            workers.start("weft-tun", &shared, read).map_err(io)?;
        }
        workers
            .start("weft-timer", &shared, worker::keep_time)
            .map_err(io)?;
        Ok(Self {
            device: Arc::new(Device::new(shared, workers)),
            server: Mutex::new(None),
        })
    }

    /// Listens on a UDP port that is free, until one is chosen.
    ///
    /// # Errors
    /// When there is none.
    pub fn listen(&self) -> Result<(), TunnelError> {
        self.device.update(Update {
            listen_port: Some(0),
            ..Update::default()
        })
    }

    /// The datagrams on the tunnel's port that are not WireGuard's, from now on. Whoever asked before
    /// gets no more.
    pub fn datagrams(&self) -> Receiver<Datagram> {
        self.device.shared.engine.others.taken()
    }

    /// Sends a datagram that is not WireGuard's from the tunnel's port. With `whole` no router may
    /// fragment it (DF), nor this host, whatever it knows of the path: a probe of the path's MTU.
    ///
    /// # Errors
    /// When it begins as WireGuard's do, where the device has no socket of that family, and as
    /// `sendto(2)`: `EMSGSIZE` where it exceeds the link's MTU and is to stay whole.
    pub fn send_datagram(&self, bytes: &[u8], to: SocketAddr, whole: bool) -> io::Result<()> {
        datagram::refused(bytes)?;
        match &*self.device.shared.udp.load() {
            Some(udp) => udp.send_other(bytes, to, whole),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Answers WireGuard's cross-platform configuration protocol on the unix socket `LINK.sock` in
    /// `dir`, which is made; `wg` looks in [`SOCKETS`]. Only root may connect.
    ///
    /// # Errors
    /// When the socket cannot be made there, or another process answers on it.
    pub fn serve(&self, dir: &Path, access: Access) -> io::Result<PathBuf> {
        let path = dir.join(format!("{}.sock", self.device.shared.link));
        let server = uapi::Server::start(&self.device, &path, access)?;
        *self.server() = Some(server);
        Ok(path)
    }

    /// Answers no more, and takes the socket away.
    pub fn stop_serving(&self) {
        drop(self.server().take());
    }

    fn server(&self) -> MutexGuard<'_, Option<uapi::Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status_now(&self) -> DeviceStatus {
        let device = self.device.read();
        let peers = device.peers.into_iter().map(|peer| (peer.key, peer.status));
        DeviceStatus {
            public_key: device.private_key.map(|key| key.public_key()),
            listen_port: device.listen_port,
            fwmark: device.fwmark,
            peers: peers.collect(),
            drops: self.device.shared.engine.drops.counted(),
        }
    }
}

impl Tunnel for UserspaceTunnel {
    async fn status(&self) -> Result<DeviceStatus, TunnelError> {
        Ok(self.status_now())
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), TunnelError> {
        self.device.apply(changes)
    }

    fn link(&self) -> &str {
        &self.device.shared.link
    }
}

impl fmt::Debug for UserspaceTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserspaceTunnel")
            .field("link", &self.device.shared.link)
            .finish_non_exhaustive()
    }
}
