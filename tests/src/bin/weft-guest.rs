//! The init of the guest that has WireGuard in its kernel: it drives the kernel tunnel and says
//! what came of it on the serial port. Its other half is `tests/kernel_guest.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, stdin};
use std::net::UdpSocket;
use std::panic;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use weft_mesh::device::{Change, DeviceConfig, PeerConfig, PeerStatus};
use weft_mesh::diff::diff;
use weft_mesh::tunnel::kernel::KernelTunnel;
use weft_mesh::tunnel::{AnyTunnel, Backend, Tunnel, TunnelError, conformance};
use weft_mesh::{PrivateKey, PublicKey};
use weft_tests::guest::{REKEYED, SAYS, answer, echoes};

const LINK: &str = "weft0";

fn main() -> Result<()> {
    ensure!(
        std::process::id() == 1,
        "this is the init of a guest, and nothing else"
    );
    panic::set_hook(Box::new(|panic| say(&format!("failed: {panic}"))));
    match run() {
        Ok(()) => say("done"),
        Err(error) => say(&format!("failed: {error:#}")),
    }
    reboot(RebootCommand::PowerOff).context("power off")
}

fn say(what: &str) {
    println!("{SAYS}{what}");
}

fn run() -> Result<()> {
    start().context("start the guest")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    say("up");
    match line()?.as_str() {
        "drive" => runtime.block_on(drive()),
        "rekey" => runtime.block_on(rekey()),
        other => bail!("the test said {other:?}"),
    }
}

/// The kernel's device from its making to its deletion.
async fn drive() -> Result<()> {
    let (tunnel, why) = AnyTunnel::open(Backend::Auto, "conf0")?;
    ensure!(tunnel.backend() == Backend::Kernel, "{why}");
    conformance::check(&tunnel).await;
    ip("link del conf0")?;
    say("conforms");

    let host = PrivateKey::from_bytes([1; 32]).public_key();
    let mut config = DeviceConfig {
        private_key: PrivateKey::from_bytes([2; 32]),
        listen_port: 6783,
        fwmark: 0,
        peers: BTreeMap::from([(host, peer(&["10.32.1.0/24", "fd00:32:1::/48"])?)]),
    };
    let tunnel = KernelTunnel::open(LINK)?;
    reach(&tunnel, &config).await?;
    for arguments in ["addr add 10.32.2.1/12", "addr add fd00:32:2::1/32"] {
        ip(&format!("{arguments} dev {LINK}"))?;
    }
    ip(&format!("link set {LINK} mtu 1420 up"))?;
    let echo = UdpSocket::bind("[::]:7")?;
    thread::spawn(move || answer(&echo));
    say("ready");
    wait()?;

    // Packets came and went: the device tells of them.
    let first = status_of(&tunnel, host).await?;
    ensure!(
        first.endpoint == Some("198.51.100.1:6783".parse()?),
        "{first:?}"
    );
    ensure!(first.last_handshake.is_some(), "{first:?}");
    ensure!(first.rx_bytes > 500 && first.tx_bytes > 500, "{first:?}");

    // Others come, change and go.
    let other = PrivateKey::from_bytes([3; 32]).public_key();
    for ranges in [
        &["10.32.3.0/24"][..],
        &["10.32.3.0/24", "10.32.4.0/24"],
        &["10.32.4.0/24"],
    ] {
        config.peers.insert(other, peer(ranges)?);
        reach(&tunnel, &config).await?;
        undisturbed(&first, &status_of(&tunnel, host).await?)?;
    }
    say("changed");
    wait()?;
    tunnel
        .apply(&[Change::RemovePeer { public_key: other }])
        .await?;
    config.peers.remove(&other);
    undisturbed(&first, &status_of(&tunnel, host).await?)?;

    // Another run finds the device as this one leaves it.
    drop(tunnel);
    let tunnel = KernelTunnel::open(LINK)?;
    undisturbed(&first, &status_of(&tunnel, host).await?)?;
    let left = diff(&config, &tunnel.status().await?, &BTreeMap::new());
    ensure!(left.is_empty(), "an adopted device needs {left:?}");
    match KernelTunnel::open("lo") {
        Err(TunnelError::OtherKind { .. }) => {}
        other => bail!("a link of another kind: {other:?}"),
    }
    say("adopted");
    wait()?;

    // Somebody deletes it: it is made again, and needs all that it had.
    ip(&format!("link del {LINK}"))?;
    ensure!(
        tunnel.status().await?.peers.is_empty(),
        "a new device has no peers"
    );
    reach(&tunnel, &config).await
}

