//! A server under test, and a name server of the test's own that it forwards to.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_dns::{CacheLimits, Place, Server, ServerConfig, Servers, Upstream, Zone, ZoneBuilder};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn zone(names: &[(&str, &str)]) -> Zone {
    let mut builder = ZoneBuilder::new("weft.local").unwrap();
    for (name, address) in names {
        let address = address.parse().unwrap();
        builder.add(name, &[address], Place::Remote).unwrap();
    }
    builder.build()
}

pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    pub(crate) address: SocketAddr,
}

/// A server on 127.0.0.1 that forwards to `upstream`.
pub(crate) async fn start(upstream: Arc<dyn Upstream>) -> Running {
    let zone = Arc::new(ArcSwap::from_pointee(zone(&[("web", "10.32.0.2")])));
    let server = Server::start(ServerConfig {
        zone: Arc::clone(&zone),
        allowed: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        upstream,
        cache: CacheLimits::default(),
    });
    let failed = server.listen(&["127.0.0.1:0".parse().unwrap()]).await;
    assert!(failed.is_empty(), "{failed:?}");
    let address = server.addresses()[0];
    Running {
        server,
        zone,
        address,
    }
}

pub(crate) async fn start_with(servers: Vec<SocketAddr>) -> Running {
    start(Arc::new(Servers::fixed(servers))).await
}

pub(crate) fn query(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Sends a message by UDP and waits for what comes back.
pub(crate) async fn over_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Connected, so a reply from another address than was asked is never seen.
    socket.connect(server).await.unwrap();
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 65_535];
    let length = timeout(DEADLINE, socket.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

pub(crate) async fn send_tcp(stream: &mut TcpStream, message: &[u8]) {
    stream.write_u16(message.len() as u16).await.unwrap();
    stream.write_all(message).await.unwrap();
}

pub(crate) async fn receive_tcp(stream: &mut TcpStream) -> Message {
    let read = async {
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        Message::from_vec(&bytes).unwrap()
    };
    timeout(DEADLINE, read).await.unwrap()
}

/// What a fake server sends for a query: any number of datagrams.
type Script = dyn Fn(&Message, Transport) -> Vec<Vec<u8>> + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A name server that does what its script says. Dropped, it stops.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicU32>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Fake {
    pub(crate) async fn start(
        script: impl Fn(&Message, Transport) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let script: Arc<Script> = Arc::new(script);
        let asked = Arc::new(AtomicU32::new(0));
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let tasks = [
            tokio::spawn(fake_udp(udp, Arc::clone(&script), Arc::clone(&asked))),
            tokio::spawn(fake_tcp(tcp, script, Arc::clone(&asked))),
        ];
        Self {
            address,
            asked,
            tasks,
        }
    }

    /// One that answers every A query with 192.0.2.1 and this time to live.
    pub(crate) async fn plain(ttl: u32) -> Self {
        Self::start(move |asked, _| vec![bytes(&answer(asked, ttl))]).await
    }

    /// How many queries came.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn fake_udp(socket: UdpSocket, script: Arc<Script>, asked: Arc<AtomicU32>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        asked.fetch_add(1, Ordering::SeqCst);
        let query = Message::from_vec(&buffer[..length]).unwrap();
        for reply in script(&query, Transport::Udp) {
            socket.send_to(&reply, client).await.unwrap();
        }
    }
}

async fn fake_tcp(listener: TcpListener, script: Arc<Script>, asked: Arc<AtomicU32>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let query = receive_tcp(&mut stream).await;
        asked.fetch_add(1, Ordering::SeqCst);
        for reply in script(&query, Transport::Tcp) {
            send_tcp(&mut stream, &reply).await;
        }
    }
}

pub(crate) fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

/// An empty reply to a query.
pub(crate) fn reply_to(asked: &Message) -> Message {
    let mut reply = Message::response(asked.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.add_query(asked.queries[0].clone());
    reply
}

pub(crate) fn answer(asked: &Message, ttl: u32) -> Message {
    let mut reply = reply_to(asked);
    let name = asked.queries[0].name().clone();
    let data = RData::A("192.0.2.1".parse().unwrap());
    reply.add_answer(Record::from_rdata(name, ttl, data));
    reply
}
