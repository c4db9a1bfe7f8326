//! What the host's own network offers the mesh: addresses to be reached at, and a path's MTU.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use rustix::net::sockopt;
use weft_mesh::Endpoint;
use weft_mesh::endpoint::is_usable;

/// Bytes that WireGuard adds to a packet on the way over IPv4: 20 IP, 8 UDP, 32 its own.
const OVERHEAD_V4: u32 = 60;
/// The same over IPv6, whose header is 40 bytes.
const OVERHEAD_V6: u32 = 80;
/// IPv6 asks for this much of every link (RFC 8200 section 5).
const LEAST_MTU: u32 = 1280;

/// Of the 16 endpoints of a record, those that are the host's own addresses at most.
const MOST_LOCAL: usize = 12;
/// And those that others saw at most.
const MOST_OBSERVED: usize = 4;

/// The MTU inside the tunnel to a peer whose endpoint is `endpoint`, of an underlay of `underlay`
/// bytes.
pub fn tunnel_mtu(underlay: u32, endpoint: IpAddr) -> u32 {
    let overhead = if endpoint.is_ipv4() {
        OVERHEAD_V4
    } else {
        OVERHEAD_V6
    };
    underlay.saturating_sub(overhead).max(LEAST_MTU)
}

/// The MTU of the way to `endpoint`, as the kernel's routes and path MTU cache have it; no packet
/// is sent.
///
/// # Errors
/// When there is no route to it.
pub fn path_mtu(endpoint: SocketAddr, fwmark: u32) -> io::Result<u32> {
    let local: IpAddr = match endpoint {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0))?;
    // Without the right to mark, the unmarked route is the best guess.
    let _ = socket2::SockRef::from(&socket).set_mark(fwmark);
    socket.connect(endpoint)?;
    let mtu = match endpoint {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket),
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket),
    };
    Ok(mtu?)
}

/// The endpoints that a node tells of, most preferred first: those that were set, else the host's
/// own addresses and those that others have seen it at. Never one inside the mesh.
pub fn endpoints(
    set: &[Endpoint],
    local: &[IpAddr],
    observed: &[IpAddr],
    port: u16,
    mesh: &[IpNet],
) -> Vec<Endpoint> {
    if !set.is_empty() {
        return set.to_vec();
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    // A host of many networks has room for what others saw, which alone may work behind NAT.
    for (addresses, most) in [(local, MOST_LOCAL), (observed, MOST_OBSERVED)] {
        let end = endpoints.len() + most;
        for address in addresses {
            let endpoint = Endpoint::Address(SocketAddr::new(*address, port));
            let inside = mesh.iter().any(|range| range.contains(address));
            let usable = is_usable(*address) && !inside && !endpoints.contains(&endpoint);
            if usable && endpoints.len() < end {
                endpoints.push(endpoint);
            }
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnel_mtu_leaves_room_for_the_outer_headers() {
        let v4 = Ipv4Addr::LOCALHOST.into();
        let v6 = Ipv6Addr::LOCALHOST.into();
        assert_eq!((tunnel_mtu(1500, v4), tunnel_mtu(1500, v6)), (1440, 1420));
        assert_eq!(tunnel_mtu(1300, v6), 1280);
    }

    #[test]
    fn set_endpoints_win_and_the_mesh_is_never_one() {
        let addresses: Vec<IpAddr> = [
            "127.0.0.1",
            "192.0.2.7",
            "10.32.1.1",
            "fe80::1",
            "2001:db8::7",
        ]
        .map(|a| a.parse().unwrap())
        .into();
        let observed = [
            "192.0.2.7".parse().unwrap(),
            "198.51.100.1".parse().unwrap(),
        ];
        let mesh = ["10.32.0.0/12".parse().unwrap()];
        let told = |set: &[Endpoint]| {
            endpoints(set, &addresses, &observed, 6783, &mesh)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told(&[]),
            ["192.0.2.7:6783", "[2001:db8::7]:6783", "198.51.100.1:6783"]
        );
        assert_eq!(
            told(&["edge.example.com:1".parse().unwrap()]),
            ["edge.example.com:1"]
        );
    }

    #[test]
    fn many_own_addresses_leave_room_for_those_that_others_saw() {
        let of = |net: u8| (1..=20).map(move |n| Ipv4Addr::new(198, 51, net, n).into());
        let (local, observed): (Vec<_>, Vec<_>) = (of(1).collect(), of(2).collect());
        let told = endpoints(&[], &local, &observed, 1, &[]);
        assert_eq!(told.len(), 16);
        assert_eq!(told[11].to_string(), "198.51.1.12:1");
        assert_eq!(told[12].to_string(), "198.51.2.1:1");
    }

    #[test]
    fn the_way_to_this_host_has_its_loopback_mtu() {
        // The link's 65,536 bytes, cut to what an IPv4 packet's length can say.
        assert_eq!(path_mtu("127.0.0.1:9".parse().unwrap(), 0).unwrap(), 65_535);
    }
}
