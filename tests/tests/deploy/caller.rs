//! An agent as the server knows it, and what it might ask for.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::server::{Answer, Server};

/// The token of its pod on its node.
#[derive(Clone, Debug)]
pub(crate) struct Agent<'a> {
    server: &'a Server,
    /// What its calls' paths end with.
    query: &'static str,
    pub(crate) node: String,
    pub(crate) uid: String,
    pub(crate) token: String,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(server: &'a Server, node: &str) -> Result<Self> {
        let made = server.create(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node}
        }))?;
        server.create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": node},
            "spec": {
                "nodeName": node, "serviceAccountName": "weft",
                "containers": [{"name": "weft", "image": "weft"}],
            }
        }))?;
        // The kubelet asks for its pods' tokens in this way.
        let token = server.kubectl(&[
            "create",
            "token",
            "weft",
            "--namespace=weft-system",
            "--bound-object-kind=Pod",
            "--bound-object-name",
            node,
        ])?;
        Ok(Self {
            server,
            query: "",
            node: node.to_owned(),
            uid: made["metadata"]["uid"]
                .as_str()
                .context("no uid")?
                .to_owned(),
            token: token.trim().to_owned(),
        })
    }

    /// The same, but nothing that it does is kept.
    pub(crate) fn rehearsing(&self) -> Self {
        Self {
            query: "?dryRun=All",
            ..self.clone()
        }
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let path = format!("{path}{}", self.query);
        self.server.call(&self.token, method, &path, body)
    }

    /// Patches the status of an agent's node.
    pub(crate) fn patch_status(&self, of: &Agent<'_>, patch: &Value) -> Result<Answer> {
        self.call("PATCH", &format!("/api/v1/nodes/{}/status", of.node), patch)
    }

    pub(crate) fn label_its_node(&self) -> Result<Answer> {
        self.patch_status(self, &json!({"metadata": {"labels": {"a": "b"}}}))
    }

    /// Makes the `WeftNode` of `named`, owned by the Node of `owner`.
    pub(crate) fn tell_of(&self, named: &Agent<'_>, owner: &Agent<'_>) -> Result<Answer> {
        let object = weft_node(&named.node, &owner.node, &owner.uid);
        self.call("POST", "/apis/weft.dev/v1alpha1/weftnodes", &object)
    }

    /// Claims a range for the node of `holder`.
    pub(crate) fn claim(&self, name: &str, range: &str, holder: &Agent<'_>) -> Result<Answer> {
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "WeftRange",
            "metadata": {"name": name, "ownerReferences": [owner(&holder.node, &holder.uid)]},
            "spec": {"node": holder.node, "range": range},
        });
        self.call("POST", "/apis/weft.dev/v1alpha1/weftranges", &object)
    }

    /// Writes an event about the node of `about`.
    pub(crate) fn report(&self, about: &Agent<'_>) -> Result<Answer> {
        self.report_of(
            "default",
            &json!({"apiVersion": "v1", "kind": "Node", "name": about.node}),
        )
    }

    pub(crate) fn report_of(&self, namespace: &str, regarding: &Value) -> Result<Answer> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        self.call(
            "POST",
            &path,
            &json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event",
                "metadata": {"generateName": "weft-"},
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "reportingController": "weft.dev/agent", "reportingInstance": self.node,
                "action": "Reconcile", "reason": "RangeOverlap", "type": "Warning",
                "note": "for a test", "regarding": regarding,
            }),
        )
    }
}

/// What a node tells of itself; what is in it need not be true.
pub(crate) fn weft_node(name: &str, node: &str, uid: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "WeftNode",
        "metadata": {"name": name, "ownerReferences": [owner(node, uid)]},
        "spec": {
            "identity": "a".repeat(52),
            "publicKey": format!("{}=", "A".repeat(43)),
            "endpoints": ["192.0.2.1:6783", "[2001:db8::1]:6783", "node.example.org:6783"],
            "signature": format!("{}==", "A".repeat(86)),
            "engine": "kernel", "version": "0.1.0", "podCIDRs": ["10.244.0.0/24"],
        }
    })
}

fn owner(node: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid})
}
