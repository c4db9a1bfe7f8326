//! The settings of a node of a Kubernetes cluster.

use std::path::PathBuf;

use ipnet::{IpNet, Ipv6Net};

use super::{ConfigError, Settings};

/// Beyond these a cluster's ranges are no list that a person wrote.
const MOST_CIDRS: usize = 64;

/// What is set for a node of a cluster alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// Shares of it are /64; where the cluster gives no ranges, there is IPv6 if this is set.
    pub pool6: Option<Ipv6Net>,
    /// Fail closed from the first moment.
    pub cluster_cidr: Vec<IpNet>,
    /// Where the network's configuration is written; `None`: nowhere.
    pub cni_conf_dir: Option<PathBuf>,
    pub take_over: bool,
}

impl KubernetesConfig {
    /// Prefix length of a node's share of the IPv6 pool.
    pub const SHARE6: u8 = 64;

    /// `None` where this is no node of a cluster.
    pub(super) fn build(
        settings: &Settings,
        join: Option<&str>,
    ) -> Result<Option<Self>, ConfigError> {
        if !settings.kubernetes.unwrap_or_default() {
            return Ok(None);
        }
        if join.is_some() {
            return Err(ConfigError::Value {
                setting: "join",
                value: "…".into(),
                allowed: "nothing with --kubernetes: there the API says who is in the mesh".into(),
            });
        }
        if let Some(pool) = settings.pool6 {
            check_pool6(pool)?;
        }
        let cluster_cidr = settings.cluster_cidr.clone().unwrap_or_default();
        if let Some(cidr) = cluster_cidr.iter().find(|cidr| **cidr != cidr.trunc()) {
            return Err(refuse(
                "cluster-cidr",
                cidr.to_string(),
                format!(
                    "bits beyond the prefix are set; the range is {}",
                    cidr.trunc()
                ),
            ));
        }
        if cluster_cidr.len() > MOST_CIDRS {
            return Err(refuse(
                "cluster-cidr",
                format!("{} ranges", cluster_cidr.len()),
                format!("{MOST_CIDRS} at most"),
            ));
        }
        Ok(Some(Self {
            pool6: settings.pool6,
            cluster_cidr,
            cni_conf_dir: settings.cni_conf_dir.clone(),
            take_over: settings.take_over.unwrap_or_default(),
        }))
    }
}

fn check_pool6(pool: Ipv6Net) -> Result<(), ConfigError> {
    if pool != pool.trunc() {
        let allowed = format!(
            "bits beyond the prefix are set; the range is {}",
            pool.trunc()
        );
        return Err(refuse("pool6", pool.to_string(), allowed));
    }
    match KubernetesConfig::SHARE6.checked_sub(pool.prefix_len()) {
        Some(1..=16) => Ok(()),
        _ => Err(refuse(
            "pool6",
            pool.to_string(),
            "its prefix is /48 to /63: each node has a /64 of it".into(),
        )),
    }
}

fn refuse(setting: &'static str, value: String, allowed: String) -> ConfigError {
    ConfigError::Setting {
        setting,
        value,
        allowed,
    }
}
