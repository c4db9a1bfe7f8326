//! The tasks of a node: listening, dialling, the clock, the disk, and one for each connection.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::channel::{self, Channel, ChannelError, Receiver, Sender};
use super::conns::{Entered, Entering};
use super::core::Abuse;
use super::dial::{Connected, Failure, Lost, Target};
use super::keyring::KeyState;
use super::message::{Message, Refusal};
use super::node::{Node, lock, random};
use super::record::Rules;
use super::session::{self, Greeter, Member, SessionError};
use super::socket;
use crate::{Endpoint, NodeId};

/// Connections that have not proven anything yet.
const HALF_OPEN: usize = 64;
/// A connection says something at least this often, and is dead when silent for the longer time.
const PING_EVERY: Duration = Duration::from_secs(4);
const SILENCE: Duration = Duration::from_secs(12);
/// Each further address of a target is tried this much later, the first that answers is taken.
const STAGGER: Duration = Duration::from_millis(250);
const DIAL_LOOK: Duration = Duration::from_millis(200);
/// Changes of the records are gathered this long before they are written.
const SAVE_GATHER: Duration = Duration::from_millis(300);
const SAVE_AGAIN: Duration = Duration::from_secs(5);
/// Addresses that a name may stand for.
const MAX_RESOLVED: usize = 16;

/// The tasks of connections, which end by themselves.
pub(super) type Connections = Arc<Mutex<JoinSet<()>>>;

pub(super) async fn listen(node: Arc<Node>, listener: TcpListener, connections: Connections) {
    let half_open = Arc::new(Semaphore::new(HALF_OPEN));
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
        let source = address.ip().to_canonical();
        if !lock(&node.admission).admit(source, Instant::now()) {
            node.count("connections refused: too many from one source");
            continue;
        }
        let Ok(permit) = Arc::clone(&half_open).try_acquire_owned() else {
            node.count("connections refused: too many half open");
            continue;
        };
        let task = {
            let node = Arc::clone(&node);
            async move {
                let opened = accept(&node, stream, address).await;
                drop(permit);
                match opened {
                    Ok((member, channel)) => run(&node, member, channel).await,
                    Err(error) => debug!(%address, %error, "connection refused"),
                }
            }
        };
        spawn(&connections, task);
    }
}

