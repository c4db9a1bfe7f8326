//! A message of a client, read: either a request to answer, or at once the reply it deserves.
//! hickory reads the message; what the reply must repeat to the byte is taken from the bytes.

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::RecordType;

use crate::wire::{self, HEADER, UDP_LIMIT};

pub(crate) const FORM_ERR: u16 = 1;
pub(crate) const SERV_FAIL: u16 = 2;
pub(crate) const NOT_IMP: u16 = 4;
pub(crate) const REFUSED: u16 = 5;
pub(crate) const BAD_VERS: u16 = 16;

/// An OPT and a signature are all that a query has use for.
const MAX_ADDITIONAL: u8 = 4;

/// How a message came, which bounds how long its reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A request of one question.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) id: u16,
    pub(crate) query: Query,
    /// Name, type and class as the client spelt them.
    pub(crate) question: Vec<u8>,
    pub(crate) recursion_desired: bool,
    pub(crate) checking_disabled: bool,
    /// Whether the client looks at AD (RFC 6840 section 5.7).
    pub(crate) wants_authentic: bool,
    pub(crate) edns: Option<ClientEdns>,
}

/// What a client's OPT says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientEdns {
    pub(crate) size: u16,
    pub(crate) dnssec_ok: bool,
}

/// What becomes of a message.
#[derive(Clone, Debug)]
pub(crate) enum Received {
    Request(Box<Request>),
    /// Not to be answered from the zone: this, with this code, is the reply.
    Error {
        reply: Vec<u8>,
        rcode: u16,
    },
    /// No query, or too little of one to reply to.
    Drop,
}

impl Request {
    /// The longest reply, in bytes (RFC 1035 section 4.2.1, RFC 6891 section 6.2.5).
    pub(crate) fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => u16::MAX.into(),
            (Transport::Udp, None) => 512,
            (Transport::Udp, Some(edns)) => edns.size.clamp(512, UDP_LIMIT).into(),
        }
    }

    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// Reads a client's message.
pub(crate) fn receive(bytes: &[u8]) -> Received {
    let error = |rcode: u16| match wire::header_only(bytes, rcode as u8) {
        Some(reply) => Received::Error { reply, rcode },
        None => Received::Drop,
    };
    let Some(header) = bytes.get(..HEADER) else {
        return Received::Drop;
    };
    if header[2] & 0x80 != 0 {
        return Received::Drop;
    }
    if header[2] & 0x78 != 0 {
        return error(NOT_IMP);
    }
    // One question, no answers, and few additional records: names made of pointers could make
    // thousands of them slow to read.
    if header[4..10] != [0, 1, 0, 0, 0, 0] || header[10] != 0 || header[11] > MAX_ADDITIONAL {
        return error(FORM_ERR);
    }
    let Ok(question_end) = wire::question_end(bytes) else {
        return error(FORM_ERR);
    };
    let Ok(mut message) = Message::from_vec(bytes) else {
        return error(FORM_ERR);
    };
    let Some(query) = message.queries.pop() else {
        return error(FORM_ERR);
    };
    let edns = message.edns.as_ref().map(|edns| ClientEdns {
        size: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
    });
    let dnssec_ok = edns.is_some_and(|edns| edns.dnssec_ok);
    let request = Request {
        id: message.metadata.id,
        query,
        question: bytes[HEADER..question_end].to_vec(),
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        wants_authentic: message.metadata.authentic_data || dnssec_ok,
        edns,
    };
    let version = message.edns.as_ref().map_or(0, |edns| edns.version());
    let rcode = match request.query.query_type() {
        _ if version != 0 => BAD_VERS,
        RecordType::OPT | RecordType::ZERO => FORM_ERR,
        // A zone is not given away whole, ours or another's.
        RecordType::AXFR | RecordType::IXFR => REFUSED,
        _ => return Received::Request(Box::new(request)),
    };
    Received::Error {
        reply: request.bare(rcode),
        rcode,
    }
}
