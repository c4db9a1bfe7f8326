//! One kind of object, watched: the list from the server's watch cache, streamed where it can and
//! whole where not, then each change, resumed where it broke off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::debug;

use super::client::{code, words};
use super::feed::{Answer, Failure, Feeds};
use super::wire::{List, Meta};
use super::world::{MAX_OBJECTS, Update};
use crate::NodeName;

/// How long the server may say nothing: a bookmark comes every minute.
const IDLE: Duration = Duration::from_secs(90);
/// How long the server may take to begin an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the server keeps a watch, seconds, and how much of that is by chance.
const WATCH: u32 = 300;
/// Before a kind that the server does not know is asked for again.
const ABSENT: Duration = Duration::from_secs(300);
/// The least time from one watch to the next.
const LEAST: Duration = Duration::from_millis(500);
/// The server's pages, where it makes any.
const PAGE: u32 = 500;
/// The bookmark that ends a streamed list.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// A kind of object.
pub trait Kind: Send + 'static {
    /// Plural, for the path and for people.
    const PLURAL: &'static str;
    const PATH: &'static str;
    type Wire: DeserializeOwned + Clone + Send + Sync;
    type Key: Ord + Send;
    type Cut: Send;
    /// What those who listen are told.
    type News: Send;
    /// A server without this kind is none that fails.
    const OPTIONAL: bool = false;

    fn meta(wire: &Self::Wire) -> &Meta;
    /// The object as far as it is anything to us; `None` where it has no name that counts.
    fn cut(wire: Self::Wire) -> Option<(Self::Key, Self::Cut)>;
    fn news(update: Update<Self::Key, Self::Cut>) -> Self::News;
    /// What else of it this node looks at.
    fn aside(_wire: &Self::Wire, _me: &NodeName) -> Option<Self::News> {
        None
    }
}

/// What a watch needs.
pub(super) struct Setup<N> {
    pub(super) client: Client,
    pub(super) feeds: Arc<Feeds>,
    pub(super) me: NodeName,
    pub(super) news: mpsc::Sender<N>,
}

/// Watches until nobody listens any more.
pub(super) async fn watch<K: Kind>(setup: Setup<K::News>) {
    let mut watch = Watch::<K> {
        setup,
        at: None,
        streams: true,
    };
    watch.setup.feeds.begin(K::PLURAL);
    loop {
        let begun = Instant::now();
        match watch.pass().await {
            // A server that ends each watch at once is not asked without end.
            Ok(()) => tokio::time::sleep(LEAST.saturating_sub(begun.elapsed())).await,
            Err(End::Closed) => return,
            Err(End::Failed(failure)) if K::OPTIONAL && failure.answer == Answer::Absent => {
                watch.setup.feeds.forget(K::PLURAL);
                tokio::time::sleep(ABSENT).await;
            }
            Err(End::Failed(failure)) => {
                debug!(error = failure.error, "watch {}", K::PLURAL);
                let pause = watch.setup.feeds.failed(K::PLURAL, failure);
                watch.setup.feeds.wait(pause).await;
            }
        }
    }
}

struct Watch<K: Kind> {
    setup: Setup<K::News>,
    /// The version up to which everything was seen.
    at: Option<String>,
    /// Whether the server streams its lists.
    streams: bool,
}

enum End {
    /// Nobody listens any more.
    Closed,
    Failed(Failure),
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        Self::Failed(Failure::of(&error))
    }
}

impl End {
    fn said(error: &str) -> Self {
        Self::Failed(Failure {
            error: error.into(),
            ..Failure::default()
        })
    }
}

