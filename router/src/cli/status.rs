//! `weft status`: the agent's state as text, a section a service, or as JSON.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::bail;

use crate::control::{ConnectionStatus, ControlReply, ControlRequest, PeerState, Status, ask};

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// One part in detail
    #[arg(value_enum)]
    part: Option<Part>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Part {
    /// Each node: state, ranges, endpoint, round trip, loss, handshake
    Peers,
    /// Each connection of discovery: state, error, next try
    Connections,
    /// Pools, this node's ranges, each lease
    Ipam,
    /// Names and counters
    Dns,
}

pub(super) fn run(args: &StatusArgs, socket: &Path) -> anyhow::Result<()> {
    let ControlReply::Status(status) = ask(socket, &ControlRequest::Status)? else {
        bail!("the agent answered something else than its status");
    };
    let text = if args.json {
        json(&status, args.part)?
    } else {
        text(&status, args.part)
    };
    print!("{text}");
    Ok(())
}

fn json(status: &Status, part: Option<Part>) -> serde_json::Result<String> {
    let mut text = match part {
        None => serde_json::to_string_pretty(status),
        Some(Part::Peers) => serde_json::to_string_pretty(&status.peers),
        Some(Part::Connections) => serde_json::to_string_pretty(&status.connections),
        Some(Part::Ipam) => serde_json::to_string_pretty(&status.ipam),
        Some(Part::Dns) => serde_json::to_string_pretty(&status.dns),
    }?;
    text.push('\n');
    Ok(text)
}

fn text(status: &Status, part: Option<Part>) -> String {
    match part {
        None => overview(status),
        Some(Part::Peers) => peers(status),
        Some(Part::Connections) => connections(status),
        Some(Part::Ipam) => ipam(status),
        Some(Part::Dns) => dns(status),
    }
}

/// A screen of `key: value` lines, the colons under one another.
#[derive(Default)]
struct Screen(String);

impl Screen {
    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key:>14}: {value}");
    }

    fn gap(&mut self) {
        self.0.push('\n');
    }
}

fn overview(status: &Status) -> String {
    let mut screen = Screen::default();
    screen.line("Version", &status.version);
    screen.gap();
    screen.line("Service", "mesh");
    screen.line(
        "Name",
        format!("{} ({})", status.mesh.name, short(&status.mesh.id)),
    );
    screen.line("Mesh", &status.mesh.mesh_id);
    screen.line("Addresses", list(&status.mesh.addresses));
    screen.line("Endpoints", list(&status.mesh.endpoints));
    let engine = &status.engine;
    screen.line(
        "Encryption",
        format!(
            "WireGuard, {} on {} ({})",
            engine.kind, engine.link, engine.reason
        ),
    );
    if !engine.drops.is_empty() {
        let drops = engine.drops.iter().map(|(why, n)| format!("{why} {n}"));
        screen.line("Drops", list(&drops.collect::<Vec<_>>()));
    }
    screen.line("Peers", count(status));
    screen.line("Connections", connected(status));
    screen.gap();
    screen.line("Service", "ipam");
    screen.line("Status", &status.ipam.state);
    screen.line("Range", list(&status.ipam.pools));
    let used = status.ipam.leases.len();
    screen.line(
        "This node",
        format!(
            "{} ({used} of {} in use)",
            list(&status.ipam.ranges),
            status.ipam.capacity
        ),
    );
    screen.gap();
    screen.line("Service", "dns");
    screen.line("Domain", format!("{}.", status.dns.domain));
    screen.line("Listening", list(&status.dns.listening));
    screen.line("Upstream", list(&status.dns.upstreams));
    screen.line("TTL", status.dns.ttl);
    screen.line("Entries", status.dns.names.len());
    if !status.problems.is_empty() {
        screen.gap();
        for problem in &status.problems {
            screen.line("Problem", problem);
        }
    }
    screen.0
}

fn connected(status: &Status) -> String {
    let is_up = |connection: &&ConnectionStatus| connection.state == "established";
    match (
        status.connections.len(),
        status.connections.iter().filter(is_up).count(),
    ) {
        (0, _) => "0".into(),
        (all, up) => format!("{all} ({up} established)"),
    }
}

