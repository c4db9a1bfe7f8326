//! Watching an underlay: every frame that enters the bridge is counted as what it is.
//!
//! What a frame is, is said by [`classify()`], a pure function; the socket is `socket`'s.

mod classify;
mod packet;
mod socket;

use std::collections::BTreeMap;

use ipnet::IpNet;

pub use classify::{Class, Frame, classify};
pub use socket::Capture;

/// The most kinds of plaintext that are told apart by description.
const MAX_SAMPLES: usize = 16;

/// What to look for.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The mesh's port, UDP and TCP.
    pub port: u16,
    /// The ranges whose addresses may never be seen.
    pub pools: Vec<IpNet>,
    /// Bytes that may be seen nowhere, not even inside what looks sealed.
    pub secrets: Vec<Vec<u8>>,
    /// What the hosts' own traffic is.
    pub hosts: Hosts,
}

/// What packets are that have no address of the ranges and are not the mesh's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Plaintext: on this underlay the hosts have nothing to say but by the mesh.
    Silent,
    /// Noise: they have business of their own.
    Ignored,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub wireguard: u64,
    pub control: u64,
    /// Neighbour discovery, multicast membership, and errors about the two above.
    pub noise: u64,
    pub plaintext: u64,
    /// The plaintext by description, of each kind how many; the first 16 kinds.
    pub samples: BTreeMap<String, u64>,
    /// Frames that the kernel counted for us and those it dropped before we read them: with none
    /// dropped, nothing went by unseen.
    pub kernel_seen: u64,
    pub kernel_dropped: u64,
}

impl Counts {
    /// All frames that were read.
    pub fn frames(&self) -> u64 {
        self.wireguard + self.control + self.noise + self.plaintext
    }

    fn add(&mut self, class: Class) {
        match class {
            Class::WireGuard => self.wireguard += 1,
            Class::Control => self.control += 1,
            Class::Noise => self.noise += 1,
            Class::Plaintext(what) => {
                self.plaintext += 1;
                if self.samples.len() < MAX_SAMPLES || self.samples.contains_key(&what) {
                    *self.samples.entry(what).or_default() += 1;
                }
            }
        }
    }
}
