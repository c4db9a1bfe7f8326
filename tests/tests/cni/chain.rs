//! Behind us the reference plugins, as Debian ships them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use weft_router::demo::net::NetError;
use weft_tests::lab::{Lab, ensure, eventually, have};
use weft_tests::runner::skip;

use crate::support::{PATIENCE, REFERENCE, addresses, container, network, ready, wait_empty};

const PAGE: &[u8] = b"through portmap";

fn inside(what: &str) -> impl FnOnce(std::io::Error) -> NetError {
    let act = what.to_owned();
    move |source| NetError::Io { act, source }
}

pub(super) fn portmap_and_tuning_work_behind_us() -> Result<()> {
    for plugin in ["portmap", "tuning"] {
        if !Path::new(REFERENCE).join(plugin).is_file() {
            return skip(format!("{REFERENCE}/{plugin} is not installed"));
        }
    }
    have("iptables")?;
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b"])?;
    ready(&nodes[0])?;
    let behind = [
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
        json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } }),
    ];
    let network = network(&nodes[0], "1.0.0", &behind)?;
    let (mut web, pod) = container(&nodes[0], "web")?;
    let mapping = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    web.capabilities.insert("portMappings".to_owned(), mapping);
    let result = network.add(&web)?;
    ensure(addresses(&result).len() == 2, format!("{result}"))?;
    let somaxconn = pod.run(&["cat", "/proc/sys/net/core/somaxconn"])?;
    ensure(somaxconn.trim() == "500", format!("somaxconn {somaxconn}"))?;
    let listener = pod
        .netns()
        .run(|| TcpListener::bind("[::]:80").map_err(inside("listen in the pod")))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            // Who asks and goes is no matter.
            let _ = stream.write_all(PAGE);
        }
    });
    // From the other node's host, over the underlay.
    let host_port = SocketAddr::new(nodes[0].v4().into(), 8080);
    let there = nodes[1].machine().node().netns();
    eventually("the host port answers", PATIENCE, || {
        let mut stream = there.run(|| {
            TcpStream::connect_timeout(&host_port, Duration::from_secs(1))
                .map_err(inside("connect to the host port"))
        })?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        ensure(page == PAGE, format!("{page:?}"))
    })?;
    // No CHECK: portmap 1.1 looks for its IPv4 rules among those of IPv6 too.
    network.del(&web, Some(&result))?;
    wait_empty(&nodes[0])
}

pub(super) fn bandwidth_works_behind_us() -> Result<()> {
    if !Path::new(REFERENCE).join("bandwidth").is_file() {
        return skip(format!("{REFERENCE}/bandwidth is not installed"));
    }
    let lab = Lab::new()?;
    let mut node = lab.node("a")?;
    node.up(&[])?;
    ready(&node)?;
    // Ingress alone: the other way needs the kernel's `ifb`.
    let behind =
        [json!({ "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000 })];
    let network = network(&node, "1.0.0", &behind)?;
    let (container, pod) = container(&node, "web")?;
    let result = network.add(&container)?;
    let host = result["interfaces"][0]["name"].as_str().unwrap_or_default();
    let queue = node.run(&["tc", "qdisc", "show", "dev", host])?;
    ensure(queue.contains("tbf") && queue.contains("8Mbit"), queue)?;
    pod.ping(node.mesh_addresses()?[0])?;
    network.check(&container, &result)?;
    network.del(&container, Some(&result))?;
    wait_empty(&node)
}
