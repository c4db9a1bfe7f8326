//! Pods' interfaces.

use std::net::IpAddr;

use weft_router::host::{Desired, Link, Mac, NeighbourKey, Observed, RouteKey, Target};
use weft_router::kernel::veth::{PodLink, VethError, host_link, macs};
use weft_router::kernel::{Kernel, Linux, netns};
use weft_router::plan::plan;

use crate::space::{self, Pod, sh};

pub(crate) fn link(name: &str, addresses: &[&str]) -> PodLink {
    PodLink {
        host_link: host_link(name, "eth0"),
        pod_link: "eth0".to_owned(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        mtu: 1420,
    }
}

/// The host as a pod needs it: something to answer from.
fn host() {
    sh(
        "ip link add weft0 type veth peer name far && ip link set weft0 up && ip link set far up \
        && ip addr add 10.32.1.1/32 dev weft0 && ip addr add fd00:77:0:1::1/128 dev weft0 nodad \
        && echo 1 > /proc/sys/net/ipv4/ip_forward && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
}

#[test]
fn a_pod_reaches_its_host_and_another_pod_at_once() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        let (a, b) = (Pod::new(), Pod::new());
        let first = link("a", &["10.32.1.7", "fd00:77:0:1::7"]);
        let second = link("b", &["10.32.1.8", "fd00:77:0:1::8"]);
        kernel.attach(a.netns(), first.clone()).await.unwrap();
        kernel.attach(b.netns(), second.clone()).await.unwrap();
        for far in ["10.32.1.1", "10.32.1.8", "fd00:77:0:1::1", "fd00:77:0:1::8"] {
            a.sh(&format!("ping -c1 -W2 {far}"));
        }
        sh("ping -c1 -W2 10.32.1.7 && ping -c1 -W2 fd00:77:0:1::8");
        assert_eq!(kernel.check(a.netns(), first).await.unwrap(), [""; 0]);
        let routes = a.sh("ip route show");
        assert!(
            routes.contains("default via 169.254.1.1 dev eth0"),
            "{routes}"
        );
        assert!(
            a.sh("ip -6 route show")
                .contains("default via fe80::1 dev eth0")
        );
        // Nothing was asked of anybody.
        let learnt = a.sh("ip neigh show nud reachable nud stale nud delay nud probe");
        assert!(
            !learnt.contains("10.32") && !learnt.contains("fd00"),
            "{learnt}"
        );
        let ours = kernel.list_ours().await.unwrap();
        assert!(
            ours.iter()
                .any(|veth| veth.name == second.host_link && veth.up)
        );
    });
}

#[test]
fn a_detached_pod_is_cut_off_at_once_and_its_link_gone_soon() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        let pod = Pod::new();
        let wanted = link("a", &["10.32.1.7"]);
        kernel.attach(pod.netns(), wanted.clone()).await.unwrap();
        let removal = kernel.detach(&wanted.host_link).await.unwrap();
        assert!(!sh("ip route show").contains("10.32.1.7"));
        removal.finished().await.unwrap();
        assert!(!sh("ip link show").contains(&wanted.host_link));
        let again = kernel.detach(&wanted.host_link).await.unwrap();
        again.finished().await.unwrap();
        // The same name, the same pod, at once.
        kernel.attach(pod.netns(), wanted).await.unwrap();
        pod.sh("ping -c1 -W2 10.32.1.1");
    });
}

#[test]
fn an_attach_that_fails_leaves_nothing() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        let pod = Pod::new();
        let before = sh("ip -brief link show; ip route show");
        pod.sh("ip link add eth0 type veth peer name other");
        let error = kernel
            .attach(pod.netns(), link("a", &["10.32.1.7"]))
            .await
            .unwrap_err();
        assert!(matches!(error, VethError::Exists(_)), "{error}");
        pod.sh("ip link del eth0");
        let mut bad = link("a", &["10.32.1.7"]);
        bad.addresses.push("ff02::1".parse::<IpAddr>().unwrap());
        let error = kernel.attach(pod.netns(), bad).await.unwrap_err();
        assert!(matches!(error, VethError::Io { .. }), "{error}");
        assert_eq!(sh("ip -brief link show; ip route show"), before);
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let error = kernel
            .attach(file.into(), link("a", &["10.32.1.7"]))
            .await
            .unwrap_err();
        assert!(matches!(error, VethError::Netns(_)), "{error}");
    });
}

#[test]
fn an_attach_that_was_cut_off_is_made_anew() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        let pod = Pod::new();
        let wanted = link("a", &["10.32.1.7"]);
        sh(&format!(
            "ip link add {} type veth peer name half",
            wanted.host_link
        ));
        kernel.attach(pod.netns(), wanted.clone()).await.unwrap();
        kernel.attach(pod.netns(), wanted).await.unwrap();
        pod.sh("ping -c1 -W2 10.32.1.1");
    });
}

