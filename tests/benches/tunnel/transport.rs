//! A transport of our own, to tell what boringtun's costs: ring, an atomic counter, a window of 8,192
//! messages, and two halves that share nothing. Its keys are made of the public ones: it is a load for
//! processors and nothing else.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey as Point, StaticSecret};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_mesh::PublicKey;
use weft_mesh::tunnel::userspace::Transport;

const HEADER: usize = 16;
const TAG: usize = 16;
/// The width of the window, in words of 64 messages. One word is always about to be cleared (RFC 6479).
const WORDS: u64 = 8_192 / 64 + 1;

/// One direction's sender. Any number of threads may seal at once.
pub(super) struct SendHalf {
    key: LessSafeKey,
    counter: AtomicU64,
}

/// One direction's receiver.
pub(super) struct ReceiveHalf {
    key: LessSafeKey,
    window: Window,
}

struct Window {
    next: u64,
    seen: Vec<u64>,
}

impl Window {
    fn new() -> Self {
        Self {
            next: 0,
            seen: vec![0; WORDS as usize],
        }
    }

    /// Whether the counter is new; it is not afterwards.
    fn take(&mut self, counter: u64) -> bool {
        let word = counter / 64;
        if counter >= self.next {
            let first = self.next.div_ceil(64);
            for cleared in first..=word.min(first + WORDS) {
                self.seen[(cleared % WORDS) as usize] = 0;
            }
            if word >= first + WORDS {
                self.seen.fill(0);
            }
            self.next = counter + 1;
        } else if word + WORDS <= self.next / 64 {
            return false;
        }
        let bit = 1 << (counter % 64);
        let seen = &mut self.seen[(word % WORDS) as usize];
        let new = *seen & bit == 0;
        *seen |= bit;
        new
    }
}

fn key(from: &[u8; 32], to: &[u8; 32]) -> LessSafeKey {
    let digest = Sha256::new().chain_update(from).chain_update(to).finalize();
    let key = UnboundKey::new(&CHACHA20_POLY1305, &digest);
    LessSafeKey::new(key.expect("32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl SendHalf {
    fn seal(&self, index: u32, packet: &[u8], out: &mut [u8]) -> usize {
        let counter = self.counter.fetch_add(1, Relaxed);
        let len = HEADER + packet.len();
        out[..4].copy_from_slice(&[4, 0, 0, 0]);
        out[4..8].copy_from_slice(&index.to_le_bytes());
        out[8..16].copy_from_slice(&counter.to_le_bytes());
        let body = &mut out[HEADER..len];
        body.copy_from_slice(packet);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), body);
        // It refuses 256 GB.
        out[len..len + TAG].copy_from_slice(tag.expect("a short message").as_ref());
        len + TAG
    }
}

impl ReceiveHalf {
    fn open(&mut self, message: &[u8], out: &mut [u8]) -> Option<usize> {
        let (header, sealed) = message.split_at_checked(HEADER)?;
        let counter = u64::from_le_bytes(header[8..].try_into().ok()?);
        let room = out.get_mut(..sealed.len())?;
        room.copy_from_slice(sealed);
        let opened = self
            .key
            .open_in_place(nonce(counter), Aad::empty(), room)
            .ok()?;
        let len = opened.len();
        self.window.take(counter).then_some(len)
    }
}

struct Own {
    send: SendHalf,
    receive: ReceiveHalf,
}

impl Transport for Own {
    fn seal(&mut self, index: u32, packet: &[u8], out: &mut [u8]) -> usize {
        self.send.seal(index, packet, out)
    }

    fn open(&mut self, message: &[u8], out: &mut [u8]) -> Option<usize> {
        self.receive.open(message, out)
    }
}

fn halves(own: &[u8; 32], peer: &[u8; 32]) -> Own {
    Own {
        send: SendHalf {
            key: key(own, peer),
            counter: AtomicU64::new(0),
        },
        receive: ReceiveHalf {
            key: key(peer, own),
            window: Window::new(),
        },
    }
}

