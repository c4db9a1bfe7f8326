//! The CNI side of weft: the specification's types, the plugin, its wire to the agent, and the
//! address management that runs inside the agent.
#![forbid(unsafe_code)]

pub mod api;
mod atomic;
mod attachment;
mod error;
pub mod ipam;
pub mod note;

pub use attachment::{Attachment, ContainerId, IfName, ParseNameError};
pub use error::{Error, code};
