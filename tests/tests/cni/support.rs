//! A container runtime on a node of the lab: conflists, containers, and what a pod looks like.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::cnitool::{Container, Failure, Network};
use weft_tests::lab::{LabNode, Pod, ensure, eventually};

/// How long an agent may take for what has no promise of its own.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A name is known everywhere, or is forgotten everywhere, within this time.
pub(super) const NEWS: Duration = Duration::from_secs(3);
/// Where Debian has the reference plugins.
pub(super) const REFERENCE: &str = "/usr/lib/cni";

/// A conflist of our plugin alone, or with others behind it.
pub(super) fn network(node: &LabNode, version: &str, behind: &[Value]) -> Result<Network> {
    let mut plugins = vec![json!({ "type": "weft-cni", "socket": node.machine().socket() })];
    plugins.extend(behind.iter().cloned());
    let list = json!({ "cniVersion": version, "name": "weft", "plugins": plugins });
    let netns = format!("--net={}", node.machine().node().netns().path().display());
    let dirs = [bin_dir()?, REFERENCE.into()];
    Ok(Network::parse(&list.to_string(), version, &dirs)?.through(&["nsenter", &netns]))
}

/// A directory with the plugin in it: this very program by its name.
fn bin_dir() -> Result<PathBuf> {
    let dir = PathBuf::from("/run/weft-lab/bin");
    std::fs::create_dir_all(&dir)?;
    let plugin = dir.join("weft-cni");
    if !plugin.exists() {
        std::os::unix::fs::symlink(std::env::current_exe()?, plugin)?;
    }
    Ok(dir)
}

/// A container with nothing attached yet, and its namespace.
pub(super) fn container(node: &LabNode, name: &str) -> Result<(Container, Pod)> {
    let pod = node.bare_pod(name)?;
    let netns = pod.netns().path().display().to_string();
    let mut container = Container::new(pod.netns().name(), &netns);
    container
        .args
        .insert("IgnoreUnknown".to_owned(), "1".to_owned());
    container
        .args
        .insert("WEFT_NAME".to_owned(), name.to_owned());
    Ok((container, pod))
}

/// The addresses of a result, IPv4 first, without their prefixes.
pub(super) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| {
        ip["address"]
            .as_str()?
            .split('/')
            .next()
            .map(ToOwned::to_owned)
    })
    .collect()
}

/// The code of the plugin's refusal, which has to be one.
pub(super) fn refusal<T>(outcome: Result<T, Failure>) -> Result<(u64, String)> {
    let failure = outcome.err().context("that went well, and should not")?;
    let code = failure.code().with_context(|| failure.to_string())?;
    Ok((code, failure.to_string()))
}

/// Checks that the plugin refuses with this code, its message naming `word`.
pub(super) fn refused<T>(outcome: Result<T, Failure>, code: u64, word: &str) -> Result<()> {
    let (got, text) = refusal(outcome)?;
    ensure(
        got == code && text.contains(word),
        format!("not error {code} with {word:?}: {text}"),
    )
}

/// A node whose agent is ready for ADDs.
pub(super) fn ready(node: &LabNode) -> Result<()> {
    let network = network(node, "1.1.0", &[])?;
    eventually("the node is ready", PATIENCE, || Ok(network.status()?))
}

/// The leases that the agent says it has.
pub(super) fn leases(node: &LabNode) -> Result<Vec<Value>> {
    let status = node.status()?;
    let leases = status["ipam"]["leases"].as_array().context("no leases")?;
    Ok(leases.clone())
}

/// The pods' links on the host.
pub(super) fn host_links(node: &LabNode) -> Result<Vec<String>> {
    let text = node.run(&["ip", "-j", "link", "show", "type", "veth"])?;
    let links: Value = serde_json::from_str(&text)?;
    let names = links.as_array().into_iter().flatten();
    Ok(names
        .filter_map(|link| link["ifname"].as_str())
        .filter(|name| name.starts_with("weft"))
        .map(ToOwned::to_owned)
        .collect())
}

/// Waits until a node has neither leases nor pods' links.
pub(super) fn wait_empty(node: &LabNode) -> Result<()> {
    eventually("nothing is left", PATIENCE, || {
        let (leases, links) = (leases(node)?, host_links(node)?);
        ensure(
            leases.is_empty() && links.is_empty(),
            format!("left: {leases:?} {links:?}\n{}", node.said()),
        )
    })
}
