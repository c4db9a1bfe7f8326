//! Settings from flags, the environment and `/etc/weft/weft.toml`, in that order, into one `Config`.
//!
//! Pure but for [`Settings::from_file`], which reads the file.

#[cfg(test)]
mod corpus;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::Deserialize;
use weft_mesh::discovery::gossip::Token;
use weft_mesh::tunnel::Backend;
use weft_mesh::{Endpoint, NodeName};

/// The default settings file; it need not exist.
pub const CONFIG_FILE: &str = "/etc/weft/weft.toml";
/// The default control socket.
pub const SOCKET: &str = "/run/weft/weft.sock";
/// UDP for WireGuard, TCP for joining, gossip and control.
pub const PORT: u16 = 6783;

/// Every setting of a node, each optional: a flag wins over its environment variable, that over
/// the file, that over the default.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// This node's name in the mesh: one DNS label [default: the host's name]
    #[arg(long, env = "WEFT_NAME", value_name = "LABEL")]
    #[serde(default, deserialize_with = "text::parse")]
    pub name: Option<NodeName>,

    /// Where identity, keys, roster and leases are kept [default: /var/lib/weft]
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// UDP port of WireGuard and TCP port of joining and gossip, 1 to 65535 [default: 6783]
    #[arg(long, env = "WEFT_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    #[serde(default, deserialize_with = "text::port")]
    pub port: Option<u16>,

    /// Where others reach this node, HOST[:PORT], most preferred first; a name is resolved by
    /// those who dial it [default: the host's own addresses]
    #[arg(
        long,
        env = "WEFT_ENDPOINT",
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    pub endpoint: Option<Vec<String>>,

    /// The pods' range of a new mesh, IPv4; a joining node takes the mesh's [default: 10.32.0.0/12]
    #[arg(long, env = "WEFT_POOL", value_name = "CIDR")]
    pub pool: Option<Ipv4Net>,

    /// Prefix length of one node's share of the pool, for a new mesh, 17 to 28 [default: 24]
    #[arg(long, env = "WEFT_NODE_PREFIX", value_parser = clap::value_parser!(u8).range(17..=28))]
    #[serde(default, deserialize_with = "text::node_prefix")]
    pub node_prefix: Option<u8>,

    /// The WireGuard engine: auto (the kernel's where it is there), kernel or userspace [default: auto]
    #[arg(long, env = "WEFT_TUNNEL", value_name = "ENGINE")]
    #[serde(default, deserialize_with = "text::parse")]
    pub tunnel: Option<Backend>,

    /// MTU of the network between nodes, bytes, 1340 to 65535 [default: asked of the host, per peer]
    #[arg(long, env = "WEFT_UNDERLAY_MTU", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1340..=65535))]
    #[serde(default, deserialize_with = "text::mtu")]
    pub underlay_mtu: Option<u32>,

    /// The mark (SO_MARK) of weft's own packets between nodes, not 0 [default: 0x77656674]
    #[arg(long, env = "WEFT_FWMARK", value_parser = clap::value_parser!(u32).range(1..))]
    #[serde(default, deserialize_with = "text::mark")]
    pub fwmark: Option<u32>,

    /// The mesh's DNS domain [default: weft.local]
    #[arg(long, env = "WEFT_DNS_DOMAIN", value_name = "NAME")]
    #[serde(default, deserialize_with = "text::domain_setting")]
    #[arg(value_parser = text::domain)]
    pub dns_domain: Option<String>,

    /// DNS servers for names that are not the mesh's, IP[:PORT] [default: those of /etc/resolv.conf]
    #[arg(long, env = "WEFT_DNS_UPSTREAM", value_name = "IP[:PORT]", value_delimiter = ',', value_parser = text::upstream)]
    #[serde(default, deserialize_with = "text::upstreams")]
    pub dns_upstream: Option<Vec<SocketAddr>>,
}

/// What joining takes: the mesh's token and somebody who is in it.
#[derive(Clone, Debug)]
pub struct JoinLine {
    pub token: Token,
    pub hosts: Vec<Endpoint>,
}

/// The settings of a node, each with its value.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: NodeName,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub port: u16,
    /// Empty: the host's own addresses.
    pub endpoints: Vec<Endpoint>,
    pub pool: Ipv4Net,
    pub node_prefix: u8,
    pub tunnel: Backend,
    pub underlay_mtu: Option<u32>,
    pub fwmark: u32,
    pub dns_domain: String,
    /// Empty: those of `/etc/resolv.conf`.
    pub dns_upstreams: Vec<SocketAddr>,
    pub join: Option<JoinLine>,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{file}: {source}")]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{file}: {source}")]
    Parse {
        file: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{setting} {value:?}: {allowed}")]
    Value {
        setting: &'static str,
        value: String,
        allowed: String,
    },
    /// As `Value`, of a setting that each of three places may have given.
    #[error(
        "{setting} = {value:?}: {allowed} (set by --{setting}, WEFT_{} or `{setting}` in the settings file)",
        setting.to_uppercase()
    )]
    Setting {
        setting: &'static str,
        value: String,
        allowed: String,
    },
}

