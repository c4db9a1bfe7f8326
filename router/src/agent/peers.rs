//! Each member as a WireGuard peer: its endpoint, its allowed IPs, the MTU of the way to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use tracing::debug;
use weft_mesh::device::{DeviceStatus, PeerConfig};
use weft_mesh::endpoint::{self, EndpointChoice, Evidence, Report};
use weft_mesh::probe::Life;
use weft_mesh::{Endpoint, Member, NodeId, PublicKey, Roster};

use super::probes::Probes;
use crate::control::{PeerState, PeerStatus};
use crate::underlay;

/// How long a path's MTU is believed. The kernel's own path MTU entries live 10 minutes.
const MTU_AGE: Duration = Duration::from_secs(30);

/// What is known of every peer beside its record.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
}

/// A name and a port, and what they resolved to last.
type Resolved = BTreeMap<(String, u16), Vec<SocketAddr>>;

#[derive(Debug)]
struct Peer {
    choice: EndpointChoice,
    set: Option<SocketAddr>,
    /// What the names among its endpoints resolved to, put there by a task.
    resolved: Arc<Mutex<Resolved>>,
    mtu: Option<(SocketAddr, Instant, u32)>,
}

/// What a look at the peers goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) status: &'a DeviceStatus,
    pub(super) probes: &'a Probes,
    pub(super) pools: &'a [IpNet],
    pub(super) fwmark: u32,
    /// Of the underlay, where it was set: bytes.
    pub(super) underlay_mtu: Option<u32>,
    pub(super) now: Instant,
}

impl Peers {
    /// Decides each peer's endpoint anew.
    pub(super) fn update(&mut self, roster: &Roster, look: Look<'_>) {
        self.peers.retain(|id, _| roster.members.contains_key(id));
        for (id, member) in &roster.members {
            let peer = self.peers.entry(*id).or_insert_with(|| Peer {
                choice: EndpointChoice::new(look.now),
                set: None,
                resolved: Arc::default(),
                mtu: None,
            });
            peer.update(member, look);
        }
    }

    /// The wanted peers of the device.
    pub(super) fn wanted(&self, roster: &Roster) -> BTreeMap<PublicKey, PeerConfig> {
        let config = |member: &Member| PeerConfig {
            endpoint: self.peers.get(&member.id).and_then(|peer| peer.set),
            allowed_ips: member.pod_cidrs.iter().copied().collect(),
            preshared_key: None,
            // Probes keep a NAT's mapping alive.
            persistent_keepalive: None,
        };
        roster
            .members
            .values()
            .map(|member| (member.public_key, config(member)))
            .collect()
    }

    /// Bytes that fit through the tunnel to a peer, where its endpoint is known.
    pub(super) fn mtu(&self, id: &NodeId) -> Option<u32> {
        self.peers.get(id)?.mtu.map(|(_, _, mtu)| mtu)
    }

    /// The underlay has changed: each path's MTU is to be asked anew.
    pub(super) fn forget_mtus(&mut self) {
        for peer in self.peers.values_mut() {
            peer.mtu = None;
        }
    }

    /// Whom to probe, at which address.
    pub(super) fn probed(&self, roster: &Roster) -> BTreeMap<NodeId, IpAddr> {
        let there = roster.members.values().filter(|member| !member.away);
        there
            .filter_map(|member| Some((member.id, member.mesh_addresses().next()?)))
            .collect()
    }

    /// The peers for `weft status`, by name.
    pub(super) fn report(&self, roster: &Roster, look: Look<'_>) -> Vec<PeerStatus> {
        let mut peers: Vec<PeerStatus> = roster
            .members
            .values()
            .map(|member| self.report_one(member, look))
            .collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }

    fn report_one(&self, member: &Member, look: Look<'_>) -> PeerStatus {
        let device = look
            .status
            .peers
            .get(&member.public_key)
            .cloned()
            .unwrap_or_default();
        let health = look.probes.health(&member.id);
        let state = match health.map_or(Life::Unknown, |health| health.life) {
            _ if member.away => PeerState::Away,
            _ if member.pod_cidrs.is_empty() => PeerState::Claiming,
            Life::Alive => PeerState::Established,
            Life::Dead => PeerState::Unreachable,
            Life::Unknown => PeerState::Connecting,
        };
        let detail = match state {
            PeerState::Connecting | PeerState::Unreachable => self
                .peers
                .get(&member.id)
                .map(|peer| detail(&peer.choice.report(), look.now)),
            _ => None,
        };
        PeerStatus {
            id: member.id.to_string(),
            name: member.name.to_string(),
            state,
            public_key: member.public_key.to_string(),
            endpoint: device.endpoint.map(|endpoint| endpoint.to_string()),
            ranges: member.pod_cidrs.iter().map(ToString::to_string).collect(),
            rtt_ms: health
                .and_then(|h| h.smoothed_rtt)
                .map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: health.filter(|h| h.sent > 0).map(|h| f64::from(h.loss)),
            mtu: self.mtu(&member.id),
            handshake_s: age(device.last_handshake).map(|age| age.as_secs()),
            rx_bytes: device.rx_bytes,
            tx_bytes: device.tx_bytes,
            detail,
        }
    }
}

