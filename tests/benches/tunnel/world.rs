//! Two ends: namespaces on one veth pair, an engine on each.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_router::demo::net::{Netns, Node, Process};
use weft_tests::engine::make_key;
use weft_tests::lab::{eventually, printed};
use weft_tests::usage;

use super::contestant::{Contestant, PORT, configure};

const PATIENCE: Duration = Duration::from_secs(20);

/// One end, and what it runs.
pub(super) struct End {
    pub(super) node: Node,
    /// Where it is reached through the tunnel.
    pub(super) address: Ipv4Addr,
    /// Who speaks, where it is not the host itself.
    pod: Option<Netns>,
    engine: Option<Process>,
}

impl End {
    /// The namespace of who speaks.
    fn netns(&self) -> &Netns {
        self.pod.as_ref().unwrap_or(self.node.netns())
    }

    /// Makes something there, a socket.
    pub(super) fn within<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        Ok(self.netns().run(|| Ok(make()))??)
    }

    /// What a command printed there; its words stand apart by blanks.
    pub(super) fn run(&self, words: &str) -> Result<String> {
        run_in(&self.node, self.netns(), words)
    }

    /// From now on a pod speaks instead of the host, on a veth pair as the CNI plugin makes it.
    fn put_pod(&mut self, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
        let pod = Netns::new(&format!("{}pod", self.node.name()))?;
        let there = pod.path().display();
        for words in [
            format!("ip link add pod0 mtu 1420 type veth peer name eth0 mtu 1420 netns {there}"),
            format!("ip addr add {gateway}/24 dev pod0"),
            "ip link set pod0 up".to_owned(),
        ] {
            run(&self.node, &words)?;
        }
        self.node.netns().sysctl("ipv4/ip_forward", "1")?;
        for words in [
            "ip link set lo up".to_owned(),
            format!("ip addr add {address}/24 dev eth0"),
            "ip link set eth0 up".to_owned(),
            format!("ip route add default via {gateway}"),
        ] {
            run_in(&self.node, &pod, &words)?;
        }
        self.pod = Some(pod);
        self.address = address;
        Ok(())
    }
}

/// A contestant between its two ends.
pub(super) struct Pair {
    pub(super) contestant: Contestant,
    pub(super) ends: [End; 2],
}

impl Pair {
    pub(super) fn new(
        contestant: Contestant,
        number: u8,
        base: &Path,
        tools: &Path,
    ) -> Result<Self> {
        let name = |end: &str| format!("t{number}{end}");
        let nodes = [Node::new(base, &name("a"))?, Node::new(base, &name("b"))?];
        let outer = [1, 2].map(|host| Ipv4Addr::new(198, 18, number, host));
        let inner = match contestant {
            Contestant::Veth => outer,
            _ => [1, 2].map(|host| Ipv4Addr::new(10, 9, number, host)),
        };
        let other = nodes[1].netns().path().display();
        run(
            &nodes[0],
            &format!("ip link add eth0 mtu 1500 type veth peer name eth0 mtu 1500 netns {other}"),
        )?;
        for (node, address) in nodes.iter().zip(outer) {
            run(node, "ip link set lo up")?;
            run(node, &format!("ip addr add {address}/24 dev eth0"))?;
            run(node, "ip link set eth0 up")?;
        }
        let mut engines = [None, None];
        for (own, other) in [(0, 1), (1, 0)] {
            let inner = (inner[own], inner[other]);
            engines[own] = contestant.start(&nodes[own], tools, inner, outer[other])?;
        }
        let link = contestant.link();
        for node in &nodes {
            eventually("the engine has its link", PATIENCE, || {
                run(node, &format!("ip link show {link}"))
            })
            .with_context(|| said(node))?;
        }
        if contestant.is_wireguard() {
            for node in &nodes {
                eventually("the engine answers wg", PATIENCE, || {
                    run(node, "wg show wg0")
                })
                .with_context(|| said(node))?;
            }
            configure([&nodes[0], &nodes[1]], inner, outer)?;
            for (node, address) in nodes.iter().zip(inner) {
                run(node, &format!("ip addr add {address}/24 dev {link}"))?;
                run(node, &format!("ip link set {link} mtu 1420 up"))?;
            }
        }
        let [a, b] = nodes;
        let [engine_a, engine_b] = engines;
        let pair = Self {
            contestant,
            ends: [
                End {
                    node: a,
                    address: inner[0],
                    pod: None,
                    engine: engine_a,
                },
                End {
                    node: b,
                    address: inner[1],
                    pod: None,
                    engine: engine_b,
                },
            ],
        };
        let ping = format!("ping -q -c 1 -W 1 {}", inner[1]);
        eventually("the ends reach one another", PATIENCE, || {
            run(&pair.ends[0].node, &ping)
        })
        .with_context(|| format!("{}: {}", contestant.name(), said(&pair.ends[0].node)))?;
        Ok(pair)
    }

