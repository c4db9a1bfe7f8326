//! The choice of backend, made once at start.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::kernel::KernelTunnel;
use super::userspace::UserspaceTunnel;
use super::{Tunnel, TunnelError};
use crate::device::{Change, DeviceStatus};

/// Which WireGuard is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The kernel's where it is there, else ours in userspace.
    #[default]
    Auto,
    Kernel,
    Userspace,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        })
    }
}

/// Why a backend's name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a tunnel backend is one of auto, kernel, userspace")]
pub struct ParseBackendError;

impl FromStr for Backend {
    type Err = ParseBackendError;

    fn from_str(text: &str) -> Result<Self, ParseBackendError> {
        [Self::Auto, Self::Kernel, Self::Userspace]
            .into_iter()
            .find(|backend| backend.to_string() == text)
            .ok_or(ParseBackendError)
    }
}

/// The backend in use.
#[derive(Debug)]
pub enum AnyTunnel {
    Kernel(KernelTunnel),
    Userspace(UserspaceTunnel),
}

impl AnyTunnel {
    /// Opens `link` with the backend that is asked for. The second value says in one line which
    /// backend it is and why.
    ///
    /// # Errors
    /// Those of the backend. [`Backend::Auto`] goes on to the userspace engine where the kernel has
    /// no WireGuard, and where an earlier run left a TUN of this name.
    pub fn open(backend: Backend, link: &str) -> Result<(Self, String), TunnelError> {
        let userspace = |reason: &str| {
            let tunnel = UserspaceTunnel::open(link)?;
            Ok((
                Self::Userspace(tunnel),
                format!("userspace WireGuard on {link}: {reason}"),
            ))
        };
        if backend == Backend::Userspace {
            return userspace("it was asked for");
        }
        match KernelTunnel::open(link) {
            Ok(tunnel) => {
                let reason = match backend {
                    Backend::Kernel => "it was asked for",
                    _ => "the kernel has WireGuard",
                };
                Ok((
                    Self::Kernel(tunnel),
                    format!("kernel WireGuard on {link}: {reason}"),
                ))
            }
            Err(error @ TunnelError::NoKernelModule(_)) if backend == Backend::Auto => {
                userspace(&error.to_string())
            }
            Err(TunnelError::OtherKind { kind, .. })
                if backend == Backend::Auto && kind == "tun" =>
            {
                userspace("an earlier run left its TUN; delete the link to move to the kernel's")
            }
            Err(error) => Err(error),
        }
    }

    /// The backend's name, as `weft status` shows it.
    pub fn backend(&self) -> Backend {
        match self {
            Self::Kernel(_) => Backend::Kernel,
            Self::Userspace(_) => Backend::Userspace,
        }
    }
}

impl Tunnel for AnyTunnel {
    async fn status(&self) -> Result<DeviceStatus, TunnelError> {
        match self {
            Self::Kernel(tunnel) => tunnel.status().await,
            Self::Userspace(tunnel) => tunnel.status().await,
        }
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), TunnelError> {
        match self {
            Self::Kernel(tunnel) => tunnel.apply(changes).await,
            Self::Userspace(tunnel) => tunnel.apply(changes).await,
        }
    }

    fn link(&self) -> &str {
        match self {
            Self::Kernel(tunnel) => tunnel.link(),
            Self::Userspace(tunnel) => tunnel.link(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_survives_its_text() {
        for backend in [Backend::Auto, Backend::Kernel, Backend::Userspace] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
            let json = serde_json::to_string(&backend).unwrap();
            assert_eq!(json, format!("\"{backend}\""));
        }
        assert_eq!("tcp".parse::<Backend>(), Err(ParseBackendError));
    }
}
