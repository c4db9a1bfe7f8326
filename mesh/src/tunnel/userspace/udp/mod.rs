//! The device's UDP sockets: one for each family on the same port.

mod control;
mod receive;
mod send;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{info, warn};

use super::table::Path;
use crate::tunnel::TunnelError;

pub(super) use receive::{Received, Receiver};
pub(super) use send::{MOST_BYTES, MOST_SEGMENTS, Run, Segmentation, Unsent};

/// A burst of 64 KiB segments from the host fits, and the pause of a busy reader.
const BUFFER: usize = 4 << 20;
/// A stuck network device must not hold a worker for longer.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

/// How often a port that is free in one family and taken in the other is let go.
const ANY_PORT_TRIES: usize = 16;

/// The sockets of one port.
pub(super) struct Udp {
    pub(super) v4: UdpSocket,
    /// None where the host has no IPv6.
    pub(super) v6: Option<UdpSocket>,
    pub(super) port: u16,
    /// Held while datagrams are to stay whole.
    whole: Mutex<()>,
}

impl Udp {
    /// Binds `port` in both families, in the network namespace of the calling thread; 0 is any that
    /// is free in both.
    pub(super) fn bind(port: u16, mark: u32) -> Result<Self, TunnelError> {
        let io = |source| TunnelError::Io {
            act: format!("bind UDP port {port}"),
            source,
        };
        let mut tries = if port == 0 { ANY_PORT_TRIES } else { 1 };
        let udp = loop {
            tries -= 1;
            match Self::bind_both(port) {
                Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                bound => break bound.map_err(io)?,
            }
        };
        udp.set_mark(mark);
        Ok(udp)
    }

    fn bind_both(port: u16) -> io::Result<Self> {
        let v4 = bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        let port = v4.local_addr()?.port();
        let v6 = match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
            Ok(socket) => Some(socket),
            Err(error) if is_without_ipv6(&error) => {
                warn!(%error, "the host has no IPv6: tunnels run over IPv4 only");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            v4,
            v6,
            port,
            whole: Mutex::default(),
        })
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

