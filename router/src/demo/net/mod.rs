//! Namespaces that we build for ourselves: an underlay, nodes on it, pods in them.
//!
//! Used by `weft demo` and by the lab of the tests. Nothing here touches a namespace that it did
//! not make, and no external program is needed.

mod enter;
mod netlink;
mod netns;
mod node;
mod process;
mod segment;

use std::io;

pub use enter::{Entered, Privilege, enter};
pub use netlink::Netlink;
pub use netns::Netns;
pub use node::Node;
pub use process::Process;
pub use segment::{Port, Segment};

/// Why a namespace, or something in it, could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{act}: {source}")]
    Io {
        act: String,
        #[source]
        source: io::Error,
    },
    /// The machine does not allow it, in words for who can change that.
    #[error("{0}")]
    Refused(String),
}

impl NetError {
    fn io(act: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            act: act.into(),
            source: source.into(),
        }
    }
}

/// Names what was being done when `result` failed.
trait During<T> {
    fn during(self, act: impl FnOnce() -> String) -> Result<T, NetError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, act: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|source| NetError::io(act(), source))
    }
}
