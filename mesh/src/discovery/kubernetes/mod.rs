//! Discovery by the Kubernetes API: each Node has a `WeftNode` that its agent writes, and the ranges
//! that the cluster gave it, or else that it claimed by a `WeftRange`.
//!
//! Tasks: one watch a kind of object; one that owns what is known and judges (`task`); one that
//! writes to the API; one that writes to the disk. What the API said last is kept on disk, and is
//! what a start goes by while the API does not answer. Nobody is believed beyond what is theirs
//! (`judge`). Not promised: a node that was taken over can deny a younger one its WireGuard key by
//! telling of it as its own, for which that one makes itself another.

mod claim;
mod client;
mod feed;
mod files;
mod holders;
mod judge;
mod kinds;
mod object;
mod range;
mod task;
mod watch;
mod wire;
mod world;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ipnet::IpNet;
use kube::Client;
use tokio::sync::{mpsc, watch as tokio_watch};
use tokio::task::JoinSet;
use tracing::warn;

pub use client::{ConnectError, words};
pub use range::Pool;
pub use watch::Kind;
pub use wire::{Condition, Meta};
pub use world::Update;

use self::feed::{Failure, Feeds};
use self::files::Files;
use self::judge::{Me, Rules};
use self::kinds::{Nodes, WeftNodes, WeftRanges};
use self::task::{Begin, Disk, Task, Told};
use self::watch::Setup;
use self::write::{Todo, Writer};
use super::{Announcement, Discovery, Health, Own, Problem};
use crate::Roster;
use crate::identity::Identity;
use crate::keystore::{self, StoreError};

/// News that wait for the judge; whoever has more waits itself.
const MAX_NEWS: usize = 256;

/// Settings of the discovery by Kubernetes.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// Where what the API said is kept; made if it is not there.
    pub state_dir: PathBuf,
    /// What nodes claim shares of where the cluster gives no ranges: one pool a family.
    pub pools: Vec<Pool>,
    /// Ranges that fail closed from the first moment, whoever holds them.
    pub closed: Vec<IpNet>,
}

/// Why discovery did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// This node's own Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// `None` where there is none.
    pub uid: Option<String>,
    pub conditions: Vec<Condition>,
    /// An older node has this node's identity or key, in words: new ones are to be made.
    pub cloned: Option<String>,
}

/// The discovery of one node. Dropping it ends it.
pub struct Kubernetes {
    client: Client,
    server: String,
    feeds: Arc<Feeds>,
    told: Arc<Told>,
    announced: tokio_watch::Sender<Announcement>,
    services: tokio_watch::Sender<Vec<IpNet>>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Goes by what the disk knows and begins to ask the API. That it does not answer is no error.
    ///
    /// # Errors
    /// When the state directory cannot be used, or nothing says where the API is.
    pub async fn start(
        config: KubernetesConfig,
        identity: Arc<Identity>,
        me: Announcement,
    ) -> Result<Arc<Self>, StartError> {
        keystore::ensure_directory(&config.state_dir)?;
        let files = Files::new(&config.state_dir);
        let (world, past) = files.load(&me.name)?;
        let (client, server) = client::connect().await?;
        let feeds = Arc::new(Feeds::default());
        let name = me.name.clone();
        let who = Me {
            name: name.clone(),
            id: identity.id(),
            public_key: me.public_key,
        };
        let told = Arc::new(Told {
            own: tokio_watch::Sender::new(Arc::new(nobody(&who))),
            roster: tokio_watch::Sender::default(),
            notices: tokio_watch::Sender::default(),
            node: tokio_watch::Sender::default(),
            todo: tokio_watch::Sender::new(Todo::default()),
            disk: Disk::new(files),
        });
        let announced = tokio_watch::Sender::new(me);
        let services = tokio_watch::Sender::default();
        let mut task = Task::new(Begin {
            me: who,
            identity,
            rules: Rules {
                pools: config.pools,
                closed: config.closed,
                services: Vec::new(),
            },
            feeds: Arc::clone(&feeds),
            told: Arc::clone(&told),
            announced: announced.subscribe(),
            services: services.subscribe(),
            world,
            past,
        });
        // What the disk knows is there before the first packet is.
        task.look();
        let (news, heard) = mpsc::channel(MAX_NEWS);
        let (taken, lost) = mpsc::channel(MAX_NEWS);
        let setup = || Setup {
            client: client.clone(),
            feeds: Arc::clone(&feeds),
            me: name.clone(),
            news: news.clone(),
        };
        let writer = Writer {
            client: client.clone(),
            feeds: Arc::clone(&feeds),
            me: name.clone(),
            todo: told.todo.subscribe(),
            taken,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(heard, lost));
        tasks.spawn(watch::watch::<Nodes>(setup()));
        tasks.spawn(watch::watch::<WeftNodes>(setup()));
        tasks.spawn(watch::watch::<WeftRanges>(setup()));
        tasks.spawn(writer.run());
        tasks.spawn(Disk::run(Arc::clone(&told)));
        Ok(Arc::new(Self {
            client,
            server,
            feeds,
            told,
            announced,
            services,
            tasks: Mutex::new(tasks),
        }))
    }

