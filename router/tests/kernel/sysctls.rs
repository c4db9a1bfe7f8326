//! Sysctls: kept, set, put back.

use weft_router::host::Desired;
use weft_router::kernel::{Kernel, Linux, sysctl};

use crate::routes::apply;
use crate::space::{self, Pod, has, sh};

fn value(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/root/proc/sys/{key}"))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn forwarding_is_set_once_and_put_back_by_another_process() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let observed = kernel.observe().await.unwrap();
        let desired = Desired {
            sysctls: sysctl::forwarding(&observed),
            ..Desired::default()
        };
        apply(&kernel, &desired).await;
        assert_eq!(value(sysctl::IP_FORWARD), "1");
        assert_eq!(value(sysctl::IPV6_FORWARDING), "1");
        let again = Linux::open(state.path()).unwrap();
        again.cleanup().await.unwrap();
        assert_eq!(value(sysctl::IP_FORWARD), "0");
        assert_eq!(value(sysctl::IPV6_FORWARDING), "0");
        assert!(!state.path().join("sysctl.json").exists());
    });
}

#[test]
fn what_was_on_before_us_stays_on_after_us() {
    space::run(|| async {
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let observed = kernel.observe().await.unwrap();
        let desired = Desired {
            sysctls: sysctl::forwarding(&observed),
            ..Desired::default()
        };
        apply(&kernel, &desired).await;
        kernel.cleanup().await.unwrap();
        assert_eq!(value(sysctl::IP_FORWARD), "1");
    });
}

/// A router advertisement with a lifetime of half an hour, to all nodes.
const ADVERTISE: &str = "import socket,struct;
s=socket.socket(socket.AF_INET6,socket.SOCK_RAW,socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_MULTICAST_HOPS,255)
s.sendto(struct.pack('!BBHBBHII',134,0,0,64,0,1800,0,0),('ff02::1',0,0,socket.if_nametoindex('uplink')))";

#[test]
fn a_default_route_from_an_advertisement_survives_our_forwarding() {
    space::run(|| async {
        if !has("python3") {
            return;
        }
        let router = Pod::new();
        sh(&format!(
            "ip link add uplink type veth peer name uplink netns {} && ip link set uplink up",
            router.pid()
        ));
        router.sh("ip link set uplink up");
        space::until("the router advertises itself", || {
            router.try_exec(&["python3", "-c", ADVERTISE]);
            sh("ip -6 route show default").contains("proto ra")
        })
        .await;
        assert_eq!(value("net/ipv6/conf/uplink/accept_ra"), "1");
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let wanted = |observed| Desired {
            sysctls: sysctl::forwarding(observed),
            ..Desired::default()
        };
        let before = kernel.observe().await.unwrap();
        let after = apply(&kernel, &wanted(&before)).await;
        assert_eq!(value("net/ipv6/conf/uplink/accept_ra"), "2");
        let routes = sh("ip -6 route show default");
        assert!(routes.contains("proto ra"), "{routes}");
        // What is wanted of the host as it now is, it is already.
        assert_eq!(apply(&kernel, &wanted(&after)).await, after);
        kernel.cleanup().await.unwrap();
        assert_eq!(value("net/ipv6/conf/uplink/accept_ra"), "1");
        assert_eq!(value(sysctl::IPV6_FORWARDING), "0");
    });
}
