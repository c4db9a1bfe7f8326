//! One connection: taking it in, and its life from the first message to the last.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::channel::{self, Channel, ChannelError, Receiver, Sender};
use super::conns::{Entered, Entering};
use super::core::Abuse;
use super::dial::Lost;
use super::keyring::KeyState;
use super::message::{Message, Refusal};
use super::node::{Node, chance, lock, unix_now};
use super::session::{self, Greeter, Member, SessionError};
use super::socket;
use crate::NodeId;

/// A connection says something at least this often, and is dead when silent for the longer time.
const PING_EVERY: Duration = Duration::from_secs(4);
const SILENCE: Duration = Duration::from_secs(12);

/// How far, in seconds, another's clock may be ahead where a secret's age is told.
const CLOCK_AHEAD: u64 = 24 * 3600;

/// Takes an inbound connection as far as a member that is let in.
pub(super) async fn accept(
    node: &Arc<Node>,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<(Member, Channel<TcpStream>), SessionError> {
    let source = address.ip();
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
    greeter(node, false)
        .introduce(&mut channel, address)
        .await?;
    let member = match session::meet(&mut channel, address).await {
        Ok(member) => member,
        // The other has met this node already, or closed: no offence.
        Err(error @ SessionError::Channel(ChannelError::Closed)) => return Err(error),
        Err(error) => {
            node.count("hellos refused");
            lock(&node.admission).charge(source, Instant::now());
            hear_refusal(node, &error);
            return Err(error);
        }
    };
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

pub(super) fn greeter(node: &Node, joining: bool) -> Greeter<'_> {
    Greeter {
        identity: &node.identity,
        instance: node.instance,
        joining,
    }
}

pub(super) fn meet_oneself(node: &Node, member: &Member) {
    if member.instance != node.instance {
        let address = member.address.to_string();
        node.drive(|core, now| core.met_clone(&address, now));
    }
}

/// Learns from the other's refusal that this node was forgotten.
pub(super) fn hear_refusal(node: &Node, error: &SessionError) {
    if let SessionError::Refused(refusal) = error
        && let Refusal::Forgotten(statement) = &**refusal
    {
        let statement = (**statement).clone();
        node.drive(|core, now| core.told_forgotten(statement, now));
    }
}

/// A connection from its first message to its last.
pub(super) async fn run(node: &Arc<Node>, member: Member, channel: Channel<TcpStream>) {
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
        admission.charge(member.address.ip(), now);
    }
    sender.finish().await;
    let error = end.map(|e| e.to_string());
    debug!(peer = %id.short(), ?error, "disconnected");
    let was_last = lock(&node.conns).leave(id, serial);
    if was_last {
        node.drive(|core, _| {
            // Under the core's lock: a connection that came since has said that it is there.
            if !lock(&node.conns).is_connected(id) {
                core.disconnected(id);
            }
        });
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
            Message::Refused(Refusal::Forgotten(statement)) => {
                node.drive(|core, now| core.told_forgotten(*statement, now));
                return End::Refused;
            }
            Message::Refused(_) => return End::Refused,
            mut message => {
                if let Message::Keys { keys } = &mut message {
                    let latest = unix_now().saturating_add(CLOCK_AHEAD);
                    keys.iter_mut().for_each(|key| key.cap(latest));
                }
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
