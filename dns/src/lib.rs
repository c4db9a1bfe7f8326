//! The DNS server of a weft node: an immutable zone, a forwarder with a cache, and the sockets.
//! It is fed a zone and knows nothing of where the names come from.
#![forbid(unsafe_code)]

mod answer;
mod cache;
mod core;
mod exchange;
mod forward;
mod lookup;
mod query;
mod resolv;
mod resolve;
mod reverse;
mod server;
mod stats;
mod tcp;
mod udp;
mod wire;
mod zone;

#[cfg(test)]
#[path = "../../tests/corpus.rs"]
mod corpus;

pub use answer::{Answer, answer};
pub use cache::{Cache, CacheKey, CacheLimits, Hit};
pub use exchange::ExchangeError;
pub use forward::{Ask, Exchange, Servers, Upstream, UpstreamError};
pub use hickory_proto::rr::RecordType;
pub use lookup::{Lookup, LookupError, LookupRecord, ask};
pub use resolv::{ResolvConf, ResolvFile};
pub use server::{ListenError, Server, ServerConfig};
pub use stats::Stats;
pub use wire::{Reply, WireError};
pub use zone::{Addresses, NameError, Place, Zone, ZoneBuilder};
