//! Asking the agent: one request, one reply, blocking.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use weft_cni::api::{self, CniRequest, Request};

use super::{ControlReply, ControlRequest};

/// How long an answer may take; attaching a container is the slowest of what is asked.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no agent answers at {socket}: {source}; is `weft up` running, and as which user?")]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("ask the agent: {0}")]
    Io(#[from] io::Error),
    #[error("the agent ended in the middle of its answer")]
    Closed,
    #[error("{0}")]
    Refused(weft_cni::Error),
}

/// Asks a question of the command line's.
///
/// # Errors
/// When no agent listens, or it refuses: [`ControlError::Refused`] has its words.
pub fn ask(socket: &Path, request: &ControlRequest) -> Result<ControlReply, ControlError> {
    let value = serde_json::to_value(request).map_err(io::Error::other)?;
    call(socket, Request::Control(value), None)
}

/// Asks what the CNI plugin asks, without being one.
///
/// # Errors
/// As [`ask`].
pub fn ask_cni<T: DeserializeOwned>(
    socket: &Path,
    request: CniRequest,
    netns: Option<BorrowedFd<'_>>,
) -> Result<T, ControlError> {
    call(socket, Request::Cni(Box::new(request)), netns)
}

fn call<T: DeserializeOwned>(
    socket: &Path,
    request: Request,
    fd: Option<BorrowedFd<'_>>,
) -> Result<T, ControlError> {
    let deadline = Instant::now() + DEADLINE;
    let stream = UnixStream::connect(socket).map_err(|source| ControlError::Connect {
        socket: socket.to_owned(),
        source,
    })?;
    let body = request.encode().map_err(ControlError::Refused)?;
    api::send_with_fd(&stream, &body, fd, deadline)?;
    let mut timed = api::Deadlined::new(&stream, deadline);
    let reply = api::read_frame(&mut timed)?.ok_or(ControlError::Closed)?;
    api::decode_reply(&reply).map_err(ControlError::Refused)
}
