//! Who is measured: how each is started on the two ends, and where its program comes from.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use weft_router::demo::net::{Node, Process};
use weft_tests::engine::{Engine, make_key};

use super::world::run;

/// Somebody who carries packets from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contestant {
    /// The underlay alone: no tunnel, nothing sealed.
    Veth,
    Weft,
    /// Ours with another transport than boringtun's: what that costs.
    OwnTransport,
    WireguardGo,
    Boringtun,
    Gotatun,
    Nebula,
}

use Contestant::{Boringtun, Gotatun, Nebula, OwnTransport, Veth, Weft, WireguardGo};

pub(super) const ALL: [Contestant; 7] = [
    Veth,
    Weft,
    OwnTransport,
    WireguardGo,
    Boringtun,
    Gotatun,
    Nebula,
];
/// By this name this very executable is ours with that transport.
pub(super) const OWN_TRANSPORT: &str = "weft-own-transport";
/// The port of every engine's socket.
pub(super) const PORT: u16 = 4242;

impl Contestant {
    pub(super) fn name(self) -> &'static str {
        match self {
            Veth => "plain veth",
            Weft => "weft",
            OwnTransport => "weft with own transport",
            WireguardGo => "wireguard-go",
            Boringtun => "boringtun-cli",
            Gotatun => "gotatun",
            Nebula => "nebula",
        }
    }

    /// What `.ci/tools` has to have built for it.
    pub(super) fn programs(self) -> &'static [&'static str] {
        match self {
            Veth | Weft | OwnTransport => &[],
            WireguardGo => &["wireguard"],
            Boringtun => &["boringtun-cli"],
            Gotatun => &["gotatun"],
            Nebula => &["nebula", "nebula-cert"],
        }
    }

    /// Its link, by the name that everybody can be given.
    pub(super) fn link(self) -> &'static str {
        match self {
            Veth => "eth0",
            _ => "wg0",
        }
    }

    pub(super) fn is_wireguard(self) -> bool {
        !matches!(self, Veth | Nebula)
    }

    /// Starts the engine of one end. For nebula, `own` and `other` are the inner addresses, and
    /// `there` is where the other end is.
    pub(super) fn start(
        self,
        node: &Node,
        tools: &Path,
        (own, other): (Ipv4Addr, Ipv4Addr),
        there: Ipv4Addr,
    ) -> Result<Option<Process>> {
        let mut command = match self {
            Veth => return Ok(None),
            Weft => Engine::Weft.command(node)?,
            OwnTransport => {
                let mut command = Engine::Weft.command(node)?;
                command.arg0(OWN_TRANSPORT);
                command
            }
            WireguardGo => Engine::WireguardGo.command(node)?,
            Boringtun => Engine::Boringtun.command(node)?,
            Gotatun => Engine::Gotatun.command(node)?,
            Nebula => {
                let config = nebula(node, tools, own, other, there)?;
                let mut command = node.command(tools.join("nebula"));
                command.arg("-config").arg(config);
                command
            }
        };
        let log = fs::File::create(node.dir().join("engine.log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name()))?;
        Ok(Some(Process::new(child)))
    }
}

/// Certificates are made once, beside the ends' folders; the end's configuration.
fn nebula(
    node: &Node,
    tools: &Path,
    own: Ipv4Addr,
    other: Ipv4Addr,
    there: Ipv4Addr,
) -> Result<PathBuf> {
    let base = node.dir().parent().context("no folder")?.join("nebula");
    let cert = |words: &[&str]| {
        let mut command = Command::new(tools.join("nebula-cert"));
        let done = command.current_dir(&base).args(words).output()?;
        if !done.status.success() {
            bail!("nebula-cert: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    };
    if !base.exists() {
        fs::create_dir_all(&base)?;
        cert(&["ca", "-name", "bench"])?;
    }
    let name = node.name();
    cert(&["sign", "-name", name, "-networks", &format!("{own}/24")])?;
    let at = |file: &str| base.join(file).display().to_string();
    let text = format!(
        "pki: {{ca: {}, cert: {}, key: {}}}\n\
         static_host_map: {{\"{other}\": [\"{there}:{PORT}\"]}}\n\
         lighthouse: {{am_lighthouse: false, hosts: []}}\n\
         listen: {{host: 0.0.0.0, port: {PORT}}}\n\
         tun: {{dev: wg0, mtu: 1420}}\n\
         cipher: chachapoly\n\
         logging: {{level: error, format: text}}\n\
         firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
         inbound: [{{port: any, proto: any, host: any}}]}}\n",
        at("ca.crt"),
        at(&format!("{name}.crt")),
        at(&format!("{name}.key")),
    );
    let file = base.join(format!("{name}.yml"));
    fs::write(&file, text)?;
    Ok(file)
}

/// Gives a WireGuard device its keys and its one peer, as `wg` does it for each of them.
pub(super) fn configure(
    nodes: [&Node; 2],
    inner: [Ipv4Addr; 2],
    outer: [Ipv4Addr; 2],
) -> Result<()> {
    let public = [make_key(nodes[0])?, make_key(nodes[1])?];
    for node in nodes {
        run(node, &format!("wg set wg0 listen-port {PORT}"))?;
    }
    for (own, other) in [(0, 1), (1, 0)] {
        run(
            nodes[own],
            &format!(
                "wg set wg0 peer {} endpoint {}:{PORT} allowed-ips {}/32",
                public[other], outer[other], inner[other],
            ),
        )?;
    }
    Ok(())
}
