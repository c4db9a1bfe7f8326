//! A cluster that stands: the underlay, the nodes and the control plane, in this process's own
//! namespaces. Only the keeper has one; everybody else asks it (see [`super::call`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_router::demo::capture::{Capture, Hosts, Watch};
use weft_router::demo::net::{Netns, Segment};

use super::call::Call;
use super::cgroup::Group;
use super::control::ControlPlane;
use super::identity::Identities;
use super::keeper::Orders;
use super::node::{ClusterNode, Kubeconfigs, Machine};
use super::options::{Cni, Dns, Options, Proxy, Ranges};
use super::{Layout, network, printed};
use crate::lab::{UNDERLAY, UNDERLAY_MTU, eventually};

/// How long the images may take to get onto a node.
const IMPORT: Duration = Duration::from_secs(120);
/// How long a node may take until it is ready, with others being started.
const READY: &str = "--timeout=120s";
const PORT: u16 = 6783;
/// The first node's number on the underlay.
const FIRST: u32 = 11;

/// A cluster that stands.
#[derive(Debug)]
pub(super) struct Standing {
    options: Options,
    programs: PathBuf,
    images: Vec<PathBuf>,
    layout: Layout,
    disks: PathBuf,
    group: Group,
    identities: Identities,
    control: ControlPlane,
    capture: Capture,
    nodes: BTreeMap<String, ClusterNode>,
    next_host: u32,
    segment: Segment,
    wan: Netns,
}

impl Standing {
    /// Builds it; `disks` is a folder on a tmpfs of ours. Says each step.
    pub(super) fn up(
        orders: Orders,
        layout: Layout,
        disks: PathBuf,
        mut say: impl FnMut(&str),
    ) -> Result<Self> {
        let started = Instant::now();
        let mut say = |what: &str| {
            say(&format!(
                "{:5.1} s  {what}",
                started.elapsed().as_secs_f32()
            ))
        };
        let Orders {
            options,
            programs,
            images,
            lifetime: _,
        } = orders;
        let group = layout.group();
        let wan = Netns::new("underlay")?;
        let ranges = (UNDERLAY.0.parse()?, UNDERLAY.1.parse()?);
        let segment = Segment::new(&wan, "wan", ranges, UNDERLAY_MTU)?;
        let capture = Capture::start(&wan, segment.bridge(), watch(&options)?)?;
        let mut nodes = BTreeMap::new();
        let mut names = Vec::new();
        for number in 0..u32::from(options.nodes) {
            let name = format!("node-{}", number + 1);
            let machine = Machine {
                options: &options,
                programs: &programs,
                disks: &disks,
                logs: layout.logs(),
                group: &group,
            };
            let mut node = ClusterNode::on(&machine, (&wan, &segment), &name, FIRST + number)?;
            node.start_containerd()?;
            nodes.insert(name.clone(), node);
            names.push(name);
        }
        say("nodes are switched on");

        let first = nodes.get(super::FIRST_NODE).context("there is no node")?;
        let api = *first.addresses().first().context("no address")?;
        let identities = Identities::new(&layout.identities(), api)?;
        let logs = layout.logs();
        let paths = (&*programs, &*logs, &*disks);
        let mut control = ControlPlane::new(&options, &identities, first, paths)?;
        fs::copy(control.admin(), layout.kubeconfig())?;
        control.start(first, "etcd")?;
        control.start(first, "kube-apiserver")?;
        let mut this = Self {
            next_host: FIRST + u32::from(options.nodes),
            options,
            programs,
            images,
            layout,
            disks,
            group,
            identities,
            control,
            capture,
            nodes,
            segment,
            wan,
        };
        let mut imports = Vec::new();
        for node in this.nodes.values() {
            imports.extend(node.import(&this.images)?);
        }
        let first = this.nodes.get(super::FIRST_NODE).context("no node")?;
        this.control.wait_ready(first)?;
        this.control.start(first, "kube-controller-manager")?;
        this.control.start(first, "kube-scheduler")?;
        say("the API server is ready");
        for import in &mut imports {
            finished(import)?;
        }
        say("the images are on the nodes");
        this.start_kubelets(&names)?;
        this.connect(&names)?;
        say("the nodes are registered");
        if this.options.cni != Cni::None {
            this.kubectl(&["wait", "--for=condition=Ready", "node", "--all", READY])?;
            say("the nodes are ready");
            if this.options.dns == Dns::Coredns {
                let deployment = "deployment/coredns";
                this.kubectl(&["-n", "kube-system", "rollout", "status", deployment, READY])?;
                say("the cluster's names are served");
            }
        }
        Ok(this)
    }

