//! The host as it should be, out of who is in the mesh and what is attached here. Pure: equal
//! inputs give equal output.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weft_cni::PortMapping;

use crate::host::{
    Address, Desired, Link, MESH_LINK, Mac, NeighbourKey, Observed, RouteKey, Target,
};
use crate::kernel::nft::{Published, Ranges, mesh_ruleset};
use crate::kernel::sysctl;

/// What the wanted host follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The mesh's ranges: the pods' pool and the ULA.
    pub pools: Vec<IpNet>,
    /// This node's share of them; empty until its claim is final.
    pub own: Vec<IpNet>,
    /// This node's own addresses, one of each share.
    pub addresses: Vec<IpAddr>,
    /// MTU of the mesh's link, bytes.
    pub link_mtu: u32,
    pub peers: Vec<PeerRoutes>,
    pub pods: Vec<Pod>,
}

/// A peer's ranges and the MTU of the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRoutes {
    pub ranges: Vec<IpNet>,
    /// Bytes; `None` is the link's.
    pub mtu: Option<u32>,
}

/// An attached pod, as the host's end of its link sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The host's end.
    pub link: String,
    /// MTU of the link, bytes.
    pub mtu: u32,
    /// Of the pod's end.
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    /// Ports of this host that lead to it.
    pub ports: Vec<PortMapping>,
}

/// The wanted host. `observed` says only which sysctls the host has.
pub fn desired(inputs: &Inputs, observed: &Observed) -> Desired {
    let mut host = Desired {
        sysctls: sysctl::forwarding(observed),
        ..Desired::default()
    };
    let v6 = !sysctl::ipv6_disabled(observed);
    let usable = |net: &&IpNet| v6 || matches!(net, IpNet::V4(_));
    host.firewall = Some(mesh_ruleset(&Ranges {
        mesh: inputs.pools.clone(),
        own: inputs.own.clone(),
        addresses: inputs.addresses.clone(),
        ports: inputs
            .pods
            .iter()
            .flat_map(|pod| published(own_addresses(pod, inputs), &pod.ports))
            .collect(),
    }));
    // Fail closed: whatever has no better route inside the mesh's ranges goes nowhere.
    // As few routes as cover the same addresses and no other.
    let pools: Vec<IpNet> = inputs.pools.iter().filter(usable).copied().collect();
    for pool in IpNet::aggregate(&pools) {
        host.routes
            .insert(RouteKey::unreachable(pool), Target::Unreachable);
    }
    host.links.insert(
        MESH_LINK.into(),
        Link {
            mtu: inputs.link_mtu,
            up: true,
        },
    );
    for address in inputs.addresses.iter().copied().map(IpNet::from) {
        if usable(&&address) {
            host.addresses.insert(Address {
                link: MESH_LINK.into(),
                net: address,
            });
        }
    }
    let source = |net: &IpNet| {
        inputs
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == matches!(net, IpNet::V4(_)))
    };
    for peer in &inputs.peers {
        for range in peer.ranges.iter().filter(usable) {
            let target = Target::Link {
                link: MESH_LINK.into(),
                preferred_source: source(range),
                mtu: peer.mtu.filter(|mtu| *mtu != inputs.link_mtu),
            };
            host.routes.insert(RouteKey::over(*range), target);
        }
    }
    for pod in &inputs.pods {
        attached(pod, inputs, &source, &mut host);
    }
    host
}

fn own_addresses(pod: &Pod, inputs: &Inputs) -> impl Iterator<Item = IpAddr> {
    let is_own = |address: &IpAddr| inputs.own.iter().any(|range| range.contains(address));
    pod.addresses.iter().copied().filter(is_own)
}

/// A pod's link, and the way to those of its addresses that are this node's to give: where a range
/// was lost to another node, its addresses are that node's pods' until this one has moved.
fn attached(
    pod: &Pod,
    inputs: &Inputs,
    source: &impl Fn(&IpNet) -> Option<IpAddr>,
    host: &mut Desired,
) {
    host.links.insert(
        pod.link.clone(),
        Link {
            mtu: pod.mtu,
            up: true,
        },
    );
    for address in own_addresses(pod, inputs) {
        let net = IpNet::from(address);
        let target = Target::Link {
            link: pod.link.clone(),
            preferred_source: source(&net),
            mtu: None,
        };
        host.routes.insert(RouteKey::over(net), target);
        host.neighbours.insert(
            NeighbourKey {
                link: pod.link.clone(),
                address,
            },
            pod.mac,
        );
    }
}

