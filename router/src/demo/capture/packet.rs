//! packet(7): the few system calls of a capture.

use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A capture must not lose frames while its thread waits for a core.
const BUFFER: libc::c_int = 64 << 20;
/// How long a reader sleeps without a frame, before it can look whether it should end.
const PATIENCE_US: libc::suseconds_t = 50_000;
// include/uapi/linux/virtio_net.h
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, which the kernel puts before each frame.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Offload {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Offload {
    /// Splits what was received into the bytes of each datagram's payload, where the frame stands
    /// for several, and the frame.
    pub(super) fn split(received: &[u8]) -> Option<(Option<usize>, &[u8])> {
        let (header, frame) = received.split_at_checked(size_of::<Self>())?;
        let udp = header[1] & !GSO_ECN == GSO_UDP;
        let size = usize::from(u16::from_ne_bytes([header[4], header[5]]));
        Some((udp.then_some(size), frame))
    }
}

/// Opens a socket that hears what every interface of this thread's namespace receives.
#[allow(unsafe_code)]
pub(super) fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let all = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0: nothing is heard before the options are set; `bind` starts it.
    // SAFETY: plain integers; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1i32)?;
    set(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_IGNORE_OUTGOING,
        1i32,
    )?;
    // Without the right to the large one, the system's largest; drops are reported either way.
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)
        .or_else(|_| set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER))?;
    let patience = libc::timeval {
        tv_sec: 0,
        tv_usec: PATIENCE_US,
    };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, patience)?;
    let address = link_address(all);
    // SAFETY: the address is a sockaddr_ll of that size and lives through the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Receives a frame that is there, with its [`Offload`]; the bytes kept, and the interface it came by.
#[allow(unsafe_code)]
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut from = link_address(0);
    let mut size = size_of_val(&from) as libc::socklen_t;
    // SAFETY: both pointers are valid for the sizes given, and live through the call.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok((
        length.min(buffer.len()),
        u32::try_from(from.sll_ifindex).unwrap_or_default(),
    ))
}

/// Whether there is a frame to read, waiting up to [`PATIENCE_US`] for one.
#[allow(unsafe_code)]
pub(super) fn readable(socket: &OwnedFd) -> bool {
    let mut start = [0u8; 64];
    // SAFETY: the pointer is valid for the size given; a peek takes nothing away.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            start.as_mut_ptr().cast(),
            start.len(),
            libc::MSG_PEEK,
        )
    };
    length >= 0
}

/// Frames that the socket was offered, those dropped included, and the dropped, since last asked.
#[allow(unsafe_code)]
pub(super) fn statistics(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    let mut stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut size = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, the size of what is pointed to.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut size,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((stats.tp_packets, stats.tp_drops))
}

#[allow(unsafe_code)]
fn set<T: Copy>(socket: &OwnedFd, level: i32, option: i32, value: T) -> io::Result<()> {
    // SAFETY: the value by pointer and size; the kernel reads no more, and refuses a wrong size.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn link_address(protocol: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_datagram_is_read_from_the_header() {
        let mut received = vec![0, GSO_UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa];
        received[4..6].copy_from_slice(&1452u16.to_ne_bytes());
        assert_eq!(
            Offload::split(&received),
            Some((Some(1452), &[0xaa_u8][..]))
        );
        received[1] = 1;
        assert_eq!(Offload::split(&received), Some((None, &[0xaa_u8][..])));
        assert_eq!(Offload::split(&received[..9]), None);
    }
}
