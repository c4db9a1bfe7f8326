//! The weft node agent.

pub mod demo;
