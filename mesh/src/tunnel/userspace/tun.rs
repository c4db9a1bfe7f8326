//! The TUN device: queues, each of which takes and gives super-packets where the kernel can. It
//! outlives the process unless asked not to, and an existing one is adopted.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use tracing::{info, warn};

use super::coalesce::{Offloads, Write};
use super::vnet::{HEADER, Vnet};
use crate::tunnel::TunnelError;

const DEVICE: &str = "/dev/net/tun";

/// How many names a link has by which it is held.
const NAMES: usize = 16;
/// The pieces of the largest super-packet, and its header.
const PIECES: usize = 65;

/// `TUNSETOFFLOAD`'s flags (linux/if_tun.h).
const CSUM: libc::c_ulong = 0x01;
const TSO: libc::c_ulong = 0x02 | 0x04;
const TSO_ECN: libc::c_ulong = 0x08;
const USO: libc::c_ulong = 0x20 | 0x40;

/// What is asked of a TUN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Threads that may read it at once.
    pub(super) queues: usize,
    /// It stays when the process ends.
    pub(super) persistent: bool,
}

/// The right to a link's name, in a network namespace: the kernel lets many processes attach to a
/// device of many queues.
pub(super) struct Hold {
    /// An abstract socket is its network namespace's, and goes with the process. None where others
    /// have taken all of the names.
    _socket: Option<UnixListener>,
}

impl Hold {
    /// Takes it, in the network namespace of the calling thread. Anybody may bind a name, so one that
    /// is another user's holds nothing, and the next is taken.
    pub(super) fn take(link: &str) -> Result<Self, TunnelError> {
        for number in 0..NAMES {
            let name = format!("weft-tun/{link}/{number}");
            let io = |source| TunnelError::Io {
                act: format!("hold the name of {link}"),
                source,
            };
            let address = SocketAddr::from_abstract_name(name).map_err(io)?;
            match UnixListener::bind_addr(&address) {
                Ok(socket) => {
                    return Ok(Self {
                        _socket: Some(socket),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    if is_our_users(&address) {
                        return Err(TunnelError::Io {
                            act: held(link),
                            source: error,
                        });
                    }
                }
                Err(error) => return Err(io(error)),
            }
        }
        warn!(
            link,
            "another user's processes have all names by which this link is held"
        );
        Ok(Self { _socket: None })
    }
}

/// Whether whoever listens there is of our user. Who is bound and does not listen is none of ours.
fn is_our_users(address: &SocketAddr) -> bool {
    UnixStream::connect_addr(address)
        .and_then(|stream| Ok(socket_peercred(&stream)?))
        .is_ok_and(|theirs| theirs.uid == geteuid())
}

fn held(link: &str) -> String {
    format!("attach to {link}: another process holds it")
}

/// A TUN device that this process is attached to.
pub(super) struct Tun {
    queues: Vec<File>,
    offloads: Offloads,
}

impl Tun {
    /// Makes the device, or attaches to the one that is there. Addresses, MTU and the bringing up
    /// are the caller's.
    pub(super) fn open(link: &str, options: Options) -> Result<Self, TunnelError> {
        let refused = |reason: &str| TunnelError::Refused {
            link: link.to_owned(),
            reason: reason.to_owned(),
        };
        let request = Request::new(link)
            .ok_or_else(|| refused("a link's name has 1 to 15 characters, no '/' and no space"))?;
        let io = |act: String| |source| TunnelError::Io { act, source };
        let many = libc::IFF_MULTI_QUEUE;
        let attached = if options.queues > 1 {
            // An earlier run may have left one of a single queue.
            attach(&request, many).or_else(|error| match Errno::from_io_error(&error) {
                Some(Errno::INVAL) => attach(&request, 0),
                _ => Err(error),
            })
        } else {
            attach(&request, 0).or_else(|error| match Errno::from_io_error(&error) {
                Some(Errno::INVAL) => attach(&request, many),
                _ => Err(error),
            })
        };
        let (first, flags) = attached.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::ACCESS) => io(format!("open {DEVICE}"))(error),
            Some(Errno::INVAL) => refused("there is a link of this name that is no TUN"),
            Some(Errno::BUSY) => io(held(link))(error),
            Some(Errno::PERM) => {
                io(format!("make the TUN {link}: CAP_NET_ADMIN is missing"))(error)
            }
            _ => io(format!("make the TUN {link}"))(error),
        })?;
        let persist = libc::c_ulong::from(options.persistent);
        set(&first, libc::TUNSETPERSIST, persist)
            .map_err(io(format!("make the TUN {link} persistent")))?;
        let mut queues = vec![first];
        while flags & many != 0 && queues.len() < options.queues {
            match attach(&request, many) {
                Ok((queue, _)) => queues.push(queue),
                Err(error) => {
                    info!(link, %error, queues = queues.len(), "the TUN has fewer queues");
                    break;
                }
            }
        }
        let offloads = offload(link, &queues[0]).map_err(io(format!("set up the TUN {link}")))?;
        Ok(Self { queues, offloads })
    }

    pub(super) fn queues(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Waits on it tell of the queue's packets.
    pub(super) fn queue(&self, queue: usize) -> BorrowedFd<'_> {
        self.queues[queue % self.queues.len()].as_fd()
    }

    /// Reads one packet, or super-packet, without waiting. The length is that without the header.
    #[allow(unsafe_code)]
    pub(super) fn read(&self, queue: usize, buffer: &mut [u8]) -> io::Result<(Vnet, usize)> {
        let mut header = [0; HEADER];
        let parts = [
            libc::iovec {
                iov_base: header.as_mut_ptr().cast(),
                iov_len: header.len(),
            },
            libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            },
        ];
        let fd = self.queue(queue).as_raw_fd();
        // SAFETY: both parts are to memory of their length that outlives the call.
        let read = unsafe { libc::readv(fd, parts.as_ptr(), 2) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        Ok((Vnet::read(header), read.saturating_sub(HEADER)))
    }

    /// Gives one packet, or super-packet, to the host.
    #[allow(unsafe_code)]
    pub(super) fn write(&self, write: &Write<'_>, arena: &[u8]) -> io::Result<()> {
        let header = write.vnet.bytes();
        let mut parts = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; PIECES];
        parts[0].iov_base = header.as_ptr().cast_mut().cast();
        parts[0].iov_len = header.len();
        let mut used = 1;
        for (part, (start, len)) in parts[1..].iter_mut().zip(write.pieces()) {
            let piece = &arena[start..start + len];
            part.iov_base = piece.as_ptr().cast_mut().cast();
            part.iov_len = piece.len();
            used += 1;
        }
        let fd = self.queue(write.hash as usize).as_raw_fd();
        // SAFETY: `used` parts are to memory of their length that outlives the call, which reads them.
        let written = unsafe { libc::writev(fd, parts.as_ptr(), used) };
        if written < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

