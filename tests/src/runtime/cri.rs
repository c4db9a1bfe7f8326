//! Pods of containerd's CRI, driven by `crictl`, the way that a kubelet goes.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_cni::api::{CniRequest, Empty, StatusRequest};
use weft_router::control::ask_cni;

use super::{Containerd, IMAGE, Networks, PAGE, PATIENCE, SPACE};
use crate::lab::{LabNode, ensure, eventually};
use crate::tools::tool;

/// `crictl` on a node.
#[derive(Debug)]
pub struct Cri {
    runtime: Containerd,
    crictl: PathBuf,
    /// The node's name servers.
    servers: Vec<IpAddr>,
}

impl Cri {
    /// Starts a runtime on a node, once that is ready for pods. Skips where `crictl` is missing.
    ///
    /// # Errors
    /// Where one of the two is not ready within [`PATIENCE`].
    pub fn start(node: &LabNode, image: &Path, networks: &Networks) -> Result<Self> {
        let crictl = tool("crictl")?;
        let runtime = Containerd::start(node, image, networks)?;
        eventually("the node is ready for pods", PATIENCE, || {
            let network = "weft".to_owned();
            let asked = CniRequest::Status(StatusRequest { network });
            let Empty {} = ask_cni(&node.machine().socket(), asked, None)?;
            Ok(())
        })?;
        Ok(Self {
            runtime,
            crictl,
            servers: node.mesh_addresses()?,
        })
    }

    /// What `crictl` printed.
    ///
    /// # Errors
    /// Where it failed, with the end of the logs; so for those below.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.runtime.node.command(&self.crictl);
        command
            .arg("--runtime-endpoint")
            .arg(format!("unix://{}", self.runtime.socket.display()))
            .arg(format!("--timeout={}s", PATIENCE.as_secs()))
            .args(words);
        Ok(self.runtime.checked(&mut command)?.trim_end().to_owned())
    }

    /// A sandbox, its name servers as a kubelet would say them; its id.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn pod(&self, name: &str) -> Result<String> {
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
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn container(&self, pod: (&str, &str), name: &str, words: &[&str]) -> Result<String> {
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
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn exec(&self, container: &str, words: &[&str]) -> Result<String> {
        self.run(&[&["exec", "--sync", container, "/bin/busybox"], words].concat())
    }

    /// Has a container fetch the page at this host.
    ///
    /// # Errors
    /// Where none is to be had within [`PATIENCE`].
    pub fn fetch(&self, container: &str, host: &str) -> Result<()> {
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
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn addresses(&self, pod: &str) -> Result<Vec<IpAddr>> {
        let said: Value = serde_json::from_str(&self.run(&["inspectp", "--output", "json", pod])?)?;
        let network = &said["status"]["network"];
        let more = network["additionalIps"].as_array().into_iter().flatten();
        let all = [&network["ip"]].into_iter().chain(more.map(|ip| &ip["ip"]));
        all.map(|ip| Ok(ip.as_str().with_context(|| format!("{network}"))?.parse()?))
            .collect()
    }
}
