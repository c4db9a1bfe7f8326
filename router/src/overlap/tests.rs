//! Each collision, and what is none.

use super::*;

fn check_text(range: &str, host: &Snapshot) -> Vec<String> {
    let found = check(&[range.parse().unwrap()], host);
    found
        .iter()
        .map(|finding| format!("{:?}: {finding}", finding.severity))
        .collect()
}

fn interface(link: &str, net: &str) -> InterfaceAddress {
    InterfaceAddress {
        link: link.to_owned(),
        net: net.parse().unwrap(),
    }
}

fn route(destination: &str, link: &str) -> HostRoute {
    HostRoute {
        destination: destination.parse().unwrap(),
        link: link.to_owned(),
    }
}

#[test]
fn an_ordinary_host_is_no_collision() {
    let host = Snapshot {
        interfaces: vec![
            interface("lo", "127.0.0.1/8"),
            interface("lo", "::1/128"),
            interface("eth0", "192.168.1.5/24"),
            interface("eth0", "fe80::5/64"),
        ],
        routes: vec![
            route("0.0.0.0/0", "eth0"),
            route("::/0", "eth0"),
            route("192.168.1.0/24", "eth0"),
            route("fe80::/64", "eth0"),
        ],
        gateways: vec!["192.168.1.1".parse().unwrap()],
        resolvers: vec!["127.0.0.53".parse().unwrap()],
        endpoints: vec!["203.0.113.9".parse().unwrap()],
    };
    assert_eq!(check_text("10.32.0.0/12", &host), [""; 0]);
    assert_eq!(check_text("fd00:1::/48", &host), [""; 0]);
}

#[test]
fn an_interface_that_overlaps_is_refused_whichever_is_the_larger() {
    let host = |net| Snapshot {
        interfaces: vec![interface("eth0", net)],
        routes: vec![route(
            &net.parse::<IpNet>().unwrap().trunc().to_string(),
            "eth0",
        )],
        ..Snapshot::default()
    };
    assert_eq!(
        check_text("10.32.0.0/12", &host("10.40.3.7/24")),
        ["Refused: range 10.32.0.0/12 overlaps 10.40.3.7/24 of interface eth0"]
    );
    assert_eq!(
        check_text("10.32.0.0/12", &host("10.0.3.7/8")),
        ["Refused: range 10.32.0.0/12 overlaps 10.0.3.7/8 of interface eth0"]
    );
}

#[test]
fn a_route_as_specific_as_the_range_is_refused_and_a_shorter_one_a_warning() {
    let host = Snapshot {
        routes: vec![
            route("0.0.0.0/0", "eth0"),
            route("10.0.0.0/8", "tun0"),
            route("10.32.0.0/12", "tun0"),
            route("10.33.0.0/16", ""),
            route("10.64.0.0/12", "tun0"),
        ],
        ..Snapshot::default()
    };
    assert_eq!(
        check_text("10.32.0.0/12", &host),
        [
            "Refused: range 10.32.0.0/12 overlaps the host's route to 10.32.0.0/12 over tun0",
            "Refused: range 10.32.0.0/12 overlaps the host's route to 10.33.0.0/16",
            "Warning: range 10.32.0.0/12 is part of the host's route to 10.0.0.0/8 over tun0; \
             the mesh's is more specific and wins",
        ]
    );
}

#[test]
fn what_the_host_needs_must_not_be_inside() {
    let inside = |text: &str| vec![text.parse().unwrap()];
    let host = Snapshot {
        gateways: inside("10.32.0.1"),
        resolvers: inside("10.32.0.2"),
        endpoints: inside("10.32.0.3"),
        ..Snapshot::default()
    };
    assert_eq!(
        check_text("10.32.0.0/12", &host),
        [
            "Refused: range 10.32.0.0/12 covers the gateway 10.32.0.1",
            "Refused: range 10.32.0.0/12 covers the name server 10.32.0.2",
            "Refused: range 10.32.0.0/12 covers the endpoint 10.32.0.3",
        ]
    );
}
