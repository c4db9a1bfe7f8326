//! Ports of the host that lead to a container: `portMappings`, the runtime's capability argument
//! (CONVENTIONS.md of the specification). What they become is the agent's business.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// One port, as the runtime asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Never 0.
    pub host_port: u16,
    /// Never 0.
    pub container_port: u16,
    pub protocol: Protocol,
    /// The host's address that it is on. `None`: every one; an unspecified address: every one of
    /// its family.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol with ports; the numbers are IANA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl PortMapping {
    /// Whether a packet could be meant for either.
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_port = (self.protocol, self.host_port) == (other.protocol, other.host_port);
        let meet = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => {
                let any = a.is_unspecified() || b.is_unspecified();
                a == b || (any && a.is_ipv4() == b.is_ipv4())
            }
            _ => true,
        };
        same_port && meet
    }
}

/// `tcp 8080`, `udp 192.0.2.1:53`
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.protocol)?;
        match self.host_ip {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.host_port)),
            None => write!(f, "{}", self.host_port),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(protocol: Protocol, host_ip: Option<&str>) -> PortMapping {
        PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol,
            host_ip: host_ip.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn two_on_one_port_conflict_where_their_addresses_meet() {
        let cases = [
            (None, None, true),
            (None, Some("192.0.2.1"), true),
            (Some("0.0.0.0"), Some("192.0.2.1"), true),
            (Some("0.0.0.0"), Some("::"), false),
            (Some("::"), Some("2001:db8::1"), true),
            (Some("192.0.2.1"), Some("192.0.2.1"), true),
            (Some("192.0.2.1"), Some("127.0.0.1"), false),
        ];
        for (a, b, wanted) in cases {
            for (a, b) in [(a, b), (b, a)] {
                let (a, b) = (on(Protocol::Tcp, a), on(Protocol::Tcp, b));
                assert_eq!(a.conflicts(&b), wanted, "{a} and {b}");
            }
        }
        assert!(!on(Protocol::Tcp, None).conflicts(&on(Protocol::Udp, None)));
        let other = PortMapping {
            host_port: 81,
            ..on(Protocol::Tcp, None)
        };
        assert!(!other.conflicts(&on(Protocol::Tcp, None)));
    }
}
