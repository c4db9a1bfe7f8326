//! Engines on nodes of the lab, and their devices as `wg` and `ip` see them.

use std::fs;

use anyhow::{Result, bail};
use weft_router::demo::net::Process;
use weft_tests::engine::{Engine, make_key};
use weft_tests::lab::{Lab, LabNode, eventually, have};
use weft_tests::tools::tool;

use super::SOON;

/// Starts an engine with the link `wg0`, in the foreground, and waits until it can be configured.
/// Skips the test where it was not built.
pub(super) fn start(engine: Engine, node: &LabNode) -> Result<Process> {
    engine.program().map(tool).transpose()?;
    let node_of = node.machine().node();
    let mut command = engine.command(node_of)?;
    if engine != Engine::Weft {
        let log = fs::File::create(node_of.dir().join("engine.log"))?;
        command.stdout(log.try_clone()?).stderr(log);
    }
    let mut process = Process::new(command.spawn()?);
    eventually("the device is there", SOON, || {
        if let Some(status) = process.ended()? {
            bail!("{engine:?} ended: {status}");
        }
        node.run(&["wg", "show", "wg0"]).map(drop)
    })?;
    Ok(process)
}

/// The WireGuard device of an engine on a node, with a key of its own.
pub(super) struct Device {
    pub(super) node: LabNode,
    pub(super) public: String,
    /// Of the engine.
    _process: Process,
}

impl Device {
    pub(super) fn weft(lab: &Lab, name: &str) -> Result<Self> {
        Self::new(lab, name, Engine::Weft)
    }

    pub(super) fn new(lab: &Lab, name: &str, engine: Engine) -> Result<Self> {
        have("wg")?;
        let node = lab.node(name)?;
        let process = start(engine, &node)?;
        let public = make_key(node.machine().node())?;
        Ok(Self {
            node,
            public,
            _process: process,
        })
    }

    pub(super) fn wg(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = ["wg"].into_iter().chain(words.split(' ')).collect();
        self.node.run(&words)
    }

    pub(super) fn ip(&self, words: &str) -> Result<()> {
        let words: Vec<&str> = ["ip"].into_iter().chain(words.split(' ')).collect();
        self.node.run(&words).map(drop)
    }

    /// What `wg show wg0` says of one thing.
    pub(super) fn shown(&self, what: &str) -> Result<String> {
        Ok(self.wg(&format!("show wg0 {what}"))?.trim().to_owned())
    }

    /// The other becomes its peer, anew where it was that already: not every engine changes one.
    pub(super) fn set_peer(&self, other: &Self, prefix: &str, more: &str) -> Result<()> {
        let port = other.shown("listen-port")?;
        let (key, address) = (&other.public, other.node.v4());
        self.wg(&format!("set wg0 peer {key} remove"))?;
        self.wg(&format!(
            "set wg0 peer {key} endpoint {address}:{port} allowed-ips {prefix}{more}"
        ))
        .map(drop)
    }

    /// The device gets an address, and the other as its peer.
    fn meet(&self, own: &str, other: &Self, prefix: &str) -> Result<()> {
        self.set_peer(other, prefix, "")?;
        self.ip(&format!("addr add {own} dev wg0"))?;
        self.ip("link set wg0 mtu 1420 up")
    }

    pub(super) fn ping(&self, to: &str) -> Result<()> {
        let ping = ["ping", "-q", "-c", "1", "-W", "1", to];
        self.node.run(&ping).map(drop)
    }

    /// What a configuration file adds to what a device has, by `wg syncconf` or `wg setconf`.
    pub(super) fn configure(&self, verb: &str, text: &str) -> Result<()> {
        let file = self.node.machine().node().dir().join("conf");
        fs::write(&file, text)?;
        self.wg(&format!("{verb} wg0 {}", file.display())).map(drop)
    }
}

/// Two of ours, each the other's peer.
pub(super) fn pair(lab: &Lab) -> Result<(Device, Device)> {
    let (a, b) = (Device::weft(lab, "a")?, Device::weft(lab, "b")?);
    meet(&a, &b)?;
    Ok((a, b))
}

/// Each becomes the other's peer: 10.9.0.1 and 10.9.0.2.
pub(super) fn meet(a: &Device, b: &Device) -> Result<()> {
    a.meet("10.9.0.1/24", b, "10.9.0.2/32")?;
    b.meet("10.9.0.2/24", a, "10.9.0.1/32")
}
