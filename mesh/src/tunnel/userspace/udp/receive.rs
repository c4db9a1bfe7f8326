//! Receiving: many datagrams in one system call, those of one sender joined by the kernel
//! (`UDP_GRO`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::SockAddr;

use super::control::{self, Control};
use crate::tunnel::userspace::table::Path;

/// Messages of one system call.
const MESSAGES: usize = 8;
/// The largest message.
const LARGEST: usize = 65_535;

/// Datagrams of one sender, one after another.
#[derive(Clone, Copy, Debug)]
pub(in crate::tunnel::userspace) struct Received<'a> {
    pub(in crate::tunnel::userspace) bytes: &'a [u8],
    /// Of each datagram but the last, which may be shorter.
    pub(in crate::tunnel::userspace) size: usize,
    pub(in crate::tunnel::userspace) path: Path,
    /// Type of service or traffic class.
    pub(in crate::tunnel::userspace) class: u8,
}

/// Where datagrams are received to, made once for a thread.
pub(in crate::tunnel::userspace) struct Receiver {
    buffers: Vec<u8>,
    controls: [Control; MESSAGES],
    sources: [libc::sockaddr_storage; MESSAGES],
    lengths: [(usize, libc::socklen_t); MESSAGES],
}

impl Receiver {
    /// The most bytes that one call gives.
    pub(in crate::tunnel::userspace) const MOST: usize = MESSAGES * LARGEST;

    #[allow(unsafe_code)]
    pub(in crate::tunnel::userspace) fn new() -> Self {
        Self {
            buffers: vec![0; Self::MOST],
            controls: [Control::default(); MESSAGES],
            // SAFETY: all zero is a valid address storage.
            sources: unsafe { std::mem::zeroed() },
            lengths: [(0, 0); MESSAGES],
        }
    }

    /// Receives what is there, without waiting; how many messages that is.
    #[allow(unsafe_code)]
    pub(in crate::tunnel::userspace) fn receive(
        &mut self,
        socket: &UdpSocket,
    ) -> io::Result<usize> {
        // SAFETY: all zero is a valid iovec and a valid mmsghdr, and musl's has private padding.
        let mut parts: [libc::iovec; MESSAGES] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { std::mem::zeroed() };
        for (at, buffer) in self.buffers.chunks_exact_mut(LARGEST).enumerate() {
            parts[at].iov_base = buffer.as_mut_ptr().cast();
            parts[at].iov_len = buffer.len();
            let room = self.controls[at].room();
            let message = &mut messages[at].msg_hdr;
            message.msg_control = room.as_mut_ptr().cast();
            message.msg_controllen = room.len() as _;
            message.msg_name = (&raw mut self.sources[at]).cast();
            message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_iov = &raw mut parts[at];
            message.msg_iovlen = 1;
        }
        // SAFETY: every pointer in the messages is to memory that outlives the call, with its size.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                MESSAGES as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (at, message) in messages[..received].iter().enumerate() {
            // A usize with glibc, and 32 bits with musl.
            #[allow(clippy::unnecessary_cast)]
            self.controls[at].set_len(message.msg_hdr.msg_controllen as usize);
            self.lengths[at] = (message.msg_len as usize, message.msg_hdr.msg_namelen);
        }
        Ok(received)
    }

    /// A message of those that were received last; none from a sender of no family of ours.
    #[allow(unsafe_code)]
    pub(in crate::tunnel::userspace) fn message(&self, at: usize) -> Option<Received<'_>> {
        let (len, name) = self.lengths[at];
        // SAFETY: socket2's storage is this one, transparently; the kernel wrote `name` bytes of it.
        let source = unsafe { SockAddr::new(std::mem::transmute_copy(&self.sources[at]), name) };
        let along = control::read(self.controls[at].bytes());
        let bytes = &self.buffers[at * LARGEST..][..len.min(LARGEST)];
        Some(Received {
            bytes,
            size: along.segment.unwrap_or(bytes.len()).max(1),
            path: Path {
                remote: source.as_socket()?,
                local: along.destination.filter(|address| is_one_host(*address)),
            },
            class: along.class,
        })
    }
}

fn is_one_host(address: IpAddr) -> bool {
    !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}
