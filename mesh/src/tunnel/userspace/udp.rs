//! The device's UDP sockets: one for each family on the same port, one datagram a system call.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};
use tracing::warn;

use super::control::{self, Control};
use super::table::Path;
use super::wire::{INITIATION, RESPONSE};
use crate::tunnel::TunnelError;

/// A burst of 64 KiB segments from the host fits, and the pause of a busy reader.
const BUFFER: usize = 4 << 20;
/// A stuck network device must not hold a worker for longer.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

/// The traffic class of handshakes, DSCP AF41 as the kernel's WireGuard has it: they are few, and a
/// full queue before them ends the session.
const HANDSHAKE_CLASS: u8 = 0x88;

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

    /// Sends from `path.local`, or, when that is no address of this host any more, from whichever
    /// the routes choose.
    pub(super) fn send(&self, datagram: &[u8], path: Path) -> io::Result<()> {
        let socket = match path.remote {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => {
                let none = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
                self.v6.as_ref().ok_or_else(none)?
            }
        };
        let sent = send(socket, datagram, path);
        match sent {
            // A network device that was stuck for SEND_TIMEOUT is so from any address.
            Err(error) if path.local.is_some() && error.kind() != io::ErrorKind::WouldBlock => {
                let local = None;
                send(socket, datagram, Path { local, ..path })
            }
            sent => sent,
        }
    }
}

fn send(socket: &UdpSocket, datagram: &[u8], path: Path) -> io::Result<()> {
    let mut control = Control::default();
    if let Some(local) = path.local {
        control.source(local);
    }
    if let Some(&(INITIATION | RESPONSE)) = datagram.first() {
        control.class(path.remote.ip(), HANDSHAKE_CLASS);
    }
    if control.bytes().is_empty() {
        return socket.send_to(datagram, path.remote).map(drop);
    }
    let (remote, buffers) = (SockAddr::from(path.remote), [IoSlice::new(datagram)]);
    let message = MsgHdr::new()
        .with_addr(&remote)
        .with_buffers(&buffers)
        .with_control(control.bytes());
    SockRef::from(socket).sendmsg(&message, 0).map(drop)
}

/// Receives one datagram, without waiting, and says which way it came.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut control = [0; control::ROOM];
    let received = recvmsg(socket.as_fd(), buffer, &mut control)?;
    let local = control::destination(&control[..received.control]);
    let path = Path {
        remote: received.source.as_socket().ok_or(Errno::INVAL)?,
        local: local.filter(|address| !address.is_multicast() && !is_broadcast(*address)),
    };
    Ok((received.len, path))
}

fn is_broadcast(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

struct Received {
    len: usize,
    source: SockAddr,
    control: usize,
}

#[allow(unsafe_code)]
fn recvmsg(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8; control::ROOM],
) -> io::Result<Received> {
    let mut len = 0;
    let mut control_len = 0;
    let fill = |storage: *mut socket2::SockAddrStorage, size: *mut libc::socklen_t| {
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: all zero is a valid msghdr, and musl's has private padding.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = storage.cast();
        // SAFETY: try_init gives a pointer to the storage's size.
        message.msg_namelen = unsafe { *size };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
        // SAFETY: every pointer in the message is to memory that outlives the call, with its size.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        control_len = (message.msg_controllen as usize).min(control.len());
        // SAFETY: as above; the kernel has written so much of an address.
        unsafe { *size = message.msg_namelen };
        Ok(())
    };
    // SAFETY: the kernel writes an address of the socket's family into the storage.
    let ((), source) = unsafe { SockAddr::try_init(fill) }?;
    Ok(Received {
        len,
        source,
        control: control_len,
    })
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
    // Which of this host's addresses a datagram was sent to.
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    switch_on(socket.as_fd(), level, name)?;
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

#[allow(unsafe_code)]
fn switch_on(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to an integer of the size that is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent by the one way arrives on the other, on addresses of the loopback.
    fn across(a: &Udp, b: &Udp, local: Option<IpAddr>, to: &str) -> (Vec<u8>, Path) {
        let remote = SocketAddr::new(to.parse().unwrap(), b.port);
        a.send(&[INITIATION, 7], Path { remote, local }).unwrap();
        let socket = match remote {
            SocketAddr::V4(_) => &b.v4,
            SocketAddr::V6(_) => b.v6.as_ref().unwrap(),
        };
        let mut buffer = [0; 100];
        let mut fds = [rustix::event::PollFd::new(
            socket,
            rustix::event::PollFlags::IN,
        )];
        let patience = rustix::event::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&patience)).unwrap();
        let (len, path) = receive(socket, &mut buffer).unwrap();
        (buffer[..len].to_vec(), path)
    }

    fn pair() -> (Udp, Udp) {
        let mut ends = [(); 2].map(|()| Udp::bind(0, 0).unwrap());
        for end in &mut ends {
            end.port = end.v4.local_addr().unwrap().port();
        }
        let [a, b] = ends;
        (a, b)
    }

    #[test]
    fn a_datagram_says_where_it_was_sent_to_and_is_answered_from_there() {
        let (a, b) = pair();
        let (datagram, path) = across(&a, &b, None, "127.0.0.7");
        assert_eq!(datagram, [INITIATION, 7]);
        assert_eq!(path.local, Some("127.0.0.7".parse().unwrap()));
        let (_, back) = across(&b, &a, path.local, "127.0.0.1");
        assert_eq!(back.remote, SocketAddr::new(path.local.unwrap(), b.port));
    }

    #[test]
    fn an_address_that_the_host_has_lost_is_not_insisted_on() {
        let (a, b) = pair();
        let lost = Some("192.0.2.99".parse().unwrap());
        let (_, path) = across(&a, &b, lost, "127.0.0.1");
        assert_eq!(
            path.remote,
            SocketAddr::new("127.0.0.1".parse().unwrap(), a.port)
        );
    }

    #[test]
    fn a_handshake_bears_its_class_and_data_does_not() {
        let (a, b) = pair();
        switch_on(b.v4.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTOS).unwrap();
        let class = |kind: u8| {
            let remote = SocketAddr::new("127.0.0.1".parse().unwrap(), b.port);
            a.send(
                &[kind],
                Path {
                    remote,
                    local: None,
                },
            )
            .unwrap();
            let (mut buffer, mut control) = ([0; 10], [0; control::ROOM]);
            let received = loop {
                match recvmsg(b.v4.as_fd(), &mut buffer, &mut control) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => break received.unwrap(),
                }
            };
            // The byte is the last of what came; what is before is the address.
            control[..received.control].contains(&HANDSHAKE_CLASS)
        };
        assert!(class(INITIATION) && class(RESPONSE));
        assert!(!class(super::super::wire::DATA));
    }
}
