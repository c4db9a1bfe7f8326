//! The userspace engine as users of WireGuard's own tools meet it: `weft tunnel` in the place of
//! wireguard-go, driven by Debian's `wg` and `wg-quick`; and the agent's device, which they may look at.

mod device;
mod interop;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_tests::engine::Engine;
use weft_tests::lab::{Lab, LabNode, ensure, eventually, have, printed};
use weft_tests::lab_tests;

use device::{Device, pair, start};
use interop::{
    a_keepalive_is_sent_to_other_engines_and_taken_from_them,
    another_engine_that_asks_for_cookies_is_given_them,
    keys_are_changed_by_time_with_other_engines_and_no_packet_is_lost,
    other_engines_are_followed_and_follow, other_engines_exchange_packets_by_either_ends_handshake,
    packets_go_by_a_pre_shared_key_with_other_engines, under_load_other_engines_come_in_by_cookie,
};

lab_tests!(
    wg_configures_a_tunnel_and_reads_back_what_it_set,
    a_tunnel_that_wg_configures_carries_packets_and_changes_its_keys,
    a_change_that_is_refused_changes_nothing_and_says_why,
    a_tunnel_ends_with_its_link_and_its_socket_with_it,
    wg_quick_brings_a_tunnel_up_and_down,
    the_agents_device_is_shown_and_not_changed,
    other_engines_exchange_packets_by_either_ends_handshake,
    packets_go_by_a_pre_shared_key_with_other_engines,
    other_engines_are_followed_and_follow,
    a_keepalive_is_sent_to_other_engines_and_taken_from_them,
    under_load_other_engines_come_in_by_cookie,
    another_engine_that_asks_for_cookies_is_given_them;
    long: keys_are_changed_by_time_with_other_engines_and_no_packet_is_lost,
);

const SOON: Duration = Duration::from_secs(10);
const SOCKET: &str = "/var/run/wireguard/wg0.sock";

fn wg_configures_a_tunnel_and_reads_back_what_it_set() -> Result<()> {
    let lab = Lab::new()?;
    let a = Device::weft(&lab, "a")?;
    let mode = a.node.run(&["stat", "-c", "%a %U", SOCKET])?;
    ensure(mode.trim() == "600 root", format!("the socket is {mode}"))?;
    let other = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    let third = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
    a.wg("set wg0 listen-port 4711 fwmark 0x77")?;
    a.wg(&format!(
        "set wg0 peer {other} persistent-keepalive 25 endpoint [2001:db8::9]:51820 \
         allowed-ips 10.1.0.0/16,fd00:1::/64 peer {third} allowed-ips 10.2.0.0/16"
    ))?;
    ensure(a.shown("listen-port")? == "4711", "another port")?;
    ensure(a.shown("fwmark")? == "0x77", "another mark")?;
    let endpoints = a.shown("endpoints")?;
    ensure(endpoints.contains("[2001:db8::9]:51820"), &endpoints)?;
    let allowed = a.shown("allowed-ips")?;
    for line in [
        format!("{other}\t10.1.0.0/16 fd00:1::/64"),
        format!("{third}\t10.2.0.0/16"),
    ] {
        ensure(allowed.lines().any(|is| is == line), &allowed)?;
    }
    // A prefix goes to whoever asks for it last, and can be taken back alone.
    a.wg(&format!("set wg0 peer {third} allowed-ips 10.1.0.0/16"))?;
    let allowed = a.shown("allowed-ips")?;
    ensure(
        allowed
            .lines()
            .any(|is| is == format!("{other}\tfd00:1::/64")),
        &allowed,
    )?;
    let conf = a.wg("showconf wg0")?;
    for part in [
        "ListenPort = 4711",
        "PersistentKeepalive = 25",
        "FwMark = 0x77",
    ] {
        ensure(conf.contains(part), format!("no {part} in {conf}"))?;
    }
    // What it writes it reads: the same device comes back.
    a.configure("setconf", &conf)?;
    ensure(a.wg("showconf wg0")? == conf, "setconf changed something")?;
    a.wg(&format!("set wg0 peer {other} remove"))?;
    ensure(
        !a.shown("peers")?.contains(other),
        "a removed peer is there",
    )?;
    a.configure(
        "syncconf",
        &format!("[Interface]\nListenPort = 4711\n[Peer]\nPublicKey = {other}\n"),
    )?;
    ensure(a.shown("peers")? == other, "syncconf left another peer")
}

fn a_tunnel_that_wg_configures_carries_packets_and_changes_its_keys() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = pair(&lab)?;
    eventually("the first packet", SOON, || a.ping("10.9.0.2"))?;
    // The same pre-shared key at both ends, in whichever order: nothing is lost for long.
    let secret = a.wg("genpsk")?;
    for device in [&a, &b] {
        let file = device.node.machine().node().dir().join("psk");
        fs::write(&file, &secret)?;
        let peer = device.shown("peers")?;
        device.wg(&format!(
            "set wg0 peer {peer} preshared-key {}",
            file.display()
        ))?;
    }
    a.ping("10.9.0.2")
        .context("by the session that was there")?;
    ensure(
        a.shown("preshared-keys")?.contains(secret.trim()),
        "no pre-shared key",
    )?;
    let transfer = a.shown("transfer")?;
    let bytes: Vec<u64> = transfer
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    ensure(
        bytes.len() == 2 && bytes.iter().all(|bytes| *bytes > 300),
        transfer,
    )?;
    // A device without a key says and takes nothing; with it again, there is a new handshake, by the
    // pre-shared key.
    let before = a.shown("latest-handshakes")?;
    a.wg("set wg0 private-key /dev/null")?;
    ensure(a.shown("private-key")? == "(none)", "a key is left")?;
    ensure(a.ping("10.9.0.2").is_err(), "a packet without a key")?;
    let key = a.node.machine().node().dir().join("key");
    a.wg(&format!("set wg0 private-key {}", key.display()))?;
    eventually("a packet by a new session", SOON, || a.ping("10.9.0.2"))?;
    ensure(
        a.shown("latest-handshakes")? != before,
        "no new handshake is told",
    )
}

