//! Routes, addresses, links: set by us, seen by `ip`, put back when others take them away.

use std::time::Duration;

use weft_router::host::{Address, Desired, Link, MESH_LINK, Observed, PROTOCOL, RouteKey, Target};
use weft_router::kernel::nft::{Ranges, mesh_ruleset};
use weft_router::kernel::{Kernel, Linux, sysctl};
use weft_router::plan::plan;

use crate::space::{self, sh};

/// A node with one peer, in both families.
pub(crate) fn wanted() -> Desired {
    let net = |text: &str| text.parse().unwrap();
    let over = |source: &str| Target::Link {
        link: MESH_LINK.to_owned(),
        preferred_source: Some(source.parse().unwrap()),
        mtu: Some(1420),
    };
    let own = ["10.32.1.1/32", "fd00:77:0:1::1/128"];
    let ranges = Ranges {
        mesh: vec![net("10.32.0.0/12"), net("fd00:77::/48")],
        own: vec![net("10.32.1.0/24"), net("fd00:77:0:1::/64")],
        addresses: own.map(|text| net(text).addr()).to_vec(),
        ..Ranges::default()
    };
    Desired {
        links: [(
            MESH_LINK.to_owned(),
            Link {
                mtu: 1440,
                up: true,
            },
        )]
        .into(),
        addresses: own
            .map(|text| Address {
                link: MESH_LINK.to_owned(),
                net: net(text),
            })
            .into(),
        routes: [
            (
                RouteKey::unreachable(net("10.32.0.0/12")),
                Target::Unreachable,
            ),
            (
                RouteKey::unreachable(net("fd00:77::/48")),
                Target::Unreachable,
            ),
            (RouteKey::over(net("10.32.2.0/24")), over("10.32.1.1")),
            (
                RouteKey::over(net("fd00:77:0:2::/64")),
                over("fd00:77:0:1::1"),
            ),
        ]
        .into(),
        sysctls: [
            (sysctl::IP_FORWARD.to_owned(), "1".to_owned()),
            (sysctl::IPV6_FORWARDING.to_owned(), "1".to_owned()),
        ]
        .into(),
        firewall: Some(mesh_ruleset(&ranges)),
        ..Desired::default()
    }
}

pub(crate) fn mesh_link() {
    sh("ip link add weft0 type veth peer name far && ip link set far up");
}

pub(crate) async fn apply(kernel: &Linux, desired: &Desired) -> Observed {
    let observed = kernel.observe().await.unwrap();
    kernel.apply(&plan(desired, &observed)).await.unwrap();
    let after = kernel.observe().await.unwrap();
    let again = plan(desired, &after);
    assert!(
        again.is_empty(),
        "a second plan is not empty:\n{again}\n{after}"
    );
    after
}

#[test]
fn what_is_wanted_is_there_and_a_second_plan_is_empty() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        apply(&kernel, &wanted()).await;
        let routes = sh(&format!("ip route show proto {PROTOCOL}"));
        assert_eq!(
            routes,
            "unreachable 10.32.0.0/12 metric 4294967295 \n\
             10.32.2.0/24 dev weft0 scope link src 10.32.1.1 metric 50 mtu 1420 \n"
        );
        let routes = sh(&format!("ip -6 route show proto {PROTOCOL}"));
        assert!(
            routes.contains("fd00:77:0:2::/64 dev weft0 src fd00:77:0:1::1 metric 50 mtu 1420"),
            "{routes}"
        );
        assert!(
            routes.contains("unreachable fd00:77::/48 dev lo metric 4294967295"),
            "{routes}"
        );
        let addresses = sh("ip -brief address show weft0");
        assert!(addresses.contains("10.32.1.1/32"), "{addresses}");
        assert!(addresses.contains("fd00:77:0:1::1/128"), "{addresses}");
        // Nothing but the link-local prefix came along with the IPv6 address.
        let kernel_made = sh("ip -6 route show dev weft0 proto kernel");
        assert!(!kernel_made.contains("fd00"), "{kernel_made}");
    });
}