    /// Does what is asked.
    pub(super) fn answer(&mut self, call: &Call) -> Result<Value> {
        match call {
            Call::Status => self.status(),
            Call::Add { node } => self.add(node),
            Call::Remove { node } => self.remove(node).map(|()| Value::Null),
            Call::Wipe { node } => self.wipe(node),
            Call::Clone { from, to } => self.clone_state(from, to),
            Call::Reboot { node } => self.reboot(node),
            Call::Kill { node, program } => {
                self.node_mut(node)?.kill(program)?;
                Ok(Value::Null)
            }
            Call::Start { node, program } => self.start(node, program),
            Call::StopControl { program } => {
                self.control.stop(program)?;
                Ok(Value::Null)
            }
            Call::StartControl { program } => {
                let first = self.nodes.get(super::FIRST_NODE).context("no node")?;
                self.control.start(first, program)?;
                if program == "kube-apiserver" {
                    self.control.wait_ready(first)?;
                }
                Ok(Value::Null)
            }
            Call::KeepStore => self.with_store_at_rest(|now, kept| {
                if kept.exists() {
                    fs::remove_dir_all(kept)?;
                }
                copy(now, kept)
            }),
            Call::SetStoreBack => self.with_store_at_rest(|now, kept| {
                ensure!(kept.exists(), "no copy of the store was kept");
                fs::remove_dir_all(now)?;
                copy(kept, now)
            }),
            Call::ResetCapture => {
                self.capture.reset();
                Ok(Value::Null)
            }
            Call::Down => Ok(Value::Null),
        }
    }

    fn status(&mut self) -> Result<Value> {
        let counts = self.capture.counts();
        let mut ended = self.control.ended()?;
        for node in self.nodes.values_mut() {
            ended.extend(node.ended()?);
        }
        let nodes: Vec<Value> = self
            .nodes
            .values()
            .map(|node| json!({ "name": node.name(), "addresses": node.addresses() }))
            .collect();
        Ok(json!({
            "nodes": nodes,
            "ended": ended,
            "capture": {
                "frames": counts.frames(),
                "wireguard": counts.wireguard,
                "plaintext": counts.plaintext,
                "samples": counts.samples,
                "kernel_dropped": counts.kernel_dropped,
            },
        }))
    }

    /// Switches a new node on, or one that was switched off, with the disk that it had.
    fn add(&mut self, name: &str) -> Result<Value> {
        let host = self.next_host;
        self.next_host += 1;
        self.switch_on(name, host)
    }

    fn switch_on(&mut self, name: &str, host: u32) -> Result<Value> {
        ensure!(!self.nodes.contains_key(name), "{name} is there already");
        let machine = self.machine();
        let known = self.disks.join(name).join("disk/lib/containerd").exists();
        let mut node = ClusterNode::on(&machine, (&self.wan, &self.segment), name, host)?;
        node.start_containerd()?;
        // A kubelet that finds no runtime ends, and here nobody starts it again.
        let images = if known { &[] } else { &self.images[..] };
        for mut import in node.import(images)? {
            finished(&mut import)?;
        }
        self.nodes.insert(name.to_owned(), node);
        let names = [name.to_owned()];
        self.start_kubelets(&names)?;
        self.connect(&names)?;
        Ok(json!({ "addresses": self.node_mut(name)?.addresses() }))
    }

    /// Switches a node off as if its power failed.
    fn remove(&mut self, name: &str) -> Result<()> {
        ensure!(
            name != super::FIRST_NODE,
            "{name} has the control plane, which would go with it"
        );
        let node = self.nodes.remove(name);
        let node = node.with_context(|| format!("there is no node {name}"))?;
        let port = node.port().bridge_port.clone();
        node.off()?;
        // The kernel takes a dead namespace's end of a link away some time, and this one with it.
        let mut delete = self.wan.command("ip");
        if let Err(error) = printed(delete.args(["link", "delete", &port])) {
            ensure!(self.wan.netlink().index(&port).is_err(), "{error:#}");
        }
        Ok(())
    }

    fn wipe(&mut self, name: &str) -> Result<Value> {
        ensure!(!self.nodes.contains_key(name), "{name} is switched on");
        let disk = self.disks.join(name);
        fs::remove_dir_all(&disk).with_context(|| format!("remove {}", disk.display()))?;
        Ok(Value::Null)
    }

    fn clone_state(&mut self, from: &str, to: &str) -> Result<Value> {
        ensure!(!self.nodes.contains_key(to), "{to} is switched on");
        let state = |node: &str| self.disks.join(node).join("disk/lib/weft");
        let (from, to) = (state(from), state(to));
        ensure!(!to.exists(), "there is {} already", to.display());
        fs::create_dir_all(to.parent().context("no folder")?)?;
        copy(&from, &to)?;
        Ok(Value::Null)
    }