fn a_change_that_is_refused_changes_nothing_and_says_why() -> Result<()> {
    let lab = Lab::new()?;
    let a = Device::weft(&lab, "a")?;
    let before = a.wg("showconf wg0")?;
    let _taken = a
        .node
        .machine()
        .node()
        .netns()
        .run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:4712")))??;
    let said = a
        .wg("set wg0 listen-port 4712")
        .map_err(|error| format!("{error:#}"));
    let Err(said) = said else {
        bail!("a port was taken twice");
    };
    ensure(said.contains("Address already in use"), &said)?;
    ensure(
        a.wg("showconf wg0")? == before,
        "a refused change left something",
    )?;
    // A second one of the name, and one on a link that is something else.
    for (link, why) in [("wg0", "another process"), ("eth0", "no TUN")] {
        let said = a
            .node
            .weft(&["tunnel", link])
            .map_err(|error| format!("{error:#}"));
        let Err(said) = said else {
            bail!("{link} was taken twice");
        };
        ensure(said.contains(why), &said)?;
    }
    Ok(())
}

fn a_tunnel_ends_with_its_link_and_its_socket_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.node("a")?;
    // It returns once it can be configured, and goes on in the background.
    node.weft(&["tunnel", "wg0"])?;
    let _link = Link(&node);
    node.run(&["wg", "show", "wg0"])?;
    node.run(&["ip", "link", "delete", "wg0"])?;
    eventually("the socket is gone", SOON, || {
        ensure(node.run(&["ls", SOCKET]).is_err(), "it is there")
    })?;
    // What a killed one leaves is no hindrance.
    let mut killed = start(Engine::Weft, &node)?;
    killed.kill()?;
    let gone = || {
        ensure(
            node.run(&["ip", "link", "show", "wg0"]).is_err(),
            "it is there",
        )
    };
    eventually("the link is gone", SOON, gone)?;
    ensure(node.run(&["ls", SOCKET]).is_ok(), "nothing was left")?;
    let mut stopped = start(Engine::Weft, &node)?;
    stopped.stop(SOON)?;
    gone()?;
    ensure(node.run(&["ls", SOCKET]).is_err(), "the socket is left")
}

fn wg_quick_brings_a_tunnel_up_and_down() -> Result<()> {
    have("wg-quick")?;
    let lab = Lab::new()?;
    let b = Device::weft(&lab, "b")?;
    let node = lab.node("a")?;
    let dir = node.machine().node().dir().to_owned();
    symlink(std::env::current_exe()?, dir.join("weft-tunnel"))?;
    let private = node.run(&["wg", "genkey"])?;
    let conf = dir.join("wg0.conf");
    fs::write(
        &conf,
        format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24\nListenPort = 4711\n\
             [Peer]\nPublicKey = {}\nEndpoint = {}:{}\nAllowedIPs = 10.9.0.2/32\n",
            private.trim(),
            b.public,
            b.node.v4(),
            b.shown("listen-port")?,
        ),
    )?;
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o600))?;
    let quick = |verb: &str| -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = node.command("wg-quick");
        command
            .arg(verb)
            .arg(&conf)
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", "weft-tunnel")
            .env("PATH", format!("{}:/usr/sbin:/sbin:{path}", dir.display()));
        printed(&mut command, &["wg-quick", verb]).map(drop)
    };
    quick("up")?;
    let _link = Link(&node);
    let public = node.run(&["wg", "show", "wg0", "public-key"])?;
    b.wg(&format!(
        "set wg0 peer {} allowed-ips 10.9.0.1/32",
        public.trim()
    ))?;
    b.ip("addr add 10.9.0.2/24 dev wg0")?;
    b.ip("link set wg0 up")?;
    eventually("a packet", SOON, || {
        node.run(&["ping", "-q", "-c", "1", "-W", "1", "10.9.0.2"])
            .map(drop)
    })?;
    quick("down")?;
    ensure(
        node.run(&["ip", "link", "show", "wg0"]).is_err(),
        "the link is left",
    )
}

fn the_agents_device_is_shown_and_not_changed() -> Result<()> {
    have("wg")?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    let [a, b] = &nodes[..] else {
        bail!("two nodes");
    };
    a.wait_established(1, SOON)?;
    let keys = [a, b].map(|node| node.run(&["wg", "show", "weft0", "public-key"]));
    let [_, key] = keys;
    let key = key?;
    let dump = a.run(&["wg", "show", "weft0", "dump"])?;
    let peer = dump.lines().nth(1).context("no peer")?;
    let fields: Vec<&str> = peer.split('\t').collect();
    ensure(fields[0] == key.trim(), &dump)?;
    ensure(fields[2] == format!("{}:6783", b.v4()), &dump)?;
    ensure(
        fields[4] != "0" && fields[5] != "0" && fields[6] != "0",
        &dump,
    )?;
    let said = a.run(&["wg", "set", "weft0", "peer", key.trim(), "remove"]);
    let said = format!("{:#}", said.err().context("the agent's peer was removed")?);
    ensure(said.contains("Operation not permitted"), &said)?;
    a.wait_established(1, SOON)
}

/// The link of an engine in the background, which ends with it.
struct Link<'a>(&'a LabNode);

impl Drop for Link<'_> {
    fn drop(&mut self) {
        // The test may have deleted it.
        let _ = self.0.run(&["ip", "link", "delete", "wg0"]);
    }
}
