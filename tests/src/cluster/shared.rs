//! The cluster that the tests of one file share.

use std::path::PathBuf;

use anyhow::Result;
use rustix::process::getuid;

use super::{Cluster, Lifetime, Options, Profile, program, root};
use crate::runner::skip;

/// Where it has its folder.
const OF_TESTS: &str = "target/cluster-tests";
/// Names the folder of a cluster that stands already: the tests run in that one, which saves the
/// start of another while one works on a test.
const VARIABLE: &str = "WEFT_TEST_CLUSTER";
/// What a cluster and its images are made with, of this machine's programs.
const PROGRAMS: [&str; 13] = [
    "go",
    "etcd",
    "containerd",
    "runc",
    "busybox",
    "openssl",
    "nft",
    "ip",
    "curl",
    "dig",
    "nc.openbsd",
    "nsenter",
    "unshare",
];

/// Starts the cluster that the tests of one file share: what the runner does before the first.
/// Nothing where it cannot be, which each of them says as it skips itself.
///
/// # Errors
/// As [`Cluster::up`].
pub fn for_tests() -> Result<Option<Shared>> {
    if lacking().is_some() || std::env::var_os(VARIABLE).is_some() {
        return Ok(None);
    }
    let options = Options {
        profile: Profile::Dev,
        ..Options::default()
    };
    let mut say = |what: &str| eprintln!("cluster: {what}");
    Cluster::up(&root().join(OF_TESTS), options, Lifetime::Owner, &mut say)
        .map(|cluster| Some(Shared(cluster)))
}

/// The cluster that the tests of a file share. At its end it names the daemons that ended by
/// themselves meanwhile, since whoever reads of a test that failed wants to know.
#[derive(Debug)]
pub struct Shared(Cluster);

impl Drop for Shared {
    fn drop(&mut self) {
        let ended = self.0.status().map(|status| status.ended);
        for daemon in ended.into_iter().flatten() {
            eprintln!("cluster: has ended by itself: {daemon}");
        }
    }
}

/// The cluster of the tests, for one of them.
///
/// # Errors
/// A skip where it cannot be.
pub fn of_tests() -> Result<Cluster> {
    if let Some(reason) = lacking() {
        return skip(reason);
    }
    let standing = std::env::var_os(VARIABLE).map(PathBuf::from);
    Cluster::open(&standing.unwrap_or_else(|| root().join(OF_TESTS)))
}

/// Why there can be no cluster on this machine.
fn lacking() -> Option<String> {
    if !getuid().is_root() {
        return Some(
            "a cluster needs root: its kubelets make mounts and control groups".to_owned(),
        );
    }
    let missing = PROGRAMS.into_iter().find(|name| program(name).is_err())?;
    Some(format!("{missing} is not installed"))
}
