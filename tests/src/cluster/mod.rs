//! A Kubernetes cluster in the lab: upstream's own programs on nodes that are namespaces of this
//! machine, on an underlay that is watched.
//!
//! What is here starts it and asks it; it lives in a process of its own ([`keeper`]), and is gone
//! with it. Needs root: a kubelet makes control groups and mounts.

mod acts;
mod call;
mod cgroup;
mod control;
pub mod e2e;
mod identity;
pub mod image;
pub mod keeper;
mod layout;
mod network;
mod node;
mod options;
pub mod processes;
mod shared;
mod standing;
mod upstream;
mod weft;

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_router::control::{self as agent, ControlReply, ControlRequest};

use call::Call;
use keeper::Orders;
use layout::Layout;
pub use options::{Cni, Dns, Family, Options, Profile, Proxy, Ranges};
pub use shared::{Shared, for_tests, of_tests};
pub use upstream::Upstream;
pub use weft::{Built, build};

/// The node whose namespace has the control plane too.
pub const FIRST_NODE: &str = "node-1";
/// Where the command's cluster has its folder, unless the variable says otherwise.
const DEFAULT: &str = "target/cluster";
const VARIABLE: &str = "WEFT_CLUSTER_DIR";

/// How long a cluster stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// Until [`Cluster::down`], whatever becomes of the process that started it.
    Detached,
    /// As long as the [`Cluster`] that [`Cluster::up`] returned.
    Owner,
}

/// A cluster, from outside.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    programs: PathBuf,
    /// Closed with the owner, which ends a cluster of its lifetime.
    owner: Option<ChildStdin>,
}

/// What the keeper says of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub nodes: Vec<NodeStatus>,
    /// Daemons that have ended by themselves, and how.
    pub ended: Vec<String>,
    pub capture: Seen,
}

/// A node that is switched on.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// What was seen on the underlay so far.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    pub frames: u64,
    pub wireguard: u64,
    /// Frames with an address of a pod in the clear.
    pub plaintext: u64,
    /// Those by description.
    pub samples: std::collections::BTreeMap<String, u64>,
    /// Frames that were lost to the capture.
    pub kernel_dropped: u64,
}

impl Cluster {
    /// Starts a cluster whose folder is `dir`, after cleaning up what an earlier one left there. Says
    /// each step.
    ///
    /// # Errors
    /// Without root, or when something is missing or does not start, with the way to its log.
    pub fn up(
        dir: &Path,
        options: Options,
        lifetime: Lifetime,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        ensure!(
            getuid().is_root(),
            "a cluster needs root: its kubelets make mounts and control groups"
        );
        let layout = Layout::in_dir(&std::path::absolute(dir)?);
        layout.check()?;
        layout.down()?;
        let upstream = Upstream::ready(&mut *say)?;
        let mut images = vec![upstream.archive()];
        // Whoever brings a network later may bring it.
        if options.cni != Cni::Reference {
            say("building weft's image");
            let archive = layout.dir().join("weft.tar");
            image::write(&[build(options.profile)?.image()?], &archive)?;
            images.push(archive);
        }
        let orders = Orders {
            options,
            programs: upstream.dir().to_owned(),
            images,
            lifetime,
        };
        let owner = keeper::start(&layout, &orders, say)?;
        Ok(Self {
            programs: upstream.dir().to_owned(),
            layout,
            owner,
        })
    }

    /// The cluster whose folder this is.
    ///
    /// # Errors
    /// When none stands.
    pub fn open(dir: &Path) -> Result<Self> {
        let layout = Layout::in_dir(&std::path::absolute(dir)?);
        let orders = fs::read(layout.orders()).context("there is no cluster; start one by `up`")?;
        let orders: Orders = serde_json::from_slice(&orders)?;
        let this = Self {
            layout,
            programs: orders.programs,
            owner: None,
        };
        // It may still be starting, which is when one looks.
        this.keeper()
            .context("there is no cluster; start one by `up`")?;
        Ok(this)
    }

    /// Ends the cluster whose folder this is and takes away all that it left, whatever state it is in.
    ///
    /// # Errors
    /// When the kernel does not let go of something.
    pub fn down(dir: &Path) -> Result<()> {
        ensure!(getuid().is_root(), "only root can end a cluster");
        Layout::in_dir(&std::path::absolute(dir)?).down()
    }

