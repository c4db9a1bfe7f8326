//! Nothing of the pool in the clear: neither out of a node nor into it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_router::demo::net::{NetError, Netns};
use weft_tests::lab::{LabNode, all_sealed, ensure, eventually};

use super::support::{SOON, Two, netns, our_routes, our_table, ping, pod_ranges};

/// Sends datagrams from inside `netns` to `targets`, again and again, until dropped.
struct Sending {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sending {
    fn start(netns: &Netns, targets: Vec<SocketAddr>) -> Result<Self> {
        let socket = |any: &'static str| {
            netns.run(move || {
                UdpSocket::bind(any).map_err(|source| NetError::Io {
                    act: format!("bind {any}"),
                    source,
                })
            })
        };
        let (v4, v6) = (socket("0.0.0.0:0")?, socket("[::]:0")?);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                for target in &targets {
                    let socket = if target.is_ipv4() { &v4 } else { &v6 };
                    // Refused is as good as sent: nothing went out.
                    let _ = socket.send_to(b"a secret of the pool", target);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn no_packet_of_the_pool_is_ever_in_the_clear() -> Result<()> {
    let mut two = Two::new()?;
    let capture = two.lab.capture(&[b"a secret of the pool"])?;
    let mut targets: Vec<SocketAddr> = two.pods[1]
        .addresses()
        .into_iter()
        .map(|address| (address, 9).into())
        .collect();
    // Nobody has these.
    targets.push(("10.47.255.9".parse::<IpAddr>()?, 9).into());
    let IpAddr::V6(ula) = two.pods[1].v6()? else {
        bail!("no IPv6 address");
    };
    let mut octets = ula.octets();
    octets[6..8].fill(0xff);
    targets.push((IpAddr::from(octets), 9).into());
    let from_pod = Sending::start(two.pods[0].netns(), targets.clone())?;
    let from_host = Sending::start(netns(&two.nodes[0]), targets)?;
    let [v4, v6] = pod_ranges(&two.nodes[1])?;
    let acts: [&[&str]; 6] = [
        &["ip", "route", "del", &v4],
        &["ip", "-6", "route", "del", &v6],
        &["nft", "flush", "table", "inet", "weft"],
        &["ip", "route", "flush", "proto", "119"],
        &["nft", "delete", "table", "inet", "weft"],
        &["ip", "link", "del", "weft0"],
    ];
    let reached = |two: &Two| two.pods[0].ping(two.pods[1].v4()?);
    let (routes, table) = (our_routes(&two.nodes[0])?, our_table(&two.nodes[0])?);
    for words in acts {
        two.nodes[0].run(words)?;
        // One layer holds while the other is mended, so they are taken one after the other.
        eventually("everything is back", SOON, || {
            let now = (our_routes(&two.nodes[0])?, our_table(&two.nodes[0])?);
            ensure(now.0 == routes && now.1 == table, format!("{now:?}"))?;
            reached(&two)
        })
        .with_context(|| format!("{}\n{}", words.join(" "), two.nodes[0].said()))?;
        all_sealed(&capture.counts()).with_context(|| words.join(" "))?;
    }
    two.nodes[0].kill()?;
    // Without an agent each layer alone still holds.
    for words in [
        ["ip", "route", "del", &v4].as_slice(),
        &["ip", "-6", "route", "del", &v6],
        &["nft", "delete", "table", "inet", "weft"],
        &["ip", "link", "del", "weft0"],
    ] {
        two.nodes[0].run(words)?;
        // Some hundred datagrams go by while this one waits for its answer.
        ensure(
            reached(&two).is_err(),
            "a ping is answered without a tunnel",
        )?;
        all_sealed(&capture.counts()).with_context(|| words.join(" "))?;
    }
    drop((from_pod, from_host));
    two.nodes[0].up(&[])?;
    two.nodes[0].wait_established(1, SOON)?;
    eventually("the pods reach each other again", SOON, || reached(&two))?;
    all_sealed(&capture.counts())
}

pub(crate) fn a_forged_packet_from_the_underlay_is_dropped_and_counted() -> Result<()> {
    let two = Two::new()?;
    let forger = two.lab.node("forger")?;
    let [a, _] = &two.nodes;
    let (to4, to6) = (two.pods[0].v4()?, two.pods[0].v6()?);
    let (as4, as6) = (two.pods[1].v4()?, two.pods[1].v6()?);
    for (address, via, from) in [
        (to4, IpAddr::from(a.v4()), as4),
        (to6, IpAddr::from(a.v6()?), as6),
    ] {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        forger.run(&[
            "ip",
            "address",
            "add",
            &from.to_string(),
            "dev",
            "lo",
            "nodad",
        ])?;
        forger.run(&[
            "ip",
            family,
            "route",
            "add",
            &address.to_string(),
            "via",
            &via.to_string(),
            "src",
            &from.to_string(),
        ])?;
        let listening = two.pods[0].netns().run(move || {
            UdpSocket::bind((address, 9)).map_err(|source| NetError::Io {
                act: "bind".into(),
                source,
            })
        })?;
        listening.set_nonblocking(true)?;
        let sender = netns(&forger).run(move || {
            UdpSocket::bind((from, 0)).map_err(|source| NetError::Io {
                act: "bind".into(),
                source,
            })
        })?;
        let before = dropped(a)?;
        for _ in 0..5 {
            sender.send_to(b"forged", (address, 9))?;
        }
        eventually("the forged packets are counted", SOON, || {
            let now = dropped(a)?;
            ensure(now >= before + 5, format!("{now} dropped, {before} before"))
        })?;
        ensure(
            listening.recv(&mut [0; 16]).is_err(),
            "a forged packet reached the pod",
        )?;
    }
    Ok(())
}

/// Somebody on the underlay who routes to a pod by its node, as a curious neighbour may.
pub(crate) fn a_neighbour_outside_of_the_mesh_cannot_reach_a_pod() -> Result<()> {
    let two = Two::new()?;
    let neighbour = two.lab.node("neighbour")?;
    let [a, _] = &two.nodes;
    for (pod, via) in [
        (two.pods[0].v4()?, IpAddr::from(a.v4())),
        (two.pods[0].v6()?, IpAddr::from(a.v6()?)),
    ] {
        let family = if pod.is_ipv4() { "-4" } else { "-6" };
        let (pod_text, via) = (pod.to_string(), via.to_string());
        neighbour.run(&["ip", family, "route", "add", &pod_text, "via", &via])?;
        let before = dropped(a)?;
        ensure(ping(&neighbour, pod).is_err(), "a pod answers in the clear")?;
        eventually("the packet is counted", SOON, || {
            let now = dropped(a)?;
            ensure(now > before, format!("{now} dropped, {before} before"))
        })?;
    }
    Ok(())
}

/// Packets of the mesh's ranges that came in the clear, as our table counts them.
fn dropped(node: &LabNode) -> Result<u64> {
    let status = node.status()?;
    let firewall = status["engine"]["drops"]["arrived_in_the_clear"].as_u64();
    Ok(firewall.unwrap_or(0))
}
