//! The DNS server as the agent keeps it: its zone, who may ask, where it listens.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use weft_dns::{CacheLimits, Server, ServerConfig, Servers, Zone, ZoneBuilder};

use super::names::Names;
use crate::config::Config;
use crate::control::NameStatus;

const PORT: u16 = 53;

/// The server and what it was last given.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) server: Arc<Server>,
    zone: Arc<ArcSwap<Zone>>,
    named: Option<Vec<NameStatus>>,
    serial: u32,
}

impl Resolver {
    /// A server that listens nowhere yet.
    ///
    /// # Errors
    /// When the domain is no DNS name.
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
        let zone = ZoneBuilder::new(&config.dns_domain)
            .context("the DNS domain")?
            .build();
        let zone = Arc::new(ArcSwap::from_pointee(zone));
        let upstream = match config.dns_upstreams.as_slice() {
            [] => Servers::resolv_conf("/etc/resolv.conf"),
            servers => Servers::fixed(servers.to_vec()),
        };
        let server = Server::start(ServerConfig {
            zone: Arc::clone(&zone),
            allowed: Vec::new(),
            upstream: Arc::new(upstream),
            cache: CacheLimits::default(),
        });
        Ok(Self {
            server: Arc::new(server),
            zone,
            named: None,
            serial: 1,
        })
    }

    /// Takes the names as they are now, and listens on this node's own addresses. Returns the
    /// names, and what went wrong.
    pub(super) async fn update(&mut self, names: &Names<'_>) -> (Vec<NameStatus>, Vec<String>) {
        let mut problems = Vec::new();
        let list = names.list();
        if self.named.as_ref() != Some(&list) {
            self.serial = self.serial.wrapping_add(1);
            match names.zone(self.serial) {
                Ok(zone) => self.zone.store(Arc::new(zone)),
                Err(error) => problems.push(format!("the DNS domain: {error}")),
            }
            self.named = Some(list.clone());
        }
        self.server.set_allowed(names.pools.to_vec());
        problems.extend(self.listen(names.my_addresses).await);
        (list, problems)
    }

    async fn listen(&self, addresses: &[IpAddr]) -> Vec<String> {
        let mut wanted: Vec<SocketAddr> = addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, PORT))
            .collect();
        let mut listening = self.server.addresses();
        wanted.sort_unstable();
        listening.sort_unstable();
        if listening == wanted {
            return Vec::new();
        }
        let failed = self.server.listen(&wanted).await;
        failed
            .iter()
            .map(|e| {
                let hint = match e.source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "; the capability NET_BIND_SERVICE allows it"
                    }
                    _ => "",
                };
                format!("DNS on {}: {}{hint}", e.address, e.source)
            })
            .collect()
    }
}
