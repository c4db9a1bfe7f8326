//! The kernel of the host: one thread that owns the netlink sockets and takes jobs in order.
//!
//! A thread and not a lock: a socket and /proc/sys/net are those of a thread's namespace, and a
//! request that waits in the kernel must not hold up the runtime.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use tokio::sync::{oneshot, watch};
use tracing::debug;

use super::conntrack;
use super::legacy;
use super::monitor::Monitor;
use super::netlink::{self, Put, Request, Rtnetlink};
use super::nft::foreign::{self, ForeignFirewall};
use super::nft::{self, Nftnetlink, Published};
use super::snapshot;
use super::sysctl::{self, Kept};
use super::veth::{self, Reaper};
use super::{Kernel, KernelError, StepError, Targets};
use crate::host::{Desired, Observed, Target};
use crate::overlap::Snapshot;
use crate::plan::{Plan, Step, plan};

/// Jobs that may wait; who comes after waits for room.
const JOBS: usize = 256;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The network of the namespace that the opening thread was in.
#[derive(Debug)]
pub struct Linux {
    jobs: mpsc::SyncSender<Job>,
    monitor: Monitor,
}

/// What [`Linux::cleanup`] took away, and what it could not.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// In words, in order.
    pub done: Vec<String>,
    pub failed: Vec<(String, io::Error)>,
}

/// What the thread owns.
pub(crate) struct Worker {
    pub(crate) route: Rtnetlink,
    /// Why there is none, where the kernel has no nftables.
    pub(crate) nft: io::Result<Nftnetlink>,
    pub(crate) reaper: Reaper,
    kept: Kept,
}

impl Linux {
    /// Opens the network of this thread's namespace. `state_dir` keeps the sysctls' old values; it
    /// is made when first needed. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When netlink cannot be opened or no thread be had.
    pub fn open(state_dir: &Path) -> Result<Self, KernelError> {
        let route =
            Rtnetlink::open().map_err(KernelError::during("open a netlink socket for routes"))?;
        let nft = Nftnetlink::open();
        let reaper =
            Reaper::start().map_err(KernelError::during("start the thread that removes links"))?;
        let mut own = vec![route.port(), reaper.port()];
        own.extend(nft.as_ref().map(Nftnetlink::port));
        let monitor =
            Monitor::start(own).map_err(KernelError::during("listen for changes by netlink"))?;
        let mut worker = Worker {
            route,
            nft,
            reaper,
            kept: Kept::new(state_dir),
        };
        let (jobs, queue) = mpsc::sync_channel::<Job>(JOBS);
        thread::Builder::new()
            .name("weft-kernel".into())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job(&mut worker);
                }
            })
            .map_err(KernelError::during(
                "start the thread that talks to the kernel",
            ))?;
        Ok(Self { jobs, monitor })
    }

    /// Runs a job on the thread and waits for its outcome. Once begun it is carried out, whether or
    /// not anybody still waits.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Result<T, KernelError> {
        let (answer, outcome) = oneshot::channel();
        let job: Job = Box::new(move |worker| {
            // Nobody waiting any more is no failure.
            let _ = answer.send(job(worker));
        });
        if let Err(mpsc::TrySendError::Full(job)) = self.jobs.try_send(job) {
            let jobs = self.jobs.clone();
            tokio::task::spawn_blocking(move || jobs.send(job))
                .await
                .map_err(|_| KernelError::Gone)?
                .map_err(|_| KernelError::Gone)?;
        }
        outcome.await.map_err(|_| KernelError::Gone)
    }

    /// What the overlap rules look at. Endpoints are the caller's to add.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn snapshot(&self) -> Result<Snapshot, KernelError> {
        self.call(|worker| snapshot::snapshot(&mut worker.route))
            .await?
            .map_err(KernelError::during("look at the host's network"))
    }

    /// Firewalls of somebody else's that will drop pods' packets. Sorted.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn foreign_firewalls(&self) -> Result<Vec<ForeignFirewall>, KernelError> {
        let find = |worker: &mut Worker| {
            let mut found = foreign::find(worker.nft()?)?;
            // One of the two that cannot be read does not hide the other.
            let legacy = legacy::find().inspect_err(|error| debug!(%error, "iptables-legacy"));
            found.extend(legacy.unwrap_or_default());
            found.sort();
            Ok(found)
        };
        self.call(find)
            .await?
            .map_err(KernelError::during("look for firewalls"))
    }

    /// Packets that our own table dropped since it was last written, by what was wrong with them.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn guarded(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        self.call(|worker| nft::guarded(worker.nft()?))
            .await?
            .map_err(KernelError::during("read the firewall's counters"))
    }

    /// Those of the ports that lead nowhere, or elsewhere.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(crate) async fn unpublished(
        &self,
        wanted: Vec<Published>,
    ) -> Result<Vec<Published>, KernelError> {
        self.call(|worker| nft::missing(worker.nft()?, wanted))
            .await?
            .map_err(KernelError::during("read the rules of ports"))
    }

    /// Forgets flows that go elsewhere than ports of the host do now.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(crate) async fn forget_flows(&self, targets: Targets) -> Result<(), KernelError> {
        self.call(move |worker| worker.forget_flows(&targets))
            .await?
            .map_err(KernelError::during("forget flows of ports"))
    }

    /// Takes away everything that bears our mark and puts the sysctls back: routes of our protocol,
    /// our table, every link named `weft…` that is a veth, a TUN or WireGuard's. Goes on past failures.
    ///
    /// # Errors
    /// When the kernel cannot be asked at all.
    pub async fn cleanup(&self) -> Result<Cleaned, KernelError> {
        self.call(Worker::cleanup)
            .await?
            .map_err(KernelError::during("clean up"))
    }
}

