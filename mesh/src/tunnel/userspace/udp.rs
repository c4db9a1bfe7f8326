//! The device's UDP sockets: one for each family on the same port, one datagram a system call.

// TODO(correctness): a host with several addresses answers from the one that its routes choose, not
// from the one it was spoken to at; a peer behind a strict NAT hears only the latter (IP_PKTINFO).
// TODO(correctness): handshake messages go out without the kernel's DSCP AF41 (TOS 0x88).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use crate::tunnel::TunnelError;

/// A burst of 64 KiB segments from the host fits, and the pause of a busy reader.
const BUFFER: usize = 4 << 20;
/// A stuck network device must not hold a worker for longer.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

/// The sockets of one port.
pub(super) struct Udp {
    pub(super) v4: UdpSocket,
    /// None where the host has no IPv6.
    pub(super) v6: Option<UdpSocket>,
    pub(super) port: u16,
}

impl Udp {
    /// Binds `port` in both families, in the network namespace of the calling thread.
    pub(super) fn bind(port: u16, mark: u32) -> Result<Self, TunnelError> {
        let io = |source| TunnelError::Io {
            act: format!("bind UDP port {port}"),
            source,
        };
        let v4 = bind((Ipv4Addr::UNSPECIFIED, port).into()).map_err(io)?;
        let v6 = match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
            Ok(socket) => Some(socket),
            Err(error) if is_without_ipv6(&error) => {
                warn!(%error, "the host has no IPv6: tunnels run over IPv4 only");
                None
            }
            Err(error) => return Err(io(error)),
        };
        let udp = Self { v4, v6, port };
        udp.set_mark(mark);
        Ok(udp)
    }

    /// Marks the datagrams to come. Without the privilege the sockets stay unmarked, with a warning.
    pub(super) fn set_mark(&self, mark: u32) {
        for socket in self.sockets() {
            if let Err(error) = socket2::SockRef::from(socket).set_mark(mark) {
                warn!(%error, mark, "the tunnel's sockets cannot be marked (CAP_NET_ADMIN)");
                return;
            }
        }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten()
    }

    pub(super) fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = match to {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket.send_to(datagram, to).map(drop)
    }
}

/// Receives one datagram, without waiting.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    let (len, _, source) = rustix::net::recvfrom(socket, buffer, RecvFlags::DONTWAIT)?;
    let source = source.ok_or(Errno::INVAL)?;
    Ok((len, source.try_into()?))
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Beyond net.core.[rw]mem_max needs a privilege; up to it does not.
    if set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}
