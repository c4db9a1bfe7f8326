//! What a demo does, step by step.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::capture::{Capture, Hosts, Watch};
use super::net::{NetError, Netns, Node, Privilege, Segment, enter};
use super::stage::{Pod, Stage, nobody};
use super::steps::{Report, Steps};
use super::{Machine, StepError, lookup, page};

/// For benchmarks (RFC 2544) and for documentation (RFC 3849): nobody's real network.
const UNDERLAY: (&str, &str) = ("198.18.0.0/24", "2001:db8::/64");
const MTU: u32 = 1500;
const PORT: u16 = 6783;
/// The default pool, and every unique local address: the mesh's own is one of them.
const POOLS: [&str; 2] = ["10.32.0.0/12", "fc00::/7"];
/// Where cleartext is sent to see that the capture sees: the discard service.
const DISCARD: u16 = 9;
const NAME: &str = "web.weft.local";
const AGENT_START: Duration = Duration::from_secs(20);
const AGENT_STOP: Duration = Duration::from_secs(5);
const NAME_PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(10);

/// Plays it all, but for the end.
pub(super) fn play(stage: &mut Stage, steps: &mut Steps, nodes: usize) -> Result<(), StepError> {
    let dir = steps.take("namespaces", || namespaces(stage))?;
    steps.take("underlay", || build(stage, dir, nodes))?;
    let secret = secret()?;
    steps.take("capture", || watch(stage, &secret))?;
    let mesh_ms = steps.take("mesh", || mesh(stage))?;
    steps.report.mesh_ms = Some(mesh_ms);
    steps.take("pods", || pods(stage))?;
    let found = steps.take("name", || name(stage))?;
    let text = format!("Woven through the mesh. {secret}\n");
    steps.take("page", || {
        let [web, _] = stage.pair()?;
        let server = page::start(&stage.machines[web.machine], &web.netns, &text)?;
        stage.server = Some(server);
        fetch(stage, &found, &text)
    })?;
    let seen = steps.take("sealed", || sealed(stage));
    steps.report.plaintext_packets = stage.plaintext();
    seen
}

/// Takes everything down that stands, the youngest first.
pub(super) fn clean_up(stage: &mut Stage, steps: &mut Steps) -> Result<(), StepError> {
    steps.take("clean-up", || {
        let mut failures = Vec::new();
        stage.server = None;
        for pod in std::mem::take(&mut stage.pods) {
            if let Err(error) = plugin(&stage.machines[pod.machine], "DEL", &pod) {
                failures.push(error.to_string());
            }
        }
        let agents = stage.machines.len();
        // All are asked before the first is waited for, so that they say goodbye side by side.
        for agent in stage.machines.iter_mut().filter_map(Machine::agent) {
            // One that has ended already says so below.
            let _ = agent.signal(Signal::TERM);
        }
        for machine in &mut stage.machines {
            let name = machine.name().to_owned();
            let Some(agent) = machine.agent() else {
                continue;
            };
            match agent.stop(AGENT_STOP) {
                Ok(status) if status.success() => {}
                Ok(status) => failures.push(format!("the agent of {name} ended with {status}")),
                Err(error) => failures.push(format!("stop the agent of {name}: {error}")),
            }
        }
        *stage = Stage::default();
        if failures.is_empty() {
            return Ok(((), format!("{agents} agents stopped, nothing is left")));
        }
        Err(StepError(failures.join("\n")))
    })
}

/// The last line of a demo.
pub(super) fn summary(report: &Report, nodes: u8) -> String {
    match (report.mesh_ms, report.plaintext_packets) {
        (Some(ms), Some(plain)) if report.ok => format!(
            "{nodes} nodes were one mesh {ms:.0} ms after the last one started; \
             {plain} packets crossed the underlay in the clear."
        ),
        _ => {
            let failed = report.steps.iter().find(|step| !step.ok);
            format!(
                "It failed at: {}",
                failed.map_or("nothing", |step| step.name)
            )
        }
    }
}

fn namespaces(stage: &mut Stage) -> Result<(PathBuf, String), StepError> {
    let entered = enter("weft-demo")?;
    stage.privilege = Some(entered.privilege);
    let whose = match entered.privilege {
        Privilege::Root => "network and mounts of our own, as root",
        Privilege::UserNamespace => "user, network and mounts of our own, without root",
    };
    Ok((entered.dir, whose.to_owned()))
}

