//! Our nftables table, `inet weft`: what it should say, as netlink bytes, and what it says now.
//!
//! No `nft` binary and no rule of anybody else's: one table, replaced whole in one transaction.

mod action;
mod encode;
mod expression;
pub mod foreign;
mod matches;
mod mesh;
mod observe;
mod ports;
mod print;
mod ruleset;
mod set;
mod wire;

use std::io;

use netlink_packet_core::NetlinkMessage;

pub(crate) use mesh::{GUARD_IN, GUARD_OUT, GUARD_PODS, GUARD_TRANSIT};
pub use mesh::{Ranges, mesh_ruleset};
pub use ports::Published;
pub(crate) use ports::missing;
pub use ruleset::{
    Action, AddressKind, Base, Chain, ChainKind, Family, Fingerprint, Hook, Links, Match, Rule,
    Ruleset, SetName, Side,
};
pub use set::Set;

pub(crate) use encode::{remove_table, replace_table};
pub(crate) use observe::{guarded, is_news, observe};

use super::socket::Netlink;
pub(crate) use wire::{Attributes, Message};

/// A socket for nftables.
pub(crate) type Nftnetlink = Netlink<Message>;

/// A message for it, with its flags.
pub(crate) type Request = NetlinkMessage<Message>;

impl Nftnetlink {
    /// Opens a socket in the namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        Self::new(libc::NETLINK_NETFILTER)
    }
}

/// The name of our table, of family `inet`.
pub const TABLE: &str = "weft";
