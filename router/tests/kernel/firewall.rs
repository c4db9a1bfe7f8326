//! The table: as `nft` sees it, and what it does to packets.

use weft_cni::Protocol;
use weft_router::host::Desired;
use weft_router::kernel::nft::{Published, Ranges, mesh_ruleset};
use weft_router::kernel::{Kernel, Linux};

use crate::pods::link as pod_link;
use crate::routes::{apply, mesh_link, wanted};
use crate::space::{self, Pod, has, sh};

fn port(protocol: Protocol, host: Option<&str>, to: &str) -> Published {
    Published {
        protocol,
        host: host.map(|text| text.parse().unwrap()),
        port: 8080,
        to: to.parse().unwrap(),
    }
}

#[test]
fn nft_reads_our_table_as_we_print_it() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        let mut desired = wanted();
        desired.firewall = Some(mesh_ruleset(&Ranges {
            mesh: vec![
                "10.32.0.0/12".parse().unwrap(),
                "fd00:77::/48".parse().unwrap(),
            ],
            own: vec![
                "10.32.1.0/24".parse().unwrap(),
                "10.32.3.0/24".parse().unwrap(),
            ],
            addresses: vec![
                "10.32.1.1".parse().unwrap(),
                "fd00:77:0:1::1".parse().unwrap(),
            ],
            ports: vec![
                port(Protocol::Sctp, Some("192.0.2.1"), "10.32.1.7:80"),
                port(Protocol::Tcp, None, "10.32.1.7:80"),
                port(Protocol::Udp, None, "[fd00:77:0:1::7]:80"),
            ],
        }));
        apply(&kernel, &desired).await;
        let listed = sh("nft -y list table inet weft");
        let plain: Vec<String> = listed
            .lines()
            .map(|line| line.split(" comment ").next().unwrap().to_owned())
            .map(|line| line.replace("counter packets 0 bytes 0", "counter"))
            .filter(|line| !line.is_empty())
            .collect();
        let ours = desired.firewall.unwrap().to_string();
        assert_eq!(plain.join("\n"), ours.trim_end(), "{listed}");
    });
}

/// A network outside: `uplink` on the host, its far end in a namespace of its own.
async fn outside() -> Pod {
    let outside = Pod::new();
    sh(&format!(
        "ip link add uplink address 02:00:00:00:00:01 type veth \
             peer name uplink address 02:00:00:00:00:02 netns {} && ip link set uplink up \
         && ip addr add 192.0.2.1/24 dev uplink && ip addr add 2001:db8::1/64 dev uplink nodad \
         && ip route add default via 192.0.2.2 && ip -6 route add default via 2001:db8::2",
        outside.pid()
    ));
    outside.sh("ip link set lo up && ip link set uplink up && ip addr add 192.0.2.2/24 dev uplink");
    outside.sh("ip addr add 2001:db8::2/64 dev uplink nodad");
    // Permanent: the kernel's table of learnt neighbours is one for all namespaces, and small.
    for far in ["192.0.2.2", "2001:db8::2"] {
        sh(&format!(
            "ip neigh replace {far} lladdr 02:00:00:00:00:02 dev uplink nud permanent"
        ));
    }
    for near in ["192.0.2.1", "2001:db8::1"] {
        outside.sh(&format!(
            "ip neigh replace {near} lladdr 02:00:00:00:00:01 dev uplink nud permanent"
        ));
    }
    // The kernel may take a second to notice that a new link has a carrier.
    space::until("the uplink passes packets", || {
        space::try_sh("ping -c1 -W1 192.0.2.2 && ping -c1 -W1 2001:db8::2").0
    })
    .await;
    outside
}

/// What an `nft` counter in the namespace outside says it saw of the mesh's addresses.
fn watch(outside: &Pod) {
    outside.sh(
        "nft \"table inet seen { chain seen { type filter hook prerouting priority -400; \
         ip daddr 10.32.0.0/12 counter; ip saddr 10.32.0.0/12 counter; \
         ip6 daddr fd00:77::/48 counter; ip6 saddr fd00:77::/48 counter; }; }\"",
    );
}