#[test]
fn the_routes_of_a_vanished_peer_go_and_nobody_elses_do() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        sh(
            "ip link add other type veth peer name other1 && ip addr add 192.0.2.1/24 dev other \
            && ip link set other up && ip route add 198.51.100.0/24 dev other \
            && ip route add 203.0.113.0/24 dev other proto 120",
        );
        let before = sh("ip route show; ip -6 route show; ip addr show other");
        let mut desired = wanted();
        apply(&kernel, &desired).await;
        desired
            .routes
            .retain(|_, target| *target == Target::Unreachable);
        let observed = apply(&kernel, &desired).await;
        assert_eq!(observed.routes.len(), 2);
        apply(&kernel, &Desired::default()).await;
        sh("ip link del weft0");
        let after = sh("ip route show; ip -6 route show; ip addr show other");
        assert_eq!(before, after);
    });
}

#[test]
fn a_left_route_over_anothers_link_goes_and_a_link_that_only_sounds_like_ours_stays() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        sh(
            "ip link add weftlab0 type bridge && ip addr add 192.0.2.1/24 dev weftlab0 \
            && ip link set weftlab0 up",
        );
        let before = sh("ip addr show weftlab0 | grep inet; ip route show dev weftlab0");
        sh(&format!(
            "ip route add 198.51.100.0/24 dev weftlab0 proto {PROTOCOL}"
        ));
        apply(&kernel, &wanted()).await;
        let after = sh("ip addr show weftlab0 | grep inet; ip route show dev weftlab0");
        assert_eq!(before, after);
    });
}

#[test]
fn a_route_of_somebody_elses_is_not_replaced_by_ours() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        sh("ip route add blackhole 10.32.2.0/24 metric 50 proto static");
        let observed = kernel.observe().await.unwrap();
        let failures = kernel.apply(&plan(&wanted(), &observed)).await.unwrap_err();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(
            failures[0].to_string(),
            "add route 10.32.2.0/24 metric 50 dev weft0 src 10.32.1.1 mtu 1420: \
             File exists (os error 17)"
        );
        let theirs = sh("ip route show proto static");
        assert!(theirs.contains("blackhole 10.32.2.0/24"), "{theirs}");
    });
}

#[test]
fn a_range_can_move_to_another_preferred_source() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        apply(&kernel, &wanted()).await;
        let mut desired = wanted();
        desired.addresses = [Address {
            link: MESH_LINK.to_owned(),
            net: "10.32.9.1/32".parse().unwrap(),
        }]
        .into();
        desired
            .routes
            .retain(|key, _| key.destination.addr().is_ipv4());
        for target in desired.routes.values_mut() {
            if let Target::Link {
                preferred_source, ..
            } = target
            {
                *preferred_source = Some("10.32.9.1".parse().unwrap());
            }
        }
        apply(&kernel, &desired).await;
        let routes = sh("ip route get 10.32.2.7");
        assert!(routes.contains("dev weft0 src 10.32.9.1"), "{routes}");
    });
}

#[test]
fn without_the_link_only_what_refuses_is_set_and_the_link_is_named() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let desired = wanted();
        let first = plan(&desired, &kernel.observe().await.unwrap());
        assert_eq!(first.absent_links, [MESH_LINK]);
        kernel.apply(&first).await.unwrap();
        let (reachable, said) = space::try_sh("ip route get 10.32.2.7");
        assert!(!reachable, "{said}");
        mesh_link();
        apply(&kernel, &desired).await;
        // With the link go its routes; what refuses stays.
        sh("ip link del weft0");
        let observed = kernel.observe().await.unwrap();
        assert_eq!(observed.routes.len(), 2, "{observed}");
    });
}

