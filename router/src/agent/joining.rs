//! How others join a mesh of gossip: the line that `weft up` and `weft token` print.

use std::sync::Arc;

use tokio::sync::watch;
use weft_mesh::discovery::Discovery;
use weft_mesh::discovery::gossip::Gossip;

use super::reconcile::Report;
use crate::config::{Config, PORT};

/// Says how others join, once this node knows where it can be reached.
pub(super) async fn print_join_line(
    config: Arc<Config>,
    gossip: Arc<Gossip>,
    mut node: watch::Receiver<Arc<Report>>,
) {
    let mut own = gossip.own();
    let held = own.wait_for(|own| !own.ranges.is_empty()).await.is_ok();
    let Ok(report) = node
        .wait_for(|report| !report.endpoints.is_empty())
        .await
        .map(|r| Arc::clone(&r))
    else {
        return;
    };
    if held && config.join.is_none() {
        println!(
            "weft up --join {}",
            join_argument(&gossip.join_token(), &report.endpoints, config.port)
        );
    }
}

/// The argument of `weft up --join`: the token and where this node may be asked.
pub(super) fn join_argument(token: &str, endpoints: &[String], port: u16) -> String {
    let hosts: Vec<&str> = endpoints
        .iter()
        .take(2)
        .map(|endpoint| short_host(endpoint, port))
        .collect();
    format!(
        "{token}@{}",
        if hosts.is_empty() {
            "HOST".into()
        } else {
            hosts.join(",")
        }
    )
}

/// An endpoint without its port where that is the one that a joining node would try anyway.
fn short_host(endpoint: &str, port: u16) -> &str {
    match endpoint.strip_suffix(&format!(":{port}")) {
        Some(host) if port == PORT => host.trim_matches(['[', ']']),
        _ => endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::join_argument;

    #[test]
    fn a_join_line_names_the_port_only_where_it_is_another() {
        let hosts = [
            "192.0.2.1:6783".to_owned(),
            "[2001:db8::1]:6783".to_owned(),
            "a:1".to_owned(),
        ];
        assert_eq!(join_argument("T", &hosts, 6783), "T@192.0.2.1,2001:db8::1");
        assert_eq!(
            join_argument("T", &hosts, 7000),
            "T@192.0.2.1:6783,[2001:db8::1]:6783"
        );
        assert_eq!(join_argument("T", &[], 6783), "T@HOST");
    }
}