/// Dials whoever is due.
pub(super) async fn dial(node: Arc<Node>, connections: Connections) {
    loop {
        for target in due(&node) {
            let node = Arc::clone(&node);
            spawn(&connections, async move { attempt(&node, target).await });
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
        if let Ok(Err(error)) = written {
            node.count("writes failed");
            warn!(%error, "state not written, trying again");
            tokio::time::sleep(SAVE_AGAIN).await;
            node.save.notify_one();
        }
    }
}

fn spawn(connections: &Connections, task: impl Future<Output = ()> + Send + 'static) {
    let mut set = lock(connections);
    while set.try_join_next().is_some() {}
    set.spawn(task);
}

fn due(node: &Node) -> Vec<Target> {
    let config = &node.config;
    let join = config.join.iter().flat_map(|j| &j.hosts);
    let seeds = join.chain(&config.peers).cloned().map(Target::Seed);
    let known = node.look(|core| {
        if core.is_forgotten() {
            return None;
        }
        let own = node.identity.id();
        Some(
            core.records()
                .keys()
                .copied()
                .filter(|id| *id != own)
                .collect(),
        )
    });
    let nodes: Vec<NodeId> = match known {
        Some(None) => return Vec::new(),
        Some(Some(nodes)) => nodes,
        None => Vec::new(),
    };
    let mut wanted: Vec<_> = seeds.chain(nodes.into_iter().map(Target::Node)).collect();
    wanted.sort();
    wanted.dedup();
    let conns = lock(&node.conns);
    let connected = Connected {
        is: &|id| conns.is_connected(id),
        outbound: conns.outbound(),
    };
    lock(&node.targets).due(&wanted, &connected, Instant::now(), chance())
}

/// One dial of `target`, and the connection if it comes to one.
async fn attempt(node: &Arc<Node>, target: Target) {
    let failures = lock(&node.targets).failures(&target);
    let failed = |error: String, refused: bool| {
        let why = Failure { error, refused };
        lock(&node.targets).failed(&target, why, Instant::now(), chance());
    };
    let addresses = addresses(node, &target).await;
    if addresses.is_empty() {
        return failed("no address to dial".into(), false);
    }
    let mut dials: FuturesUnordered<_> = (0_u32..)
        .zip(&addresses)
        .map(|(turn, address)| async move {
            tokio::time::sleep(STAGGER * turn).await;
            (*address, open(node, *address, failures).await)
        })
        .collect();
    let mut error = None;
    while let Some((address, result)) = dials.next().await {
        lock(&node.targets).tried(&target, address);
        match result {
            Ok((member, channel)) => {
                drop(dials);
                lock(&node.targets).succeeded(&target, member.id, address);
                node.remember(member.id, address);
                if matches!(target, Target::Node(id) if id != member.id) {
                    failed(
                        format!("{address} is another node, {}", member.id.short()),
                        false,
                    );
                }
                return run(node, member, channel).await;
            }
            Err(e) => error = Some(e),
        }
    }
    match error {
        Some(DialError::Session(SessionError::Refused(refusal))) => {
            let text = SessionError::Refused(refusal.clone()).to_string();
            if let Refusal::Forgotten { tombstone, .. } = *refusal {
                node.drive(|core, now| core.told_forgotten(tombstone, now));
            }
            failed(text, true);
        }
        Some(DialError::Oneself) => failed(DialError::Oneself.to_string(), true),
        Some(other) => failed(other.to_string(), false),
        None => failed("no address answered".into(), false),
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("{0}")]
    Adopt(#[from] super::config::StartError),
    #[error("no token")]
    NoToken,
    #[error("this is the node itself")]
    Oneself,
    #[error("the member there was forgotten")]
    Forgotten,
}

impl From<ChannelError> for DialError {
    fn from(error: ChannelError) -> Self {
        Self::Session(error.into())
    }
}

async fn open(
    node: &Arc<Node>,
    address: SocketAddr,
    failures: u32,
) -> Result<(Member, Channel<TcpStream>), DialError> {
    let mesh = node.mesh().ok_or(DialError::NoToken)?;
    let secret = node.secret_to_dial(failures).ok_or(DialError::NoToken)?;
    let stream = socket::connect(address, node.config.fwmark).await?;
    let mut channel = channel::initiate(stream, &secret, mesh).await?;
    let joining = node.look(|_| ()).is_none();
    let member = greeter(node, joining).greet(&mut channel, address).await?;
    if member.id == node.identity.id() {
        meet_oneself(node, &member);
        return Err(DialError::Oneself);
    }
    // The mesh's newest keys are the other's to judge; what this node has forgotten stays so.
    if let Some(Err(refusal)) = node.look(|core| core.admit(member.id, KeyState::Active)) {
        session::turn_away(&mut channel, *refusal).await;
        return Err(DialError::Forgotten);
    }
    let params = session::welcomed(&mut channel).await?;
    node.adopt(&params)?;
    Ok((member, channel))
}

async fn accept(
    node: &Arc<Node>,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<(Member, Channel<TcpStream>), SessionError> {
    let source = address.ip().to_canonical();
    let Some(params) = node.look(|core| core.params().clone()) else {
        return Err(SessionError::Order);
    };
    socket::prepare(&stream).map_err(ChannelError::from)?;
    let secret = |id| node.secret(id);
    let is_new = |ephemeral| lock(&node.admission).is_new(ephemeral);
    let opened = channel::respond(stream, params.id(), secret, is_new).await;
    let mut channel = opened.inspect_err(|error| {
        node.count(match error {
            ChannelError::Prelude => "handshakes refused: not weft",
            ChannelError::UnknownKey => "handshakes refused: unknown key",
            ChannelError::Sealed => "handshakes refused: wrong secret",
            ChannelError::Replay => "handshakes refused: replay",
            ChannelError::Deadline(_) => "handshakes refused: too slow",
            _ => "handshakes broken off",
        });
        lock(&node.admission).charge(source, Instant::now());
    })?;
    let member = greeter(node, false).greet(&mut channel, address).await;
    let member = member.inspect_err(|_| {
        node.count("hellos refused");
        lock(&node.admission).charge(source, Instant::now());
    })?;
    let own = node.identity.id();
    let refusal = if member.id == own {
        meet_oneself(node, &member);
        Some(Box::new(Refusal::Cloned))
    } else if lock(&node.admission).is_penalised(member.id, Instant::now()) {
        node.count("members refused: penalty");
        Some(Box::new(Refusal::Penalty))
    } else {
        let state = node.look(|core| core.keyring().get(channel.key).map(|(_, state)| state));
        let state = state.flatten().unwrap_or(KeyState::Retired);
        let judged = node.look(|core| core.admit(member.id, state));
        judged.and_then(Result::err)
    };
    if let Some(refusal) = refusal {
        node.count("members refused");
        session::turn_away(&mut channel, (*refusal).clone()).await;
        return Err(SessionError::Refused(refusal));
    }
    let params = if member.joining { params.encoded() } else { "" };
    session::welcome(&mut channel, params).await?;
    Ok((member, channel))
}

fn greeter(node: &Node, joining: bool) -> Greeter<'_> {
    Greeter {
        identity: &node.identity,
        instance: node.instance,
        joining,
    }
}

fn meet_oneself(node: &Node, member: &Member) {
    if member.instance != node.instance {
        let address = member.address.to_string();
        node.drive(|core, now| core.met_clone(&address, now));
    }
}

/// A connection from its first message to its last.
async fn run(node: &Arc<Node>, member: Member, channel: Channel<TcpStream>) {
    let Channel {
        mut sender,
        mut receiver,
        role,
        ..
    } = channel;
    let id = member.id;
    let entering = Entering {
        id,
        role,
        instance: member.instance,
        address: member.address,
    };
    let Some(entered) = lock(&node.conns).enter(entering, Instant::now()) else {
        return sender.finish().await;
    };
    let Entered {
        serial,
        inbox,
        stop,
    } = entered;
    node.drive(|core, now| core.connected(id, Some(member.observed), now));
    debug!(peer = %id.short(), address = %member.address, ?role, "connected");
    let begun = Instant::now();
    let end = {
        let read = pin!(read(node, id, &mut receiver));
        let write = pin!(write(&mut sender, inbox));
        tokio::select! {
            end = read => Some(end),
            end = write => end.err().map(End::Channel),
            () = stop.notified() => None,
        }
    };
    if let Some(End::Abuse(abuse)) = &end {
        warn!(peer = %id.short(), address = %member.address, "bad message: {abuse}");
        node.count("connections ended: bad message");
        let now = Instant::now();
        let mut admission = lock(&node.admission);
        admission.penalise(id, now);
        admission.charge(member.address.ip().to_canonical(), now);
    }
    sender.finish().await;
    let error = end.map(|e| e.to_string());
    debug!(peer = %id.short(), ?error, "disconnected");
    let was_current = lock(&node.conns).leave(id, serial);
    if was_current {
        node.drive(|core, _| core.disconnected(id));
        let lost = Lost {
            error,
            lived: begun.elapsed(),
        };
        lock(&node.targets).lost(id, lost, Instant::now(), chance());
    }
}

#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Channel(ChannelError),
    #[error("{0}")]
    Abuse(Abuse),
    #[error("silent for {} s", SILENCE.as_secs())]
    Silence,
    #[error("refused by the other side")]
    Refused,
}

async fn read(node: &Arc<Node>, id: NodeId, receiver: &mut Receiver<TcpStream>) -> End {
    loop {
        let message = match tokio::time::timeout(SILENCE, receiver.receive()).await {
            Err(_) => return End::Silence,
            Ok(Ok(message)) => message,
            Ok(Err(error @ (ChannelError::Malformed(_) | ChannelError::TooLarge))) => {
                node.count("messages refused: malformed");
                return End::Abuse(Abuse(error.to_string()));
            }
            Ok(Err(error)) => return End::Channel(error),
        };
        match message {
            Message::Ping => {}
            Message::Refused(Refusal::Forgotten { tombstone, .. }) => {
                node.drive(|core, now| core.told_forgotten(tombstone, now));
                return End::Refused;
            }
            Message::Refused(_) => return End::Refused,
            message => {
                let heard = node.drive(|core, now| core.receive(id, message, now));
                if let Some(Err(abuse)) = heard {
                    return End::Abuse(abuse);
                }
            }
        }
    }
}

/// Sends until the outbox is closed and empty.
async fn write(
    sender: &mut Sender<TcpStream>,
    mut inbox: mpsc::Receiver<Message>,
) -> Result<(), ChannelError> {
    loop {
        match tokio::time::timeout(PING_EVERY, inbox.recv()).await {
            Ok(Some(message)) => sender.send(&message).await?,
            Ok(None) => return Ok(()),
            Err(_) => sender.send(&Message::Ping).await?,
        }
    }
}

/// What to dial for `target`, the likeliest first; never an address inside the mesh.
async fn addresses(node: &Node, target: &Target) -> Vec<SocketAddr> {
    let endpoints: Vec<Endpoint> = match target {
        Target::Seed(endpoint) => vec![endpoint.clone()],
        Target::Node(id) => {
            let worked = lock(&node.worked).get(id).copied();
            let told = node.look(|core| {
                let record = core.records().get(id)?;
                Some(record.body.endpoints.clone())
            });
            let worked = worked.map(Endpoint::Address);
            worked
                .into_iter()
                .chain(told.flatten().into_iter().flatten())
                .collect()
        }
    };
    let rules = node.look(|core| core.rules().clone());
    let allowed =
        |rules: Option<&Rules>, a: &SocketAddr| rules.is_none_or(|r| r.allows_host(a.ip()));
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for endpoint in endpoints {
        let resolved: Vec<_> = match endpoint {
            Endpoint::Address(address) => vec![address],
            Endpoint::Name { host, port } => {
                match tokio::net::lookup_host((host.as_str(), port)).await {
                    Ok(found) => found.take(MAX_RESOLVED).collect(),
                    Err(error) => {
                        debug!(%host, %error, "name not resolved");
                        Vec::new()
                    }
                }
            }
        };
        for address in resolved {
            let own = node.listening.contains(&address);
            if !own && allowed(rules.as_ref(), &address) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}

/// For jitter and choice; without random bytes it is all the same to us.
fn chance() -> u64 {
    random().map_or(0, u64::from_be_bytes)
}
