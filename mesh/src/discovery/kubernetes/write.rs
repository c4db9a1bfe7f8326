//! What this node writes to the API: its `WeftNode` and its claims, on change alone.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

use super::client::code;
use super::feed::{Failure, Feeds};
use super::kinds::{WeftNodes, WeftRanges};
use super::range::claim_name;
use super::watch::Kind;
use super::wire::WeftNodeSpec;
use crate::NodeName;

/// Who we are among those who write an object's fields.
const MANAGER: &str = "weft";
/// What a write is called among the conversations.
const WRITING: &str = "writes";
/// How long the server may take.
const ANSWER: Duration = Duration::from_secs(30);
/// What was written comes back by the watch; it is written again if that has not happened by then.
const ECHO: Duration = Duration::from_secs(10);
/// The least time between two writes, so that nothing can make this node flood the server.
const LEAST: Duration = Duration::from_millis(200);

/// Something to write. Each may be done twice without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// What this node tells of itself.
    Tell(WeftNodeSpec),
    /// A range to claim.
    Claim(IpNet),
    /// A claim, by its name, that this node needs no more.
    Release(String),
}

/// What is to be written, for the Node with this uid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Todo {
    pub(super) uid: String,
    pub(super) deeds: Vec<Deed>,
}

pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) feeds: Arc<Feeds>,
    pub(super) me: NodeName,
    pub(super) todo: watch::Receiver<Todo>,
    /// Ranges that somebody else has claimed in the same moment.
    pub(super) taken: mpsc::Sender<IpNet>,
}

impl Writer {
    pub(super) async fn run(mut self) {
        loop {
            let todo = self.todo.borrow_and_update().clone();
            let mut pause = None;
            for deed in &todo.deeds {
                match self.carry_out(deed, &todo.uid).await {
                    Ok(()) => self.feeds.established(WRITING),
                    Err(failure) => {
                        debug!(error = failure.error, "write");
                        pause = Some(self.feeds.failed(WRITING, failure));
                        break;
                    }
                }
            }
            if todo.deeds.is_empty() {
                self.feeds.forget(WRITING);
            }
            let waits = match pause {
                Some(pause) => pause,
                None if todo.deeds.is_empty() => Duration::MAX,
                None => ECHO,
            };
            tokio::select! {
                changed = self.todo.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(waits) => {}
            }
            // New news do not shorten the pause that a failure asks for by more than this.
            tokio::time::sleep(pause.unwrap_or(LEAST).min(Duration::from_secs(1))).await;
        }
    }

    async fn carry_out(&self, deed: &Deed, uid: &str) -> Result<(), Failure> {
        let result = match deed {
            Deed::Tell(spec) => self.tell(spec, uid).await,
            Deed::Claim(range) => self.claim(range, uid).await,
            Deed::Release(name) => self.release(name).await,
        };
        result.map_err(|error| Failure::of(&error))
    }

    async fn tell(&self, spec: &WeftNodeSpec, uid: &str) -> kube::Result<()> {
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "WeftNode",
            "metadata": {"name": self.me.as_str(), "ownerReferences": [self.owner(uid)]},
            "spec": spec,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let request = Request::new(WeftNodes::PATH);
        let request = request
            .patch(self.me.as_str(), &parameters, &Patch::Apply(&object))
            .map_err(kube::Error::BuildRequest)?;
        Self::answer(self.client.request(request)).await?;
        info!(endpoints = ?spec.endpoints, "told the cluster of this node");
        Ok(())
    }

    async fn claim(&self, range: &IpNet, uid: &str) -> kube::Result<()> {
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "WeftRange",
            "metadata": {"name": claim_name(range), "ownerReferences": [self.owner(uid)]},
            "spec": {"node": self.me.as_str(), "range": range},
        });
        let parameters = PostParams {
            field_manager: Some(MANAGER.into()),
            ..PostParams::default()
        };
        let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
        let request = Request::new(WeftRanges::PATH)
            .create(&parameters, body)
            .map_err(kube::Error::BuildRequest)?;
        match Self::answer(self.client.request(request)).await {
            Ok(()) => {
                info!(%range, "range claimed");
                Ok(())
            }
            Err(error) if code(&error) == Some(409) => {
                debug!(%range, "somebody else was faster");
                // Full only if nobody takes the news from there any more.
                let _ = self.taken.try_send(*range);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn release(&self, name: &str) -> kube::Result<()> {
        let request = Request::new(WeftRanges::PATH)
            .delete(name, &DeleteParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match Self::answer(self.client.request(request)).await {
            Err(error) if code(&error) != Some(404) => Err(error),
            _ => {
                info!(name, "claim released");
                Ok(())
            }
        }
    }

    fn owner(&self, uid: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "name": self.me.as_str(), "uid": uid})
    }

    async fn answer(answer: impl Future<Output = kube::Result<Value>>) -> kube::Result<()> {
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(kube::Error::Service("no answer in time".into())),
        }
    }
}
