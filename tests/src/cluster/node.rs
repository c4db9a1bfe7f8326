//! One node of the cluster: namespaces and a disk that make a machine, and the daemons on it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use weft_router::demo::net::{Netns, Node, Port, Process, Segment};

use super::cgroup::Group;
use super::image::PAUSE;
use super::options::Options;
use super::printed;
use crate::lab::eventually;

/// How long containerd may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How the node's mounts are laid out; `$1` is its disk.
const MOUNTS: &str = include_str!("node-mounts.sh");
/// The group of the one process that is there as long as the node is, by which others enter it.
pub(super) const ANCHOR: &str = "anchor";
/// What a node runs, in the order of starting.
const PROGRAMS: [&str; 3] = ["containerd", "kubelet", "kube-proxy"];

/// What every node of a cluster is made from.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) options: &'a Options,
    /// Upstream's programs.
    pub(super) programs: &'a Path,
    /// The folder of the nodes' disks.
    pub(super) disks: &'a Path,
    /// Where each program's log is kept.
    pub(super) logs: PathBuf,
    /// The cluster's control group.
    pub(super) group: &'a Group,
}

/// A node that is switched on. Dropped, its daemons die; [`ClusterNode::off`] ends all of it.
#[derive(Debug)]
pub(super) struct ClusterNode {
    _anchor: Process,
    node: Node,
    port: Port,
    host: u32,
    group: Group,
    disk: PathBuf,
    logs: PathBuf,
    addresses: Vec<IpAddr>,
    daemons: Vec<(&'static str, Process)>,
}

/// The files by which a node's daemons reach the API server.
#[derive(Clone, Debug)]
pub(super) struct Kubeconfigs {
    pub(super) kubelet: PathBuf,
    pub(super) proxy: PathBuf,
    /// The authority whose clients the kubelet believes.
    pub(super) authority: PathBuf,
}

impl ClusterNode {
    /// Switches a node on, as host `host` of the segment: its disk is what it was, if there is one.
    pub(super) fn on(
        machine: &Machine<'_>,
        underlay: (&Netns, &Segment),
        name: &str,
        host: u32,
    ) -> Result<Self> {
        let group = machine.group.child(name);
        group.child("system").make()?;
        group.child(ANCHOR).make()?;
        let node = Node::new(machine.disks, name)?;
        let (wan, segment) = underlay;
        let port = segment.attach(wan, node.netns(), "eth0", host)?;
        let v6 = port
            .v6
            .context("the lab's clusters need IPv6 in the kernel")?;
        let addresses = machine
            .options
            .family
            .addresses(port.v4.addr().into(), v6.addr().into());
        let disk = machine.disks.join(name).join("disk");
        let logs = machine.logs.join(name);
        fs::create_dir_all(&logs)?;
        let mut mounts = node.command("sh");
        mounts.args(["-c", MOUNTS, "node-mounts"]).arg(&disk);
        printed(&mut mounts).with_context(|| format!("lay out the mounts of {name}"))?;
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            node.netns().sysctl(setting, "1")?;
        }
        let anchor = node
            .command("sleep")
            .arg("infinity")
            .stdin(Stdio::null())
            .spawn()?;
        group.child(ANCHOR).add(anchor.id())?;
        Ok(Self {
            _anchor: Process::new(anchor),
            node,
            port,
            host,
            group,
            disk,
            logs,
            addresses,
            daemons: Vec::new(),
        })
    }

    pub(super) fn name(&self) -> &str {
        self.node.name()
    }

    pub(super) fn netns(&self) -> &Netns {
        self.node.netns()
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// Its number on the segment.
    pub(super) fn host(&self) -> u32 {
        self.host
    }

    /// Its addresses as Kubernetes knows them, the primary one first.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// A command on this node, which dies with the thread that starts it.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.node.command(program)
    }

    /// Starts containerd, and does not wait for it.
    pub(super) fn start_containerd(&mut self) -> Result<()> {
        fs::write(
            self.disk.join("lib/containerd.toml"),
            format!(
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {PAUSE:?}\n\
                 # A namespace of the lab may not lower what its processes give to the killer.\n\
                 restrict_oom_score_adj = true\n"
            ),
        )?;
        let mut command = self.command("containerd");
        command.args(["--config", "/var/lib/containerd.toml"]);
        self.spawn("containerd", command)
    }

