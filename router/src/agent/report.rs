//! The control socket's answers: the CNI verbs, the command line's questions, the status.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use weft_cni::api::CniRequest;
use weft_cni::{Error, code};
use weft_dns::RecordType;
use weft_mesh::discovery::Discovery;
use weft_mesh::discovery::gossip::{Gossip, KeyState};

use super::joining::join_argument;
use super::membership::Membership;
use super::names::TTL;
use super::reconcile::Report;
use crate::attach::Workloads;
use crate::config::Config;
use crate::control::{
    ConnectionStatus, ControlReply, ControlRequest, DnsStatus, Handler, IpamStatus, MeshStatus,
    Status, TokenInfo,
};

/// How long a node that has just started may take to look around.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How long the DNS server may take over one question; it gives an upstream less.
const LOOKUP: Duration = Duration::from_secs(6);

/// What the answers come from.
pub(super) struct Control {
    pub(super) config: Arc<Config>,
    pub(super) membership: Membership,
    pub(super) workloads: Arc<Workloads>,
    pub(super) dns: Arc<weft_dns::Server>,
    pub(super) node: watch::Receiver<Arc<Report>>,
    /// Counted up for each question, so that the report tells of the peers too.
    pub(super) ask: Arc<watch::Sender<u64>>,
    pub(super) down: watch::Sender<bool>,
}

impl Handler for Control {
    async fn cni(&self, request: CniRequest, netns: Option<OwnedFd>) -> Result<Value, Error> {
        match request {
            CniRequest::Add(add) => value(self.workloads.add(add, netns).await?),
            CniRequest::Del(del) => value(self.workloads.del(&del).await?),
            CniRequest::Check(check) => value(self.workloads.check(&check, netns).await?),
            CniRequest::Gc(gc) => value(self.workloads.gc(&gc).await?),
            CniRequest::Status(status) => value(self.workloads.status(&status)?),
        }
    }

    async fn control(&self, request: ControlRequest) -> Result<ControlReply, Error> {
        let refused = |e: &dyn std::fmt::Display| Error::new(code::INTERNAL, e.to_string());
        if !matches!(request, ControlRequest::Down) {
            self.first_look().await;
        }
        match request {
            ControlRequest::Status => Ok(ControlReply::Status(Box::new(self.status()))),
            ControlRequest::Forget { who } => {
                let gossip = self.membership.gossip()?;
                let roster = gossip.roster().borrow().clone();
                let id = gossip.forget(&who).await.map_err(|e| refused(&e))?;
                let name = roster
                    .members
                    .get(&id)
                    .map_or(who, |member| member.name.to_string());
                Ok(ControlReply::Forgotten {
                    name,
                    id: id.to_string(),
                })
            }
            ControlRequest::TokenCreate => {
                let token = self.membership.gossip()?.token_create().await;
                let token = token.map_err(|e| refused(&e))?;
                Ok(self.token(&token))
            }
            ControlRequest::TokenRotate => {
                let token = self.membership.gossip()?.token_rotate().await;
                let token = token.map_err(|e| refused(&e))?;
                Ok(self.token(&token))
            }
            ControlRequest::TokenList => Ok(tokens(self.membership.gossip()?)),
            ControlRequest::DnsLookup { name } => self.lookup(&name).await,
            ControlRequest::Down => {
                self.down.send_replace(true);
                Ok(ControlReply::Done)
            }
        }
    }
}

fn value(reply: impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(reply)
        .map_err(|e| Error::new(code::INTERNAL, format!("encode the reply: {e}")))
}

impl Control {
    /// Waits until there is something true to say; a look that hangs is no reason for silence.
    async fn first_look(&self) {
        let mut node = self.node.clone();
        self.ask.send_modify(|question| *question += 1);
        let question = *self.ask.borrow();
        let looked = node.wait_for(|report| !report.pools.is_empty() && report.asked >= question);
        let _ = tokio::time::timeout(FIRST_LOOK, looked).await;
    }

    fn token(&self, token: &str) -> ControlReply {
        let endpoints = &self.node.borrow().endpoints;
        ControlReply::Token {
            join: join_argument(token, endpoints, self.config.port),
        }
    }

    /// What this node's server answers, asked as a pod asks it.
    ///
    /// # Errors
    /// When the server listens nowhere yet, or does not answer.
    async fn lookup(&self, name: &str) -> Result<ControlReply, Error> {
        let Some(server) = self.dns.addresses().first().copied() else {
            let text = "this node's DNS server listens nowhere: it has no address in the mesh yet";
            return Err(Error::new(code::TRY_AGAIN, text));
        };
        let mut failed = None;
        for candidate in candidates(name, &self.config.dns_domain) {
            match addresses(server, &candidate).await {
                Ok(addresses) if addresses.is_empty() => {}
                Ok(addresses) => return Ok(ControlReply::Addresses { addresses }),
                Err(why) => failed = failed.or(Some(why)),
            }
        }
        match failed {
            Some(why) => Err(Error::new(code::INTERNAL, why)),
            None => Ok(ControlReply::Addresses {
                addresses: Vec::new(),
            }),
        }
    }

