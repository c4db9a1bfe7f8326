//! A network segment: a bridge, and the ports by which namespaces hang on it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::netlink::Veth;
use super::{NetError, Netlink, Netns};

/// The most hosts that a segment numbers.
const MAX_HOST: u32 = 65_000;
/// How long a link may take to pass packets.
const CARRIER: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_micros(500);

/// A bridge with an address range of each family. Host 1 is the bridge itself, the gateway.
#[derive(Debug)]
pub struct Segment {
    bridge: u32,
    name: String,
    v4: Ipv4Net,
    v6: Ipv6Net,
    mtu: u32,
}

/// Where a namespace hangs on a segment.
#[derive(Clone, Debug)]
pub struct Port {
    /// The interface in the node's namespace.
    pub ifname: String,
    /// Its index there.
    pub index: u32,
    /// The interface on the bridge.
    pub bridge_port: String,
    /// Its index there.
    pub bridge_index: u32,
    pub v4: Ipv4Net,
    /// `None` where the kernel has no IPv6.
    pub v6: Option<Ipv6Net>,
    /// Of the interface in the node's namespace.
    pub mac: [u8; 6],
}

impl Segment {
    /// Puts a bridge named `name` into the namespace `netns`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn new(
        netns: &Netns,
        name: &str,
        ranges: (Ipv4Net, Ipv6Net),
        mtu: u32,
    ) -> Result<Self, NetError> {
        let netlink = netns.netlink();
        let (v4, v6) = ranges;
        let mut segment = Self {
            bridge: 0,
            name: name.to_owned(),
            v4: v4.trunc(),
            v6: v6.trunc(),
            mtu,
        };
        let (gateway4, gateway6) = segment.addresses(1)?;
        segment.bridge = netlink.add_bridge(name, mac(gateway4.addr(), 0))?;
        netlink.set_mtu(segment.bridge, mtu)?;
        netlink.add_address(segment.bridge, IpNet::V4(gateway4))?;
        if has_ipv6() {
            netlink.add_address(segment.bridge, IpNet::V6(gateway6))?;
        }
        Ok(segment)
    }

    /// The bridge's own addresses, by which hosts of the segment reach what is beyond it.
    pub fn gateways(&self) -> (Ipv4Addr, Ipv6Addr) {
        let first4 = u32::from(self.v4.addr()) + 1;
        let first6 = u128::from(self.v6.addr()) + 1;
        (first4.into(), first6.into())
    }

    /// The bridge's index in its namespace.
    pub fn bridge(&self) -> u32 {
        self.bridge
    }

    /// Hangs `node` on the segment as host `host` (2 or more), with addresses and default routes.
    /// `here` is the namespace of the bridge.
    ///
    /// # Errors
    /// When the number is taken or out of range, or the kernel refuses it.
    pub fn attach(
        &self,
        here: &Netns,
        node: &Netns,
        ifname: &str,
        host: u32,
    ) -> Result<Port, NetError> {
        let (v4, v6) = self.addresses(host)?;
        let bridge_port = format!("{}p{host}", self.name);
        // One address, one MAC, however often it is made: a neighbour's cache stays true.
        let node_mac = mac(v4.addr(), 0);
        let veth = Veth {
            name: &bridge_port,
            mac: mac(v4.addr(), 1),
            mtu: self.mtu,
            peer_name: ifname,
            peer_mac: node_mac,
        };
        let bridge_index = here.netlink().add_veth(&veth, node)?;
        here.netlink().enslave(bridge_index, self.bridge)?;
        let netlink = node.netlink();
        let index = netlink.index(ifname)?;
        if has_ipv6() {
            // The link-local address too must serve at once.
            node.sysctl(&format!("ipv6/conf/{ifname}/accept_dad"), "0")?;
        }
        let port = Port {
            ifname: ifname.to_owned(),
            index,
            bridge_port,
            bridge_index,
            v4,
            v6: has_ipv6().then_some(v6),
            mac: node_mac,
        };
        netlink.up(index)?;
        self.address(netlink, &port)?;
        wait_until_passing(here.netlink(), bridge_index)?;
        wait_until_passing(netlink, index)?;
        Ok(port)
    }

    /// Gives the port its addresses and the default routes by the bridge.
    ///
    /// # Errors
    /// When it has them already.
    pub fn address(&self, netlink: &Netlink, port: &Port) -> Result<(), NetError> {
        let (gateway4, gateway6) = self.gateways();
        netlink.add_address(port.index, IpNet::V4(port.v4))?;
        netlink.default_route(IpAddr::V4(gateway4))?;
        if let Some(v6) = port.v6 {
            netlink.add_address(port.index, IpNet::V6(v6))?;
            netlink.default_route(IpAddr::V6(gateway6))?;
        }
        Ok(())
    }

    /// Tells each of these nodes every other's MAC for good.
    ///
    /// The kernel keeps one table of 1024 learnt neighbours for all its namespaces: more than 32
    /// nodes that all speak to one another overflow it, and packets are lost. What is told is not
    /// counted.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn introduce(nodes: &[(&Netns, &Port)]) -> Result<(), NetError> {
        for (netns, port) in nodes {
            for (_, other) in nodes.iter().filter(|(_, other)| other.mac != port.mac) {
                let netlink = netns.netlink();
                netlink.add_neighbour(port.index, other.v4.addr().into(), other.mac)?;
                if let Some(v6) = other.v6.filter(|_| port.v6.is_some()) {
                    netlink.add_neighbour(port.index, v6.addr().into(), other.mac)?;
                }
            }
        }
        Ok(())
    }

    /// The addresses of host `host`.
    ///
    /// # Errors
    /// When the segment has not so many.
    pub fn addresses(&self, host: u32) -> Result<(Ipv4Net, Ipv6Net), NetError> {
        let v4 = Ipv4Addr::from(u32::from(self.v4.addr()).saturating_add(host));
        let v6 = Ipv6Addr::from(u128::from(self.v6.addr()) + u128::from(host));
        if host == 0 || host > MAX_HOST || !self.v4.contains(&v4) || v4 == self.v4.broadcast() {
            return Err(NetError::Refused(format!(
                "segment {} of {} has no host number {host}",
                self.name, self.v4
            )));
        }
        let nets = (
            Ipv4Net::new(v4, self.v4.prefix_len()),
            Ipv6Net::new(v6, self.v6.prefix_len()),
        );
        match nets {
            (Ok(v4), Ok(v6)) => Ok((v4, v6)),
            _ => Err(NetError::Refused(format!(
                "segment {} has a bad prefix",
                self.name
            ))),
        }
    }
}

/// The first packet, an ARP request, is asked again only after a second: it should not be lost.
fn wait_until_passing(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    let deadline = Instant::now() + CARRIER;
    while !netlink.passes(index)? {
        if Instant::now() > deadline {
            return Err(NetError::Refused(format!(
                "interface {index} has no carrier after {CARRIER:?}"
            )));
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Whether the kernel has IPv6, which a start parameter can turn off.
pub(super) fn has_ipv6() -> bool {
    fs::exists(Path::new("/proc/sys/net/ipv6/conf")).unwrap_or(false)
}

/// A locally administered unicast address made of an IPv4 address and a side.
fn mac(address: Ipv4Addr, side: u8) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, side, a, b, c, d]
}
