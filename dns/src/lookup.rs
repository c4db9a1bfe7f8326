//! Asking one server one question, for `weft dns lookup` and for tests. Not a resolver: no search
//! path, no cache, no second server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::exchange::{ExchangeError, exchange};
use crate::forward::Ask;

/// Why a lookup failed. A reply that says so, such as NXDOMAIN, is none of these.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("{0:?} is not a DNS name")]
    Name(String),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("the reply of {server} is malformed: {reason}")]
    Reply { server: SocketAddr, reason: String },
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The response code by its name in the registry: `NOERROR`, `NXDOMAIN`, `SERVFAIL`, …
    pub code: String,
    /// Whether the server answers for the name itself.
    pub authoritative: bool,
    pub answers: Vec<LookupRecord>,
    pub authorities: Vec<LookupRecord>,
}

/// One record, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupRecord {
    pub name: String,
    /// In seconds.
    pub ttl: u32,
    pub kind: String,
    /// The record's data in the form of a master file.
    pub data: String,
    /// The address, of an A or AAAA record.
    pub address: Option<IpAddr>,
}

impl Lookup {
    /// The addresses in the answer, in its order.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.answers
            .iter()
            .filter_map(|record| record.address)
            .collect()
    }
}

/// Asks `server` for records of type `kind` at `name`, which is absolute with or without its last
/// dot. `timeout` bounds the whole, a second try over TCP included.
///
/// # Errors
/// When `name` is no name, or no usable reply comes in time.
pub async fn ask(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    timeout: Duration,
) -> Result<Lookup, LookupError> {
    let malformed = || LookupError::Name(name.to_owned());
    let mut parsed = Name::from_ascii(name).map_err(|_| malformed())?;
    parsed.set_fqdn(true);
    let mut question = Vec::new();
    let mut encoder = BinEncoder::new(&mut question);
    parsed.emit(&mut encoder).map_err(|_| malformed())?;
    question.extend_from_slice(&u16::from(kind).to_be_bytes());
    question.extend_from_slice(&[0, 1]);
    let reply = exchange(server, &Ask::new(&question, false, false), timeout).await?;
    let message = Message::from_vec(reply.bytes()).map_err(|error| LookupError::Reply {
        server,
        reason: error.to_string(),
    })?;
    Ok(Lookup {
        code: code(message.metadata.response_code),
        authoritative: message.metadata.authoritative,
        answers: message.answers.iter().map(record).collect(),
        authorities: message.authorities.iter().map(record).collect(),
    })
}

fn record(record: &hickory_proto::rr::Record) -> LookupRecord {
    LookupRecord {
        name: record.name.to_ascii(),
        ttl: record.ttl,
        kind: record.record_type().to_string(),
        data: record.data.to_string(),
        address: match &record.data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        },
    }
}

fn code(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        other => format!("RCODE{}", u16::from(other)),
    }
}
