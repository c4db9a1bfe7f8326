//! Pods of containerd's CRI, driven by `crictl`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_cni::api::{CniRequest, Empty, StatusRequest};
use weft_router::control::ask_cni;
use weft_tests::lab::{Lab, LabNode, ensure, eventually};
use weft_tests::tools::tool;

use crate::image::{IMAGE, PAGE};
use crate::runtime::{Containerd, SPACE};
use crate::{PATIENCE, addresses, no_leases, prepare};

const SERVE: &[&str] = &["httpd", "-f", "-p", "80", "-h", "/www"];
const IDLE: &[&str] = &["sleep", "600"];

/// `crictl` on a node.
struct Cri {
    runtime: Containerd,
    crictl: PathBuf,
    /// The node's name servers.
    servers: Vec<IpAddr>,
}

impl Cri {
    /// Once the node is ready for pods.
    fn start(node: &LabNode, image: &Path, crictl: &Path) -> Result<Self> {
        let runtime = Containerd::start(node, image)?;
        eventually("the node is ready for pods", PATIENCE, || {
            let network = "weft".to_owned();
            let asked = CniRequest::Status(StatusRequest { network });
            let Empty {} = ask_cni(&node.machine().socket(), asked, None)?;
            Ok(())
        })?;
        Ok(Self {
            runtime,
            crictl: crictl.to_owned(),
            servers: node.mesh_addresses()?,
        })
    }

    fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.runtime.node().command(&self.crictl);
        command
            .arg("--runtime-endpoint")
            .arg(format!("unix://{}", self.runtime.socket.display()))
            .arg(format!("--timeout={}s", PATIENCE.as_secs()))
            .args(words);
        Ok(self.runtime.checked(&mut command)?.trim_end().to_owned())
    }

    /// A sandbox, its name servers as a kubelet would say them; its id.
    fn pod(&self, name: &str) -> Result<String> {
        let sandbox = self.sandbox(name)?;
        self.run(&["runp", &sandbox])
    }

    fn sandbox(&self, name: &str) -> Result<String> {
        let sandbox = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "attempt": 0 },
            "hostname": name,
            "log_directory": self.runtime.dir(),
            "dns_config": { "servers": self.servers, "searches": ["weft.local"] },
            "linux": { "cgroup_parent": format!("/{SPACE}") },
        });
        self.file(name, &sandbox)
    }

    /// A container of busybox in the pod of that name and id, started; its id.
    fn container(&self, pod: (&str, &str), name: &str, words: &[&str]) -> Result<String> {
        let words: Vec<&str> = [&["/bin/busybox"], words].concat();
        let container = json!({
            "metadata": { "name": name, "attempt": 0 },
            "image": { "image": IMAGE },
            "command": words,
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        let sandbox = self.sandbox(pod.0)?;
        let container = self.file(name, &container)?;
        let id = self.run(&["create", pod.1, &container, &sandbox])?;
        self.run(&["start", &id])?;
        Ok(id)
    }

    /// What a program of busybox prints in a container.
    fn exec(&self, container: &str, words: &[&str]) -> Result<String> {
        self.run(&[&["exec", "--sync", container, "/bin/busybox"], words].concat())
    }

    /// The page at this host, as a container fetches it.
    fn fetch(&self, container: &str, host: &str) -> Result<()> {
        let url = format!("http://{host}/");
        let what = format!("{url} is fetched");
        eventually(&what, PATIENCE, || {
            let page = self.exec(container, &["wget", "-q", "-O", "-", &url])?;
            ensure(page == PAGE, format!("{page:?}"))
        })
    }

    fn file(&self, name: &str, content: &Value) -> Result<String> {
        let path = self.runtime.dir().join(format!("{name}.json"));
        fs::write(&path, content.to_string())?;
        Ok(path.display().to_string())
    }

    /// The addresses of a pod as a kubelet learns them.
    fn addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let said: Value = serde_json::from_str(&self.run(&["inspectp", "--output", "json", pod])?)?;
        let network = &said["status"]["network"];
        let more = network["additionalIps"].as_array().into_iter().flatten();
        let all = [&network["ip"]].into_iter().chain(more.map(|ip| &ip["ip"]));
        all.map(|ip| Ok(ip.as_str().with_context(|| format!("{network}"))?.parse()?))
            .collect()
    }
}

