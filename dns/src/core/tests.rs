//! Messages as bytes into the server and out of it, without sockets.

use std::future::ready;
use std::net::SocketAddr;

use hickory_proto::op::{Edns, MessageType};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::cache::CacheLimits;
use crate::forward::{Exchange, Upstream, UpstreamError};
use crate::zone::{Place, ZoneBuilder};

#[derive(Debug)]
struct Nobody;

impl Upstream for Nobody {
    fn exchange<'a>(&'a self, _: &'a Ask, _: &'a [SocketAddr]) -> Exchange<'a> {
        Box::pin(ready(Err(UpstreamError::NoServer)))
    }

    fn servers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }
}

fn core() -> Core {
    let mut zone = ZoneBuilder::new("weft.local").unwrap();
    let many: Vec<IpAddr> = (0..200u8).map(|at| IpAddr::from([10, 32, 0, at])).collect();
    zone.add("many", &many, Place::Remote).unwrap();
    zone.add("web", &many[..3], Place::Local).unwrap();
    zone.add("db.prod", &many[3..4], Place::Remote).unwrap();
    let counters = Arc::new(Counters::default());
    Core {
        zone: Arc::new(ArcSwap::from_pointee(zone.build())),
        allowed: ArcSwap::from_pointee(vec!["127.0.0.0/8".parse().unwrap()]),
        own: ArcSwap::default(),
        resolver: Arc::new(Resolver::new(
            Arc::new(Nobody),
            CacheLimits::default(),
            Arc::clone(&counters),
        )),
        counters,
        refusals: Mutex::default(),
        turns: Turns::default(),
    }
}

fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message
}

fn reply(core: &Core, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let source = IpAddr::from([127, 0, 0, 1]);
    match core.begin(bytes, source, transport, Instant::now()) {
        Step::Reply(reply) => Some(reply),
        Step::Forward(..) | Step::Drop => None,
    }
}

fn answered(message: &Message, transport: Transport) -> (usize, Message) {
    let reply = reply(&core(), &message.to_vec().unwrap(), transport).unwrap();
    (reply.len(), Message::from_vec(&reply).unwrap())
}

#[test]
fn a_local_answer_has_the_bits_and_the_question_of_its_query() {
    let mut asked = query("WeB.weft.LOCAL.", RecordType::A, Some(4096));
    asked.metadata.checking_disabled = true;
    asked.metadata.authentic_data = true;
    asked.edns.as_mut().unwrap().set_dnssec_ok(true);
    let (_, reply) = answered(&asked, Transport::Udp);
    let head = reply.metadata;
    assert_eq!((head.id, head.message_type), (77, MessageType::Response));
    assert!(head.authoritative && head.recursion_desired && head.recursion_available);
    assert!(head.checking_disabled && !head.truncation && !head.authentic_data);
    assert!(reply.queries[0].name().eq_case(asked.queries[0].name()));
    assert_eq!(reply.answers.len(), 3);
    assert!(reply.answers.iter().all(|record| record.ttl == 5));
    let edns = reply.edns.unwrap();
    assert!(edns.flags().dnssec_ok);
    assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
}

#[test]
fn a_negative_answer_carries_the_soa() {
    for (name, rcode) in [
        ("no.weft.local.", ResponseCode::NXDomain),
        ("prod.weft.local.", ResponseCode::NoError),
    ] {
        let (_, reply) = answered(&query(name, RecordType::A, None), Transport::Udp);
        assert_eq!(reply.metadata.response_code, rcode);
        assert!(reply.metadata.authoritative && reply.answers.is_empty());
        assert_eq!(reply.authorities.len(), 1);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        assert!(reply.edns.is_none());
    }
}

#[test]
fn a_udp_reply_keeps_to_the_clients_size_and_to_ours() {
    for (edns, limit) in [
        (None, 512),
        (Some(512), 512),
        (Some(800), 800),
        (Some(1232), 1232),
        (Some(65_535), 1232),
    ] {
        let (size, reply) = answered(
            &query("many.weft.local.", RecordType::A, edns),
            Transport::Udp,
        );
        assert!(size <= limit && size > limit - 16, "{size} of {limit}");
        assert!(reply.metadata.truncation);
        assert_eq!(reply.edns.is_some(), edns.is_some());
    }
    let (_, reply) = answered(
        &query("many.weft.local.", RecordType::A, None),
        Transport::Tcp,
    );
    assert!(!reply.metadata.truncation);
    assert_eq!(reply.answers.len(), 200);
}

#[test]
fn what_is_no_query_gets_the_error_it_deserves() {
    let valid = query("web.weft.local.", RecordType::A, None)
        .to_vec()
        .unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = valid.clone();
        bytes[at] = value;
        bytes
    };
    let mut pointer = valid.clone();
    pointer.splice(12..12 + 16, [0xc0, 12]);
    let cases = [
        ("empty", vec![], None),
        ("eleven bytes", valid[..11].to_vec(), None),
        ("a reply", with(2, 0x81), None),
        ("a status query", with(2, 0x11), Some(4)),
        ("an update", with(2, 0x28), Some(4)),
        ("a header alone", valid[..12].to_vec(), Some(1)),
        ("no question", with(5, 0), Some(1)),
        ("two questions", with(5, 2), Some(1)),
        ("an answer in a query", with(7, 1), Some(1)),
        ("thousands of records", with(10, 9), Some(1)),
        ("cut in its question", valid[..20].to_vec(), Some(1)),
        ("a record too few", with(11, 1), Some(1)),
        ("a name pointing to itself", pointer, Some(1)),
        ("a label of a kind nobody uses", with(12, 0x43), Some(1)),
        (
            "a whole zone wanted",
            query("weft.local.", RecordType::AXFR, None)
                .to_vec()
                .unwrap(),
            Some(5),
        ),
        (
            "an OPT wanted",
            query("weft.local.", RecordType::OPT, None)
                .to_vec()
                .unwrap(),
            Some(1),
        ),
    ];
    let core = core();
    for (what, bytes, want) in cases {
        let got = reply(&core, &bytes, Transport::Udp);
        let rcode = got.as_ref().map(|reply| reply[3] & 0x0f);
        assert_eq!(rcode, want, "{what}");
        if let Some(reply) = got {
            assert_eq!(reply[..2], bytes[..2], "{what}");
            assert_eq!(reply[2] & 0x80, 0x80, "{what}");
            Message::from_vec(&reply).unwrap();
        }
    }
    assert!(core.stats().malformed >= 10);
}