fn build(stage: &mut Stage, dir: PathBuf, nodes: usize) -> Result<((), String), StepError> {
    let netns = Netns::new("underlay")?;
    let bad = |error| StepError(format!("the underlay's range: {error}"));
    let ranges = (
        UNDERLAY.0.parse().map_err(bad)?,
        UNDERLAY.1.parse().map_err(bad)?,
    );
    let segment = Segment::new(&netns, "wan", ranges, MTU)?;
    let mut ports = Vec::new();
    for host in (2..).take(nodes) {
        let node = Node::new(&dir, &format!("node-{}", host - 1))?;
        ports.push(segment.attach(&netns, node.netns(), "eth0", host)?);
        stage.machines.push(Machine::new(node));
    }
    let places: Vec<_> = stage
        .machines
        .iter()
        .map(|machine| machine.node().netns())
        .zip(&ports)
        .collect();
    Segment::introduce(&places)?;
    stage.underlay = Some((segment, netns));
    let detail = format!(
        "{nodes} nodes on a bridge, {} and {}",
        UNDERLAY.0, UNDERLAY.1
    );
    Ok(((), detail))
}

/// Bytes that only this run knows, to be looked for in everything that is sent.
fn secret() -> Result<String, StepError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StepError(format!("random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Starts the capture, and sends cleartext past it to see that it would be seen.
fn watch(stage: &mut Stage, secret: &str) -> Result<((), String), StepError> {
    let (segment, netns) = stage.underlay()?;
    let pools: Result<Vec<IpNet>, _> = POOLS.iter().map(|pool| pool.parse()).collect();
    let watch = Watch {
        port: PORT,
        pools: pools.map_err(|error| StepError(format!("the pools: {error}")))?,
        secrets: vec![secret.as_bytes().to_vec()],
        hosts: Hosts::Silent,
    };
    let capture = Capture::start(netns, segment.bridge(), watch)?;
    let (to, _) = segment.addresses(3)?;
    let first = stage.machines.first().ok_or_else(nobody)?;
    let socket = first.node().netns().run(|| {
        UdpSocket::bind("0.0.0.0:0").map_err(|source| NetError::Io {
            act: "bind a socket".to_owned(),
            source,
        })
    })?;
    socket
        .send_to(b"anybody can read this", (to.addr(), DISCARD))
        .map_err(StepError::io("send cleartext"))?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while capture.counts().plaintext == 0 {
        if Instant::now() > deadline {
            return Err(StepError("the capture did not see cleartext".to_owned()));
        }
        thread::sleep(TICK);
    }
    // The answer to it, that nobody listens, may still be under way.
    thread::sleep(TICK);
    capture.reset();
    stage.capture = Some(capture);
    Ok((
        (),
        "saw the cleartext that we sent to try it; counting from now".to_owned(),
    ))
}

/// Starts the agents, each told of the first alone; how long the last one took to be in the mesh.
fn mesh(stage: &mut Stage) -> Result<(f64, String), StepError> {
    let (first, others) = stage.machines.split_first_mut().ok_or_else(nobody)?;
    first.start(&[])?;
    first.wait_ready(AGENT_START)?;
    let line = first.join_line()?;
    for machine in others.iter_mut() {
        machine.start(&["--join", &line])?;
    }
    let started = Instant::now();
    let count = stage.machines.len();
    let patience = Duration::from_secs(20 + count as u64);
    let deadline = started + patience;
    for machine in &mut stage.machines {
        machine.wait_ready(deadline.saturating_duration_since(Instant::now()))?;
        while let Some(missing) = missing(machine, count - 1)? {
            if Instant::now() > deadline {
                let name = machine.name();
                return Err(StepError(format!(
                    "{name} after {} s: {missing}",
                    patience.as_secs()
                )));
            }
            thread::sleep(TICK);
        }
    }
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    let pairs = count * (count - 1) / 2;
    let tunnels = if pairs == 1 { "tunnel" } else { "tunnels" };
    let detail = format!("{count} agents, {pairs} {tunnels}, each node told of one other");
    Ok((ms, detail))
}

/// What a node still lacks of `peers` established peers.
fn missing(machine: &Machine, peers: usize) -> Result<Option<String>, StepError> {
    let status = machine.status()?;
    let listed = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let up = listed
        .iter()
        .filter(|peer| peer["state"] == "established")
        .count();
    if up == peers {
        return Ok(None);
    }
    let down: Vec<String> = listed
        .iter()
        .filter(|peer| peer["state"] != "established")
        .map(|peer| format!("{}: {} {}", peer["name"], peer["state"], peer["detail"]))
        .collect();
    Ok(Some(format!(
        "{up} of {peers} peers established; {}",
        down.join("; ")
    )))
}

/// Attaches a pod to the last node and one to the first.
fn pods(stage: &mut Stage) -> Result<((), String), StepError> {
    let last = stage.machines.len().saturating_sub(1);
    let mut details = Vec::new();
    for (name, machine) in [("web", last), ("client", 0)] {
        let mut pod = Pod {
            name,
            machine,
            netns: Netns::new(name)?,
            addresses: Vec::new(),
        };
        let machine = stage.machines.get(machine).ok_or_else(nobody)?;
        let result = plugin(machine, "ADD", &pod)?;
        let ips = result["ips"].as_array().map_or(&[][..], Vec::as_slice);
        pod.addresses = ips
            .iter()
            .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
            .collect();
        details.push(format!(
            "{name} on {}: {}",
            machine.name(),
            list(&pod.addresses)
        ));
        stage.pods.push(pod);
    }
    Ok(((), details.join("\n")))
}

fn plugin(machine: &Machine, verb: &str, pod: &Pod) -> Result<Value, StepError> {
    let netns = pod.netns.path().display().to_string();
    let parameters = [
        ("CNI_CONTAINERID", pod.name),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "weft",
        "type": "weft-cni",
        "args": {"weft": {"name": pod.name}},
    });
    machine.plugin(verb, &parameters, &configuration)
}

/// Looks the one pod's name up from inside the other.
fn name(stage: &Stage) -> Result<(Vec<IpAddr>, String), StepError> {
    let [web, client] = stage.pair()?;
    let machine = &stage.machines[client.machine];
    let status = machine.status()?;
    let server = status["mesh"]["addresses"][0]
        .as_str()
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| StepError(format!("{} has no address in the mesh", machine.name())))?;
    let deadline = Instant::now() + NAME_PATIENCE;
    let found = loop {
        let found = lookup(machine, &client.netns, server, NAME);
        match found {
            Ok(found) if same(&found, &web.addresses) => break found,
            Ok(found) if Instant::now() > deadline => {
                return Err(StepError(format!(
                    "{NAME} is {}, and not {}",
                    list(&found),
                    list(&web.addresses)
                )));
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => thread::sleep(TICK),
        }
    };
    let detail = format!("{NAME} is {}, says {}", list(&found), machine.name());
    Ok((found, detail))
}

/// Fetches the page at each of its addresses.
fn fetch(stage: &Stage, addresses: &[IpAddr], text: &str) -> Result<((), String), StepError> {
    let [_, client] = stage.pair()?;
    let machine = &stage.machines[client.machine];
    let mut details = Vec::new();
    for address in addresses {
        let fetched = page::get(machine, &client.netns, *address)?;
        if fetched.page != text {
            return Err(StepError(format!(
                "{address} served another page: {:?}",
                fetched.page
            )));
        }
        details.push(format!("from {address} in {:.1} ms", fetched.ms));
    }
    Ok(((), details.join("\n")))
}

/// What crossed the underlay.
fn sealed(stage: &Stage) -> Result<((), String), StepError> {
    let capture = stage.capture.as_ref().ok_or_else(nobody)?;
    let counts = capture.counts();
    let told = format!(
        "{} WireGuard, {} sealed control, {} ARP and the like, {} in the clear",
        counts.wireguard, counts.control, counts.noise, counts.plaintext
    );
    if counts.plaintext > 0 {
        let kinds = counts
            .samples
            .iter()
            .map(|(kind, count)| format!("\n{count} x {kind}"));
        return Err(StepError(format!("{told}{}", kinds.collect::<String>())));
    }
    if counts.kernel_dropped > 0 {
        let lost = counts.kernel_dropped;
        return Err(StepError(format!("{told}; {lost} frames went by unseen")));
    }
    if counts.wireguard == 0 {
        return Err(StepError(format!(
            "{told}: the page did not come through a tunnel"
        )));
    }
    Ok(((), told))
}

fn same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    let sorted = |addresses: &[IpAddr]| {
        let mut addresses = addresses.to_vec();
        addresses.sort();
        addresses
    };
    sorted(one) == sorted(other)
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
