//! Ports of the host that lead to pods: `portMappings`, as a runtime gives them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::lab::{LabNode, Pod, ensure, eventually};

use super::sockets::{ask_tcp, ask_udp, serve, udp};
use super::support::{SOON, Two, netns};

/// What is taken away is back in this time.
const BACK: Duration = Duration::from_secs(2);

/// A pod's namespace, and a verb of the plugin for it with these ports.
fn call(node: &LabNode, verb: &str, pod: &Pod, ports: &Value, result: &Value) -> Result<Value> {
    let path = pod.netns().path().display().to_string();
    let parameters = [
        ("CNI_CONTAINERID", pod.netns().name()),
        ("CNI_NETNS", &path),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let mut configuration = json!({
        "cniVersion": "1.0.0", "name": "weft", "type": "weft-cni",
        "runtimeConfig": { "portMappings": ports },
    });
    if !result.is_null() {
        configuration["prevResult"] = result.clone();
    }
    Ok(node.machine().plugin(verb, &parameters, &configuration)?)
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}

fn underlay(node: &LabNode) -> Result<[IpAddr; 2]> {
    Ok([node.v4().into(), node.v6()?.into()])
}

/// Asks by both protocols, and wants to be seen by this address.
fn asked(from: &weft_router::demo::net::Netns, host: IpAddr, seen: IpAddr) -> Result<()> {
    let by_tcp = ask_tcp(from, (host, 8080)).with_context(|| format!("tcp to {host}"))?;
    let any: IpAddr = match host {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let by_udp = ask_udp(&udp(from, any)?, (host, 5353));
    let by_udp = by_udp.with_context(|| format!("udp to {host}"))?;
    let all = [by_tcp, by_udp];
    ensure(
        all == [seen; 2],
        format!("{host}: seen as {all:?}, not {seen}"),
    )
}

pub(crate) fn a_port_of_the_host_leads_to_its_pod() -> Result<()> {
    let mut two = Two::new()?;
    let client = two.lab.node("client")?;
    let [a, b] = &two.nodes;
    let ports = json!([
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 5353, "containerPort": 80, "protocol": "UDP", "hostIP": "" },
    ]);
    // Flows of before the port led anywhere: they are not kept from it.
    let early = underlay(&client)?.map(|address| udp(netns(&client), address));
    let [early4, early6] = early;
    let early = [early4?, early6?];
    for (socket, host) in early.iter().zip(underlay(a)?) {
        socket.send_to(b"early", (host, 5353))?;
    }
    let web = a.bare_pod("web")?;
    serve(web.netns(), 80)?;
    let result = call(a, "ADD", &web, &ports, &Value::Null).with_context(|| a.said())?;
    let own = addresses(&result);
    for (at, host) in underlay(a)?.into_iter().enumerate() {
        let from = underlay(&client)?[at];
        // No waiting: an ADD returns when its ports lead there.
        asked(netns(&client), host, from).context("a client outside")?;
        let seen = ask_udp(&early[at], (host, 5353))
            .with_context(|| format!("an early client of {host}; {}", a.said()))?;
        ensure(seen == from, seen)?;
        asked(netns(a), host, host).context("the host")?;
        let neighbour = two.pods[0].addresses()[at];
        asked(two.pods[0].netns(), host, neighbour).context("a pod of the node")?;
        asked(two.pods[1].netns(), host, underlay(b)?[at]).context("a pod of another node")?;
        let mesh = a.mesh_addresses()?[at];
        asked(web.netns(), host, mesh).context("the pod itself")?;
        asked(two.pods[1].netns(), mesh, two.pods[1].addresses()[at]).context("by the mesh")?;
        ensure(own.len() == 2, &result)?;
    }
    // From the loopback address the kernel routes to no pod; from another one it does.
    let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
    ensure(
        ask_tcp(netns(a), (loopback, 8080)).is_err(),
        "a loopback source",
    )?;
    let [v4, v6] = underlay(a)?;
    ask_udp(&udp(netns(a), v4)?, (loopback, 5353)).context("to 127.0.0.1")?;
    ask_udp(&udp(netns(a), v6)?, (Ipv6Addr::LOCALHOST.into(), 5353)).context("to ::1")?;

    call(a, "CHECK", &web, &ports, &result)?;
    let other = a.bare_pod("other")?;
    let refused = call(a, "ADD", &other, &ports, &Value::Null);
    let said = format!("{:#}", refused.err().context("two pods on one port")?);
    ensure(
        said.contains("of the host leads to") && said.contains("web"),
        &said,
    )?;

    let client_sees = |what: &str, patience| {
        eventually(what, patience, || {
            asked(netns(&client), v4, client.v4().into())?;
            asked(netns(&client), v6, client.v6()?.into())
        })
    };
    a.run(&["nft", "delete", "table", "inet", "weft"])?;
    client_sees("the table is back", BACK)?;
    let [a, _] = &mut two.nodes;
    a.kill()?;
    client_sees("without an agent", Duration::ZERO)?;
    a.run(&["nft", "delete", "table", "inet", "weft"])?;
    a.up(&[])?;
    client_sees("with a new agent", SOON)?;

    call(a, "DEL", &web, &ports, &result)?;
    let gone = || match ask_tcp(netns(&client), (v4, 8080)) {
        Ok(_) => anyhow::bail!("still answered"),
        Err(_) => {
            let table = a.run(&["nft", "list", "table", "inet", "weft"])?;
            ensure(!table.contains("8080"), table)
        }
    };
    eventually("the port leads nowhere", SOON, gone)?;
    let result = call(a, "ADD", &other, &ports, &Value::Null)?;
    serve(other.netns(), 80)?;
    asked(netns(&client), v4, client.v4().into()).context("the next pod")?;
    call(a, "DEL", &other, &ports, &result)?;
    Ok(())
}

pub(crate) fn the_host_is_answered_by_far_pods_whatever_address_it_sends_by() -> Result<()> {
    let two = Two::new()?;
    let [a, _] = &two.nodes;
    serve(two.pods[1].netns(), 80)?;
    for (at, far) in two.pods[1].addresses().into_iter().enumerate() {
        let socket = udp(netns(a), underlay(a)?[at])?;
        let seen = ask_udp(&socket, (far, 80)).context("from the underlay's address")?;
        let wanted = a.mesh_addresses()?[at];
        ensure(seen == wanted, format!("seen as {seen}, not {wanted}"))?;
    }
    Ok(())
}
