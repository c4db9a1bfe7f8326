//! TCP sockets as gossip wants them: marked, so that they never run inside the mesh.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tracing::warn;

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How long sent bytes may go unacknowledged before the kernel gives the connection up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(12);
const BACKLOG: i32 = 1024;

pub(super) fn listen(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that both families' wildcards can be listened on.
        socket.set_only_v6(true)?;
    }
    set_mark(&SockRef::from(&socket), mark);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

pub(super) async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    set_mark(&SockRef::from(&socket), mark);
    let stream = tokio::time::timeout(CONNECT_DEADLINE, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s"))??;
    prepare(&stream)?;
    Ok(stream)
}

/// Settings of every connection, dialled or accepted.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

fn set_mark(socket: &SockRef<'_>, mark: Option<u32>) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let Some(mark) = mark else { return };
    if let Err(error) = socket.set_mark(mark)
        && !SAID.swap(true, Ordering::Relaxed)
    {
        warn!(%error, mark, "gossip sockets are not marked");
    }
}
