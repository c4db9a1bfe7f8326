//! The userspace WireGuard device: a TUN that outlives the process, UDP sockets, threads between
//! them, and boringtun as the protocol engine. It sets neither addresses nor MTU nor routes.

mod allowed_ips;
mod control;
mod drops;
mod engine;
#[cfg(test)]
mod engine_tests;
mod identity;
mod queue;
mod session;
mod table;
mod tun;
mod udp;
mod wire;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};

use self::engine::{Engine, SCRATCH};
use self::identity::Identity;
use self::session::Session;
use self::table::{Peer, Table};
use self::tun::Tun;
use self::udp::Udp;
use self::worker::{Shared, Workers};
use super::{Tunnel, TunnelError};
use crate::device::{Change, DeviceStatus, PeerConfig, PeerStatus};
use crate::{PrivateKey, PublicKey};

/// A WireGuard device in this process. Dropping it ends its threads and leaves the TUN in place,
/// where routes over it keep packets from leaving in the clear.
pub struct UserspaceTunnel {
    shared: Arc<Shared>,
    control: Mutex<Control>,
}

/// What changes of the device touch one at a time.
struct Control {
    fwmark: u32,
    /// The readers of the UDP sockets, replaced with the port.
    udp: Option<Workers>,
    _tun: Workers,
}

impl UserspaceTunnel {
    /// Makes the TUN `link`, or adopts the one that an earlier run left, in the network namespace
    /// of the calling thread. UDP sockets are opened in that of the thread that applies the change.
    ///
    /// # Errors
    /// Without `/dev/net/tun` or the privilege to make a TUN; when another process is attached to
    /// the link; when a link of this name is no TUN.
    pub fn open(link: &str) -> Result<Self, TunnelError> {
        let io = |source| TunnelError::Io {
            act: format!("start the threads of {link}"),
            source,
        };
        let shared = Arc::new(Shared {
            link: link.to_owned(),
            engine: Engine::default(),
            tun: ArcSwap::from_pointee(Tun::open(link)?),
            udp: ArcSwapOption::empty(),
        });
        let mut workers = Workers::new().map_err(io)?;
        workers
            .start("weft-tun", &shared, worker::read_tun)
            .map_err(io)?;
        workers
            .start("weft-timer", &shared, worker::keep_time)
            .map_err(io)?;
        let control = Control {
            fwmark: 0,
            udp: None,
            _tun: workers,
        };
        Ok(Self {
            shared,
            control: Mutex::new(control),
        })
    }