impl Kernel for Linux {
    async fn observe(&self) -> Result<Observed, KernelError> {
        self.call(Worker::observe)
            .await?
            .map_err(KernelError::during("observe the host's network"))
    }

    async fn apply(&self, plan: &Plan) -> Result<(), Vec<StepError>> {
        if plan.is_empty() {
            return Ok(());
        }
        let steps = plan.steps.clone();
        let failures = self.call(move |worker| worker.apply(&steps)).await;
        match failures {
            Ok(failures) if failures.is_empty() => Ok(()),
            Ok(failures) => Err(failures),
            Err(error) => {
                let failed = |step: &Step| StepError {
                    step: step.clone(),
                    source: io::Error::other(error.to_string()),
                };
                Err(plan.steps.iter().map(failed).collect())
            }
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.monitor.changed()
    }
}

impl Worker {
    fn nft(&mut self) -> io::Result<&mut Nftnetlink> {
        self.nft
            .as_mut()
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }

    fn observe(&mut self) -> io::Result<Observed> {
        let mut observed = netlink::observe(&mut self.route)?;
        observed.sysctls = sysctl::observe(&netlink::ra_links(&mut self.route)?);
        // Without nftables there is no table; a wanted one then fails to be set, and says why.
        if let Ok(netlink) = &mut self.nft {
            observed.firewall = nft::observe(netlink)?;
        }
        Ok(observed)
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<StepError> {
        let mut failures = Vec::new();
        let mut batch = Vec::new();
        let links = match netlink::links(&mut self.route) {
            Ok(links) => links
                .into_iter()
                .map(|seen| (seen.name, seen.index))
                .collect(),
            Err(_) => BTreeMap::new(),
        };
        let mut guarded = true;
        for step in steps {
            match request(step, &links) {
                Ok(Some(message)) => batch.push((step, message)),
                Ok(None) => {
                    self.send(&mut batch, &mut failures);
                    let outcome = self.other(step, guarded);
                    guarded &= outcome.is_ok() || !matches!(step, Step::SetFirewall(_));
                    record(step, outcome, &mut failures);
                }
                Err(error) => record(step, Err(error), &mut failures),
            }
        }
        self.send(&mut batch, &mut failures);
        failures
    }

    fn send(&mut self, batch: &mut Vec<(&Step, Request)>, failures: &mut Vec<StepError>) {
        let (steps, messages): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match self.route.transact(messages) {
            Ok(outcomes) => {
                for (step, outcome) in steps.into_iter().zip(outcomes) {
                    record(step, settled(step, outcome), failures);
                }
            }
            Err(error) => {
                for step in steps {
                    let again = io::Error::new(error.kind(), error.to_string());
                    record(step, Err(again), failures);
                }
            }
        }
    }

    /// The steps that are not rtnetlink's.
    fn other(&mut self, step: &Step, guarded: bool) -> io::Result<()> {
        match step {
            Step::SetFirewall(ruleset) => self.nft()?.commit(nft::replace_table(ruleset)),
            Step::RemoveFirewall => self.nft()?.commit(nft::remove_table()),
            Step::ForgetFlows(targets) => self.forget_flows(targets),
            Step::SetSysctl { .. } if !guarded => {
                Err(io::Error::other("left alone: the firewall is not in place"))
            }
            Step::SetSysctl { key, value } => self.kept.set(key, value),
            _ => Ok(()),
        }
    }

    fn forget_flows(&mut self, targets: &Targets) -> io::Result<()> {
        let addresses = netlink::addresses(&mut self.route)?;
        let addresses = addresses.into_iter().map(|(_, net)| net.addr()).collect();
        conntrack::forget_udp(self.nft()?, targets, &addresses)
    }

    fn cleanup(&mut self) -> io::Result<Cleaned> {
        let mut cleaned = Cleaned::default();
        // Links first: an address on its way out keeps its routes no longer than its link.
        for seen in netlink::links(&mut self.route)? {
            if veth::is_ours(&seen) {
                let outcome = self.route.transact(vec![netlink::remove_link(seen.index)]);
                match flat(outcome) {
                    // It went by itself, as a pod's link does with the pod's namespace.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                    outcome => cleaned.record(format!("link {}", seen.name), outcome),
                }
            }
        }
        for (key, value) in self.restore_sysctls() {
            cleaned.failed.push((key, value));
        }
        let observed = self.observe()?;
        let nothing = Desired::default();
        let ours = Observed {
            routes: observed.routes,
            firewall: observed.firewall,
            ..Observed::default()
        };
        for step in plan(&nothing, &ours).steps {
            let failure = self.apply(std::slice::from_ref(&step)).pop();
            let outcome = failure.map_or(Ok(()), |failure| Err(failure.source));
            cleaned.record(step.to_string(), outcome);
        }
        Ok(cleaned)
    }

    fn restore_sysctls(&mut self) -> Vec<(String, io::Error)> {
        self.kept.restore()
    }
}

impl Cleaned {
    fn record(&mut self, what: String, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.done.push(what),
            Err(error) => self.failed.push((what, error)),
        }
    }
}

/// The request that carries a step out; `None` for what is not rtnetlink's.
fn request(step: &Step, links: &BTreeMap<String, u32>) -> io::Result<Option<Request>> {
    let index = |name: &String| {
        // A link that is not ours is known by its number alone.
        let by_number = || name.strip_prefix('#')?.parse().ok();
        let found = links.get(name).copied().or_else(by_number);
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    };
    let over = |target: &Target| match target {
        Target::Unreachable => Ok(0),
        Target::Link { link, .. } => index(link),
    };
    let message = match step {
        Step::SetLink { name, link } => netlink::set_link(index(name)?, *link),
        Step::AddAddress(address) => netlink::add_address(index(&address.link)?, address.net),
        Step::RemoveAddress(address) => netlink::remove_address(index(&address.link)?, address.net),
        Step::AddRoute { key, target } => netlink::put_route(*key, target, over(target)?, Put::New),
        Step::ReplaceRoute { key, target } => {
            netlink::put_route(*key, target, over(target)?, Put::Replace)
        }
        Step::RemoveRoute { key, target } => netlink::remove_route(*key, target, over(target)?),
        Step::SetNeighbour { key, mac } => {
            netlink::set_neighbour(index(&key.link)?, key.address, *mac)
        }
        Step::RemoveNeighbour(key) => netlink::remove_neighbour(index(&key.link)?, key.address),
        Step::SetSysctl { .. }
        | Step::SetFirewall(_)
        | Step::RemoveFirewall
        | Step::ForgetFlows(_) => return Ok(None),
    };
    Ok(Some(message))
}

/// What is gone already need not be removed: with a link, or an address, its routes go.
fn settled(step: &Step, outcome: io::Result<()>) -> io::Result<()> {
    let removes = matches!(
        step,
        Step::RemoveRoute { .. } | Step::RemoveAddress(_) | Step::RemoveNeighbour(_)
    );
    match outcome {
        Err(error)
            if removes
                && matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ENODEV)
                ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn record(step: &Step, outcome: io::Result<()>, failures: &mut Vec<StepError>) {
    match outcome {
        Ok(()) => debug!(%step, "step done"),
        Err(source) => failures.push(StepError {
            step: step.clone(),
            source,
        }),
    }
}

/// The one outcome of a transaction of one.
pub(crate) fn flat(outcome: io::Result<Vec<io::Result<()>>>) -> io::Result<()> {
    outcome?.into_iter().collect()
}
