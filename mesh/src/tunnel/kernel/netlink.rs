//! A netlink socket that asks and waits for the answer. It knows nothing of WireGuard; this is the
//! one file of the crate that opens netlink.

use std::fmt;
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NlasIterator,
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use zeroize::Zeroizing;

/// The kernel answers at once; no answer in this time is an error, not a hang.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A device that answers with more than this is not believed.
const MOST_REPLIES: usize = 65_536;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
/// `enum nlmsgerr_attrs`: the kernel's words for what was wrong.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A message without its header. The bytes are wiped on drop: they may hold keys.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) kind: u16,
    /// Beyond `NLM_F_REQUEST`, which each has.
    pub(super) flags: u16,
    pub(super) payload: Zeroizing<Vec<u8>>,
}

/// The payloads of an answer, wiped on drop.
pub(super) type Replies = Vec<Zeroizing<Vec<u8>>>;

/// What the kernel said to a request.
#[derive(Debug)]
pub(super) struct NetlinkError {
    pub(super) source: io::Error,
    pub(super) text: Option<String>,
}

impl NetlinkError {
    pub(super) fn is(&self, errno: Errno) -> bool {
        Errno::from_io_error(&self.source) == Some(errno)
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self { source, text: None }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text}: {}", self.source),
            None => self.source.fmt(f),
        }
    }
}

/// A socket in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn generic() -> io::Result<Self> {
        Self::open(NETLINK_GENERIC)
    }

    pub(super) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels before 4.12 send neither; then there is a number without words.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and waits until it is acknowledged.
    pub(super) fn request(&mut self, request: Request) -> Result<Replies, NetlinkError> {
        self.send(&request, NLM_F_ACK)?;
        self.receive().map(|(replies, _)| replies)
    }

    /// Asks for a dump. `None`: it was interrupted by a change and must be asked for again.
    pub(super) fn dump(&mut self, request: Request) -> Result<Option<Replies>, NetlinkError> {
        self.send(&request, NLM_F_DUMP)?;
        match self.receive() {
            Ok((replies, Dump::Whole)) => Ok(Some(replies)),
            Ok((_, Dump::Interrupted)) => Ok(None),
            Err(error) if error.is(Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, request: &Request, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = request.flags | flags | NLM_F_REQUEST;
        let mut message = Zeroizing::new(Vec::with_capacity(HEADER + request.payload.len()));
        message.extend(((HEADER + request.payload.len()) as u32).to_ne_bytes());
        message.extend(request.kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend_from_slice(&request.payload);
        self.socket.send(&message, 0).map(drop)
    }

    fn receive(&mut self) -> Result<(Replies, Dump), NetlinkError> {
        let mut replies = Replies::new();
        let mut dump = Dump::Whole;
        loop {
            let datagram = Zeroizing::new(self.socket.recv_from_full()?.0);
            for message in Messages(&datagram) {
                // An answer to a request that timed out.
                if message.sequence != self.sequence {
                    continue;
                }
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return message.error().map_or(Ok((replies, dump)), Err);
                    }
                    NLMSG_OVERRUN => return Err(io::Error::from(Errno::OVERFLOW).into()),
                    _ if replies.len() >= MOST_REPLIES => {
                        return Err(io::Error::from(Errno::MSGSIZE).into());
                    }
                    _ => replies.push(Zeroizing::new(message.payload.to_vec())),
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dump {
    Whole,
    Interrupted,
}

/// The messages of one datagram; ends at one whose length is wrong.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER)?;
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let len = word(0) as usize;
        let payload = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            payload,
        })
    }
}

impl Message<'_> {
    /// The error of an NLMSG_ERROR or NLMSG_DONE; none if it is an acknowledgement.
    fn error(&self) -> Option<NetlinkError> {
        let code = self.payload.get(..4).and_then(|code| code.try_into().ok());
        let code = code.map_or(0, i32::from_ne_bytes);
        if code == 0 {
            return None;
        }
        let source = io::Error::from_raw_os_error(code.saturating_neg());
        Some(NetlinkError {
            source,
            text: self.text(),
        })
    }

    fn text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        // An error repeats the request's header (capped: no more of it) before the attributes.
        let skipped = if self.kind == NLMSG_ERROR {
            4 + HEADER
        } else {
            4
        };
        let attributes = self.payload.get(skipped..)?;
        let message = NlasIterator::new(attributes)
            .filter_map(Result::ok)
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
        let text = message.value().split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + payload.len()) as u32).to_ne_bytes().to_vec();
        message.extend(NLMSG_ERROR.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(payload);
        message
    }

    #[test]
    fn the_words_of_the_kernel_are_kept() {
        let mut payload = (-95_i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend([12, 0, 1, 0]);
        payload.extend(b"Unknown\0");
        let bytes = error(NLM_F_ACK_TLVS, &payload);
        let error = Messages(&bytes).next().unwrap().error().unwrap();
        assert!(error.is(Errno::OPNOTSUPP));
        assert_eq!(
            error.to_string(),
            "Unknown: Operation not supported (os error 95)"
        );
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        let bytes = error(0, &[0; 20]);
        assert!(Messages(&bytes).next().unwrap().error().is_none());
    }

    proptest! {
        #[test]
        fn no_answer_panics_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes) {
                message.error();
            }
        }
    }

    #[test]
    fn a_request_that_the_kernel_does_not_know_is_an_error() {
        let mut netlink = Netlink::generic().unwrap();
        let request = Request {
            kind: 0x7fff,
            flags: 0,
            payload: Zeroizing::new(vec![0; 4]),
        };
        assert!(netlink.request(request).unwrap_err().is(Errno::NOENT));
    }
}
