//! The agent's socket: each connection is one request, read and answered on a thread of the
//! blocking pool, since a descriptor may come with it.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use weft_cni::api::{self, CniRequest, Request};
use weft_cni::{Error, code};

use super::{ControlReply, ControlRequest};

/// How long a caller may take to say what it wants, and to take the answer.
const CALLER_DEADLINE: Duration = Duration::from_secs(5);
/// Calls at once. A kubelet starts some tens of pods at a time; more wait in the listen queue.
const CALLS: usize = 48;

/// What answers.
pub trait Handler: Send + Sync + 'static {
    /// The plugin's calls. `netns` is the container's network namespace, with ADD and CHECK.
    fn cni(
        &self,
        request: CniRequest,
        netns: Option<OwnedFd>,
    ) -> impl Future<Output = Result<Value, Error>> + Send;

    /// The command line's.
    fn control(
        &self,
        request: ControlRequest,
    ) -> impl Future<Output = Result<ControlReply, Error>> + Send;
}

/// The agent's socket, made and listened on, 0600.
#[derive(Debug)]
pub struct ControlSocket(UnixListener);

impl ControlSocket {
    /// Takes the place of a socket that nobody answers on.
    ///
    /// # Errors
    /// When the socket cannot be made, or another agent answers on it.
    pub fn bind(socket: &Path) -> io::Result<Self> {
        let about = |e: io::Error| {
            io::Error::new(
                e.kind(),
                format!("control socket {}: {e}", socket.display()),
            )
        };
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).map_err(about)?;
        }
        if UnixStream::connect(socket).is_ok() {
            let text = "another agent listens there; end it, or give this one another --socket";
            return Err(about(io::Error::new(io::ErrorKind::AddrInUse, text)));
        }
        match std::fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(about(e)),
            _ => {}
        }
        let listener = UnixListener::bind(socket).map_err(about)?;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(socket, mode).map_err(about)?;
        Ok(Self(listener))
    }

    /// Answers until the future is dropped.
    pub async fn serve<H: Handler>(self, handler: Arc<H>) {
        let calls = Arc::new(Semaphore::new(CALLS));
        while let Ok(permit) = Arc::clone(&calls).acquire_owned().await {
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others may be closed meanwhile.
                    warn!(%error, "accept on the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !may_call(&stream) {
                continue;
            }
            let handler = Arc::clone(&handler);
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = answer(stream, &*handler, &runtime) {
                    debug!(%error, "control socket");
                }
                drop(permit);
            });
        }
    }
}

/// Whether the caller is root or the user that this process runs as. The file's mode says the same,
/// but only from a moment after the socket is there.
fn may_call(stream: &tokio::net::UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(caller) if is_trusted(caller.uid(), own) => true,
        Ok(caller) => {
            warn!(uid = caller.uid(), "a caller of another user is refused");
            false
        }
        Err(error) => {
            warn!(%error, "a caller of unknown user is refused");
            false
        }
    }
}

fn is_trusted(caller: u32, own: u32) -> bool {
    caller == 0 || caller == own
}

fn answer(
    stream: tokio::net::UnixStream,
    handler: &impl Handler,
    runtime: &Handle,
) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    let Some((body, fd)) = api::recv_with_fd(&stream, Instant::now() + CALLER_DEADLINE)? else {
        return Ok(());
    };
    let reply = match Request::decode(&body) {
        Ok(Request::Cni(request)) => runtime.block_on(handler.cni(*request, fd)),
        Ok(Request::Control(value)) => runtime.block_on(control(handler, value)),
        Err(error) => Err(error),
    };
    let reply = api::encode_reply(reply).map_err(|e| io::Error::other(e.to_string()))?;
    let mut timed = api::Deadlined::new(&stream, Instant::now() + CALLER_DEADLINE);
    api::write_frame(&mut timed, &reply)
}

async fn control(handler: &impl Handler, value: Value) -> Result<Value, Error> {
    let request = serde_json::from_value(value)
        .map_err(|e| Error::new(code::PROTOCOL, format!("not a control request: {e}")))?;
    let reply = handler.control(request).await?;
    serde_json::to_value(reply)
        .map_err(|e| Error::new(code::INTERNAL, format!("encode the reply: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_own_user_may_call_and_nobody_else() {
        assert!(is_trusted(0, 1000) && is_trusted(1000, 1000) && is_trusted(0, 0));
        assert!(!is_trusted(1000, 0) && !is_trusted(1001, 1000));
    }

    #[tokio::test]
    async fn a_caller_of_our_own_is_known_by_its_user() {
        let (stream, _peer) = tokio::net::UnixStream::pair().unwrap();
        assert!(may_call(&stream));
    }
}
