//! Our own load: TCP streams, datagrams at a rate or as many as go, and pings. Sockets are made in the
//! ends' namespaces and used from here.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use super::world::{End, Pair};

/// Until streams are at their speed.
const WARM: Duration = Duration::from_millis(400);
const TCP_TIME: Duration = Duration::from_millis(1500);
const TRIAL: Duration = Duration::from_millis(500);
const FLOOD: Duration = Duration::from_millis(1500);
/// The bytes of a small datagram, without headers.
const SMALL: usize = 64;
/// How often a paced sender wakes.
const TICK: Duration = Duration::from_micros(500);
/// The most that may be lost at what is called carried.
const MOST_LOST: f64 = 0.01;
/// The kernel doubles it. Nothing is to be lost in the receiver's own queue.
const BUFFER: usize = 16 << 20;

/// TCP between the ends, for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tcp {
    /// Gigabits of payload a second.
    pub(super) gbps: f64,
    /// Seconds of both engines for a gigabyte.
    pub(super) cpu: f64,
    /// Of pings meanwhile, milliseconds; where asked for.
    pub(super) ping_p99: Option<f64>,
}

pub(super) fn tcp(
    pair: &Pair,
    (from, to): (&End, &End),
    streams: usize,
    ping: bool,
) -> Result<Tcp> {
    let address = SocketAddr::from((to.address, 0));
    let listener = to.within(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&address.into())?;
        listener.listen(16)?;
        Ok(std::net::TcpListener::from(listener))
    })?;
    let address = listener.local_addr()?;
    let mut ends = Vec::new();
    for _ in 0..streams {
        let sender = from.within(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_tcp_congestion(b"cubic")?;
            socket.connect_timeout(&address.into(), Duration::from_secs(5))?;
            Ok(TcpStream::from(socket))
        })?;
        ends.push((sender, listener.accept()?.0));
    }
    let received = &AtomicU64::new(0);
    thread::scope(|scope| {
        for (sender, receiver) in &ends {
            scope.spawn(move || {
                let block = vec![0_u8; 128 << 10];
                let mut sender = sender;
                while sender.write_all(&block).is_ok() {}
            });
            scope.spawn(move || {
                let mut block = vec![0_u8; 256 << 10];
                let mut receiver = receiver;
                while let Ok(some @ 1..) = receiver.read(&mut block) {
                    received.fetch_add(some as u64, Relaxed);
                }
            });
        }
        let measured = (|| {
            thread::sleep(WARM);
            let before = (received.load(Relaxed), pair.cpu()?, Instant::now());
            let ping_p99 = match ping {
                true => Some(pings(from, to, 150, 0.01)?.1),
                false => {
                    thread::sleep(TCP_TIME);
                    None
                }
            };
            let bytes = (received.load(Relaxed) - before.0) as f64;
            Ok(Tcp {
                gbps: bytes * 8.0 / before.2.elapsed().as_secs_f64() / 1e9,
                cpu: (pair.cpu()? - before.1).as_secs_f64() / (bytes / 1e9),
                ping_p99,
            })
        })();
        for (sender, receiver) in &ends {
            // They may be gone already.
            let _ = sender.shutdown(Shutdown::Both);
            let _ = receiver.shutdown(Shutdown::Both);
        }
        measured
    })
}

/// Datagrams from one end to the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Datagrams {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Of those received, behind a later one of their flow.
    pub(super) late: u64,
    pub(super) seconds: f64,
}

impl Datagrams {
    fn lost(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    /// Thousands a second that came.
    pub(super) fn kpps(&self) -> f64 {
        self.received as f64 / self.seconds / 1e3
    }
}

/// Sends for a while on each flow in turn, one system call a datagram: `rate` of them a second in all,
/// or without one as many as go.
pub(super) fn datagrams(
    (from, to): (&End, &End),
    flows: usize,
    rate: Option<f64>,
    time: Duration,
) -> Result<Datagrams> {
    let address = SocketAddr::from((to.address, 0));
    let receiver = to.within(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind(&address.into())?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        Ok(UdpSocket::from(socket))
    })?;
    receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
    let address = receiver.local_addr()?;
    let mut senders = Vec::new();
    for _ in 0..flows {
        senders.push(from.within(|| {
            let socket = UdpSocket::bind((from.address, 0))?;
            socket.connect(address)?;
            Ok(socket)
        })?);
    }
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting = scope.spawn(|| count(&receiver, flows, &ended));
        let (sent, seconds) = send(&senders, rate, time);
        // What is on its way still counts.
        thread::sleep(Duration::from_millis(60));
        ended.store(true, Relaxed);
        let (received, late) = counting.join().ok().context("the receiver panicked")?;
        Ok(Datagrams {
            sent,
            received,
            late,
            seconds,
        })
    })
}

