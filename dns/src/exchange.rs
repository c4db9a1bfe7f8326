//! One question to one server and its reply: UDP, then TCP if the reply was cut short. Every query
//! has a socket and an ID of its own, so that a forger must guess both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use crate::forward::Ask;
use crate::query::FORM_ERR;
use crate::wire::{self, Reply};

/// Larger than what we offer, for servers that do not look at it.
const DATAGRAM: usize = 4096;

/// Why one server gave no reply.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("ask {server}: no reply in time")]
    Timeout { server: SocketAddr },
    #[error("ask {server}")]
    Io {
        server: SocketAddr,
        source: io::Error,
    },
    #[error("ask {server}: no random bytes for an ID: {reason}")]
    Random { server: SocketAddr, reason: String },
}

/// Asks `server` and returns its reply, which is to this question, from that address and with
/// this query's ID; anything else that arrives is passed over. `wait` bounds the whole.
pub(crate) async fn exchange(
    server: SocketAddr,
    ask: &Ask,
    wait: Duration,
) -> Result<Reply, ExchangeError> {
    let deadline = Instant::now() + wait;
    let edns = Some(ask.dnssec_ok());
    let reply = once(server, ask, edns, deadline).await?;
    // RFC 6891 section 7: a server from before EDNS finds the OPT malformed.
    if reply.rcode() == FORM_ERR {
        return once(server, ask, None, deadline).await;
    }
    Ok(reply)
}

async fn once(
    server: SocketAddr,
    ask: &Ask,
    edns: Option<bool>,
    deadline: Instant,
) -> Result<Reply, ExchangeError> {
    let query = |id| wire::query(id, ask.question(), edns, ask.checking_disabled());
    let id = random_id(server)?;
    let attempt = over_udp(server, id, query(id));
    let reply = finish(server, deadline, attempt).await?;
    let Some(reply) = reply else {
        let id = random_id(server)?;
        return finish(server, deadline, over_tcp(server, id, query(id))).await;
    };
    Ok(reply)
}

async fn finish<T>(
    server: SocketAddr,
    deadline: Instant,
    attempt: impl Future<Output = io::Result<T>>,
) -> Result<T, ExchangeError> {
    match timeout_at(deadline, attempt).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(ExchangeError::Io { server, source }),
        Err(_) => Err(ExchangeError::Timeout { server }),
    }
}

/// `None` when the server's reply was cut short.
async fn over_udp(server: SocketAddr, id: u16, query: Vec<u8>) -> io::Result<Option<Reply>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Port 0 has the kernel pick one at random; a connected socket hears its peer alone, and of
    // a closed port at once.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let message = &buffer[..length];
        if !answers(message, id, &query) {
            continue;
        }
        if wire::is_truncated(message) {
            return Ok(None);
        }
        if let Ok(reply) = Reply::parse(message.to_vec()) {
            return Ok(Some(reply));
        }
    }
}

async fn over_tcp(server: SocketAddr, id: u16, query: Vec<u8>) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(&query);
    stream.write_all(&framed).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut message = vec![0; length.into()];
        stream.read_exact(&mut message).await?;
        if answers(&message, id, &query) {
            return Reply::parse(message).map_err(io::Error::other);
        }
    }
}

/// Whether a message is the reply to our query: its ID, QR and the question to the letter.
fn answers(message: &[u8], id: u16, query: &[u8]) -> bool {
    if message.len() < wire::HEADER || message[..2] != id.to_be_bytes() || message[2] & 0x80 == 0 {
        return false;
    }
    let Ok(asked) = wire::question_end(query) else {
        return false;
    };
    message.get(wire::HEADER..asked) == query.get(wire::HEADER..asked)
}

fn random_id(server: SocketAddr) -> Result<u16, ExchangeError> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|error| ExchangeError::Random {
        server,
        reason: error.to_string(),
    })?;
    Ok(u16::from_ne_bytes(bytes))
}
