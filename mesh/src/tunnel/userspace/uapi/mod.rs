//! WireGuard's cross-platform configuration protocol (wireguard.com/xplatform): `wg` finds a device by
//! its unix socket, reads it, and changes it where that is allowed.

mod format;
mod parse;

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tracing::debug;

use super::configure::Device;
use crate::tunnel::TunnelError;

/// Who connects and says nothing is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most who are answered at once.
const MOST: usize = 16;
/// The largest request: some 300,000 allowed IPs.
const LARGEST: u64 = 16 << 20;

/// What may be asked of a device over its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Changes are refused (EPERM): somebody else decides.
    ReadOnly,
    ReadWrite,
}

/// Answers on a socket, until it is dropped.
pub(super) struct Server {
    path: PathBuf,
    /// Wakes the thread that accepts, which ends when nobody else has this.
    alive: Arc<()>,
}

impl Server {
    pub(super) fn start(device: &Arc<Device>, path: &Path, access: Access) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another process answers on {}", path.display()),
            ));
        }
        // What a process that was killed left behind.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = bind(path)?;
        let alive = Arc::new(());
        let (device, watch) = (Arc::downgrade(device), Arc::downgrade(&alive));
        thread::Builder::new()
            .name("weft-uapi".to_owned())
            .spawn(move || accept(&listener, &device, &watch, access))?;
        Ok(Self {
            path: path.to_owned(),
            alive,
        })
    }
}

/// Binds a socket that only root may connect to, at no moment anybody else: it gets its place when it
/// has its mode.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let private = path.with_file_name(format!(".weft{}", std::process::id()));
    // An earlier process of this number may have been killed right here.
    let _ = fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private)?;
    let socket = private.join("s");
    let bound = UnixListener::bind(&socket).and_then(|listener| {
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        fs::rename(&socket, path)?;
        Ok(listener)
    });
    fs::remove_dir_all(&private)?;
    bound
}

impl Drop for Server {
    fn drop(&mut self) {
        self.alive = Arc::new(());
        // A connection ends its wait.
        drop(UnixStream::connect(&self.path));
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, device: &Weak<Device>, alive: &Weak<()>, access: Access) {
    let busy = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if alive.upgrade().is_none() {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors: whoever asks has to ask again.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if busy.fetch_add(1, Ordering::Relaxed) >= MOST {
            busy.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (done, device) = (Arc::clone(&busy), Weak::clone(device));
        let answer = move || {
            if let Err(error) = answer(&stream, &device, access) {
                debug!(%error, "the configuration socket");
            }
            done.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().spawn(answer).is_err() {
            busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Answers one request after another, as the protocol has it.
fn answer(stream: &UnixStream, device: &Weak<Device>, access: Access) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = Vec::new();
        let mut limited = (&mut reader).take(LARGEST);
        loop {
            let line = limited.read_until(b'\n', &mut request)?;
            if line == 0 {
                return Ok(());
            }
            if request.ends_with(b"\n\n") || request == b"\n" {
                break;
            }
        }
        // Whoever only waits to ask more does not keep the device.
        let Some(device) = device.upgrade() else {
            return Ok(());
        };
        let mut reply = String::new();
        let result = handle(&request, &device, access, &mut reply);
        drop(device);
        let errno = match result {
            Ok(()) => 0,
            Err(errno) => -errno,
        };
        reply.push_str(&format!("errno={errno}\n\n"));
        (&mut &*stream).write_all(reply.as_bytes())?;
    }
}

fn handle(request: &[u8], device: &Device, access: Access, reply: &mut String) -> Result<(), i32> {
    let text = std::str::from_utf8(request).map_err(|_| libc::EINVAL)?;
    let (first, rest) = text.split_once('\n').ok_or(libc::EINVAL)?;
    match first {
        "get=1" => {
            format::device(&device.read(), reply);
            Ok(())
        }
        "set=1" if access == Access::ReadOnly => Err(libc::EPERM),
        "set=1" => {
            let update = parse::update(rest)?;
            device.update(update).map_err(|error| {
                debug!(%error, "a change was refused");
                match error {
                    TunnelError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
                    _ => libc::EINVAL,
                }
            })
        }
        _ => Err(libc::EINVAL),
    }
}