impl Peer {
    fn update(&mut self, member: &Member, look: Look<'_>) {
        let device = look.status.peers.get(&member.public_key);
        let candidates = self.candidates(&member.endpoints);
        self.choice
            .set_candidates(&candidates, look.pools, look.now);
        let life = look
            .probes
            .health(&member.id)
            .map_or(Life::Unknown, |health| health.life);
        let evidence = Evidence {
            endpoint: device.and_then(|peer| peer.endpoint),
            handshake: device.and_then(|peer| age(peer.last_handshake)),
            probes: match life {
                Life::Alive => endpoint::Probes::Answered,
                Life::Dead => endpoint::Probes::Unanswered,
                Life::Unknown => endpoint::Probes::Unknown,
            },
        };
        let decision = self.choice.decide(&evidence, look.now);
        self.set = decision.set;
        if decision.resolve || self.has_unresolved(&member.endpoints) {
            self.resolve(&member.endpoints);
        }
        if let Some(endpoint) = decision.set.or(evidence.endpoint) {
            self.look_at_mtu(endpoint, look);
        }
    }

    fn candidates(&self, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = endpoints.iter().flat_map(|endpoint| match endpoint {
            Endpoint::Address(address) => vec![*address],
            Endpoint::Name { host, port } => resolved
                .get(&(host.clone(), *port))
                .cloned()
                .unwrap_or_default(),
        });
        addresses.collect()
    }

    fn has_unresolved(&self, endpoints: &[Endpoint]) -> bool {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().any(|endpoint| {
            matches!(endpoint, Endpoint::Name { host, port } if !resolved.contains_key(&(host.clone(), *port)))
        })
    }

    /// Asks for the names anew; until there is an answer, what they were is kept.
    fn resolve(&self, endpoints: &[Endpoint]) {
        for endpoint in endpoints {
            let Endpoint::Name { host, port } = endpoint else {
                continue;
            };
            let (host, port) = (host.clone(), *port);
            // Marks the name as asked for.
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.entry((host.clone(), port)).or_default();
            drop(resolved);
            let resolved = Arc::clone(&self.resolved);
            tokio::spawn(async move {
                match tokio::net::lookup_host((host.clone(), port)).await {
                    Ok(found) => {
                        let found: Vec<SocketAddr> = found.take(8).collect();
                        resolved
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert((host, port), found);
                    }
                    Err(error) => debug!(%error, host, "an endpoint's name"),
                }
            });
        }
    }

    fn look_at_mtu(&mut self, endpoint: SocketAddr, look: Look<'_>) {
        let known = self
            .mtu
            .filter(|(of, at, _)| *of == endpoint && look.now < *at + MTU_AGE);
        if known.is_some() {
            return;
        }
        let underlay = look
            .underlay_mtu
            .or_else(|| underlay::path_mtu(endpoint, look.fwmark).ok());
        self.mtu = underlay.map(|bytes| {
            (
                endpoint,
                look.now,
                underlay::tunnel_mtu(bytes, endpoint.ip()),
            )
        });
    }
}

/// How long ago; a clock that was set back makes it now.
fn age(then: Option<SystemTime>) -> Option<Duration> {
    then.map(|then| then.elapsed().unwrap_or_default())
}

/// What was tried and when the next try is, in words.
fn detail(report: &Report, now: Instant) -> String {
    match report {
        Report::Connected { since, .. } => {
            format!(
                "no answer to the last probes; connected for {} s",
                (now - *since).as_secs()
            )
        }
        Report::NoEndpoint { since } => format!(
            "it tells of no endpoint that could be tried, for {} s; it has to reach this node",
            (now - *since).as_secs()
        ),
        Report::Trying {
            endpoint,
            since,
            next,
            tried,
        } => {
            let mut text = format!(
                "no handshake for {} s; trying {endpoint}, the next in {:.1} s",
                (now - *since).as_secs(),
                next.saturating_duration_since(now).as_secs_f64()
            );
            if !tried.is_empty() {
                let tried: Vec<String> = tried.iter().map(|t| t.endpoint.to_string()).collect();
                text.push_str(&format!("; tried before: {}", tried.join(", ")));
            }
            text
        }
    }
}
