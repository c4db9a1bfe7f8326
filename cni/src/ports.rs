//! Ports of the host that lead to a container: `portMappings`, the runtime's capability argument
//! (CONVENTIONS.md of the specification). What they become is the agent's business.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// More ports than these nobody asks for in earnest.
const MOST: usize = 1024;

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
    /// Reads `runtimeConfig.portMappings`. A host port of 0 asks for none, an empty address for
    /// every one, and no protocol for TCP; `null` is as good as an empty list. containerd writes the
    /// keys with a capital first letter.
    ///
    /// # Errors
    /// What is allowed, when it is something else.
    pub fn list(value: &Value) -> Result<Vec<Self>, &'static str> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Asked {
            #[serde(default, alias = "HostPort")]
            host_port: u16,
            #[serde(alias = "ContainerPort")]
            container_port: u16,
            #[serde(default, alias = "Protocol")]
            protocol: String,
            #[serde(rename = "hostIP", alias = "HostIP", default)]
            host_ip: String,
        }
        let asked: Option<Vec<Asked>> = Option::deserialize(value).map_err(|_| ALLOWED)?;
        let asked = asked.unwrap_or_default();
        if asked.len() > MOST {
            return Err("at most 1024 mappings");
        }
        let mapping = |asked: Asked| {
            let protocol = match asked.protocol.to_ascii_lowercase().as_str() {
                "" | "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                "sctp" => Protocol::Sctp,
                _ => return Err("a protocol of tcp, udp or sctp"),
            };
            let host_ip = match asked.host_ip.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| "a hostIP that is an address")?),
            };
            if asked.container_port == 0 {
                return Err("a containerPort of 1 to 65535");
            }
            Ok(Self {
                host_port: asked.host_port,
                container_port: asked.container_port,
                protocol,
                host_ip,
            })
        };
        let wanted = asked.into_iter().filter(|asked| asked.host_port != 0);
        wanted.map(mapping).collect()
    }

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

const ALLOWED: &str = "a list of objects with hostPort and containerPort, each up to 65535";

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
    fn a_runtimes_list_is_read_and_what_is_wrong_is_said() {
        let list = |text: &str| PortMapping::list(&serde_json::from_str(text).unwrap());
        assert_eq!(list("null"), Ok(Vec::new()));
        assert_eq!(
            list(r#"[{"HostPort":80,"ContainerPort":8080,"Protocol":"udp","HostIP":"::1"}]"#),
            Ok(vec![on(Protocol::Udp, Some("::1"))])
        );
        let read = list(
            r#"[{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":""},
                {"hostPort":0,"containerPort":1},
                {"hostPort":80,"containerPort":8080,"protocol":"udp","hostIP":"::1"}]"#,
        );
        let wanted = [on(Protocol::Tcp, None), on(Protocol::Udp, Some("::1"))];
        assert_eq!(read.as_deref(), Ok(&wanted[..]));
        for wrong in [
            r#"{"hostPort":80}"#,
            r#"[{"hostPort":80}]"#,
            r#"[{"hostPort":65536,"containerPort":1}]"#,
            r#"[{"hostPort":-1,"containerPort":1}]"#,
            r#"[{"hostPort":80,"containerPort":0}]"#,
            r#"[{"hostPort":80,"containerPort":1,"protocol":"icmp"}]"#,
            r#"[{"hostPort":80,"containerPort":1,"hostIP":"here"}]"#,
        ] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
        // It is kept on disk as it is asked for.
        let kept = serde_json::to_value(&wanted).unwrap();
        assert_eq!(PortMapping::list(&kept).as_deref(), Ok(&wanted[..]));
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
