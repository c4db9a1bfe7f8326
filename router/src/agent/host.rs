//! The host, kept as it should be: looked at, compared, changed.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::debug;

use crate::attach::{Snapshot, Workloads};
use crate::desired::{Inputs, Pod, desired};
use crate::host::{MESH_LINK, Observed, Target};
use crate::kernel::{Kernel, Linux, veth};
use crate::plan::plan;

/// The host's kernel, and what the last look at it found.
pub(super) struct Host {
    pub(super) kernel: Linux,
    workloads: Arc<Workloads>,
    observed: Option<Observed>,
    /// The firewall and the fail-closed routes are in place.
    is_guarded: bool,
    /// What the host was last brought to.
    settled: Option<(Inputs, Snapshot)>,
    /// Firewalls in the way, in words.
    pub(super) firewalls: Vec<String>,
}

impl Host {
    pub(super) fn new(kernel: Linux, workloads: Arc<Workloads>) -> Self {
        Self {
            kernel,
            workloads,
            observed: None,
            is_guarded: false,
            settled: None,
            firewalls: Vec::new(),
        }
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Whether the host was never looked at since it was last said to have changed.
    pub(super) fn is_unseen(&self) -> bool {
        self.observed.is_none()
    }

    /// What was observed is no more: look at all of it.
    pub(super) fn look_anew(&mut self) {
        self.observed = None;
    }

    pub(super) fn lacks_mesh_link(&self) -> bool {
        let observed = self.observed.as_ref();
        observed.is_some_and(|host| !host.links.contains_key(MESH_LINK))
    }

    pub(super) async fn look_for_firewalls(&mut self) {
        match self.kernel.foreign_firewalls().await {
            Ok(found) => self.firewalls = found.iter().map(ToString::to_string).collect(),
            Err(error) => debug!("{error}"),
        }
    }

    /// Compares the host with what it should be, where either may have changed, and brings it
    /// there. Returns what went wrong.
    pub(super) async fn bring(
        &mut self,
        mut inputs: Inputs,
        attached: &Snapshot,
        changed: bool,
    ) -> Vec<String> {
        let settled = self.settled.as_ref();
        if !changed && settled.is_some_and(|(i, a)| *i == inputs && a == attached) {
            return Vec::new();
        }
        let mut observed = match self.kernel.observe().await {
            Ok(observed) => observed,
            Err(error) => return vec![format!("look at the host: {error}")],
        };
        // Later than what was observed, or a pod attached in between would seem to be nobody's.
        let attached = Arc::clone(&self.workloads.snapshot().borrow());
        leave_alone(&attached.attaching, &mut observed);
        let before = (inputs.clone(), Snapshot::clone(&attached));
        let links: Vec<String> = observed.links.keys().cloned().collect();
        inputs.pods = pods(&attached, &observed);
        let plan = plan(&desired(&inputs, &observed), &observed);
        for step in &plan.steps {
            debug!("{step}");
        }
        let mut problems = Vec::new();
        match self.kernel.apply(&plan).await {
            Ok(()) => {
                self.settled = plan.absent_links.is_empty().then_some(before);
                self.is_guarded = true;
            }
            Err(failed) => {
                self.settled = None;
                self.is_guarded = !failed.iter().any(|failed| failed.step.guards());
                problems.extend(failed.iter().map(ToString::to_string));
            }
        }
        self.observed = Some(observed);
        self.workloads.links_are(links);
        problems
    }

    /// Packets that our own firewall dropped, by reason.
    pub(super) async fn drops(&self) -> Vec<(String, u64)> {
        match self.kernel.guarded().await {
            Ok(guarded) => guarded
                .into_iter()
                .map(|(reason, packets)| (reason.to_owned(), packets))
                .collect(),
            Err(error) => {
                debug!("{error}");
                Vec::new()
            }
        }
    }
}

/// Addresses of the host's own links, as others may reach them.
pub(super) async fn local_addresses(kernel: &Linux) -> anyhow::Result<Vec<IpAddr>> {
    let host = kernel.snapshot().await?;
    Ok(host
        .interfaces
        .iter()
        .map(|interface| interface.net.addr())
        .collect())
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
                ports: pod.ports.clone(),
            })
        })
        .collect()
}
