//! What is not ours: forwarded to a name server of the test's own, kept, and passed on.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    DEADLINE, Fake, Transport, answer, bytes, over_udp, query, receive_tcp, reply_to, send_tcp,
    start, start_with,
};
use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::rdata::{NULL, SOA};
use hickory_proto::rr::{Name, RData, Record};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use weft_dns::{RecordType, Servers, ask};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_answer_is_forwarded_once_and_then_kept() {
    let fake = Fake::plain(300).await;
    let running = start_with(vec![fake.address]).await;
    for name in ["Example.org", "example.ORG", "example.org."] {
        let found = ask(running.address, name, RecordType::A, DEADLINE)
            .await
            .unwrap();
        assert_eq!(found.addresses(), [ip("192.0.2.1")]);
        assert!(!found.authoritative);
        assert!(found.answers[0].ttl <= 300);
    }
    assert_eq!(fake.asked(), 1);
    let stats = running.server.stats();
    assert_eq!(stats.cache_entries, 1);
    assert_eq!(
        (stats.forwarded, stats.cache_misses, stats.cache_hits),
        (1, 1, 2)
    );
}

#[tokio::test]
async fn a_kept_answer_is_counted_down_and_forgotten() {
    let fake = Fake::plain(2).await;
    let running = start_with(vec![fake.address]).await;
    let mut seen = std::collections::BTreeSet::new();
    let begun = Instant::now();
    while fake.asked() < 2 {
        assert!(begun.elapsed() < DEADLINE);
        let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
            .await
            .unwrap();
        seen.insert(found.answers[0].ttl);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(seen, [1, 2].into());
}

#[tokio::test]
async fn a_missing_name_is_kept_as_missing() {
    let fake = Fake::start(|asked, _| {
        let mut reply = reply_to(asked);
        reply.metadata.response_code = ResponseCode::NXDomain;
        let top = Name::from_ascii("example.").unwrap();
        let soa = SOA::new(top.clone(), top.clone(), 1, 2, 3, 4, 60);
        reply.add_authority(Record::from_rdata(top, 600, RData::SOA(soa)));
        vec![bytes(&reply)]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    for _ in 0..3 {
        let found = ask(running.address, "no.example", RecordType::A, DEADLINE)
            .await
            .unwrap();
        assert_eq!(found.code, "NXDOMAIN");
        assert_eq!(found.authorities.len(), 1);
    }
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn equal_questions_at_one_time_are_asked_once() {
    let fake = Fake::start(|asked, _| {
        std::thread::sleep(Duration::from_millis(50));
        vec![bytes(&answer(asked, 0))]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for id in 0..50 {
        let asked = query(id, "example.org.", RecordType::A);
        socket
            .send_to(&bytes(&asked), running.address)
            .await
            .unwrap();
    }
    let mut ids = std::collections::BTreeSet::new();
    let mut buffer = [0; 512];
    while ids.len() < 50 {
        let received = tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await;
        received.unwrap().unwrap();
        ids.insert(u16::from_be_bytes([buffer[0], buffer[1]]));
    }
    // The fake sleeps on the only thread, so that all had come before the first was answered.
    assert!(fake.asked() <= 2, "{}", fake.asked());
}

#[tokio::test]
async fn a_server_that_is_away_or_unwilling_is_passed_over() {
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let away = closed.local_addr().unwrap();
    drop(closed);
    let unwilling = Fake::start(|asked, _| {
        let mut reply = reply_to(asked);
        reply.metadata.response_code = ResponseCode::Refused;
        vec![bytes(&reply)]
    })
    .await;
    let good = Fake::plain(0).await;
    let running = start_with(vec![away, unwilling.address, good.address]).await;
    for _ in 0..3 {
        let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
            .await
            .unwrap();
        assert_eq!(found.code, "NOERROR");
    }
    // The one that answered is asked first from then on.
    assert_eq!((unwilling.asked(), good.asked()), (1, 3));
}

#[tokio::test]
async fn a_silent_server_costs_two_seconds_and_the_next_is_asked() {
    let silent = Fake::start(|_, _| Vec::new()).await;
    let good = Fake::plain(60).await;
    let running = start_with(vec![silent.address, good.address]).await;
    let begun = Instant::now();
    let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.code, "NOERROR");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(2) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[tokio::test]
async fn with_no_server_the_answer_is_servfail_and_our_names_are_still_answered() {
    let silent = Fake::start(|_, _| Vec::new()).await;
    for servers in [vec![], vec![silent.address]] {
        let running = start_with(servers).await;
        let begun = Instant::now();
        let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
            .await
            .unwrap();
        assert_eq!(found.code, "SERVFAIL");
        assert!(begun.elapsed() < Duration::from_secs(6));
        let ours = ask(running.address, "web.weft.local", RecordType::A, DEADLINE)
            .await
            .unwrap();
        assert_eq!(ours.addresses(), [ip("10.32.0.2")]);
        assert_eq!(running.server.stats().upstream_failures, 1);
    }
}

#[tokio::test]
async fn a_server_that_is_ourselves_is_not_asked() {
    let socket = UdpSocket::bind("127.0.0.3:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    drop(socket);
    let good = Fake::plain(60).await;
    let running = start_with(vec![own, good.address]).await;
    assert!(running.server.listen(&[own]).await.is_empty());
    let begun = Instant::now();
    let found = ask(own, "example.org", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.code, "NOERROR");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(running.server.stats().queries, 1);
}

#[tokio::test]
async fn a_reply_cut_short_is_fetched_by_tcp() {
    let fake = Fake::start(|asked, transport| {
        let mut reply = reply_to(asked);
        match transport {
            Transport::Udp => reply.metadata.truncation = true,
            Transport::Tcp => {
                let name = asked.queries[0].name();
                for at in 0..=255 {
                    let data = RData::A(std::net::Ipv4Addr::new(192, 0, 2, at).into());
                    reply.add_answer(Record::from_rdata(name.clone(), 60, data));
                }
            }
        }
        vec![bytes(&reply)]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.addresses().len(), 256);
    assert_eq!(fake.asked(), 2);
    assert_eq!(running.server.stats().replies[&0], 2);
}

#[tokio::test]
async fn replies_that_are_not_to_the_query_are_passed_over() {
    let fake = Fake::start(|asked, _| {
        let mut forged = answer(asked, 600);
        forged.answers[0].data = RData::A("203.0.113.66".parse().unwrap());
        let mut wrong_id = forged.clone();
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = forged.clone();
        wrong_name.queries[0].set_name(Name::from_ascii("other.org.").unwrap());
        let mut wrong_type = forged.clone();
        wrong_type.queries[0].set_query_type(RecordType::AAAA);
        let mut a_query = bytes(&forged);
        a_query[2] &= 0x7f;
        let cut = bytes(&forged)[..30].to_vec();
        vec![
            bytes(&wrong_id),
            bytes(&wrong_name),
            bytes(&wrong_type),
            a_query,
            cut,
            vec![],
            bytes(&answer(asked, 60)),
        ]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.addresses(), [ip("192.0.2.1")]);
}

#[tokio::test]
async fn ids_differ_from_query_to_query() {
    let ids = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let seen = Arc::clone(&ids);
    let fake = Fake::start(move |asked, _| {
        seen.lock().unwrap().insert(asked.metadata.id);
        vec![bytes(&answer(asked, 0))]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    for _ in 0..20 {
        ask(running.address, "example.org", RecordType::A, DEADLINE)
            .await
            .unwrap();
    }
    // Twenty of 65,536: two alike are possible, ten are not.
    assert!(ids.lock().unwrap().len() > 10);
}

#[tokio::test]
async fn records_of_unknown_types_arrive_to_the_byte() {
    let data = vec![0xc0, 0x0c, 0, 1, 2, 3, 0xff];
    let sent = data.clone();
    let fake = Fake::start(move |asked, _| {
        let mut reply = reply_to(asked);
        let name = asked.queries[0].name().clone();
        let data = RData::Unknown {
            code: RecordType::Unknown(65_280),
            rdata: NULL::with(sent.clone()),
        };
        reply.add_answer(Record::from_rdata(name, 60, data));
        vec![bytes(&reply)]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    for _ in 0..2 {
        let asked = query(9, "example.org.", RecordType::Unknown(65_280));
        let reply = over_udp(running.address, &asked).await;
        let RData::Unknown { rdata, .. } = &reply.answers[0].data else {
            panic!("{reply:?}");
        };
        assert_eq!(rdata.anything, data);
    }
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn the_opt_is_ours_on_either_side() {
    let fake = Fake::start(|asked, _| {
        let edns = asked.edns.as_ref().unwrap();
        let mut reply = answer(asked, 60);
        // The size and DO that we offered, as an address to look at.
        let size = edns.max_payload().to_be_bytes();
        let dnssec_ok = u8::from(edns.flags().dnssec_ok);
        reply.answers[0].data =
            RData::A(std::net::Ipv4Addr::new(size[0], size[1], dnssec_ok, 0).into());
        let mut theirs = Edns::new();
        theirs.set_max_payload(4096);
        reply.set_edns(theirs);
        vec![bytes(&reply)]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    let mut asked = query(9, "example.org.", RecordType::A);
    let plain = over_udp(running.address, &asked).await;
    assert!(plain.edns.is_none());
    assert_eq!(
        plain.answers[0].data,
        RData::A("4.208.0.0".parse().unwrap())
    );
    let mut edns = Edns::new();
    edns.set_max_payload(8192).set_dnssec_ok(true);
    asked.set_edns(edns);
    let signed = over_udp(running.address, &asked).await;
    assert_eq!(signed.edns.unwrap().max_payload(), 1232);
    assert_eq!(
        signed.answers[0].data,
        RData::A("4.208.1.0".parse().unwrap())
    );
    assert_eq!(fake.asked(), 2);
}

#[tokio::test]
async fn a_server_from_before_edns_is_asked_again_without() {
    let fake = Fake::start(|asked, _| {
        let mut reply = answer(asked, 60);
        if asked.edns.is_some() {
            reply = reply_to(asked);
            reply.metadata.response_code = ResponseCode::FormErr;
        }
        vec![bytes(&reply)]
    })
    .await;
    let running = start_with(vec![fake.address]).await;
    let found = ask(running.address, "example.org", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.addresses(), [ip("192.0.2.1")]);
}

#[tokio::test]
async fn a_slow_answer_does_not_hold_up_the_next_on_a_connection() {
    let silent = Fake::start(|_, _| Vec::new()).await;
    let running = start_with(vec![silent.address]).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for (id, name) in [(1, "example.org."), (2, "web.weft.local.")] {
        send_tcp(&mut stream, &bytes(&query(id, name, RecordType::A))).await;
    }
    assert_eq!(receive_tcp(&mut stream).await.metadata.id, 2);
    let late = receive_tcp(&mut stream).await;
    assert_eq!(
        (late.metadata.id, late.metadata.response_code),
        (1, ResponseCode::ServFail)
    );
}

#[tokio::test]
async fn our_own_names_never_leave() {
    let fake = Fake::plain(60).await;
    let running = start_with(vec![fake.address]).await;
    let mut kinds = JoinSet::new();
    for kind in [RecordType::A, RecordType::MX, RecordType::Unknown(999)] {
        let server = running.address;
        kinds.spawn(async move { ask(server, "no.weft.local", kind, DEADLINE).await.unwrap() });
    }
    for found in kinds.join_all().await {
        assert_eq!(found.code, "NXDOMAIN");
    }
    assert_eq!(fake.asked(), 0);
}

#[tokio::test]
async fn the_hosts_resolv_conf_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    std::fs::write(
        &path,
        "nameserver 127.0.0.77\noptions timeout:1 attempts:1\n",
    )
    .unwrap();
    let running = start(Arc::new(Servers::resolv_conf(&path))).await;
    let want: SocketAddr = "127.0.0.77:53".parse().unwrap();
    assert_eq!(running.server.upstreams(), [want]);
}
