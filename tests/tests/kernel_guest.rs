//! The kernel's WireGuard, in a guest that has it, against a userspace node outside. The guest's
//! half is `src/bin/weft-guest.rs`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use weft_mesh::device::{DeviceConfig, DeviceStatus, PeerConfig};
use weft_mesh::diff::diff;
use weft_mesh::tunnel::Tunnel;
use weft_mesh::tunnel::userspace::UserspaceTunnel;
use weft_mesh::{PrivateKey, PublicKey};
use weft_tests::guest::{Guest, REKEYED, answer, echoes};
use weft_tests::lab::have;
use weft_tests::lab_tests;

lab_tests!(
    the_kernels_device_is_driven_and_adopted_and_talks_to_userspace;
    long: the_kernel_and_ours_change_keys_by_time_and_lose_no_packet,
);

/// A guest without hardware help boots in 5 to 40 s.
const BOOT: Duration = Duration::from_secs(90);
const STEP: Duration = Duration::from_secs(20);

fn the_kernels_device_is_driven_and_adopted_and_talks_to_userspace() -> Result<()> {
    let mut guest = boot()?;
    let host = Host::start()?;

    guest.wait("up", BOOT)?;
    guest.tell("drive")?;
    guest.wait("conforms", STEP)?;
    guest.wait("ready", STEP)?;
    let socket = |address: &str| -> Result<UdpSocket> {
        let socket = UdpSocket::bind(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    };
    let v4 = (socket("10.32.1.1:0")?, "10.32.2.1:7".parse()?);
    let v6 = (socket("[fd00:32:1::1]:0")?, "[fd00:32:2::1]:7".parse()?);
    for (socket, to) in [&v4, &v6] {
        for _ in 0..5 {
            echo(socket, *to, 5)?;
        }
    }
    let handshake = host.handshake()?;
    guest.go()?;

    guest.wait("changed", STEP)?;
    echo(&v4.0, v4.1, 1)?;
    guest.go()?;

    guest.wait("adopted", STEP)?;
    for (socket, to) in [&v4, &v6] {
        echo(socket, *to, 1)?;
    }
    ensure!(
        host.handshake()? == handshake,
        "the session had to be made anew"
    );
    ensure!(host.lost()?.is_empty(), "dropped: {:?}", host.lost()?);
    guest.go()?;
    guest.wait("done", STEP)
}

/// One session that we begin and one that the kernel begins: who began it changes its keys.
fn the_kernel_and_ours_change_keys_by_time_and_lose_no_packet() -> Result<()> {
    let mut guest = boot()?;
    let (ours, theirs) = (Host::old(0)?, Host::old(1)?);
    let answers = UdpSocket::bind("10.41.1.1:7")?;
    thread::spawn(move || answer(&answers));
    guest.wait("up", BOOT)?;
    guest.tell("rekey")?;
    guest.wait("ready", STEP)?;
    guest.go()?;
    let socket = UdpSocket::bind("10.40.1.1:0")?;
    let to = "10.40.2.1:7".parse()?;
    let began = SystemTime::now();
    let lost = echoes(&socket, to, REKEYED)?;
    ensure!(lost == 0, "{lost} packets are lost");
    guest.wait("done", STEP)?;
    for host in [&ours, &theirs] {
        let age = host.handshake()?.duration_since(began)?;
        ensure!(
            age >= Duration::from_secs(100),
            "no other handshake since {age:?}"
        );
        ensure!(host.lost()?.is_empty(), "dropped: {:?}", host.lost()?);
    }
    Ok(())
}

/// A guest on a wire of its own, whose other end has 198.51.100.1.
fn boot() -> Result<Guest> {
    have("ip")?;
    ip("tuntap add dev tapq mode tap")?;
    ip("addr add 198.51.100.1/24 dev tapq")?;
    ip("link set tapq up")?;
    Guest::boot(Path::new(env!("CARGO_BIN_EXE_weft-guest")), "tapq")
}

/// The node outside: a userspace tunnel in the test's own namespace.
struct Host {
    tunnel: UserspaceTunnel,
    runtime: tokio::runtime::Runtime,
    guest: PublicKey,
}

impl Host {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let tunnel = UserspaceTunnel::open("weft0")?;
        let guest = PrivateKey::from_bytes([2; 32]).public_key();
        let peer = PeerConfig {
            endpoint: Some("198.51.100.50:6783".parse()?),
            allowed_ips: ["10.32.2.0/24".parse()?, "fd00:32:2::/48".parse()?].into(),
            ..PeerConfig::default()
        };
        let config = DeviceConfig {
            private_key: PrivateKey::from_bytes([1; 32]),
            listen_port: 6783,
            fwmark: 0,
            peers: BTreeMap::from([(guest, peer)]),
        };
        let changes = diff(&config, &DeviceStatus::default(), &BTreeMap::new());
        runtime.block_on(tunnel.apply(&changes))?;
        ip("addr add 10.32.1.1/12 dev weft0")?;
        ip("addr add fd00:32:1::1/32 dev weft0 nodad")?;
        ip("link set weft0 mtu 1420 up")?;
        Ok(Self {
            tunnel,
            runtime,
            guest,
        })
    }

    /// One of two for sessions that grow old: the first begins, the second is spoken to.
    fn old(number: u8) -> Result<Self> {
        let link = format!("weft{number}");
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let tunnel = UserspaceTunnel::open(&link)?;
        let guest = PrivateKey::from_bytes([2 + 4 * number; 32]).public_key();
        let endpoint = (number == 0).then(|| ([198, 51, 100, 50], 6783).into());
        let peer = PeerConfig {
            endpoint,
            allowed_ips: [format!("10.{}.2.0/24", 40 + number).parse()?].into(),
            ..PeerConfig::default()
        };
        let config = DeviceConfig {
            private_key: PrivateKey::from_bytes([1 + 4 * number; 32]),
            listen_port: 6783 + u16::from(number),
            fwmark: 0,
            peers: BTreeMap::from([(guest, peer)]),
        };
        let changes = diff(&config, &DeviceStatus::default(), &BTreeMap::new());
        runtime.block_on(tunnel.apply(&changes))?;
        ip(&format!("addr add 10.{}.1.1/16 dev {link}", 40 + number))?;
        ip(&format!("link set {link} mtu 1420 up"))?;
        Ok(Self {
            tunnel,
            runtime,
            guest,
        })
    }

    fn status(&self) -> Result<DeviceStatus> {
        Ok(self.runtime.block_on(self.tunnel.status())?)
    }

    fn handshake(&self) -> Result<SystemTime> {
        self.status()?.peers[&self.guest]
            .last_handshake
            .context("a handshake")
    }

    /// What was dropped after the guest was there.
    fn lost(&self) -> Result<BTreeMap<&'static str, u64>> {
        let mut drops = self.status()?.drops;
        drops.retain(|reason, _| !matches!(*reason, "multicast" | "udp_send"));
        Ok(drops)
    }
}

/// One packet there and back, tried at most so often.
fn echo(socket: &UdpSocket, to: SocketAddr, tries: u32) -> Result<()> {
    let sent = [0x5a; 600];
    let mut buffer = [0; 2048];
    for _ in 0..tries {
        socket.send_to(&sent, to)?;
        if let Ok((len, source)) = socket.recv_from(&mut buffer) {
            ensure!(
                source == to && buffer[..len] == sent,
                "another answer, from {source}"
            );
            return Ok(());
        }
    }
    bail!("no answer from {to}")
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {said}");
    Ok(())
}
