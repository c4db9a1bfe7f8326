//! Services as kube-proxy makes them on top of the pods' network, and ports of the host.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use serde_json::json;
use weft_tests::cluster::{Cluster, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::outside;
use super::space::{
    PATIENCE, PORT, Space, ask_from, node_address, nodes, said, server, service, source, url,
};

fn one(answers: &[String]) -> Result<&str> {
    answers.first().map(String::as_str).context("no answer")
}

pub(super) fn a_service_is_reached_by_pods_hosts_and_itself() -> Result<()> {
    cluster_ip(&of_tests()?, "cluster-ip")
}

pub(super) fn cluster_ip(cluster: &Cluster, namespace: &str) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    let (near, far) = ("node-1", "node-2");
    space.run(&[
        server("backend", far),
        server("beside", far),
        server("away", near),
        service("backend", "backend"),
    ])?;
    let address = space.service("backend")?;
    let by_service = [url(address, 80, "clientip"), url(address, 80, "hostname")];
    for client in ["beside", "away"] {
        let seen = source(one(&space.ask(client, &by_service)?)?)?;
        let own = space.address(client)?;
        ensure(
            seen == own,
            format!("through its Service the backend sees {client} as {seen}, not as {own}"),
        )?;
    }
    // The hairpin: the only pod behind the Service is the one that asks.
    let answers = space.ask("backend", &by_service)?;
    ensure(
        answers.get(1).is_some_and(|name| name == "backend"),
        format!("to itself through its Service: {answers:?}"),
    )?;
    for node in [near, far] {
        let answers = ask_from(&by_service, |program| cluster.on_node(node, program))?;
        ensure(
            answers.get(1).is_some_and(|name| name == "backend"),
            format!("from the host of {node}: {answers:?}"),
        )?;
    }
    Ok(())
}

pub(super) fn a_node_port_leads_in_from_outside_and_can_keep_the_clients_address() -> Result<()> {
    node_port(&of_tests()?, "node-port")
}

pub(super) fn node_port(cluster: &Cluster, namespace: &str) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    let of = |name: &str, policy: &str| {
        let mut service = service(name, "backend");
        service["spec"]["type"] = json!("NodePort");
        service["spec"]["externalTrafficPolicy"] = json!(policy);
        service
    };
    space.run(&[
        server("backend", "node-2"),
        of("anywhere", "Cluster"),
        of("local", "Local"),
    ])?;
    let (anywhere, local) = (space.node_port("anywhere")?, space.node_port("local")?);
    let mut urls = Vec::new();
    for node in nodes(cluster)? {
        urls.push(url(node_address(cluster, &node)?, anywhere, "hostname"));
    }
    let answers = ask_from(&urls, |program| cluster.outside(program))?;
    ensure(
        answers.len() == urls.len() && answers.iter().all(|name| name == "backend"),
        format!("{urls:?}: {answers:?}"),
    )?;
    let client = outside::address(cluster)?;
    let there = url(node_address(cluster, "node-2")?, local, "clientip");
    let answers = ask_from(&[there], |program| cluster.outside(program))?;
    let seen = source(one(&answers)?)?;
    ensure(
        seen == client,
        format!("{client} is seen as {seen} by a Service that keeps addresses"),
    )?;
    let elsewhere = url(node_address(cluster, "node-1")?, local, "clientip");
    let answer = said(
        cluster
            .outside("curl")?
            .args(["-sS", "-m", "2", &elsewhere]),
    );
    ensure(
        answer.is_err(),
        format!("a node without a pod of it answered {answer:?}"),
    )
}

pub(super) fn a_port_of_the_host_leads_to_its_pod() -> Result<()> {
    host_port(&of_tests()?, "host-port", 18100)
}

