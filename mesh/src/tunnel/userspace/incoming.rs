//! Packets on their way in: opened into one arena, and given to the host together.

use std::sync::Arc;

use super::coalesce::{Batch, Offloads};
use super::session::OVERHEAD;
use super::table::Peer;
use super::udp::Receiver;

/// The buffers of a thread that receives.
pub(super) struct Incoming {
    /// Packets that were opened.
    pub(super) plain: Vec<u8>,
    end: usize,
    pub(super) batch: Batch,
    /// What the host takes as super-packets.
    pub(super) offloads: Offloads,
    /// For what is sent in answer.
    pub(super) scratch: Vec<u8>,
    /// Peers for which packets waited that can be sent now.
    pub(super) owed: Vec<Arc<Peer>>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            plain: vec![0; Receiver::MOST + OVERHEAD],
            end: 0,
            batch: Batch::default(),
            offloads: Offloads::default(),
            scratch: vec![0; super::engine::SCRATCH],
            owed: Vec::new(),
        }
    }
}

impl Incoming {
    /// Whether datagrams of `len` bytes in all may be opened before the rest is delivered.
    pub(super) fn has_room(&self, len: usize) -> bool {
        !self.batch.is_full() && self.end + len + OVERHEAD <= self.plain.len()
    }

    /// Where the next packet is opened to.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.plain[self.end..]
    }

    /// The packet of `len` bytes that was opened there is for the host.
    pub(super) fn keep(&mut self, len: usize) {
        self.batch.push(&self.plain, self.end, len, self.offloads);
        self.end += len;
    }

    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.end = 0;
    }
}
