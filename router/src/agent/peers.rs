//! Each member as a WireGuard peer: its endpoint, its allowed IPs, the MTU of the way to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use weft_mesh::device::{DeviceStatus, PeerConfig};
use weft_mesh::endpoint::{self, EndpointChoice, Evidence, Report};
use weft_mesh::probe::Life;
use weft_mesh::{Member, NodeId, PublicKey, Roster};

use super::lookup::{Lookup, Turns};
use super::probes::Probes;
use crate::control::{PeerState, PeerStatus};
use crate::underlay;

/// How long a path's MTU is believed. The kernel's own path MTU entries live 10 minutes.
const MTU_AGE: Duration = Duration::from_secs(30);

/// What is known of every peer beside its record.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
    lookups: Turns,
    /// This host's own addresses, at which no peer is.
    local: Vec<IpAddr>,
}

#[derive(Debug)]
struct Peer {
    choice: EndpointChoice,
    set: Option<SocketAddr>,
    names: Lookup,
    mtu: Option<(SocketAddr, Instant, u32)>,
}

/// What a look at the peers goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) status: &'a DeviceStatus,
    pub(super) probes: &'a Probes,
    pub(super) pools: &'a [IpNet],
    /// This node's own.
    pub(super) port: u16,
    pub(super) fwmark: u32,
    /// Of the underlay, where it was set: bytes.
    pub(super) underlay_mtu: Option<u32>,
    pub(super) now: Instant,
}

impl Peers {
    /// Decides each peer's endpoint anew.
    pub(super) fn update(&mut self, roster: &Roster, look: Look<'_>) {
        self.peers.retain(|id, _| roster.members.contains_key(id));
        let silent = self.peers.values().filter(|peer| peer.choice.is_trying());
        let silent = silent.count();
        for (id, member) in &roster.members {
            let peer = self.peers.entry(*id).or_insert_with(|| Peer {
                choice: EndpointChoice::new(look.now),
                set: None,
                names: Lookup::default(),
                mtu: None,
            });
            peer.update(member, look, (&self.local, silent), &self.lookups);
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

    /// The members that are looked for, and whose last handshake is in this host's future: its clock
    /// was set back. Where theirs was too, the kernel's WireGuard of each refuses the other's
    /// initiations until the clocks are where they were. A peer that is removed and added again is
    /// met as if for the first time.
    pub(super) fn out_of_time<'a>(
        &self,
        roster: &'a Roster,
        status: &DeviceStatus,
        now: SystemTime,
    ) -> impl Iterator<Item = &'a Member> {
        roster.members.values().filter(move |member| {
            let peer = self.peers.get(&member.id);
            let device = status.peers.get(&member.public_key);
            peer.is_some_and(|peer| peer.choice.is_trying())
                && device.and_then(|device| device.last_handshake) > Some(now)
        })
    }

    pub(super) fn local_is(&mut self, addresses: &[IpAddr]) {
        addresses.clone_into(&mut self.local);
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
        let detail = match (&device.send_error, detail) {
            (Some(error), Some(detail)) => Some(format!("{detail}; last send: {error}")),
            (_, detail) => detail,
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
            handshake_s: age(device.last_handshake, SystemTime::now()).map(|age| age.as_secs()),
            rx_bytes: device.rx_bytes,
            tx_bytes: device.tx_bytes,
            send_error: device.send_error,
            detail,
        }
    }
}