    /// The client, for what else of the API this process looks at.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// This node's own Node.
    pub fn node(&self) -> tokio_watch::Receiver<OwnNode> {
        self.told.node.subscribe()
    }

    /// What the cluster is to be told of by this node: its own troubles, and those of others that
    /// it is among the first to tell of.
    pub fn notices(&self) -> tokio_watch::Receiver<Vec<Problem>> {
        self.told.notices.subscribe()
    }

    /// The ranges of the cluster's Services: no node's range overlaps with them, and no endpoint
    /// lies in them.
    pub fn services_are(&self, ranges: Vec<IpNet>) {
        self.services.send_if_modified(|old| {
            let changed = *old != ranges;
            *old = ranges;
            changed
        });
    }

    /// Watches one more kind of object for as long as this discovery and the receiver live.
    pub fn watch<K: Kind>(&self) -> mpsc::Receiver<K::News> {
        let (news, heard) = mpsc::channel(MAX_NEWS);
        let setup = Setup {
            client: self.client.clone(),
            feeds: Arc::clone(&self.feeds),
            me: self.announced.borrow().name.clone(),
            news,
        };
        lock(&self.tasks).spawn(watch::watch::<K>(setup));
        heard
    }

    /// Notes that `what`, asked of the API by somebody else of this process, was done.
    pub fn done(&self, what: &'static str) {
        self.feeds.established(what);
    }

    /// Notes that there is nothing to ask any more.
    pub fn idle(&self, what: &'static str) {
        self.feeds.forget(what);
    }

    /// Notes that it was not; returns how long to wait before the next try.
    pub fn failed(&self, what: &'static str, error: &kube::Error) -> Duration {
        self.feeds.failed(what, Failure::of(error))
    }

    async fn end(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        tasks.shutdown().await;
        if let Err(error) = self.told.disk.flush() {
            warn!(%error, "state not written at the end");
        }
    }
}

/// Before anything is known.
fn nobody(me: &Me) -> Own {
    Own {
        id: me.id,
        name: me.name.clone(),
        ranges: Vec::new(),
        pools: Vec::new(),
        services: Vec::new(),
        unready: Some("this node is starting".into()),
        observed: Vec::new(),
        problems: Vec::new(),
        forgotten: None,
    }
}

impl Discovery for Kubernetes {
    fn announce(&self, me: Announcement) {
        self.announced.send_if_modified(|old| {
            let changed = *old != me;
            *old = me;
            changed
        });
    }

    fn own(&self) -> tokio_watch::Receiver<Arc<Own>> {
        self.told.own.subscribe()
    }

    fn roster(&self) -> tokio_watch::Receiver<Arc<Roster>> {
        self.told.roster.subscribe()
    }

    fn health(&self) -> Health {
        Health {
            mesh: format!("Kubernetes, by the API at {}", self.server),
            connections: self.feeds.connections(&self.server, Instant::now()),
            counters: BTreeMap::new(),
        }
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
