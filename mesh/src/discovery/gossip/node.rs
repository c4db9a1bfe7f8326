//! The core and the world around it: one lock, the effects carried out, the watches fed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::admission::Admission;
use super::config::{GossipConfig, StartError};
use super::conns::Conns;
use super::core::{Core, Dirty, Effect, Setup};
use super::dial::Targets;
use super::files::{Files, Worked};
use super::keep::Waiting;
use super::keyring::Keyring;
use super::own::{ClaimState, Standing};
use super::params::{MeshId, MeshParams};
use super::record::{Instance, Rules};
use super::token::{KeyId, Secret, Token};
use crate::discovery::{Announcement, Own};
use crate::identity::Identity;
use crate::keystore::StoreError;
use crate::{NodeId, Roster};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) identity: Arc<Identity>,
    pub(super) config: GossipConfig,
    pub(super) files: Files,
    pub(super) listening: Vec<SocketAddr>,
    pub(super) instance: Instance,
    /// Absent until the mesh's parameters are known.
    core: OnceLock<Mutex<Core>>,
    adopting: Mutex<()>,
    me: Mutex<Announcement>,
    pub(super) own: watch::Sender<Arc<Own>>,
    pub(super) roster: watch::Sender<Arc<Roster>>,
    pub(super) conns: Mutex<Conns>,
    pub(super) targets: Mutex<Targets>,
    pub(super) admission: Mutex<Admission>,
    pub(super) worked: Mutex<Worked>,
    pub(super) counters: Mutex<BTreeMap<&'static str, u64>>,
    dirty: Mutex<Unsaved>,
    pub(super) save: Notify,
    pub(super) waiting: Mutex<Waiting>,
    pub(super) keep: Notify,
    /// Something changed that the dialler or the clock may wait for.
    pub(super) wake: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Unsaved {
    core: Dirty,
    worked: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn new(
        config: GossipConfig,
        identity: Arc<Identity>,
        me: Announcement,
        files: Files,
        listening: Vec<SocketAddr>,
    ) -> Result<Self, StartError> {
        let own = Arc::new(joining(&identity, &me).own());
        Ok(Self {
            conns: Mutex::new(Conns::new(identity.id())),
            identity,
            config,
            worked: Mutex::new(files.worked()),
            files,
            listening,
            instance: Instance::from_bytes(random()?),
            core: OnceLock::new(),
            adopting: Mutex::default(),
            me: Mutex::new(me),
            own: watch::Sender::new(own),
            roster: watch::Sender::default(),
            targets: Mutex::default(),
            admission: Mutex::default(),
            counters: Mutex::default(),
            dirty: Mutex::default(),
            save: Notify::new(),
            waiting: Mutex::default(),
            keep: Notify::new(),
            wake: Notify::new(),
        })
    }

    /// Resumes or makes a mesh; a join waits for the first member that answers.
    pub(super) fn begin(&self) -> Result<(), StartError> {
        let state_dir = self.config.state_dir.clone();
        let join = self.config.join.as_ref();
        match (self.files.mesh()?, join) {
            (Some(params), Some(join)) if params.id() != join.token.mesh => {
                return Err(StartError::OtherMesh {
                    state_dir,
                    have: params.id(),
                    token: join.token.mesh,
                });
            }
            (Some(params), _) => {
                let keyring = self.files.keyring()?.ok_or(StartError::NoKeys {
                    state_dir,
                    mesh: params.id(),
                })?;
                self.begin_with(params, keyring)?;
            }
            (None, Some(join)) if join.hosts.is_empty() => return Err(StartError::NoHosts),
            (None, Some(_)) => {}
            (None, None) => {
                let id = self.identity.id();
                let params = MeshParams::found(id, self.config.founding, random()?)?;
                let mut keyring = Keyring::default();
                keyring.add(Secret::generate().map_err(StoreError::Random)?, unix_now());
                self.keep_mesh(&params, &keyring)?;
                info!(mesh = %params.id(), pool = %params.pool4, "mesh made");
                self.begin_with(params, keyring)?;
            }
        }
        Ok(())
    }

    /// Takes the parameters that a member gave, if none are known yet.
    pub(super) fn adopt(&self, text: &str) -> Result<(), StartError> {
        let _one = lock(&self.adopting);
        if self.core.get().is_some() {
            return Ok(());
        }
        let Some(join) = &self.config.join else {
            return Ok(());
        };
        let params = MeshParams::verify(text, join.token.mesh)?;
        let mut keyring = Keyring::default();
        // Its true age comes with the mesh's own keyring, whatever the clock here says.
        keyring.add(join.token.secret.clone(), 0);
        self.keep_mesh(&params, &keyring)?;
        info!(mesh = %params.id(), pool = %params.pool4, "mesh joined");
        self.begin_with(params, keyring)
    }

    fn keep_mesh(&self, params: &MeshParams, keyring: &Keyring) -> Result<(), StoreError> {
        // The mesh last: it is what says that the rest is there.
        self.files.save_keyring(keyring)?;
        self.files.save_mesh(params)
    }

    fn begin_with(&self, params: MeshParams, keyring: Keyring) -> Result<(), StartError> {
        let mesh = params.id();
        let rules = Rules {
            params,
            allow_loopback: self.config.allow_loopback,
        };
        let records = self.files.records(&rules);
        let id = self.identity.id();
        let mut kept = self.files.kept()?;
        let told = records.iter().find(|r| r.id() == id);
        let told = told.map_or(0, |r| r.signed.stamp.generation);
        kept.generation = kept.generation.max(told).saturating_add(1);
        self.files.save_kept(kept)?;
        let setup = Setup {
            identity: Arc::clone(&self.identity),
            rules,
            claim_wait: self.config.claim_wait,
            me: lock(&self.me).clone(),
            instance: self.instance,
            kept,
            records,
            tombstones: self.files.tombstones(mesh),
            keyring,
            book: self.files.book()?,
            seed: u64::from_be_bytes(random()?),
        };
        let core = Core::new(setup, Instant::now());
        let _ = self.core.set(Mutex::new(core));
        // What was announced while the core was made.
        let me = lock(&self.me).clone();
        self.drive(|core, now| core.announce(me, now));
        Ok(())
    }

    /// Works on the core and carries out what follows from it; `None` before the join.
    pub(super) fn drive<T>(&self, work: impl FnOnce(&mut Core, Instant) -> T) -> Option<T> {
        let mut core = lock(self.core.get()?);
        let now = Instant::now();
        let result = work(&mut core, now);
        loop {
            let effects = core.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
        let dirty = core.take_dirty();
        if dirty != Dirty::default() {
            let mut unsaved = lock(&self.dirty);
            unsaved.core.records |= dirty.records;
            unsaved.core.tombstones |= dirty.tombstones;
            unsaved.core.keyring |= dirty.keyring;
            self.save.notify_one();
        }
        let roster = core.roster();
        let (own, forgotten) = (core.standing().own(), core.is_forgotten());
        // Under the core's lock, so that no older value follows a newer one; and first `own`, since
        // a share that is lost here is the winner's in the new roster.
        self.own.send_if_modified(|old| {
            let changed = **old != own;
            if changed {
                report(old, &own);
                *old = Arc::new(own);
            }
            changed
        });
        self.roster.send_if_modified(|old| {
            let changed = !Arc::ptr_eq(old, &roster);
            *old = roster;
            changed
        });
        drop(core);
        if forgotten {
            lock(&self.conns).close();
        }
        self.wake.notify_one();
        Some(result)
    }

    /// Looks at the core without changing it.
    pub(super) fn look<T>(&self, work: impl FnOnce(&Core) -> T) -> Option<T> {
        Some(work(&lock(self.core.get()?)))
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Send(to, message) => {
                if !lock(&self.conns).send(to, &message) {
                    self.count("messages dropped: slow peer");
                }
            }
            Effect::Part(from, message) => lock(&self.conns).part(from, &message),
            Effect::Save(kept) => {
                lock(&self.waiting).keep(kept);
                self.keep.notify_one();
            }
            Effect::Grant(to, message, book) => {
                lock(&self.waiting).grant(to, message, book);
                self.keep.notify_one();
            }
        }
    }

    pub(super) fn announce(&self, me: Announcement) {
        *lock(&self.me) = me.clone();
        self.drive(|core, now| core.announce(me, now));
    }

    pub(super) fn standing(&self) -> Standing {
        self.look(Core::standing)
            .unwrap_or_else(|| joining(&self.identity, &lock(&self.me)))
    }

    pub(super) fn mesh(&self) -> Option<MeshId> {
        self.look(|core| core.params().id())
            .or_else(|| Some(self.config.join.as_ref()?.token.mesh))
    }

    /// The secret to dial with at the `attempt`th try: a peer may know an older one only.
    pub(super) fn secret_to_dial(&self, attempt: u32) -> Option<Secret> {
        let mut secrets: Vec<Secret> = self
            .look(|core| core.keyring().secrets().cloned().collect())
            .unwrap_or_default();
        if let Some(join) = &self.config.join
            && !secrets.contains(&join.token.secret)
        {
            secrets.push(join.token.secret.clone());
        }
        let number = secrets.len().max(1);
        secrets.into_iter().nth(attempt as usize % number)
    }

    pub(super) fn secret(&self, id: KeyId) -> Option<Secret> {
        self.look(|core| core.keyring().get(id).map(|(secret, _)| secret.clone()))?
    }

    /// The newest token that lets nodes in.
    pub(super) fn token(&self) -> Option<Token> {
        let current = self.look(|core| {
            let secret = core.keyring().current()?.clone();
            Some(Token {
                mesh: core.params().id(),
                secret,
            })
        });
        match current {
            Some(token) => token,
            None => self.config.join.as_ref().map(|j| j.token.clone()),
        }
    }

    pub(super) fn count(&self, what: &'static str) {
        *lock(&self.counters).entry(what).or_default() += 1;
    }

    pub(super) fn remember(&self, id: NodeId, address: SocketAddr) {
        if lock(&self.worked).insert(id, address) != Some(address) {
            lock(&self.dirty).worked = true;
            self.save.notify_one();
        }
    }

    /// Writes what changed since the last time; what fails is tried again with the next.
    pub(super) fn write_changes(&self) -> Result<(), StoreError> {
        let unsaved = std::mem::take(&mut *lock(&self.dirty));
        let result = self.write(unsaved);
        if result.is_err() {
            let mut dirty = lock(&self.dirty);
            dirty.core.records |= unsaved.core.records;
            dirty.core.tombstones |= unsaved.core.tombstones;
            dirty.core.keyring |= unsaved.core.keyring;
            dirty.worked |= unsaved.worked;
        }
        result
    }

    fn write(&self, unsaved: Unsaved) -> Result<(), StoreError> {
        let Some((keyring, tombstones, records)) = self.look(|core| {
            let tombstones: Vec<_> = core.tombstones().all().cloned().collect();
            (core.keyring().clone(), tombstones, core.kept_records())
        }) else {
            return Ok(());
        };
        if unsaved.core.keyring {
            self.files.save_keyring(&keyring)?;
        }
        if unsaved.core.tombstones {
            self.files.save_tombstones(&tombstones)?;
        }
        if unsaved.core.records {
            self.files.save_records(&records)?;
        }
        if unsaved.worked {
            let mut worked = lock(&self.worked).clone();
            worked.retain(|id, _| records.iter().any(|r| r.id == *id));
            self.files.save_worked(&worked)?;
        }
        Ok(())
    }
}

/// Before the mesh's parameters are known.
fn joining(identity: &Identity, me: &Announcement) -> Standing {
    Standing {
        id: identity.id(),
        params: None,
        name: me.name.clone(),
        claim: ClaimState::Joining,
        observed: Vec::new(),
        problems: Vec::new(),
        forgotten: None,
    }
}

/// One line for each change that a person may want to know.
fn report(old: &Own, new: &Own) {
    if old.ranges != new.ranges {
        info!(ranges = ?new.ranges, "ranges held");
    }
    if let (true, Some(why)) = (old.unready != new.unready, &new.unready) {
        info!("{why}");
    }
    for problem in new.problems.iter().filter(|p| !old.problems.contains(p)) {
        warn!(kind = ?problem.kind, "{}", problem.text);
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(StoreError::Random)?;
    Ok(bytes)
}

/// Seconds since 1970, by this machine's clock.
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// For jitter and choice; without random bytes it is all the same to us.
pub(super) fn chance() -> u64 {
    random().map_or(0, u64::from_be_bytes)
}
