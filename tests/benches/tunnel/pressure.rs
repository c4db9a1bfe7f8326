//! What a TCP stream between two peers keeps while a third presses: one that floods small packets
//! through its own tunnel, and one that has none and sends handshake initiations from many addresses.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weft_tests::bench::median;
use weft_tests::engine::initiations;

use super::contestant::{Contestant, PORT};
use super::load::tcp;
use super::world::{Pair, Third};

/// What is kept of the stream's own rate while a peer floods, and of its rate while the same sender aims
/// at a closed port, while it asks for handshakes.
const LEAST: [f64; 2] = [0.4, 0.8];
/// Initiations a second.
const RATE: u64 = 20_000;
/// Where they come from, and how many different ones there are.
const SOURCES: u8 = 200;
const FIRST: u8 = 40;

/// Prints the table; whether ours keeps enough, and all of it as JSON.
pub(super) fn measure(rounds: usize, base: &Path, tools: &Path) -> Result<(bool, Value)> {
    println!(
        "\n| TCP, 1 stream, Gb/s | alone | a peer floods | kept | at a closed port | initiations | kept |"
    );
    println!("|---|---|---|---|---|---|---|");
    let (mut good, mut rows) = (true, Vec::new());
    for (number, contestant) in (FIRST..).zip([Contestant::Weft, Contestant::WireguardGo]) {
        if contestant
            .programs()
            .iter()
            .any(|name| !tools.join(name).is_file())
        {
            continue;
        }
        let pair = Pair::new(contestant, number, base, tools)?;
        let third = pair.third(number, base, tools)?;
        let key = pair.ends[0].run("wg show wg0 public-key")?;
        let initiations = initiations(key.trim(), SOURCES)?;
        let senders = third.sources(SOURCES)?;
        let mut seen: [Vec<f64>; 4] = Default::default();
        for _ in 0..rounds {
            seen[0].push(stream(&pair)?);
            seen[1].push(while_it(
                |ended| third.flood(&pair, ended),
                || stream(&pair),
            )?);
            let target = |port: u16| SocketAddr::from((third.outer_of_first, port));
            for (at, port) in [(2, PORT + 1), (3, PORT)] {
                let knock = |ended: &AtomicBool| knock(&senders, &initiations, target(port), ended);
                seen[at].push(while_it(knock, || stream(&pair))?);
            }
        }
        let [alone, flooded, closed, asked] = seen.each_ref().map(|rounds| median(rounds));
        let kept = [flooded / alone, asked / closed];
        println!(
            "| {} | {alone:.2} | {flooded:.2} | {:.2} | {closed:.2} | {asked:.2} | {:.2} |",
            contestant.name(),
            kept[0],
            kept[1]
        );
        if contestant == Contestant::Weft {
            good = kept.iter().zip(LEAST).all(|(kept, least)| *kept >= least);
        }
        rows.push(json!({ "contestant": contestant.name(), "rounds": seen, "kept": kept, "least": LEAST }));
    }
    Ok((good, Value::Array(rows)))
}

fn stream(pair: &Pair) -> Result<f64> {
    let [a, b] = &pair.ends;
    Ok(tcp(pair, (b, a), 1, false)?.gbps)
}

/// What is measured while something else goes on.
fn while_it<T>(
    other: impl FnOnce(&AtomicBool) -> Result<()> + Send,
    measured: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| other(&ended));
        let measured = measured();
        ended.store(true, Relaxed);
        other.join().ok().context("the other panicked")??;
        measured
    })
}

/// Sends them at their rate, each from the next address.
fn knock(
    senders: &[UdpSocket],
    initiations: &[Vec<u8>],
    to: SocketAddr,
    ended: &AtomicBool,
) -> Result<()> {
    let began = Instant::now();
    let mut sent = 0;
    while !ended.load(Relaxed) {
        let due = (began.elapsed().as_micros() as u64) * RATE / 1_000_000;
        while sent < due {
            let at = sent as usize % senders.len();
            // What finds no room is lost, as on any wire; a closed port's answer is an error.
            let _ = senders[at].send_to(&initiations[at], to);
            sent += 1;
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

impl Third {
    /// Small packets to the first of the two, as many as go.
    fn flood(&self, pair: &Pair, ended: &AtomicBool) -> Result<()> {
        let to = (pair.ends[0].address, 9);
        let socket = self
            .end
            .within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        while !ended.load(Relaxed) {
            // Nobody is there to take them: the packet is what costs.
            let _ = socket.send_to(&[0; 64], to);
        }
        Ok(())
    }

    /// Sockets with addresses of their own on the underlay.
    fn sources(&self, count: u8) -> Result<Vec<UdpSocket>> {
        let mut sockets = Vec::new();
        for host in 0..count {
            let address = self.another(host)?;
            sockets.push(self.end.within(move || UdpSocket::bind((address, 0)))?);
        }
        Ok(sockets)
    }
}
