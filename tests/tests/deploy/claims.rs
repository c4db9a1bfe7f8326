//! What the schemas of our own objects let through.

use anyhow::Result;
use serde_json::{Value, json};

use crate::caller::{Agent, weft_node};
use crate::server::Server;

const NAMED: &str = "the name must be the range";
const WRITTEN: &str = "must be ADDRESS/LENGTH";

/// A range has one name, so that there is one claim of it at most.
pub(crate) fn are_named_after_their_range(server: &Server, agent: &Agent<'_>) -> Result<()> {
    for (name, range) in [
        ("10.32.5.0-24", "10.32.5.0/24"),
        ("fd00-0-0-1-0-0-0-0-64", "fd00:0:0:1::/64"),
        ("fd12-60e7-1a09-dd0-0-0-0-0-64", "fd12:60e7:1a09:dd0::/64"),
    ] {
        agent.claim(name, range, agent)?.is_done()?;
    }
    for (name, range, why) in [
        ("10.32.7.0-24", "10.32.6.0/24", NAMED),
        ("10.32.6.0-25", "10.32.6.0/24", NAMED),
        ("weft", "10.32.6.0/24", NAMED),
        ("fd00-0-0-0002-0-0-0-0-64", "fd00:0:0:2::/64", NAMED),
        ("fd00-0-0-2--64", "fd00:0:0:2::/64", NAMED),
        ("fd00-0-0-3-0-0-0-0-64", "fd00:0:0:2::/64", NAMED),
        ("10.32.6.1-24", "10.32.6.1/24", WRITTEN),
        ("fd00-0-0-2-0-0-0-0-64", "fd00:0:0:2:0:0:0:0/64", WRITTEN),
        ("weft", "everything", WRITTEN),
        ("0.0.0.0", "0.0.0.0", WRITTEN),
    ] {
        agent.claim(name, range, agent)?.is_invalid(why)?;
    }
    let path = "/apis/weft.dev/v1alpha1/weftranges";
    let nobodys = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "WeftRange",
        "metadata": {"name": "10.32.6.0-24"}, "spec": {"range": "10.32.6.0/24"},
    });
    server
        .admin("POST", path, &nobodys)?
        .is_invalid("spec.node")
}

/// Not even by an administrator: what a range's holder was is believed by every node.
pub(crate) fn never_change(server: &Server) -> Result<()> {
    let path = "/apis/weft.dev/v1alpha1/weftranges/10.32.5.0-24";
    server
        .admin("PATCH", path, &json!({"spec": {"node": "node-2"}}))?
        .is_invalid("a claim does not change")
}

/// Every field has a shape and a length.
pub(crate) fn of_what_a_node_is_are_bounded(server: &Server, agent: &Agent<'_>) -> Result<()> {
    let path = format!("/apis/weft.dev/v1alpha1/weftnodes/{}", agent.node);
    let whole = weft_node(&agent.node, &agent.node, &agent.uid)["spec"].clone();
    let spec = |field: &str, value: Value| {
        let mut spec = whole.clone();
        spec[field] = value;
        json!({"spec": spec})
    };
    server
        .admin("PATCH", &path, &spec("version", json!("0.2.0")))?
        .is_done()?;
    for (field, value) in [
        ("identity", json!("A".repeat(52))),
        ("identity", json!("a".repeat(51))),
        ("publicKey", json!("A".repeat(44))),
        ("signature", json!("A".repeat(88))),
        ("endpoints", json!(vec!["192.0.2.1:6783"; 17])),
        ("endpoints", json!(["192.0.2.1"])),
        ("endpoints", json!([format!("{}:1", "a".repeat(260))])),
        ("engine", json!("none")),
        ("version", json!("1".repeat(65))),
        ("podCIDRs", json!(vec!["10.0.0.0/24"; 17])),
        ("podCIDRs", json!(["1".repeat(44)])),
    ] {
        server
            .admin("PATCH", &path, &spec(field, value))?
            .is_invalid(&format!("spec.{field}"))?;
    }
    Ok(())
}
