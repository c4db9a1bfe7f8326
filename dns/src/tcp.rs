//! The TCP front (RFC 7766): queries may follow one another without waiting, and replies come as
//! they are ready.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::core::{Core, Step};
use crate::query::Transport;

/// How long a connection may say nothing, and a client may leave replies unread.
const IDLE: Duration = Duration::from_secs(10);
/// Queries of one connection that wait for other servers.
const FORWARDS: usize = 8;
/// Replies of one connection that wait to be written.
const REPLIES: usize = 4;
/// Connections at a time, in all and of one source. With the two numbers above this bounds what
/// clients that never read can hold, at 64 KB a reply.
const CONNECTIONS: usize = 256;
const CONNECTIONS_EACH: usize = 32;

/// Who is connected, over every listening address.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A place among the connections, given back when dropped.
#[derive(Debug)]
struct Seat {
    connections: Arc<Connections>,
    source: IpAddr,
}

impl Connections {
    fn seat(self: &Arc<Self>, source: IpAddr) -> Option<Seat> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = open.values().sum();
        let each = open.get(&source).copied().unwrap_or(0);
        if total >= CONNECTIONS || each >= CONNECTIONS_EACH {
            return None;
        }
        open.insert(source, each + 1);
        Some(Seat {
            connections: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self
            .connections
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(each) = open.get_mut(&self.source) {
            *each -= 1;
            if *each == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// Accepts connections at `listener` until it is aborted.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, connections: Arc<Connections>) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many files open, mostly: it will not be better at once.
                tracing::debug!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if !core.allows(client.ip()) {
            core.counters.refused.add();
            continue;
        }
        let Some(seat) = connections.seat(client.ip()) else {
            core.counters.overload.add();
            continue;
        };
        let core = Arc::clone(&core);
        open.spawn(async move {
            if let Err(error) = converse(core, stream, client).await {
                tracing::debug!(%client, %error, "connection ended");
            }
            drop(seat);
        });
    }
}

async fn converse(core: Arc<Core>, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (replies, waiting) = mpsc::channel(REPLIES);
    let reading = listen(core, read, client, replies);
    // A writer that fails ends the whole; a reader that ends lets the replies go out.
    let ((), ()) = tokio::try_join!(reading, write_all(write, waiting))?;
    Ok(())
}

async fn listen(
    core: Arc<Core>,
    mut stream: OwnedReadHalf,
    client: SocketAddr,
    replies: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut forwards = JoinSet::new();
    while let Some(message) = timeout(IDLE, read_message(&mut stream)).await?? {
        let step = core.begin(&message, client.ip(), Transport::Tcp, Instant::now());
        match step {
            Step::Drop => return Ok(()),
            Step::Reply(reply) => {
                if replies.send(reply).await.is_err() {
                    return Ok(());
                }
            }
            Step::Forward(request, ask) => {
                if forwards.len() >= FORWARDS {
                    forwards.join_next().await;
                }
                let core = Arc::clone(&core);
                let replies = replies.clone();
                forwards.spawn(async move {
                    let reply = core.forward(&request, ask, Transport::Tcp).await;
                    // A client that has gone needs no reply.
                    let _ = replies.send(reply).await;
                });
            }
        }
    }
    while forwards.join_next().await.is_some() {}
    Ok(())
}

/// The next message; `None` when the client has no more.
async fn read_message(stream: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_all(
    mut stream: OwnedWriteHalf,
    mut replies: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(reply) = replies.recv().await {
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        // One write, so that length and message share a segment (RFC 7766 section 8).
        let mut framed = Vec::with_capacity(2 + reply.len());
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&reply);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}