impl Settings {
    /// Reads a settings file; one that is not there is empty, unless it was asked for by name.
    ///
    /// # Errors
    /// [`ConfigError::Parse`] names the file, the line, the key and what is allowed.
    pub fn from_file(file: &Path, asked_for: bool) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::from_toml(&text, file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked_for => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read {
                file: file.to_owned(),
                source,
            }),
        }
    }

    fn from_toml(text: &str, file: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| ConfigError::Parse {
            file: file.to_owned(),
            source: Box::new(e),
        })
    }

    /// These settings where they are given, `lower`'s where not.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            name: self.name.or(lower.name),
            state_dir: self.state_dir.or(lower.state_dir),
            port: self.port.or(lower.port),
            endpoint: self.endpoint.or(lower.endpoint),
            pool: self.pool.or(lower.pool),
            node_prefix: self.node_prefix.or(lower.node_prefix),
            tunnel: self.tunnel.or(lower.tunnel),
            underlay_mtu: self.underlay_mtu.or(lower.underlay_mtu),
            fwmark: self.fwmark.or(lower.fwmark),
            dns_domain: self.dns_domain.or(lower.dns_domain),
            dns_upstream: self.dns_upstream.or(lower.dns_upstream),
        }
    }
}

impl Config {
    /// Fills the defaults in. `hostname` is the host's own name, `join` a `TOKEN@HOST[,HOST…]`.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the setting and what is allowed.
    pub fn build(
        settings: Settings,
        hostname: &str,
        socket: PathBuf,
        join: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let port = settings.port.unwrap_or(PORT);
        let name = match settings.name {
            Some(name) => name,
            None => default_name(hostname)?,
        };
        let pool = settings.pool.unwrap_or(DEFAULT_POOL);
        let node_prefix = settings.node_prefix.unwrap_or(24);
        check_pool(pool, node_prefix)?;
        let endpoints = settings.endpoint.unwrap_or_default();
        Ok(Self {
            name,
            state_dir: settings.state_dir.unwrap_or_else(|| "/var/lib/weft".into()),
            socket,
            port,
            endpoints: endpoints
                .iter()
                .map(|text| {
                    endpoint(text, port).map_err(|allowed| ConfigError::Setting {
                        setting: "endpoint",
                        value: text.clone(),
                        allowed,
                    })
                })
                .collect::<Result<_, _>>()?,
            pool,
            node_prefix,
            tunnel: settings.tunnel.unwrap_or_default(),
            underlay_mtu: settings.underlay_mtu,
            fwmark: settings.fwmark.unwrap_or(DEFAULT_FWMARK),
            dns_domain: settings.dns_domain.unwrap_or_else(|| "weft.local".into()),
            dns_upstreams: settings.dns_upstream.unwrap_or_default(),
            join: join.map(|line| join_line(line, port)).transpose()?,
        })
    }
}

const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 32, 0, 0), 12);
// "weft" in ASCII: unlikely to be anybody else's mark.
const DEFAULT_FWMARK: u32 = 0x7765_6674;

/// Up to 65,536 shares, since a share's number also names its /64 of the mesh's /48.
fn check_pool(pool: Ipv4Net, node_prefix: u8) -> Result<(), ConfigError> {
    let refuse = |allowed| ConfigError::Setting {
        setting: "pool",
        value: pool.to_string(),
        allowed,
    };
    if pool != pool.trunc() {
        // Whoever wrote this may have meant the range, or another.
        return Err(refuse(format!(
            "bits beyond the prefix are set; the range is {}",
            pool.trunc()
        )));
    }
    match node_prefix.checked_sub(pool.prefix_len()) {
        Some(1..=16) => Ok(()),
        _ => Err(refuse(format!(
            "with node-prefix {node_prefix} the pool's prefix is /{} to /{}: 2 to 65536 shares",
            node_prefix.saturating_sub(16),
            node_prefix.saturating_sub(1)
        ))),
    }
}

/// The host's name cut down to one label.
fn default_name(hostname: &str) -> Result<NodeName, ConfigError> {
    let label = hostname
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .replace('_', "-");
    label
        .parse()
        .map_err(|e: weft_mesh::member::ParseNodeError| ConfigError::Value {
            setting: "the host's name",
            value: hostname.to_owned(),
            allowed: format!("{e}; give one with --name"),
        })
}

fn join_line(line: &str, port: u16) -> Result<JoinLine, ConfigError> {
    let refuse = |allowed: String| ConfigError::Value {
        setting: "join",
        value: redact(line),
        allowed,
    };
    let (token, hosts) = line.split_once('@').ok_or_else(|| {
        refuse("a join line is TOKEN@HOST[:PORT][,HOST[:PORT]…], as `weft up` prints it".into())
    })?;
    let token = token
        .parse()
        .map_err(|e: weft_mesh::discovery::gossip::ParseTokenError| refuse(e.to_string()))?;
    let hosts = hosts
        .split(',')
        .map(|host| endpoint(host, port).map_err(refuse))
        .collect::<Result<_, _>>()?;
    Ok(JoinLine { token, hosts })
}

