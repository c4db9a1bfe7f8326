//! The folder of a cluster: what its keeper and those who ask it both see, and what is to be taken
//! away when it is gone.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::call::{self, Call};
use super::cgroup::Group;
use crate::lab::eventually;

/// How long a keeper that was told to end may take for it.
const END: Duration = Duration::from_secs(20);

/// Where everything of a cluster is that others than its keeper see.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The nodes see the machine's files, except in the folders that they have themselves.
    pub(super) fn check(&self) -> Result<()> {
        let hidden = ["/etc", "/opt", "/run", "/var/lib", "/var/log"];
        match hidden.iter().find(|dir| self.dir.starts_with(dir)) {
            Some(dir) => {
                bail!("a cluster's folder cannot be in {dir}, which each node has its own of")
            }
            None => Ok(()),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn orders(&self) -> PathBuf {
        self.dir.join("orders.json")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(super) fn identities(&self) -> PathBuf {
        self.dir.join("identities")
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The cluster's control group, named after its folder: found without any note of it.
    pub(super) fn group(&self) -> Group {
        // FNV-1a: short, and the same in every build.
        let bytes = self.dir.as_os_str().as_encoded_bytes();
        let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        Group::new(format!("weft-cluster-{hash:08x}"))
    }

    /// Held by the outer of a cluster as long as there is something of it.
    pub(super) fn lock(&self) -> Result<fs::File> {
        let file = fs::File::create(self.dir.join("lock"))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("a cluster stands in {} already", self.dir.display()))?;
        Ok(file)
    }

    /// Ends what stands here, in good order if it listens.
    pub(super) fn down(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        if call::ask(&self.socket(), &Call::Down).is_err() {
            // It never came up, or was killed: its group has what is left.
            self.group().kill()?;
        }
        let _lock = self.ended()?;
        self.clean()
    }

    /// Waits until nobody holds it.
    pub(super) fn ended(&self) -> Result<fs::File> {
        eventually("the cluster ends", END, || self.lock())
    }

    /// Takes away what is left outside of the cluster's namespaces when nothing runs any more.
    pub(super) fn clean(&self) -> Result<()> {
        let group = self.group();
        group.kill()?;
        group.remove()?;
        let socket = self.socket();
        if fs::symlink_metadata(&socket).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(&socket)?;
        }
        for file in [self.orders(), self.kubeconfig(), self.dir.join("weft.tar")] {
            // Not each is there at each time.
            let _ = fs::remove_file(file);
        }
        let _ = fs::remove_dir_all(self.identities());
        let _ = fs::remove_dir_all(self.dir.join("kubectl-cache"));
        Ok(())
    }
}
