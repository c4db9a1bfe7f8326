//! What the zone says to a question: a pure function. It knows nothing of messages or sockets.

use std::net::IpAddr;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::zone::{Addresses, ReverseName, Zone};

/// What a message of 64 KB leaves for records, the header, question and OPT taken off.
const ROOM: usize = 65_000;

/// The zone's word on a question. The records of a negative answer are the SOA that RFC 2308
/// section 3 asks for in the authority section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Records(Vec<Record>),
    NoData(Box<Record>),
    NxDomain(Box<Record>),
    /// Ours, but not to be answered: a class other than IN.
    Refused,
    /// In none of our zones: a question for the forwarder.
    NotOurs,
}

/// Answers a question from the zone. `turn` rotates the order within the addresses of this node
/// and within those of the others; this node's come first.
pub fn answer(zone: &Zone, query: &Query, turn: usize) -> Answer {
    let name = query.name();
    let reverse = match zone.holds(name) {
        true => None,
        false => match zone.reverse(name) {
            Some(reverse) => Some(reverse),
            None => return Answer::NotOurs,
        },
    };
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Answer::Refused;
    }
    match reverse {
        None => forward_name(zone, query, turn),
        Some(reverse) => reverse_name(zone, query, &reverse, turn),
    }
}

fn forward_name(zone: &Zone, query: &Query, turn: usize) -> Answer {
    let name = query.name();
    let apex = zone.apex();
    let Some(found) = zone.addresses(name).or_else(|| empty_apex(zone, name)) else {
        return Answer::NxDomain(Box::new(soa(zone, apex)));
    };
    let kind = query.query_type();
    let mut records = match kind {
        RecordType::SOA | RecordType::NS if name == apex => apex_records(zone, name, kind),
        RecordType::A | RecordType::AAAA => addresses(found, kind, turn),
        // RFC 8482 section 4.1: one RRset is answer enough.
        RecordType::ANY => [RecordType::A, RecordType::AAAA]
            .into_iter()
            .map(|kind| addresses(found, kind, turn))
            .find(|records| !records.is_empty())
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    if records.is_empty() && kind == RecordType::ANY && name == apex {
        records = apex_records(zone, name, RecordType::SOA);
    }
    positive(zone, name, apex, records)
}

fn reverse_name(zone: &Zone, query: &Query, found: &ReverseName<'_>, turn: usize) -> Answer {
    let name = query.name();
    let kind = query.query_type();
    let (apex, names) = match found {
        ReverseName::Missing { apex } => return Answer::NxDomain(Box::new(soa(zone, apex))),
        ReverseName::Empty { apex } => (apex, &[][..]),
        ReverseName::Named { apex, names } => (apex, *names),
    };
    let pointers = || -> Vec<RData> {
        let turned = turned(names, turn);
        turned.map(|name| RData::PTR(PTR(name.clone()))).collect()
    };
    let records = match kind {
        RecordType::SOA | RecordType::NS if name == apex => apex_records(zone, name, kind),
        RecordType::PTR => pointers(),
        RecordType::ANY if names.is_empty() && name == apex => {
            apex_records(zone, name, RecordType::SOA)
        }
        RecordType::ANY => pointers(),
        _ => Vec::new(),
    };
    positive(zone, name, apex, records)
}

/// The domain exists even when no name does.
fn empty_apex<'a>(zone: &'a Zone, name: &Name) -> Option<&'a Addresses> {
    const EMPTY: &Addresses = &Addresses {
        local: Vec::new(),
        remote: Vec::new(),
    };
    (name == zone.apex()).then_some(EMPTY)
}

fn positive(zone: &Zone, owner: &Name, apex: &Name, records: Vec<RData>) -> Answer {
    if records.is_empty() {
        return Answer::NoData(Box::new(soa(zone, apex)));
    }
    let mut room = ROOM;
    let mut given = Vec::with_capacity(records.len());
    for data in records {
        // Of more records than a message holds, a rotating part is given.
        let size = owner.len() + 12 + size(&data);
        if size > room {
            break;
        }
        room -= size;
        given.push(Record::from_rdata(owner.clone(), zone.ttl(), data));
    }
    Answer::Records(given)
}

fn size(data: &RData) -> usize {
    match data {
        RData::A(_) => 4,
        RData::AAAA(_) => 16,
        RData::PTR(PTR(name)) | RData::NS(NS(name)) => name.len() + 1,
        _ => 512 + 20,
    }
}

fn apex_records(zone: &Zone, apex: &Name, kind: RecordType) -> Vec<RData> {
    match kind {
        RecordType::SOA => vec![soa(zone, apex).data],
        RecordType::NS => vec![RData::NS(NS(zone.server().clone()))],
        _ => Vec::new(),
    }
}

/// The SOA of the zone whose top is `apex`; its minimum is the zone's TTL, so that a missing name
/// is forgotten as fast as a changed one (RFC 2308 section 4).
fn soa(zone: &Zone, apex: &Name) -> Record {
    let mailbox = Name::from_ascii("hostmaster")
        .and_then(|label| label.append_domain(zone.apex()))
        .unwrap_or_else(|_| zone.apex().clone());
    let server = zone.server().clone();
    let data = SOA::new(
        server,
        mailbox,
        zone.serial(),
        7200,
        1800,
        86_400,
        zone.ttl(),
    );
    Record::from_rdata(apex.clone(), zone.ttl(), RData::SOA(data))
}

fn addresses(found: &Addresses, kind: RecordType, turn: usize) -> Vec<RData> {
    let wanted = |address: &&IpAddr| address.is_ipv4() == (kind == RecordType::A);
    let mut records = Vec::new();
    for group in [&found.local, &found.remote] {
        let group: Vec<IpAddr> = group.iter().filter(wanted).copied().collect();
        records.extend(turned(&group, turn).map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        }));
    }
    records
}

fn turned<T>(group: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (before, after) = group.split_at(turn % group.len().max(1));
    after.iter().chain(before)
}

#[cfg(test)]
mod tests;