    /// A third one, which is a peer of the first end alone, by a veth pair of its own.
    pub(super) fn third(&self, number: u8, base: &Path, tools: &Path) -> Result<Third> {
        let first = &self.ends[0];
        let node = Node::new(base, &format!("t{number}c"))?;
        let there = node.netns().path().display();
        let [outer, outer_of_first] = [2, 1].map(|host| Ipv4Addr::new(198, 19, number, host));
        let inner = Ipv4Addr::new(10, 9, number, 3);
        for (on, words) in [
            (
                &first.node,
                format!(
                    "ip link add eth1 mtu 1500 type veth peer name eth0 mtu 1500 netns {there}"
                ),
            ),
            (
                &first.node,
                format!("ip addr add {outer_of_first}/24 dev eth1"),
            ),
            (&first.node, "ip link set eth1 up".to_owned()),
            (&node, "ip link set lo up".to_owned()),
            (&node, format!("ip addr add {outer}/24 dev eth0")),
            (&node, "ip link set eth0 up".to_owned()),
        ] {
            run(on, &words)?;
        }
        let engine = self
            .contestant
            .start(&node, tools, (inner, first.address), outer_of_first)?;
        eventually("the engine answers wg", PATIENCE, || {
            run(&node, "wg show wg0")
        })
        .with_context(|| said(&node))?;
        let own = make_key(&node)?;
        let key = run(&first.node, "wg show wg0 public-key")?;
        for (on, words) in [
            (
                &first.node,
                format!("wg set wg0 peer {own} allowed-ips {inner}/32"),
            ),
            (
                &node,
                format!(
                    "wg set wg0 peer {} endpoint {outer_of_first}:{PORT} allowed-ips {}/32",
                    key.trim(),
                    first.address
                ),
            ),
            (&node, format!("ip addr add {inner}/24 dev wg0")),
            (&node, "ip link set wg0 mtu 1420 up".to_owned()),
        ] {
            run(on, &words)?;
        }
        let end = End {
            node,
            address: inner,
            pod: None,
            engine,
        };
        let third = Third {
            end,
            outer,
            outer_of_first,
        };
        let ping = format!("ping -q -c 1 -W 1 {}", first.address);
        eventually("the third reaches the first", PATIENCE, || {
            third.end.run(&ping)
        })?;
        Ok(third)
    }

    /// Gives both ends a pod each, which speak from now on.
    pub(super) fn put_pods(&mut self, number: u8) -> Result<()> {
        let pod = |end: u8| Ipv4Addr::new(10, 10 + end, number, 2);
        for (own, other) in [(0, 1), (1, 0)] {
            let peer = run(&self.ends[own].node, "wg show wg0 peers")?;
            let range = format!("10.{}.{number}.0/24", 10 + other);
            for words in [
                format!(
                    "wg set wg0 peer {} allowed-ips {}/32,{range}",
                    peer.trim(),
                    self.ends[other].address
                ),
                format!("ip route add {range} dev wg0"),
            ] {
                run(&self.ends[own].node, &words)?;
            }
        }
        for (end, own) in self.ends.iter_mut().zip(0..) {
            let gateway = Ipv4Addr::new(10, 10 + own, number, 1);
            end.put_pod(pod(own), gateway)?;
        }
        let ping = format!("ping -q -c 1 -W 1 {}", self.ends[1].address);
        eventually("the pods reach one another", PATIENCE, || {
            self.ends[0].run(&ping)
        })
        .map(drop)
    }

    /// Gives both engines so many peers more, none of which there is.
    pub(super) fn add_peers(&self, count: u16) -> Result<()> {
        let mut text = String::new();
        for number in 0..count {
            let mut key = [7_u8; 32];
            key[..2].copy_from_slice(&number.to_be_bytes());
            let key = data_encoding::BASE64.encode(&key);
            let [high, low] = number.to_be_bytes();
            let line = format!("[Peer]\nPublicKey = {key}\nAllowedIPs = 10.200.{high}.{low}/32\n");
            text.push_str(&line);
        }
        for end in &self.ends {
            let file = end.node.dir().join("peers");
            std::fs::write(&file, &text)?;
            run(&end.node, &format!("wg addconf wg0 {}", file.display()))?;
        }
        Ok(())
    }

    /// What the engines of both ends have used of the processors.
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.engines().map(usage::cpu).sum()
    }

    /// The larger of the two ends' resident memory, in bytes.
    pub(super) fn resident(&self) -> Result<u64> {
        let all: Result<Vec<u64>> = self.engines().map(usage::resident).collect();
        Ok(all?.into_iter().max().unwrap_or_default())
    }

    fn engines(&self) -> impl Iterator<Item = u32> {
        self.ends
            .iter()
            .flat_map(|end| &end.engine)
            .map(Process::id)
    }
}

/// A peer of a pair's first end.
pub(super) struct Third {
    pub(super) end: End,
    outer: Ipv4Addr,
    /// Where it reaches the first end on the underlay.
    pub(super) outer_of_first: Ipv4Addr,
}

impl Third {
    /// Another address of it on the underlay.
    pub(super) fn another(&self, number: u8) -> Result<Ipv4Addr> {
        let [a, b, c, host] = self.outer.octets();
        let address = Ipv4Addr::new(a, b, c, host + 1 + number);
        self.end
            .run(&format!("ip addr add {address}/24 dev eth0"))?;
        Ok(address)
    }
}

fn said(node: &Node) -> String {
    let text = std::fs::read_to_string(node.dir().join("engine.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// What a command on a node printed; its words stand apart by blanks.
pub(super) fn run(node: &Node, words: &str) -> Result<String> {
    run_in(node, node.netns(), words)
}

fn run_in(node: &Node, netns: &Netns, words: &str) -> Result<String> {
    let words: Vec<&str> = words.split(' ').collect();
    let (program, arguments) = words.split_first().context("no program")?;
    let mut command = node.command_in(netns, program);
    printed(command.args(arguments), &words)
}
