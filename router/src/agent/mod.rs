//! The composition root: builds every part of a node, runs them, and ends them in order.
//!
//! Tasks: the reconciler (`reconcile`) alone changes the host and the tunnel; the prober
//! (`probes`) alone sends probes; the control socket answers on threads of the blocking pool. What
//! they share are values that are replaced whole (`watch`), so that the reconciler waits for nobody.
//! Only the leases have a lock: those who attach and detach, and the task that looks after what is
//! attached, wait for one another there, the kernel's work included.

mod device;
mod lookup;
mod names;
mod peers;
mod probes;
mod reconcile;
mod report;
mod resolver;
mod shutdown;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tracing::{error, info, warn};
use weft_mesh::discovery::Announcement;
use weft_mesh::discovery::gossip::{self, CLAIM_WAIT, FoundingParams, Gossip, GossipConfig, Join};
use weft_mesh::{Endpoint, keystore};

use self::device::Device;
use self::probes::Probes;
use self::reconcile::{Reconciler, Report};
use self::report::Control;
use self::resolver::Resolver;
use self::shutdown::{Ending, ending};
use crate::attach::Workloads;
use crate::config::{Config, PORT};
use crate::control::ControlSocket;
use crate::kernel::Linux;
use crate::overlap::{self, Severity};
use crate::underlay;

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

/// A running node.
pub struct Agent {
    config: Arc<Config>,
    gossip: Arc<Gossip>,
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
        if config.join.is_none() && !gossip::has_mesh(&config.state_dir) {
            // Of another mesh the pool is the mesh's own, which the first look checks.
            refuse_overlaps(&kernel, &config, &[config.pool.into()]).await?;
        }
        let local = local_addresses(&kernel).await?;
        let announcement = Announcement {
            name: config.name.clone(),
            public_key: private_key.public_key(),
            endpoints: underlay::endpoints(&config.endpoints, &local, &[], config.port, &[]),
            names: Vec::new(),
            away: false,
        };
        let gossip =
            Gossip::start(gossip_config(&config), Arc::clone(&identity), announcement).await?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read the kernel's boot id")?;
        let workloads = Workloads::restore(
            Linux::open(&config.state_dir)?,
            &config.state_dir.join("leases"),
            weft_cni::note::dir(&config.socket),
            boot_id.trim(),
            config.dns_domain.clone(),
            gossip.own().borrow().claim.ranges(),
        )?;
        let workloads = Arc::new(workloads);
        workloads
            .settle()
            .await
            .context("look up what was attached before")?;
        let resolver = Resolver::start(&config)?;
        let dns = Arc::clone(&resolver.server);
        let probes = Probes::start(crate::host::MESH_LINK);
        let public_key = private_key.public_key();
        let (down, down_seen) = watch::channel(false);
        let reconciler = Reconciler::new(reconcile::Parts {
            config: Arc::clone(&config),
            kernel,
            gossip: Arc::clone(&gossip),
            workloads: Arc::clone(&workloads),
            device: Device::new(Arc::clone(&config), private_key, probes),
            resolver,
            public_key,
        });
        let control = Arc::new(Control {
            config: Arc::clone(&config),
            gossip: Arc::clone(&gossip),
            workloads,
            dns,
            node: reconciler.report(),
            down,
        });
        Ok(Self {
            config,
            gossip,
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
            gossip,
            mut reconciler,
            control,
            socket,
            down,
        } = self;
        let tending = tokio::spawn(Arc::clone(&control.workloads).tend());
        let serving = tokio::spawn(socket.serve(control));
        let printing = tokio::spawn(print_join_line(
            Arc::clone(&config),
            Arc::clone(&gossip),
            reconciler.report(),
        ));
        let ended = tokio::select! {
            ended = ending(down) => ended.context("listen for signals")?,
            refused = reconciler.run() => {
                let refused = refused.expect_err("the reconciler ends by refusing only");
                error!("{refused:#}");
                serving.abort();
                tending.abort();
                gossip.shutdown().await;
                return Err(refused);
            }
        };
        printing.abort();
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
        gossip.shutdown().await;
        Ok(())
    }
}