    /// Does something with the folder of etcd's store, and that of its copy, while nobody writes.
    fn with_store_at_rest(
        &mut self,
        act: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<Value> {
        self.control.stop("kube-apiserver")?;
        self.control.stop("etcd")?;
        let done = act(&self.disks.join("etcd"), &self.disks.join("etcd-kept"));
        let first = self.nodes.get(super::FIRST_NODE).context("no node")?;
        self.control.start(first, "etcd")?;
        self.control.start(first, "kube-apiserver")?;
        self.control.wait_ready(first)?;
        done.map(|()| Value::Null)
    }

    fn reboot(&mut self, name: &str) -> Result<Value> {
        let host = self.node_mut(name)?.host();
        self.remove(name)?;
        self.switch_on(name, host)
    }

    fn start(&mut self, name: &str, program: &str) -> Result<Value> {
        let by = self.kubeconfigs(name);
        let machine = Machine {
            options: &self.options,
            programs: &self.programs,
            disks: &self.disks,
            logs: self.layout.logs(),
            group: &self.group,
        };
        let node = self.nodes.get_mut(name);
        let node = node.with_context(|| format!("there is no node {name}"))?;
        match program {
            "containerd" => node.start_containerd()?,
            "kubelet" => node.start_kubelet(&machine, &by)?,
            "kube-proxy" => node.start_proxy(&machine, &by)?,
            other => bail!("a node has no {other}: say containerd, kubelet or kube-proxy"),
        }
        Ok(Value::Null)
    }

    fn start_kubelets(&mut self, names: &[String]) -> Result<()> {
        let proxy = "system:kube-proxy";
        self.identities.client("kube-proxy", proxy, proxy)?;
        for name in names {
            let user = format!("system:node:{name}");
            self.identities.client(name, &user, "system:nodes")?;
            self.start(name, "kubelet")?;
            self.start(name, "kube-proxy")?;
        }
        Ok(())
    }

    fn kubeconfigs(&self, name: &str) -> Kubeconfigs {
        let dir = self.layout.identities();
        Kubeconfigs {
            kubelet: dir.join(format!("{name}.kubeconfig")),
            proxy: dir.join("kube-proxy.kubeconfig"),
            authority: self.identities.certificate("ca"),
        }
    }

    /// Brings the network to new nodes, once the API server knows them.
    fn connect(&mut self, new: &[String]) -> Result<()> {
        let first_time = new.iter().any(|name| name == super::FIRST_NODE);
        let names: Vec<&str> = new.iter().map(|name| &**name).collect();
        if first_time && self.options.dns == Dns::Coredns {
            let file = self.disks.join("coredns.yaml");
            fs::write(&file, network::coredns(self.options.family)?)?;
            self.apply(&file, ["-n", "kube-system", "deployment/coredns"])?;
        }
        if first_time && self.options.cni == Cni::Weft {
            self.apply(&network::weft(), ["-n", "weft-system", "daemonset/weft"])?;
        }
        if self.options.ranges == Ranges::Weft {
            return eventually("the nodes are registered", IMPORT, || {
                self.kubectl(&[&["get", "node"], &*names].concat())
                    .map(drop)
            });
        }
        let ranges = eventually("the nodes have their ranges", IMPORT, || {
            network::ranges(&self.kubectl(&["get", "nodes", "-o", "json"])?, new)
        })?;
        if self.options.cni == Cni::Reference {
            network::reference(&self.nodes, &ranges)?;
        }
        Ok(())
    }

    /// Applies a manifest; the workload in it reaches the API server in every cluster.
    fn apply(&self, manifest: &Path, workload: [&str; 3]) -> Result<()> {
        self.kubectl(&["apply", "-f", &manifest.display().to_string()])?;
        if self.options.proxy == Proxy::None {
            let first = self.nodes.get(super::FIRST_NODE).context("no node")?;
            let api = *first.addresses().first().context("no address")?;
            let [host, port] = network::direct(api);
            self.kubectl(&[&["set", "env"], &workload[..], &[&host, &port]].concat())?;
        }
        Ok(())
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut ClusterNode> {
        let node = self.nodes.get_mut(name);
        node.with_context(|| format!("there is no node {name}"))
    }

    fn machine(&self) -> Machine<'_> {
        Machine {
            options: &self.options,
            programs: &self.programs,
            disks: &self.disks,
            logs: self.layout.logs(),
            group: &self.group,
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let first = self.nodes.get(super::FIRST_NODE).context("no node")?;
        self.control.kubectl(first, arguments)
    }
}

/// What may not be seen on the underlay: an address of a pod. What hosts say to one another is theirs.
fn watch(options: &Options) -> Result<Watch> {
    let pools: Result<Vec<IpNet>, _> = options.pods().iter().map(|pool| pool.parse()).collect();
    Ok(Watch {
        port: PORT,
        pools: pools?,
        secrets: Vec::new(),
        hosts: Hosts::Ignored,
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    printed(Command::new("cp").arg("-a").args([from, to])).map(drop)
}

fn finished(import: &mut weft_router::demo::net::Process) -> Result<()> {
    let status = eventually("the images are imported", IMPORT, || {
        import.ended()?.context("still running")
    })?;
    ensure!(
        status.success(),
        "ctr images import: {status}; see import.log"
    );
    Ok(())
}
