//! What can be done to a cluster that stands: to its nodes, to their daemons, to the control plane.

use anyhow::Result;

use super::Cluster;
use super::call::Call;

impl Cluster {
    /// Switches a node on that the cluster has not: a new one, or one that was switched off, with the
    /// disk that it had and another address. Returns once it is registered, before it is ready.
    ///
    /// # Errors
    /// When it is on already, or does not start.
    pub fn add(&self, node: &str) -> Result<()> {
        self.ask(&Call::Add { node: node.into() }).map(drop)
    }

    /// Switches a node off, as a power cut does. Its Node object and its disk stay.
    ///
    /// # Errors
    /// When there is none, or it is the first one.
    pub fn remove(&self, node: &str) -> Result<()> {
        self.ask(&Call::Remove { node: node.into() }).map(drop)
    }

    /// Empties the disk of a node that is switched off.
    ///
    /// # Errors
    /// When it is on, or has none.
    pub fn wipe(&self, node: &str) -> Result<()> {
        self.ask(&Call::Wipe { node: node.into() }).map(drop)
    }

    /// Puts weft's state of one node on the disk of another, which is switched off or new: what a copied
    /// disk image does.
    ///
    /// # Errors
    /// When `to` is on, or one of the two has such state already, or none.
    pub fn clone_state(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (from.into(), to.into());
        self.ask(&Call::Clone { from, to }).map(drop)
    }

    /// Switches a node off and on again, with the same disk and address. Returns once its daemons are
    /// started.
    ///
    /// # Errors
    /// When there is none, or it is the first one.
    pub fn reboot(&self, node: &str) -> Result<()> {
        self.ask(&Call::Reboot { node: node.into() }).map(drop)
    }

    /// Kills a daemon of a node (`containerd`, `kubelet` or `kube-proxy`), not what it started.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, node: &str, program: &str) -> Result<()> {
        let (node, program) = (node.into(), program.into());
        self.ask(&Call::Kill { node, program }).map(drop)
    }

    /// Starts a daemon of a node again.
    ///
    /// # Errors
    /// When it runs.
    pub fn start(&self, node: &str, program: &str) -> Result<()> {
        let (node, program) = (node.into(), program.into());
        self.ask(&Call::Start { node, program }).map(drop)
    }

    /// Keeps a copy of etcd's store. The API server is away for seconds meanwhile.
    ///
    /// # Errors
    /// When the control plane does not run, or does not come back.
    pub fn keep_store(&self) -> Result<()> {
        self.ask(&Call::KeepStore).map(drop)
    }

    /// Sets etcd back to the copy that was kept: what was written since has never been. The rest of the
    /// control plane and the kubelets are not told; upstream's advice is to start them anew.
    ///
    /// # Errors
    /// When none was kept, or as [`Cluster::keep_store`].
    pub fn set_store_back(&self) -> Result<()> {
        self.ask(&Call::SetStoreBack).map(drop)
    }

    /// Kills a program of the control plane: `etcd`, `kube-apiserver`, `kube-controller-manager` or
    /// `kube-scheduler`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_control(&self, program: &str) -> Result<()> {
        let program = program.into();
        self.ask(&Call::StopControl { program }).map(drop)
    }

    /// Starts a program of the control plane again, and waits for the API server to be ready if it is
    /// that.
    ///
    /// # Errors
    /// When it runs, or does not become ready.
    pub fn start_control(&self, program: &str) -> Result<()> {
        let program = program.into();
        self.ask(&Call::StartControl { program }).map(drop)
    }
}
