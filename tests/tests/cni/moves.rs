//! Containers that take other addresses while they run, and agents killed in the middle of it.

use anyhow::{Context, Result};
use weft_cni::SinceBoot;
use weft_cni::ipam::{DiskStore, Lease, Store};
use weft_tests::lab::{Lab, LabNode, Pod, ensure, eventually};

use crate::support::{PATIENCE, container, network, ready};

/// Of no node's range.
const FOREIGN: &str = "10.31.0.9";

/// The store of a node whose agent is away.
fn store(node: &LabNode) -> Result<DiskStore> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let dir = node.machine().state_dir().join("leases");
    Ok(DiskStore::open(&dir, boot_id.trim())?)
}

/// The lease of the container of that name.
fn lease(node: &LabNode, name: &str) -> Result<Lease> {
    let leases = store(node)?.load()?.leases;
    let mut found = leases
        .iter()
        .filter(|lease| lease.name.as_deref() == Some(name));
    let lease = found.next().cloned();
    ensure(found.next().is_none(), format!("{leases:?}"))?;
    lease.with_context(|| format!("{name} has no lease: {leases:?}"))
}

/// Waits until the container and its one lease agree, on other addresses than these.
fn wait_moved(node: &LabNode, pod: &Pod, name: &str, former: &Lease) -> Result<()> {
    let now = eventually("the move is finished", PATIENCE, || {
        let now = lease(node, name)?;
        let gone = former.addresses.iter().filter(|at| at.is_ipv4());
        let has = pod.run(&["ip", "address", "show", "dev", "eth0"])?;
        let routes = node.run(&["ip", "route", "show", "dev", &now.host_ifname])?;
        for address in gone {
            let word = format!("{address}");
            let left = [&has, &routes].map(|text| holds(text, &word));
            ensure(
                !now.addresses.contains(address) && left == [false; 2],
                format!("{word} is left: {now:?}\n{has}{routes}\n{}", node.said()),
            )?;
        }
        for address in now.addresses.iter().map(ToString::to_string) {
            ensure(holds(&has, &address), format!("no {address}: {has}"))?;
        }
        Ok(now)
    })?;
    for address in node.mesh_addresses()? {
        pod.ping(address).with_context(|| node.said())?;
    }
    // And back, by the address that the lease says.
    let target = now.addresses[0].to_string();
    node.run(&["ping", "-n", "-c", "1", "-W", "1", &target])
        .map(drop)
}

/// Whether an address is among the words of what `ip` printed.
fn holds(text: &str, address: &str) -> bool {
    let mut words = text.split([' ', '/', '\n']);
    words.any(|word| word == address)
}

pub(super) fn a_move_that_was_cut_short_is_finished_at_the_next_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let (written, written_pod) = container(&node, "written")?;
    let (unwritten, unwritten_pod) = container(&node, "unwritten")?;
    network.add(&written)?;
    network.add(&unwritten)?;
    node.kill()?;

    // Of one container the new lease is written, and the container itself is as it was.
    let former = lease(&node, "written")?;
    let mut new = former.clone();
    let last = former.addresses.iter().filter_map(|at| match at {
        std::net::IpAddr::V4(at) => Some(u32::from(*at) + 100),
        std::net::IpAddr::V6(_) => None,
    });
    let v4 = last.map(|at| std::net::Ipv4Addr::from(at).into());
    let v6 = former.addresses.iter().copied().filter(|at| at.is_ipv6());
    new.addresses = v4.chain(v6).collect();
    new.made = SinceBoot(former.made.0 + 1);
    store(&node)?.put(&new)?;

    // Of the other, the node's range is no longer what it was attached in, and that is all.
    let mut strange = lease(&node, "unwritten")?;
    let own = strange.addresses[0];
    store(&node)?.remove(&strange.addresses)?;
    strange.addresses[0] = FOREIGN.parse()?;
    store(&node)?.put(&strange)?;
    let own_net = format!("{own}/32");
    for (verb, address) in [("add", FOREIGN), ("del", &own_net)] {
        unwritten_pod.run(&["ip", "address", verb, address, "dev", "eth0"])?;
        let link = &strange.host_ifname;
        node.run(&["ip", "route", verb, address, "dev", link, "proto", "119"])?;
    }

    node.up(&[])?;
    ready(&node)?;
    wait_moved(&node, &written_pod, "written", &former)?;
    wait_moved(&node, &unwritten_pod, "unwritten", &strange)?;
    let status = node.status()?;
    let problems = status["problems"].to_string();
    ensure(problems.contains("unwritten has other addresses"), problems)
}
