//! Builds what a test needs: nodes on an underlay, pods on nodes, NAT boxes, faults, a capture.
//!
//! Everything is made by `weft_router::demo::net`; only the faults use a program (`nft`). Nothing
//! outlives the test's process.

mod capture;
mod faults;
mod nat;
mod node;
mod pod;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_router::demo::Machine;
use weft_router::demo::net::{Netns, Node, Segment};

pub use capture::all_sealed;
pub use faults::{have, printed};
pub use nat::{Nat, NatBox};
pub use node::LabNode;
pub use pod::Pod;

/// The underlay's ranges: for benchmarks (RFC 2544) and for documentation (RFC 3849), so that no
/// test leans on what a private range allows.
pub(crate) const UNDERLAY: (&str, &str) = ("198.18.0.0/16", "2001:db8::/64");
pub(crate) const UNDERLAY_MTU: u32 = 1500;
/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(10);

/// An underlay and what hangs on it. Its nodes must not outlive it.
#[derive(Debug)]
pub struct Lab {
    netns: Netns,
    segment: Segment,
    next_host: Cell<u32>,
    faults: RefCell<faults::Faults>,
}

impl Lab {
    /// An underlay with nobody on it.
    ///
    /// # Errors
    /// When the kernel refuses a namespace.
    pub fn new() -> Result<Self> {
        let netns = Netns::new("underlay")?;
        let ranges = (UNDERLAY.0.parse()?, UNDERLAY.1.parse()?);
        let segment = Segment::new(&netns, "wan", ranges, UNDERLAY_MTU)?;
        Ok(Self {
            netns,
            segment,
            next_host: Cell::new(2),
            faults: RefCell::default(),
        })
    }

    /// A node on the underlay; no agent runs on it yet.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn node(&self, name: &str) -> Result<LabNode> {
        let node = Node::new("/run/weft-lab".as_ref(), name)?;
        let host = self.next_host();
        let port = self
            .segment
            .attach(&self.netns, node.netns(), "eth0", host)?;
        Ok(LabNode::new(Machine::new(node), port))
    }

    /// Nodes with these names, their agents running, all in one mesh and each seeing every other.
    ///
    /// # Errors
    /// When one does not start, or the mesh is not whole within 20 s.
    pub fn mesh(&self, names: &[&str]) -> Result<Vec<LabNode>> {
        let mut nodes = Vec::new();
        for name in names {
            let mut node = self.node(name)?;
            match nodes.first() {
                None => node.up(&[])?,
                Some(first) => node.join(first)?,
            }
            nodes.push(node);
        }
        for node in &nodes {
            node.wait_established(names.len() - 1, Duration::from_secs(20))?;
        }
        Ok(nodes)
    }

    /// The underlay's own namespace, where its bridge is.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Moves a node to addresses that nobody had before, as a laptop that changes networks.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn readdress(&self, node: &mut LabNode) -> Result<()> {
        let (v4, v6) = self.segment.addresses(self.next_host())?;
        let netns = node.machine().node().netns();
        let netlink = netns.netlink();
        let mut port = node.port().clone();
        netlink.remove_address(port.index, port.v4.into())?;
        if let Some(old) = port.v6 {
            netlink.remove_address(port.index, old.into())?;
        }
        port.v4 = v4;
        port.v6 = port.v6.map(|_| v6);
        self.segment.address(netlink, &port)?;
        node.set_port(port);
        Ok(())
    }

    fn next_host(&self) -> u32 {
        let host = self.next_host.get();
        self.next_host.set(host + 1);
        host
    }
}

/// Waits until `condition` gives something.
///
/// # Errors
/// After `patience`, with the last reason that `condition` gave.
pub fn eventually<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(found) => return Ok(found),
            Err(last) if started.elapsed() > patience => {
                return Err(last).with_context(|| format!("{what}: not within {patience:?}"));
            }
            Err(_) => thread::sleep(TICK),
        }
    }
}

/// Checks that `condition` holds the whole time.
///
/// # Errors
/// When it does not, with its reason.
pub fn always(what: &str, time: Duration, mut condition: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        condition().with_context(|| format!("{what}: after {:?}", started.elapsed()))?;
        thread::sleep(TICK);
    }
    Ok(())
}

/// An error unless `holds`, for conditions.
///
/// # Errors
/// With `otherwise`, if it does not hold.
pub fn ensure(holds: bool, otherwise: impl fmt::Display) -> Result<()> {
    if holds {
        return Ok(());
    }
    bail!("{otherwise}")
}
