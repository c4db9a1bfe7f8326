//! Agents and plugins that are killed, agents that are away, disks that are full.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount, unmount};
use serde_json::{Value, json};
use weft_tests::cnitool::Container;
use weft_tests::lab::{Lab, LabNode, Pod, ensure, eventually};

use crate::support::{PATIENCE, addresses, container, leases, network, ready, refused, wait_empty};

/// A /28 less the network's address, the node's and the broadcast address.
const ROOM: usize = 13;

pub(super) fn a_del_without_an_agent_is_settled_when_it_is_back() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&["--node-prefix", "28"])?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let mut pods = Vec::new();
    for count in 0..ROOM {
        let (container, pod) = container(&node, &format!("p{count}"))?;
        network.add(&container)?;
        pods.push((container, pod));
    }
    node.kill()?;
    refused(network.add(&pods[0].0), 11, "start the agent")?;
    network.del(&pods[0].0, None)?;
    network.del(&pods[0].0, None)?;
    // Its namespace is gone meanwhile; the other's is not.
    let (gone, gone_pod) = pods.swap_remove(1);
    network.del(&gone, None)?;
    drop(gone_pod);
    node.up(&["--node-prefix", "28"])?;
    ready(&node)?;
    eventually("the notes are settled", PATIENCE, || {
        let left = leases(&node)?.len();
        ensure(left == ROOM - 2, format!("{left} leases\n{}", node.said()))
    })?;
    network.add(&pods[0].0)?;
    network.add(&gone).map(drop).or_else(|failure| {
        // The namespace is gone, so that is the only reason it may fail for.
        ensure(failure.code() == Some(3), failure)
    })
}

pub(super) fn a_full_disk_stops_adds_and_no_del() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    let dir = node.machine().state_dir();
    std::fs::create_dir_all(&dir)?;
    mount(
        "weft",
        &dir,
        "tmpfs",
        MountFlags::empty(),
        c"size=512k,mode=0700",
    )
    .context("mount a small disk")?;
    node.up(&[])?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let (web, _web_pod) = container(&node, "web")?;
    network.add(&web)?;
    let filler = dir.join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let (late, _late_pod) = container(&node, "late")?;
    refused(network.add(&late), 5, "keep the lease")?;
    network.del(&web, None)?;
    wait_empty(&node)?;
    std::fs::remove_file(&filler)?;
    network.add(&late)?;
    network.del(&late, None)?;
    node.kill()?;
    // It may be busy for a moment: the agent's files are closed by the kernel.
    eventually("the disk is free", PATIENCE, || {
        Ok(unmount(&dir, rustix::mount::UnmountFlags::DETACH)?)
    })
}

/// A cheap source of moments; a run can be repeated by its seed.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        Self(seed | 1)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        limit.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Checks that pods that were attached work and share no address.
fn all_work(node: &LabNode, pods: &[(Container, Pod, Value)]) -> Result<()> {
    let network = network(node, "1.0.0", &[])?;
    let mut seen = BTreeSet::new();
    let host = node.mesh_addresses()?[0];
    for (container, pod, result) in pods {
        network
            .check(container, result)
            .with_context(|| format!("{}\n{}", container.id, node.said()))?;
        for address in addresses(result) {
            ensure(
                seen.insert(address.clone()),
                format!("{address} was given twice"),
            )?;
        }
        pod.ping(host).with_context(|| node.said())?;
    }
    Ok(())
}

/// Checks that a node's whole range can be given out, and takes it back.
fn has_room_for_all(node: &LabNode) -> Result<()> {
    let network = network(node, "1.0.0", &[])?;
    wait_empty(node)?;
    let mut pods = Vec::new();
    for count in 0..ROOM {
        let (container, pod) = container(node, &format!("full{count}"))?;
        let add = eventually("an address is free", PATIENCE, || {
            Ok(network.add(&container)?)
        });
        add.with_context(|| format!("only {count} of {ROOM} addresses\n{}", node.said()))?;
        pods.push((container, pod));
    }
    for (container, _pod) in &pods {
        network.del(container, None)?;
    }
    wait_empty(node)
}