    /// Waits for containerd, then starts to give it the images; the imports to wait for.
    pub(super) fn import(&self, archives: &[PathBuf]) -> Result<Vec<Process>> {
        eventually("containerd answers", PATIENCE, || {
            printed(self.ctr().arg("version")).map(drop)
        })
        .with_context(|| format!("containerd of {}", self.name()))?;
        let mut imports = Vec::new();
        for archive in archives {
            let mut command = self.ctr();
            command.args(["images", "import"]).arg(archive);
            imports.push(Process::new(self.logged("import", command)?));
        }
        Ok(imports)
    }

    /// Starts the kubelet, and kube-proxy where the cluster has it.
    pub(super) fn start_kubelet(&mut self, machine: &Machine<'_>, by: &Kubeconfigs) -> Result<()> {
        let config = self.kubelet_config(machine.options, by).to_string();
        fs::write(self.disk.join("lib/kubelet.json"), config)?;
        let mut command = self.command(machine.programs.join("kubelet"));
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        command
            .args(["--config", "/var/lib/kubelet.json", "--kubeconfig"])
            .arg(&by.kubelet)
            .args([
                "--root-dir",
                "/var/lib/kubelet",
                "--cert-dir",
                "/var/lib/kubelet/pki",
            ])
            .args(["--node-ip", &addresses.join(","), "--hostname-override"])
            .arg(self.name());
        self.spawn("kubelet", command)
    }

    pub(super) fn start_proxy(&mut self, machine: &Machine<'_>, by: &Kubeconfigs) -> Result<()> {
        let Some(mode) = machine.options.proxy.mode() else {
            return Ok(());
        };
        let mut command = self.command(machine.programs.join("kube-proxy"));
        command
            .args(["--proxy-mode", mode, "--kubeconfig"])
            .arg(&by.proxy)
            .args(["--cluster-cidr", &machine.options.pods().join(",")])
            // The machine's own limits, which are not this namespace's to set.
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0"])
            .args(["--conntrack-tcp-timeout-established=0"])
            .args(["--conntrack-tcp-timeout-close-wait=0"])
            .args(["--hostname-override", self.name()]);
        self.spawn("kube-proxy", command)
    }

    /// Kills one of its daemons at once; what it started stays.
    pub(super) fn kill(&mut self, program: &str) -> Result<()> {
        let at = self.daemons.iter().position(|(name, _)| *name == program);
        let at = at.with_context(|| format!("no {program} runs on {}", self.name()))?;
        let (_, mut process) = self.daemons.remove(at);
        process.kill()?;
        Ok(())
    }

    /// Names the daemons that have ended by themselves, with their last words.
    pub(super) fn ended(&mut self) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for (name, process) in &mut self.daemons {
            if let Some(status) = process.ended()? {
                let words = last_words(&self.logs.join(format!("{name}.log")));
                let node = self.node.name();
                ended.push(format!("{name} of {node} ({status}):\n{words}"));
            }
        }
        Ok(ended)
    }

    /// Switches it off: nothing that ran on it runs on, and its namespaces go. Its disk stays.
    pub(super) fn off(self) -> Result<()> {
        let group = self.group.clone();
        group.kill()?;
        drop(self);
        group.remove()
    }

    fn ctr(&self) -> Command {
        let mut command = self.command("ctr");
        command.args(["--namespace", "k8s.io"]);
        command
    }

    fn kubelet_config(&self, options: &Options, by: &Kubeconfigs) -> serde_json::Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": by.authority },
            },
            "authorization": { "mode": "Webhook" },
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.group.path(),
            "clusterDNS": [options.family.dns()],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            // The lab's nodes share one disk and one memory, and none of them is to act on it.
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "failCgroupV1": false,
            "failSwapOn": false,
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": false,
            "maxPods": 300,
            "resolvConf": "/etc/resolv.conf",
            "staticPodPath": "/etc/kubernetes/manifests",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        })
    }

    fn spawn(&mut self, name: &'static str, command: Command) -> Result<()> {
        ensure!(PROGRAMS.contains(&name), "{name} is no program of a node");
        if self.daemons.iter().any(|(running, _)| *running == name) {
            bail!("{name} runs on {} already", self.name());
        }
        let child = self.logged(name, command)?;
        self.daemons.push((name, Process::new(child)));
        Ok(())
    }

    /// Starts a command in the node's own control group, its words appended to a log.
    fn logged(&self, name: &str, mut command: Command) -> Result<std::process::Child> {
        let log = super::log(&self.logs, name)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name} on {}", self.name()))?;
        self.group.child("system").add(child.id())?;
        Ok(child)
    }
}

/// The end of a log.
fn last_words(log: &Path) -> String {
    const LINES: usize = 5;
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
