//! The weft node agent: the one crate that knows tunnels, names and pods together.

pub mod agent;
pub mod attach;
pub mod cli;
mod cluster;
pub mod config;
pub mod control;
pub mod demo;
pub mod desired;
pub mod host;
pub mod kernel;
pub mod overlap;
pub mod plan;
pub mod underlay;

#[cfg(test)]
#[path = "../../tests/corpus.rs"]
mod corpus;
