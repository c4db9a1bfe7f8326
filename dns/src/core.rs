//! The way of a message through the server, apart from any socket: who may ask, what the zone
//! says, what is left for the forwarder.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use ipnet::IpNet;

use crate::answer::{Answer, answer};
use crate::forward::Ask;
use crate::query::{self, REFUSED, Received, Request, SERV_FAIL, Transport};
use crate::resolve::Resolver;
use crate::stats::{Counters, Stats};
use crate::wire::{self, Reply};
use crate::zone::Zone;

/// Replies a second to sources that may not ask; the rest of their messages are dropped.
const REFUSALS: u32 = 100;

/// What the sockets share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    pub(crate) allowed: ArcSwap<Vec<IpNet>>,
    /// The addresses we listen on.
    pub(crate) own: ArcSwap<Vec<SocketAddr>>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) refusals: Mutex<Bucket>,
    pub(crate) turns: Turns,
}

/// What a socket does with a message.
#[derive(Debug)]
pub(crate) enum Step {
    Reply(Vec<u8>),
    /// To be finished by [`Core::forward`], which takes time.
    Forward(Box<Request>, Ask),
    Drop,
}

impl Core {
    /// Whether a source may ask. A socket of IPv6 alone never sees IPv4 in disguise.
    pub(crate) fn allows(&self, source: IpAddr) -> bool {
        self.allowed
            .load()
            .iter()
            .any(|range| range.contains(&source))
    }

    /// Takes a message as far as it goes without asking anybody.
    pub(crate) fn begin(
        &self,
        message: &[u8],
        source: IpAddr,
        transport: Transport,
        now: Instant,
    ) -> Step {
        if !self.allows(source) {
            return self.refuse(message, now);
        }
        match transport {
            Transport::Udp => self.counters.udp.add(),
            Transport::Tcp => self.counters.tcp.add(),
        }
        match query::receive(message) {
            Received::Drop => {
                self.counters.malformed.add();
                Step::Drop
            }
            Received::Error { reply, rcode } => {
                if rcode == query::FORM_ERR {
                    self.counters.malformed.add();
                }
                self.counters.reply(rcode);
                Step::Reply(reply)
            }
            Received::Request(request) => self.answer(request, transport, now),
        }
    }

    fn answer(&self, request: Box<Request>, transport: Transport, now: Instant) -> Step {
        let turn = self.turns.next(&request.query);
        let answer = answer(&self.zone.load(), &request.query, turn);
        if answer != Answer::NotOurs {
            self.counters.local.add();
            return Step::Reply(match local(&request, answer) {
                Some(reply) => self.write(&request, &reply, transport, 0),
                None => self.bare(&request, SERV_FAIL),
            });
        }
        let ask = Ask::new(
            &request.question,
            request.dnssec_ok(),
            request.checking_disabled,
        );
        if let Some(hit) = self.resolver.cached(&ask, now) {
            return Step::Reply(self.write(&request, &hit.reply, transport, hit.age));
        }
        // RFC 1035 section 4.1.1: we go and ask only when told to.
        if !request.recursion_desired {
            return Step::Reply(self.bare(&request, REFUSED));
        }
        Step::Forward(request, ask)
    }

    /// Asks the other servers; SERVFAIL when none answers, never NXDOMAIN.
    pub(crate) async fn forward(
        &self,
        request: &Request,
        ask: Ask,
        transport: Transport,
    ) -> Vec<u8> {
        let own = self.own.load_full();
        match self.resolver.resolve(ask, own).await {
            Some(reply) => self.write(request, &reply, transport, 0),
            None => self.bare(request, SERV_FAIL),
        }
    }

    /// The reply to a request that there is no room to forward.
    pub(crate) fn overloaded(&self, request: &Request) -> Vec<u8> {
        self.counters.overload.add();
        self.bare(request, SERV_FAIL)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.counters.snapshot(self.resolver.kept())
    }

    fn refuse(&self, message: &[u8], now: Instant) -> Step {
        self.counters.refused.add();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if !refusals.take(now) {
            return Step::Drop;
        }
        match wire::refusal(message, REFUSED as u8) {
            Some(reply) => {
                self.counters.reply(REFUSED);
                Step::Reply(reply)
            }
            None => Step::Drop,
        }
    }

    fn write(&self, request: &Request, reply: &Reply, transport: Transport, age: u32) -> Vec<u8> {
        self.counters.reply(reply.rcode());
        reply.write(request, request.limit(transport), age)
    }

    fn bare(&self, request: &Request, rcode: u16) -> Vec<u8> {
        self.counters.reply(rcode);
        request.bare(rcode)
    }
}

/// The zone's answer as a reply; `None` if it cannot be written.
fn local(request: &Request, answer: Answer) -> Option<Reply> {
    let mut message = Message::response(request.id, OpCode::Query);
    message.metadata.authoritative = true;
    message.add_query(request.query.clone());
    match answer {
        Answer::Records(records) => message.answers = records,
        Answer::NoData(soa) => message.authorities = vec![*soa],
        Answer::NxDomain(soa) => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.authorities = vec![*soa];
        }
        Answer::Refused | Answer::NotOurs => {
            message.metadata.authoritative = false;
            message.metadata.response_code = ResponseCode::Refused;
        }
    }
    Reply::parse(message.to_vec().ok()?).ok()
}

/// Whose turn it is to come first. Names and types count apart, or a client that asks for A and
/// AAAA in turn would always get the same order of each; a few that share a count do no harm.
#[derive(Debug)]
pub(crate) struct Turns([AtomicUsize; 256]);

impl Default for Turns {
    fn default() -> Self {
        Self([const { AtomicUsize::new(0) }; 256])
    }
}

impl Turns {
    fn next(&self, query: &Query) -> usize {
        let mut hasher = DefaultHasher::new();
        query.name().hash(&mut hasher);
        query.query_type().hash(&mut hasher);
        let slot = hasher.finish() as usize % self.0.len();
        self.0[slot].fetch_add(1, Ordering::Relaxed)
    }
}

/// A rate: `REFUSALS` a second, as many at once.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    second: Option<Instant>,
    taken: u32,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let over = |second| now.saturating_duration_since(second) >= Duration::from_secs(1);
        if self.second.is_none_or(over) {
            self.second = Some(now);
            self.taken = 0;
        }
        self.taken += 1;
        self.taken <= REFUSALS
    }
}

#[cfg(test)]
mod tests;