fn seen(outside: &Pod) -> u64 {
    let table = outside.sh("nft list table inet seen");
    let mut words = table.split_whitespace();
    let mut sum = 0;
    while let Some(word) = words.next() {
        if word == "packets" {
            sum += words.next().unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}

async fn node_with_pod(kernel: &Linux) -> (Pod, Desired) {
    mesh_link();
    let desired = wanted();
    apply(kernel, &desired).await;
    let pod = Pod::new();
    let link = pod_link("a", &["10.32.1.7", "fd00:77:0:1::7"]);
    kernel.attach(pod.netns(), link).await.unwrap();
    (pod, desired)
}

#[test]
fn a_pod_reaches_outside_by_the_hosts_address() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let outside = outside().await;
        watch(&outside);
        let (pod, _) = node_with_pod(&kernel).await;
        pod.sh("ping -c1 -W2 192.0.2.2 && ping -c1 -W2 2001:db8::2");
        assert_eq!(seen(&outside), 0, "a pod's address was seen outside");
    });
}

#[test]
fn no_packet_of_the_pool_leaves_in_the_clear_whatever_is_taken_away() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let outside = outside().await;
        watch(&outside);
        let (pod, desired) = node_with_pod(&kernel).await;
        let pings = "for far in 10.32.2.7 10.40.0.1 fd00:77:0:2::7 fd00:77:0:9::1; \
                     do ping -c1 -W1 $far & done; wait";
        let send = || {
            sh(pings);
            pod.sh(pings);
        };
        let everything = "ip route flush proto 119; ip -6 route flush proto 119";
        for harm in [
            "true",
            everything,
            "nft delete table inet weft",
            "ip link del weft0",
        ] {
            sh(harm);
            send();
            let table = outside.sh("nft list table inet seen");
            assert_eq!(seen(&outside), 0, "after {harm}: {table}");
            if harm != "ip link del weft0" {
                apply(&kernel, &desired).await;
            }
        }
        // That the counter counts: with both layers gone the packets do come.
        sh(everything);
        sh("nft delete table inet weft");
        send();
        assert_ne!(seen(&outside), 0);
    });
}

#[test]
fn a_forged_source_from_outside_is_dropped_and_counted() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let outside = outside().await;
        let (pod, _) = node_with_pod(&kernel).await;
        outside.sh("ip addr add 10.32.2.7/32 dev lo && ip route add 10.32.1.0/24 via 192.0.2.1");
        let (answered, _) = outside.try_sh("ping -c1 -W1 -I 10.32.2.7 10.32.1.7");
        assert!(!answered);
        let chain = sh("nft list chain inet weft guard_in");
        assert!(chain.contains("counter packets 1 "), "{chain}");
        drop(pod);
    });
}

#[test]
fn what_a_peer_sends_for_a_third_is_dropped_and_counted() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let (pod, _) = node_with_pod(&kernel).await;
        // The far end of the mesh: reached by Ethernet here, so told where we are.
        let far = Pod::new();
        sh(&format!("ip link set far netns {}", far.pid()));
        let shown = sh("ip link show weft0");
        let mut words = shown.split_whitespace();
        words.find(|word| *word == "link/ether").unwrap();
        let near = words.next().unwrap();
        sh("ip link set weft0 up");
        far.sh(&format!(
            "ip link set lo up && ip link set far up && ip addr add 10.32.2.7/32 dev far \
             && ip route add 10.32.0.0/16 dev far \
             && ip neigh replace 10.32.3.1 lladdr {near} dev far nud permanent"
        ));
        far.try_sh("ping -c2 -i0.2 -W1 10.32.3.1");
        let chain = sh("nft list chain inet weft guard_transit");
        assert!(chain.contains("counter packets 2 "), "{chain}");
        drop(pod);
    });
}

