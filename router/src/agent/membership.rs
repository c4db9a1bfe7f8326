//! Who is in the mesh: discovery as the settings ask for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use weft_cni::{Error, code};
use weft_mesh::discovery::gossip::{self, CLAIM_WAIT, FoundingParams, Gossip, GossipConfig, Join};
use weft_mesh::discovery::kubernetes::{self, Kubernetes, Pool};
use weft_mesh::discovery::{Announcement, Discovery};
use weft_mesh::identity::Identity;

use super::surroundings::refuse_overlaps;
use crate::config::{Config, KubernetesConfig};
use crate::kernel::Linux;

/// The discovery of this node.
#[derive(Clone, Debug)]
pub(super) enum Membership {
    Gossip(Arc<Gossip>),
    Kubernetes(Arc<Kubernetes>),
}

impl Membership {
    /// # Errors
    /// When the node may not start, in words.
    pub(super) async fn start(
        config: &Config,
        kernel: &Linux,
        identity: Arc<Identity>,
        me: Announcement,
    ) -> anyhow::Result<Self> {
        if let Some(settings) = &config.kubernetes {
            let config = kubernetes_config(config, settings);
            let kubernetes = Kubernetes::start(config, identity, me).await?;
            return Ok(Self::Kubernetes(kubernetes));
        }
        if config.join.is_none() && !gossip::has_mesh(&config.state_dir) {
            // Of another mesh the pool is the mesh's own, which the first look checks.
            refuse_overlaps(kernel, config, &[config.pool.into()]).await?;
        }
        let gossip = Gossip::start(gossip_config(config), identity, me).await?;
        Ok(Self::Gossip(gossip))
    }

    pub(super) fn discovery(&self) -> Arc<dyn Discovery> {
        match self {
            Self::Gossip(gossip) => Arc::<Gossip>::clone(gossip),
            Self::Kubernetes(kubernetes) => Arc::<Kubernetes>::clone(kubernetes),
        }
    }

    /// Tokens, and the forgetting of nodes.
    ///
    /// # Errors
    /// In a cluster, where the API says who is in the mesh.
    pub(super) fn gossip(&self) -> Result<&Arc<Gossip>, Error> {
        match self {
            Self::Gossip(gossip) => Ok(gossip),
            Self::Kubernetes(_) => Err(Error::new(
                code::INTERNAL,
                "this mesh is a Kubernetes cluster's: there are no tokens, and a node leaves it \
                 when its Node is deleted (kubectl delete node NAME)",
            )),
        }
    }

    /// The cluster, where there is one.
    pub(super) fn kubernetes(&self) -> Option<&Arc<Kubernetes>> {
        match self {
            Self::Gossip(_) => None,
            Self::Kubernetes(kubernetes) => Some(kubernetes),
        }
    }
}

fn kubernetes_config(config: &Config, settings: &KubernetesConfig) -> kubernetes::KubernetesConfig {
    let pool = Pool {
        range: config.pool.into(),
        share: config.node_prefix,
    };
    let pool6 = settings.pool6.map(|range| Pool {
        range: range.into(),
        share: KubernetesConfig::SHARE6,
    });
    kubernetes::KubernetesConfig {
        state_dir: config.state_dir.clone(),
        pools: std::iter::once(pool).chain(pool6).collect(),
        closed: settings.cluster_cidr.clone(),
    }
}

fn gossip_config(config: &Config) -> GossipConfig {
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    GossipConfig {
        state_dir: config.state_dir.clone(),
        listen: any.map(|ip| SocketAddr::new(ip, config.port)).to_vec(),
        founding: FoundingParams {
            pool4: config.pool,
            node_prefix4: config.node_prefix,
        },
        join: config.join.clone().map(|line| Join {
            token: line.token,
            hosts: line.hosts,
        }),
        peers: Vec::new(),
        fwmark: Some(config.fwmark),
        claim_wait: CLAIM_WAIT,
        allow_loopback: false,
    }
}