impl Peer {
    fn update(
        &mut self,
        member: &Member,
        look: Look<'_>,
        (local, silent): (&[IpAddr], usize),
        lookups: &Turns,
    ) {
        let device = look.status.peers.get(&member.public_key);
        let mut candidates = self.names.addresses(&member.endpoints);
        candidates.retain(|at| !is_here(*at, local, look.port));
        self.choice
            .set_candidates(&candidates, look.pools, look.now);
        let life = look
            .probes
            .health(&member.id)
            .map_or(Life::Unknown, |health| health.life);
        let evidence = Evidence {
            endpoint: device.and_then(|peer| peer.endpoint),
            handshake: device.and_then(|peer| age(peer.last_handshake, SystemTime::now())),
            probes: match life {
                Life::Alive => endpoint::Probes::Answered,
                Life::Dead => endpoint::Probes::Unanswered,
                Life::Unknown => endpoint::Probes::Unknown,
            },
            silent,
        };
        let decision = self.choice.decide(&evidence, look.now);
        self.set = decision.set;
        if decision.resolve || self.names.lacks(&member.endpoints) {
            self.names.ask(&member.endpoints, lookups);
        }
        if let Some(endpoint) = decision.set.or(evidence.endpoint) {
            self.look_at_mtu(endpoint, look);
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

/// Whether this node is there, and so no peer: hosts have addresses in common, such as a container
/// bridge's.
fn is_here(endpoint: SocketAddr, local: &[IpAddr], port: u16) -> bool {
    endpoint.port() == port && local.contains(&endpoint.ip())
}

/// How long ago; unknown where the clock was set back since, for nothing fresh is to be made of that.
fn age(then: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    now.duration_since(then?).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_not_looked_for_at_this_nodes_own_address() {
        let local = ["172.17.0.1".parse().unwrap()];
        let is_here = |at: &str| is_here(at.parse().unwrap(), &local, 6783);
        assert!(is_here("172.17.0.1:6783"));
        assert!(!is_here("172.17.0.2:6783"));
        // A peer in a container may have a port of this host.
        assert!(!is_here("172.17.0.1:7000"));
    }

    #[test]
    fn a_handshake_in_the_future_has_no_age() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        assert_eq!(age(Some(now - second), now), Some(second));
        assert_eq!(age(Some(now + second), now), None);
        assert_eq!(age(None, now), None);
    }
    fn member() -> Member {
        Member {
            id: NodeId::from_bytes([7; 32]),
            name: "node-7".parse().unwrap(),
            public_key: PublicKey::from_bytes([7; 32]),
            endpoints: vec!["node-7.example:6783".parse().unwrap()],
            pod_cidrs: vec!["10.32.7.0/24".parse().unwrap()],
            names: Vec::new(),
            away: false,
        }
    }

    /// After a look at the only member, whose name resolves to `found`.
    fn after_a_look(found: &[&str], status: &DeviceStatus) -> (Peers, Roster) {
        let member = member();
        let found = found.iter().map(|at| at.parse().unwrap());
        let now = Instant::now();
        let peer = Peer {
            choice: EndpointChoice::new(now),
            set: None,
            names: Lookup::of("node-7.example", 6783, found),
            mtu: None,
        };
        let mut peers = Peers::default();
        peers.peers.insert(member.id, peer);
        let mut roster = Roster::default();
        roster.members.insert(member.id, member);
        let look = Look {
            status,
            probes: &Probes::start("no-link").unwrap(),
            pools: &["10.32.0.0/12".parse().unwrap()],
            port: 6783,
            fwmark: 0,
            underlay_mtu: Some(1500),
            now,
        };
        peers.update(&roster, look);
        (peers, roster)
    }

    #[tokio::test]
    async fn a_name_that_resolves_into_the_mesh_is_no_endpoint() {
        let endpoint = |found: &[&str]| {
            let (peers, roster) = after_a_look(found, &DeviceStatus::default());
            peers.wanted(&roster)[&member().public_key].endpoint
        };
        let outside = "192.0.2.7:6783";
        assert_eq!(endpoint(&["10.32.9.1:6783"]), None);
        assert_eq!(endpoint(&["10.32.9.1:6783", outside]), outside.parse().ok());
    }

    #[tokio::test]
    async fn a_silent_peer_whose_handshake_is_in_the_future_is_out_of_time() {
        let now = SystemTime::now();
        let second = Duration::from_secs(1);
        let is_out = |last_handshake| {
            let mut status = DeviceStatus::default();
            let device = weft_mesh::device::PeerStatus {
                last_handshake,
                ..Default::default()
            };
            status.peers.insert(member().public_key, device);
            let (peers, roster) = after_a_look(&["192.0.2.7:6783"], &status);
            peers.out_of_time(&roster, &status, now).count() == 1
        };
        assert!(is_out(Some(now + second)));
        // It has been met since the clock was set back, or never.
        assert!(!is_out(Some(now - 600 * second)) && !is_out(None));
    }
}