pub(super) fn host_port(cluster: &Cluster, namespace: &str, port: u16) -> Result<()> {
    let space = Space::new(cluster, namespace)?;
    let mut backend = server("backend", "node-2");
    backend["spec"]["containers"][0]["ports"] =
        json!([{ "containerPort": PORT, "hostPort": port }]);
    space.run(&[
        backend,
        server("beside", "node-2"),
        server("away", "node-1"),
    ])?;
    let host = node_address(cluster, "node-2")?;
    let asked = [url(host, port, "clientip")];
    let client = outside::address(cluster)?;
    let seen = source(one(&ask_from(&asked, |program| cluster.outside(program))?)?)?;
    ensure(
        seen == client,
        format!("{client} is seen as {seen} through a port of the host"),
    )?;
    for pod in ["backend", "beside", "away"] {
        space.ask(pod, &asked)?;
    }
    for node in ["node-1", "node-2"] {
        ask_from(&asked, |program| cluster.on_node(node, program))?;
    }
    // With the pod goes the port.
    space.kubectl(&["delete", "pod", "backend"])?;
    eventually("the port goes with its pod", PATIENCE, || {
        let answer = said(cluster.outside("curl")?.args(["-sS", "-m", "2", &asked[0]]));
        ensure(
            answer.is_err(),
            format!("{asked:?} still answers {answer:?}"),
        )
    })
}

pub(super) fn a_client_stays_with_the_pod_that_it_had() -> Result<()> {
    affinity(&of_tests()?, "affinity")
}

pub(super) fn affinity(cluster: &Cluster, namespace: &str) -> Result<()> {
    const ASKED: usize = 12;
    let space = Space::new(cluster, namespace)?;
    let behind = |name: &str, node: &str| {
        let mut pod = server(name, node);
        pod["metadata"]["labels"] = json!({ "app": "both" });
        pod
    };
    let mut sticky = service("sticky", "both");
    sticky["spec"]["sessionAffinity"] = json!("ClientIP");
    space.run(&[
        behind("one", "node-1"),
        behind("two", "node-2"),
        server("client", "node-3"),
        service("spread", "both"),
        sticky,
    ])?;
    let hear = |name: &str| -> Result<BTreeSet<String>> {
        let url = url(space.service(name)?, 80, "hostname");
        let answers = space.ask("client", &vec![url; ASKED])?;
        Ok(answers.into_iter().collect())
    };
    let spread = eventually("both pods answer", PATIENCE, || {
        let spread = hear("spread")?;
        ensure(spread.len() == 2, format!("{spread:?}"))?;
        Ok(spread)
    })?;
    let sticky = hear("sticky")?;
    ensure(
        sticky.len() == 1 && sticky.is_subset(&spread),
        format!("{sticky:?} of {spread:?}"),
    )
}

/// Where the kernel has no SCTP, nobody can speak it; but a pod that asks for a port of it starts.
pub(super) fn sctp_goes_as_far_as_the_kernel_has_it() -> Result<()> {
    let cluster = of_tests()?;
    let space = Space::new(&cluster, "sctp")?;
    let has = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::SCTP));
    let mut backend = server("backend", "node-2");
    let container = &mut backend["spec"]["containers"][0];
    container["ports"] = json!([{ "containerPort": 8082, "hostPort": 18110, "protocol": "SCTP" }]);
    if has.is_ok() {
        container["args"] = json!(["netexec", "--sctp-port=8082"]);
    }
    let mut service = service("backend", "backend");
    service["spec"]["ports"] = json!([{ "port": 80, "targetPort": 8082, "protocol": "SCTP" }]);
    space.run(&[backend, server("client", "node-1"), service])?;
    if let Err(reason) = has {
        eprintln!("no SCTP was spoken: this kernel has none");
        return ensure(
            reason == rustix::io::Errno::PROTONOSUPPORT,
            format!("a socket of SCTP: {reason}"),
        );
    }
    for to in [space.address("backend")?, space.service("backend")?] {
        let port: u16 = if to == space.address("backend")? {
            8082
        } else {
            80
        };
        let to = std::net::SocketAddr::new(to, port).to_string();
        let words = [
            "/agnhost",
            "connect",
            &to,
            "--protocol=sctp",
            "--timeout=3s",
        ];
        eventually("SCTP connects", PATIENCE, || space.exec("client", &words))?;
    }
    Ok(())
}
