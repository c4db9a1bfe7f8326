//! A thousand peers in one process: each a WireGuard session of its own behind a port of its own that
//! answers handshakes and probes, and probes the agent as an agent does. No TUN, no kernel: what is
//! measured is the agent, and what comes to it is what a thousand agents would send.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval};
use weft_mesh::probe::Message;

use super::objects::{ADDRESS, FIRST_PORT, PEERS, address, secret};

/// The agent's port of probes inside the mesh.
const PROBES: u16 = 6784;
/// Of each peer, as a thousand agents have it.
const PERIOD: Duration = Duration::from_secs(10);
const HEADERS: usize = 28;

/// Whom to answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Agent {
    pub(super) key: [u8; 32],
    /// In the mesh.
    pub(super) address: Ipv4Addr,
}

/// Reads a line about the agent from standard input, takes all peers' ports, and is silent until a
/// second line comes; ends with standard input.
///
/// # Errors
/// When a port is taken.
pub(crate) fn run() -> Result<()> {
    let (speak, _) = watch::channel(false);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let agent: Rc<Agent> = Rc::new(serde_json::from_str(&line)?);
    let told = speak.clone();
    std::thread::spawn(move || {
        let mut input = std::io::stdin();
        let _ = input.read(&mut [0]);
        told.send_replace(true);
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        std::process::exit(0)
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let peers = LocalSet::new();
    for number in 0..PEERS {
        let port = FIRST_PORT + u16::try_from(number)?;
        let socket =
            std::net::UdpSocket::bind((ADDRESS, port)).with_context(|| format!("port {port}"))?;
        socket.set_nonblocking(true)?;
        let peer = Peer::new(number, Rc::clone(&agent));
        peers.spawn_local(peer.run(socket, speak.subscribe()));
    }
    runtime.block_on(peers);
    Ok(())
}

struct Peer {
    number: u32,
    agent: Rc<Agent>,
    tunn: Tunn,
    /// Where the agent was heard.
    remote: Option<SocketAddr>,
    ready: bool,
    /// Its own next probe: as an agent's, a period after the other's last, or two after its own.
    due: Instant,
}

impl Peer {
    fn new(number: u32, agent: Rc<Agent>) -> Self {
        let secret = StaticSecret::from(secret(number, 0));
        let tunn = Tunn::new(secret, PublicKey::from(agent.key), None, None, number, None);
        Self {
            number,
            agent,
            tunn,
            remote: None,
            ready: false,
            due: Instant::now(),
        }
    }

    async fn run(mut self, socket: std::net::UdpSocket, mut speak: watch::Receiver<bool>) {
        let Ok(socket) = UdpSocket::from_std(socket) else {
            return;
        };
        let (mut datagram, mut out) = ([0; 2_048], [0; 2_048]);
        let mut ticks = interval(Duration::from_secs(1));
        // Not all at once.
        self.due = Instant::now() + PERIOD * self.number / PEERS;
        loop {
            tokio::select! {
                received = socket.recv_from(&mut datagram) => {
                    if let (Ok((length, from)), true) = (received, *speak.borrow_and_update()) {
                        self.remote = Some(from);
                        self.hear(&datagram[..length], &mut out, &socket);
                    }
                }
                _ = ticks.tick() => {
                    if let TunnResult::WriteToNetwork(due) = self.tunn.update_timers(&mut out) {
                        self.send(due, &socket);
                    }
                }
                () = tokio::time::sleep_until(self.due), if self.ready => {
                    self.due = Instant::now() + PERIOD * 2;
                    let probe = Message::Probe(u64::from(self.number));
                    self.say(&packet(address(self.number), self.agent.address, (PROBES, PROBES), probe), &mut out, &socket);
                }
            }
        }
    }

    fn hear(&mut self, datagram: &[u8], out: &mut [u8], socket: &UdpSocket) {
        let mut datagram = datagram;
        let said = loop {
            match self.tunn.decapsulate(None, datagram, out) {
                TunnResult::WriteToNetwork(answer) => {
                    if let Some(remote) = self.remote {
                        // What is lost is sent again.
                        let _ = socket.try_send_to(answer, remote);
                    }
                    datagram = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) => {
                    self.ready = true;
                    break asked(packet);
                }
                _ => return,
            }
        };
        if let Some((nonce, from, port)) = said {
            self.due = Instant::now() + PERIOD;
            let ports = (PROBES, port);
            let answer = packet(address(self.number), from, ports, Message::Answer(nonce));
            self.say(&answer, out, socket);
        }
    }

    fn say(&mut self, packet: &[u8], out: &mut [u8], socket: &UdpSocket) {
        if let TunnResult::WriteToNetwork(sealed) = self.tunn.encapsulate(packet, out) {
            self.send(sealed, socket);
        }
    }

    fn send(&self, datagram: &[u8], socket: &UdpSocket) {
        if let Some(remote) = self.remote {
            let _ = socket.try_send_to(datagram, remote);
        }
    }
}

/// The nonce of a probe, and from where it came.
fn asked(packet: &[u8]) -> Option<(u64, Ipv4Addr, u16)> {
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let port: [u8; 2] = packet.get(20..22)?.try_into().ok()?;
    match Message::decode(packet.get(HEADERS..)?)? {
        Message::Probe(nonce) => Some((nonce, source.into(), u16::from_be_bytes(port))),
        Message::Answer(_) => None,
    }
}

/// An IPv4 packet of UDP (RFC 791, RFC 768: a checksum of zero is none).
fn packet(from: Ipv4Addr, to: Ipv4Addr, (source, port): (u16, u16), message: Message) -> Vec<u8> {
    let said = message.encode();
    let length = (HEADERS + said.len()) as u16;
    let mut header = [0_u8; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    (header[8], header[9]) = (64, 17);
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let words = header
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16 + (sum >> 16) as u16)).to_be_bytes());
    let mut packet = header.to_vec();
    for word in [source, port, length - 20, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(said);
    packet
}
