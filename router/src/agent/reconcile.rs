//! The one that changes things: it looks at everything, makes the wanted state and carries out the
//! difference, whenever somebody says "look again" and every second.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;
use tracing::warn;
use weft_mesh::Roster;
use weft_mesh::discovery::{Announcement, Discovery, Own};
use weft_mesh::member::mesh_address;

use super::Forgotten;
use super::device::Device;
use super::host::Host;
use super::names::Names;
use super::resolver::Resolver;
use super::surroundings::Surroundings;
use crate::attach::{Node, Snapshot, Workloads};
use crate::cluster::{Notice, Standing};
use crate::config::Config;
use crate::control::{EngineStatus, NameStatus, PeerStatus};
use crate::desired::{Inputs, PeerRoutes};
use crate::kernel::{Kernel, Linux, capability};
use crate::underlay;

/// How often everything is looked at though nobody asked, and how seldom at most in a mesh of many:
/// while nothing happens, one part in `QUIET` of a core's time goes into looks.
const LOOK: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_secs(5);
const QUIET: u32 = 500;
/// How often the host is compared though netlink said nothing.
const RESYNC: Duration = Duration::from_secs(15);
/// A burst of news is one look.
const GATHER: Duration = Duration::from_millis(10);
/// In a mesh of many a look takes long. When news never end, so much of a core's time, one part in
/// this many, goes into looks, up to a pause that nobody notices.
const SHARE: u32 = 10;
const LAST_GATHER: Duration = Duration::from_millis(250);
/// Who asked for the status asks again soon.
const ASKED: Duration = Duration::from_secs(5);

/// What the reconciler is built of.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) kernel: Linux,
    pub(super) discovery: Arc<dyn Discovery>,
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
    pub(super) ranges: Vec<IpNet>,
    pub(super) addresses: Vec<IpAddr>,
    /// Why this node can carry no pods.
    pub(super) unready: Option<String>,
    pub(super) problems: Vec<String>,
    /// Of these, what is worth an alert.
    pub(super) notices: Vec<Notice>,
    pub(super) looked: Option<Instant>,
    /// The last question for the status that this answers. Without one the peers are left out.
    pub(super) asked: u64,
}

impl Report {
    /// The node as its cluster is told of it.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            unready: match self.looked {
                Some(_) => self.unready.clone(),
                None => Some("this node's agent is starting".into()),
            },
            notices: self.notices.clone(),
            looked: self.looked,
        }
    }
}

pub(super) struct Reconciler {
    config: Arc<Config>,
    discovery: Arc<dyn Discovery>,
    workloads: Arc<Workloads>,
    device: Device,
    resolver: Resolver,
    public_key: weft_mesh::PublicKey,
    host: Host,
    surroundings: Surroundings,
    report: watch::Sender<Arc<Report>>,
    /// Questions for the status, counted.
    ask: Arc<watch::Sender<u64>>,
    asked: Option<(u64, Instant)>,
    announced: Option<Announcement>,
    warnings: BTreeSet<String>,
    /// Capabilities that the agent lacks, for as long as it lives.
    incapable: Vec<String>,
}

