//! The seam between what is wanted of the host's network and the host: Linux, or one in memory.
//!
//! Everything here speaks netlink or writes below /proc/sys; nothing decides.

pub(crate) mod capability;
mod conntrack;
pub mod fake;
mod legacy;
mod linux;
mod monitor;
pub(crate) mod netlink;
pub mod netns;
pub mod nft;
mod snapshot;
mod socket;
pub mod sysctl;
pub mod veth;

use std::future::Future;
use std::io;

use tokio::sync::watch;

pub use conntrack::Targets;
pub use linux::{Cleaned, Linux};

use crate::host::Observed;
use crate::plan::{Plan, Step};

/// Why the kernel could not be asked, or would not answer.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("{act}: {source}")]
    Io {
        act: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the thread that talks to the kernel has ended")]
    Gone,
}

impl KernelError {
    /// For `map_err`: the act that failed, in a few words.
    pub(crate) fn during(act: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { act, source }
    }
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct StepError {
    pub step: Step,
    #[source]
    pub source: io::Error,
}

/// A host whose network can be seen and changed.
pub trait Kernel: Send + Sync {
    /// What is there now, asked and not remembered.
    fn observe(&self) -> impl Future<Output = Result<Observed, KernelError>> + Send;

    /// Carries the steps out in order, going on past one that fails, and returns every failure.
    /// Without its firewall a plan turns no forwarding on.
    fn apply(&self, plan: &Plan) -> impl Future<Output = Result<(), Vec<StepError>>> + Send;

    /// A number that changes when somebody other than this value touched links, addresses, routes
    /// or nftables, or when that may have been missed: look again then.
    fn changed(&self) -> watch::Receiver<u64>;
}
