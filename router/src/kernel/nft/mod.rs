//! Our nftables table, `inet weft`: what it should say, as netlink bytes, and what it says now.
//!
//! No `nft` binary and no rule of anybody else's: one table, replaced whole in one transaction.

mod encode;
mod expression;
pub mod foreign;
mod mesh;
mod observe;
mod ruleset;

pub(crate) use mesh::{GUARD_IN, GUARD_OUT};
pub use mesh::{Ranges, mesh_ruleset};
pub use ruleset::{
    Action, AddressKind, Chain, ChainKind, Fingerprint, Hook, Links, Match, Rule, Ruleset, Side,
};

pub(crate) use encode::{remove_table, replace_table};
pub(crate) use observe::{guarded, observe};

/// The name of our table, of family `inet`.
pub const TABLE: &str = "weft";
