//! The kernel's WireGuard device. Packets never pass this process: stopping it stops nothing.

mod message;
mod netlink;
mod reply;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use rustix::io::Errno;
use tracing::warn;

use self::netlink::{Netlink, NetlinkError};
use super::{Tunnel, TunnelError};
use crate::PublicKey;
use crate::device::{Change, DeviceStatus};

/// An interrupted dump is asked for again this often; the device does not change that fast.
const DUMPS: usize = 8;

/// A WireGuard device of the kernel, configured by generic netlink one peer a message. Dropping it
/// leaves the device as it is.
pub struct KernelTunnel {
    link: String,
    family: u16,
    sockets: Mutex<Sockets>,
}

/// Both in the network namespace in which the tunnel was opened.
struct Sockets {
    generic: Netlink,
    route: Netlink,
}

impl KernelTunnel {
    /// Makes the WireGuard link, or adopts the one that is there, in the network namespace of the
    /// calling thread. It sets neither addresses nor MTU, and does not bring it up.
    ///
    /// # Errors
    /// [`TunnelError::NoKernelModule`] where the kernel has no WireGuard; otherwise when netlink
    /// refuses, or when a link of this name is of another kind.
    pub fn open(link: &str) -> Result<Self, TunnelError> {
        let mut generic = Netlink::generic().map_err(|source| {
            // Some sandboxes know no generic netlink at all.
            match Errno::from_io_error(&source) {
                Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
                    TunnelError::NoKernelModule(source)
                }
                _ => io("open a generic netlink socket")(source),
            }
        })?;
        let family = match generic.request(message::find_family()) {
            Ok(replies) => reply::family(&replies),
            Err(error) if error.is(Errno::NOENT) => None,
            Err(error) => return Err(error.told("find the wireguard netlink family")),
        };
        let family = family.ok_or_else(|| TunnelError::NoKernelModule(Errno::NOENT.into()))?;
        let mut route = Netlink::route().map_err(io("open a route netlink socket"))?;
        create_link(&mut route, link)?;
        Ok(Self {
            link: link.to_owned(),
            family,
            sockets: Mutex::new(Sockets { generic, route }),
        })
    }

    /// A link that somebody deleted is made again and told of as a device without peers.
    fn status_now(&self, sockets: &mut Sockets) -> Result<DeviceStatus, TunnelError> {
        let act = || format!("read the WireGuard device {}", self.link);
        for _ in 0..DUMPS {
            let request = message::get_device(self.family, &self.link);
            match sockets.generic.dump(request) {
                Ok(Some(replies)) => {
                    return reply::status(&replies)
                        .map_err(|error| self.refused(&format!("unreadable answer: {error}")));
                }
                Ok(None) => {}
                Err(error) if error.is(Errno::NODEV) => {
                    warn!(
                        link = self.link,
                        "the WireGuard link was deleted: making it again"
                    );
                    create_link(&mut sockets.route, &self.link)?;
                }
                Err(error) => return Err(error.told(&act())),
            }
        }
        let source = io::Error::from(Errno::INTR);
        Err(TunnelError::Io { act: act(), source })
    }

    fn change(
        &self,
        netlink: &mut Netlink,
        held: &mut BTreeMap<PublicKey, BTreeSet<IpNet>>,
        change: &Change,
    ) -> Result<(), TunnelError> {
        for request in message::requests(self.family, &self.link, change, held) {
            netlink
                .request(request)
                .map_err(|error| self.refused(&error.to_string()))?;
        }
        match change {
            Change::SetDevice { private_key, .. } => {
                held.remove(&private_key.public_key());
            }
            Change::RemovePeer { public_key } => {
                held.remove(public_key);
            }
            Change::SetPeer { public_key, config } => {
                let prefixes = config.allowed_ips.iter().map(IpNet::trunc).collect();
                held.values_mut()
                    .for_each(|others| *others = &*others - &prefixes);
                held.insert(*public_key, prefixes);
            }
        }
        Ok(())
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, reason: &str) -> TunnelError {
        TunnelError::Refused {
            link: self.link.clone(),
            reason: reason.to_owned(),
        }
    }
}

impl Tunnel for KernelTunnel {
    async fn status(&self) -> Result<DeviceStatus, TunnelError> {
        self.status_now(&mut self.sockets())
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), TunnelError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut sockets = self.sockets();
        let status = self.status_now(&mut sockets)?;
        let mut held = status
            .peers
            .into_iter()
            .map(|(key, peer)| (key, peer.allowed_ips))
            .collect();
        let mut result = Ok(());
        for change in changes {
            result = result.and(self.change(&mut sockets.generic, &mut held, change));
        }
        result
    }

    fn link(&self) -> &str {
        &self.link
    }
}

impl fmt::Debug for KernelTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelTunnel")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

fn create_link(netlink: &mut Netlink, link: &str) -> Result<(), TunnelError> {
    let act = format!("make the WireGuard link {link}");
    match netlink.request(message::create_link(link)) {
        Ok(_) => Ok(()),
        Err(error) if error.is(Errno::OPNOTSUPP) => Err(TunnelError::NoKernelModule(error.source)),
        Err(error) if error.is(Errno::EXIST) => {
            let replies = netlink
                .request(message::get_link(link))
                .map_err(|error| error.told(&format!("look at the link {link}")))?;
            match reply::link_kind(&replies) {
                Some(kind) if kind == "wireguard" => Ok(()),
                kind => Err(TunnelError::OtherKind {
                    link: link.to_owned(),
                    kind: kind.unwrap_or_else(|| "hardware".to_owned()),
                }),
            }
        }
        Err(error) => Err(error.told(&act)),
    }
}

impl NetlinkError {
    fn told(self, act: &str) -> TunnelError {
        let act = match self.text {
            Some(text) => format!("{act}: {text}"),
            None => act.to_owned(),
        };
        TunnelError::Io {
            act,
            source: self.source,
        }
    }
}

fn io(act: &str) -> impl FnOnce(io::Error) -> TunnelError {
    move |source| TunnelError::Io {
        act: act.to_owned(),
        source,
    }
}