/// Ports of the host that lead to a pod, each on those of its addresses that it may lead to.
pub(crate) fn published(
    addresses: impl Iterator<Item = IpAddr>,
    ports: &[PortMapping],
) -> impl Iterator<Item = Published> {
    let to = |port: &PortMapping, address: IpAddr| {
        let host = port.host_ip;
        let same_family = host.is_none_or(|host| host.is_ipv4() == address.is_ipv4());
        same_family.then(|| Published {
            protocol: port.protocol,
            host: host.filter(|host| !host.is_unspecified()),
            port: port.host_port,
            to: SocketAddr::new(address, port.container_port),
        })
    };
    addresses.flat_map(move |address| ports.iter().filter_map(move |port| to(port, address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        let nets = |texts: [&str; 2]| texts.map(|t| t.parse().unwrap()).to_vec();
        Inputs {
            pools: nets(["10.32.0.0/12", "fd00:1:2::/48"]),
            own: nets(["10.32.1.0/24", "fd00:1:2:1::/64"]),
            addresses: ["10.32.1.1", "fd00:1:2:1::1"]
                .map(|t| t.parse().unwrap())
                .to_vec(),
            link_mtu: 1440,
            peers: vec![PeerRoutes {
                ranges: nets(["10.32.2.0/24", "fd00:1:2:2::/64"]),
                mtu: Some(1420),
            }],
            pods: vec![Pod {
                link: "weft1a".into(),
                mtu: 1420,
                mac: Mac([2, 0, 0, 0, 0, 7]),
                addresses: ["10.32.1.2", "fd00:1:2:1::2"]
                    .map(|t| t.parse().unwrap())
                    .to_vec(),
                ports: Vec::new(),
            }],
        }
    }

    fn text(inputs: &Inputs, observed: &Observed) -> String {
        let mut host = desired(inputs, observed);
        host.firewall = None;
        host.to_string()
    }

    #[test]
    fn the_wanted_host_is_this_one() {
        assert_eq!(
            text(&inputs(), &Observed::default()),
            "link weft0 up mtu 1440\n\
             link weft1a up mtu 1420\n\
             address 10.32.1.1/32 dev weft0\n\
             address fd00:1:2:1::1/128 dev weft0\n\
             route 10.32.0.0/12 metric 4294967295 unreachable\n\
             route 10.32.1.2/32 metric 50 dev weft1a src 10.32.1.1\n\
             route 10.32.2.0/24 metric 50 dev weft0 src 10.32.1.1 mtu 1420\n\
             route fd00:1:2::/48 metric 4294967295 unreachable\n\
             route fd00:1:2:1::2/128 metric 50 dev weft1a src fd00:1:2:1::1\n\
             route fd00:1:2:2::/64 metric 50 dev weft0 src fd00:1:2:1::1 mtu 1420\n\
             neighbour 10.32.1.2 dev weft1a 02:00:00:00:00:07\n\
             neighbour fd00:1:2:1::2 dev weft1a 02:00:00:00:00:07\n\
             sysctl net/ipv4/ip_forward = 1\n\
             sysctl net/ipv6/conf/all/forwarding = 1\n"
        );
    }

    #[test]
    fn a_port_of_the_host_leads_to_the_pods_address_of_its_family() {
        let mut inputs = inputs();
        inputs.pods[0].ports = [None, Some("0.0.0.0"), Some("::"), Some("192.0.2.1")]
            .map(|host| PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: weft_cni::Protocol::Tcp,
                host_ip: host.map(|text| text.parse().unwrap()),
            })
            .to_vec();
        let led = |inputs: &Inputs| -> Vec<(Option<IpAddr>, String)> {
            let pod = &inputs.pods[0];
            published(own_addresses(pod, inputs), &pod.ports)
                .map(|port| (port.host, port.to.to_string()))
                .collect()
        };
        let (v4, v6) = ("10.32.1.2:80".to_owned(), "[fd00:1:2:1::2]:80".to_owned());
        let wanted = [
            (None, v4.clone()),
            (None, v4.clone()),
            (Some("192.0.2.1".parse().unwrap()), v4),
            (None, v6.clone()),
            (None, v6),
        ];
        assert_eq!(led(&inputs), wanted);
        inputs.own.clear();
        assert_eq!(
            led(&inputs),
            [],
            "not to an address that another node's pods may have"
        );
    }

    #[test]
    fn ranges_side_by_side_are_refused_by_one_route() {
        let nets = [
            "10.0.0.0/24",
            "10.0.1.0/24",
            "10.0.3.0/24",
            "10.0.1.128/25",
            "fd00::/64",
        ];
        let text = text(
            &Inputs {
                pools: nets.map(|text| text.parse().unwrap()).to_vec(),
                ..Inputs::default()
            },
            &Observed::default(),
        );
        let refused: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("route ")?.split(" metric").next())
            .collect();
        assert_eq!(refused, ["10.0.0.0/23", "10.0.3.0/24", "fd00::/64"]);
    }

    #[test]
    fn a_pod_of_a_lost_range_is_not_routed_to() {
        let mut lost = inputs();
        lost.own.clear();
        let text = text(&lost, &Observed::default());
        assert!(
            !text.contains("10.32.1.2") && !text.contains("fd00:1:2:1::2"),
            "{text}"
        );
    }

    #[test]
    fn a_node_without_a_range_still_fails_closed() {
        let bare = Inputs {
            pools: inputs().pools,
            link_mtu: 1420,
            ..Inputs::default()
        };
        let text = text(&bare, &Observed::default());
        assert!(
            text.contains("route 10.32.0.0/12 metric 4294967295 unreachable"),
            "{text}"
        );
        assert!(
            text.contains("route fd00:1:2::/48 metric 4294967295 unreachable"),
            "{text}"
        );
    }
}