/// The pods' links of a node.
fn links(node: &LabNode) -> Result<Vec<String>> {
    let text = node.run(&["ip", "-j", "link", "show", "type", "veth"])?;
    let links: Vec<Value> = serde_json::from_str(&text)?;
    let names = links.iter().filter_map(|link| link["ifname"].as_str());
    let ours = names.filter(|name| name.starts_with("weft"));
    Ok(ours.map(ToOwned::to_owned).collect())
}

fn no_links(node: &LabNode) -> Result<()> {
    eventually("no link is left", PATIENCE, || {
        let links = links(node)?;
        ensure(links.is_empty(), format!("{links:?}"))
    })
}

fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

pub(super) fn pods_of_a_cri_runtime_reach_one_another_and_leave_nothing() -> Result<()> {
    let crictl = tool("crictl")?;
    let image = prepare()?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let a = Cri::start(&nodes[0], &image, &crictl)?;
    let b = Cri::start(&nodes[1], &image, &crictl)?;
    let web = a.pod("web")?;
    let client = b.pod("client")?;
    let serve = a.container(("web", &web), "serve", SERVE)?;
    let beside = a.container(("web", &web), "beside", IDLE)?;
    let asks = b.container(("client", &client), "asks", IDLE)?;

    let own = addresses(&nodes[0], &web)?;
    ensure(
        own.len() == 2 && a.addresses(&web)? == own,
        format!("{own:?}"),
    )?;
    // Two containers, one pod: the same interface, and localhost is the same too.
    let eth0 = a.exec(&serve, &["ip", "address", "show", "dev", "eth0"])?;
    ensure(own.iter().all(|own| eth0.contains(&own.to_string())), &eth0)?;
    let same = a.exec(&beside, &["ip", "address", "show", "dev", "eth0"])?;
    ensure(same == eth0, format!("{same}\n{eth0}"))?;
    a.fetch(&beside, "127.0.0.1")?;
    // From the other node's pod, by address and by name, and back.
    for address in &own {
        b.fetch(&asks, &in_url(*address))?;
    }
    b.fetch(&asks, "web.weft.local")?;
    b.fetch(&asks, "web")?;
    for address in addresses(&nodes[1], &client)? {
        a.exec(
            &beside,
            &["ping", "-c", "1", "-W", "2", &address.to_string()],
        )?;
    }

    for (node, cri, pod) in [(&nodes[0], &a, &web), (&nodes[1], &b, &client)] {
        cri.run(&["stopp", pod])?;
        no_leases(node)?;
        no_links(node)?;
        cri.run(&["rmp", pod])?;
    }
    Ok(())
}

pub(super) fn a_pod_stopped_while_the_agent_is_away_leaves_nothing() -> Result<()> {
    let crictl = tool("crictl")?;
    let image = prepare()?;
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    let cri = Cri::start(&node, &image, &crictl)?;
    let pod = cri.pod("web")?;
    cri.container(("web", &pod), "serve", SERVE)?;
    node.kill()?;
    cri.run(&["stopp", &pod])?;
    let notes = fs::read_dir(weft_cni::note::dir(&node.machine().socket()))?.count();
    ensure(notes == 1, format!("{notes} notes"))?;
    node.up(&[])?;
    no_leases(&node)?;
    no_links(&node)?;
    let notes = fs::read_dir(weft_cni::note::dir(&node.machine().socket()))?.count();
    ensure(notes == 0, format!("{notes} notes are left"))?;
    cri.run(&["rmp", &pod])?;
    // The address is another pod's to have, and its sandbox starts.
    let next = cri.pod("next")?;
    cri.run(&["stopp", &next])?;
    cri.run(&["rmp", &next])?;
    no_leases(&node)
}