impl<K: Kind> Watch<K> {
    /// One watch from its beginning to its end, which comes every few minutes.
    async fn pass(&mut self) -> Result<(), End> {
        let mut list = None;
        if self.at.is_none() {
            if self.streams {
                list = Some(BTreeMap::new());
            } else {
                self.list().await?;
            }
        }
        let parameters = WatchParams {
            timeout: Some(WATCH + getrandom::u32().unwrap_or(0) % WATCH),
            bookmarks: true,
            send_initial_events: list.is_some(),
            ..WatchParams::default()
        };
        let version = self.at.clone().unwrap_or_else(|| "0".into());
        let request = Request::new(K::PATH).watch(&parameters, &version);
        let request = request.map_err(kube::Error::BuildRequest)?;
        let client = self.setup.client.clone();
        let begun = tokio::time::timeout(ANSWER, client.request_events::<K::Wire>(request)).await;
        let events = match begun {
            Err(_) => return Err(End::said("no answer in time")),
            Ok(Err(error)) => {
                // A server that was gone may come back with an older copy of its store.
                if code(&error).is_none() {
                    self.at = None;
                }
                return self.ended(error, list.is_some());
            }
            Ok(Ok(events)) => events,
        };
        let mut events = std::pin::pin!(events);
        if list.is_none() {
            self.setup.feeds.established(K::PLURAL);
        }
        loop {
            let event = match tokio::time::timeout(IDLE, events.next()).await {
                Err(_) => return Err(End::said("it says nothing any more")),
                Ok(None) if list.is_some() => return Err(End::said("it ended within its list")),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => return self.ended(error, list.is_some()),
                Ok(Some(Ok(event))) => event,
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    if list.is_none() {
                        self.at = Some(K::meta(&object).resource_version.clone());
                    }
                    self.aside(&object).await?;
                    match (K::cut(object), &mut list) {
                        (Some((key, cut)), None) => self.tell(Update::Put(key, cut)).await?,
                        (Some((key, cut)), Some(list)) if list.len() < MAX_OBJECTS => {
                            list.insert(key, cut);
                        }
                        _ => {}
                    }
                }
                WatchEvent::Deleted(object) => {
                    self.at = Some(K::meta(&object).resource_version.clone());
                    if let Some((key, _)) = K::cut(object) {
                        self.tell(Update::Gone(key)).await?;
                    }
                }
                WatchEvent::Bookmark(bookmark) => {
                    let ends = bookmark.metadata.annotations.contains_key(INITIAL_END);
                    if let Some(list) = list.take_if(|_| ends) {
                        self.tell(Update::All(list)).await?;
                        self.setup.feeds.established(K::PLURAL);
                    }
                    if list.is_none() {
                        self.mark(bookmark.metadata.resource_version)?;
                    }
                }
                WatchEvent::Error(status) => {
                    return self.ended(kube::Error::Api(status), list.is_some());
                }
            }
        }
    }

    /// Reads the whole list, from the server's watch cache.
    async fn list(&mut self) -> Result<(), End> {
        let mut all = BTreeMap::new();
        let mut more: Option<String> = None;
        let version = loop {
            let parameters = ListParams {
                limit: Some(PAGE),
                continue_token: more.clone(),
                ..ListParams::default()
            };
            let request = Request::new(K::PATH).list(&parameters);
            let mut request = request.map_err(kube::Error::BuildRequest)?;
            if more.is_none() {
                // The client leaves this out beside a limit; the server's cache heeds both or one.
                let uri = format!("{}&resourceVersion=0", request.uri());
                *request.uri_mut() = uri.parse().map_err(|_| End::said("the list's address"))?;
            }
            let page = self.setup.client.request::<List<K::Wire>>(request);
            let page = tokio::time::timeout(ANSWER, page).await;
            let page = page.map_err(|_| End::said("no answer in time"))?;
            let page = page?;
            for object in page.items {
                self.aside(&object).await?;
                if let Some((key, cut)) = K::cut(object)
                    && all.len() < MAX_OBJECTS
                {
                    all.insert(key, cut);
                }
            }
            more = page.metadata.more.filter(|token| !token.is_empty());
            if more.is_none() {
                break page.metadata.resource_version;
            }
        };
        self.tell(Update::All(all)).await?;
        self.at = Some(version);
        Ok(())
    }

    async fn aside(&self, object: &K::Wire) -> Result<(), End> {
        match K::aside(object, &self.setup.me) {
            Some(news) => self.send(news).await,
            None => Ok(()),
        }
    }

    async fn tell(&self, update: Update<K::Key, K::Cut>) -> Result<(), End> {
        self.send(K::news(update)).await
    }

    async fn send(&self, news: K::News) -> Result<(), End> {
        let sent = self.setup.news.send(news).await;
        sent.map_err(|_| End::Closed)
    }

    /// Everything up to `version` was seen. A lower one than before is that of a server whose store
    /// was set back to an older copy: what it said since may never have been.
    fn mark(&mut self, version: String) -> Result<(), End> {
        let number = |version: &str| version.parse::<u64>().ok();
        let before = self.at.as_deref().and_then(number);
        if number(&version) < before {
            self.at = None;
            return Err(End::said("it went back in time; its list is read anew"));
        }
        self.at = Some(version);
        Ok(())
    }

    /// Begins anew with the list where the server has forgotten what came after `at`, and with a
    /// whole one where it cannot stream it: servers before 1.32, or before etcd 3.5.
    fn ended(&mut self, error: kube::Error, streaming: bool) -> Result<(), End> {
        match code(&error) {
            // Too old; or, of a server that was set back, too new.
            Some(410) => self.at = None,
            _ if words(&error).contains("Too large resource version") => self.at = None,
            Some(401 | 403 | 404) | None => {}
            Some(_) if streaming => {
                debug!(
                    error = words(&error),
                    "no streamed list of {}; it is read whole",
                    K::PLURAL
                );
                self.streams = false;
                return Ok(());
            }
            Some(_) => {}
        }
        Err(error.into())
    }
}

#[cfg(test)]
mod tests;
