//! From a channel to a member: both ends prove their identities, and the responder says yes or
//! why not.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::channel::{Channel, ChannelError, HANDSHAKE_DEADLINE, Role};
use super::message::{Hello, Message, Refusal};
use super::record::Instance;
use crate::NodeId;
use crate::identity::Identity;

const CONTEXT: &[u8] = b"weft hello v1";

/// The other end of a session, proven.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) instance: Instance,
    /// This node's address as the other sees it.
    pub(super) observed: IpAddr,
    pub(super) address: SocketAddr,
    /// It wants the mesh's parameters.
    pub(super) joining: bool,
}

/// What this node says in its hello.
#[derive(Debug)]
pub(super) struct Greeter<'a> {
    pub(super) identity: &'a Identity,
    pub(super) instance: Instance,
    pub(super) joining: bool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the other side did not prove its identity")]
    Proof,
    #[error("{}", describe(.0))]
    Refused(Box<Refusal>),
    #[error("the other side broke the order of messages")]
    Order,
}

impl Greeter<'_> {
    /// Says who this node is, to whoever is at `address`.
    pub(super) async fn introduce<S>(
        &self,
        channel: &mut Channel<S>,
        address: SocketAddr,
    ) -> Result<(), SessionError>
    where
        S: AsyncRead + AsyncWrite,
    {
        let hello = Hello {
            id: self.identity.id(),
            signature: self.identity.sign(&words(channel.role, &channel.binding)),
            instance: self.instance,
            observed: address.ip().to_canonical(),
            joining: self.joining,
        };
        Ok(channel.sender.send(&Message::Hello(hello)).await?)
    }
}

/// Hears and checks who is at the other end.
pub(super) async fn meet<S>(
    channel: &mut Channel<S>,
    address: SocketAddr,
) -> Result<Member, SessionError>
where
    S: AsyncRead + AsyncWrite,
{
    within(HANDSHAKE_DEADLINE, async {
        let theirs = match channel.receiver.receive().await? {
            Message::Hello(hello) => hello,
            Message::Refused(refusal) => return Err(SessionError::Refused(Box::new(refusal))),
            _ => return Err(SessionError::Order),
        };
        let other = match channel.role {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        };
        let words = words(other, &channel.binding);
        if !theirs.signature.is_by(theirs.id, &words) {
            return Err(SessionError::Proof);
        }
        Ok(Member {
            id: theirs.id,
            instance: theirs.instance,
            observed: theirs.observed.to_canonical(),
            address,
            joining: theirs.joining,
        })
    })
    .await
}

/// The responder's yes: the mesh's parameters, which only a joiner needs.
pub(super) async fn welcome<S>(channel: &mut Channel<S>, params: &str) -> Result<(), SessionError>
where
    S: AsyncRead + AsyncWrite,
{
    let text = params.to_owned();
    Ok(channel.sender.send(&Message::Params { text }).await?)
}

/// Says no, and why.
pub(super) async fn turn_away<S>(channel: &mut Channel<S>, refusal: Refusal)
where
    S: AsyncRead + AsyncWrite,
{
    let _ = channel.sender.send(&Message::Refused(refusal)).await;
    channel.sender.finish().await;
}

/// Waits for the responder's yes.
pub(super) async fn welcomed<S>(channel: &mut Channel<S>) -> Result<String, SessionError>
where
    S: AsyncRead + AsyncWrite,
{
    within(HANDSHAKE_DEADLINE, async {
        match channel.receiver.receive().await? {
            Message::Params { text } => Ok(text),
            Message::Refused(refusal) => Err(SessionError::Refused(Box::new(refusal))),
            _ => Err(SessionError::Order),
        }
    })
    .await
}

fn describe(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Forgotten(statement) => {
            let by = statement.by_name.clone();
            let by = by.unwrap_or_else(|| statement.tombstone.by.short());
            format!("you were forgotten by {by}: this identity is refused from now on")
        }
        Refusal::RetiredKey => {
            "the token's secret was retired: ask for a new one (`weft token create`)".into()
        }
        Refusal::Penalty => "refused for some seconds after a message that breaks the rules".into(),
        Refusal::Cloned => "the other side runs with this node's identity".into(),
        Refusal::Other => "refused for a reason that this version does not know".into(),
    }
}

fn words(role: Role, binding: &[u8; 32]) -> [&[u8]; 3] {
    let role: &[u8] = match role {
        Role::Initiator => b"i",
        Role::Responder => b"r",
    };
    [CONTEXT, role, binding]
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    let late = |_| SessionError::Channel(ChannelError::Deadline(deadline));
    tokio::time::timeout(deadline, work).await.map_err(late)?
}