impl Request {
    fn new(link: &str) -> Option<Self> {
        let legal = (1..libc::IFNAMSIZ).contains(&link.len())
            && !matches!(link, "." | "..")
            && link
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
        if !legal {
            return None;
        }
        let mut name = [0; libc::IFNAMSIZ];
        name[..link.len()].copy_from_slice(link.as_bytes());
        Some(Self {
            name,
            flags: 0,
            rest: [0; 22],
        })
    }
}

/// A queue of the device, and the flags that it was attached with.
#[allow(unsafe_code)]
fn attach(request: &Request, more: libc::c_int) -> io::Result<(File, libc::c_int)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    // The kernel writes the name back.
    let mut request = Request {
        flags: flags as libc::c_short,
        ..*request
    };
    // SAFETY: `request` is laid out as `struct ifreq` and lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((file, flags))
}

/// Asks for all that the kernel has, and takes what it gives.
fn offload(link: &str, queue: &File) -> io::Result<Offloads> {
    let tcp = CSUM | TSO | TSO_ECN;
    if set(queue, libc::TUNSETOFFLOAD, tcp | USO).is_ok() {
        return Ok(Offloads {
            tcp: true,
            udp: true,
        });
    }
    if set(queue, libc::TUNSETOFFLOAD, tcp).is_ok() {
        info!(link, "the kernel cuts no UDP super-packets for a TUN (USO)");
        return Ok(Offloads {
            tcp: true,
            udp: false,
        });
    }
    info!(link, "the kernel gives a TUN no super-packets (TSO)");
    set(queue, libc::TUNSETOFFLOAD, 0).map(|()| Offloads::default())
}

/// Sets what an ioctl takes by value.
#[allow(unsafe_code)]
fn set(file: &File, name: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST and TUNSETOFFLOAD take an integer by value.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), name, value) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_kernel_would_change_or_refuse_is_refused() {
        for bad in ["", "a/b", "a b", "weft%d", "..", "sixteen-chars-xx"] {
            assert!(Request::new(bad).is_none(), "{bad}");
        }
        assert_eq!(&Request::new("weft0").unwrap().name[..6], b"weft0\0");
        assert_eq!(size_of::<Request>(), size_of::<libc::ifreq>());
    }

    #[test]
    fn a_link_is_held_by_one_and_not_by_who_only_has_its_name() {
        let link = format!("t{}", std::process::id());
        let name = SocketAddr::from_abstract_name(format!("weft-tun/{link}/0")).unwrap();
        // It is bound, and nobody listens.
        let squatter = std::os::unix::net::UnixDatagram::bind_addr(&name).unwrap();
        let held = Hold::take(&link).unwrap();
        let refused = Hold::take(&link).err().unwrap().to_string();
        assert!(refused.contains("another process holds it"), "{refused}");
        drop((held, squatter));
        Hold::take(&link).unwrap();
    }
}
