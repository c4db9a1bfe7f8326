//! All leases of the node: each change is written down before it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ipam::{Corrupt, Lease, Pool, PoolError, State, Store};
use crate::{Attachment, Error, PortMapping, SinceBoot, code};

/// The node's leases, the store that keeps them and the pool they come from.
///
/// Invariants: no address is in two leases that differ in their attachment; an attachment has at
/// most one live lease.
#[derive(Debug)]
pub struct Leases {
    store: Box<dyn Store>,
    pool: Pool,
    /// As they were given.
    ranges: Vec<IpNet>,
    leases: BTreeMap<Vec<IpAddr>, Lease>,
    corrupt: Vec<Corrupt>,
}

/// For whom addresses are asked.
#[derive(Clone, Debug)]
pub struct Allocation {
    pub attachment: Attachment,
    pub network: String,
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub netns: String,
    pub netns_inode: Option<u64>,
    pub host_ifname: String,
    /// Bytes.
    pub mtu: u32,
    /// Ports of the host that are to lead to it.
    pub ports: Vec<PortMapping>,
}

/// What a start found beside good leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Leases of an earlier boot, gone with it.
    pub void: usize,
    /// Their addresses are held back until [`Leases::give_back`].
    pub corrupt: Vec<Corrupt>,
}

/// Why a lease could not be given, changed or taken back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("{attachment} is attached already, as {}", list(.addresses))]
    Attached {
        attachment: Attachment,
        addresses: Vec<IpAddr>,
    },
    #[error("an earlier ADD of {0} is not finished")]
    Unfinished(Attachment),
    #[error("{0} has no lease")]
    Unknown(Attachment),
    #[error("port {port} of the host leads to {holder} already")]
    PortTaken {
        port: PortMapping,
        holder: Attachment,
    },
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("keep the lease: {0}")]
    Store(#[from] io::Error),
}

