//! The CNI side of weft: the specification's types, the plugin, its wire to the agent, and the
//! address management that runs inside the agent.
#![forbid(unsafe_code)]

pub mod api;
mod atomic;
mod attachment;
pub mod client;
mod clock;
pub mod conf;
pub mod confdir;
pub mod conflist;
pub mod env;
mod error;
pub mod ipam;
mod loopback;
pub mod note;
pub mod plugin;
mod ports;
pub mod result;
mod version;

pub use attachment::{Attachment, ContainerId, IfName, ParseNameError};
pub use clock::SinceBoot;
pub use error::{Error, code};
pub use ports::{PortMapping, Protocol};
pub use version::SpecVersion;
