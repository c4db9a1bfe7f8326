//! Events on this node's Node: one for each trouble that begins, and no flood of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::PostParams;
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::debug;
use weft_mesh::NodeName;
use weft_mesh::discovery::kubernetes::Kubernetes;

use super::{Notice, Standing, clock};

/// Nodes have no namespace; their Events are in this one.
const NAMESPACE: &str = "default";
/// What this is called among the conversations with the API.
const WHAT: &str = "events";
/// A trouble that comes and goes is told of again after this long.
const AGAIN: Duration = Duration::from_secs(600);
/// So many Events at once, and one each `REFILL` from then on.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(30);
/// The server refuses longer ones.
const MAX_NOTE: usize = 1000;

/// What was told of, and what may be told of now.
#[derive(Debug)]
struct Told {
    notices: BTreeMap<Notice, Instant>,
    left: u32,
    refilled: Instant,
}

impl Told {
    fn new(now: Instant) -> Self {
        Self {
            notices: BTreeMap::new(),
            left: BURST,
            refilled: now,
        }
    }

    /// Those to tell of now. The others of them wait for their turn.
    fn due(&mut self, present: &[Notice], now: Instant) -> Vec<Notice> {
        let refills = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if refills > 0 {
            let refills = u32::try_from(refills).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(refills).min(BURST);
            self.refilled = now;
        }
        self.notices
            .retain(|notice, at| present.contains(notice) || now < *at + AGAIN);
        let new = present.iter().filter(|n| !self.notices.contains_key(n));
        let due: Vec<Notice> = new.take(self.left as usize).cloned().collect();
        for notice in &due {
            self.notices.insert(notice.clone(), now);
            self.left -= 1;
        }
        due
    }

    /// It could not be told of.
    fn untold(&mut self, notice: &Notice) {
        self.notices.remove(notice);
        self.left = (self.left + 1).min(BURST);
    }
}

/// Tells of troubles for as long as discovery lives.
pub(super) async fn tell(
    kubernetes: Arc<Kubernetes>,
    name: NodeName,
    mut standing: watch::Receiver<Standing>,
) {
    let mut told = Told::new(Instant::now());
    loop {
        let present = standing.borrow_and_update().notices.clone();
        let uid = kubernetes.node().borrow().uid.clone();
        if let Some(uid) = uid {
            for notice in told.due(&present, Instant::now()) {
                match create(&kubernetes, &event(&name, &uid, &notice)).await {
                    Ok(()) => {}
                    Err(error) => {
                        debug!(%error, "event");
                        told.untold(&notice);
                        tokio::time::sleep(kubernetes.failed(WHAT, &error)).await;
                        break;
                    }
                }
            }
        }
        if present.is_empty() {
            kubernetes.idle(WHAT);
        }
        // Told of each second, as the reconciler looks.
        if standing.changed().await.is_err() {
            return;
        }
    }
}

fn event(name: &NodeName, uid: &str, notice: &Notice) -> Value {
    let now = clock::unix_now();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": object_name(name, notice), "namespace": NAMESPACE},
        "eventTime": clock::micro(now),
        "reportingController": "weft.dev/weft",
        "reportingInstance": name.as_str().chars().take(128).collect::<String>(),
        "action": "Check",
        "reason": notice.reason,
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": name.as_str(), "uid": uid},
        "note": notice.text.chars().take(MAX_NOTE).collect::<String>(),
        "type": "Warning",
    })
}

/// One trouble is one object for as long as the server keeps it, whichever run of the agent tells
/// of it.
fn object_name(name: &NodeName, notice: &Notice) -> String {
    let mut hasher = DefaultHasher::new();
    notice.hash(&mut hasher);
    // A Node's name may fill all that a name has room for.
    let start: String = name.as_str().chars().take(200).collect();
    format!(
        "{}.{:016x}",
        start.trim_end_matches(['.', '-']),
        hasher.finish()
    )
}

async fn create(kubernetes: &Kubernetes, event: &Value) -> kube::Result<()> {
    let body = serde_json::to_vec(event).map_err(kube::Error::SerdeError)?;
    let path = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events");
    let request = Request::new(path)
        .create(&PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    match super::answered(kubernetes.client().request::<Value>(request)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(text: &str) -> Notice {
        Notice {
            reason: "RangeOverlap",
            text: text.into(),
        }
    }

    #[test]
    fn a_trouble_is_told_of_once_and_again_after_a_while() {
        let start = Instant::now();
        let mut told = Told::new(start);
        let present = [notice("a")];
        assert_eq!(told.due(&present, start).len(), 1);
        assert!(told.due(&present, start).is_empty());
        assert!(told.due(&[], start + REFILL).is_empty());
        assert!(
            told.due(&present, start + 2 * REFILL).is_empty(),
            "it comes and goes"
        );
        told.due(&[], start + 2 * AGAIN);
        assert_eq!(told.due(&present, start + 2 * AGAIN).len(), 1);
        told.untold(&present[0]);
        assert_eq!(told.due(&present, start + 2 * AGAIN).len(), 1);
    }

    #[test]
    fn an_events_name_is_its_troubles_and_short_enough() {
        let name = |node: &str, text: &str| object_name(&node.parse().unwrap(), &notice(text));
        assert_eq!(name("a", "x"), name("a", "x"));
        assert_ne!(name("a", "x"), name("a", "y"));
        let long = [
            "x".repeat(63),
            "y".repeat(63),
            "z".repeat(63),
            "w".repeat(61),
        ]
        .join(".");
        assert!(name(&long, "x").len() <= 253);
    }

    #[test]
    fn many_troubles_are_no_flood() {
        let start = Instant::now();
        let mut told = Told::new(start);
        let present: Vec<Notice> = (0..100).map(|n| notice(&n.to_string())).collect();
        assert_eq!(told.due(&present, start).len(), 10);
        assert_eq!(told.due(&present, start).len(), 0);
        assert_eq!(told.due(&present, start + REFILL).len(), 1);
        assert_eq!(told.due(&present, start + 4 * REFILL).len(), 3);
    }
}
