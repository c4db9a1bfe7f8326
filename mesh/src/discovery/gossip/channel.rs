//! The sealed channel between two members: a Noise handshake with the mesh's secret as pre-shared
//! key (`NNpsk0`: forward secret, identities proven inside it), then messages.
//!
//! Whoever does not hold a secret of the mesh gets no byte of answer: the first message is
//! authenticated by the secret, and anything else only closes the connection.

use std::sync::Arc;
use std::time::Duration;

use snow::{Builder, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::message::{MAX_MESSAGE, Message};
use super::params::MeshId;
use super::token::{KeyId, Secret};

/// How long a handshake may take.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the first message of a handshake may take: until then nothing is proven.
const FIRST_FLIGHT_DEADLINE: Duration = Duration::from_secs(3);
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// "weft", and the version of this protocol.
const MAGIC: [u8; 5] = *b"weft\x01";
pub(super) const PRELUDE: usize = MAGIC.len() + 8;
/// An ephemeral key and an authentication tag, each way.
pub(super) const FLIGHT: usize = 32 + 16;
/// The most plaintext of one Noise message (65,535 bytes with its tag).
const CHUNK: usize = 65_535 - 16;

/// Which end one is; signed in the hello, so that no hello is sent back to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Initiator,
    Responder,
}

/// Why a channel was not made or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the other side closed without an answer: wrong token, or not weft")]
    NoAnswer,
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    #[error("the first bytes are not weft's")]
    Prelude,
    #[error("a secret that this mesh does not have")]
    UnknownKey,
    #[error("a first message that was seen before")]
    Replay,
    #[error("a message that is not sealed with the mesh's secret")]
    Sealed,
    #[error("a message of more than {MAX_MESSAGE} bytes")]
    TooLarge,
    #[error("a message that cannot be read: {0}")]
    Malformed(serde_json::Error),
    #[error("the other side closed the connection")]
    Closed,
}

#[derive(Debug)]
pub(super) struct Sender<S> {
    state: Arc<StatelessTransportState>,
    nonce: u64,
    stream: WriteHalf<S>,
}

#[derive(Debug)]
pub(super) struct Receiver<S> {
    state: Arc<StatelessTransportState>,
    nonce: u64,
    stream: ReadHalf<S>,
}

/// A channel after the Noise handshake; who is at the other end is not known yet.
#[derive(Debug)]
pub(super) struct Channel<S> {
    pub(super) sender: Sender<S>,
    pub(super) receiver: Receiver<S>,
    /// The handshake's hash, equal at both ends of this connection and nowhere else.
    pub(super) binding: [u8; 32],
    pub(super) role: Role,
    pub(super) key: KeyId,
}

/// Reads what every connection begins with.
pub(super) fn parse_prelude(bytes: &[u8; PRELUDE]) -> Option<KeyId> {
    let (magic, key) = bytes.split_at(MAGIC.len());
    let key = key.try_into().ok()?;
    (magic == MAGIC).then_some(KeyId::from_bytes(key))
}

/// Opens a channel with `secret`.
pub(super) async fn initiate<S>(
    stream: S,
    secret: &Secret,
    mesh: MeshId,
) -> Result<Channel<S>, ChannelError>
where
    S: AsyncRead + AsyncWrite,
{
    let work = async {
        let (mut read, mut write) = split(stream);
        let key = secret.id();
        let prologue = prologue(key, mesh);
        let mut noise = builder(&prologue, secret)?
            .build_initiator()
            .map_err(|_| ChannelError::Sealed)?;
        let mut first = [0; PRELUDE + FLIGHT];
        first[..PRELUDE].copy_from_slice(&prologue[..PRELUDE]);
        noise
            .write_message(&[], &mut first[PRELUDE..])
            .map_err(|_| ChannelError::Sealed)?;
        write.write_all(&first).await?;
        let mut second = [0; FLIGHT];
        // Anything but an answer, a reset included, is how a stranger is met.
        read.read_exact(&mut second)
            .await
            .map_err(|_| ChannelError::NoAnswer)?;
        noise
            .read_message(&second, &mut [0; FLIGHT])
            .map_err(|_| ChannelError::Sealed)?;
        channel(noise, read, write, Role::Initiator, key)
    };
    let late = |_| ChannelError::Deadline(HANDSHAKE_DEADLINE);
    tokio::time::timeout(HANDSHAKE_DEADLINE, work)
        .await
        .map_err(late)?
}

