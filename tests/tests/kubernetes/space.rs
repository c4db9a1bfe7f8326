//! What a test makes in the cluster: a namespace of its own with pods and Services, and how these are
//! looked at. Not the cluster itself.

use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::cluster::Cluster;
use weft_tests::lab::eventually;

/// Upstream's image of what its own tests ask: servers that say who asked.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.56";
/// How long something may take that needs no more than the machine's time.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The port on which [`server`] answers by HTTP.
pub(super) const PORT: u16 = 8080;
/// The port on which it answers datagrams.
pub(super) const DATAGRAMS: u16 = 8081;

/// A namespace, gone with the value.
pub(super) struct Space<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) name: String,
}

impl<'a> Space<'a> {
    /// Makes the namespace.
    pub(super) fn new(cluster: &'a Cluster, name: &str) -> Result<Self> {
        // One of an earlier run may still be going.
        eventually("the namespace is new", PATIENCE, || {
            cluster.kubectl(&["create", "namespace", name])
        })?;
        // Pods are refused until it is there.
        eventually("the namespace has its account", PATIENCE, || {
            cluster.kubectl(&["-n", name, "get", "serviceaccount", "default"])
        })?;
        Ok(Self {
            cluster,
            name: name.to_owned(),
        })
    }

    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster
            .kubectl(&[&["-n", &self.name], arguments].concat())
    }

    pub(super) fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.cluster
            .kubectl_with(&["-n", &self.name, "apply", "-f", "-"], &list.to_string())?;
        Ok(())
    }

    /// Makes these, and waits until every pod of the namespace is ready.
    pub(super) fn run(&self, objects: &[Value]) -> Result<()> {
        self.apply(objects)?;
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", &timeout])?;
        Ok(())
    }

    /// The first address of a pod.
    pub(super) fn address(&self, pod: &str) -> Result<IpAddr> {
        let text = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"])?;
        text.parse()
            .with_context(|| format!("the address of {pod}: {text:?}"))
    }

    /// The first address of a Service.
    pub(super) fn service(&self, name: &str) -> Result<IpAddr> {
        let path = "jsonpath={.spec.clusterIP}";
        let text = self.kubectl(&["get", "service", name, "-o", path])?;
        text.parse()
            .with_context(|| format!("the address of {name}: {text:?}"))
    }

    /// The port of every node that leads to a Service.
    pub(super) fn node_port(&self, service: &str) -> Result<u16> {
        let path = "jsonpath={.spec.ports[0].nodePort}";
        let text = self.kubectl(&["get", "service", service, "-o", path])?;
        Ok(text.parse()?)
    }

    pub(super) fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.cluster.exec(&self.name, pod, words)
    }

    /// What each of these answers to a pod, once all of them do.
    pub(super) fn ask(&self, pod: &str, urls: &[String]) -> Result<Vec<String>> {
        let words = curl(urls);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let what = format!("{pod} hears from {}", urls.join(" "));
        let said = eventually(&what, PATIENCE, || self.exec(pod, &words))?;
        Ok(said.lines().map(ToOwned::to_owned).collect())
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        // The cluster's own end takes what is left.
        let name = &*self.name;
        let delete = ["delete", "namespace", name, "--wait=false"];
        let _ = self.cluster.kubectl(&delete);
    }
}

/// The words that ask each of these by a connection of its own, a line an answer; the failure of one
/// is the failure of all.
pub(super) fn curl(urls: &[String]) -> Vec<String> {
    let options = "-sS --fail --fail-early -m 3 -w \\n -H Connection:close";
    let words = options.split(' ').map(ToOwned::to_owned);
    iter::once("curl".to_owned())
        .chain(words)
        .chain(urls.iter().cloned())
        .collect()
}

/// What each of these answers to something that is no pod, once all of them do: `start` makes a
/// command of a program's name.
pub(super) fn ask_from(
    urls: &[String],
    mut start: impl FnMut(&str) -> Result<Command>,
) -> Result<Vec<String>> {
    let words = curl(urls);
    let what = format!("an answer of {}", urls.join(" "));
    let said = eventually(&what, PATIENCE, || {
        said(start(&words[0])?.args(&words[1..]))
    })?;
    Ok(said.lines().map(ToOwned::to_owned).collect())
}

/// What a command printed.
pub(super) fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        error.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A pod on a node that says by HTTP and by datagram from where it is asked, and is probed by that
/// node's kubelet.
pub(super) fn server(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [container("server", PORT, &["netexec"])],
        },
    })
}

/// A container of such a pod, whose program answers on this port.
pub(super) fn container(name: &str, port: u16, arguments: &[&str]) -> Value {
    json!({
        "name": name,
        "image": AGNHOST,
        "args": arguments,
        "readinessProbe": {
            "httpGet": { "path": "/hostname", "port": port },
            "periodSeconds": 1,
        },
    })
}

/// A Service on port 80 before the pods with the label `app` of this value.
pub(super) fn service(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "selector": { "app": app },
            "ports": [{ "port": 80, "targetPort": PORT }],
        },
    })
}

/// Where `what` (`clientip`, `hostname`, …) is asked.
pub(super) fn url(address: IpAddr, port: u16, what: &str) -> String {
    format!("http://{}/{what}", SocketAddr::new(address, port))
}

/// From where a server was asked, out of what it answered.
pub(super) fn source(answer: &str) -> Result<IpAddr> {
    let address: SocketAddr = answer
        .trim()
        .parse()
        .with_context(|| format!("an address and a port, not {answer:?}"))?;
    Ok(address.ip())
}

/// Checks that not one packet of a pod was seen on the underlay in the clear, and all were looked at.
pub(super) fn sealed(cluster: &Cluster) -> Result<()> {
    let seen = cluster.status()?.capture;
    ensure!(
        seen.plaintext == 0 && seen.wireguard > 0 && seen.kernel_dropped == 0,
        "{seen:?}"
    );
    Ok(())
}

/// The names of the nodes that are switched on.
pub(super) fn nodes(cluster: &Cluster) -> Result<Vec<String>> {
    let nodes = cluster.status()?.nodes;
    Ok(nodes.into_iter().map(|node| node.name).collect())
}

/// The first address of a node on the underlay.
pub(super) fn node_address(cluster: &Cluster, node: &str) -> Result<IpAddr> {
    let nodes = cluster.status()?.nodes;
    let found = nodes.iter().find(|known| known.name == node);
    let found = found.with_context(|| format!("there is no node {node}"))?;
    Ok(*found.addresses.first().context("no address")?)
}
