//! What a node of a Kubernetes cluster does beside finding the others: it follows the Services'
//! ranges, tells of its state by a condition and Events, answers health probes, and tells the
//! runtime of the network.

mod clock;
mod condition;
mod conflist;
mod event;
mod health;
mod services;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_cni::confdir::TakeOver;
use weft_mesh::discovery::kubernetes::Kubernetes;
use weft_mesh::discovery::{Problem, ProblemKind};

use self::conflist::Place;
pub(crate) use self::conflist::restore;
use crate::config::{Config, KubernetesConfig};

/// How long the API may take over one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Something that is wrong, with a word worth an alert.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Notice {
    /// `RangeOverlap`, `ForwardingBlocked` and the like.
    pub(crate) reason: &'static str,
    /// One sentence.
    pub(crate) text: String,
}

/// How the node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Why it cannot carry pods.
    pub(crate) unready: Option<String>,
    /// What is wrong, sorted.
    pub(crate) notices: Vec<Notice>,
    /// When the reconciler looked last.
    pub(crate) looked: Option<Instant>,
}

/// Does all that for as long as it is not dropped. `node` is how the reconciler found the node.
pub(crate) fn start(
    kubernetes: &Arc<Kubernetes>,
    config: &Config,
    settings: &KubernetesConfig,
    node: watch::Receiver<Standing>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let standing = watch::Sender::new(node.borrow().clone());
    let unready = watch::Sender::new(Some("starting".to_owned()));
    let refused = watch::Sender::new(None);
    tasks.spawn(services::follow(Arc::clone(kubernetes)));
    if let Some(directory) = &settings.cni_conf_dir {
        let place = Place {
            directory: directory.clone(),
            socket: config.socket.clone(),
            take_over: match settings.take_over {
                true => TakeOver::MoveAside,
                false => TakeOver::Refuse,
            },
        };
        let (unready, refused) = (unready.subscribe(), refused.clone());
        tasks.spawn(conflist::keep(place, unready, refused));
    }
    let mut busy = Vec::new();
    for address in health::addresses() {
        let failed = watch::Sender::new(None);
        busy.push(failed.subscribe());
        tasks.spawn(health::serve(address, standing.subscribe(), failed));
    }
    let name = config.name.clone();
    let seen = standing.subscribe();
    tasks.spawn(condition::keep(Arc::clone(kubernetes), name.clone(), seen));
    let seen = standing.subscribe();
    tasks.spawn(event::tell(Arc::clone(kubernetes), name, seen));
    tasks.spawn(gather(Gather {
        node,
        notices: kubernetes.notices(),
        refused: refused.subscribe(),
        busy,
        unready,
        standing,
    }));
    tasks
}

/// What the node's standing is made of, and who is told of it.
struct Gather {
    node: watch::Receiver<Standing>,
    notices: watch::Receiver<Vec<Problem>>,
    refused: watch::Receiver<Option<String>>,
    busy: Vec<watch::Receiver<Option<String>>>,
    /// By the reconciler alone.
    unready: watch::Sender<Option<String>>,
    standing: watch::Sender<Standing>,
}

async fn gather(mut all: Gather) {
    loop {
        let mut standing = all.node.borrow_and_update().clone();
        let unready = standing.unready.clone();
        all.unready.send_if_modified(|old| {
            let changed = *old != unready;
            *old = unready;
            changed
        });
        let refused = all.refused.borrow_and_update().clone();
        standing.unready = standing.unready.or(refused);
        let problems = all.notices.borrow_and_update().clone();
        standing.notices.extend(problems.into_iter().filter_map(of));
        let busy = all.busy.iter().filter_map(|failed| failed.borrow().clone());
        standing.notices.extend(busy.map(|text| Notice {
            reason: "PortUnavailable",
            text,
        }));
        standing.notices.sort();
        standing.notices.dedup();
        all.standing.send_replace(standing);
        tokio::select! {
            changed = all.node.changed() => if changed.is_err() { return },
            // Whoever tells nothing any more, or never did, is not waited for.
            Ok(()) = all.notices.changed() => {}
            Ok(()) = all.refused.changed() => {}
        }
    }
}

/// What discovery found, where it is worth an alert.
fn of(problem: Problem) -> Option<Notice> {
    let reason = match problem.kind {
        ProblemKind::RangeOverlap => "RangeOverlap",
        ProblemKind::RangeClash | ProblemKind::PoolFull => "RangeConflict",
        ProblemKind::Cloned | ProblemKind::KeyClash => "IdentityCloned",
        ProblemKind::PeerRefused => "PeerRefused",
        ProblemKind::Permission => "PermissionMissing",
        _ => return None,
    };
    Some(Notice {
        reason,
        text: problem.text,
    })
}

/// An answer of the API, or that there was none in time.
async fn answered(answer: impl Future<Output = kube::Result<Value>>) -> kube::Result<()> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(kube::Error::Service("no answer in time".into())),
    }
}
