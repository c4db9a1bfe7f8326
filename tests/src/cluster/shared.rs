//! The cluster that the tests of one file share.

use anyhow::Result;
use rustix::process::getuid;

use super::{Cluster, Lifetime, Options, Profile, root};
use crate::runner::skip;

/// Where it has its folder.
const OF_TESTS: &str = "target/cluster-tests";

/// Starts the cluster that the tests of one file share: what the runner does before the first.
/// Nothing without root, where each of them skips itself.
///
/// # Errors
/// As [`Cluster::up`].
pub fn for_tests() -> Result<Option<Cluster>> {
    if !getuid().is_root() {
        return Ok(None);
    }
    let options = Options {
        profile: Profile::Dev,
        ..Options::default()
    };
    let mut say = |what: &str| eprintln!("cluster: {what}");
    Cluster::up(&root().join(OF_TESTS), options, Lifetime::Owner, &mut say).map(Some)
}

/// The cluster of the tests, for one of them.
///
/// # Errors
/// A skip without root.
pub fn of_tests() -> Result<Cluster> {
    if !getuid().is_root() {
        return skip("a cluster needs root: its kubelets make mounts and control groups");
    }
    Cluster::open(&root().join(OF_TESTS))
}
