//! The one that owns what is known: takes news, judges, tells the agent, the writer and the disk.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::claim::Claims;
use super::feed::Feeds;
use super::files::{Files, MAX_HELD};
use super::judge::{Judgement, Me, Past, Rules, judge};
use super::object::{MAX_ENDPOINTS, sign};
use super::wire::{Condition, WeftNodeSpec};
use super::world::{Change, World};
use super::write::{Deed, Todo};
use crate::Roster;
use crate::discovery::{Announcement, Own, Problem};
use crate::identity::Identity;
use crate::keystore::StoreError;

/// A burst of news is one judgement.
const GATHER: Duration = Duration::from_millis(20);
/// And one file.
const SAVE_GATHER: Duration = Duration::from_secs(1);
/// After a write that failed.
const SAVE_AGAIN: Duration = Duration::from_secs(30);

/// Whom the task tells.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) own: watch::Sender<Arc<Own>>,
    pub(super) roster: watch::Sender<Arc<Roster>>,
    pub(super) notices: watch::Sender<Vec<Problem>>,
    pub(super) node: watch::Sender<super::OwnNode>,
    pub(super) todo: watch::Sender<Todo>,
    pub(super) disk: Disk,
}

/// What is known, and what follows from it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) me: Me,
    pub(super) identity: Arc<Identity>,
    pub(super) rules: Rules,
    pub(super) feeds: Arc<Feeds>,
    pub(super) told: Arc<Told>,
    pub(super) announced: watch::Receiver<Announcement>,
    pub(super) services: watch::Receiver<Vec<IpNet>>,
    /// Said by the API, once every kind was, or by the disk.
    world: World,
    /// What the API has said while not every kind was.
    heard: World,
    listed: Listed,
    past: Past,
    claims: Claims,
    conditions: Vec<Condition>,
}

/// Of which kinds the API has said everything.
#[derive(Clone, Copy, Debug, Default)]
struct Listed {
    nodes: bool,
    adverts: bool,
    claims: bool,
}

impl Listed {
    fn all(self) -> bool {
        self.nodes && self.adverts && self.claims
    }
}

/// What a task is made of.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) me: Me,
    pub(super) identity: Arc<Identity>,
    pub(super) rules: Rules,
    pub(super) feeds: Arc<Feeds>,
    pub(super) told: Arc<Told>,
    pub(super) announced: watch::Receiver<Announcement>,
    pub(super) services: watch::Receiver<Vec<IpNet>>,
    pub(super) world: World,
    pub(super) past: Past,
}