#[test]
fn a_pod_takes_other_addresses_and_stays_up() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        let pod = Pod::new();
        let mut wanted = link("a", &["10.32.1.7", "fd00:77:0:1::7"]);
        kernel.attach(pod.netns(), wanted.clone()).await.unwrap();
        let other: Vec<IpAddr> = ["10.32.5.7", "fd00:77:0:5::7"]
            .map(|a| a.parse().unwrap())
            .into();
        kernel
            .readdress(pod.netns(), wanted.clone(), other.clone())
            .await
            .unwrap();
        let wrong = kernel.check(pod.netns(), wanted.clone()).await.unwrap();
        assert_eq!(
            wrong,
            [
                "eth0 has not the address 10.32.1.7",
                "the host has no route to 10.32.1.7",
                "eth0 has not the address fd00:77:0:1::7",
                "the host has no route to fd00:77:0:1::7",
            ]
        );
        wanted.addresses = other;
        assert_eq!(kernel.check(pod.netns(), wanted).await.unwrap(), [""; 0]);
        pod.sh("ping -c1 -W2 10.32.1.1 && ping -c1 -W2 fd00:77:0:1::1");
        let own = pod.sh("ip -brief address show eth0");
        assert!(
            !own.contains("10.32.1.7") && !own.contains("fd00:77:0:1::7"),
            "{own}"
        );
    });
}

#[test]
fn a_pod_with_ipv6_switched_off_gets_its_address_all_the_same() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        let pod = Pod::new();
        pod.sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; \
                echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        let wanted = link("a", &["10.32.1.7", "fd00:77:0:1::7"]);
        kernel.attach(pod.netns(), wanted).await.unwrap();
        pod.sh("ping -c1 -W2 fd00:77:0:1::1");
    });
}

#[test]
fn the_first_packets_of_a_pod_are_answered() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        host();
        for n in 0..10 {
            let pod = Pod::new();
            let wanted = link("a", &["10.32.1.7", "fd00:77:0:1::7"]);
            kernel.attach(pod.netns(), wanted.clone()).await.unwrap();
            let first = ["fd00:77:0:1::1", "10.32.1.1"][n % 2];
            pod.sh(&format!("ping -c1 -W2 {first}"));
            let removal = kernel.detach(&wanted.host_link).await.unwrap();
            removal.finished().await.unwrap();
        }
    });
}

#[test]
fn the_hosts_own_namespace_is_no_pods() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let error = kernel
            .attach(netns::current().unwrap(), link("a", &["10.32.1.7"]))
            .await
            .unwrap_err();
        assert!(matches!(error, VethError::HostNetns), "{error}");
    });
}

#[test]
fn what_an_attach_made_is_what_a_plan_wants_of_a_pod() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let pod = Pod::new();
        let made = link("a", &["10.32.1.7", "fd00:77:0:1::7"]);
        let desired = |source: Option<&str>| {
            let mut desired = Desired::default();
            let up = Link {
                mtu: 1420,
                up: true,
            };
            desired.links.insert(made.host_link.clone(), up);
            for address in &made.addresses {
                let key = NeighbourKey {
                    link: made.host_link.clone(),
                    address: *address,
                };
                desired
                    .neighbours
                    .insert(key, macs(&made.host_link).pod_mac);
                let source: Option<IpAddr> = source.map(|source| source.parse().unwrap());
                let target = Target::Link {
                    link: made.host_link.clone(),
                    preferred_source: source.filter(|s| s.is_ipv4() == address.is_ipv4()),
                    mtu: None,
                };
                desired
                    .routes
                    .insert(RouteKey::over((*address).into()), target);
            }
            desired
        };
        kernel.attach(pod.netns(), made.clone()).await.unwrap();
        let seen: Observed = kernel.observe().await.unwrap();
        let steps = plan(&desired(None), &seen);
        assert!(steps.is_empty(), "{steps}");
        // A neighbour entry that somebody spoilt is put right.
        sh(&format!(
            "ip neigh replace 10.32.1.7 lladdr 02:00:00:00:00:99 dev {} nud permanent",
            made.host_link
        ));
        let seen = kernel.observe().await.unwrap();
        assert!(
            seen.neighbours
                .values()
                .any(|mac| *mac == Mac([2, 0, 0, 0, 0, 0x99]))
        );
        kernel.apply(&plan(&desired(None), &seen)).await.unwrap();
        // A route that prefers a source is the pod's route still.
        sh("ip addr add 10.32.1.1/32 dev lo");
        let seen = kernel.observe().await.unwrap();
        kernel
            .apply(&plan(&desired(Some("10.32.1.1")), &seen))
            .await
            .unwrap();
        assert_eq!(
            kernel.check(pod.netns(), made.clone()).await.unwrap(),
            [""; 0]
        );
    });
}

#[test]
fn twenty_pods_at_once_are_all_attached() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = std::sync::Arc::new(Linux::open(state.path()).unwrap());
        host();
        let pods: Vec<Pod> = (0..20).map(|_| Pod::new()).collect();
        let tasks: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| {
                let (kernel, netns) = (kernel.clone(), pod.netns());
                let wanted = link(&n.to_string(), &[&format!("10.32.1.{}", n + 2)]);
                tokio::spawn(async move { kernel.attach(netns, wanted).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(kernel.list_ours().await.unwrap().len(), 20);
        pods[0].sh("ping -c1 -W2 10.32.1.21");
    });
}
