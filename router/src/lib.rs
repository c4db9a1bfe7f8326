//! The weft node agent.

pub mod demo;
pub mod host;
pub mod kernel;
pub mod overlap;
pub mod plan;
