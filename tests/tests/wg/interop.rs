//! Ours against other engines: wireguard-go and boringtun-cli, either end first.

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_tests::engine::{Engine, initiations};
use weft_tests::lab::{Lab, ensure, eventually};

use super::SOON;
use super::device::{Device, meet};

const OTHERS: [Engine; 2] = [Engine::WireguardGo, Engine::Boringtun];
/// The type of a cookie reply, and its length.
const COOKIE_REPLY: (u8, usize) = (3, 64);

/// One of ours, `10.9.0.1`, and another's, `10.9.0.2`; `tag` tells it from others of one lab.
fn pair(lab: &Lab, other: Engine, tag: &str) -> Result<(Device, Device)> {
    let name = |end: &str| format!("{end}{tag}{other:?}").to_lowercase();
    let ours = Device::weft(lab, &name("w"))?;
    let other = Device::new(lab, &name("o"), other)?;
    meet(&ours, &other)?;
    Ok((ours, other))
}

/// The two of a pair, each with where it finds the other: who begins, and who is spoken to.
fn ends(pair: &(Device, Device), ours_is_first: bool) -> [(&Device, &str); 2] {
    let (ours, other) = ((&pair.0, "10.9.0.2"), (&pair.1, "10.9.0.1"));
    match ours_is_first {
        true => [ours, other],
        false => [other, ours],
    }
}

fn handshake(device: &Device) -> Result<u64> {
    let said = device.shown("latest-handshakes")?;
    let time = said.split_whitespace().nth(1).context("no peer")?;
    Ok(time.parse()?)
}

