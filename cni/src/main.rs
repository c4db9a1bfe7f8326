//! `weft-cni`, the CNI plugin binary.
fn main() {}
