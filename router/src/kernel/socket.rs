//! A blocking netlink socket: batches of requests with their answers, and dumps.
//!
//! The kernel carries a request out inside `send`, so its answer is already queued when `send`
//! returns: nothing here ever waits for anybody.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};
use rustix::net::{RecvFlags, recv};
use tracing::trace;

use super::wire::{Message, Received, messages};

/// Larger than any datagram that the kernel makes for a dump (32 KiB).
const DATAGRAM: usize = 64 * 1024;

/// Requests per `send`: their acknowledgements fit the default receive buffer.
const BATCH: usize = 64;

/// How often a dump that others changed under us is begun again.
const DUMP_TRIES: usize = 16;

/// A netlink socket. It stays in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// `protocol` is `NETLINK_ROUTE` or `NETLINK_NETFILTER`.
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
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
        })
    }

    /// The port by which notifications name this socket as their cause.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends requests in as few system calls as can be and returns each one's outcome, in order.
    pub(crate) fn transact(&mut self, requests: Vec<Message>) -> io::Result<Vec<io::Result<()>>> {
        self.exchange(requests, |_| {})
    }

    /// As [`transact`](Self::transact); `answer` sees every message that is not an acknowledgement.
    pub(crate) fn exchange(
        &mut self,
        requests: Vec<Message>,
        mut answer: impl FnMut(Received<'_>),
    ) -> io::Result<Vec<io::Result<()>>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            let mut count = 0;
            for request in requests.by_ref().take(BATCH) {
                self.sequence = self.sequence.wrapping_add(1);
                bytes.extend(request.acknowledged().into_bytes(self.sequence));
                count += 1;
            }
            self.socket.send(&bytes, 0)?;
            let mut batch: Vec<Option<i32>> = vec![None; count];
            while batch.iter().any(Option::is_none) {
                let Some(length) = self.receive()? else { break };
                for message in messages(&self.buffer[..length]) {
                    if i32::from(message.kind) != libc::NLMSG_ERROR {
                        answer(message);
                    } else if let Some(slot) =
                        batch.get_mut(message.sequence.wrapping_sub(first) as usize)
                    {
                        *slot = Some(message.errno());
                    }
                }
            }
            outcomes.extend(batch.into_iter().map(|errno| match errno {
                Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other("the kernel did not answer")),
            }));
        }
        Ok(outcomes)
    }

    /// Sends messages that are one transaction: all of it happens, or the first error is returned.
    pub(crate) fn commit(&mut self, requests: Vec<Message>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend(request.into_bytes(self.sequence));
        }
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&self.socket, bytes.len() * 2);
        self.socket.send(&bytes, 0)?;
        let mut outcome = None;
        while let Some(length) = self.receive()? {
            for message in messages(&self.buffer[..length]) {
                let is_answer = i32::from(message.kind) == libc::NLMSG_ERROR;
                if is_answer && outcome.is_none_or(|errno| errno == 0) {
                    outcome = Some(message.errno());
                    let index = message.sequence.wrapping_sub(first);
                    trace!(
                        index,
                        errno = message.errno(),
                        "answer within a transaction"
                    );
                }
            }
        }
        match outcome {
            Some(0) => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other("the kernel did not answer")),
        }
    }

    /// Reads a whole table through `read`, which returns `None` for what it does not want. Begun
    /// again when others changed the table meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Message,
        read: impl Fn(Received<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            if let Some(found) = self.dump_once(request, &read)? {
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
        request: &Message,
        read: &impl Fn(Received<'_>) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.clone().into_bytes(self.sequence);
        self.socket.send(&bytes, 0)?;
        let mut found = Vec::new();
        let mut whole = true;
        // The kernel makes the next part of a dump when the last one is read, so each is there.
        while let Some(length) = self.receive()? {
            for message in messages(&self.buffer[..length]) {
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= i32::from(message.flags) & libc::NLM_F_DUMP_INTR == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match message.errno() {
                            0 => Ok(whole.then_some(found)),
                            libc::EINTR => Ok(None),
                            errno => Err(io::Error::from_raw_os_error(errno)),
                        };
                    }
                    _ => found.extend(read(message)),
                }
            }
        }
        Err(io::Error::other("the kernel ended a dump early"))
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

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("port", &self.port).finish()
    }
}
