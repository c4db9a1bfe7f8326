//! A pod: a namespace attached by the real plugin, run as a container runtime runs it.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_router::demo::net::{Netns, Node};

use super::{LabNode, faults};

/// A namespace on a node, with what the plugin said of it.
#[derive(Debug)]
pub struct Pod {
    netns: Netns,
    node: Arc<Node>,
    name: String,
    result: Value,
}

impl LabNode {
    /// Makes a pod and attaches it by ADD; `name` is entered in the mesh's DNS.
    ///
    /// # Errors
    /// What the plugin says, with the end of the agent's log.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let mut pod = self.bare_pod(name)?;
        pod.result = self.cni("ADD", &pod).with_context(|| self.said())?;
        Ok(pod)
    }

    /// Makes a pod's namespace and attaches nothing.
    ///
    /// # Errors
    /// When the name is taken on this node.
    pub fn bare_pod(&self, name: &str) -> Result<Pod> {
        Ok(Pod {
            netns: Netns::new(&format!("{}-{name}", self.name()))?,
            node: Arc::clone(self.machine().node()),
            name: name.to_owned(),
            result: Value::Null,
        })
    }

    /// Runs a verb of the plugin for a pod.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn cni(&self, verb: &str, pod: &Pod) -> Result<Value> {
        let netns = pod.netns.path().display().to_string();
        let arguments = format!("IgnoreUnknown=1;WEFT_NAME={}", pod.name);
        let parameters = [
            ("CNI_CONTAINERID", pod.netns.name()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", &arguments),
        ];
        let mut configuration = json!({"cniVersion": "1.0.0", "name": "weft", "type": "weft-cni"});
        if verb != "ADD" && !pod.result.is_null() {
            configuration["prevResult"] = pod.result.clone();
        }
        Ok(self.machine().plugin(verb, &parameters, &configuration)?)
    }
}

impl Pod {
    /// What ADD printed.
    pub fn result(&self) -> &Value {
        &self.result
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The addresses that ADD gave, without their prefix lengths.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
            .collect()
    }

    /// Its IPv4 address.
    ///
    /// # Errors
    /// When ADD gave none.
    pub fn v4(&self) -> Result<IpAddr> {
        let found = self.addresses().into_iter().find(IpAddr::is_ipv4);
        found.with_context(|| format!("{} has no IPv4 address: {}", self.name, self.result))
    }

    /// Its IPv6 address.
    ///
    /// # Errors
    /// When ADD gave none.
    pub fn v6(&self) -> Result<IpAddr> {
        let found = self.addresses().into_iter().find(IpAddr::is_ipv6);
        found.with_context(|| format!("{} has no IPv6 address: {}", self.name, self.result))
    }

    /// A command in the pod's network.
    pub fn command(&self, program: &str) -> Command {
        self.node.command_in(&self.netns, program)
    }

    /// Runs a program in the pod's network; what it printed.
    ///
    /// # Errors
    /// What it printed to standard error, when it failed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no program")?;
        faults::printed(self.command(program).args(arguments), words)
    }

    /// Whether one echo is answered within a second.
    ///
    /// # Errors
    /// When it is not.
    pub fn ping(&self, address: IpAddr) -> Result<()> {
        self.run(&["ping", "-n", "-c", "1", "-W", "1", &address.to_string()])
            .map(drop)
    }
}