#[test]
fn a_large_segment_is_clamped_to_the_peers_mtu_both_ways() {
    space::run(|| async {
        if !has("nft") || !has("python3") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let (pod, _) = node_with_pod(&kernel).await;
        // The far end of the mesh: reached by Ethernet here, so told where everybody is.
        let far = Pod::new();
        sh(&format!("ip link set far netns {}", far.pid()));
        let mac = |text: String| {
            let mut words = text.split_whitespace();
            words.find(|word| *word == "link/ether").unwrap();
            words.next().unwrap().to_owned()
        };
        let (near_mac, far_mac) = (
            mac(sh("ip link show weft0")),
            mac(far.sh("ip link show far")),
        );
        far.sh(&format!(
            "ip link set lo up && ip link set far up && ip addr add 10.32.2.7/32 dev far \
             && ip route add 10.32.1.0/24 dev far \
             && ip neigh replace 10.32.1.7 lladdr {near_mac} dev far nud permanent"
        ));
        sh(&format!(
            "ip link set weft0 up && ip neigh replace 10.32.2.7 lladdr {far_mac} dev weft0 nud permanent"
        ));
        // A pod's own MTU is larger here than the way's: only clamping makes segments fit.
        pod.sh("ip link set eth0 mtu 1500");
        let clamped = |table: &str| {
            table
                .split_whitespace()
                .skip_while(|word| *word != "packets")
                .nth(1)
                .and_then(|count| count.parse::<u64>().ok())
        };
        let count = "nft \"table inet m { chain m { type filter hook input priority 0; \
                     tcp flags & syn == syn tcp option maxseg size 1380 counter; }; }\"";
        far.sh(count);
        pod.sh(count);
        let listen = "import socket;s=socket.socket();s.setsockopt(1,2,1);s.bind((\"10.32.2.7\",80));\
                      s.listen();s.accept()";
        let connect = "import socket;socket.create_connection((\"10.32.2.7\",80),2).close()";
        let server = far.spawn(&["python3", "-c", listen]);
        space::until("the pod connects", || {
            pod.try_exec(&["python3", "-c", connect]).0
        })
        .await;
        drop(server);
        let syn = far.sh("nft list table inet m");
        assert!(clamped(&syn) >= Some(1), "{syn}");
        let answer = pod.sh("nft list table inet m");
        assert!(clamped(&answer) >= Some(1), "{answer}");
    });
}

#[test]
fn firewalls_in_the_way_are_named() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        apply(&kernel, &wanted()).await;
        assert_eq!(kernel.foreign_firewalls().await.unwrap(), []);
        sh(
            "nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }; \
            table inet mine { chain fwd1 { type filter hook forward priority 5; policy drop; }; \
            chain in1 { type filter hook input priority 5; policy drop; }; }; \
            table inet firewalld { chain x { type filter hook forward priority 10; policy drop; }; }'",
        );
        let found: Vec<String> = kernel
            .foreign_firewalls()
            .await
            .unwrap()
            .iter()
            .map(|firewall| {
                firewall
                    .to_string()
                    .split(" will")
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("chain fwd1 of table inet mine has policy drop"));
        assert!(found[1].starts_with("iptables' FORWARD chain has policy drop"));
        assert!(found[2].starts_with("firewalld is active"));
        // Said no more once what it says was done.
        for line in [
            "nft insert rule inet mine fwd1 iifname '\"weft*\"' counter accept",
            "nft insert rule inet mine fwd1 oifname '\"weft*\"' tcp dport 80 accept",
        ] {
            sh(line);
            assert_eq!(kernel.foreign_firewalls().await.unwrap().len(), 3, "{line}");
        }
        sh("nft insert rule inet mine fwd1 oifname '\"weft*\"' accept");
        assert_eq!(kernel.foreign_firewalls().await.unwrap().len(), 2);
    });
}

/// With two pods, `a` and `b`.
async fn two_pods(kernel: &Linux) -> [Pod; 2] {
    let (a, _) = node_with_pod(kernel).await;
    let b = Pod::new();
    let link = pod_link("b", &["10.32.1.8", "fd00:77:0:1::8"]);
    kernel.attach(b.netns(), link).await.unwrap();
    [a, b]
}

