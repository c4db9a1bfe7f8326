//! A host in memory: keeps to the kernel's rules where they bear on order, and prints itself.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::sync::watch;

use super::{Kernel, KernelError, StepError};
use crate::host::{Address, Link, Observed, Target};
use crate::plan::{Plan, Step};

/// Clones share one host.
#[derive(Clone, Debug)]
pub struct FakeHost {
    host: Arc<Mutex<Observed>>,
    changed: watch::Sender<u64>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new(Observed::default())
    }
}

impl FakeHost {
    pub fn new(host: Observed) -> Self {
        Self {
            host: Arc::new(Mutex::new(host)),
            changed: watch::Sender::new(0),
        }
    }

    /// The host as it is.
    pub fn now(&self) -> Observed {
        self.lock().clone()
    }

    /// Changes the host as somebody else would, and tells.
    pub fn meddle(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    /// A link appears, as when a tunnel or a veth is made; or it goes, and all that hangs on it.
    pub fn set_link(&self, name: &str, link: Option<Link>) {
        self.meddle(|host| match link {
            Some(link) => {
                host.links.insert(name.to_owned(), link);
            }
            None => {
                host.links.remove(name);
                forget(host, name);
            }
        });
    }

    /// Carries out one step.
    ///
    /// # Errors
    /// Where the kernel would refuse: an absent link, a link that is down, a preferred source that
    /// is no address of the host, a route that is there already.
    pub fn step(&self, step: &Step) -> io::Result<()> {
        carry_out(&mut self.lock(), step)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Observed> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for FakeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}

impl Kernel for FakeHost {
    async fn observe(&self) -> Result<Observed, KernelError> {
        Ok(self.now())
    }

    async fn apply(&self, plan: &Plan) -> Result<(), Vec<StepError>> {
        let mut failures = Vec::new();
        for step in &plan.steps {
            if let Err(source) = self.step(step) {
                let step = step.clone();
                failures.push(StepError { step, source });
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn carry_out(host: &mut Observed, step: &Step) -> io::Result<()> {
    match step {
        Step::SetLink { name, link } => {
            present(host, name)?;
            host.links.insert(name.clone(), *link);
            if !link.up {
                forget_routes(host, name);
            }
        }
        Step::AddAddress(address) => {
            present(host, &address.link)?;
            host.addresses.insert(address.clone());
        }
        Step::RemoveAddress(address) => remove_address(host, address),
        Step::AddRoute { key, target } => {
            routable(host, target)?;
            if host.routes.contains_key(key) {
                return Err(errno(libc::EEXIST));
            }
            host.routes.insert(*key, target.clone());
        }
        Step::ReplaceRoute { key, target } => {
            routable(host, target)?;
            host.routes.insert(*key, target.clone());
        }
        Step::RemoveRoute { key, .. } => {
            host.routes.remove(key);
        }
        Step::SetNeighbour { key, mac } => {
            present(host, &key.link)?;
            host.neighbours.insert(key.clone(), *mac);
        }
        Step::RemoveNeighbour(key) => {
            host.neighbours.remove(key);
        }
        Step::SetSysctl { key, value } => {
            host.sysctls.insert(key.clone(), value.clone());
        }
        Step::SetFirewall(ruleset) => host.firewall = Some(ruleset.fingerprint()),
        Step::RemoveFirewall => host.firewall = None,
        // It carries no packets.
        Step::ForgetFlows(_) => {}
    }
    Ok(())
}

fn present(host: &Observed, link: &str) -> io::Result<Link> {
    host.links
        .get(link)
        .copied()
        .ok_or_else(|| errno(libc::ENODEV))
}

fn routable(host: &Observed, target: &Target) -> io::Result<()> {
    let Target::Link {
        link,
        preferred_source,
        ..
    } = target
    else {
        return Ok(());
    };
    if !present(host, link)?.up {
        return Err(errno(libc::ENETDOWN));
    }
    let is_own = |source| {
        let own = host.addresses.iter();
        own.map(|address| address.net.addr()).any(|a| a == source)
    };
    match preferred_source {
        Some(source) if !is_own(*source) => Err(errno(libc::EINVAL)),
        _ => Ok(()),
    }
}

/// Taking an address away takes the routes that prefer it along, unless another link has it.
fn remove_address(host: &mut Observed, address: &Address) {
    host.addresses.remove(address);
    let gone = address.net.addr();
    if host.addresses.iter().any(|a| a.net.addr() == gone) {
        return;
    }
    host.routes.retain(|_, target| {
        !matches!(target, Target::Link { preferred_source: Some(source), .. } if *source == gone)
    });
}

fn forget(host: &mut Observed, name: &str) {
    forget_routes(host, name);
    let gone: Vec<IpNet> = host
        .addresses
        .iter()
        .filter(|address| address.link == name)
        .map(|address| address.net)
        .collect();
    for net in gone {
        let link = name.to_owned();
        remove_address(host, &Address { link, net });
    }
    host.neighbours.retain(|key, _| key.link != name);
}

fn forget_routes(host: &mut Observed, name: &str) {
    host.routes
        .retain(|_, target| !matches!(target, Target::Link { link, .. } if link == name));
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