/// The transport of a device that has `own` as its key to the peer `peer`.
pub(super) fn make(own: PublicKey, peer: PublicKey) -> Box<dyn Transport> {
    Box::new(halves(own.as_bytes(), peer.as_bytes()))
}

/// boringtun's two ends of a session.
fn tunns() -> [Tunn; 2] {
    let [a, b] = [3, 4].map(|byte| StaticSecret::from([byte; 32]));
    let [x, y] = [Point::from(&a), Point::from(&b)];
    let mut ends = [
        Tunn::new(a, y, None, None, 1, None),
        Tunn::new(b, x, None, None, 2, None),
    ];
    let (mut there, mut back, mut last) = ([0; 256], [0; 256], [0; 256]);
    let [from, to] = &mut ends;
    let TunnResult::WriteToNetwork(first) = from.format_handshake_initiation(&mut there, false)
    else {
        unreachable!("a fresh one initiates");
    };
    let TunnResult::WriteToNetwork(second) = to.decapsulate(None, first, &mut back) else {
        unreachable!("it answers");
    };
    let TunnResult::WriteToNetwork(third) = from.decapsulate(None, second, &mut last) else {
        unreachable!("it confirms");
    };
    let _ = to.decapsulate(None, third, &mut there);
    ends
}

/// Nanoseconds a packet, of `threads` that do it at once.
fn timed(threads: usize, count: usize, work: impl Fn(&mut [u8]) + Sync) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut out = vec![0; 2048];
                (0..count).for_each(|_| work(&mut out));
            });
        }
    });
    began.elapsed().as_nanos() as f64 / (count * threads) as f64
}

/// Prints what a packet costs on one core, and on two that share one session; all of it as JSON.
pub(super) fn compare() -> Value {
    const COUNT: usize = 200_000;
    println!(
        "\n| ns a packet | boringtun | own transport | boringtun, 2 threads behind its lock | own, 2 threads |"
    );
    println!("|---|---|---|---|---|");
    let mut rows = Vec::new();
    for size in [64, 1420] {
        let packet = {
            let mut packet = vec![0_u8; size];
            packet[..4].copy_from_slice(&[0x45, 0, (size >> 8) as u8, size as u8]);
            packet
        };
        let [from, to] = tunns();
        let (from, to) = (Mutex::new(from), Mutex::new(to));
        let seal = |out: &mut [u8]| {
            let _ = from.lock().expect("no panic").encapsulate(&packet, out);
        };
        let own = halves(&[1; 32], &[2; 32]);
        let own_seal = |out: &mut [u8]| {
            own.send.seal(1, &packet, out);
        };
        let sealed = [
            timed(1, COUNT, seal),
            timed(1, COUNT, own_seal),
            timed(2, COUNT, seal),
            timed(2, COUNT, own_seal),
        ];
        row(&mut rows, &format!("seal {size} B"), sealed);

        let theirs = Mutex::new(halves(&[2; 32], &[1; 32]).receive);
        let both = |out: &mut [u8]| {
            let mut back = [0; 2048];
            let len = match from.lock().expect("no panic").encapsulate(&packet, out) {
                TunnResult::WriteToNetwork(message) => message.len(),
                other => unreachable!("{other:?}"),
            };
            let _ = to
                .lock()
                .expect("no panic")
                .decapsulate(None, &out[..len], &mut back);
        };
        let own_both = |out: &mut [u8]| {
            let mut back = [0; 2048];
            let len = own.send.seal(1, &packet, out);
            let _ = theirs
                .lock()
                .expect("no panic")
                .open(&out[..len], &mut back);
        };
        let all = [
            timed(1, COUNT, both),
            timed(1, COUNT, own_both),
            timed(2, COUNT, both),
            timed(2, COUNT, own_both),
        ];
        row(&mut rows, &format!("seal and open {size} B"), all);
    }
    Value::Array(rows)
}

fn row(rows: &mut Vec<Value>, what: &str, ns: [f64; 4]) {
    let cells: Vec<String> = ns.iter().map(|ns| format!("{ns:.0}")).collect();
    println!("| {what} | {} |", cells.join(" | "));
    rows.push(json!({ "what": what, "ns": ns }));
}