fn gossip_config(config: &Config) -> GossipConfig {
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    GossipConfig {
        state_dir: config.state_dir.clone(),
        listen: any.map(|ip| SocketAddr::new(ip, config.port)).to_vec(),
        founding: FoundingParams {
            pool4: config.pool,
            node_prefix4: config.node_prefix,
        },
        join: config.join.clone().map(|line| Join {
            token: line.token,
            hosts: line.hosts,
        }),
        peers: Vec::new(),
        fwmark: Some(config.fwmark),
        claim_wait: CLAIM_WAIT,
        allow_loopback: false,
    }
}

/// Addresses of the host's own links, as others may reach them.
async fn local_addresses(kernel: &Linux) -> anyhow::Result<Vec<IpAddr>> {
    let host = kernel.snapshot().await?;
    Ok(host
        .interfaces
        .iter()
        .map(|interface| interface.net.addr())
        .collect())
}

/// Refuses ranges that the host uses for something else.
async fn refuse_overlaps(
    kernel: &Linux,
    config: &Config,
    ranges: &[ipnet::IpNet],
) -> anyhow::Result<()> {
    let mut host = kernel.snapshot().await?;
    let joined = config.join.iter().flat_map(|line| &line.hosts);
    host.endpoints = config
        .endpoints
        .iter()
        .chain(joined)
        .filter_map(|endpoint| match endpoint {
            Endpoint::Address(address) => Some(address.ip()),
            Endpoint::Name { .. } => None,
        })
        .collect();
    let mut refusals = Vec::new();
    for finding in overlap::check(ranges, &host) {
        match finding.severity {
            Severity::Warning => warn!("{finding}"),
            Severity::Refused => refusals.push(finding.to_string()),
        }
    }
    if refusals.is_empty() {
        return Ok(());
    }
    bail!(
        "{}; make the mesh with another --pool, or take the other one away",
        refusals.join("; ")
    )
}

/// Says how others join, once this node knows where it can be reached.
async fn print_join_line(
    config: Arc<Config>,
    gossip: Arc<Gossip>,
    mut node: watch::Receiver<Arc<Report>>,
) {
    let mut own = gossip.own();
    let held = own
        .wait_for(|own| !own.claim.ranges().is_empty())
        .await
        .is_ok();
    let Ok(report) = node
        .wait_for(|report| !report.endpoints.is_empty())
        .await
        .map(|r| Arc::clone(&r))
    else {
        return;
    };
    if held && config.join.is_none() {
        println!(
            "weft up --join {}",
            join_argument(&gossip.join_token(), &report.endpoints, config.port)
        );
    }
}

/// The argument of `weft up --join`: the token and where this node may be asked.
fn join_argument(token: &str, endpoints: &[String], port: u16) -> String {
    let hosts: Vec<&str> = endpoints
        .iter()
        .take(2)
        .map(|endpoint| short_host(endpoint, port))
        .collect();
    format!(
        "{token}@{}",
        if hosts.is_empty() {
            "HOST".into()
        } else {
            hosts.join(",")
        }
    )
}

/// An endpoint without its port where that is the one that a joining node would try anyway.
fn short_host(endpoint: &str, port: u16) -> &str {
    match endpoint.strip_suffix(&format!(":{port}")) {
        Some(host) if port == PORT => host.trim_matches(['[', ']']),
        _ => endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::join_argument;

    #[test]
    fn a_join_line_names_the_port_only_where_it_is_another() {
        let hosts = [
            "192.0.2.1:6783".to_owned(),
            "[2001:db8::1]:6783".to_owned(),
            "a:1".to_owned(),
        ];
        assert_eq!(join_argument("T", &hosts, 6783), "T@192.0.2.1,2001:db8::1");
        assert_eq!(
            join_argument("T", &hosts, 7000),
            "T@192.0.2.1:6783,[2001:db8::1]:6783"
        );
        assert_eq!(join_argument("T", &[], 6783), "T@HOST");
    }
}
