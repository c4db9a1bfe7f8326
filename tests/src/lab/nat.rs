//! A NAT box: a router with the underlay before it and a private network behind it.

use std::cell::Cell;

use anyhow::Result;
use weft_router::demo::Machine;
use weft_router::demo::net::{Netns, Node, Port, Segment};

use super::{Lab, LabNode, faults};

/// How a box maps the ports of those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// One outer port for all destinations, the inner one where it is free; a stranger's packet is
    /// dropped ("port-restricted cone").
    PortPreserving,
    /// Another outer port for every destination.
    Symmetric,
}

/// A box. What is behind it must not outlive it.
#[derive(Debug)]
pub struct NatBox {
    netns: Netns,
    segment: Segment,
    port: Port,
    next_host: Cell<u32>,
}

impl Lab {
    /// A NAT box on the underlay, in both families.
    ///
    /// # Errors
    /// When the name is taken, or `nft` is missing or refuses.
    pub fn nat(&self, name: &str, kind: Nat) -> Result<NatBox> {
        faults::have("nft")?;
        let netns = Netns::new(name)?;
        let host = self.next_host();
        let port = self.segment.attach(&self.netns, &netns, "eth0", host)?;
        let ranges = (
            format!("192.168.{}.0/24", host % 256).parse()?,
            format!("2001:db8:1:{host:x}::/64").parse()?,
        );
        let segment = Segment::new(&netns, "lan", ranges, super::UNDERLAY_MTU)?;
        netns.sysctl("ipv4/ip_forward", "1")?;
        if port.v6.is_some() {
            netns.sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        faults::nft(netns.command("nft"), &rules(kind))?;
        Ok(NatBox {
            netns,
            segment,
            port,
            next_host: Cell::new(2),
        })
    }
}

impl NatBox {
    /// A node behind the box; no agent runs on it yet.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn node(&self, name: &str) -> Result<LabNode> {
        let node = Node::new("/run/weft-lab".as_ref(), name)?;
        let host = self.next_host.get();
        self.next_host.set(host + 1);
        let port = self
            .segment
            .attach(&self.netns, node.netns(), "eth0", host)?;
        Ok(LabNode::new(Machine::new(node), port))
    }

    /// The box's own place on the underlay.
    pub fn port(&self) -> &Port {
        &self.port
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

fn rules(kind: Nat) -> String {
    let how = match kind {
        Nat::PortPreserving => "masquerade",
        Nat::Symmetric => "masquerade random,fully-random",
    };
    format!(
        "table inet box {{\n\
         \tchain out {{\n\t\ttype nat hook postrouting priority 100;\n\t\toifname \"eth0\" {how}\n\t}}\n\
         \tchain pass {{\n\t\ttype filter hook forward priority 0;\n\t\tiifname \"eth0\" ct state new drop\n\t}}\n\
         }}\n"
    )
}
