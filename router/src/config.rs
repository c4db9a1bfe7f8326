//! Settings from flags, the environment and `/etc/weft/weft.toml`, in that order, into one `Config`.
//!
//! Pure but for [`Settings::from_file`], which reads the file.

#[cfg(test)]
mod corpus;
mod kubernetes;
mod settings;
#[cfg(test)]
mod tests;
mod text;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use weft_mesh::discovery::gossip::Token;
use weft_mesh::tunnel::Backend;
use weft_mesh::{Endpoint, NodeName};

pub use self::kubernetes::KubernetesConfig;
pub use self::settings::Settings;
use self::words::{default_name, endpoint, join_line};

/// The default settings file; it need not exist.
pub const CONFIG_FILE: &str = "/etc/weft/weft.toml";
/// The default control socket.
pub const SOCKET: &str = "/run/weft/weft.sock";
/// UDP for WireGuard, TCP for joining, gossip and control.
pub const PORT: u16 = 6783;

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
    /// Who is in the mesh is said by the Kubernetes API; `None`: by gossip.
    pub kubernetes: Option<KubernetesConfig>,
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
        setting.to_uppercase().replace('-', "_")
    )]
    Setting {
        setting: &'static str,
        value: String,
        allowed: String,
    },
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
        let kubernetes = KubernetesConfig::build(&settings, join)?;
        let name = match settings.name {
            Some(name) if kubernetes.is_none() && !name.is_label() => {
                return Err(ConfigError::Setting {
                    setting: "name",
                    value: name.to_string(),
                    allowed: "one DNS label, without dots".into(),
                });
            }
            Some(name) => name,
            None if kubernetes.is_some() => default_name(hostname)?,
            None => default_name(hostname.split('.').next().unwrap_or_default())?,
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
            kubernetes,
        })
    }
}

const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 32, 0, 0), 12);
// "weft" in ASCII, unlikely to be anybody else's mark, but without bit 14: kube-proxy translates whatever
// has that bit, to a random port.
const DEFAULT_FWMARK: u32 = 0x7765_2674;

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