pub(super) fn other_engines_exchange_packets_by_either_ends_handshake() -> Result<()> {
    let lab = Lab::new()?;
    for other in OTHERS {
        for ours_is_first in [true, false] {
            let pair = pair(&lab, other, &ours_is_first.to_string())?;
            let [first, second] = ends(&pair, ours_is_first);
            eventually("the first one's packet", SOON, || first.0.ping(first.1))?;
            second.0.ping(second.1).context("the second one's")?;
            ensure(handshake(&pair.0)? > 0, "no handshake is told")?;
            // As large as goes, and one byte more, in fragments.
            for size in ["1392", "1393", "8000"] {
                for (device, to) in [first, second] {
                    let ping = ["ping", "-q", "-c", "1", "-W", "1", "-s", size, to];
                    device
                        .node
                        .run(&ping)
                        .with_context(|| format!("{size} bytes"))?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn packets_go_by_a_pre_shared_key_with_other_engines() -> Result<()> {
    let lab = Lab::new()?;
    for other in OTHERS {
        let (ours, other) = pair(&lab, other, "-")?;
        let secret = ours.wg("genpsk")?;
        let words = |device: &Device| -> Result<String> {
            let file = device.node.machine().node().dir().join("psk");
            std::fs::write(&file, &secret)?;
            Ok(format!(" preshared-key {}", file.display()))
        };
        // At one end alone there is no session.
        ours.set_peer(&other, "10.9.0.2/32", &words(&ours)?)?;
        ensure(ours.ping("10.9.0.2").is_err(), "a packet without the key")?;
        other.set_peer(&ours, "10.9.0.1/32", &words(&other)?)?;
        eventually("a packet by the key", SOON, || ours.ping("10.9.0.2"))?;
    }
    Ok(())
}

pub(super) fn other_engines_are_followed_and_follow() -> Result<()> {
    let lab = Lab::new()?;
    for (number, other_is) in (0..).zip(OTHERS) {
        let (ours, other) = pair(&lab, other_is, "-")?;
        eventually("the first packet", SOON, || ours.ping("10.9.0.2"))?;
        // boringtun-cli does not outlive a change of its own address: its sockets are bound to that.
        let movers = match other_is {
            Engine::Boringtun => 1,
            _ => 2,
        };
        let ends = [
            (&ours, &other, "10.9.0.2", 200),
            (&other, &ours, "10.9.0.1", 210),
        ];
        for (moves, stays, to, host) in ends.into_iter().take(movers) {
            let address = format!("198.18.1.{}", host + number);
            let (old, link) = (moves.node.v4(), "eth0");
            // The other way round, the second would go with the first.
            moves.ip(&format!("addr del {old}/16 dev {link}"))?;
            moves.ip(&format!("addr add {address}/16 dev {link}"))?;
            eventually("a packet from the new address", SOON, || moves.ping(to))?;
            let endpoints = stays.shown("endpoints")?;
            ensure(
                endpoints.contains(&address),
                format!("{endpoints} is not {address}"),
            )?;
        }
    }
    Ok(())
}

pub(super) fn a_keepalive_is_sent_to_other_engines_and_taken_from_them() -> Result<()> {
    let lab = Lab::new()?;
    for other_is in OTHERS {
        let (ours, other) = pair(&lab, other_is, "-")?;
        let ends = [
            (&ours, &other, "10.9.0.2/32", "10.9.0.1/32"),
            (&other, &ours, "10.9.0.1/32", "10.9.0.2/32"),
        ];
        for (sends, takes, there, here) in ends {
            takes.set_peer(sends, here, "")?;
            sends.set_peer(takes, there, " persistent-keepalive 1")?;
            if sends.public != ours.public {
                // boringtun-cli waits for a first packet; ours makes the session for the keepalive.
                let to = there.trim_end_matches("/32");
                eventually("the first packet", SOON, || sends.ping(to))?;
            }
            // boringtun-cli counts no keepalives, so there it is seen that they are sent.
            let (counts, column) =
                match takes.public == other.public && other_is == Engine::Boringtun {
                    true => (sends, 2),
                    false => (takes, 1),
                };
            let received = || -> Result<u64> {
                let said = counts.shown("transfer")?;
                let bytes = said.split_whitespace().nth(column);
                Ok(bytes.context("no peer")?.parse()?)
            };
            eventually("the first is taken", SOON, || {
                ensure(received()? > 0, "nothing came")
            })?;
            let before = received()?;
            eventually("three more", SOON, || {
                ensure(received()? >= before + 3 * 32, "fewer came")
            })?;
            sends.set_peer(takes, there, "")?;
        }
    }
    Ok(())
}

/// Initiations of nobody, with a right first MAC, to a device; until dropped.
struct Flood(Arc<Told>);

#[derive(Default)]
struct Told {
    ended: AtomicBool,
    /// Cookie replies that came.
    cookies: AtomicU64,
}

impl Flood {
    fn start(socket: UdpSocket, to: SocketAddr, key: &str) -> Result<Self> {
        let initiations = initiations(key, 200)?;
        socket.set_nonblocking(true)?;
        let told = Arc::new(Told::default());
        let seen = Arc::clone(&told);
        thread::spawn(move || {
            let mut answer = [0_u8; 256];
            while !seen.ended.load(Relaxed) {
                for initiation in &initiations {
                    // What does not fit the queue is not sent.
                    let _ = socket.send_to(initiation, to);
                }
                while let Ok(len) = socket.recv(&mut answer) {
                    let is_cookie = (answer[0], len) == COOKIE_REPLY;
                    seen.cookies.fetch_add(is_cookie.into(), Relaxed);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        Ok(Self(told))
    }

    fn cookies(&self) -> u64 {
        self.0.cookies.load(Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}

/// `comes` gets a session with `under_load`, which demands cookies of everybody.
fn comes_in(lab: &Lab, name: &str, comes: (&Device, &str), under_load: &Device) -> Result<()> {
    let attacker = lab.node(name)?;
    let socket = attacker
        .machine()
        .node()
        .netns()
        .run(|| Ok(UdpSocket::bind("0.0.0.0:0")))??;
    let port: u16 = under_load.shown("listen-port")?.parse()?;
    let to = SocketAddr::from((under_load.node.v4(), port));
    let flood = Flood::start(socket, to, &under_load.public)?;
    eventually("cookies are demanded", SOON, || {
        ensure(flood.cookies() > 0, "no cookie reply came")
    })?;
    eventually("a packet under load", SOON * 2, || comes.0.ping(comes.1))?;
    let before = flood.cookies();
    eventually("it is under load to the end", SOON, || {
        ensure(flood.cookies() > before, "no cookie reply came")
    })
}

/// The first of each pair comes in, and the second is under load.
fn come_in(ours_is_first: bool) -> Result<()> {
    let lab = Lab::new()?;
    for other in OTHERS {
        let pair = pair(&lab, other, "-")?;
        let [comes, under_load] = ends(&pair, ours_is_first);
        let name = format!("x-{other:?}").to_lowercase();
        comes_in(&lab, &name, comes, under_load.0)?;
    }
    Ok(())
}

pub(super) fn under_load_other_engines_come_in_by_cookie() -> Result<()> {
    come_in(false)
}

pub(super) fn another_engine_that_asks_for_cookies_is_given_them() -> Result<()> {
    come_in(true)
}

/// The paper's REKEY_AFTER_TIME is 120 s; at 20 packets a second, a little longer than that.
const PACKETS: &str = "2520";

pub(super) fn keys_are_changed_by_time_with_other_engines_and_no_packet_is_lost() -> Result<()> {
    let lab = Lab::new()?;
    let mut pairs = Vec::new();
    for other in OTHERS {
        for ours_is_first in [true, false] {
            let pair = pair(&lab, other, &ours_is_first.to_string())?;
            pairs.push((pair, ours_is_first));
        }
    }
    let mut pings = Vec::new();
    for (pair, ours_is_first) in &pairs {
        // Who begins is who changes the keys.
        let [(first, to), _] = ends(pair, *ours_is_first);
        eventually("the first packet", SOON, || first.ping(to))?;
        let ours = &pair.0;
        let before = handshake(ours)?;
        let mut ping = first.node.machine().node().command("ping");
        let ping = ping
            .args(["-q", "-c", PACKETS, "-i", "0.05", "-W", "2", to])
            .stdout(Stdio::piped())
            .spawn()?;
        pings.push((ours, before, ping));
    }
    for (ours, before, ping) in pings {
        let said = ping.wait_with_output()?;
        let said = String::from_utf8_lossy(&said.stdout);
        ensure(said.contains(", 0% packet loss"), &said)?;
        let after = handshake(ours)?;
        ensure(
            after >= before + 100,
            format!("no other handshake: {before}, {after}"),
        )?;
    }
    Ok(())
}