#[test]
fn a_pod_sends_by_no_address_but_its_own() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let [a, b] = two_pods(&kernel).await;
        let dropped = async || {
            let drops = kernel.guarded().await.unwrap();
            drops.get("not_the_pods_own_source").copied().unwrap_or(0)
        };
        a.sh("ping -c1 -W2 10.32.1.8 && ping -c1 -W2 fd00:77:0:1::8");
        assert_eq!(
            dropped().await,
            0,
            "its own address, and neighbour discovery"
        );
        // Its node's, another pod's, a far pod's, anybody's.
        let forged = [
            ("10.32.1.1", "10.32.1.8"),
            ("10.32.1.8", "10.32.1.1"),
            ("10.32.2.9", "10.32.1.8"),
            ("192.0.2.9", "10.32.1.8"),
            ("fd00:77:0:1::1", "fd00:77:0:1::8"),
            ("fd00:77:0:1::8", "fd00:77:0:1::1"),
            ("fd00:77:0:2::9", "fd00:77:0:1::8"),
            ("2001:db8::9", "fd00:77:0:1::8"),
        ];
        b.sh(
            "nft 'table inet seen { chain seen { type filter hook prerouting priority -400; \
              icmp type echo-request counter; icmpv6 type echo-request counter; }; }'",
        );
        for (at, (source, to)) in forged.iter().enumerate() {
            a.sh(&format!("ip addr add {source} dev lo nodad"));
            assert!(!a.try_sh(&format!("ping -c1 -W0.2 -I {source} {to}")).0);
            assert!(dropped().await > at as u64, "from {source}");
            a.sh(&format!("ip addr del {source} dev lo"));
        }
        assert_eq!(seen(&b), 0, "{}", b.sh("nft list table inet seen"));
        // What is for the link alone.
        a.try_sh("ip addr add fe80::9/64 dev eth0 nodad; ping -c1 -W0.2 -I eth0 ff02::1");
        assert_eq!(dropped().await, forged.len() as u64);
    });
}

#[test]
fn what_goes_on_in_anothers_table_is_no_news_and_what_comes_in_our_way_is() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        // Without any link, whose addresses would be news for a second.
        let table = Desired {
            firewall: wanted().firewall,
            ..Desired::default()
        };
        apply(&kernel, &table).await;
        sh("nft 'table ip theirs { chain services { }; set ports { type inet_service; }; }'");
        let mut changed = kernel.changed();
        let heard = async |changed: &mut tokio::sync::watch::Receiver<u64>, line: &str| {
            changed.mark_unchanged();
            sh(line);
            tokio::time::timeout(std::time::Duration::from_millis(200), changed.changed())
                .await
                .is_ok()
        };
        let deadline = std::time::Duration::from_millis(200);
        while tokio::time::timeout(deadline, changed.changed())
            .await
            .is_ok()
        {}
        for (line, wanted) in [
            ("nft add rule ip theirs services tcp dport 1 drop", false),
            ("nft add element ip theirs ports '{ 80 }'", false),
            ("nft add chain ip theirs service-2", false),
            (
                "nft add chain ip theirs f '{ type filter hook forward priority 0; policy drop; }'",
                true,
            ),
            ("nft add rule inet weft clamp counter", true),
            ("nft delete table ip theirs", true),
        ] {
            assert_eq!(heard(&mut changed, line).await, wanted, "{line}");
        }
    });
}

#[test]
fn a_set_that_a_guard_looks_into_cannot_be_emptied() {
    space::run(|| async {
        if !has("nft") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        mesh_link();
        apply(&kernel, &wanted()).await;
        for harm in [
            "nft flush set inet weft mesh4",
            "nft delete element inet weft mesh4 '{ 10.32.0.0/12 }'",
            "nft add element inet weft own6 '{ fd11::/16 }'",
            "nft delete set inet weft mesh6",
        ] {
            assert!(!space::try_sh(harm).0, "{harm}");
        }
    });
}

#[test]
fn a_drop_policy_of_iptables_legacy_is_named_until_our_links_are_accepted() {
    space::run(|| async {
        if !has("iptables-legacy") {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let names = async || -> Vec<String> {
            let found = kernel.foreign_firewalls().await.unwrap();
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names().await, [""; 0]);
        // Looking makes no table where there is none.
        for family in ["ip", "ip6"] {
            let tables =
                std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
            assert_eq!(tables.unwrap_or_default(), "");
        }
        for (command, number) in [("iptables-legacy", 1), ("ip6tables-legacy", 2)] {
            sh(&format!(
                "{command} -P FORWARD DROP && {command} -A FORWARD -i eth0 -j ACCEPT"
            ));
            let found = names().await;
            assert_eq!(found.len(), number, "{found:?}");
            let ours = &found[number - 1];
            assert!(
                ours.starts_with(&format!("{command}' FORWARD chain has policy drop")),
                "{ours}"
            );
        }
        for said in names().await {
            let cure = said.split("allow them: ").nth(1).unwrap();
            sh(cure);
        }
        assert_eq!(names().await, [""; 0]);
    });
}
