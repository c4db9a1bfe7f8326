//! A node of a large cluster: a thousand peers, each with a range of both families, none beside
//! another, so that nothing can be taken together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_router::desired::{Inputs, PeerRoutes, desired};
use weft_router::kernel::{Kernel, Linux};
use weft_router::plan::plan;

use crate::routes::mesh_link;
use crate::space::{self, sh};

const PEERS: u16 = 1000;
/// To bring the host there from nothing.
const BUILD: Duration = Duration::from_millis(500);
/// To find that there is nothing to do; unoptimised it takes several times as long.
const LOOK: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 20 });
/// A machine that does something else meanwhile gets another chance.
const TRIES: usize = 5;

fn range(node: u16) -> Vec<IpNet> {
    let [high, low] = (node * 2).to_be_bytes();
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 32 + high, low, 0));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, node * 2, 0, 0, 0, 0));
    [(v4, 24), (v6, 64)]
        .map(|(address, length)| IpNet::new(address, length).unwrap())
        .to_vec()
}

fn inputs() -> Inputs {
    let own = range(0);
    Inputs {
        pools: (0..=PEERS).flat_map(range).collect(),
        addresses: vec!["10.32.0.1".parse().unwrap(), "fd00:77::1".parse().unwrap()],
        own,
        link_mtu: 1440,
        peers: (1..=PEERS)
            .map(|node| PeerRoutes {
                ranges: range(node),
                mtu: Some(1420),
            })
            .collect(),
        ..Inputs::default()
    }
}

#[test]
fn a_thousand_peers_are_routed_at_once_and_looked_at_for_little() {
    space::run(|| async {
        let state = tempfile::tempdir().unwrap();
        let kernel = Linux::open(state.path()).unwrap();
        let inputs = inputs();
        let (mut build, mut look) = (Duration::MAX, Duration::MAX);
        for _ in 0..TRIES {
            mesh_link();
            let started = Instant::now();
            let observed = kernel.observe().await.unwrap();
            let steps = plan(&desired(&inputs, &observed), &observed);
            kernel.apply(&steps).await.unwrap();
            build = build.min(started.elapsed());
            // What is new has links that are up by now.
            let started = Instant::now();
            let observed = kernel.observe().await.unwrap();
            let rest = plan(&desired(&inputs, &observed), &observed);
            look = look.min(started.elapsed());
            assert!(rest.is_empty(), "{rest}");
            if build < BUILD && look < LOOK {
                break;
            }
            let cleaned = kernel.cleanup().await.unwrap();
            assert!(cleaned.failed.is_empty(), "{:?}", cleaned.failed);
        }
        println!("from nothing in {build:?}, a look in {look:?}");
        assert!(build < BUILD, "{build:?}");
        assert!(look < LOOK, "{look:?}");
        let routes = sh("ip route show proto 119 | wc -l; ip -6 route show proto 119 | wc -l");
        assert_eq!(routes, "2001\n2001\n");
    });
}
