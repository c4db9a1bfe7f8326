//! The tasks of a node: listening, looking whom to dial, the clock, the disk.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::debug;

use super::connection;
use super::dial::{Connected, Target, Wanted};
use super::dialling;
use super::node::{Node, chance, lock};
use super::record::Body;

const DIAL_LOOK: Duration = Duration::from_millis(200);
/// Changes of the records are gathered this long before they are written.
const SAVE_GATHER: Duration = Duration::from_millis(300);
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// The tasks of connections, which end by themselves.
pub(super) type Connections = Arc<Mutex<JoinSet<()>>>;

pub(super) async fn listen(node: Arc<Node>, listener: TcpListener, connections: Connections) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: it passes, or status shows it.
                debug!(%error, "accept");
                node.count("connections not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admitted = lock(&node.admission).admit(address.ip(), Instant::now());
        if let Err(counter) = admitted {
            node.count(counter);
            continue;
        }
        let half_open = HalfOpen {
            node: Arc::clone(&node),
            source: address.ip(),
        };
        let task = {
            let node = Arc::clone(&node);
            async move {
                let opened = connection::accept(&node, stream, address).await;
                drop(half_open);
                match opened {
                    Ok((member, channel)) => connection::run(&node, member, channel).await,
                    Err(error) => debug!(%address, %error, "connection refused"),
                }
            }
        };
        spawn(&connections, task);
    }
}

/// A connection that was admitted and has not proven anything yet.
struct HalfOpen {
    node: Arc<Node>,
    source: IpAddr,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        lock(&self.node.admission).opened(self.source);
    }
}

/// Dials whoever is due.
pub(super) async fn dial(node: Arc<Node>, connections: Connections) {
    loop {
        for target in due(&node) {
            let node = Arc::clone(&node);
            spawn(&connections, async move {
                dialling::attempt(&node, target).await
            });
        }
        tokio::time::sleep(DIAL_LOOK).await;
    }
}

/// Lets time pass for the core.
pub(super) async fn clock(node: Arc<Node>) {
    loop {
        let deadline = node.look(super::core::Core::deadline);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(1));
        if deadline > Instant::now() {
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => {}
                () = node.wake.notified() => continue,
            }
        }
        node.drive(|core, now| core.tick(now));
    }
}

/// Keeps the files in step.
pub(super) async fn save(node: Arc<Node>) {
    loop {
        node.save.notified().await;
        tokio::time::sleep(SAVE_GATHER).await;
        let writer = Arc::clone(&node);
        let written = tokio::task::spawn_blocking(move || writer.write_changes()).await;
        let Ok(written) = written.map(|written| written.map_err(|error| error.to_string())) else {
            continue;
        };
        let failed = written.is_err();
        // It is said in the log and the status.
        node.drive(|core, _| core.written(written));
        if failed {
            node.count("writes failed");
            tokio::time::sleep(SAVE_AGAIN).await;
            node.save.notify_one();
        }
    }
}

/// Writes what must be on disk before it is used.
pub(super) async fn keep(node: Arc<Node>) {
    let mut written = None;
    loop {
        node.keep.notified().await;
        let writer = Arc::clone(&node);
        let known = written.take();
        let kept = tokio::task::spawn_blocking(move || writer.keep_waiting(known)).await;
        written = kept.unwrap_or_default();
    }
}

fn spawn(connections: &Connections, task: impl Future<Output = ()> + Send + 'static) {
    let mut set = lock(connections);
    while set.try_join_next().is_some() {}
    set.spawn(task);
}

fn due(node: &Node) -> Vec<Target> {
    let config = &node.config;
    let own = node.identity.id();
    let known = node.look(|core| {
        let others = core.records().values().filter(|r| r.id() != own);
        let nodes: Vec<_> = others
            .map(|record| Wanted {
                target: Target::Node(record.id()),
                mark: mark(&record.body),
            })
            .collect();
        (!core.is_forgotten()).then_some(nodes)
    });
    let nodes = match known {
        Some(None) => return Vec::new(),
        Some(Some(nodes)) => nodes,
        None => Vec::new(),
    };
    let join = config.join.iter().flat_map(|j| &j.hosts);
    let seeds = join.chain(&config.peers).map(|seed| Wanted {
        target: Target::Seed(seed.clone()),
        mark: 0,
    });
    let mut wanted: Vec<_> = seeds.chain(nodes).collect();
    wanted.sort();
    wanted.dedup();
    let conns = lock(&node.conns);
    let connected = Connected {
        is: &|id| conns.is_connected(id),
        outbound: conns.outbound(),
    };
    lock(&node.targets).due(&wanted, &connected, Instant::now(), chance())
}

/// Changes when the node starts again or is elsewhere.
fn mark(body: &Body) -> u64 {
    let mut hasher = DefaultHasher::new();
    (body.stamp.generation, &body.endpoints).hash(&mut hasher);
    hasher.finish()
}