impl Reconciler {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            config: parts.config,
            discovery: parts.discovery,
            host: Host::new(parts.kernel, Arc::clone(&parts.workloads)),
            workloads: parts.workloads,
            device: parts.device,
            resolver: parts.resolver,
            public_key: parts.public_key,
            surroundings: Surroundings::new(),
            report: watch::Sender::default(),
            ask: Arc::default(),
            asked: None,
            announced: None,
            warnings: BTreeSet::new(),
            incapable: capability::missing().unwrap_or_default(),
        }
    }

    pub(super) fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.report.subscribe()
    }

    /// Where one counts up to have the peers told of as well.
    pub(super) fn ask(&self) -> Arc<watch::Sender<u64>> {
        Arc::clone(&self.ask)
    }

    /// Whether pods lose the mesh when this process ends.
    pub(super) fn ends_with_us(&self) -> bool {
        self.device.ends_with_us()
    }

    /// Tells the others that this node goes: its names are withdrawn, its ranges stay its own.
    pub(super) fn goodbye(&self) {
        if let Some(announced) = self.announced.clone() {
            self.discovery.announce(Announcement {
                names: Vec::new(),
                away: true,
                ..announced
            });
        }
    }

    /// Looks again and again; ends only when the node may not go on.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        let mut own = self.discovery.own();
        let mut roster = self.discovery.roster();
        let mut attached = self.workloads.snapshot();
        let mut host = self.host.kernel.changed();
        let mut alive = self.device.probes.changed();
        let mut asked = self.ask.subscribe();
        let mut gather = GATHER;
        let mut next = tokio::time::Instant::now();
        let mut compared = next;
        loop {
            let mut look_at_host = false;
            tokio::select! {
                _ = own.changed() => {}
                _ = roster.changed() => {}
                _ = attached.changed() => {}
                _ = alive.changed() => {}
                _ = asked.changed() => {}
                _ = host.changed() => look_at_host = true,
                () = tokio::time::sleep_until(next) => {}
            }
            tokio::time::sleep(gather).await;
            look_at_host |= host.has_changed().unwrap_or(false);
            host.mark_unchanged();
            look_at_host |= compared.elapsed() >= RESYNC;
            if look_at_host {
                compared = tokio::time::Instant::now();
            }
            // Discovery tells of a lost range here first and of its new owner then, so a range is
            // never seen as both.
            let roster = Arc::clone(&roster.borrow_and_update());
            let own = Arc::clone(&own.borrow_and_update());
            let attached = Arc::clone(&attached.borrow_and_update());
            alive.mark_unchanged();
            let question = *asked.borrow_and_update();
            if self.asked.map_or(0, |(last, _)| last) != question {
                self.asked = Some((question, Instant::now()));
            }
            let begun = Instant::now();
            self.look(&own, &roster, &attached, look_at_host).await?;
            let took = begun.elapsed();
            gather = (took * SHARE).clamp(GATHER, LAST_GATHER);
            next = tokio::time::Instant::now() + (took * QUIET).clamp(LOOK, LAST_LOOK);
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
        if host_changed || self.host.is_unseen() {
            let surroundings = &mut self.surroundings;
            let kernel = &self.host.kernel;
            if surroundings.look(kernel, &self.config, &own.pools).await {
                self.device.peers.forget_mtus();
            }
            self.host.look_for_firewalls().await;
        }
        self.surroundings.check(&own.pools);
        if self.config.kubernetes.is_none() {
            self.surroundings.insist()?;
        }
        let cut = self.surroundings.cut(roster);
        let roster = cut.as_ref().unwrap_or(roster);
        let pools = self.surroundings.accepted(&own.pools);
        let ranges = self.surroundings.usable(&own.ranges);
        let addresses: Vec<IpAddr> = ranges.iter().filter_map(mesh_address).collect();
        // Where no endpoint lies.
        let inside = [pools.as_slice(), own.services.as_slice()].concat();
        self.announce(own, attached, &inside);
        let mut problems = self.device(roster, &inside).await;
        let inputs = Inputs {
            pools: pools.clone(),
            own: ranges.clone(),
            addresses: addresses.clone(),
            link_mtu: self.surroundings.link_mtu(),
            peers: self.routes(roster),
            pods: Vec::new(),
        };
        problems.extend(self.host.bring(inputs, attached, host_changed).await);
        problems.extend(self.device.remove_gone(roster).await.err());
        let device = &self.device;
        device.probes.set_peers(&device.peers.probed(roster));
        let unready = self.unready(own);
        self.workloads.node_is(Node {
            addresses: addresses.clone(),
            ranges: ranges.clone(),
            pod_mtu: self.surroundings.pod_mtu(),
            unready: unready.clone(),
            node_names: node_names(own, roster),
        });
        let names = Names {
            domain: &self.config.dns_domain,
            me: &own.name,
            my_addresses: &addresses,
            local: &attached.names(),
            roster,
            dead: &self.device.probes.dead(),
            pools: &pools,
        };
        let (names, failed) = self.resolver.update(&names).await;
        let notices = self.notices(&problems, &failed);
        problems.extend(failed);
        problems.extend(self.incapable.iter().cloned());
        problems.extend(own.problems.iter().map(|problem| problem.text.clone()));
        problems.extend(self.surroundings.collisions().cloned());
        problems.extend(attached.moves.iter().cloned());
        problems.extend(self.host.firewalls.iter().cloned());
        self.say_new(&problems);
        let mut engine = self.device.report();
        engine.drops.extend(self.host.drops().await);
        let asked = self.asked.filter(|(_, at)| at.elapsed() < ASKED);
        let asked = asked.map(|(question, _)| question);
        let endpoints = self.announced.iter().flat_map(|a| &a.endpoints);
        let report = Report {
            engine,
            peers: match asked {
                Some(_) => self.device.peers_report(roster, &inside),
                None => Vec::new(),
            },
            asked: asked.unwrap_or_default(),
            names,
            endpoints: endpoints.map(ToString::to_string).collect(),
            pools,
            ranges,
            addresses,
            unready,
            problems,
            notices,
            looked: Some(Instant::now()),
        };
        self.report.send_replace(Arc::new(report));
        Ok(())
    }

    /// What of this node's own troubles is worth an alert. `failed` is what the tunnel and the host
    /// refused, `unheard` where the DNS server cannot listen.
    fn notices(&self, failed: &[String], unheard: &[String]) -> Vec<Notice> {
        let of = |reason| {
            move |text: &String| Notice {
                reason,
                text: text.clone(),
            }
        };
        // A port that is taken is the one thing that a kernel which has all it needs refuses.
        let (taken, lacking): (Vec<&String>, Vec<&String>) =
            failed.iter().partition(|text| text.contains("in use"));
        let taken = taken.into_iter().chain(unheard);
        let collisions = self.surroundings.collisions().map(of("RangeOverlap"));
        let firewalls = self.host.firewalls.iter().map(of("ForwardingBlocked"));
        let incapable = self.incapable.iter().map(of("PermissionMissing"));
        collisions
            .chain(firewalls)
            .chain(incapable)
            .chain(taken.map(of("PortUnavailable")))
            .chain(lacking.into_iter().map(of("KernelFeatureMissing")))
            .collect()
    }

    /// Each new problem is a line in the log, once.
    fn say_new(&mut self, problems: &[String]) {
        let now: BTreeSet<String> = problems.iter().cloned().collect();
        for problem in now.difference(&self.warnings) {
            warn!("{problem}");
        }
        self.warnings = now;
    }

    fn announce(&mut self, own: &Own, attached: &Snapshot, pools: &[IpNet]) {
        let inside = |address: &IpAddr| own.ranges.iter().any(|range| range.contains(address));
        let mut names = attached.names();
        for name in &mut names {
            name.addresses.retain(inside);
        }
        names.retain(|name| !name.addresses.is_empty());
        let config = &self.config;
        let me = Announcement {
            name: config.name.clone(),
            public_key: self.public_key,
            endpoints: underlay::endpoints(
                &config.endpoints,
                &self.surroundings.local,
                &own.observed,
                config.port,
                pools,
            ),
            engine: self.device.kind(),
            names,
            away: false,
        };
        if self.announced.as_ref() != Some(&me) {
            self.discovery.announce(me.clone());
            self.announced = Some(me);
        }
    }

    /// Brings the tunnel to what the roster wants; returns what went wrong.
    async fn device(&mut self, roster: &Roster, pools: &[IpNet]) -> Vec<String> {
        let mut problems = Vec::new();
        match self.device.open(self.host.lacks_mesh_link()) {
            Ok(true) => self.host.look_anew(),
            Ok(false) => {}
            Err(problem) => problems.push(problem),
        }
        self.device.peers.local_is(&self.surroundings.local);
        problems.extend(self.device.bring(roster, pools).await.err());
        problems
    }

    fn routes(&self, roster: &Roster) -> Vec<PeerRoutes> {
        let members = roster
            .members
            .values()
            .filter(|member| !member.pod_cidrs.is_empty());
        members
            .map(|member| PeerRoutes {
                ranges: member.pod_cidrs.clone(),
                mtu: self.device.peers.mtu(&member.id),
            })
            .collect()
    }

    fn unready(&self, own: &Own) -> Option<String> {
        if own.unready.is_some() {
            return own.unready.clone();
        }
        let mut refusals = own
            .ranges
            .iter()
            .filter_map(|r| self.surroundings.refusal(r));
        if let Some(refusal) = refusals.next() {
            return Some(refusal.to_owned());
        }
        if let Some(why) = self.incapable.first() {
            return Some(why.clone());
        }
        if let Some(why) = self.device.unready() {
            return Some(why);
        }
        (!self.host.is_guarded()).then(|| {
            "the firewall or the fail-closed routes are not in place: see `weft status`".into()
        })
    }
}

fn node_names(own: &Own, roster: &Roster) -> BTreeSet<String> {
    let others = roster.members.values().map(|member| &member.name);
    others.chain([&own.name]).map(ToString::to_string).collect()
}