    /// Sends a datagram of the control side. Whether datagrams are to stay whole is a setting of the
    /// socket: those of peers that are sent in the same instant stay so, too.
    pub(super) fn send_other(&self, bytes: &[u8], to: SocketAddr, whole: bool) -> io::Result<()> {
        let socket = self.of(to)?;
        if !whole {
            return socket.send_to(bytes, to).map(drop);
        }
        let _one = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, name, [probe, usual]) = match to {
            SocketAddr::V4(_) => (
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                [libc::IP_PMTUDISC_PROBE, libc::IP_PMTUDISC_WANT],
            ),
            SocketAddr::V6(_) => (
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                [libc::IPV6_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_WANT],
            ),
        };
        set(socket.as_fd(), level, name, probe)?;
        let sent = socket.send_to(bytes, to).map(drop);
        set(socket.as_fd(), level, name, usual)?;
        sent
    }

    fn of(&self, to: SocketAddr) -> io::Result<&UdpSocket> {
        match to {
            SocketAddr::V4(_) => Ok(&self.v4),
            SocketAddr::V6(_) => {
                let none = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
                self.v6.as_ref().ok_or_else(none)
            }
        }
    }

    /// Sends the runs, from `path.local` or, when that is no address of this host any more, from
    /// whichever the routes choose. What was not sent.
    pub(super) fn send(
        &self,
        runs: &[Run],
        arena: &[u8],
        path: Path,
        way: &Segmentation,
    ) -> Unsent {
        match self.of(path.remote) {
            Ok(socket) => send::send(socket, runs, arena, path, way),
            Err(error) => Unsent::all(runs, error),
        }
    }
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
    // Which of this host's addresses a datagram was sent to, and its class.
    let (level, names) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, [libc::IP_PKTINFO, libc::IP_RECVTOS]),
        SocketAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            [libc::IPV6_RECVPKTINFO, libc::IPV6_RECVTCLASS],
        ),
    };
    for name in names {
        switch_on(socket.as_fd(), level, name)?;
    }
    if let Err(error) = switch_on(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO) {
        info!(%error, "the kernel joins no datagrams (UDP_GRO): one by one");
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

fn switch_on(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<()> {
    set(socket, level, name, 1)
}

#[allow(unsafe_code)]
fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is to an integer of the size that is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
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
    use std::net::IpAddr;

    use super::*;

    /// Of a datagram: the bytes, the way it came, its class.
    type Arrived = (Vec<u8>, Path, u8);

    /// What is sent by the one way arrives on the other, on addresses of the loopback.
    fn across(a: &Udp, b: &Udp, run: Run, local: Option<IpAddr>, to: &str) -> Vec<Arrived> {
        let remote = SocketAddr::new(to.parse().unwrap(), b.port);
        let arena: Vec<u8> = (0..run.start + run.len)
            .map(|n| (n / run.size) as u8)
            .collect();
        let way = Segmentation::default();
        let unsent = a.send(&[run], &arena, Path { remote, local }, &way);
        assert!(unsent.error.is_none(), "{unsent:?}");
        let socket = match remote {
            SocketAddr::V4(_) => &b.v4,
            SocketAddr::V6(_) => b.v6.as_ref().unwrap(),
        };
        let mut receiver = Receiver::new();
        let mut arrived = Vec::new();
        while arrived.len() < run.len.div_ceil(run.size) {
            let fd = rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN);
            let patience = rustix::event::Timespec {
                tv_sec: 5,
                tv_nsec: 0,
            };
            let ready = rustix::event::poll(&mut [fd], Some(&patience)).unwrap();
            assert_eq!(ready, 1, "nothing arrives");
            for at in 0..receiver.receive(socket).unwrap() {
                let message = receiver.message(at).unwrap();
                for datagram in message.bytes.chunks(message.size) {
                    arrived.push((datagram.to_vec(), message.path, message.class));
                }
            }
        }
        arrived
    }

    fn one(class: u8) -> Run {
        Run {
            start: 0,
            len: 2,
            size: 2,
            class,
        }
    }

    fn pair() -> (Udp, Udp) {
        (Udp::bind(0, 0).unwrap(), Udp::bind(0, 0).unwrap())
    }

    #[test]
    fn a_datagram_says_where_it_was_sent_to_and_is_answered_from_there() {
        let (a, b) = pair();
        let (datagram, path, _) = across(&a, &b, one(0), None, "127.0.0.7").remove(0);
        assert_eq!(datagram, [0, 0]);
        assert_eq!(path.local, Some("127.0.0.7".parse().unwrap()));
        let (_, back, _) = across(&b, &a, one(0), path.local, "127.0.0.1").remove(0);
        assert_eq!(back.remote, SocketAddr::new(path.local.unwrap(), b.port));
    }

    #[test]
    fn an_address_that_the_host_has_lost_is_not_insisted_on() {
        let (a, b) = pair();
        let lost = Some("192.0.2.99".parse().unwrap());
        let (_, path, _) = across(&a, &b, one(0), lost, "127.0.0.1").remove(0);
        assert_eq!(
            path.remote,
            SocketAddr::new("127.0.0.1".parse().unwrap(), a.port)
        );
    }

    #[test]
    fn an_address_that_is_lost_says_nothing_of_how_datagrams_are_cut() {
        let (a, b) = pair();
        let run = Run {
            start: 0,
            len: 3 * 700,
            size: 700,
            class: 0,
        };
        let path = Path {
            remote: SocketAddr::new("127.0.0.1".parse().unwrap(), b.port),
            local: Some("192.0.2.99".parse().unwrap()),
        };
        let way = Segmentation::default();
        let unsent = a.send(&[run, run], &[0; 3 * 700], path, &way);
        assert!(unsent.error.is_none() && way.takes(700), "{unsent:?}");
        // And each was sent once.
        let mut receiver = Receiver::new();
        let mut bytes = 0;
        while let Ok(messages) = receiver.receive(&b.v4) {
            bytes += (0..messages)
                .map(|at| receiver.message(at).unwrap().bytes.len())
                .sum::<usize>();
        }
        assert_eq!(bytes, 2 * 3 * 700);
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_the_rest_is_sent() {
        let (a, b) = pair();
        let remote = SocketAddr::new("127.0.0.1".parse().unwrap(), b.port);
        let path = Path {
            remote,
            local: None,
        };
        let too_long = Run {
            start: 0,
            len: 65_508,
            size: 65_508,
            class: 0,
        };
        let way = Segmentation::default();
        let unsent = a.send(&[one(0), too_long, one(0)], &[0; 65_508], path, &way);
        assert_eq!((unsent.datagrams, unsent.bytes), (1, 65_508));
        assert!(unsent.error.is_some());
    }

    #[test]
    fn a_datagram_bears_its_class() {
        let (a, b) = pair();
        for class in [0x88, 0, 2, 3] {
            let (.., seen) = across(&a, &b, one(class), None, "127.0.0.1").remove(0);
            assert_eq!(seen, class);
        }
    }

    #[test]
    fn a_run_arrives_as_its_datagrams_and_the_last_may_be_shorter() {
        let (a, b) = pair();
        let run = Run {
            start: 5 * 700,
            len: 4 * 700 + 3,
            size: 700,
            class: 0,
        };
        let sent: Vec<Vec<u8>> = (5..10)
            .map(|n| vec![n; if n == 9 { 3 } else { 700 }])
            .collect();
        let arrived = across(&a, &b, run, None, "127.0.0.1");
        assert_eq!(
            arrived
                .into_iter()
                .map(|(bytes, ..)| bytes)
                .collect::<Vec<_>>(),
            sent
        );
    }

    #[test]
    fn what_the_kernel_does_not_cut_goes_one_by_one() {
        let (a, b) = pair();
        // More than the loopback's MTU of 65,536 carries, so cutting is refused; fragments do it.
        let run = Run {
            start: 0,
            len: 65_507,
            size: 65_507,
            class: 0,
        };
        let way = Segmentation::default();
        let remote = SocketAddr::new("127.0.0.1".parse().unwrap(), b.port);
        let path = Path {
            remote,
            local: None,
        };
        let unsent = a.send(&[run], &[0; 65_507], path, &way);
        assert!(unsent.error.is_none(), "{unsent:?}");
        let cut = Run {
            size: 1,
            len: 65,
            ..run
        };
        // 65 datagrams of a byte: one more than older kernels cut, and so none is.
        let (bytes, ..) = across(&a, &b, cut, None, "127.0.0.1").remove(0);
        assert!(!bytes.is_empty());
    }
}