/// Answers a channel. `secret` looks a key up; `is_new` says whether an initiator's ephemeral key,
/// of a message that is authentic, was never seen.
pub(super) async fn respond<S>(
    stream: S,
    mesh: MeshId,
    secret: impl FnOnce(KeyId) -> Option<Secret>,
    is_new: impl FnOnce([u8; 32]) -> bool,
) -> Result<Channel<S>, ChannelError>
where
    S: AsyncRead + AsyncWrite,
{
    let work = async {
        let (mut read, mut write) = split(stream);
        let mut prelude = [0; PRELUDE];
        read.read_exact(&mut prelude).await?;
        let key = parse_prelude(&prelude).ok_or(ChannelError::Prelude)?;
        let secret = secret(key).ok_or(ChannelError::UnknownKey)?;
        let prologue = prologue(key, mesh);
        let mut noise = builder(&prologue, &secret)?
            .build_responder()
            .map_err(|_| ChannelError::Sealed)?;
        let mut first = [0; FLIGHT];
        read.read_exact(&mut first).await?;
        noise
            .read_message(&first, &mut [0; FLIGHT])
            .map_err(|_| ChannelError::Sealed)?;
        let mut ephemeral = [0; 32];
        ephemeral.copy_from_slice(&first[..32]);
        if !is_new(ephemeral) {
            return Err(ChannelError::Replay);
        }
        let mut second = [0; FLIGHT];
        noise
            .write_message(&[], &mut second)
            .map_err(|_| ChannelError::Sealed)?;
        write.write_all(&second).await?;
        channel(noise, read, write, Role::Responder, key)
    };
    let late = |_| ChannelError::Deadline(FIRST_FLIGHT_DEADLINE);
    tokio::time::timeout(FIRST_FLIGHT_DEADLINE, work)
        .await
        .map_err(late)?
}

impl<S: AsyncWrite> Sender<S> {
    pub(super) async fn send(&mut self, message: &Message) -> Result<(), ChannelError> {
        let body = message.encode();
        if body.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLarge);
        }
        let mut plain = (body.len() as u32).to_be_bytes().to_vec();
        plain.extend_from_slice(&body);
        let mut wire = Vec::with_capacity(plain.len() + 64);
        let mut sealed = vec![0; CHUNK.min(plain.len()) + 16];
        for chunk in plain.chunks(CHUNK) {
            let length = self
                .state
                .write_message(self.nonce, chunk, &mut sealed)
                .map_err(|_| ChannelError::Sealed)?;
            self.nonce += 1;
            wire.extend_from_slice(&(length as u16).to_be_bytes());
            wire.extend_from_slice(&sealed[..length]);
        }
        let late = |_| ChannelError::Deadline(WRITE_DEADLINE);
        tokio::time::timeout(WRITE_DEADLINE, self.stream.write_all(&wire))
            .await
            .map_err(late)??;
        Ok(())
    }

    /// Says that nothing more comes.
    pub(super) async fn finish(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.stream.shutdown()).await;
    }
}

impl<S: AsyncRead> Receiver<S> {
    /// The next message. Not to be dropped half way: what was read of a message would be lost.
    pub(super) async fn receive(&mut self) -> Result<Message, ChannelError> {
        let mut body = self.chunk().await?;
        if body.len() < 4 {
            return Err(ChannelError::Sealed);
        }
        let rest = body.split_off(4);
        let length = u32::from_be_bytes([body[0], body[1], body[2], body[3]]) as usize;
        if length > MAX_MESSAGE {
            return Err(ChannelError::TooLarge);
        }
        let mut body = rest;
        while body.len() < length {
            let chunk = self.chunk().await?;
            if chunk.is_empty() {
                return Err(ChannelError::Sealed);
            }
            body.extend_from_slice(&chunk);
        }
        if body.len() > length {
            return Err(ChannelError::Sealed);
        }
        Message::decode(&body).map_err(ChannelError::Malformed)
    }

    async fn chunk(&mut self) -> Result<Vec<u8>, ChannelError> {
        let closed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => ChannelError::Closed,
            _ => ChannelError::Io(e),
        };
        let length = self.stream.read_u16().await.map_err(closed)?;
        let mut sealed = vec![0; usize::from(length)];
        self.stream.read_exact(&mut sealed).await.map_err(closed)?;
        let mut plain = vec![0; usize::from(length)];
        let length = self
            .state
            .read_message(self.nonce, &sealed, &mut plain)
            .map_err(|_| ChannelError::Sealed)?;
        self.nonce += 1;
        plain.truncate(length);
        Ok(plain)
    }
}

fn prologue(key: KeyId, mesh: MeshId) -> [u8; PRELUDE + 16] {
    let mut prologue = [0; PRELUDE + 16];
    prologue[..MAGIC.len()].copy_from_slice(&MAGIC);
    prologue[MAGIC.len()..PRELUDE].copy_from_slice(key.as_bytes());
    prologue[PRELUDE..].copy_from_slice(mesh.as_bytes());
    prologue
}

fn builder<'a>(prologue: &'a [u8], secret: &'a Secret) -> Result<Builder<'a>, ChannelError> {
    let params = NOISE.parse().map_err(|_| ChannelError::Sealed)?;
    Builder::new(params)
        .prologue(prologue)
        .and_then(|b| b.psk(0, secret.expose()))
        .map_err(|_| ChannelError::Sealed)
}

fn channel<S>(
    noise: snow::HandshakeState,
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    role: Role,
    key: KeyId,
) -> Result<Channel<S>, ChannelError> {
    let binding = noise
        .get_handshake_hash()
        .try_into()
        .map_err(|_| ChannelError::Sealed)?;
    let state = noise
        .into_stateless_transport_mode()
        .map_err(|_| ChannelError::Sealed)?;
    let state = Arc::new(state);
    Ok(Channel {
        sender: Sender {
            state: Arc::clone(&state),
            nonce: 0,
            stream: write,
        },
        receiver: Receiver {
            state,
            nonce: 0,
            stream: read,
        },
        binding,
        role,
        key,
    })
}

#[cfg(test)]
mod tests;
