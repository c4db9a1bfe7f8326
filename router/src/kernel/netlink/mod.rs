//! Links, addresses, routes and neighbours over rtnetlink: requests as bytes, dumps as values.
//!
//! Of routes only what bears our protocol number is seen as ours, of the rest only what hangs on
//! our links.

mod asked;
mod routes;
mod seen;

pub(crate) use asked::{
    Put, add_address, default_of, gateway_route, get_link, get_route, link_header, put_route,
    remove_address, remove_link, remove_neighbour, remove_route, set_down, set_link, set_neighbour,
    set_up,
};
pub(crate) use routes::{all_routes, default_gateways, is_local, ra_links};
pub(crate) use seen::{LinkSeen, addresses, link, links, observe};

const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// No statistics in dumps of links.
const SKIP_STATISTICS: u32 = 1 << 3;
const UP: u32 = libc::IFF_UP as u32;
/// `RTAX_MTU`
const METRIC_MTU: u16 = 2;

/// Of `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`, `ndmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const NEIGHBOUR_HEADER: usize = 12;
