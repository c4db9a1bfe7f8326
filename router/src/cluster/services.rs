//! The cluster's Service ranges, out of its ServiceCIDR objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;
use tracing::info;
use weft_mesh::discovery::kubernetes::{Kind, Kubernetes, Meta, Update};

/// A server has one or two; more ranges are not looked at.
const MOST: usize = 64;

struct ServiceCidrs;

#[derive(Clone, Debug, Deserialize)]
struct Wire {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: Vec<String>,
}

impl Kind for ServiceCidrs {
    const PLURAL: &'static str = "servicecidrs";
    const PATH: &'static str = "/apis/networking.k8s.io/v1/servicecidrs";
    /// Servers before 1.33 have none.
    const OPTIONAL: bool = true;
    type Wire = Wire;
    type Key = String;
    type Cut = Vec<IpNet>;
    type News = Update<String, Vec<IpNet>>;

    fn meta(wire: &Wire) -> &Meta {
        &wire.metadata
    }

    fn cut(wire: Wire) -> Option<(String, Vec<IpNet>)> {
        let ranges = wire.spec.cidrs.iter().take(MOST);
        let ranges = ranges.filter_map(|text| text.parse().ok());
        Some((wire.metadata.name, ranges.collect()))
    }

    fn news(update: Update<String, Vec<IpNet>>) -> Self::News {
        update
    }
}

/// Tells discovery of them for as long as it lives.
pub(super) async fn follow(kubernetes: Arc<Kubernetes>) {
    let mut news = kubernetes.watch::<ServiceCidrs>();
    let mut known = BTreeMap::new();
    while let Some(update) = news.recv().await {
        if !update.apply(&mut known) {
            continue;
        }
        let all = known.values().flatten().take(MOST);
        let mut ranges: Vec<IpNet> = all.map(IpNet::trunc).collect();
        ranges.sort_unstable();
        ranges.dedup();
        info!(?ranges, "the cluster's Services");
        kubernetes.services_are(ranges);
    }
}
