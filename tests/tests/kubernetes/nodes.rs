//! The life of nodes: they come, are emptied, deleted, wiped and come again, are rebooted, and are
//! copied. The others and their pods are as before, each time.

use std::net::IpAddr;

use anyhow::{Context, Result};
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::space::{PATIENCE, PORT, Space, said, server, source, url};
use super::whole::whole;

/// A node that is there for a test, and gone with the value.
pub(super) struct Guest<'a> {
    cluster: &'a Cluster,
    name: &'a str,
}

impl<'a> Guest<'a> {
    pub(super) fn comes(cluster: &'a Cluster, name: &'a str) -> Result<Self> {
        let this = Self { cluster, name };
        cluster.add(name)?;
        this.wait()?;
        Ok(this)
    }

    fn wait(&self) -> Result<()> {
        let node = format!("node/{}", self.name);
        let wait = ["wait", "--for=condition=Ready", &node, "--timeout=60s"];
        self.cluster.kubectl(&wait).map(drop)
    }

    /// Switches it off and forgets it, as an administrator does with a broken machine.
    pub(super) fn leaves(&self) -> Result<()> {
        self.cluster.remove(self.name)?;
        self.cluster.kubectl(&["delete", "node", self.name])?;
        Ok(())
    }

    fn weft_node(&self, field: &str) -> Result<String> {
        let object = self.cluster.get(&["weftnode", self.name])?;
        let text = object["spec"][field].as_str();
        Ok(text.with_context(|| format!("no {field}"))?.to_owned())
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // It may have gone, by the test itself.
        if self.leaves().is_ok() {
            let _ = self.cluster.wipe(self.name);
        }
    }
}

/// Each of the pods reaches each other and is seen by its own address.
fn mutual(space: &Space<'_>, pods: &[&str]) -> Result<()> {
    let mut addresses = Vec::new();
    for pod in pods {
        addresses.push(space.address(pod)?);
    }
    let urls: Vec<String> = addresses
        .iter()
        .map(|to| url(*to, PORT, "clientip"))
        .collect();
    for (pod, own) in pods.iter().zip(&addresses) {
        for seen in space.ask(pod, &urls)? {
            let seen = source(&seen)?;
            ensure(seen == *own, format!("{own} is seen as {seen}"))?;
        }
    }
    Ok(())
}

/// Where a node's routing sends what is for an address.
fn way(cluster: &Cluster, node: &str, to: IpAddr) -> Result<String> {
    let to = to.to_string();
    let output = cluster
        .on_node(node, "ip")?
        .args(["route", "get", &to])
        .output()?;
    let both = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&both).into_owned())
}

pub(super) fn a_node_comes_is_drained_and_deleted_and_comes_again_with_another_key() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "guest")?;
    let guest = Guest::comes(&cluster, "node-4")?;
    space.run(&[
        server("one", "node-1"),
        server("two", "node-2"),
        server("guest", "node-4"),
    ])?;
    mutual(&space, &["one", "two", "guest"])?;
    whole(&cluster)?;

    cluster.kubectl(&[
        "drain",
        "node-4",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--force",
        "--timeout=60s",
    ])?;
    let (key, identity) = (guest.weft_node("publicKey")?, guest.weft_node("identity")?);
    let address = cluster.weft_status("node-4")?.mesh.addresses;
    let address = *address.first().context("no address in the mesh")?;
    let before = way(&cluster, "node-1", address)?;
    ensure(before.contains("dev weft0"), format!("no way: {before}"))?;
    guest.leaves()?;
    eventually("nothing is left of it", PATIENCE, || {
        for node in ["node-1", "node-2", "node-3"] {
            let peers = cluster.weft_status(node)?.peers;
            ensure(peers.len() == 2, format!("{node} has {peers:?}"))?;
            let way = way(&cluster, node, address)?;
            // EHOSTUNREACH: what is for it leads nowhere, not out of the default route.
            ensure(
                way.contains("No route to host"),
                format!("{node} sends what is for a node that is gone by {way}"),
            )?;
        }
        Ok(())
    })?;
    mutual(&space, &["one", "two"])?;
    whole(&cluster)?;

    cluster.wipe("node-4")?;
    cluster.add("node-4")?;
    guest.wait()?;
    space.run(&[server("again", "node-4")])?;
    mutual(&space, &["one", "two", "again"])?;
    whole(&cluster)?;
    ensure(
        guest.weft_node("publicKey")? != key && guest.weft_node("identity")? != identity,
        "a wiped node came back with its old key",
    )
}

pub(super) fn a_rebooted_node_has_its_pods_back_and_no_address_twice() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "reboot")?;
    space.run(&[
        server("stays", "node-2"),
        server("first", "node-3"),
        server("second", "node-3"),
    ])?;
    let key = cluster.get(&["weftnode", "node-3"])?["spec"]["publicKey"].clone();
    cluster.reboot("node-3")?;
    // Until its kubelet has looked, the API has what was.
    eventually("its pods run again", PATIENCE, || {
        let pods = space.cluster.get(&["-n", &space.name, "pods"])?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let name = &pod["metadata"]["name"];
            let container = &pod["status"]["containerStatuses"][0];
            let was = pod["spec"]["nodeName"] == "node-3";
            ensure(
                container["ready"] == true && (!was || container["restartCount"] != 0),
                format!("{name}: {container}"),
            )?;
        }
        Ok(())
    })?;
    mutual(&space, &["stays", "first", "second"])?;
    whole(&cluster)?;
    let now = cluster.get(&["weftnode", "node-3"])?["spec"]["publicKey"].clone();
    ensure(now == key, "a reboot changed the node's key")
}

pub(super) fn a_copied_disk_becomes_a_node_of_its_own() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "copy")?;
    let original = cluster.get(&["weftnode", "node-3"])?["spec"].clone();
    cluster.clone_state("node-3", "node-5")?;
    let copy = Guest::comes(&cluster, "node-5")?;
    space.run(&[server("original", "node-3"), server("copy", "node-5")])?;
    mutual(&space, &["original", "copy"])?;
    whole(&cluster)?;
    for field in ["identity", "publicKey"] {
        ensure(
            original[field] == cluster.get(&["weftnode", "node-3"])?["spec"][field],
            format!("the original has another {field}"),
        )?;
        ensure(
            original[field] != *copy.weft_node(field)?,
            format!("both have one {field}"),
        )?;
    }
    eventually("the copy is named in an Event", PATIENCE, || {
        let events = said(cluster.kubectl_command()?.args([
            "get",
            "events",
            "-A",
            "--field-selector=reason=IdentityCloned",
        ]))?;
        ensure(events.contains("node-5"), format!("no Event: {events}"))
    })
}
