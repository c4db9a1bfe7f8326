//! The capture: its thread, and what the caller asks of it.

use std::mem::size_of;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::packet::{self, Offload};
use super::{Counts, Frame, Watch, classify};
use crate::demo::net::{NetError, Netns};

/// Frames read in one turn of the thread, before it lets others at the counts.
const TURN: usize = 1024;
/// Frames read at most when the caller asks, more than the buffer can hold.
const ALL: usize = 1 << 20;
/// The largest frame that a veth carries with segmentation, and a little.
const FRAME: usize = 66_000 + size_of::<Offload>();

/// A running capture. It ends when it is dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    bridge: u32,
    watch: Watch,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    counts: Counts,
    buffer: Vec<u8>,
}

impl Capture {
    /// Starts to count the frames that enter the bridge `bridge` (an interface index) of `netns`,
    /// each at the port by which it comes.
    ///
    /// # Errors
    /// When the kernel gives no packet socket.
    pub fn start(netns: &Netns, bridge: u32, watch: Watch) -> Result<Self, NetError> {
        let socket = netns.run(|| {
            packet::open().map_err(|source| NetError::Io {
                act: "open a packet socket".to_owned(),
                source,
            })
        })?;
        let shared = Arc::new(Shared {
            socket,
            bridge,
            watch,
            stop: AtomicBool::new(false),
            state: Mutex::new(State {
                counts: Counts::default(),
                buffer: vec![0; FRAME],
            }),
        });
        let reader = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("weft-capture".to_owned())
            .spawn(move || {
                while !reader.stop.load(Ordering::Relaxed) {
                    if packet::readable(&reader.socket) {
                        reader.read(&mut reader.lock(), TURN);
                    }
                }
            })
            .map_err(|source| NetError::Io {
                act: "start a thread".to_owned(),
                source,
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What was seen until now: every frame that was on the bridge before this call.
    pub fn counts(&self) -> Counts {
        let mut state = self.shared.lock();
        self.shared.read(&mut state, ALL);
        // Reading the kernel's count sets it to zero there (packet(7)).
        if let Ok((seen, dropped)) = packet::statistics(&self.shared.socket) {
            state.counts.kernel_seen += u64::from(seen);
            state.counts.kernel_dropped += u64::from(dropped);
        }
        state.counts.clone()
    }

    /// Forgets what was seen until now.
    pub fn reset(&self) {
        self.counts();
        self.shared.lock().counts = Counts::default();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a panic of its would have been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there, at most `limit` frames.
    fn read(&self, state: &mut State, limit: usize) {
        let State { counts, buffer } = state;
        for _ in 0..limit {
            let Ok((length, interface)) = packet::receive(&self.socket, buffer) else {
                return;
            };
            // Seen on its port; the bridge shows it a second time if it is for this namespace.
            if interface == self.bridge {
                continue;
            }
            let Some((segment, bytes)) = Offload::split(&buffer[..length]) else {
                continue;
            };
            counts.add(classify(Frame { bytes, segment }, &self.watch));
        }
    }
}
