//! Somebody on the underlay who is no node of the cluster: where its users and its databases are.

use std::net::IpAddr;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use weft_tests::cluster::Cluster;

use super::space::{ask_from, node_address, said, url};

/// A server out there that says by HTTP from where it is asked; gone with the value.
pub(super) struct Outside {
    pub(super) address: IpAddr,
    process: Child,
}

impl Outside {
    /// Starts it, and waits until it answers.
    pub(super) fn start(cluster: &Cluster, port: u16) -> Result<Self> {
        let address = address(cluster)?;
        let process = cluster
            .outside(cluster.programs().join("agnhost"))?
            .arg("netexec")
            .arg(format!("--http-port={port}"))
            .arg(format!("--udp-port={}", port + 1))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start agnhost")?;
        let this = Self { address, process };
        ask_from(&[url(address, port, "hostname")], |program| {
            cluster.outside(program)
        })?;
        Ok(this)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address of those out there, of the family that the nodes speak first.
pub(super) fn address(cluster: &Cluster) -> Result<IpAddr> {
    let (family, before) = match node_address(cluster, "node-1")? {
        IpAddr::V4(_) => ("-4", "inet"),
        IpAddr::V6(_) => ("-6", "inet6"),
    };
    let mut ip = cluster.outside("ip")?;
    let text = said(ip.args(["-o", family, "addr", "show", "scope", "global"]))?;
    let mut words = text.split_whitespace();
    let found = words.find(|word| *word == before).and(words.next());
    let address = found.and_then(|word| word.split('/').next());
    Ok(address
        .with_context(|| format!("an address out there: {text:?}"))?
        .parse()?)
}
