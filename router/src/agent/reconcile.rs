//! The one that changes things: it looks at everything, makes the wanted state and carries out the
//! difference, whenever somebody says "look again" and every second.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};
use weft_mesh::Roster;
use weft_mesh::discovery::gossip::{ClaimState, Gossip, Own};
use weft_mesh::discovery::{Announcement, Discovery};
use weft_mesh::member::mesh_address;

use super::Forgotten;
use super::device::Device;
use super::names::Names;
use super::resolver::Resolver;
use crate::attach::{Node, Snapshot, Workloads};
use crate::config::Config;
use crate::control::{EngineStatus, NameStatus, PeerStatus};
use crate::desired::{Inputs, PeerRoutes, Pod, desired};
use crate::host::{MESH_LINK, Observed, Target};
use crate::kernel::{Kernel, Linux, sysctl, veth};
use crate::plan::plan;
use crate::underlay;

/// How often everything is looked at though nobody asked.
const LOOK: Duration = Duration::from_secs(1);
/// How often, in looks, the host is compared though netlink said nothing.
const RESYNC: u32 = 15;
/// A burst of news is one look.
const GATHER: Duration = Duration::from_millis(10);
/// An Ethernet without any word of its MTU.
const COMMON_MTU: u32 = 1500;

/// What the reconciler is built of.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) kernel: Linux,
    pub(super) gossip: Arc<Gossip>,
    pub(super) workloads: Arc<Workloads>,
    pub(super) device: Device,
    pub(super) resolver: Resolver,
    pub(super) public_key: weft_mesh::PublicKey,
}

/// What the last look found, for `weft status`.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) engine: EngineStatus,
    pub(super) peers: Vec<PeerStatus>,
    pub(super) names: Vec<NameStatus>,
    pub(super) endpoints: Vec<String>,
    pub(super) pools: Vec<IpNet>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) problems: Vec<String>,
}

pub(super) struct Reconciler {
    parts: Parts,
    report: watch::Sender<Arc<Report>>,
    announced: Option<Announcement>,
    local: Vec<IpAddr>,
    underlay_mtu: u32,
    checked_pools: Vec<IpNet>,
    observed: Option<Observed>,
    /// The firewall and the fail-closed routes are in place.
    is_guarded: bool,
    /// What the host was last brought to.
    settled: Option<(Inputs, Snapshot)>,
    looks: u32,
    /// Firewalls in the way, in words.
    firewalls: Vec<String>,
    has_ipv6: bool,
    warnings: BTreeSet<String>,
}