pub(super) fn an_agent_killed_at_any_moment_loses_and_leaks_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    let arguments = ["--node-prefix", "28"];
    node.up(&arguments)?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let mut moments = Moments::new();
    let mut attached: Vec<(Container, Pod, Value)> = Vec::new();
    let began = Instant::now();
    let (mut kills, mut cut) = (0, 0);
    while kills < 30 && began.elapsed() < Duration::from_secs(60) {
        let (next, pod) = container(&node, &format!("k{kills}"))?;
        let last = (attached.len() > 4).then(|| attached.remove(0));
        let wait = moments.below(Duration::from_millis(60));
        // A runtime's two calls, and the kill somewhere in them.
        let (added, deleted) = thread::scope(|scope| -> Result<_> {
            let calls = scope.spawn(|| {
                let added = network.add(&next);
                let deleted = last.as_ref().map(|(old, ..)| network.del(old, None));
                (added, deleted)
            });
            thread::sleep(wait);
            node.kill()?;
            calls
                .join()
                .map_err(|_| anyhow::anyhow!("the runtime panicked"))
        })?;
        deleted.transpose()?;
        kills += 1;
        node.up(&arguments)?;
        ready(&node)?;
        match added {
            Ok(result) => attached.push((next, pod, result)),
            Err(_) => {
                cut += 1;
                network.del(&next, None)?;
            }
        }
        let held = leases(&node)?.len();
        ensure(
            held == attached.len(),
            format!(
                "{held} leases of {} pods after kill {kills}\n{}",
                attached.len(),
                node.said()
            ),
        )?;
    }
    println!(
        "{kills} kills in {:?}; {cut} ADDs cut short",
        began.elapsed()
    );
    ensure(kills >= 15, format!("only {kills} kills"))?;
    all_work(&node, &attached)?;
    for (container, _pod, result) in &attached {
        network.del(container, Some(result))?;
    }
    has_room_for_all(&node)
}

/// The plugin itself, so that it can be killed.
fn plugin(node: &LabNode, verb: &str, container: &Container) -> Result<Child> {
    let mut child = node
        .machine()
        .own("weft-cni")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &container.id)
        .env("CNI_NETNS", &container.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let conf = json!({ "cniVersion": "1.0.0", "name": "weft", "type": "weft-cni" });
    if let Some(mut stdin) = child.stdin.take() {
        // It may have been killed before it reads.
        let _ = stdin.write_all(conf.to_string().as_bytes());
    }
    Ok(child)
}

pub(super) fn a_plugin_killed_at_any_moment_leaks_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&["--node-prefix", "28"])?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let mut moments = Moments::new();
    let mut attached = Vec::new();
    for count in 0..60 {
        let (next, pod) = container(&node, &format!("k{count}"))?;
        let mut child = plugin(&node, "ADD", &next)?;
        thread::sleep(moments.below(Duration::from_millis(12)));
        // One that is done already has its answer printed.
        child.kill()?;
        let output = child.wait_with_output()?;
        match serde_json::from_slice::<Value>(&output.stdout) {
            Ok(result) if output.status.success() => attached.push((next, pod, result)),
            _ => {
                let mut child = plugin(&node, "DEL", &next)?;
                thread::sleep(moments.below(Duration::from_millis(12)));
                child.kill()?;
                child.wait()?;
                // As runtimes do, until it says that it is done.
                network.del(&next, None)?;
            }
        }
        if attached.len() > 5 {
            let (container, ..) = attached.remove(0);
            network.del(&container, None)?;
        }
    }
    all_work(&node, &attached)?;
    for (container, _pod, result) in &attached {
        network.del(container, Some(result))?;
    }
    has_room_for_all(&node)
}

pub(super) fn twenty_adds_at_once_are_all_done() -> Result<()> {
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    ready(&node)?;
    let network = network(&node, "1.0.0", &[])?;
    let made: Result<Vec<_>> = (0..20)
        .map(|n| container(&node, &format!("p{n}")))
        .collect();
    let made = made?;
    let began = Instant::now();
    let results: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = made
            .iter()
            .map(|(container, _)| scope.spawn(|| network.add(container)))
            .collect();
        calls
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    println!("20 ADDs at once: {:?}", began.elapsed());
    let mut pods = Vec::new();
    for ((container, pod), result) in made.into_iter().zip(results) {
        let result = result.map_err(|_| anyhow::anyhow!("the runtime panicked"))??;
        pods.push((container, pod, result));
    }
    all_work(&node, &pods)?;
    for (container, ..) in &pods {
        network.del(container, None)?;
    }
    wait_empty(&node)
}
