//! Reading and changing the device. Changes come one at a time, whoever makes them; packets see each
//! whole or not at all.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::engine::SCRATCH;
use super::identity::Identity;
use super::session::Session;
use super::table::{Endpoint, Peer, Table};
use super::udp::Udp;
use super::update::{PeerUpdate, Prefix, Update};
use super::worker::{self, Shared, Workers};
use crate::device::{Change, PeerStatus};
use crate::tunnel::TunnelError;
use crate::{PresharedKey, PrivateKey, PublicKey};

/// The device, and what changes of it touch.
pub(super) struct Device {
    pub(super) shared: Arc<Shared>,
    control: Mutex<Control>,
}

/// What changes of the device touch one at a time.
struct Control {
    fwmark: u32,
    /// The readers of the UDP sockets, replaced with the port.
    udp: Option<Workers>,
    _tun: Workers,
}

/// All of the device, its keys too.
pub(super) struct Reading {
    pub(super) private_key: Option<PrivateKey>,
    pub(super) listen_port: u16,
    pub(super) fwmark: u32,
    pub(super) peers: Vec<PeerReading>,
}

/// All of a peer.
pub(super) struct PeerReading {
    pub(super) key: PublicKey,
    pub(super) preshared_key: Option<PresharedKey>,
    pub(super) status: PeerStatus,
}

