//! One call of the agent: connect, ask, wait for the answer, all within a deadline.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::de::DeserializeOwned;

use crate::api::{Deadlined, Request, decode_reply, read_frame, send_with_fd};
use crate::{Error, code};

/// How long a connection may take: an agent whose queue stays full is as good as none.
const CONNECT: Duration = Duration::from_secs(2);

/// Why a call brought no value.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent was not asked.
    #[error("the weft agent does not answer on {socket}: {source}")]
    Unreachable {
        socket: String,
        #[source]
        source: io::Error,
    },
    /// The agent may have done what it was asked, or a part of it.
    #[error("the weft agent gave no answer: {0}")]
    Unanswered(#[source] io::Error),
    /// The agent's own answer, or one that is not to be understood ([`code::PROTOCOL`]).
    #[error(transparent)]
    Refused(#[from] Error),
}

impl From<CallError> for Error {
    /// As a runtime is told: what the agent did not answer may go better at the next try.
    fn from(error: CallError) -> Self {
        let details = match &error {
            CallError::Refused(refused) => return refused.clone(),
            CallError::Unreachable { .. } => {
                "start the agent on this node (`weft up`, or its service) and it goes on by itself"
            }
            CallError::Unanswered(_) => "the agent's log says why; the next try may succeed",
        };
        Self::new(code::TRY_AGAIN, error.to_string()).with_details(details)
    }
}

/// Asks the agent; the descriptor, if any, goes with the request.
///
/// # Errors
/// See [`CallError`].
pub fn call<T: DeserializeOwned>(
    socket: &Path,
    request: Request,
    fd: Option<BorrowedFd<'_>>,
    within: Duration,
) -> Result<T, CallError> {
    let deadline = Instant::now() + within;
    let body = request.encode()?;
    let stream = open(socket).map_err(|source| CallError::Unreachable {
        socket: socket.display().to_string(),
        source,
    })?;
    let sent = send_with_fd(&stream, &body, fd, deadline);
    // An agent that refuses a request unread answers and closes; its answer says more than EPIPE.
    let answer = match (read_frame(&mut Deadlined::new(&stream, deadline)), sent) {
        (Ok(Some(answer)), _) => answer,
        (_, Err(error)) | (Err(error), Ok(())) => return Err(CallError::Unanswered(error)),
        (Ok(None), Ok(())) => {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up");
            return Err(CallError::Unanswered(error));
        }
    };
    Ok(decode_reply(&answer)?)
}

fn open(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let stream = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Linux takes the send timeout for a connect that waits for room in the queue.
    set_socket_timeout(&stream, Timeout::Send, Some(CONNECT))?;
    rustix::io::retry_on_intr(|| connect(&stream, &address))?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use rustix::net::{bind, listen};

    use super::*;
    use crate::api::Empty;

    fn ask(socket: &Path, within: Duration) -> CallError {
        let request = Request::Control(serde_json::Value::Null);
        call::<Empty>(socket, request, None, within).unwrap_err()
    }

    fn listener(path: &Path, backlog: i32) -> std::os::fd::OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&socket, backlog).unwrap();
        socket
    }

    #[test]
    fn an_agent_that_never_answers_costs_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = listener(&path, 8);
        let start = Instant::now();
        let error = ask(&path, Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(
            error.to_string(),
            "the weft agent gave no answer: no answer in time"
        );
        assert_eq!(Error::from(error).code, code::TRY_AGAIN);
    }

    #[test]
    fn an_agent_whose_queue_stays_full_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = listener(&path, 0);
        let _first = UnixStream::connect(&path).unwrap();
        let start = Instant::now();
        let error = ask(&path, Duration::from_secs(60));
        assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
        assert!((CONNECT..CONNECT * 5).contains(&start.elapsed()));
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_unreachable() {
        let error = ask(Path::new(&format!("/{}", "x".repeat(200))), CONNECT);
        assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    }
}