    fn apply_now(&self, changes: &[Change]) -> Result<(), TunnelError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        // One snapshot for all changes: readers see none of them or all.
        let mut table = Table::clone(&self.shared.engine.table.load());
        let mut result = Ok(());
        let mut kicks = Vec::new();
        for change in changes {
            let done = match change {
                Change::SetDevice {
                    private_key,
                    listen_port,
                    fwmark,
                } => self
                    .set_key(&mut table, private_key)
                    .and_then(|()| self.set_sockets(&mut control, *listen_port, *fwmark)),
                Change::SetPeer { public_key, config } => {
                    self.set_peer(&mut table, *public_key, config, &mut kicks)
                }
                Change::RemovePeer { public_key } => {
                    table.remove(public_key);
                    Ok(())
                }
            };
            result = result.and(done);
        }
        self.shared.engine.table.store(Arc::new(table));
        self.kick(kicks);
        result
    }

    fn set_key(&self, table: &mut Table, private_key: &PrivateKey) -> Result<(), TunnelError> {
        let key = private_key.public_key();
        if table
            .identity
            .as_ref()
            .is_some_and(|identity| identity.key == key)
        {
            return Ok(());
        }
        let identity = Arc::new(Identity::new(private_key));
        table.remove(&key);
        let peers: Vec<_> = table.peers.values().cloned().collect();
        for peer in peers {
            let index = self.free_index(table)?;
            peer.lock().session.set_identity(&identity, peer.key, index);
            table.index(&peer);
        }
        table.identity = Some(identity);
        Ok(())
    }

    fn set_sockets(
        &self,
        control: &mut Control,
        port: u16,
        fwmark: u32,
    ) -> Result<(), TunnelError> {
        if let Some(udp) = &*self.shared.udp.load()
            && udp.port == port
        {
            if control.fwmark != fwmark {
                udp.set_mark(fwmark);
                control.fwmark = fwmark;
            }
            return Ok(());
        }
        let io = |source| TunnelError::Io {
            act: "start the UDP readers".to_owned(),
            source,
        };
        let udp = Arc::new(Udp::bind(port, fwmark)?);
        let mut workers = Workers::new().map_err(io)?;
        for socket in udp.sockets() {
            let socket = socket.try_clone().map_err(io)?;
            let read = move |shared: &Shared, stop: &worker::Stop| {
                worker::read_udp(&socket, shared, stop);
            };
            workers.start("weft-udp", &self.shared, read).map_err(io)?;
        }
        self.shared.udp.store(Some(udp));
        control.udp = Some(workers);
        control.fwmark = fwmark;
        Ok(())
    }

    fn set_peer(
        &self,
        table: &mut Table,
        key: PublicKey,
        config: &PeerConfig,
        kicks: &mut Vec<(Arc<Peer>, Kick)>,
    ) -> Result<(), TunnelError> {
        let identity = table
            .identity
            .clone()
            .ok_or_else(|| self.refused("a peer was set before the device's key"))?;
        if identity.key == key {
            return Err(self.refused("a peer has the device's own key"));
        }
        let now = Instant::now();
        let preshared = config.preshared_key.as_ref();
        let peer = if let Some(peer) = table.peers.get(&key) {
            Arc::clone(peer)
        } else {
            let index = self.free_index(table)?;
            let session = Session::new(&identity, key, index, preshared.cloned(), now);
            Arc::new(Peer::new(key, session))
        };
        let mut state = peer.lock();
        if state.session.preshared() != preshared {
            let index = self.free_index(table)?;
            state
                .session
                .set_preshared(&identity, key, index, preshared.cloned(), now);
        }
        let moved = config.endpoint.is_some() && config.endpoint != state.endpoint;
        if moved {
            state.endpoint = config.endpoint;
            state.local = None;
        }
        let keepalive = config.persistent_keepalive.filter(|&seconds| seconds > 0);
        if keepalive.is_some() && keepalive != state.session.keepalive() {
            kicks.push((Arc::clone(&peer), Kick::KeepAlive));
        } else if moved {
            kicks.push((Arc::clone(&peer), Kick::Moved));
        }
        state.session.set_keepalive(keepalive);
        drop(state);

        table.index(&peer);
        let wanted = |prefix| config.allowed_ips.contains(&prefix);
        table
            .allowed_ips
            .retain(|prefix, holder| !Arc::ptr_eq(holder, &peer) || wanted(prefix));
        for &prefix in &config.allowed_ips {
            table.allowed_ips.insert(prefix, Arc::clone(&peer));
        }
        table.peers.insert(key, peer);
        Ok(())
    }

    /// Sends what the changes made due.
    fn kick(&self, kicks: Vec<(Arc<Peer>, Kick)>) {
        let mut scratch = vec![0; SCRATCH];
        let now = Instant::now();
        for (peer, kick) in kicks {
            self.shared.engine.kick(
                &peer,
                &mut scratch,
                now,
                &*self.shared,
                |state, out| match kick {
                    Kick::KeepAlive => state.session.keep_alive(out, now),
                    Kick::Moved => state.session.moved(out, now),
                },
            );
        }
    }

    fn free_index(&self, table: &Table) -> Result<u32, TunnelError> {
        table
            .free_index()
            .map_err(|error| self.refused(&format!("no random bytes: {error}")))
    }

    fn refused(&self, reason: &str) -> TunnelError {
        TunnelError::Refused {
            link: self.shared.link.clone(),
            reason: reason.to_owned(),
        }
    }

    fn status_now(&self) -> DeviceStatus {
        let table = self.shared.engine.table.load();
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut peers: BTreeMap<_, _> = table
            .peers
            .values()
            .map(|peer| (peer.key, peer_status(peer)))
            .collect();
        for (prefix, holder) in table.allowed_ips.iter() {
            if let Some(peer) = peers.get_mut(&holder.key) {
                peer.allowed_ips.insert(prefix);
            }
        }
        DeviceStatus {
            public_key: table.identity.as_ref().map(|identity| identity.key),
            listen_port: self.shared.udp.load().as_ref().map_or(0, |udp| udp.port),
            fwmark: control.fwmark,
            peers,
            drops: self.shared.engine.drops.counted(),
        }
    }
}

/// What a change of a peer makes due at once.
enum Kick {
    KeepAlive,
    Moved,
}

fn peer_status(peer: &Peer) -> PeerStatus {
    let state = peer.lock();
    PeerStatus {
        endpoint: state.endpoint,
        has_preshared_key: state.session.preshared().is_some(),
        persistent_keepalive: state.session.keepalive(),
        last_handshake: state.session.last_handshake(),
        rx_bytes: peer.received.load(Relaxed),
        tx_bytes: peer.sent.load(Relaxed),
        send_error: peer.send_error().map(|error| error.to_string()),
        ..PeerStatus::default()
    }
}

impl Tunnel for UserspaceTunnel {
    async fn status(&self) -> Result<DeviceStatus, TunnelError> {
        Ok(self.status_now())
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), TunnelError> {
        self.apply_now(changes)
    }

    fn link(&self) -> &str {
        &self.shared.link
    }
}

impl fmt::Debug for UserspaceTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserspaceTunnel")
            .field("link", &self.shared.link)
            .finish_non_exhaustive()
    }
}
