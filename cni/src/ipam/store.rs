//! The seam: where leases are written down. On disk a lease is one file whose name says its
//! addresses and its boot, so that a file with a ruined inside still holds them back, and those of
//! an earlier boot are void without being read. Files are renamed into place and never synced:
//! what power loss ruins, the new boot voids.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::atomic;
use crate::ipam::Lease;

const LEASE: &str = ".lease";
const CORRUPT: &str = ".corrupt";
/// A lease's bytes at most; a real one has some hundred.
const LONGEST: u64 = 64 << 10;

/// Keeps leases over a restart of the agent, whole or not at all.
pub trait Store: std::fmt::Debug + Send {
    /// The boot whose leases it keeps.
    fn boot_id(&self) -> &str;

    /// Everything of this boot; what is of another boot, or only half written, is swept away.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load(&mut self) -> io::Result<Loaded>;

    /// Writes a lease, over an earlier one of the same addresses.
    ///
    /// # Errors
    /// When it was not written; the earlier one stands then.
    fn put(&mut self, lease: &Lease) -> io::Result<()>;

    /// Removes the lease of these addresses; none is as good as removed.
    ///
    /// # Errors
    /// When it may still be there.
    fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<()>;

    /// Removes what is left of a corrupt lease, so that its addresses are free at the next load.
    ///
    /// # Errors
    /// When it may still be there.
    fn remove_corrupt(&mut self, corrupt: &Corrupt) -> io::Result<()>;
}

/// What a store held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Sorted by address.
    pub leases: Vec<Lease>,
    /// How many leases of another boot were swept away.
    pub void: usize,
    pub corrupt: Vec<Corrupt>,
}

/// A lease of which only the addresses are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// Where it was set aside.
    pub file: PathBuf,
    pub addresses: Vec<IpAddr>,
}

/// Leases in a directory.
#[derive(Debug)]
pub struct DiskStore {
    dir: PathBuf,
    boot_id: String,
}

impl DiskStore {
    /// Opens the directory, which is made, mode 0700, if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or the boot id is not 1 to 64 letters, digits and '-'.
    pub fn open(dir: &Path, boot_id: &str) -> io::Result<Self> {
        let legal = (1..=64).contains(&boot_id.len())
            && boot_id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !legal {
            let text = format!("a boot id is 1 to 64 letters, digits and '-', not {boot_id:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| atomic::named("make", dir, &e))?;
        Ok(Self {
            dir: dir.to_owned(),
            boot_id: boot_id.to_owned(),
        })
    }

    fn path(&self, addresses: &[IpAddr]) -> PathBuf {
        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        self.dir
            .join(format!("{}@{}{LEASE}", names.join("+"), self.boot_id))
    }

    /// The lease in a file, if its inside is what its name says.
    fn read(&self, path: &Path, addresses: &[IpAddr]) -> Option<Lease> {
        let bytes = atomic::read(path, LONGEST).ok()?;
        let lease: Lease = serde_json::from_slice(&bytes).ok()?;
        (lease.addresses == addresses && lease.boot_id == self.boot_id).then_some(lease)
    }
}

impl Store for DiskStore {
    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn load(&mut self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        let failed = |e| atomic::named("read", &self.dir, &e);
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(atomic::TEMPORARY) {
                sweep(&path);
                continue;
            }
            let Some((addresses, boot_id, is_lease)) = parse_name(&name) else {
                continue;
            };
            if boot_id != self.boot_id {
                loaded.void += usize::from(is_lease);
                sweep(&path);
            } else if let Some(lease) = self.read(&path, &addresses).filter(|_| is_lease) {
                loaded.leases.push(lease);
            } else {
                let mut file = path.clone();
                file.set_extension(&CORRUPT[1..]);
                // Where the rename fails the file is found as corrupt again, which is as good.
                if fs::rename(&path, &file).is_err() {
                    file = path;
                }
                loaded.corrupt.push(Corrupt { file, addresses });
            }
        }
        loaded.leases.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        loaded.corrupt.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        Ok(loaded)
    }

    fn put(&mut self, lease: &Lease) -> io::Result<()> {
        let bytes = serde_json::to_vec(lease)?;
        atomic::write(&self.path(&lease.addresses), &bytes, 0o600)
    }

    fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        atomic::remove(&self.path(addresses))
    }

    fn remove_corrupt(&mut self, corrupt: &Corrupt) -> io::Result<()> {
        atomic::remove(&corrupt.file)
    }
}

/// The addresses and the boot in a file's name, and whether it is a lease or was one; `None` when
/// it is none of ours.
fn parse_name(name: &str) -> Option<(Vec<IpAddr>, &str, bool)> {
    let (stem, is_lease) = match name.strip_suffix(LEASE) {
        Some(stem) => (stem, true),
        None => (name.strip_suffix(CORRUPT)?, false),
    };
    let (addresses, boot_id) = stem.split_once('@')?;
    let addresses = addresses
        .split('+')
        .map(str::parse)
        .collect::<Result<_, _>>();
    Some((addresses.ok()?, boot_id, is_lease))
}

/// What cannot be swept now is void all the same, and is tried again at the next load.
fn sweep(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Leases in memory, for an agent that lives no longer than its containers, and for tests. Clones
/// share what they keep.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    boot_id: String,
    leases: Arc<Mutex<BTreeMap<Vec<IpAddr>, Lease>>>,
}

impl MemoryStore {
    pub fn new(boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            leases: Arc::default(),
        }
    }

    /// The same store as it is found in another boot.
    pub fn reopen(&self, boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            leases: self.leases.clone(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Vec<IpAddr>, Lease>) -> T) -> T {
        // Each act is one call of the map's, so a poisoned map is still whole.
        act(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store for MemoryStore {
    fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn load(&mut self) -> io::Result<Loaded> {
        self.with(|leases| {
            let before = leases.len();
            leases.retain(|_, lease| lease.boot_id == self.boot_id);
            Ok(Loaded {
                void: before - leases.len(),
                leases: leases.values().cloned().collect(),
                corrupt: Vec::new(),
            })
        })
    }

    fn put(&mut self, lease: &Lease) -> io::Result<()> {
        self.with(|leases| leases.insert(lease.addresses.clone(), lease.clone()));
        Ok(())
    }

    fn remove(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.with(|leases| leases.remove(addresses));
        Ok(())
    }

    fn remove_corrupt(&mut self, _: &Corrupt) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