    fn status(&self) -> Status {
        let report = Arc::clone(&self.node.borrow());
        let discovery = self.membership.discovery();
        // Not in one expression: discovery waits for whoever looks at its news, and asking for its
        // health waits for discovery.
        let own = Arc::clone(&discovery.own().borrow());
        let health = discovery.health();
        let attached = Arc::clone(&self.workloads.snapshot().borrow());
        let connections = health.connections.into_iter();
        let mut connections: Vec<ConnectionStatus> = connections
            .map(|connection| ConnectionStatus {
                address: connection.address,
                state: connection.state.into(),
                node: connection.node,
                error: connection.error,
                next_try_ms: connection.next_try_ms,
            })
            .collect();
        connections.sort_by(|a, b| a.address.cmp(&b.address));
        let counters = health.counters.into_iter();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mesh: MeshStatus {
                id: own.id.to_string(),
                name: own.name.to_string(),
                mesh_id: health.mesh,
                endpoints: report.endpoints.clone(),
                addresses: report.addresses.clone(),
                counters: counters.map(|(k, v)| (k.to_owned(), v)).collect(),
            },
            engine: report.engine.clone(),
            ipam: IpamStatus {
                state: report.unready.clone().unwrap_or_else(|| "ready".into()),
                pools: texts(&report.pools),
                ranges: texts(&report.ranges),
                leases: attached.leases(),
                capacity: attached.capacity,
            },
            dns: self.dns_status(&report),
            peers: report.peers.clone(),
            connections,
            problems: report.problems.clone(),
        }
    }

    fn dns_status(&self, report: &Report) -> DnsStatus {
        let stats = self.dns.stats();
        let counters = [
            ("queries", stats.queries),
            ("local", stats.local),
            ("cache hits", stats.cache_hits),
            ("cache misses", stats.cache_misses),
            ("forwarded", stats.forwarded),
            ("upstream failures", stats.upstream_failures),
            ("refused", stats.refused),
            ("malformed", stats.malformed),
        ];
        DnsStatus {
            domain: self.config.dns_domain.clone(),
            listening: texts(&self.dns.addresses()),
            upstreams: texts(&self.dns.upstreams()),
            ttl: u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX),
            names: report.names.clone(),
            counters: counters
                .map(|(name, n)| (name.to_owned(), n))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        }
    }
}

fn tokens(gossip: &Gossip) -> ControlReply {
    let keys = gossip.token_list();
    let tokens = keys.into_iter().map(|key| TokenInfo {
        id: key.id.to_string(),
        created: key.created,
        state: match key.state {
            KeyState::Active => "active".into(),
            KeyState::Retired => "retired".into(),
        },
    });
    ControlReply::Tokens {
        tokens: tokens.collect(),
    }
}

/// The addresses of a name in both families, none where there is no such name.
///
/// # Errors
/// In words, when the server cannot say.
async fn addresses(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, String> {
    let mut found = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = weft_dns::ask(server, name, kind, LOOKUP).await;
        let answer = answer.map_err(|e| format!("ask this node's DNS server: {e}"))?;
        match answer.code.as_str() {
            "NOERROR" => found.extend(answer.addresses()),
            "NXDOMAIN" => break,
            code => return Err(format!("{name}: this node's DNS server answers {code}")),
        }
    }
    Ok(found)
}

/// What may be meant by a name, the likeliest first, without the last dot: a name without a dot is
/// the mesh's and no matter for other servers, one with dots rather is what it says, and one in the
/// domain or with a last dot is nothing else.
fn candidates(name: &str, domain: &str) -> Vec<String> {
    let whole = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = domain.trim_end_matches('.').to_ascii_lowercase();
    let below = format!("{whole}.{domain}");
    if name.ends_with('.') || whole == domain || whole.ends_with(&format!(".{domain}")) {
        vec![whole]
    } else if whole.contains('.') {
        vec![whole, below]
    } else {
        vec![below]
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_dot_is_the_meshs_alone() {
        for (name, wanted) in [
            ("Web", &["web.weft.local"][..]),
            ("web.shop", &["web.shop", "web.shop.weft.local"]),
            ("web.weft.local", &["web.weft.local"]),
            ("example.org.", &["example.org"]),
            ("weft.local", &["weft.local"]),
        ] {
            assert_eq!(candidates(name, "weft.local"), wanted, "{name}");
        }
    }
}
