//! Packets on their way out: staged as they are read, then sealed and sent a peer at a time.

use std::sync::Arc;

use super::session::OVERHEAD;
use super::table::Peer;
use super::udp::{MOST_BYTES, MOST_SEGMENTS, Run};

/// The largest IP packet.
pub(super) const LARGEST: usize = 65_535;
/// Bytes of packets that are staged, and how many of them.
const ROOM: usize = 2 * LARGEST;
const MOST: usize = 128;

/// A packet that is staged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) start: usize,
    pub(super) len: usize,
    /// Which of the peers it is for.
    pub(super) peer: usize,
}

/// The buffers of a thread that sends.
pub(super) struct Outgoing {
    /// Packets, each with room for its padding.
    pub(super) plain: Vec<u8>,
    end: usize,
    pub(super) staged: Vec<Staged>,
    pub(super) peers: Vec<Arc<Peer>>,
    pub(super) sealed: Sealing,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            plain: vec![0; ROOM],
            end: 0,
            staged: Vec::with_capacity(MOST),
            peers: Vec::with_capacity(MOST),
            sealed: Sealing::default(),
        }
    }
}

impl Outgoing {
    /// Whether a packet of `len` bytes may be staged.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.staged.len() < MOST && self.end + len.next_multiple_of(16) <= ROOM
    }

    /// Stages what `write` puts into a buffer of `room` bytes, for the peer.
    pub(super) fn stage(
        &mut self,
        peer: &Arc<Peer>,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let start = self.end;
        let len = write(&mut self.plain[start..start + room]);
        let known = self
            .peers
            .iter()
            .rposition(|known| Arc::ptr_eq(known, peer));
        let peer = known.unwrap_or_else(|| {
            self.peers.push(Arc::clone(peer));
            self.peers.len() - 1
        });
        self.staged.push(Staged { start, len, peer });
        self.end = (start + len).next_multiple_of(16);
    }

    pub(super) fn clear(&mut self) {
        self.staged.clear();
        self.peers.clear();
        self.end = 0;
    }
}

/// Sealed datagrams, one after another, and how they leave.
pub(super) struct Sealing {
    pub(super) arena: Vec<u8>,
    end: usize,
    pub(super) runs: Vec<Run>,
}

impl Default for Sealing {
    fn default() -> Self {
        Self {
            arena: vec![0; ROOM + (MOST + 1) * OVERHEAD],
            end: 0,
            runs: Vec::with_capacity(MOST),
        }
    }
}

impl Sealing {
    /// Where the next datagram is written.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.arena[self.end..]
    }

    /// A datagram of `len` bytes was written there.
    pub(super) fn push(&mut self, len: usize, class: u8) {
        let start = self.end;
        self.end += len;
        if let Some(run) = self.runs.last_mut()
            && run.class == class
            && run.len % run.size == 0
            && len <= run.size
            && run.len / run.size < MOST_SEGMENTS
            && run.len + len <= MOST_BYTES
        {
            run.len += len;
            return;
        }
        let size = len;
        self.runs.push(Run {
            start,
            len,
            size,
            class,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.end
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.end = 0;
    }
}
