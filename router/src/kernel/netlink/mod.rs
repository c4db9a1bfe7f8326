//! Links, addresses, routes and neighbours over rtnetlink: requests, and dumps as values.
//!
//! Of routes only what bears our protocol number is seen as ours, of the rest only what hangs on
//! our links.

mod asked;
mod routes;
mod seen;

use std::io;

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;

pub(crate) use asked::{
    Put, add_address, default_of, gateway_route, get_link, get_route, new_link, put_route,
    remove_address, remove_link, remove_neighbour, remove_route, set_down, set_link, set_neighbour,
    set_up, update_link,
};
pub(crate) use routes::{all_routes, default_gateways, is_local, ra_links};
pub(crate) use seen::{LinkSeen, addresses, link, links, observe};

use super::socket::Netlink;

/// A socket for links, addresses, routes and neighbours.
pub(crate) type Rtnetlink = Netlink<RouteNetlinkMessage>;

/// A message for it, with its flags.
pub(crate) type Request = NetlinkMessage<RouteNetlinkMessage>;

impl Rtnetlink {
    /// Opens a socket in the namespace of this thread.
    pub(crate) fn open() -> io::Result<Self> {
        Self::new(libc::NETLINK_ROUTE)
    }
}

/// `flags` are `NLM_F_*`, beyond those that the socket sets.
pub(crate) fn request(message: RouteNetlinkMessage, flags: u16) -> Request {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    request
}