/// Two devices, each with a session that is older than its keys may be in the end: one that the host
/// began, and one that this guest begins.
async fn rekey() -> Result<()> {
    for (link, number) in [("weft0", 0), ("weft1", 1)] {
        let host = PrivateKey::from_bytes([1 + 4 * number; 32]).public_key();
        let mut peer = peer(&[&format!("10.{}.1.0/24", 40 + number)])?;
        let port = 6783 + u16::from(number);
        peer.endpoint = (number == 1).then(|| ([198, 51, 100, 1], port).into());
        let config = DeviceConfig {
            private_key: PrivateKey::from_bytes([2 + 4 * number; 32]),
            listen_port: port,
            fwmark: 0,
            peers: BTreeMap::from([(host, peer)]),
        };
        reach(&KernelTunnel::open(link)?, &config).await?;
        ip(&format!("addr add 10.{}.2.1/16 dev {link}", 40 + number))?;
        ip(&format!("link set {link} mtu 1420 up"))?;
    }
    let echo = UdpSocket::bind("10.40.2.1:7")?;
    thread::spawn(move || answer(&echo));
    say("ready");
    wait()?;
    let socket = UdpSocket::bind("10.41.2.1:0")?;
    let lost = echoes(&socket, "10.41.1.1:7".parse()?, REKEYED)?;
    ensure!(lost == 0, "{lost} packets are lost");
    Ok(())
}

async fn reach(tunnel: &KernelTunnel, config: &DeviceConfig) -> Result<()> {
    let changes = diff(config, &tunnel.status().await?, &BTreeMap::new());
    tunnel.apply(&changes).await?;
    let left = diff(config, &tunnel.status().await?, &BTreeMap::new());
    ensure!(left.is_empty(), "still to be done: {left:?}");
    Ok(())
}

async fn status_of(tunnel: &KernelTunnel, key: PublicKey) -> Result<PeerStatus> {
    tunnel
        .status()
        .await?
        .peers
        .remove(&key)
        .context("the host is a peer")
}

/// The session goes on: what was counted is counted on, and there was no other handshake.
fn undisturbed(before: &PeerStatus, now: &PeerStatus) -> Result<()> {
    ensure!(
        now.endpoint == before.endpoint
            && now.allowed_ips == before.allowed_ips
            && now.last_handshake == before.last_handshake
            && now.rx_bytes >= before.rx_bytes
            && now.tx_bytes >= before.tx_bytes,
        "{before:?} became {now:?}"
    );
    Ok(())
}

fn peer(ranges: &[&str]) -> Result<PeerConfig> {
    let allowed_ips = ranges
        .iter()
        .map(|range| range.parse())
        .collect::<Result<_, _>>()?;
    Ok(PeerConfig {
        allowed_ips,
        ..PeerConfig::default()
    })
}

/// Until the test says "go".
fn wait() -> Result<()> {
    let line = line()?;
    ensure!(line == "go", "the test said {line:?}");
    Ok(())
}

fn line() -> Result<String> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn start() -> Result<()> {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, place, kind, MountFlags::empty(), None).with_context(|| place.to_owned())?;
    }
    let mut modules: Vec<PathBuf> = fs::read_dir("/modules")
        .context("the guest's modules")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    modules.sort();
    for module in modules {
        let file = fs::File::open(&module)?;
        finit_module(&file, c"", 0).with_context(|| format!("load {}", module.display()))?;
    }
    // An address is good at once; nobody else is on the wire.
    fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").context("IPv6")?;
    ip("link set lo up")?;
    ip("addr add 198.51.100.50/24 dev eth0")?;
    ip("link set eth0 up")
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("/bin/busybox")
        .arg("ip")
        .args(arguments.split(' '))
        .output()
        .with_context(|| format!("ip {arguments}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {said}");
    Ok(())
}
