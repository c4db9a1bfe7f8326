//! One dial: of a target's addresses the first that answers, then the handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tracing::warn;

use super::channel::{self, Channel, ChannelError};
use super::config::StartError;
use super::connection::{greeter, hear_refusal, meet_oneself, run};
use super::dial::{Failure, Target};
use super::keyring::KeyState;
use super::message::Refusal;
use super::node::{Node, chance, lock};
use super::record::Rules;
use super::session::{self, Member, SessionError};
use super::socket;
use crate::{Endpoint, NodeId};

/// Each further address of a target is tried this much later.
const STAGGER: Duration = Duration::from_millis(250);
const RESOLVE_DEADLINE: Duration = Duration::from_secs(3);
/// Addresses that a name may stand for.
const MAX_RESOLVED: usize = 16;

/// Dials `target`, and stays with the connection if it comes to one.
pub(super) async fn attempt(node: &Arc<Node>, target: Target) {
    let failures = lock(&node.targets).failures(&target);
    let failed = |error: String, refused: bool| {
        let why = Failure {
            error: error.clone(),
            refused,
        };
        let is_news = lock(&node.targets).failed(&target, why, Instant::now(), chance());
        if let (true, None, Target::Seed(host)) = (is_news, node.look(|_| ()), &target) {
            warn!(%host, error, "not joined yet, trying again");
        }
    };
    let addresses = match addresses(node, &target).await {
        Ok(addresses) => addresses,
        Err(why) => return failed(why, false),
    };
    // Only connecting is a race: were two handshakes to come to an end, the other side would drop
    // the one for the other.
    let mut connects: FuturesUnordered<_> = (0_u32..)
        .zip(&addresses)
        .map(|(turn, address)| async move {
            tokio::time::sleep(STAGGER * turn).await;
            (
                *address,
                socket::connect(*address, node.config.fwmark).await,
            )
        })
        .collect();
    let mut error = DialError::NoAddress;
    while let Some((address, stream)) = connects.next().await {
        lock(&node.targets).tried(&target, address);
        let opened = match stream {
            Ok(stream) => open(node, stream, address, failures).await,
            Err(e) => Err(DialError::Io(e)),
        };
        let found = match &opened {
            Ok((member, _)) => Some(member.id),
            Err(DialError::Connected(id)) => Some(*id),
            Err(_) => None,
        };
        if let Some(id) = found {
            let other = matches!(target, Target::Node(wanted) if id != wanted);
            if other {
                error = DialError::Another(id);
            } else {
                lock(&node.targets).succeeded(&target, id, address);
            }
            if let Ok((member, channel)) = opened {
                drop(connects);
                if other {
                    failed(error.to_string(), false);
                }
                node.remember(id, address);
                return run(node, member, channel).await;
            }
            if !other {
                return;
            }
        } else if let Err(e) = opened {
            error = e;
        }
    }
    if let DialError::Session(error) = &error {
        hear_refusal(node, error);
    }
    failed(error.to_string(), error.is_refusal());
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no address answered")]
    NoAddress,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Session(#[from] SessionError),
    #[error("{0}")]
    Adopt(#[from] StartError),
    #[error("no token")]
    NoToken,
    #[error("this is the node itself")]
    Oneself,
    #[error("the member there was forgotten")]
    Forgotten,
    #[error("a node that this one does not know answers, with a retired secret")]
    RetiredKey,
    #[error("connected to {} already", .0.short())]
    Connected(NodeId),
    #[error("another node answers there, {}", .0.short())]
    Another(NodeId),
}

impl DialError {
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Session(SessionError::Refused(_))
                | Self::Oneself
                | Self::Forgotten
                | Self::RetiredKey
        )
    }
}

impl From<ChannelError> for DialError {
    fn from(error: ChannelError) -> Self {
        Self::Session(error.into())
    }
}

/// From a stream to a member. The responder says first who it is, so that one that is not wanted
/// costs it nothing: it takes a connection as the newest when it has heard the initiator.
async fn open(
    node: &Arc<Node>,
    stream: TcpStream,
    address: SocketAddr,
    failures: u32,
) -> Result<(Member, Channel<TcpStream>), DialError> {
    let mesh = node.mesh().ok_or(DialError::NoToken)?;
    let secret = node.secret_to_dial(failures).ok_or(DialError::NoToken)?;
    let mut channel = channel::initiate(stream, &secret, mesh).await?;
    let member = session::meet(&mut channel, address).await?;
    if member.id == node.identity.id() {
        meet_oneself(node, &member);
        return Err(DialError::Oneself);
    }
    if lock(&node.conns).is_connected_to(member.id, member.instance) {
        return Err(DialError::Connected(member.id));
    }
    // As strict as when it dials: whoever has a retired secret only might answer here too.
    let key = channel.key;
    let judged = node.look(|core| {
        let state = core.keyring().get(key).map(|(_, state)| state);
        core.admit(member.id, state.unwrap_or(KeyState::Retired))
    });
    if let Some(Err(refusal)) = judged {
        let error = match *refusal {
            Refusal::RetiredKey => DialError::RetiredKey,
            _ => DialError::Forgotten,
        };
        session::turn_away(&mut channel, *refusal).await;
        return Err(error);
    }
    let joining = node.look(|_| ()).is_none();
    greeter(node, joining)
        .introduce(&mut channel, address)
        .await?;
    let params = session::welcomed(&mut channel).await?;
    node.adopt(&params)?;
    Ok((member, channel))
}

/// What to dial for `target`, the likeliest first, never an address inside the mesh; or why there
/// is nothing.
async fn addresses(node: &Node, target: &Target) -> Result<Vec<SocketAddr>, String> {
    let mut why = "no address to dial".to_owned();
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
                let lookup = tokio::net::lookup_host((host.as_str(), port));
                match tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
                    Ok(Ok(found)) => found.take(MAX_RESOLVED).collect(),
                    Ok(Err(error)) => {
                        why = format!("the name {host} is not resolved: {error}");
                        Vec::new()
                    }
                    Err(_) => {
                        why = format!("the name {host} is not resolved within 3 s");
                        Vec::new()
                    }
                }
            }
        };
        // Names too are looked at only after they are resolved.
        for address in resolved {
            if !allowed(rules.as_ref(), &address) {
                why = format!("{address} lies inside the mesh, or is no other host's address");
            } else if !node.listening.contains(&address) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    if addresses.is_empty() {
        Err(why)
    } else {
        Ok(addresses)
    }
}