#[test]
fn what_others_take_away_is_noticed_and_put_back() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        let desired = wanted();
        let whole = apply(&kernel, &desired).await;
        for harm in [
            "ip route del 10.32.2.0/24",
            "ip -6 route del unreachable fd00:77::/48 metric 4294967295",
            "ip addr del 10.32.1.1/32 dev weft0",
            "ip link set weft0 mtu 1300",
            "ip link set weft0 down",
            "nft flush table inet weft",
            "nft delete table inet weft",
            "nft insert rule inet weft guard_in accept",
            "nft add chain inet weft more",
        ] {
            if harm.starts_with("nft") && !space::has("nft") {
                continue;
            }
            let mut changed = kernel.changed();
            changed.mark_unchanged();
            sh(harm);
            tokio::time::timeout(Duration::from_secs(2), changed.changed())
                .await
                .unwrap_or_else(|_| panic!("not noticed: {harm}"))
                .unwrap();
            let seen = kernel.observe().await.unwrap();
            assert_ne!(seen, whole, "not seen: {harm}");
            assert_eq!(apply(&kernel, &desired).await, whole, "after {harm}");
        }
    });
}

#[test]
fn our_own_changes_are_no_news() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        let mut desired = wanted();
        apply(&kernel, &desired).await;
        // Let what the links' coming up still causes pass by.
        let mut changed = kernel.changed();
        while tokio::time::timeout(Duration::from_millis(300), changed.changed())
            .await
            .is_ok()
        {}
        desired
            .routes
            .retain(|_, target| *target == Target::Unreachable);
        desired.firewall = Some(mesh_ruleset(&Ranges::default()));
        apply(&kernel, &desired).await;
        apply(&kernel, &wanted()).await;
        let news = tokio::time::timeout(Duration::from_millis(300), changed.changed()).await;
        assert!(news.is_err(), "our own routes and rules woke us");
    });
}

#[test]
fn cleanup_takes_all_that_is_ours_and_nothing_else() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        sh(
            "ip link add other type veth peer name other1 && ip addr add 192.0.2.1/24 dev other \
            && ip link set other up && ip route add 10.99.0.0/16 dev other",
        );
        if space::has("nft") {
            sh("nft add table inet theirs");
        }
        let look = || sh("ip -brief link show type veth; ip route show; ip -6 route show dev lo");
        space::until("the other link settles", || look().contains("UP")).await;
        let before = look();
        mesh_link();
        apply(&kernel, &wanted()).await;
        let cleaned = kernel.cleanup().await.unwrap();
        assert!(cleaned.failed.is_empty(), "{cleaned:?}");
        assert!(
            cleaned.done.contains(&"link weft0".to_owned()),
            "{cleaned:?}"
        );
        space::until("all as before", || look() == before).await;
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
        if space::has("nft") {
            assert_eq!(sh("nft list tables").trim(), "table inet theirs");
        }
        // With nothing left and no state, it is still no error.
        let again = Linux::open(&state.path().join("none")).unwrap();
        let cleaned = again.cleanup().await.unwrap();
        assert!(
            cleaned.done.is_empty() && cleaned.failed.is_empty(),
            "{cleaned:?}"
        );
    });
}

#[test]
fn what_is_ours_is_no_overlap_and_what_is_not_is() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        apply(&kernel, &wanted()).await;
        let pool = ["10.32.0.0/12".parse().unwrap()];
        let check = weft_router::overlap::check;
        let seen = kernel.snapshot().await.unwrap();
        let of_routes = |found: Vec<weft_router::overlap::Finding>| -> Vec<String> {
            let shown = found.iter().map(ToString::to_string);
            shown.filter(|text| !text.contains("name server")).collect()
        };
        assert_eq!(of_routes(check(&pool, &seen)), [""; 0]);
        sh(
            "ip addr add 10.40.0.1/24 dev far && ip route add 10.41.0.0/24 dev far \
            && ip route add 10.0.0.0/8 dev far && ip route add default dev far",
        );
        let seen = kernel.snapshot().await.unwrap();
        assert_eq!(
            of_routes(check(&pool, &seen)),
            [
                "range 10.32.0.0/12 overlaps 10.40.0.1/24 of interface far",
                "range 10.32.0.0/12 overlaps the host's route to 10.41.0.0/24 over far",
                "range 10.32.0.0/12 is part of the host's route to 10.0.0.0/8 over far; \
                 the mesh's is more specific and wins",
            ]
        );
    });
}