impl Reconciler {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            report: watch::Sender::default(),
            announced: None,
            local: Vec::new(),
            underlay_mtu: COMMON_MTU,
            checked_pools: Vec::new(),
            observed: None,
            is_guarded: false,
            settled: None,
            looks: 0,
            firewalls: Vec::new(),
            has_ipv6: true,
            warnings: BTreeSet::new(),
        }
    }

    pub(super) fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.report.subscribe()
    }

    /// Whether pods lose the mesh when this process ends.
    pub(super) fn ends_with_us(&self) -> bool {
        self.parts.device.ends_with_us()
    }

    /// Tells the others that this node goes: its names are withdrawn, its ranges stay its own.
    pub(super) fn goodbye(&self) {
        if let Some(announced) = self.announced.clone() {
            self.parts.gossip.announce(Announcement {
                names: Vec::new(),
                away: true,
                ..announced
            });
        }
    }

    /// Looks again and again; ends only when the node may not go on.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        let mut own = self.parts.gossip.own();
        let mut roster = self.parts.gossip.roster();
        let mut attached = self.parts.workloads.snapshot();
        let mut host = self.parts.kernel.changed();
        let mut alive = self.parts.device.probes.changed();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut look_at_host = false;
            tokio::select! {
                _ = own.changed() => {}
                _ = roster.changed() => {}
                _ = attached.changed() => {}
                _ = alive.changed() => {}
                _ = host.changed() => look_at_host = true,
                _ = tick.tick() => {}
            }
            tokio::time::sleep(GATHER).await;
            look_at_host |= host.has_changed().unwrap_or(false);
            host.mark_unchanged();
            self.looks = self.looks.wrapping_add(1);
            look_at_host |= self.looks.is_multiple_of(RESYNC);
            // Gossip tells of a lost range here first and of its new owner then, so a range is
            // never seen as both.
            let roster = Arc::clone(&roster.borrow_and_update());
            let own = own.borrow_and_update().clone();
            let attached = Arc::clone(&attached.borrow_and_update());
            alive.mark_unchanged();
            self.look(&own, &roster, &attached, look_at_host).await?;
        }
    }

    async fn look(
        &mut self,
        own: &Own,
        roster: &Roster,
        attached: &Snapshot,
        host_changed: bool,
    ) -> anyhow::Result<()> {
        if let Some(forgotten) = &own.forgotten {
            let by = forgotten
                .by_name
                .clone()
                .unwrap_or_else(|| forgotten.by.short());
            return Err(Forgotten { by }.into());
        }
        let mut report = Report::default();
        let pools = match &own.params {
            Some(params) => vec![params.pool4.into(), params.ula.into()],
            // The mesh's are not known before somebody of it was reached.
            None if self.parts.config.join.is_some() => Vec::new(),
            None => vec![self.parts.config.pool.into()],
        };
        self.check_pools(&pools).await?;
        if host_changed || self.observed.is_none() {
            self.look_at_underlay(&pools).await;
            self.look_for_firewalls().await;
        }
        let ranges = self.usable(own.claim.ranges());
        let addresses: Vec<IpAddr> = ranges.iter().filter_map(mesh_address).collect();
        self.announce(own, attached, &pools);
        self.device(roster, &pools, &mut report).await;
        let inputs = Inputs {
            pools: pools.clone(),
            own: ranges.clone(),
            addresses: addresses.clone(),
            link_mtu: underlay::tunnel_mtu(
                self.underlay_mtu,
                std::net::Ipv4Addr::UNSPECIFIED.into(),
            ),
            peers: self.routes(roster),
            pods: Vec::new(),
        };
        self.host(inputs, attached, host_changed, &mut report).await;
        if let Err(problem) = self.parts.device.remove_gone(roster).await {
            report.problems.push(problem);
        }
        let device = &self.parts.device;
        device.probes.set_peers(&device.peers.probed(roster));
        self.parts.workloads.node_is(Node {
            node_names: node_names(own, roster),
            ..self.node(own, ranges, &addresses)
        });
        let names = Names {
            domain: &self.parts.config.dns_domain,
            me: &own.name,
            my_addresses: &addresses,
            local: &attached.names(),
            roster,
            dead: &self.parts.device.probes.dead(),
            pools: &pools,
        };
        let (names, problems) = self.parts.resolver.update(&names).await;
        report.names = names;
        report.problems.extend(problems);
        report
            .problems
            .extend(own.problems.iter().map(|problem| problem.text.clone()));
        report.problems.extend(attached.moves.iter().cloned());
        report.problems.extend(self.firewalls.iter().cloned());
        report.engine = self.parts.device.report();
        match self.parts.kernel.guarded().await {
            Ok(guarded) => report.engine.drops.extend(
                guarded
                    .into_iter()
                    .map(|(reason, packets)| (reason.to_owned(), packets)),
            ),
            Err(error) => debug!("{error}"),
        }
        report.peers = self.parts.device.peers_report(roster, &pools);
        report.pools = pools;
        report.addresses = addresses;
        report.endpoints = self
            .announced
            .iter()
            .flat_map(|a| a.endpoints.iter().map(ToString::to_string))
            .collect();
        self.say_new(&report.problems);
        self.report.send_replace(Arc::new(report));
        Ok(())
    }

    /// Each new problem is a line in the log, once.
    fn say_new(&mut self, problems: &[String]) {
        let now: BTreeSet<String> = problems.iter().cloned().collect();
        for problem in now.difference(&self.warnings) {
            warn!("{problem}");
        }
        self.warnings = now;
    }

    async fn check_pools(&mut self, pools: &[IpNet]) -> anyhow::Result<()> {
        if self.checked_pools != pools {
            super::refuse_overlaps(&self.parts.kernel, &self.parts.config, pools).await?;
            self.checked_pools = pools.to_vec();
        }
        Ok(())
    }

    /// Without IPv6 on the host there is none for its pods.
    fn usable(&mut self, ranges: &[IpNet]) -> Vec<IpNet> {
        let has_ipv6 = sysctl::has_ipv6();
        if self.has_ipv6 != has_ipv6 {
            info!(
                has_ipv6,
                "IPv6 of the host; without it, pods here have IPv4 alone"
            );
            self.has_ipv6 = has_ipv6;
        }
        let usable = ranges
            .iter()
            .filter(|range| has_ipv6 || range.addr().is_ipv4());
        usable.copied().collect()
    }

    async fn look_for_firewalls(&mut self) {
        match self.parts.kernel.foreign_firewalls().await {
            Ok(found) => self.firewalls = found.iter().map(ToString::to_string).collect(),
            Err(error) => debug!("{error}"),
        }
    }

    async fn look_at_underlay(&mut self, pools: &[IpNet]) {
        match super::local_addresses(&self.parts.kernel).await {
            Ok(local) => {
                self.local = local
                    .into_iter()
                    .filter(|a| !pools.iter().any(|p| p.contains(a)))
                    .collect()
            }
            Err(error) => warn!("{error:#}"),
        }
        let mtu = || {
            // Of the way to the world; that of each peer is asked when its endpoint is known.
            let world: [SocketAddr; 2] = [
                ([192, 0, 2, 1], 9).into(),
                ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into(),
            ];
            world
                .iter()
                .filter_map(|to| underlay::path_mtu(*to, self.parts.config.fwmark).ok())
                .min()
        };
        let before = self.underlay_mtu;
        self.underlay_mtu = self
            .parts
            .config
            .underlay_mtu
            .or_else(mtu)
            .unwrap_or(COMMON_MTU);
        if self.underlay_mtu != before {
            self.parts.device.peers.forget_mtus();
        }
    }

    /// Pods get what fits through either underlay family.
    fn pod_mtu(&self) -> u32 {
        underlay::tunnel_mtu(self.underlay_mtu, std::net::Ipv6Addr::UNSPECIFIED.into())
    }

    fn announce(&mut self, own: &Own, attached: &Snapshot, pools: &[IpNet]) {
        let inside = |address: &IpAddr| {
            own.claim
                .ranges()
                .iter()
                .any(|range| range.contains(address))
        };
        let mut names = attached.names();
        for name in &mut names {
            name.addresses.retain(inside);
        }
        names.retain(|name| !name.addresses.is_empty());
        let config = &self.parts.config;
        let me = Announcement {
            name: config.name.clone(),
            public_key: self.parts.public_key,
            endpoints: underlay::endpoints(
                &config.endpoints,
                &self.local,
                &own.observed,
                config.port,
                pools,
            ),
            names,
            away: false,
        };
        if self.announced.as_ref() != Some(&me) {
            self.parts.gossip.announce(me.clone());
            self.announced = Some(me);
        }
    }

    async fn device(&mut self, roster: &Roster, pools: &[IpNet], report: &mut Report) {
        let is_gone = self
            .observed
            .as_ref()
            .is_some_and(|host| !host.links.contains_key(MESH_LINK));
        match self.parts.device.open(is_gone) {
            Ok(true) => self.observed = None,
            Ok(false) => {}
            Err(problem) => report.problems.push(problem),
        }
        self.parts.device.peers.local_is(&self.local);
        if let Err(problem) = self.parts.device.bring(roster, pools).await {
            report.problems.push(problem);
        }
    }

    fn routes(&self, roster: &Roster) -> Vec<PeerRoutes> {
        let members = roster
            .members
            .values()
            .filter(|member| !member.pod_cidrs.is_empty());
        members
            .map(|member| PeerRoutes {
                ranges: member.pod_cidrs.clone(),
                mtu: self.parts.device.peers.mtu(&member.id),
            })
            .collect()
    }

    /// Compares the host with what it should be, where either may have changed.
    async fn host(
        &mut self,
        mut inputs: Inputs,
        attached: &Snapshot,
        changed: bool,
        report: &mut Report,
    ) {
        if !changed
            && self
                .settled
                .as_ref()
                .is_some_and(|(i, a)| *i == inputs && a == attached)
        {
            return;
        }
        let mut observed = match self.parts.kernel.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                report.problems.push(format!("look at the host: {error}"));
                return;
            }
        };
        // Later than what was observed, or a pod attached in between would seem to be nobody's.
        let attached = Arc::clone(&self.parts.workloads.snapshot().borrow());
        leave_alone(&attached.attaching, &mut observed);
        let before = (inputs.clone(), Snapshot::clone(&attached));
        let links: Vec<String> = observed.links.keys().cloned().collect();
        inputs.pods = pods(&attached, &observed);
        let plan = plan(&desired(&inputs, &observed), &observed);
        for step in &plan.steps {
            debug!("{step}");
        }
        match self.parts.kernel.apply(&plan).await {
            Ok(()) => {
                self.settled = plan.absent_links.is_empty().then_some(before);
                self.is_guarded = true;
            }
            Err(failed) => {
                self.settled = None;
                self.is_guarded = !failed.iter().any(|failed| failed.step.guards());
                report
                    .problems
                    .extend(failed.iter().map(ToString::to_string));
            }
        }
        self.observed = Some(observed);
        self.parts.workloads.links_are(links);
    }

    fn node(&self, own: &Own, ranges: Vec<IpNet>, addresses: &[IpAddr]) -> Node {
        let unready = match &own.claim {
            ClaimState::Held { .. } if !self.parts.device.is_open() => {
                Some("there is no tunnel yet".into())
            }
            ClaimState::Held { .. } if !self.is_guarded => Some(
                "the firewall or the fail-closed routes are not in place: see `weft status`".into(),
            ),
            ClaimState::Held { .. } => None,
            ClaimState::Joining => Some("this node has not reached the mesh yet".into()),
            ClaimState::Claiming { .. } => Some("this node's range is not final yet".into()),
            ClaimState::Lost { .. } => Some("this node lost its range and takes another".into()),
            ClaimState::Full => {
                Some("every range of the pool is taken; make the mesh with a larger --pool".into())
            }
            ClaimState::Forgotten => Some("the mesh has forgotten this node".into()),
        };
        Node {
            addresses: addresses.to_vec(),
            ranges,
            pod_mtu: self.pod_mtu(),
            unready,
            node_names: BTreeSet::new(),
        }
    }
}

fn node_names(own: &Own, roster: &Roster) -> BTreeSet<String> {
    let others = roster.members.values().map(|member| &member.name);
    others.chain([&own.name]).map(ToString::to_string).collect()
}

/// Overlooks what an ADD is making at this moment.
fn leave_alone(attaching: &[String], observed: &mut Observed) {
    observed.routes.retain(|_, target| match target {
        Target::Link { link, .. } => !attaching.contains(link),
        Target::Unreachable => true,
    });
    observed
        .neighbours
        .retain(|key, _| !attaching.contains(&key.link));
}

/// A link keeps the MTU that its ADD gave it.
fn pods(attached: &Snapshot, observed: &Observed) -> Vec<Pod> {
    let mtu = |link: &str| observed.links.get(link).map(|link| link.mtu);
    attached
        .present()
        .filter_map(|pod| {
            Some(Pod {
                link: pod.host_link.clone(),
                mtu: mtu(&pod.host_link)?,
                mac: veth::macs(&pod.host_link).pod_mac,
                addresses: pod.addresses.clone(),
            })
        })
        .collect()
}