impl Task {
    pub(super) fn new(begin: Begin) -> Self {
        Self {
            me: begin.me,
            identity: begin.identity,
            rules: begin.rules,
            feeds: begin.feeds,
            told: begin.told,
            announced: begin.announced,
            services: begin.services,
            world: begin.world,
            heard: World::default(),
            listed: Listed::default(),
            past: begin.past,
            claims: Claims::default(),
            conditions: Vec::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut news: mpsc::Receiver<Change>,
        mut taken: mpsc::Receiver<IpNet>,
    ) {
        let mut feeds = self.feeds.changed();
        let mut again = None;
        loop {
            let wait = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut changed = true;
            tokio::select! {
                change = news.recv() => match change {
                    Some(change) => changed = self.hear(change),
                    None => return,
                },
                Some(range) = taken.recv() => { self.claims.taken.insert(range); }
                Ok(()) = self.announced.changed() => {}
                Ok(()) = self.services.changed() => {}
                Ok(()) = feeds.changed() => {}
                () = wait => {}
            }
            // A Node's heartbeat is no news.
            if !changed {
                continue;
            }
            tokio::time::sleep(GATHER).await;
            while let Ok(change) = news.try_recv() {
                self.hear(change);
            }
            self.rules.services = self.services.borrow_and_update().clone();
            again = self.look().map(tokio::time::Instant::from_std);
        }
    }

    /// Judges and tells of it; returns when to do so again though nothing changed.
    pub(super) fn look(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let judgement = judge(&self.world, &self.me, &self.rules, &self.past);
        self.remember(&judgement);
        let next = self.plan(&judgement, now);
        self.tell(judgement, now);
        next
    }

    /// Takes news; true if anything is different.
    fn hear(&mut self, change: Change) -> bool {
        let all = self.listed.all();
        let world = if all {
            &mut self.world
        } else {
            &mut self.heard
        };
        let changed = match change {
            Change::Nodes(update) => {
                self.listed.nodes = true;
                update.apply(&mut world.nodes)
            }
            Change::Adverts(update) => {
                self.listed.adverts = true;
                update.apply(&mut world.adverts)
            }
            Change::Claims(update) => {
                self.listed.claims = true;
                self.claims.taken.clear();
                update.apply(&mut world.claims)
            }
            Change::Conditions(conditions) => set(&mut self.conditions, conditions),
        };
        if all || !self.listed.all() {
            return changed;
        }
        self.world = std::mem::take(&mut self.heard);
        let nodes = self.world.nodes.len();
        info!(nodes, "the Kubernetes API has said everything");
        true
    }

    /// Keeps what is to outlive this process.
    fn remember(&mut self, judgement: &Judgement) {
        self.past.own.clone_from(&judgement.own.ranges);
        self.past.held.clone_from(&judgement.held);
        if self.past.held.len() > MAX_HELD {
            let all: Vec<IpNet> = self.past.held.iter().copied().collect();
            let joined: BTreeSet<IpNet> = IpNet::aggregate(&all).into_iter().collect();
            self.past.held = joined.into_iter().take(MAX_HELD).collect();
        }
        match Files::encode(&self.me.name, &self.world, &self.past) {
            Ok(bytes) => self.told.disk.keep(bytes),
            Err(error) => warn!(%error, "what is known cannot be written"),
        }
    }

    /// What this node is to write to the API.
    fn plan(&mut self, judgement: &Judgement, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut todo = Todo::default();
        // What the disk says of the API's objects is no ground to write any.
        if self.listed.all()
            && judgement.cloned.is_none()
            && let Some(node) = self.world.nodes.get(&self.me.name)
        {
            todo.uid.clone_from(&node.uid);
            let spec = self.spec(&todo.uid, judgement);
            let there = self.world.adverts.get(&self.me.name);
            let is_told = matches!(there, Some(Ok(a)) if a.spec == spec && a.owner == todo.uid);
            // Without an endpoint there is nothing that others could do with it yet.
            if !is_told && !spec.endpoints.is_empty() {
                todo.deeds.push(Deed::Tell(spec));
            }
            let (deeds, again) = self
                .claims
                .deeds(&self.world, &self.me.name, &self.rules, now);
            todo.deeds.extend(deeds);
            next = again;
        }
        self.told.todo.send_if_modified(|old| {
            let changed = *old != todo;
            *old = todo;
            changed
        });
        next
    }

    fn spec(&self, uid: &str, judgement: &Judgement) -> WeftNodeSpec {
        let announced = self.announced.borrow();
        let endpoints = announced.endpoints.iter().take(MAX_ENDPOINTS);
        let mut spec = WeftNodeSpec {
            identity: self.me.id.to_string(),
            public_key: self.me.public_key.to_string(),
            endpoints: endpoints.map(ToString::to_string).collect(),
            signature: String::new(),
            engine: announced.engine.map(Into::into),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            pod_cidrs: judgement
                .own
                .ranges
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        sign(&self.identity, &self.me.name, uid, &mut spec);
        spec
    }

    fn tell(&self, judgement: Judgement, now: Instant) {
        let mut own = judgement.own;
        if own.unready.is_some() && Claims::is_full(&self.world, &self.me.name, &self.rules) {
            own.unready = Some("every range of the pool is taken: set a larger pool".into());
        }
        own.problems.extend(self.feeds.problems(now));
        own.problems.extend(self.told.disk.problem());
        own.problems.sort();
        let mut notices = judgement.notices;
        notices.extend(self.feeds.problems(now));
        let node = super::OwnNode {
            uid: self
                .world
                .nodes
                .get(&self.me.name)
                .map(|node| node.uid.clone()),
            conditions: self.conditions.clone(),
            cloned: judgement.cloned,
        };
        // First `own`: a range that is lost here is another's in the new roster.
        replace(&self.told.own, own);
        replace(&self.told.roster, judgement.roster);
        self.told.notices.send_if_modified(|old| set(old, notices));
        self.told.node.send_if_modified(|old| set(old, node));
    }
}

fn replace<T: PartialEq>(sender: &watch::Sender<Arc<T>>, value: T) {
    sender.send_if_modified(|old| {
        let changed = **old != value;
        if changed {
            *old = Arc::new(value);
        }
        changed
    });
}

fn set<T: PartialEq>(old: &mut T, value: T) -> bool {
    let changed = *old != value;
    *old = value;
    changed
}

/// The file, written by a task of its own.
#[derive(Debug)]
pub(super) struct Disk {
    files: Files,
    state: Mutex<DiskState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct DiskState {
    wanted: Vec<u8>,
    written: Vec<u8>,
    error: Option<String>,
}

impl Disk {
    pub(super) fn new(files: Files) -> Self {
        Self {
            files,
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn keep(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        if state.wanted != bytes {
            state.wanted = bytes;
            self.wake.notify_one();
        }
    }

    fn problem(&self) -> Option<Problem> {
        let text = self.lock().error.clone()?;
        Some(Problem {
            kind: crate::discovery::ProblemKind::Storage,
            text,
        })
    }

    /// Writes what is not written yet.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        let bytes = self.lock().wanted.clone();
        if bytes.is_empty() || bytes == self.lock().written {
            return Ok(());
        }
        let result = self.files.write(&bytes);
        let mut state = self.lock();
        match &result {
            Ok(()) => {
                state.written = bytes;
                state.error = None;
            }
            Err(error) => state.error = Some(error.to_string()),
        }
        result
    }

    pub(super) async fn run(told: Arc<Told>) {
        loop {
            told.disk.wake.notified().await;
            tokio::time::sleep(SAVE_GATHER).await;
            let writer = Arc::clone(&told);
            let written = tokio::task::spawn_blocking(move || writer.disk.flush()).await;
            if let Ok(Err(error)) = written {
                warn!(%error, "state not written, trying again");
                tokio::time::sleep(SAVE_AGAIN).await;
                told.disk.wake.notify_one();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
