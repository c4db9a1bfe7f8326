//! The UDP front: one socket an address, so that a reply leaves from the address that was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::core::{Core, Step};
use crate::forward::Ask;
use crate::query::{Request, Transport};

/// The largest datagram there is.
const DATAGRAM: usize = 65_535;

/// Answers what arrives at `socket` until it is aborted. `waiting` bounds the clients that wait
/// for other servers.
pub(crate) async fn serve(core: Arc<Core>, socket: UdpSocket, waiting: Arc<Semaphore>) {
    let socket = Arc::new(socket);
    let mut forwards = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        while forwards.try_join_next().is_some() {}
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "datagram not received");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let message = &buffer[..length];
        match core.begin(message, client.ip(), Transport::Udp, Instant::now()) {
            Step::Drop => {}
            Step::Reply(reply) => send(&socket, client, &reply),
            Step::Forward(request, ask) => match Arc::clone(&waiting).try_acquire_owned() {
                Ok(permit) => {
                    let forward = Forward {
                        core: Arc::clone(&core),
                        request,
                        ask,
                        _permit: permit,
                    };
                    forwards.spawn(forward.run(Arc::downgrade(&socket), client));
                }
                Err(_) => send(&socket, client, &core.overloaded(&request)),
            },
        }
    }
}

struct Forward {
    core: Arc<Core>,
    request: Box<Request>,
    ask: Ask,
    _permit: OwnedSemaphorePermit,
}

impl Forward {
    /// The socket is held weakly: it closes with its listener, not with the last of these.
    async fn run(self, socket: Weak<UdpSocket>, client: SocketAddr) {
        let reply = self
            .core
            .forward(&self.request, self.ask, Transport::Udp)
            .await;
        if let Some(socket) = socket.upgrade() {
            send(&socket, client, &reply);
        }
    }
}

/// A full send buffer loses the reply, as the network might; the client asks again.
fn send(socket: &UdpSocket, client: SocketAddr, reply: &[u8]) {
    if let Err(error) = socket.try_send_to(reply, client) {
        tracing::debug!(%client, %error, "reply not sent");
    }
}
