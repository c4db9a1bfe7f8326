//! One agent among a thousand nodes, from the real manifest and under the real API server. The other
//! nodes are objects (`objects`) and a process that answers for all of them (`responder`).

mod objects;
mod responder;
mod store;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use weft_router::control::{self, ControlReply, ControlRequest, PeerState, PeerStatus};
use weft_tests::cluster::{Cluster, Dns, FIRST_NODE, Lifetime, Options};
use weft_tests::lab::{ensure, eventually};

use self::objects::{ADDRESS, PEERS, PODS, name, node, pod, public_key, weft_node};
use self::responder::Agent;
use crate::cluster::dir;
use crate::figures::Figure;
use crate::usage;

/// The first argument of the responder's process.
pub(crate) const RESPONDER: &str = "--weft-responder";
pub(crate) use responder::run as respond;

const PATIENCE: Duration = Duration::from_secs(300);
/// After every peer was found alive, or dead; then the time that is looked at, of which three.
const SETTLE: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(20);
const ROUNDS: usize = 3;
/// How many peers change their key, one after another.
const CHANGES: u32 = 100;
/// Between two looks at the agent's peers: asking for a thousand costs it some.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) fn measure() -> Result<Vec<Figure>> {
    let options = Options {
        nodes: 1,
        dns: Dns::None,
        ..Options::default()
    };
    let mut say = |what: &str| eprintln!("cluster: {what}");
    let cluster = Cluster::up(&dir(), options, Lifetime::Owner, &mut say)?;
    // They would find a thousand nodes dead and their pods orphans.
    for program in ["kube-controller-manager", "kube-scheduler"] {
        cluster.stop_control(program)?;
    }
    let agent = Running::find(&cluster)?;
    let mut responder = Responder::start(&cluster)?;

    let pods: Vec<_> = (0..PODS).map(pod).collect();
    store::put(&cluster, &pods)?;
    let nodes: Vec<_> = (0..PEERS).map(node).collect();
    store::put(&cluster, &nodes)?;
    let told = (0..PEERS).map(|peer| weft_node(peer, 0));
    store::put(&cluster, &told.collect::<Result<Vec<_>>>()?)?;
    eprintln!("{PEERS} nodes and {PODS} pods are in the API");

    agent.wait(PeerState::Unreachable)?;
    let (dead_resident, dead_cpu) = agent.idle()?;
    eprintln!("looked at it with {PEERS} peers that do not answer");

    responder.speak()?;
    let started = Instant::now();
    agent.wait(PeerState::Established)?;
    let healed = started.elapsed().as_secs_f64();
    let (resident, cpu) = agent.idle()?;
    let changes = agent.changes(&cluster)?;
    Ok(vec![
        Figure::median(
            "agent of 1,000 peers: resident",
            "MB",
            Some(100.0),
            resident,
        ),
        Figure::median("agent of 1,000 peers: of a core", "%", Some(1.0), cpu),
        Figure::median(
            "the same, none of which answers: resident",
            "MB",
            Some(100.0),
            dead_resident,
        ),
        Figure::median(
            "the same, none of which answers: of a core",
            "%",
            Some(1.0),
            dead_cpu,
        ),
        Figure::median(
            "from the 1,000 silent peers' answering to all established",
            "s",
            None,
            vec![healed],
        ),
        Figure {
            what: "one of 1,000 changes its key: event to peer set, p99",
            unit: "s",
            most: Some(1.0),
            values: changes,
            quantile: 0.99,
        },
    ])
}

/// The agent of the cluster's node.
struct Running {
    pid: u32,
    socket: PathBuf,
}

impl Running {
    fn find(cluster: &Cluster) -> Result<Self> {
        let pid = cluster.agent(FIRST_NODE)?;
        let socket = format!("/proc/{pid}/root/run/weft/weft.sock").into();
        Ok(Self { pid, socket })
    }

    fn peers(&self) -> Result<Vec<PeerStatus>> {
        match control::ask(&self.socket, &ControlRequest::Status)? {
            ControlReply::Status(status) => Ok(status.peers),
            other => bail!("the agent answered {other:?}"),
        }
    }

    /// Waits until every peer is so. Asked seldom, for that costs it some.
    fn wait(&self, state: PeerState) -> Result<()> {
        let what = format!("{PEERS} peers are {state}");
        eventually(&what, PATIENCE, || {
            thread::sleep(Duration::from_millis(500));
            let count = self
                .peers()?
                .iter()
                .filter(|peer| peer.state == state)
                .count();
            ensure(count == PEERS as usize, format!("{count} are"))
        })
    }

    /// What it has resident, in MB, and takes of a core, in percent, while nothing happens.
    fn idle(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        thread::sleep(SETTLE);
        let (mut resident, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = usage::of(self.pid)?;
            thread::sleep(IDLE);
            let after = usage::of(self.pid)?;
            eprintln!(
                "{:.0} packets a second into the tunnel",
                (after.packets - before.packets) as f64 / IDLE.as_secs_f64()
            );
            resident.push(after.resident as f64 / 1e6);
            cpu.push((after.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0);
        }
        Ok((resident, cpu))
    }

    /// The time from the write of each new key until the agent has that peer, in seconds.
    fn changes(&self, cluster: &Cluster) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for peer in (0..PEERS).step_by((PEERS / CHANGES) as usize) {
            let (name, key) = (name(peer), public_key(peer, 1));
            let entry = weft_node(peer, 1)?;
            let started = Instant::now();
            store::put(cluster, &[entry])?;
            loop {
                let found = self.peers()?.into_iter().find(|peer| peer.name == name);
                if found.is_some_and(|peer| peer.public_key == key) {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    bail!("{name} never got its new key");
                }
                thread::sleep(LOOK);
            }
            times.push(started.elapsed().as_secs_f64());
        }
        Ok(times)
    }
}

/// The process that is all the peers.
struct Responder(Child);

impl Responder {
    fn start(cluster: &Cluster) -> Result<Self> {
        // A node is ready before its agent has told the others of it.
        let own = eventually("the node's WeftNode is there", PATIENCE, || {
            cluster.get(&["weftnode", FIRST_NODE])
        })?;
        let key = own["spec"]["publicKey"].as_str().context("no key")?;
        let key = BASE64.decode(key.as_bytes())?;
        let range = cluster.get(&["node", FIRST_NODE])?;
        let range = range["spec"]["podCIDR"].as_str().context("no range")?;
        let range: ipnet::Ipv4Net = range.parse()?;
        let agent = Agent {
            key: key.try_into().ok().context("no key's length")?,
            address: range.hosts().next().context("an empty range")?,
        };
        let script = "ip address add \"$0/16\" dev wan && ulimit -n 4096 && exec \"$1\" \"$2\"";
        let mut child = cluster
            .outside("sh")?
            .args(["-c", script, ADDRESS])
            .arg(std::env::current_exe()?)
            .arg(RESPONDER)
            .stdin(Stdio::piped())
            .spawn()
            .context("start the responder")?;
        let line = serde_json::to_string(&agent)? + "\n";
        let input = child.stdin.as_mut().context("its input")?;
        input.write_all(line.as_bytes())?;
        Ok(Self(child))
    }

    fn speak(&mut self) -> Result<()> {
        let input = self.0.stdin.as_mut().context("its input")?;
        Ok(input.write_all(b"\n")?)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // It has ended, then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
