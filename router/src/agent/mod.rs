//! The composition root: builds every part of a node, runs them, and ends them in order.
//!
//! Tasks: the reconciler (`reconcile`) alone changes the host and the tunnel; the prober
//! (`probes`) alone sends probes; the control socket answers on threads of the blocking pool. What
//! they share are values that are replaced whole (`watch`), so that the reconciler waits for nobody.
//! Only the leases have a lock: those who attach and detach, and the task that looks after what is
//! attached, wait for one another there, the kernel's work included.

mod device;
mod host;
mod joining;
mod lookup;
mod membership;
mod names;
mod peers;
mod probes;
mod reconcile;
mod report;
mod resolver;
mod shutdown;
mod surroundings;

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info};
use weft_mesh::discovery::{Announcement, Discovery};
use weft_mesh::keystore;

use self::device::Device;
use self::host::local_addresses;
use self::joining::print_join_line;
use self::membership::Membership;
use self::probes::Probes;
use self::reconcile::{Reconciler, Report};
use self::report::Control;
use self::resolver::Resolver;
use self::shutdown::{Ending, ending};
use crate::attach::Workloads;
use crate::cluster::{self, Standing};
use crate::config::Config;
use crate::control::ControlSocket;
use crate::kernel::Linux;
use crate::underlay;

/// How long an Event may take on its way.
const TOLD: std::time::Duration = std::time::Duration::from_secs(2);
/// How long a goodbye may take to reach the others.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(500);

/// The mesh has forgotten this node: starting it again changes nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "the mesh has forgotten this node (on {by}); `weft cleanup --state` takes what it left, \
     then it may join again as a new one"
)]
pub struct Forgotten {
    /// The node on which it was done.
    pub by: String,
}

/// This node had the identity or key of another, and has made itself new ones: start it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}; start the agent again")]
pub struct Renewed(String);

/// A running node.
pub struct Agent {
    config: Arc<Config>,
    discovery: Arc<dyn Discovery>,
    reconciler: Reconciler,
    control: Arc<Control>,
    socket: ControlSocket,
    down: watch::Receiver<bool>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Builds the node. Nothing of the host's is touched before every refusal had its chance.
    ///
    /// # Errors
    /// In words for a person: what is wrong and what to do.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let socket = ControlSocket::bind(&config.socket)?;
        let identity = Arc::new(keystore::identity(&config.state_dir)?);
        let private_key = keystore::wireguard(&config.state_dir)?;
        let kernel = Linux::open(&config.state_dir)?;
        let local = local_addresses(&kernel).await?;
        let announcement = Announcement {
            name: config.name.clone(),
            public_key: private_key.public_key(),
            endpoints: underlay::endpoints(&config.endpoints, &local, &[], config.port, &[]),
            engine: None,
            names: Vec::new(),
            away: false,
        };
        let membership = Membership::start(&config, &kernel, identity, announcement).await?;
        let discovery = membership.discovery();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read the kernel's boot id")?;
        let workloads = Workloads::restore(
            Linux::open(&config.state_dir)?,
            &config.state_dir.join("leases"),
            weft_cni::note::dir(&config.socket),
            boot_id.trim(),
            config.dns_domain.clone(),
            &discovery.own().borrow().ranges,
        )?;
        let workloads = Arc::new(workloads);
        workloads
            .settle()
            .await
            .context("look up what was attached before")?;
        let resolver = Resolver::start(&config)?;
        let dns = Arc::clone(&resolver.server);
        let probes =
            Probes::start(crate::host::MESH_LINK).context("start the thread of the probes")?;
        let public_key = private_key.public_key();
        let (down, down_seen) = watch::channel(false);
        let reconciler = Reconciler::new(reconcile::Parts {
            config: Arc::clone(&config),
            kernel,
            discovery: Arc::clone(&discovery),
            workloads: Arc::clone(&workloads),
            device: Device::new(Arc::clone(&config), private_key, probes),
            resolver,
            public_key,
        });
        let control = Arc::new(Control {
            config: Arc::clone(&config),
            membership,
            workloads,
            dns,
            node: reconciler.report(),
            ask: reconciler.ask(),
            down,
        });
        Ok(Self {
            config,
            discovery,
            reconciler,
            control,
            socket,
            down: down_seen,
        })
    }

    /// Runs the node until a signal or `weft down`.
    ///
    /// # Errors
    /// When the node may not go on: the mesh's ranges overlap with the host's, or the mesh has
    /// forgotten this node.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            discovery,
            mut reconciler,
            control,
            socket,
            down,
        } = self;
        let tending = tokio::spawn(Arc::clone(&control.workloads).tend());
        let mut background = JoinSet::new();
        match &control.membership {
            Membership::Gossip(gossip) => {
                let (config, gossip) = (Arc::clone(&config), Arc::clone(gossip));
                background.spawn(print_join_line(config, gossip, reconciler.report()));
            }
            Membership::Kubernetes(kubernetes) => {
                if let Some(settings) = &config.kubernetes {
                    let (standing, seen) = watch::channel(reconciler.report().borrow().standing());
                    background.spawn(tell_standing(reconciler.report(), standing));
                    let tasks = cluster::start(kubernetes, &config, settings, seen);
                    background.spawn(async move {
                        tasks.join_all().await;
                    });
                }
            }
        }
        let cloned = cloned(control.membership.clone());
        let serving = tokio::spawn(socket.serve(control));
        let ended = tokio::select! {
            why = cloned => {
                error!("{why}");
                keystore::renew(&config.state_dir)?;
                serving.abort();
                tending.abort();
                discovery.shutdown().await;
                return Err(Renewed(why).into());
            }
            ended = ending(down) => ended.context("listen for signals")?,
            refused = reconciler.run() => {
                let refused = refused.expect_err("the reconciler ends by refusing only");
                error!("{refused:#}");
                serving.abort();
                tending.abort();
                discovery.shutdown().await;
                return Err(refused);
            }
        };
        background.abort_all();
        // The userspace engine ends with this process, so the pods' names must not stay behind.
        if ended == Ending::Goodbye || reconciler.ends_with_us() {
            reconciler.goodbye();
            tokio::time::sleep(GOODBYE).await;
        }
        info!(
            ?ended,
            "ending; links, routes and firewall stay until `weft cleanup`"
        );
        serving.abort();
        tending.abort();
        let _ = std::fs::remove_file(&config.socket);
        discovery.shutdown().await;
        Ok(())
    }
}

/// Tells of the node as the reconciler finds it.
async fn tell_standing(mut node: watch::Receiver<Arc<Report>>, standing: watch::Sender<Standing>) {
    while node.changed().await.is_ok() {
        let now = node.borrow_and_update().standing();
        standing.send_replace(now);
    }
}

/// Waits until an older node of the cluster has this node's identity or key; says which.
async fn cloned(membership: Membership) -> String {
    let Some(kubernetes) = membership.kubernetes() else {
        return std::future::pending().await;
    };
    let mut node = kubernetes.node();
    let why = match node.wait_for(|node| node.cloned.is_some()).await {
        Ok(node) => node.cloned.clone().unwrap_or_default(),
        Err(_) => return std::future::pending().await,
    };
    // The cluster is to hear of it first.
    tokio::time::sleep(TOLD).await;
    why
}
