//! The server over real sockets: its own names, its transports, who may ask, where it listens.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::{DEADLINE, over_udp, query, receive_tcp, send_tcp, start_with, zone};
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use weft_dns::{Place, RecordType, ZoneBuilder, ask};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_name_is_answered_and_a_new_zone_takes_its_place_at_once() {
    let running = start_with(Vec::new()).await;
    let found = ask(running.address, "web.weft.local", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(
        (found.code.as_str(), found.authoritative),
        ("NOERROR", true)
    );
    assert_eq!(found.addresses(), [ip("10.32.0.2")]);
    assert_eq!(found.answers[0].name, "web.weft.local.");

    running.zone.store(Arc::new(zone(&[("db", "10.33.0.3")])));
    let gone = ask(running.address, "web.weft.local", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!((gone.code.as_str(), gone.answers.len()), ("NXDOMAIN", 0));
    assert_eq!(gone.authorities[0].kind, "SOA");
    let back = ask(
        running.address,
        "3.0.33.10.in-addr.arpa",
        RecordType::PTR,
        DEADLINE,
    )
    .await;
    assert_eq!(back.unwrap().answers[0].data, "db.weft.local.");

    let stats = running.server.stats();
    assert_eq!((stats.queries, stats.udp, stats.local), (3, 3, 3));
    assert_eq!(stats.replies, [(0, 2), (3, 1)].into());
}

#[tokio::test]
async fn a_long_answer_comes_whole_over_tcp() {
    let running = start_with(Vec::new()).await;
    let mut builder = ZoneBuilder::new("weft.local").unwrap();
    let many: Vec<IpAddr> = (0..=255u8)
        .map(|at| IpAddr::from([10, 32, 7, at]))
        .collect();
    builder.add("many", &many, Place::Remote).unwrap();
    running.zone.store(Arc::new(builder.build()));

    let asked = query(1, "many.weft.local.", RecordType::A);
    let short = over_udp(running.address, &asked).await;
    assert!(short.metadata.truncation);
    assert!(!short.answers.is_empty());

    let found = ask(running.address, "many.weft.local", RecordType::A, DEADLINE)
        .await
        .unwrap();
    let mut addresses = found.addresses();
    addresses.sort();
    assert_eq!(addresses, many);
    assert_eq!(running.server.stats().tcp, 1);
}

#[tokio::test]
async fn pipelined_queries_are_all_answered_and_a_half_closed_client_is_waited_for() {
    let running = start_with(Vec::new()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for id in 0..20 {
        let asked = query(id, "web.weft.local.", RecordType::A);
        send_tcp(&mut stream, &asked.to_vec().unwrap()).await;
    }
    // One that no server answers, on its way when the client has said all it wants.
    let far = query(20, "example.org.", RecordType::A);
    send_tcp(&mut stream, &far.to_vec().unwrap()).await;
    stream.shutdown().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..21 {
        let reply = receive_tcp(&mut stream).await;
        let want = match reply.metadata.id {
            20 => ResponseCode::ServFail,
            _ => ResponseCode::NoError,
        };
        assert_eq!(reply.metadata.response_code, want);
        ids.push(reply.metadata.id);
    }
    ids.sort();
    assert_eq!(ids, (0..=20).collect::<Vec<_>>());
    let end = timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn a_message_in_pieces_is_put_together() {
    let running = start_with(Vec::new()).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let asked = query(5, "web.weft.local.", RecordType::A).to_vec().unwrap();
    let mut framed = (asked.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&asked);
    for byte in framed {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(receive_tcp(&mut stream).await.metadata.id, 5);
}

#[tokio::test]
async fn garbage_ends_a_connection_and_nothing_else() {
    let running = start_with(Vec::new()).await;
    for garbage in [vec![], vec![7; 5], vec![0xff; 65_535]] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        send_tcp(&mut stream, &garbage).await;
        let end = timeout(DEADLINE, stream.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [vec![], vec![7; 5], vec![0xff; 65_507]] {
        socket.send_to(&garbage, running.address).await.unwrap();
    }
    let found = ask(running.address, "web.weft.local", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.addresses(), [ip("10.32.0.2")]);
    assert_eq!(running.server.stats().malformed, 6);
}

#[tokio::test]
async fn strangers_are_refused_until_they_are_allowed() {
    let running = start_with(Vec::new()).await;
    for (allowed, want) in [("127.0.0.9/32", "REFUSED"), ("127.0.0.1/32", "NOERROR")] {
        running.server.set_allowed(vec![allowed.parse().unwrap()]);
        let found = ask(running.address, "web.weft.local", RecordType::A, DEADLINE).await;
        assert_eq!(found.unwrap().code, want);
    }
    assert_eq!(running.server.stats().refused, 1);
}

#[tokio::test]
async fn a_strangers_connection_is_closed() {
    let running = start_with(Vec::new()).await;
    running
        .server
        .set_allowed(vec!["127.0.0.9/32".parse().unwrap()]);
    let mut stranger = TcpStream::connect(running.address).await.unwrap();
    let end = timeout(DEADLINE, stranger.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(running.server.stats().refused, 1);

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut friend = socket.connect(running.address).await.unwrap();
    let asked = query(5, "web.weft.local.", RecordType::A).to_vec().unwrap();
    send_tcp(&mut friend, &asked).await;
    assert_eq!(receive_tcp(&mut friend).await.answers.len(), 1);
}

#[tokio::test]
async fn one_source_cannot_hold_every_connection() {
    let running = start_with(Vec::new()).await;
    let mut held = Vec::new();
    let closed = async {
        loop {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            let end = timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await;
            if let Ok(end) = end {
                assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
                return;
            }
            held.push(stream);
        }
    };
    timeout(DEADLINE, closed).await.unwrap();
    assert!(held.len() <= 32);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(running.address).await.unwrap();
    let asked = query(5, "web.weft.local.", RecordType::A).to_vec().unwrap();
    send_tcp(&mut other, &asked).await;
    assert_eq!(receive_tcp(&mut other).await.metadata.id, 5);
}

#[tokio::test]
async fn listening_addresses_come_and_go_and_those_that_stay_are_not_disturbed() {
    let running = start_with(Vec::new()).await;
    let stays: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let port = running.address.port();
    let comes = SocketAddr::new(ip("127.0.0.2"), port);
    let mut open = TcpStream::connect(running.address).await.unwrap();

    assert!(running.server.listen(&[stays, comes]).await.is_empty());
    assert_eq!(running.server.addresses(), [running.address, comes]);
    // The reply comes from the address that was asked.
    let asked = query(1, "web.weft.local.", RecordType::A);
    assert_eq!(over_udp(comes, &asked).await.answers.len(), 1);

    assert!(running.server.listen(&[stays]).await.is_empty());
    let free = UdpSocket::bind(comes).await.unwrap();
    let taken = running.server.listen(&[stays, comes]).await;
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].address, comes);
    drop(free);
    assert!(running.server.listen(&[stays, comes]).await.is_empty());
    assert_eq!(over_udp(comes, &asked).await.answers.len(), 1);

    send_tcp(&mut open, &asked.to_vec().unwrap()).await;
    assert_eq!(receive_tcp(&mut open).await.answers.len(), 1);
}

#[tokio::test]
async fn an_address_that_is_not_there_yet_is_listened_on_and_all_addresses_are_not() {
    let running = start_with(Vec::new()).await;
    let absent = "192.0.2.53:5353".parse().unwrap();
    let all = "0.0.0.0:5353".parse().unwrap();
    let failed = running.server.listen(&[absent, all]).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].address, all);
    assert_eq!(running.server.addresses(), [absent]);
}

#[tokio::test]
async fn ipv6_is_served_too() {
    let running = start_with(Vec::new()).await;
    let failed = running.server.listen(&["[::1]:0".parse().unwrap()]).await;
    if !failed.is_empty() {
        eprintln!("skipped: no IPv6 loopback here");
        return;
    }
    let address = running.server.addresses()[0];
    let found = ask(address, "web.weft.local", RecordType::A, DEADLINE)
        .await
        .unwrap();
    assert_eq!(found.addresses(), [ip("10.32.0.2")]);
}