#[test]
fn an_edns_version_of_the_future_is_refused_as_such() {
    let mut asked = query("web.weft.local.", RecordType::A, Some(1232));
    asked.edns.as_mut().unwrap().set_version(1);
    let (_, reply) = answered(&asked, Transport::Udp);
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert!(reply.answers.is_empty());
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[test]
fn names_of_every_byte_are_answered() {
    let core = core();
    for byte in 0..=255u8 {
        let label: &[u8] = &[byte, b'x'];
        let name = Name::from_labels([label, b"weft", b"local"]).unwrap();
        let mut asked = query(".", RecordType::A, None);
        asked.queries[0].set_name(name);
        let bytes = asked.to_vec().unwrap();
        let reply = reply(&core, &bytes, Transport::Udp).unwrap();
        assert_eq!(reply[3] & 0x0f, 3, "byte {byte}");
        assert_eq!(reply[12..bytes.len()], bytes[12..]);
    }
}

#[test]
fn strangers_are_refused_at_a_bounded_rate() {
    let core = core();
    let bytes = query("web.weft.local.", RecordType::A, None)
        .to_vec()
        .unwrap();
    let now = Instant::now();
    let source = IpAddr::from([192, 0, 2, 1]);
    let mut refused = 0;
    for _ in 0..1000 {
        match core.begin(&bytes, source, Transport::Udp, now) {
            Step::Reply(reply) => {
                assert_eq!(reply[3] & 0x0f, 5);
                assert!(reply.len() <= bytes.len());
                refused += 1;
            }
            Step::Drop => {}
            Step::Forward(..) => panic!("forwarded for a stranger"),
        }
    }
    assert_eq!(refused, REFUSALS);
    let later = now + Duration::from_secs(1);
    let step = core.begin(&bytes, source, Transport::Udp, later);
    assert!(matches!(step, Step::Reply(_)));
    assert_eq!(core.stats().refused, 1001);
    assert_eq!(core.stats().queries, 0);
}

#[test]
fn a_client_that_asks_for_both_families_in_turn_sees_every_order() {
    let core = core();
    let a = query("web.weft.local.", RecordType::A, None)
        .to_vec()
        .unwrap();
    let aaaa = query("web.weft.local.", RecordType::AAAA, None)
        .to_vec()
        .unwrap();
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let reply = reply(&core, &a, Transport::Udp).unwrap();
        firsts.insert(
            Message::from_vec(&reply).unwrap().answers[0]
                .data
                .to_string(),
        );
        self::reply(&core, &aaaa, Transport::Udp).unwrap();
    }
    assert_eq!(firsts.len(), 3);
}

#[test]
fn without_recursion_nothing_leaves_the_node() {
    let mut asked = query("example.org.", RecordType::A, None);
    asked.metadata.recursion_desired = false;
    let (_, reply) = answered(&asked, Transport::Udp);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
}

fn seeds() -> Vec<Vec<u8>> {
    let mut signed = query("many.weft.local.", RecordType::ANY, Some(1400));
    signed.edns.as_mut().unwrap().set_dnssec_ok(true);
    [
        query("web.weft.local.", RecordType::A, None),
        query("many.weft.local.", RecordType::A, Some(900)),
        query("5.0.32.10.in-addr.arpa.", RecordType::PTR, Some(1232)),
        query("example.org.", RecordType::AAAA, None),
        signed,
    ]
    .map(|message| message.to_vec().unwrap())
    .to_vec()
}

/// Whatever comes in: no panic, and a reply within bounds, to the same ID, that reads as one.
fn check(bytes: &[u8]) {
    let core = core();
    for (transport, limit) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        if let Some(reply) = reply(&core, bytes, transport) {
            assert!(reply.len() <= limit);
            assert_eq!(reply[..2], bytes[..2]);
            let read = Message::from_vec(&reply).unwrap();
            if read.edns.is_none() && transport == Transport::Udp {
                assert!(reply.len() <= 512);
            }
        }
    }
}

#[test]
fn no_query_of_the_corpus_does_harm() {
    crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "query", check);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&bytes);
    }

    #[test]
    fn random_bodies_below_a_good_header_do_no_harm(
        body in prop::collection::vec(any::<u8>(), 0..300),
        counts in any::<[u8; 3]>(),
    ) {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, counts[0] % 3, 0, counts[1] % 3, 0, counts[2] % 3];
        bytes.extend_from_slice(&body);
        check(&bytes);
    }

    #[test]
    fn mutated_queries_do_no_harm(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let seeds = seeds();
        let mut bytes = seed.get(&seeds).clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.extend_from_slice(&tail);
        check(&bytes);
    }
}