impl Leases {
    /// Reads what the store kept of this boot. Leases in state [`State::Pending`] are of ADDs cut
    /// short: the caller undoes what they made and releases them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn restore(mut store: Box<dyn Store>, ranges: &[IpNet]) -> io::Result<(Self, Restored)> {
        let loaded = store.load()?;
        let mut pool = Pool::new(ranges);
        let mut found = loaded.leases;
        found.sort_by_key(|lease| lease.made);
        if let Some(newest) = found.last() {
            pool.continue_after(&newest.addresses);
        }
        let mut leases = BTreeMap::new();
        let mut live = BTreeSet::new();
        for mut lease in found.into_iter().rev() {
            // Killed in the middle of a re-addressing: the older addresses are on the way out.
            if lease.is_live() && !live.insert(lease.attachment.clone()) {
                lease.state = State::Held;
            }
            leases.insert(lease.addresses.clone(), lease);
        }
        let restored = Restored {
            void: loaded.void,
            corrupt: loaded.corrupt.clone(),
        };
        let corrupt = loaded.corrupt;
        let this = Self {
            store,
            pool,
            ranges: ranges.to_vec(),
            leases,
            corrupt,
        };
        Ok((this, restored))
    }

    /// Gives the next free addresses to an attachment, as a lease in state [`State::Pending`].
    ///
    /// # Errors
    /// When it has a live lease already, a port leads to another, no address is free, or the lease
    /// cannot be kept. Nothing has changed then.
    pub fn allocate(&mut self, wanted: Allocation, now: SinceBoot) -> Result<Lease, LeaseError> {
        if let Some(earlier) = self.by_attachment(&wanted.attachment) {
            return Err(match earlier.state {
                State::Pending => LeaseError::Unfinished(wanted.attachment),
                _ => LeaseError::Attached {
                    attachment: wanted.attachment,
                    addresses: earlier.addresses.clone(),
                },
            });
        }
        self.ports_free(&wanted.ports)?;
        let lease = Lease {
            addresses: self.pool.pick(&self.used())?,
            attachment: wanted.attachment,
            network: wanted.network,
            name: wanted.name,
            namespace: wanted.namespace,
            netns: wanted.netns,
            netns_inode: wanted.netns_inode,
            host_ifname: wanted.host_ifname,
            mtu: Some(wanted.mtu),
            ports: wanted.ports,
            state: State::Pending,
            boot_id: self.store.boot_id().to_owned(),
            made: now,
        };
        self.put(lease.clone())?;
        Ok(lease)
    }

    /// The ADD is done.
    ///
    /// # Errors
    /// When the attachment has no lease, or the change cannot be kept; it is still pending then.
    pub fn bind(&mut self, attachment: &Attachment) -> Result<Lease, LeaseError> {
        let mut lease = self.live(attachment)?;
        lease.state = State::Bound;
        self.put(lease.clone())?;
        Ok(lease)
    }

    /// The attachment is gone, but its addresses stay nobody's until [`Leases::release_held`]:
    /// the link may still be there. `None` when it has no lease.
    ///
    /// # Errors
    /// When the change cannot be kept. It counts all the same until the next start, which finds
    /// the lease live, its link missing.
    pub fn hold(&mut self, attachment: &Attachment) -> Result<Option<Lease>, LeaseError> {
        let Ok(mut lease) = self.live(attachment) else {
            return Ok(None);
        };
        lease.state = State::Held;
        self.leases.insert(lease.addresses.clone(), lease.clone());
        self.store.put(&lease)?;
        Ok(Some(lease))
    }

    /// Frees the addresses of an attachment's live lease; `None` when it has none.
    ///
    /// # Errors
    /// When the lease cannot be removed; it stands then.
    pub fn release(&mut self, attachment: &Attachment) -> Result<Option<Lease>, LeaseError> {
        match self.live(attachment) {
            Ok(lease) => self.remove(&lease.addresses),
            Err(_) => Ok(None),
        }
    }

    /// Frees held addresses once the link is gone; `None` when no lease holds exactly these.
    ///
    /// # Errors
    /// When the lease cannot be removed; it stands then.
    pub fn release_held(&mut self, addresses: &[IpAddr]) -> Result<Option<Lease>, LeaseError> {
        match self.leases.get(addresses) {
            Some(lease) if !lease.is_live() => self.remove(addresses),
            _ => Ok(None),
        }
    }

    /// Frees the addresses of a corrupt lease, once nothing on the host bears them.
    ///
    /// # Errors
    /// When what is left of it cannot be removed; they are held back then as before.
    pub fn give_back(&mut self, corrupt: &Corrupt) -> Result<(), LeaseError> {
        self.store.remove_corrupt(corrupt)?;
        self.corrupt.retain(|each| each != corrupt);
        Ok(())
    }

    /// The attachment's lease, pending or bound.
    pub fn by_attachment(&self, attachment: &Attachment) -> Option<&Lease> {
        self.list()
            .find(|lease| lease.is_live() && lease.attachment == *attachment)
    }

    /// All leases, held ones too, by address.
    pub fn list(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Leases of which only the addresses are known.
    pub fn corrupt(&self) -> &[Corrupt] {
        &self.corrupt
    }

    /// The ranges, as they were last given.
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// The ranges, and how many addresses of each are in use, of how many.
    pub fn usage(&self) -> Vec<(IpNet, u128, u128)> {
        self.pool.usage(&self.used())
    }

    /// Other ranges for the node. Returns its [strays](Leases::strays).
    pub fn replace_ranges(&mut self, ranges: &[IpNet]) -> Vec<Lease> {
        let last: Vec<IpAddr> = self.pool.last().collect();
        self.pool = Pool::new(ranges);
        self.ranges = ranges.to_vec();
        self.pool.continue_after(&last);
        self.strays()
    }

    /// The live leases with an address outside the ranges, each of which the caller takes to
    /// [`Leases::readdress`].
    pub fn strays(&self) -> Vec<Lease> {
        let strays = |lease: &&Lease| {
            lease.is_live() && !lease.addresses.iter().all(|at| self.pool.contains(*at))
        };
        self.list().filter(strays).cloned().collect()
    }

    /// New addresses for an attachment in place of those outside the ranges. Returns the former
    /// lease and the new one. The former is held until [`Leases::release_held`], once the
    /// container has the new addresses: as long as both are kept, a start finds a move to finish.
    ///
    /// # Errors
    /// As [`Leases::allocate`]; the former lease stands then.
    pub fn readdress(
        &mut self,
        attachment: &Attachment,
        now: SinceBoot,
    ) -> Result<(Lease, Lease), LeaseError> {
        let mut old = self.live(attachment)?;
        let mut kept = old.addresses.clone();
        kept.retain(|address| self.pool.contains(*address));
        let mut new = old.clone();
        new.addresses = self.pool.complete(&kept, &self.used())?;
        if new.addresses == old.addresses {
            return Ok((old, new));
        }
        new.made = now.max(SinceBoot(old.made.0.saturating_add(1)));
        self.put(new.clone())?;
        // On disk it need not say so: of two leases of an attachment the older one is held.
        old.state = State::Held;
        self.leases.insert(old.addresses.clone(), old.clone());
        Ok((old, new))
    }

    fn ports_free(&self, wanted: &[PortMapping]) -> Result<(), LeaseError> {
        for lease in self.list().filter(|lease| lease.is_live()) {
            let taken = |port: &&PortMapping| lease.ports.iter().any(|held| held.conflicts(port));
            if let Some(port) = wanted.iter().find(taken) {
                return Err(LeaseError::PortTaken {
                    port: port.clone(),
                    holder: lease.attachment.clone(),
                });
            }
        }
        Ok(())
    }

    fn live(&self, attachment: &Attachment) -> Result<Lease, LeaseError> {
        self.by_attachment(attachment)
            .cloned()
            .ok_or_else(|| LeaseError::Unknown(attachment.clone()))
    }

    fn put(&mut self, lease: Lease) -> Result<(), LeaseError> {
        self.store.put(&lease)?;
        self.leases.insert(lease.addresses.clone(), lease);
        Ok(())
    }

    fn remove(&mut self, addresses: &[IpAddr]) -> Result<Option<Lease>, LeaseError> {
        self.store.remove(addresses)?;
        Ok(self.leases.remove(addresses))
    }

    fn used(&self) -> BTreeSet<IpAddr> {
        let leased = self.list().flat_map(|lease| &lease.addresses);
        let corrupt = self.corrupt.iter().flat_map(|corrupt| &corrupt.addresses);
        leased.chain(corrupt).copied().collect()
    }
}

impl From<LeaseError> for Error {
    fn from(error: LeaseError) -> Self {
        let number = match &error {
            LeaseError::Attached { .. } => code::ALREADY_ATTACHED,
            LeaseError::Unfinished(_) | LeaseError::Pool(_) | LeaseError::PortTaken { .. } => {
                code::TRY_AGAIN
            }
            LeaseError::Unknown(_) => code::UNKNOWN_CONTAINER,
            LeaseError::Store(_) => code::IO,
        };
        Self::new(number, error.to_string())
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests;
