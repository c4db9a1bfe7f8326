//! The state directory: what gossip keeps on disk and reads back.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;
use zeroize::Zeroizing;

use super::config::StartError;
use super::core::Kept;
use super::grant::Book;
use super::keyring::{Entry, Keyring};
use super::params::{MeshId, MeshParams};
use super::record::{Record, Rules, Signed};
use super::tombstone::{Tombstone, Tombstones};
use crate::NodeId;
use crate::keystore::{self, Mode, StoreError};

const MESH: &str = "mesh.json";
const KEYRING: &str = "keyring.json";
const ROSTER: &str = "roster.json";
const TOMBSTONES: &str = "tombstones.json";
const OWN: &str = "own.json";
const GRANTS: &str = "grants.json";
const PEERS: &str = "peers.json";

/// More than any of the files can be.
const LIMIT: u64 = 256 * 1024 * 1024;

/// Addresses that worked, by node.
pub(super) type Worked = BTreeMap<NodeId, SocketAddr>;

/// Whether a node with this state directory is in a mesh already, whose parameters it keeps.
pub fn has_mesh(state_dir: &Path) -> bool {
    state_dir.join(MESH).exists()
}

/// An open state directory; no other agent can open it until it is released.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    lock: File,
    /// One write at a time, since all of a file share one temporary name.
    writing: Mutex<()>,
}

impl Files {
    pub(super) fn open(directory: &Path) -> Result<Self, StartError> {
        keystore::ensure_directory(directory)?;
        let path = directory.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StartError::InUse(directory.to_owned()))?;
        Ok(Self {
            directory: directory.to_owned(),
            lock,
            writing: Mutex::new(()),
        })
    }

    /// Lets another agent open the directory; nothing is written afterwards.
    pub(super) fn release(&self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }

    pub(super) fn mesh(&self) -> Result<Option<MeshParams>, StartError> {
        let Some(text) = self.read::<String>(MESH)? else {
            return Ok(None);
        };
        Ok(Some(MeshParams::decode(&text)?))
    }

    pub(super) fn save_mesh(&self, params: &MeshParams) -> Result<(), StoreError> {
        self.write(MESH, params.encoded(), Mode::Public)
    }

    pub(super) fn keyring(&self) -> Result<Option<Keyring>, StoreError> {
        keystore::check_private(&self.directory.join(KEYRING))?;
        let Some(entries) = self.read::<Vec<Entry>>(KEYRING)? else {
            return Ok(None);
        };
        let mut keyring = Keyring::default();
        keyring.merge(entries);
        Ok(Some(keyring))
    }

    pub(super) fn save_keyring(&self, keyring: &Keyring) -> Result<(), StoreError> {
        self.write(KEYRING, &keyring.entries(), Mode::Private)
    }

    /// The records that still stand; a file that cannot be read is set aside, since the others
    /// tell its content again.
    pub(super) fn records(&self, rules: &Rules) -> Vec<Record> {
        let records = self.read_or_set_aside::<Vec<Signed>>(ROSTER);
        let open = |signed| Record::open(signed, rules, None).ok();
        records.into_iter().filter_map(open).collect()
    }

    pub(super) fn save_records(&self, records: &[Signed]) -> Result<(), StoreError> {
        self.write(ROSTER, records, Mode::Public)
    }

    pub(super) fn tombstones(&self, mesh: MeshId) -> Tombstones {
        let mut tombstones = Tombstones::default();
        for tombstone in self.read_or_set_aside::<Vec<Tombstone>>(TOMBSTONES) {
            if tombstone.is_valid(mesh) {
                tombstones.insert(tombstone);
            }
        }
        tombstones
    }

    pub(super) fn save_tombstones(&self, tombstones: &[Tombstone]) -> Result<(), StoreError> {
        self.write(TOMBSTONES, tombstones, Mode::Public)
    }

    pub(super) fn kept(&self) -> Result<Kept, StoreError> {
        Ok(self.read(OWN)?.unwrap_or_default())
    }

    pub(super) fn save_kept(&self, kept: Kept) -> Result<(), StoreError> {
        self.write(OWN, &kept, Mode::Public)
    }

    pub(super) fn book(&self) -> Result<Book, StoreError> {
        Ok(self.read(GRANTS)?.unwrap_or_default())
    }

    pub(super) fn save_book(&self, book: &Book) -> Result<(), StoreError> {
        self.write(GRANTS, book, Mode::Public)
    }

    pub(super) fn worked(&self) -> Worked {
        self.read_or_set_aside(PEERS)
    }

    pub(super) fn save_worked(&self, worked: &Worked) -> Result<(), StoreError> {
        self.write(PEERS, worked, Mode::Public)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let path = self.directory.join(name);
        let Some(bytes) = keystore::read(&path, LIMIT)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&bytes).map_err(|error| StoreError::Corrupt {
            path,
            reason: error.to_string(),
        })?;
        Ok(Some(value))
    }

    fn read_or_set_aside<T: DeserializeOwned + Default>(&self, name: &str) -> T {
        match self.read(name) {
            Ok(value) => value.unwrap_or_default(),
            Err(error) => {
                let path = self.directory.join(name);
                let aside = self.directory.join(format!("{name}.bad"));
                warn!(%error, aside = %aside.display(), "state file set aside");
                let _ = std::fs::rename(path, aside);
                T::default()
            }
        }
    }

    fn write<T: Serialize + ?Sized>(
        &self,
        name: &str,
        value: &T,
        mode: Mode,
    ) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        let bytes = serde_json::to_vec(value).map_err(|error| StoreError::Corrupt {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        keystore::write(&path, &Zeroizing::new(bytes), mode)
    }
}
