//! The Node's condition NetworkUnavailable: false when, and only when, pods can be carried.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::info;
use weft_mesh::NodeName;
use weft_mesh::discovery::kubernetes::{Condition, Kubernetes, OwnNode};

use super::{Standing, clock};

const KIND: &str = "NetworkUnavailable";
/// What this is called among the conversations with the API.
const WHAT: &str = "nodes/status";
/// An agent that was started anew is given this long before it says that there is no network.
const SETTLE: Duration = Duration::from_secs(3);
/// What was written comes back with the Node by then; else it is written again.
const ECHO: Duration = Duration::from_secs(30);
/// Longer messages are cut.
const MAX_MESSAGE: usize = 512;

/// Keeps the condition as it should be.
pub(super) async fn keep(
    kubernetes: Arc<Kubernetes>,
    name: NodeName,
    mut standing: watch::Receiver<Standing>,
) {
    let mut node = kubernetes.node();
    let _ = tokio::time::timeout(SETTLE, standing.wait_for(|s| s.unready.is_none())).await;
    let mut written: Option<(Condition, Instant)> = None;
    loop {
        let present = node.borrow_and_update().clone();
        let wanted = wanted(&standing.borrow_and_update());
        let is_written = written.as_ref().is_some_and(|(condition, at)| {
            *condition == wanted && at.elapsed() < ECHO && present.uid.is_some()
        });
        match change(&present, &wanted) {
            None => {
                kubernetes.idle(WHAT);
                written = None;
            }
            Some(_) if is_written => {}
            Some(change) => match patch(&kubernetes, &name, &change).await {
                Ok(()) => {
                    info!(status = wanted.status, message = wanted.message, "{KIND}");
                    kubernetes.done(WHAT);
                    written = Some((wanted, Instant::now()));
                }
                Err(error) => tokio::time::sleep(kubernetes.failed(WHAT, &error)).await,
            },
        }
        tokio::select! {
            changed = standing.changed() => if changed.is_err() { return },
            changed = node.changed() => if changed.is_err() { return },
        }
    }
}

fn wanted(standing: &Standing) -> Condition {
    let (status, reason, message) = match &standing.unready {
        None => ("False", "WeftReady", "weft carries this node's pods"),
        Some(why) => ("True", "WeftNotReady", why.as_str()),
    };
    Condition {
        kind: KIND.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.chars().take(MAX_MESSAGE).collect(),
    }
}

/// What to write of the condition; nothing where the Node has it or there is no Node.
fn change(node: &OwnNode, wanted: &Condition) -> Option<Value> {
    node.uid.as_ref()?;
    let present = node.conditions.iter().find(|c| c.kind == KIND);
    if present == Some(wanted) {
        return None;
    }
    let now = clock::rfc3339(clock::unix_now());
    let mut condition = json!({
        "type": wanted.kind,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastHeartbeatTime": now,
    });
    if present.is_none_or(|present| present.status != wanted.status) {
        condition["lastTransitionTime"] = json!(now);
    }
    Some(json!({"status": {"conditions": [condition]}}))
}

async fn patch(kubernetes: &Kubernetes, name: &NodeName, change: &Value) -> kube::Result<()> {
    let request = Request::new("/api/v1/nodes")
        .patch_subresource(
            "status",
            name.as_str(),
            &PatchParams::default(),
            &Patch::Strategic(change),
        )
        .map_err(kube::Error::BuildRequest)?;
    super::answered(kubernetes.client().request::<Value>(request)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(status: &str) -> OwnNode {
        let unready = (status == "True").then(|| "no tunnel".to_owned());
        OwnNode {
            uid: Some("u".into()),
            conditions: vec![wanted(&Standing {
                unready,
                ..Standing::default()
            })],
            cloned: None,
        }
    }

    #[test]
    fn the_condition_is_written_when_it_differs_and_its_transition_when_its_status_does() {
        let ready = wanted(&Standing::default());
        assert_eq!(change(&node("False"), &ready), None);
        let written = change(&node("True"), &ready).unwrap();
        let condition = &written["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert!(condition["lastTransitionTime"].is_string());
        let other = wanted(&Standing {
            unready: Some("another".into()),
            ..Standing::default()
        });
        let written = change(&node("True"), &other).unwrap();
        assert!(written["status"]["conditions"][0]["lastTransitionTime"].is_null());
        let nobody = OwnNode::default();
        assert_eq!(change(&nobody, &ready), None);
        assert!(
            change(
                &OwnNode {
                    uid: Some("u".into()),
                    ..nobody
                },
                &ready
            )
            .is_some()
        );
    }
}
