//! The seam: a WireGuard device, Linux's own or ours in userspace.

mod any;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod kernel;
pub mod userspace;

use std::future::Future;
use std::io;

use crate::device::{Change, DeviceStatus};

pub use any::{AnyTunnel, Backend, ParseBackendError};

/// Why a tunnel could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// `auto` takes the userspace engine then.
    #[error("the kernel has no WireGuard: {0}")]
    NoKernelModule(#[source] io::Error),
    /// Somebody's link; it is left alone.
    #[error("there is a link {link} and it is a {kind} link, not ours")]
    OtherKind { link: String, kind: String },
    #[error("{act}: {source}")]
    Io {
        act: String,
        #[source]
        source: io::Error,
    },
    #[error("the WireGuard device {link} refused a message: {reason}")]
    Refused { link: String, reason: String },
}

/// A WireGuard device.
///
/// Applying is incremental: a change to one peer leaves the sessions of every other alone, and a
/// device that an earlier run left behind is adopted, not made anew.
pub trait Tunnel: Send + Sync {
    /// What the device is now, asked of the device and not remembered.
    fn status(&self) -> impl Future<Output = Result<DeviceStatus, TunnelError>> + Send;

    /// Carries out `changes` in order; goes on past one that fails and returns the first failure.
    fn apply(&self, changes: &[Change]) -> impl Future<Output = Result<(), TunnelError>> + Send;

    /// The name of the network interface.
    fn link(&self) -> &str;
}
