//! Every setting by its name, as flags, environment and file give it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use weft_mesh::NodeName;
use weft_mesh::tunnel::Backend;

use super::{ConfigError, text};

/// Every setting of a node, each optional: a flag wins over its environment variable, that over
/// the file, that over the default.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Take who is in the mesh from the Kubernetes API; KUBECONFIG, or the pod's service account,
    /// says where that is. Without it, nodes find each other by gossip
    #[arg(long, env = "WEFT_KUBERNETES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub kubernetes: Option<bool>,

    /// This node's name in the mesh: one DNS label; in Kubernetes its Node's name [default: the
    /// host's name]
    #[arg(long, env = "WEFT_NAME", value_name = "NAME")]
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

    /// The pods' range of a new mesh, IPv4; a joining node takes the mesh's. In Kubernetes it is
    /// used where the cluster gives its nodes no ranges [default: 10.32.0.0/12]
    #[arg(long, env = "WEFT_POOL", value_name = "CIDR")]
    pub pool: Option<Ipv4Net>,

    /// The same in IPv6, in Kubernetes alone: /48 to /63, a /64 of it for each node [default: none]
    #[arg(long, env = "WEFT_POOL6", value_name = "CIDR")]
    pub pool6: Option<Ipv6Net>,

    /// In Kubernetes: ranges of the cluster's pods, which fail closed before any node is known
    /// [default: none; each node's ranges from when they are seen]
    #[arg(
        long,
        env = "WEFT_CLUSTER_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub cluster_cidr: Option<Vec<IpNet>>,

    /// In Kubernetes: where the network's configuration is written once this node can carry pods
    /// [default: it is not written]
    #[arg(long, env = "WEFT_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,

    /// In Kubernetes: take over from another network's configuration, which is renamed and put back
    /// by `weft cleanup`
    #[arg(long, env = "WEFT_TAKE_OVER", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub take_over: Option<bool>,

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

    /// The mark (SO_MARK) of weft's own packets between nodes, not 0 [default: 0x77652674]
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

    pub(super) fn from_toml(text: &str, file: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| ConfigError::Parse {
            file: file.to_owned(),
            source: Box::new(e),
        })
    }

    /// These settings where they are given, `lower`'s where not.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            kubernetes: self.kubernetes.or(lower.kubernetes),
            name: self.name.or(lower.name),
            state_dir: self.state_dir.or(lower.state_dir),
            port: self.port.or(lower.port),
            endpoint: self.endpoint.or(lower.endpoint),
            pool: self.pool.or(lower.pool),
            pool6: self.pool6.or(lower.pool6),
            cluster_cidr: self.cluster_cidr.or(lower.cluster_cidr),
            cni_conf_dir: self.cni_conf_dir.or(lower.cni_conf_dir),
            take_over: self.take_over.or(lower.take_over),
            node_prefix: self.node_prefix.or(lower.node_prefix),
            tunnel: self.tunnel.or(lower.tunnel),
            underlay_mtu: self.underlay_mtu.or(lower.underlay_mtu),
            fwmark: self.fwmark.or(lower.fwmark),
            dns_domain: self.dns_domain.or(lower.dns_domain),
            dns_upstream: self.dns_upstream.or(lower.dns_upstream),
        }
    }
}