fn count(status: &Status) -> String {
    let of = |state| status.peers.iter().filter(|p| p.state == state).count();
    let states = [
        PeerState::Established,
        PeerState::Connecting,
        PeerState::Unreachable,
        PeerState::Away,
        PeerState::Claiming,
    ];
    let parts: Vec<String> = states
        .into_iter()
        .filter(|s| of(*s) > 0)
        .map(|s| format!("{} {s}", of(s)))
        .collect();
    if parts.is_empty() {
        "0".into()
    } else {
        format!("{} ({})", status.peers.len(), parts.join(", "))
    }
}

fn peers(status: &Status) -> String {
    let mut text = format!(
        "{:<16} {:<12} {:<20} {:<26} {:>8} {:>5} {:>10} {:>10} {:>10}\n",
        "NAME", "STATE", "RANGE", "ENDPOINT", "RTT", "LOSS", "HANDSHAKE", "RECEIVED", "SENT"
    );
    for peer in &status.peers {
        let _ = writeln!(
            text,
            "{:<16} {:<12} {:<20} {:<26} {:>8} {:>5} {:>10} {:>10} {:>10}",
            peer.name,
            peer.state,
            peer.ranges.first().map_or("-", String::as_str),
            peer.endpoint.as_deref().unwrap_or("-"),
            peer.rtt_ms.map_or("-".into(), |ms| format!("{ms:.2} ms")),
            peer.loss
                .map_or("-".into(), |loss| format!("{:.0} %", loss * 100.0)),
            peer.handshake_s
                .map_or("never".into(), |s| format!("{s} s ago")),
            peer.rx_bytes,
            peer.tx_bytes,
        );
        if let Some(detail) = &peer.detail {
            let _ = writeln!(text, "  {detail}");
        }
    }
    text
}

fn connections(status: &Status) -> String {
    let mut text = String::new();
    for connection in &status.connections {
        let _ = write!(
            text,
            "{:<28} {:<12} {:<16}",
            connection.address,
            connection.state,
            connection.node.as_deref().unwrap_or("-")
        );
        if let Some(error) = &connection.error {
            let _ = write!(text, " {error}");
        }
        if let Some(ms) = connection.next_try_ms {
            let _ = write!(text, " (next try in {:.1} s)", ms as f64 / 1000.0);
        }
        text.push('\n');
    }
    text
}

fn ipam(status: &Status) -> String {
    let mut text = format!(
        "{}  of  {}  {}\n",
        list(&status.ipam.ranges),
        list(&status.ipam.pools),
        status.ipam.state
    );
    for peer in &status.peers {
        let unreachable = if peer.state == PeerState::Established {
            ""
        } else {
            " - unreachable"
        };
        let _ = writeln!(
            text,
            "{:<16} {}{unreachable}",
            peer.name,
            list(&peer.ranges)
        );
    }
    for lease in &status.ipam.leases {
        let _ = writeln!(
            text,
            "  {:<24} {:<8} {:<16} {}",
            lease.container_id.chars().take(24).collect::<String>(),
            lease.ifname,
            lease.name.as_deref().unwrap_or("-"),
            list(&lease.addresses)
        );
    }
    text
}

fn dns(status: &Status) -> String {
    let mut text = String::new();
    for name in &status.dns.names {
        let _ = writeln!(
            text,
            "{:<32} {:<16} {}",
            name.name,
            name.node,
            list(&name.addresses)
        );
    }
    for (counter, value) in &status.dns.counters {
        let _ = writeln!(text, "{counter}: {value}");
    }
    text
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PeerStatus;

    #[test]
    fn the_overview_counts_peers_by_state_and_ends_with_the_problems() {
        let peer = |state| PeerStatus {
            name: "b".into(),
            state,
            ..PeerStatus::default()
        };
        let status = Status {
            peers: vec![
                peer(PeerState::Established),
                peer(PeerState::Unreachable),
                peer(PeerState::Established),
            ],
            problems: vec!["two nodes have one key".into()],
            ..Status::default()
        };
        let text = overview(&status);
        assert!(
            text.contains("Peers: 3 (2 established, 1 unreachable)"),
            "{text}"
        );
        assert!(
            text.ends_with("Problem: two nodes have one key\n"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_connection_shows_its_error_and_the_next_try() {
        let status = Status {
            connections: vec![crate::control::ConnectionStatus {
                address: "192.0.2.1:6783".into(),
                state: "retrying".into(),
                node: None,
                error: Some("connection refused".into()),
                next_try_ms: Some(1500),
            }],
            ..Status::default()
        };
        let text = connections(&status);
        assert!(
            text.contains("retrying") && text.contains("connection refused (next try in 1.5 s)"),
            "{text}"
        );
    }
}