/// A join line without its secret, for messages.
fn redact(line: &str) -> String {
    match line.split_once('@') {
        Some((_, hosts)) => format!("…@{hosts}"),
        None => "…".to_owned(),
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`; the error says what is allowed.
fn endpoint(text: &str, port: u16) -> Result<Endpoint, String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(Endpoint::Address(SocketAddr::new(address, port)));
    }
    let with_port = if text.rsplit_once(':').is_some() {
        text.to_owned()
    } else {
        format!("{text}:{port}")
    };
    with_port.parse().map_err(|_| {
        format!(
            "{text:?} is no endpoint: an address or a name, with :PORT where it is not the default; \
             an IPv6 address with a port in brackets"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::from_toml(text, Path::new("/etc/weft/weft.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_bad_file_is_refused_naming_the_file_the_key_and_what_is_allowed() {
        let check = |text: &str, wants: &[&str]| {
            let error = parse(text).unwrap_err();
            for want in wants.iter().chain(&["/etc/weft/weft.toml"]) {
                assert!(error.contains(want), "{want:?} is not in: {error}");
            }
        };
        check("prot = 1", &["prot", "unknown field", "`port`"]);
        check("port = 0", &["port = 0", "from 1 to 65535"]);
        check(
            "port = 'x'",
            &["port = 'x'", "whole number from 1 to 65535"],
        );
        check("node-prefix = 30", &["node-prefix = 30", "from 17 to 28"]);
        check(
            "tunnel = 'fast'",
            &["tunnel = 'fast'", "auto", "kernel", "userspace"],
        );
        check("name = 'a.b'", &["name = 'a.b'", "one DNS label"]);
        check(
            "underlay-mtu = 100",
            &["underlay-mtu = 100", "from 1340 to 65535"],
        );
        check(
            "dns-upstream = ['x']",
            &["dns-upstream = ['x']", "IP or IP:PORT"],
        );
        check("dns-domain = '-'", &["dns-domain = '-'", "no domain"]);
        check("pool = '10.0.0.0/99'", &["pool = '10.0.0.0/99'"]);
        check("port = ", &["line 1"]);
    }

    fn build(settings: Settings, join: Option<&str>) -> Result<Config, String> {
        Config::build(settings, "Host_1.example.com", SOCKET.into(), join)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn flags_win_over_the_file_and_that_over_the_defaults() {
        let file = parse("port = 7000\ntunnel = 'userspace'\nname = 'file'").unwrap();
        let flags = Settings {
            name: Some("flag".parse().unwrap()),
            ..Settings::default()
        };
        let config = build(flags.over(file), None).unwrap();
        assert_eq!((config.name.as_str(), config.port), ("flag", 7000));
        assert_eq!(config.tunnel.to_string(), "userspace");
        assert_eq!(config.pool.to_string(), "10.32.0.0/12");
        assert_eq!(
            build(Settings::default(), None).unwrap().name.as_str(),
            "host-1"
        );
    }

    #[test]
    fn a_bad_join_line_is_refused_without_showing_the_secret() {
        for line in [
            "weft1.SECRET",
            "weft1.SECRET@host",
            "@host",
            "weft1.SECRET@",
            "",
        ] {
            let error = build(Settings::default(), Some(line)).unwrap_err();
            assert!(
                error.starts_with("join") && !error.contains("SECRET"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_pool_with_too_few_or_too_many_shares_is_refused() {
        let with = |pool: &str, node_prefix| {
            let settings = Settings {
                pool: Some(pool.parse().unwrap()),
                node_prefix: Some(node_prefix),
                ..Settings::default()
            };
            build(settings, None)
        };
        assert!(with("10.0.0.0/8", 24).is_ok());
        assert!(with("10.0.0.0/8", 25).unwrap_err().contains("/9 to /24"));
        assert!(with("10.0.0.0/24", 24).unwrap_err().contains("shares"));
    }

    #[test]
    fn what_is_refused_after_the_places_were_merged_names_them() {
        let check = |text: &str, wants: &[&str]| {
            let error = build(parse(text).unwrap(), None).unwrap_err();
            for want in wants {
                assert!(error.contains(want), "{want:?} is not in: {error}");
            }
        };
        check(
            "pool = '10.33.1.5/12'",
            &[
                "10.33.1.5/12",
                "10.32.0.0/12",
                "--pool",
                "WEFT_POOL",
                "`pool`",
            ],
        );
        check(
            "endpoint = ['a b']",
            &["a b", "--endpoint", "WEFT_ENDPOINT", "`endpoint`"],
        );
    }
}
