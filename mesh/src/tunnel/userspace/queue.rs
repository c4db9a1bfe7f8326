//! The packets that wait for a peer's handshake.

use std::collections::VecDeque;
use std::time::Instant;

/// A peer that does not answer costs no more memory than this.
const MOST: usize = 32;
const MOST_BYTES: usize = 64 * 1024;

/// Packets in order, the oldest dropped when there are too many.
#[derive(Default)]
pub(super) struct Queue {
    packets: VecDeque<Vec<u8>>,
    bytes: usize,
    since: Option<Instant>,
}

impl Queue {
    /// Returns how many older packets lost their place.
    pub(super) fn push(&mut self, packet: &[u8], now: Instant) -> u64 {
        self.since.get_or_insert(now);
        self.bytes += packet.len();
        self.packets.push_back(packet.to_vec());
        let mut dropped = 0;
        while self.packets.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.packets.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            dropped += 1;
        }
        dropped
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let packet = self.packets.pop_front();
        self.bytes -= packet.as_ref().map_or(0, Vec::len);
        if self.packets.is_empty() {
            self.since = None;
        }
        packet
    }

    /// Returns how many packets there were.
    pub(super) fn clear(&mut self) -> u64 {
        std::mem::take(self).packets.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// When the queue was last empty, unless it is.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }
}