fn send(senders: &[UdpSocket], rate: Option<f64>, time: Duration) -> (u64, f64) {
    let began = Instant::now();
    let mut datagram = [0_u8; SMALL];
    let mut sent = 0_u64;
    loop {
        let now = began.elapsed();
        if now >= time {
            return (sent, now.as_secs_f64());
        }
        let due = match rate {
            Some(rate) => (now.as_secs_f64() * rate) as u64,
            None => sent + 64,
        };
        while sent < due {
            let flow = sent as usize % senders.len();
            datagram[..8].copy_from_slice(&(sent / senders.len() as u64).to_be_bytes());
            datagram[8..10].copy_from_slice(&(flow as u16).to_be_bytes());
            // A full queue takes none: that is what is measured.
            let _ = senders[flow].send(&datagram);
            sent += 1;
        }
        if rate.is_some() {
            thread::sleep(TICK);
        }
    }
}

/// How many came, and how many of them behind a later one.
fn count(receiver: &UdpSocket, flows: usize, ended: &AtomicBool) -> (u64, u64) {
    let mut last = vec![0_u64; flows];
    let (mut received, mut late) = (0, 0);
    let mut datagram = [0_u8; SMALL];
    loop {
        match receiver.recv(&mut datagram) {
            Ok(SMALL) => {
                received += 1;
                let (number, rest) = datagram.split_at(8);
                let number = number.try_into().map_or(0, u64::from_be_bytes) + 1;
                let flow = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                if let Some(last) = last.get_mut(flow) {
                    late += u64::from(number < *last);
                    *last = number.max(*last);
                }
            }
            Ok(_) => {}
            Err(_) if ended.load(Relaxed) => return (received, late),
            Err(_) => {}
        }
    }
}

/// As many as go: what comes, in thousands a second, and the share that came late.
pub(super) fn flood(ends: (&End, &End), flows: usize) -> Result<Datagrams> {
    datagrams(ends, flows, None, FLOOD)
}

/// The highest rate at which at most [`MOST_LOST`] are lost, in thousands a second, found by trials
/// from `guess` on.
pub(super) fn highest(ends: (&End, &End), flows: usize, guess: f64) -> Result<f64> {
    let (mut good, mut bad) = (0.0_f64, f64::INFINITY);
    let mut rate = guess;
    for _ in 0..14 {
        let seen = datagrams(ends, flows, Some(rate * 1e3), TRIAL)?;
        let reached = seen.sent as f64 / seen.seconds / 1e3;
        if seen.lost() <= MOST_LOST {
            good = good.max(reached);
            // The sender can't do more.
            if reached < rate * 0.93 {
                break;
            }
        } else {
            bad = bad.min(rate);
        }
        rate = match (good > 0.0, bad.is_finite()) {
            (_, false) => rate * 1.5,
            (false, true) => rate / 1.7,
            (true, true) if bad / good < 1.04 => break,
            (true, true) => (good + bad) / 2.0,
        };
    }
    Ok(good)
}

/// Round trips, milliseconds: the median and the 99th percentile.
pub(super) fn pings(from: &End, to: &End, count: usize, interval: f64) -> Result<(f64, f64)> {
    let said = from.run(&format!(
        "ping -n -c {count} -i {interval} -W 1 {}",
        to.address
    ))?;
    let mut times: Vec<f64> = said
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get((times.len().max(1) - 1) * percent / 100).copied();
    at(50)
        .zip(at(99))
        .with_context(|| format!("no answer: {said}"))
}
