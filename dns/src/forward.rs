//! The seam to other servers, and the real one behind it: the host's name servers, tried in turn.
//! It neither caches nor joins equal questions; `resolve` does.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::exchange::{ExchangeError, exchange};
use crate::resolv::ResolvFile;
use crate::wire::Reply;

/// How long one server is waited for.
const ONE: Duration = Duration::from_secs(2);
/// How long a question may take in all, over every server.
const ALL: Duration = Duration::from_secs(5);

const NO_ERROR: u16 = 0;
const NX_DOMAIN: u16 = 3;

/// A question for another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    question: Box<[u8]>,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Ask {
    /// `question` is name, type and class in wire form. The name is asked for in lower case.
    pub fn new(question: &[u8], dnssec_ok: bool, checking_disabled: bool) -> Self {
        let name = question.len().saturating_sub(4);
        let mut question: Box<[u8]> = question.into();
        // A label's length is below any letter.
        question[..name].make_ascii_lowercase();
        Self {
            question,
            dnssec_ok,
            checking_disabled,
        }
    }

    pub fn question(&self) -> &[u8] {
        &self.question
    }

    pub fn dnssec_ok(&self) -> bool {
        self.dnssec_ok
    }

    pub fn checking_disabled(&self) -> bool {
        self.checking_disabled
    }
}

/// Why no server gave a reply.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("no name server to forward to")]
    NoServer,
    #[error("no name server replied")]
    Failed(#[source] ExchangeError),
    #[error("no name server replied within {} s", ALL.as_secs())]
    Timeout,
}

/// A reply on its way.
pub type Exchange<'a> = Pin<Box<dyn Future<Output = Result<Reply, UpstreamError>> + Send + 'a>>;

/// Who answers what is not ours.
pub trait Upstream: fmt::Debug + Send + Sync {
    /// Puts a question. `own` are the addresses on which we listen ourselves: never to be asked.
    fn exchange<'a>(&'a self, ask: &'a Ask, own: &'a [SocketAddr]) -> Exchange<'a>;

    /// The servers that would be asked now, in order.
    fn servers(&self) -> Vec<SocketAddr>;
}

/// Name servers tried in turn, the one that answered last first.
#[derive(Debug)]
pub struct Servers {
    source: Source,
    preferred: AtomicUsize,
    /// Our own addresses among them, each warned of once.
    warned: Mutex<HashSet<SocketAddr>>,
}

#[derive(Debug)]
enum Source {
    Fixed(Vec<SocketAddr>),
    File(ResolvFile),
}

impl Servers {
    /// These servers and no others. With none, nothing is forwarded.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self::new(Source::Fixed(servers))
    }

    /// The servers of a resolv.conf, read again within 5 s of a change.
    pub fn resolv_conf(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::File(ResolvFile::new(path)))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            preferred: AtomicUsize::new(0),
            warned: Mutex::default(),
        }
    }

    fn plan(&self) -> Plan {
        match &self.source {
            Source::Fixed(servers) => Plan {
                servers: servers.clone(),
                wait: ONE,
                rounds: 2,
            },
            Source::File(file) => {
                let conf = file.conf(Instant::now());
                Plan {
                    servers: conf.addresses(),
                    wait: conf.timeout.unwrap_or(ONE).min(ONE),
                    rounds: conf.attempts,
                }
            }
        }
    }

    fn without(&self, servers: &mut Vec<SocketAddr>, own: &[SocketAddr]) {
        servers.retain(|server| {
            let ours = own.contains(server);
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            // Bounded by our own addresses.
            if ours && warned.insert(*server) {
                tracing::warn!(%server, "name server is this server itself, not asked");
            }
            !ours
        });
    }

    async fn ask_all(&self, ask: &Ask, own: &[SocketAddr]) -> Result<Reply, UpstreamError> {
        let mut plan = self.plan();
        self.without(&mut plan.servers, own);
        let count = plan.servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut unwilling = None;
        let mut failed = None;
        for turn in 0..count * usize::from(plan.rounds) {
            let at = first.wrapping_add(turn) % count;
            match exchange(plan.servers[at], ask, plan.wait).await {
                Ok(reply) if matches!(reply.rcode(), NO_ERROR | NX_DOMAIN) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(reply);
                }
                // It will not say; another may.
                Ok(reply) => unwilling = Some(reply),
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::debug!(error = cause, "name server passed over");
                    failed = Some(error);
                }
            }
            if unwilling.is_some() && turn + 1 >= count {
                break;
            }
        }
        match (unwilling, failed) {
            (Some(reply), _) => Ok(reply),
            (None, Some(error)) => Err(UpstreamError::Failed(error)),
            (None, None) => Err(UpstreamError::NoServer),
        }
    }
}

#[derive(Debug)]
struct Plan {
    servers: Vec<SocketAddr>,
    wait: Duration,
    rounds: u8,
}

impl Upstream for Servers {
    fn exchange<'a>(&'a self, ask: &'a Ask, own: &'a [SocketAddr]) -> Exchange<'a> {
        Box::pin(async move {
            let all = tokio::time::timeout(ALL, self.ask_all(ask, own)).await;
            all.unwrap_or(Err(UpstreamError::Timeout))
        })
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.plan().servers
    }
}