impl Device {
    pub(super) fn new(shared: Arc<Shared>, tun: Workers) -> Self {
        let control = Control {
            fwmark: 0,
            udp: None,
            _tun: tun,
        };
        Self {
            shared,
            control: Mutex::new(control),
        }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out the agent's changes; goes on past one that fails and returns the first failure.
    pub(super) fn apply(&self, changes: &[Change]) -> Result<(), TunnelError> {
        let updates = changes.iter().map(Update::from);
        self.change(updates.collect(), |table, update| {
            if table.identity().is_none() && update.peers.iter().any(|peer| !peer.remove) {
                return Err(self.refused("a peer was set before the device's key"));
            }
            let own = table.identity().map(|identity| identity.key);
            if update.peers.iter().any(|peer| Some(peer.key) == own) {
                return Err(self.refused("a peer has the device's own key"));
            }
            Ok(())
        })
    }

    /// Carries out one change in parts.
    pub(super) fn update(&self, update: Update) -> Result<(), TunnelError> {
        self.change(vec![update], |_, _| Ok(()))
    }

    fn change(
        &self,
        updates: Vec<Update>,
        check: impl Fn(&Table, &Update) -> Result<(), TunnelError>,
    ) -> Result<(), TunnelError> {
        let mut control = self.control();
        // One snapshot for all changes: readers see none of them or all.
        let mut table = Table::clone(&self.shared.engine.table.load());
        let mut result = Ok(());
        let mut kicks = Vec::new();
        for update in updates {
            let done = check(&table, &update)
                .and_then(|()| self.one(&mut control, &mut table, update, &mut kicks));
            result = result.and(done);
        }
        self.shared.engine.table.store(Arc::new(table));
        self.kick(kicks);
        result
    }

    fn one(
        &self,
        control: &mut Control,
        table: &mut Table,
        update: Update,
        kicks: &mut Vec<(Arc<Peer>, Kick)>,
    ) -> Result<(), TunnelError> {
        if let Some(key) = update.private_key {
            self.set_key(table, key.as_ref())?;
        }
        self.set_sockets(control, update.listen_port, update.fwmark)?;
        if update.replace_peers {
            table.clear();
        }
        for peer in update.peers {
            self.set_peer(table, peer, kicks)?;
        }
        Ok(())
    }

    fn set_key(&self, table: &mut Table, key: Option<&PrivateKey>) -> Result<(), TunnelError> {
        let public = key.map(PrivateKey::public_key);
        if table.identity().map(|identity| identity.key) == public {
            return Ok(());
        }
        let identity = match key {
            Some(key) => Identity::new(key),
            None => self.stand_in()?,
        };
        let identity = Arc::new(identity);
        table.remove(&identity.key);
        let peers: Vec<_> = table.peers.values().cloned().collect();
        for peer in peers {
            let index = self.free_index(table)?;
            peer.lock().session.set_identity(&identity, peer.key, index);
            table.index(&peer);
        }
        table.set_identity(identity);
        Ok(())
    }

    fn set_sockets(
        &self,
        control: &mut Control,
        port: Option<u16>,
        fwmark: Option<u32>,
    ) -> Result<(), TunnelError> {
        let wanted = fwmark.unwrap_or(control.fwmark);
        let changed = control.fwmark != wanted;
        let present = self.shared.udp.load();
        let present = present.as_ref();
        let Some(port) = port.filter(|&port| present.is_none_or(|udp| udp.port != port)) else {
            if let Some(udp) = present.filter(|_| changed) {
                udp.set_mark(wanted);
            }
            control.fwmark = wanted;
            return Ok(());
        };
        let io = |source| TunnelError::Io {
            act: "start the UDP readers".to_owned(),
            source,
        };
        let udp = Arc::new(Udp::bind(port, wanted)?);
        let mut workers = Workers::new().map_err(io)?;
        for socket in udp.sockets() {
            let socket = socket.try_clone().map_err(io)?;
            let read = move |shared: &Shared, stop: &worker::Stop| {
                worker::read_udp(&socket, shared, stop);
            };
            workers.start("weft-udp", &self.shared, read).map_err(io)?;
        }
        self.shared.udp.store(Some(udp));
        control.fwmark = wanted;
        control.udp = Some(workers);
        Ok(())
    }

    fn set_peer(
        &self,
        table: &mut Table,
        update: PeerUpdate,
        kicks: &mut Vec<(Arc<Peer>, Kick)>,
    ) -> Result<(), TunnelError> {
        let known = table.peers.get(&update.key).cloned();
        if update.remove {
            table.remove(&update.key);
            return Ok(());
        }
        if known.is_none() && update.update_only {
            return Ok(());
        }
        let identity = match &table.identity {
            Some(identity) => Arc::clone(identity),
            None => {
                let identity = Arc::new(self.stand_in()?);
                table.set_identity(Arc::clone(&identity));
                identity
            }
        };
        // As the kernel's device does with itself.
        if identity.key == update.key {
            return Ok(());
        }
        let now = Instant::now();
        let peer = match known {
            Some(peer) => peer,
            None => {
                let index = self.free_index(table)?;
                let preshared = update.preshared_key.clone().flatten();
                let session = Session::new(&identity, update.key, index, preshared, now);
                Arc::new(Peer::new(update.key, session))
            }
        };
        let mut state = peer.lock();
        if let Some(preshared) = update.preshared_key
            && state.session.preshared() != preshared.as_ref()
        {
            let index = self.free_index(table)?;
            let session = &mut state.session;
            session.set_preshared(&identity, update.key, index, preshared, now);
        }
        let endpoint = update.endpoint.map(Endpoint::from);
        let moved = endpoint.is_some() && endpoint != state.endpoint;
        if moved {
            state.endpoint = endpoint;
            state.local = None;
            peer.way.forget();
        }
        let before = state.session.keepalive();
        let keepalive = match update.persistent_keepalive {
            Some(seconds) => Some(seconds).filter(|&seconds| seconds > 0),
            None => before,
        };
        if keepalive.is_some() && keepalive != before {
            kicks.push((Arc::clone(&peer), Kick::KeepAlive));
        } else if moved {
            kicks.push((Arc::clone(&peer), Kick::Moved));
        }
        state.session.set_keepalive(keepalive);
        drop(state);

        table.index(&peer);
        if update.replace_allowed_ips {
            // Nobody sees the table before those that stay are in it again.
            table
                .allowed_ips
                .retain(|_, holder| !Arc::ptr_eq(holder, &peer));
        }
        for (prefix, what) in update.allowed_ips {
            match what {
                Prefix::Add => table.allowed_ips.insert(prefix, Arc::clone(&peer)),
                Prefix::Remove => {
                    let holder = table.allowed_ips.holder(prefix);
                    if holder.is_some_and(|holder| Arc::ptr_eq(holder, &peer)) {
                        table.allowed_ips.remove(prefix);
                    }
                }
            }
        }
        table.peers.insert(update.key, peer);
        Ok(())
    }

    /// Sends what the changes made due.
    fn kick(&self, kicks: Vec<(Arc<Peer>, Kick)>) {
        if kicks.is_empty() || self.shared.engine.table.load().identity().is_none() {
            return;
        }
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

    fn stand_in(&self) -> Result<Identity, TunnelError> {
        Identity::stand_in().map_err(|error| self.refused(&format!("no random bytes: {error}")))
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

    /// All that the device is now.
    pub(super) fn read(&self) -> Reading {
        let control = self.control();
        let table = self.shared.engine.table.load();
        let mut peers: BTreeMap<_, _> = table
            .peers
            .values()
            .map(|peer| (peer.key, peer_reading(peer)))
            .collect();
        for (prefix, holder) in table.allowed_ips.iter() {
            if let Some(peer) = peers.get_mut(&holder.key) {
                peer.status.allowed_ips.insert(prefix);
            }
        }
        Reading {
            private_key: table.identity().map(|identity| identity.private.clone()),
            listen_port: self.shared.udp.load().as_ref().map_or(0, |udp| udp.port),
            fwmark: control.fwmark,
            peers: peers.into_values().collect(),
        }
    }
}

/// What a change of a peer makes due at once.
enum Kick {
    KeepAlive,
    Moved,
}

fn peer_reading(peer: &Peer) -> PeerReading {
    let state = peer.lock();
    PeerReading {
        key: peer.key,
        preshared_key: state.session.preshared().cloned(),
        status: PeerStatus {
            endpoint: state.endpoint.map(Endpoint::address),
            has_preshared_key: state.session.preshared().is_some(),
            persistent_keepalive: state.session.keepalive(),
            last_handshake: state.session.last_handshake(),
            rx_bytes: peer.received.load(Relaxed),
            tx_bytes: peer.sent.load(Relaxed),
            send_error: peer.send_error().map(|error| error.to_string()),
            ..PeerStatus::default()
        },
    }
}