    /// What stands, and what was seen on the underlay.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.ask(&Call::Status)?)?)
    }

    /// Counts what is seen on the underlay from nothing again.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn reset_capture(&self) -> Result<()> {
        self.ask(&Call::ResetCapture).map(drop)
    }

    /// Runs `kubectl` as an administrator; what it printed.
    ///
    /// # Errors
    /// What it printed to standard error, when it failed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        printed(self.kubectl_command()?.args(arguments))
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// The same, with something on its standard input.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        use std::io::Write as _;
        let mut child = self
            .kubectl_command()?
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("kubectl's input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl {}: {said}",
            arguments.join(" ")
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object, or a list of objects, as JSON.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs a program in a container of a pod; what it printed.
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn exec(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<String> {
        self.kubectl(&[&["-n", namespace, "exec", pod, "--"], words].concat())
    }

    /// `kubectl` as an administrator.
    ///
    /// # Errors
    /// When the cluster is gone.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = self.reaching_api(self.programs.join("kubectl"))?;
        command.arg("--kubeconfig").arg(self.layout.kubeconfig());
        command
            .arg("--cache-dir")
            .arg(self.layout.dir().join("kubectl-cache"));
        Ok(command)
    }

    /// A program in the network of the first node, from where the API server is reached, with the
    /// machine's own files.
    ///
    /// # Errors
    /// When the cluster is gone.
    pub fn reaching_api(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &self.anchor(FIRST_NODE)?.to_string()])
            .arg(program);
        Ok(command)
    }

    /// A program on a node: in its network, among its files, beside its processes.
    ///
    /// # Errors
    /// When the node is not there.
    pub fn on_node(&self, node: &str, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--mount", "--pid", "--target"])
            .arg(self.anchor(node)?.to_string())
            .arg(program);
        Ok(command)
    }

    /// A program on the underlay, beside the nodes and on none of them.
    ///
    /// # Errors
    /// When the cluster is gone.
    pub fn outside(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let netns = format!("/proc/{}/root/run/netns/underlay", self.keeper()?);
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={netns}")).arg(program);
        Ok(command)
    }

    /// The file by which an administrator reaches the API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    /// Where the logs of all daemons are.
    pub fn logs(&self) -> PathBuf {
        self.layout.logs()
    }

    /// The folder of the cluster, which outlives it.
    pub fn dir(&self) -> &Path {
        self.layout.dir()
    }

    /// Where upstream's programs are.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// What a node's agent answers: `weft status`, asked where the API server is of no help.
    ///
    /// # Errors
    /// When the node is not there, or its agent does not answer.
    pub fn weft_status(&self, node: &str) -> Result<weft_router::control::Status> {
        let socket = format!("/proc/{}/root/run/weft/weft.sock", self.anchor(node)?);
        match agent::ask(Path::new(&socket), &ControlRequest::Status)? {
            ControlReply::Status(status) => Ok(*status),
            other => bail!("the agent of {node} answered {other:?}"),
        }
    }

    /// A process of the node that lives as long as the node does.
    fn anchor(&self, node: &str) -> Result<u32> {
        let group = self.layout.group().child(node).child(node::ANCHOR);
        let first = group.first()?;
        first.with_context(|| format!("there is no node {node}"))
    }

    fn keeper(&self) -> Result<u32> {
        let first = self.layout.group().child("keeper").first()?;
        first.context("there is no cluster")
    }

    fn ask(&self, call: &Call) -> Result<Value> {
        call::ask(&self.layout.socket(), call)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owner.take().is_some() {
            // Ended by that; whoever comes next finds nothing of it. If it hangs, the next start says so.
            let _ = self.layout.ended();
        }
    }
}

/// The folder of the cluster that the command of this name starts.
pub fn usual_dir() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| root().join(DEFAULT), PathBuf::from)
}

/// The workspace.
fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// A program of this machine.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // An ordinary user's path lacks them, and root's may.
    dirs.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = dirs
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed"))
}

/// A log to go on with.
fn log(dir: &Path, name: &str) -> Result<fs::File> {
    fs::create_dir_all(dir)?;
    let file = dir.join(format!("{name}.log"));
    fs::File::options()
        .create(true)
        .append(true)
        .open(&file)
        .with_context(|| format!("open {}", file.display()))
}

/// Runs a command to its end; what it printed.
fn printed(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
