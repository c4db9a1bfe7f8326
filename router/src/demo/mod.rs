//! `weft demo`, and the namespaces it builds.

pub mod capture;
pub mod net;
