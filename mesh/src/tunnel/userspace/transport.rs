//! A place for another transport in boringtun's, over the same I/O, for benchmarks that ask what
//! boringtun's costs. Not in what is shipped: nothing but the feature `testing` has it.

use std::sync::OnceLock;

use crate::PublicKey;

/// Data messages of one pair of keys: seals and opens as the paper's section 5.4.6 lays them out.
pub trait Transport: Send {
    /// Writes the message with this receiver index to the start of `out`; its length.
    fn seal(&mut self, index: u32, packet: &[u8], out: &mut [u8]) -> usize;

    /// Writes what a message holds to the start of `out`; its length, or nothing where it is not
    /// authentic or was seen before.
    fn open(&mut self, message: &[u8], out: &mut [u8]) -> Option<usize>;
}

/// Makes the transport to a peer: our own key, its key.
pub(super) type Make = fn(PublicKey, PublicKey) -> Box<dyn Transport>;

static MAKE: OnceLock<Make> = OnceLock::new();

/// Has the sessions of this process use another transport, once boringtun has shaken hands.
pub fn use_transport(make: Make) {
    // The first stays.
    let _ = MAKE.set(make);
}

/// Another transport of a session, and the receiver index that it writes.
pub(super) struct Other {
    transport: Box<dyn Transport>,
    /// Learnt from the first message that boringtun sealed in the present session.
    index: Option<u32>,
}

impl Other {
    pub(super) fn new(own: PublicKey, peer: PublicKey) -> Option<Self> {
        MAKE.get().map(|make| Self {
            transport: make(own, peer),
            index: None,
        })
    }

    /// There is another session.
    pub(super) fn forget(&mut self) {
        self.index = None;
    }

    pub(super) fn learn(&mut self, index: Option<u32>) {
        self.index = index;
    }

    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        self.index
            .map(|index| self.transport.seal(index, packet, out))
    }

    pub(super) fn open(&mut self, message: &[u8], out: &mut [u8]) -> Option<usize> {
        self.transport.open(message, out)
    }
}
