//! The plugin `loopback`, which CRI runtimes run for each pod whatever its network: `lo` up in the
//! container's namespace. Not through the agent: a pod of the host's network wants none either.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use ipnet::IpNet;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::conf::NetConf;
use crate::env::{Invocation, Target};
use crate::plugin::open_netns;
use crate::result::{AddResult, Interface, Ip};
use crate::{Error, code};

/// The name that it is run by.
pub(crate) const NAME: &str = "loopback";

/// The kernel gives it to `lo` in every namespace (`LOOPBACK_IFINDEX` of `net/net_namespace.h`).
const LO: u32 = 1;
// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if.h` and `linux/if_addr.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Of a netlink message's header, and of `ifinfomsg`.
const HEADER: usize = 16;
/// Longer than the kernel makes a datagram of a dump.
const DATAGRAM: usize = 32 << 10;

/// What one call says, `None` for nothing.
pub(crate) fn answer(invocation: Invocation, conf: NetConf) -> Result<Option<Value>, Error> {
    match invocation {
        Invocation::Add(target) => add(target, conf).map(Some),
        Invocation::Check(target) => check(&target).map(|()| None),
        Invocation::Del {
            netns: Some(path), ..
        } => match open_netns(&path) {
            Ok(netns) => inside(&netns, &path, |lo| lo.set(false)).map(|()| None),
            // `lo` is gone with its namespace.
            Err(error) if error.code == code::UNKNOWN_CONTAINER => Ok(None),
            Err(error) => Err(error),
        },
        // Nothing is kept of what was added, and nothing can be missing.
        Invocation::Del { netns: None, .. }
        | Invocation::Gc
        | Invocation::Status
        | Invocation::Version => Ok(None),
    }
}

fn add(target: Target, conf: NetConf) -> Result<Value, Error> {
    let netns = open_netns(&target.netns)?;
    let addresses = inside(&netns, &target.netns, |lo| {
        lo.set(true)?;
        lo.addresses()
    })?;
    // In a chain the result is the one of the plugin before.
    let result = conf.prev_result.unwrap_or_else(|| AddResult {
        interfaces: vec![Interface {
            name: "lo".to_owned(),
            mac: Some("00:00:00:00:00:00".to_owned()),
            sandbox: Some(target.netns),
            ..Interface::default()
        }],
        ips: addresses
            .into_iter()
            .map(|address| Ip {
                address,
                gateway: None,
                interface: Some(0),
            })
            .collect(),
        ..AddResult::default()
    });
    Ok(result.to_json(conf.version))
}

fn check(target: &Target) -> Result<(), Error> {
    let netns = open_netns(&target.netns)?;
    if inside(&netns, &target.netns, Lo::is_up)? {
        return Ok(());
    }
    let msg = format!("lo is down in {}", target.netns);
    Err(Error::new(code::CHECK_FAILED, msg))
}

/// Goes into the namespace, for good: the process is of one call.
fn inside<T>(netns: &File, path: &str, act: impl FnOnce(&Lo) -> io::Result<T>) -> Result<T, Error> {
    let run = || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        act(&Lo::open()?)
    };
    run().map_err(|e| Error::new(code::IO, format!("lo in the network namespace {path}: {e}")))
}

/// `lo` of the namespace that this thread is in, by a route socket.
struct Lo(OwnedFd);

impl Lo {
    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::RAW;
        // No protocol is the first, `NETLINK_ROUTE`.
        let socket = socket_with(AddressFamily::NETLINK, kind, flags, None)?;
        Ok(Self(socket))
    }

    fn set(&self, up: bool) -> io::Result<()> {
        let flags = if up { IFF_UP } else { 0 };
        self.ask(NEWLINK, ACK, &ifinfo(flags, IFF_UP), |_, _| ())
    }

    fn is_up(&self) -> io::Result<bool> {
        let mut up = false;
        self.ask(GETLINK, ACK, &ifinfo(0, 0), |kind, body| {
            if kind == NEWLINK && u32_at(body, 4) == Some(LO) {
                up = u32_at(body, 8).is_some_and(|flags| flags & IFF_UP != 0);
            }
        })?;
        Ok(up)
    }

    fn addresses(&self) -> io::Result<Vec<IpNet>> {
        let mut found = Vec::new();
        self.ask(GETADDR, DUMP, &[0; 8], |kind, body| {
            if kind == NEWADDR {
                found.extend(address(body));
            }
        })?;
        Ok(found)
    }

    /// One request; each message of the answer, until the kernel says that it is the last.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        // Sequence and port: one request at a time, and the kernel fills the port in.
        message.extend([0; 8]);
        message.extend(body);
        send(&self.0, &message, SendFlags::empty())?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (count, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            for (kind, body) in messages(&buffer[..count]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let number = u32_at(body, 0).unwrap_or(0).cast_signed();
                        return match number {
                            0 => Ok(()),
                            _ => Err(io::Error::from_raw_os_error(number.saturating_neg())),
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
    }
}

/// `ifinfomsg` of `lo`.
fn ifinfo(flags: u32, change: u32) -> [u8; HEADER] {
    let mut body = [0; HEADER];
    body[4..8].copy_from_slice(&LO.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&change.to_ne_bytes());
    body
}

/// The address of an `ifaddrmsg`, where it is one of `lo`'s.
fn address(body: &[u8]) -> Option<IpNet> {
    if u32_at(body, 4)? != LO {
        return None;
    }
    let attributes = || {
        parts(body.get(8..).unwrap_or_default(), 4, |head| {
            (u16_at(head, 2), u16_at(head, 0).map(usize::from))
        })
    };
    let value = |wanted| attributes().find(|(kind, _)| *kind == wanted);
    let (_, value) = value(IFA_LOCAL).or_else(|| value(IFA_ADDRESS))?;
    let address: IpAddr = match value.len() {
        4 => <[u8; 4]>::try_from(value).ok()?.into(),
        _ => <[u8; 16]>::try_from(value).ok()?.into(),
    };
    IpNet::new(address, body[1]).ok()
}

/// Kind and body of each whole message.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    parts(bytes, HEADER, |head| {
        (
            u16_at(head, 4),
            u32_at(head, 0).map(|length| length as usize),
        )
    })
}

/// Messages and attributes alike: a head with kind and length, padded to four bytes.
fn parts(
    mut rest: &[u8],
    head: usize,
    read: impl Fn(&[u8]) -> (Option<u16>, Option<usize>),
) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (Some(kind), Some(length)) = read(rest) else {
            return None;
        };
        let body = rest.get(head..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_no_answer_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            for (_, body) in messages(&bytes) {
                let _ = address(body);
            }
            let _ = address(&bytes);
        }
    }
}
