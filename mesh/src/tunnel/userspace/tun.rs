//! The TUN device: one packet a system call. It outlives the process, and an existing one is adopted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::io::Errno;

use crate::tunnel::TunnelError;

const DEVICE: &str = "/dev/net/tun";

/// A TUN device that this process is attached to.
pub(super) struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device, or attaches to the one that is there. Addresses, MTU and the bringing up
    /// are the caller's.
    pub(super) fn open(link: &str) -> Result<Self, TunnelError> {
        let refused = |reason: &str| TunnelError::Refused {
            link: link.to_owned(),
            reason: reason.to_owned(),
        };
        let request = Request::new(link)
            .ok_or_else(|| refused("a link's name has 1 to 15 characters, no '/' and no space"))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|source| TunnelError::Io {
                act: format!("open {DEVICE}"),
                source,
            })?;
        let io = |act: String| |source| TunnelError::Io { act, source };
        if let Err(error) = attach(&file, &request) {
            return Err(match Errno::from_io_error(&error) {
                Some(Errno::INVAL) => refused("there is a link of this name that is no TUN"),
                Some(Errno::BUSY) => {
                    io(format!("attach to {link}: another process holds it"))(error)
                }
                Some(Errno::PERM) => {
                    io(format!("make the TUN {link}: CAP_NET_ADMIN is missing"))(error)
                }
                _ => io(format!("make the TUN {link}"))(error),
            });
        }
        persist(&file).map_err(io(format!("make the TUN {link} persistent")))?;
        Ok(Self { file })
    }

    /// Reads one packet, without waiting.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Gives one packet to the host.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
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
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        Some(Self {
            name,
            flags,
            rest: [0; 22],
        })
    }
}

#[allow(unsafe_code)]
fn attach(file: &File, request: &Request) -> io::Result<()> {
    // The kernel writes the name back.
    let mut request = Request { ..*request };
    // SAFETY: `request` is laid out as `struct ifreq` and lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[allow(unsafe_code)]
fn persist(file: &File) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes an integer by value.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) };
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
}
