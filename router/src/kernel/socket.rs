//! A blocking netlink socket: batches of requests with their answers, and dumps.
//!
//! The kernel carries a request out inside `send`, so its answer is already queued when `send`
//! returns: nothing here ever waits for anybody.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::{RecvFlags, recv};
use tracing::{debug, trace};

/// Larger than any datagram that the kernel makes for a dump (32 KiB).
pub(super) const DATAGRAM: usize = 64 * 1024;

/// Requests per `send`: their acknowledgements fit the default receive buffer.
const BATCH: usize = 64;

/// How often a dump that others changed under us is begun again.
const DUMP_TRIES: usize = 16;

/// A netlink socket that speaks one family's messages, `M`. It stays in the network namespace of
/// the thread that opened it.
pub(crate) struct Netlink<M> {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    family: PhantomData<fn(M) -> M>,
}

impl<M: NetlinkSerializable + NetlinkDeserializable> Netlink<M> {
    /// `protocol` is that of `M`: `NETLINK_ROUTE` or `NETLINK_NETFILTER`.
    pub(super) fn new(protocol: i32) -> io::Result<Self> {
        let mut socket = Socket::new(protocol as isize)?;
        // Old kernels lack these three; nothing depends on them.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        if protocol == libc::NETLINK_ROUTE {
            let _ = socket.set_netlink_get_strict_chk(true);
        }
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
            family: PhantomData,
        })
    }

    /// The port by which notifications name this socket as their cause.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends requests in as few system calls as can be and returns each one's outcome, in order.
    pub(crate) fn transact(
        &mut self,
        requests: Vec<NetlinkMessage<M>>,
    ) -> io::Result<Vec<io::Result<()>>> {
        self.exchange(requests, |_| {})
    }

    /// As [`transact`](Self::transact); `answer` sees every message that is not an acknowledgement.
    pub(crate) fn exchange(
        &mut self,
        requests: Vec<NetlinkMessage<M>>,
        mut answer: impl FnMut(M),
    ) -> io::Result<Vec<io::Result<()>>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            let mut count = 0;
            for mut request in requests.by_ref().take(BATCH) {
                request.header.flags |= NLM_F_ACK;
                self.write(request, &mut bytes);
                count += 1;
            }
            self.socket.send(&bytes, 0)?;
            let mut batch: Vec<Option<i32>> = vec![None; count];
            while batch.iter().any(Option::is_none) {
                let Some(length) = self.receive()? else { break };
                for message in messages::<M>(&self.buffer[..length]) {
                    let index = message.header.sequence_number.wrapping_sub(first);
                    match message.payload {
                        NetlinkPayload::InnerMessage(message) => answer(message),
                        NetlinkPayload::Error(error) => {
                            if let Some(slot) = batch.get_mut(index as usize) {
                                *slot = Some(error.raw_code());
                            }
                        }
                        _ => {}
                    }
                }
            }
            outcomes.extend(batch.into_iter().map(outcome));
        }
        Ok(outcomes)
    }

    /// Sends messages that are one transaction: all of it happens, or the first error is returned.
    pub(crate) fn commit(&mut self, requests: Vec<NetlinkMessage<M>>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for request in requests {
            self.write(request, &mut bytes);
        }
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, bytes.len() * 2);
        self.socket.send(&bytes, 0)?;
        let mut code = None;
        while let Some(length) = self.receive()? {
            for message in messages::<M>(&self.buffer[..length]) {
                let NetlinkPayload::Error(error) = message.payload else {
                    continue;
                };
                if code.is_none_or(|code| code == 0) {
                    code = Some(error.raw_code());
                    let index = message.header.sequence_number.wrapping_sub(first);
                    trace!(
                        index,
                        code = error.raw_code(),
                        "answer within a transaction"
                    );
                }
            }
        }
        outcome(code)
    }

    /// Reads a whole table through `read`, which returns `None` for what it does not want. Begun
    /// again when others changed the table meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        request: &NetlinkMessage<M>,
        read: impl Fn(M) -> Option<T>,
    ) -> io::Result<Vec<T>>
    where
        M: Clone,
    {
        for _ in 0..DUMP_TRIES {
            if let Some(found) = self.dump_once(request.clone(), &read)? {
                return Ok(found);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the table changed all the while it was read",
        ))
    }

    fn dump_once<T>(
        &mut self,
        request: NetlinkMessage<M>,
        read: &impl Fn(M) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let mut bytes = Vec::new();
        self.write(request, &mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut found = Vec::new();
        let mut whole = true;
        // The kernel makes the next part of a dump when the last one is read, so each is there.
        while let Some(length) = self.receive()? {
            for message in messages::<M>(&self.buffer[..length]) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                let code = match message.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        found.extend(read(message));
                        continue;
                    }
                    NetlinkPayload::Done(done) => done.code,
                    NetlinkPayload::Error(error) => error.raw_code(),
                    _ => continue,
                };
                return match code.saturating_neg() {
                    0 => Ok(whole.then_some(found)),
                    libc::EINTR => Ok(None),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
            }
        }
        Err(io::Error::other("the kernel ended a dump early"))
    }

    /// Appends the request under the next sequence number.
    fn write(&mut self, mut request: NetlinkMessage<M>, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        request.header.sequence_number = self.sequence;
        request.header.flags |= NLM_F_REQUEST;
        request.finalize();
        let start = bytes.len();
        let end = start + request.buffer_len();
        bytes.resize(end.next_multiple_of(4), 0);
        request.serialize(&mut bytes[start..end]);
    }

    /// The length of the next datagram in `buffer`, or `None` when nothing is queued.
    fn receive(&mut self) -> io::Result<Option<usize>> {
        loop {
            let outcome = recv(
                &self.socket,
                &mut self.buffer[..],
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            );
            match outcome {
                Ok((_, length)) if length > self.buffer.len() => {
                    return Err(io::Error::other("a netlink datagram over 64 KiB"));
                }
                Ok((_, length)) => return Ok(Some(length)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What an acknowledgement's code says: 0, or the negative error number.
fn outcome(code: Option<i32>) -> io::Result<()> {
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel did not answer")),
    }
}

/// The frames of a datagram; ends at the first that is cut short.
pub(super) fn frames(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(datagram).ok()?.length() as usize;
        let frame = NetlinkBuffer::new(&datagram[..length]);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(frame)
    })
}

/// The messages of a datagram. One that cannot be read, as a newer kernel may have, is left out: it
/// must not hide the others.
pub(super) fn messages<M: NetlinkDeserializable>(
    datagram: &[u8],
) -> impl Iterator<Item = NetlinkMessage<M>> {
    frames(datagram).filter_map(|frame| {
        NetlinkMessage::deserialize(frame.into_inner())
            .inspect_err(|error| debug!(%error, "a netlink message that cannot be read"))
            .ok()
    })
}

impl<M> AsFd for Netlink<M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<M> std::fmt::Debug for Netlink<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("port", &self.port).finish()
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::RouteNetlinkMessage;
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::netlink;

    #[test]
    fn no_datagram_of_the_corpus_panics_a_reader() {
        let mut links = 0;
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "netlink", |bytes| {
            let size: usize = frames(bytes).map(|frame| frame.length() as usize).sum();
            assert!(size <= bytes.len(), "no more is read than there is");
            for message in messages(bytes) {
                if let NetlinkPayload::InnerMessage(message) = message.payload {
                    let _ = netlink::is_local(&message);
                    links += usize::from(netlink::link(message).is_some());
                }
            }
        });
        assert!(links > 100, "{links} were read as links");
    }

    fn attribute((kind, value): (u16, Vec<u8>)) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Attributes of any kind and any length, some made of others.
    fn attributes() -> impl Strategy<Value = Vec<u8>> {
        let leaf = proptest::collection::vec(any::<u8>(), 0..24);
        leaf.prop_recursive(3, 32, 6, |inner| {
            let few = proptest::collection::vec((0u16..72, inner), 0..6);
            few.prop_map(|all| all.into_iter().flat_map(attribute).collect())
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = messages::<RouteNetlinkMessage>(&bytes).count();
        }

        #[test]
        fn any_attributes_are_read_without_panic(
            kind in 16u16..31,
            header in proptest::collection::vec(any::<u8>(), 16),
            family in prop_oneof![Just(0u8), Just(2), Just(7), Just(10)],
            attributes in attributes(),
        ) {
            let mut header = header;
            header[0] = family;
            // Of `struct ifinfomsg`, `ifaddrmsg`, `rtmsg` and `ndmsg`.
            header.truncate([16, 8, 12, 12][usize::from((kind - 16) / 4)]);
            let length = 16 + header.len() + attributes.len();
            let mut datagram = (length as u32).to_ne_bytes().to_vec();
            datagram.extend_from_slice(&kind.to_ne_bytes());
            datagram.extend_from_slice(&[0; 10]);
            datagram.extend_from_slice(&header);
            datagram.extend_from_slice(&attributes);
            let _ = messages::<RouteNetlinkMessage>(&datagram).count();
        }
    }
}
