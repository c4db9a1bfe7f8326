//! The lab in which weft is tested: nodes, pods, links and faults in network namespaces.

pub mod bench;
pub mod cluster;
pub mod cnitool;
pub mod engine;
pub mod guest;
pub mod lab;
pub mod runner;
pub mod runtime;
pub mod tools;
pub mod usage;
