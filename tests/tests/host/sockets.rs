//! Servers that tell who asked, and those who ask, each inside a namespace.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_router::demo::net::{NetError, Netns};

const PATIENCE: Duration = Duration::from_secs(1);

/// Answers each connection and each datagram on the port, in both families, with the address that
/// it came from, until the test's process ends.
pub(crate) fn serve(netns: &Netns, port: u16) -> Result<()> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let tcp = inside(netns, move || TcpListener::bind(any))?;
    let udp = inside(netns, move || UdpSocket::bind(any))?;
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let from = stream.peer_addr().map(told);
            let _ = from.and_then(|from| (&stream).write_all(from.as_bytes()));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(told(from).as_bytes(), from);
        }
    });
    Ok(())
}

fn told(from: SocketAddr) -> String {
    from.ip().to_canonical().to_string()
}

/// As whom a connection from inside is seen.
pub(crate) fn ask_tcp(netns: &Netns, to: (IpAddr, u16)) -> Result<IpAddr> {
    let to = SocketAddr::from(to);
    let mut stream = inside(netns, move || TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().with_context(|| format!("{to} says {text:?}"))
}

/// A socket inside, on an address of there and a port that is free.
pub(crate) fn udp(netns: &Netns, address: IpAddr) -> Result<UdpSocket> {
    let socket = inside(netns, move || UdpSocket::bind((address, 0)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// As whom a datagram of this socket is seen.
pub(crate) fn ask_udp(socket: &UdpSocket, to: (IpAddr, u16)) -> Result<IpAddr> {
    // A refusal of an earlier one may still be told.
    let sent = socket.send_to(b"who", to);
    sent.or_else(|_| socket.send_to(b"who", to))?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let text = std::str::from_utf8(&buffer[..length])?;
    text.parse()
        .with_context(|| format!("{from} says {text:?}"))
}

fn inside<T: Send>(netns: &Netns, act: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T> {
    let outcome = netns.run(move || {
        act().map_err(|source| NetError::Io {
            act: format!("in {}", netns.name()),
            source,
        })
    });
    Ok(outcome?)
}
