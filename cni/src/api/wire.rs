//! Frames on a unix stream: four bytes of length, big endian, then that many bytes. A descriptor
//! may ride on the first bytes of a frame. Blocking, with a deadline for the whole of a call.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The longest body of a frame, in bytes. A longer one is refused before anything is kept for it.
pub const MAX_FRAME: usize = 1 << 20;
/// Bytes that are enough for nearly every body.
const MOST_BODIES: usize = 4096;

/// A stream on which each read and write waits no longer than until the deadline.
#[derive(Debug)]
pub struct Deadlined<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Deadlined<'a> {
    pub fn new(stream: &'a UnixStream, deadline: Instant) -> Self {
        Self { stream, deadline }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        // Rounded up, since the kernel takes microseconds and 0 means for ever.
        Ok(left.max(Duration::from_millis(1)))
    }
}

impl Read for Deadlined<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buf).map_err(timed_out)
    }
}

impl Write for Deadlined<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buf).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Reads one frame's body; `None` when the other side closed before its first byte.
///
/// # Errors
/// `InvalidData` when the frame says that it is longer than [`MAX_FRAME`], `UnexpectedEof` when
/// it is cut short, and what the reader says.
pub fn read_frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 4];
    let mut got = 0;
    while got < header.len() {
        match reader.read(&mut header[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    read_body(reader, header).map(Some)
}

/// Writes one frame.
///
/// # Errors
/// `InvalidInput` when the body is longer than [`MAX_FRAME`], and what the writer says.
pub fn write_frame(writer: &mut impl Write, body: &[u8]) -> io::Result<()> {
    writer.write_all(&framed(body)?)?;
    writer.flush()
}

/// Sends one frame, with a descriptor on its first bytes if there is one.
///
/// # Errors
/// As [`write_frame`]; `TimedOut` at the deadline.
pub fn send_with_fd(
    stream: &UnixStream,
    body: &[u8],
    fd: Option<BorrowedFd<'_>>,
    deadline: Instant,
) -> io::Result<()> {
    let frame = framed(body)?;
    let mut timed = Deadlined::new(stream, deadline);
    let mut sent = 0;
    if let Some(fd) = fd {
        let fds = [fd];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        stream.set_write_timeout(Some(timed.left()?))?;
        let parts = [IoSlice::new(&frame)];
        // A signal before the first byte went out sent nothing, the descriptor included.
        sent = rustix::io::retry_on_intr(|| {
            sendmsg(stream, &parts, &mut control, SendFlags::NOSIGNAL)
        })
        .map_err(|e| timed_out(e.into()))?;
    }
    timed.write_all(&frame[sent..])
}

/// Receives one frame and the descriptor on its first bytes; `None` when the other side closed
/// before its first byte. Further descriptors are closed.
///
/// # Errors
/// As [`read_frame`]; `TimedOut` at the deadline.
pub fn recv_with_fd(
    stream: &UnixStream,
    deadline: Instant,
) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut timed = Deadlined::new(stream, deadline);
    let mut header = [0; 4];
    stream.set_read_timeout(Some(timed.left()?))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut header)];
        recvmsg(
            stream.as_fd(),
            &mut parts,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })
    .map_err(|e| timed_out(e.into()))?
    .bytes;
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for each in fds {
                fd.get_or_insert(each);
            }
        }
    }
    if got == 0 {
        return Ok(None);
    }
    timed.read_exact(&mut header[got..])?;
    Ok(Some((read_body(&mut timed, header)?, fd)))
}

fn framed(body: &[u8]) -> io::Result<Vec<u8>> {
    if body.len() > MAX_FRAME {
        let text = format!("a message of {} bytes; {MAX_FRAME} are allowed", body.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

fn read_body(reader: &mut impl Read, header: [u8; 4]) -> io::Result<Vec<u8>> {
    let length = u32::from_be_bytes(header) as usize;
    if length > MAX_FRAME {
        let text = format!("a message of {length} bytes; {MAX_FRAME} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // Grows with what really comes, not with what the header promises; most messages fit at once.
    let mut body = Vec::with_capacity(length.min(MOST_BODIES));
    reader.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// A socket's timeout shows itself as `EAGAIN`.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
    } else {
        error
    }
}
