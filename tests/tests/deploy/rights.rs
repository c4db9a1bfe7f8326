//! What an agent may do: RBAC says which kinds of objects, the policies whose.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::caller::Agent;
use crate::condition;
use crate::server::Server;

/// What every account may do: ask who it is and what it may.
const EVERYBODY: &str = "selfsubject";

/// By namespace, what the account may do there: the resource and the verb.
pub(crate) fn granted(
    server: &Server,
    agent: &Agent<'_>,
    namespace: &str,
) -> Result<BTreeSet<(String, String)>> {
    let list = ["auth", "can-i", "--list", "--namespace", namespace];
    rights(&server.kubectl_as(&agent.token, &list)?)
}

pub(crate) fn are_the_same_everywhere_but_for_events(
    server: &Server,
    agent: &Agent<'_>,
) -> Result<()> {
    let mut here = granted(server, agent, "default")?;
    let events = ("events.events.k8s.io".to_owned(), "create".to_owned());
    ensure!(here.remove(&events), "no events: {here:?}");
    for namespace in ["weft-system", "kube-system"] {
        let there = granted(server, agent, namespace)?;
        ensure!(there == here, "in {namespace}: {there:?}, not {here:?}");
    }
    Ok(())
}

/// The table that kubectl prints: resource, non-resource URLs, resource names, verbs.
fn rights(listed: &str) -> Result<BTreeSet<(String, String)>> {
    let mut rights = BTreeSet::new();
    for line in listed.lines().skip(1) {
        // What speaks of URLs alone has no resource.
        if line.starts_with([' ', '[']) || line.starts_with(EVERYBODY) {
            continue;
        }
        let resource = line.split_whitespace().next().context("an empty line")?;
        let verbs = line.rsplit_once('[').context("no verbs")?.1;
        for verb in verbs.trim_end_matches(']').split_whitespace() {
            rights.insert((resource.to_owned(), verb.to_owned()));
        }
    }
    Ok(rights)
}

pub(crate) fn over_objects(server: &Server, one: &Agent<'_>, other: &Agent<'_>) -> Result<()> {
    one.tell_of(one, other)?
        .is_refused("its one owner must be the Node node-1")?;
    one.tell_of(one, one)?.is_done()?;
    other.tell_of(other, other)?.is_done()?;

    let path = |of: &Agent<'_>| format!("/apis/weft.dev/v1alpha1/weftnodes/{}", of.node);
    let endpoint = json!({"spec": {"endpoints": ["192.0.2.66:6783"]}});
    let patch = |by: &Agent<'_>, of: &Agent<'_>, patch| by.call("PATCH", &path(of), patch);
    patch(one, one, &endpoint)?.is_done()?;
    patch(one, other, &endpoint)?.is_refused("of that name alone")?;
    let disowned = json!({"metadata": {"ownerReferences": []}});
    patch(one, one, &disowned)?.is_refused("its one owner")?;
    one.call("DELETE", &path(other), &json!({}))?
        .is_refused("cannot delete")?;

    // A token that no pod on a node has been given, of the same account.
    let free = server.kubectl(&["create", "token", "weft", "--namespace=weft-system"])?;
    let endpoint = json!({"metadata": {"labels": {"a": "b"}}});
    server
        .call(
            free.trim(),
            "PATCH",
            "/api/v1/nodes/node-1/status",
            &endpoint,
        )?
        .is_refused("not bound to a pod")
}

pub(crate) fn over_ranges(one: &Agent<'_>, other: &Agent<'_>) -> Result<()> {
    one.claim("10.32.1.0-24", "10.32.1.0/24", one)?.is_done()?;
    other
        .claim("10.32.2.0-24", "10.32.2.0/24", other)?
        .is_done()?;
    let delete = |by: &Agent<'_>, name: &str| {
        let path = format!("/apis/weft.dev/v1alpha1/weftranges/{name}");
        by.call("DELETE", &path, &json!({}))
    };
    delete(one, "10.32.2.0-24")?.is_refused("of that node alone")?;
    delete(one, "10.32.1.0-24")?.is_done()?;
    let again = other.claim("10.32.2.0-24", "10.32.2.0/24", other)?;
    ensure!(again.code == 409, "a range is claimed once: {again:?}");
    Ok(())
}

pub(crate) fn over_status(one: &Agent<'_>, other: &Agent<'_>) -> Result<()> {
    one.patch_status(one, &condition("NetworkUnavailable", "False"))?
        .is_done()?;
    one.patch_status(one, &condition("NetworkUnavailable", "True"))?
        .is_done()?;
    one.patch_status(other, &condition("NetworkUnavailable", "False"))?
        .is_refused("of that Node alone")?;
    for (patch, why) in [
        (condition("Ready", "False"), "and no other"),
        (
            json!({"status": {"capacity": {"cpu": "64"}}}),
            "and nothing else",
        ),
        (
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}}),
            "and nothing else",
        ),
        (
            json!({"status": {"nodeInfo": {"kubeletVersion": "v9"}}}),
            "and nothing else",
        ),
        (
            json!({"metadata": {"labels": {"a": "b"}}}),
            "no label or annotation",
        ),
        (
            json!({"metadata": {"annotations": {"a": "b"}}}),
            "no label or annotation",
        ),
        (
            json!({"metadata": {"finalizers": ["example.org/a"]}}),
            "no label or annotation",
        ),
    ] {
        one.patch_status(one, &patch)?.is_refused(why)?;
    }
    let node = format!("/api/v1/nodes/{}", one.node);
    one.call("PATCH", &node, &json!({"spec": {"unschedulable": true}}))?
        .is_refused("cannot patch")
}

pub(crate) fn over_events(one: &Agent<'_>) -> Result<()> {
    one.report(one)?.is_done()?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": one.node, "namespace": "default"});
    one.report_of("default", &pod)?
        .is_refused("about that Node alone")?;
    one.report_of("weft-system", &pod)?
        .is_refused("cannot create")
}
