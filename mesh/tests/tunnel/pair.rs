//! Two nodes with a userspace tunnel each, on one wire.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use weft_mesh::device::{DeviceConfig, DeviceStatus, PeerConfig};
use weft_mesh::diff::diff;
use weft_mesh::tunnel::Tunnel;
use weft_mesh::tunnel::userspace::UserspaceTunnel;
use weft_mesh::{PrivateKey, PublicKey};

use super::netns::{ENDS, Node, join};

pub(crate) const PORT: u16 = 6783;

/// A node with a tunnel: `wire` outside, `weft0` inside.
pub(crate) struct Mesh {
    pub(crate) node: Node,
    pub(crate) id: u8,
    pub(crate) tunnel: Option<Arc<UserspaceTunnel>>,
    pub(crate) config: DeviceConfig,
}

impl Mesh {
    /// Inside, node 3 is 10.32.3.1 and fd00:32:3::1; the pool is routed over weft0.
    pub(crate) fn new(id: u8) -> Self {
        let config = DeviceConfig {
            private_key: PrivateKey::from_bytes([id; 32]),
            listen_port: PORT,
            fwmark: 0,
            peers: BTreeMap::new(),
        };
        let mut mesh = Self {
            node: Node::new(),
            id,
            tunnel: None,
            config,
        };
        mesh.start();
        mesh.node.ip(&format!("addr add 10.32.{id}.1/12 dev weft0"));
        mesh.node
            .ip(&format!("addr add fd00:32:{id}::1/32 dev weft0 nodad"));
        mesh.node.ip("link set weft0 mtu 1420 up");
        mesh
    }

    pub(crate) fn start(&mut self) {
        self.tunnel = None;
        let tunnel = self
            .node
            .run(|| UserspaceTunnel::open("weft0"))
            .expect("a tunnel");
        self.tunnel = Some(Arc::new(tunnel));
        self.apply();
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.config.private_key.public_key()
    }

    pub(crate) fn peer(&mut self, other: &Self, endpoint: Option<&str>) {
        let id = other.id;
        let prefixes = [format!("10.32.{id}.0/24"), format!("fd00:32:{id}::/48")];
        let peer = PeerConfig {
            endpoint: endpoint.map(|address| address.parse().expect("an address")),
            allowed_ips: prefixes
                .map(|prefix| prefix.parse().expect("a prefix"))
                .into(),
            ..PeerConfig::default()
        };
        self.config.peers.insert(other.key(), peer);
        self.apply();
    }

    /// Brings the device to the configuration, as an agent does.
    pub(crate) fn apply(&self) {
        let changes = diff(&self.config, &self.status(), &BTreeMap::new());
        let tunnel = Arc::clone(self.tunnel.as_ref().expect("started"));
        self.node
            .run(move || now(tunnel.apply(&changes)))
            .expect("it applies");
        assert!(diff(&self.config, &self.status(), &BTreeMap::new()).is_empty());
    }

    pub(crate) fn status(&self) -> DeviceStatus {
        now(self.tunnel.as_ref().expect("started").status()).expect("a status")
    }

    pub(crate) fn drops(&self, reason: &str) -> u64 {
        self.status().drops.get(reason).copied().unwrap_or(0)
    }

    pub(crate) fn endpoint_of(&self, other: &Self) -> Option<SocketAddr> {
        self.status().peers[&other.key()].endpoint
    }

    pub(crate) fn v4(&self) -> IpAddr {
        [10, 32, self.id, 1].into()
    }

    pub(crate) fn v6(&self) -> IpAddr {
        format!("fd00:32:{}::1", self.id)
            .parse()
            .expect("an address")
    }

    pub(crate) fn udp(&self, address: IpAddr, port: u16) -> UdpSocket {
        let socket = self
            .node
            .run(move || UdpSocket::bind((address, port)))
            .expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a time");
        socket
    }
}

/// The futures of a userspace tunnel are ready at once.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a tunnel waits for something"),
    }
}

/// A pair on one wire: 192.0.2.1 and .2, 2001:db8::1 and ::2. Peers are not set.
pub(crate) fn pair() -> (Mesh, Mesh) {
    let (a, b) = (Mesh::new(1), Mesh::new(2));
    join(&a.node, &b.node, "wire");
    for mesh in [&a, &b] {
        mesh.node
            .ip(&format!("addr add 192.0.2.{}/24 dev wire", mesh.id));
        mesh.node
            .ip(&format!("addr add 2001:db8::{}/64 dev wire nodad", mesh.id));
    }
    // The kernel's table of learnt neighbours is one for all namespaces of the machine, and small.
    for (mesh, (id, mac)) in [(&a, (2, ENDS[1])), (&b, (1, ENDS[0]))] {
        for address in [format!("192.0.2.{id}"), format!("2001:db8::{id}")] {
            let entry = format!("neigh replace {address} lladdr {mac} dev wire nud permanent");
            mesh.node.ip(&entry);
        }
    }
    (a, b)
}

pub(crate) fn peered() -> (Mesh, Mesh) {
    let (mut a, mut b) = pair();
    a.peer(&b, Some("192.0.2.2:6783"));
    b.peer(&a, Some("192.0.2.1:6783"));
    (a, b)
}

/// One datagram there and one back.
pub(crate) fn exchange(from: &UdpSocket, to: &UdpSocket) -> std::io::Result<()> {
    let mut buffer = [0; 2048];
    from.send_to(b"there", to.local_addr()?)?;
    let (len, source) = to.recv_from(&mut buffer)?;
    assert_eq!(
        (&buffer[..len], source),
        (&b"there"[..], from.local_addr()?)
    );
    to.send_to(b"back", source)?;
    let (len, _) = from.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..len], b"back");
    Ok(())
}

pub(crate) fn ping(from: &Mesh, to: IpAddr) -> bool {
    let run = move || {
        let arguments = ["-c", "1", "-W", "2", &to.to_string()];
        std::process::Command::new("ping").args(arguments).output()
    };
    from.node
        .run(run)
        .expect("ping is installed")
        .status
        .success()
}

pub(crate) fn tcp(from: &Mesh, to: &Mesh, address: IpAddr) {
    const BYTES: usize = 2_000_000;
    let listener = to
        .node
        .run(move || TcpListener::bind((address, 80)))
        .expect("a listener");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("all of it");
        received
    });
    let sent: Vec<u8> = (0..BYTES).map(|n| (n / 7) as u8).collect();
    let mut stream = from
        .node
        .run(move || TcpStream::connect(address))
        .expect("a connection");
    stream.write_all(&sent).expect("it goes through");
    drop(stream);
    assert!(
        server.join().expect("the server") == sent,
        "what was sent is what came"
    );
}

/// Takes datagrams that begin with their number until it ended and nothing more comes: how many came,
/// and how many of them after a later one.
pub(crate) fn take(socket: &UdpSocket, ended: &AtomicBool) -> (u64, u64) {
    let (mut came, mut late, mut next) = (0, 0, 0);
    let mut buffer = [0; 16];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => {
                let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes"));
                came += 1;
                late += u64::from(number < next);
                next = next.max(number + 1);
            }
            Ok(_) => {}
            // Nothing for as long as a read waits.
            Err(_) if ended.load(Relaxed) => return (came, late),
            Err(_) => {}
        }
    }
}
