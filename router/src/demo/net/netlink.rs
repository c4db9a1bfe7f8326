//! A blocking route netlink socket in one namespace, for the few requests that building takes.
//!
//! A socket stays in the namespace it was opened in. The agent's own netlink is not here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoPortData, InfoVeth, LinkAttribute, LinkInfo,
    LinkMessage, State,
};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{During, NetError};
use crate::host::Mac;
use crate::kernel::netlink::{self, Request, Rtnetlink};

/// A route netlink socket, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Mutex<Rtnetlink>,
}

/// A new veth pair: our end stays here, the other is born in another namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: [u8; 6],
}

impl Netlink {
    /// Opens a socket in the namespace of this thread.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, NetError> {
        let socket = Rtnetlink::open().during(|| "open netlink".to_owned())?;
        Ok(Self {
            socket: Mutex::new(socket),
        })
    }

    /// Adds a bridge that is up, without spanning tree or multicast snooping; its index.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn add_bridge(&self, name: &str, mac: [u8; 6]) -> Result<u32, NetError> {
        let message = LinkBridge::new(name)
            .mcast_snooping(false)
            .address(mac.to_vec())
            .up()
            .build();
        self.request(netlink::new_link(message))
            .during(|| format!("create bridge {name}"))?;
        self.index(name)
    }

    /// Adds a veth pair whose other end is born in the namespace `there`; our end's index.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn add_veth(&self, veth: &Veth<'_>, there: impl AsFd) -> Result<u32, NetError> {
        let there = there.as_fd().as_raw_fd();
        let peer = LinkUnspec::new_with_name(veth.peer_name)
            .address(veth.peer_mac.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(there)
            .build();
        let message = LinkVeth::new(veth.name, veth.peer_name)
            .address(veth.mac.to_vec())
            .mtu(veth.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.request(netlink::new_link(message))
            .during(|| format!("create veth {}", veth.name))?;
        self.index(veth.name)
    }

    /// The index of the interface `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn index(&self, name: &str) -> Result<u32, NetError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let link = self
            .link(message)
            .during(|| format!("find interface {name}"))?;
        Ok(link.header.index)
    }

    /// Whether packets pass the interface `index`: it has its carrier, and where it is a port of a
    /// bridge, that forwards for it. The kernel gets there by itself a moment after it is set up.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn passes(&self, index: u32) -> Result<bool, NetError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let link = self
            .link(message)
            .during(|| format!("look at interface {index}"))?;
        let port = link.attributes.iter().find_map(bridge_port_state);
        let up = link
            .attributes
            .contains(&LinkAttribute::OperState(State::Up));
        Ok(up && port.is_none_or(|state| state == BridgePortState::Forwarding))
    }

    /// Makes the interface `index` a port of the bridge `bridge` and sets it up.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn enslave(&self, index: u32, bridge: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index)
            .controller(bridge)
            .up()
            .build();
        self.request(netlink::update_link(message))
            .during(|| format!("put interface {index} on the bridge"))
    }

    /// Sets the interface up.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn up(&self, index: u32) -> Result<(), NetError> {
        self.request(netlink::set_up(index))
            .during(|| format!("set interface {index} up"))
    }

    /// Sets the interface down.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn down(&self, index: u32) -> Result<(), NetError> {
        self.request(netlink::set_down(index))
            .during(|| format!("set interface {index} down"))
    }

    /// Sets the interface's MTU, in bytes.
    ///
    /// # Errors
    /// When there is no such interface, or it cannot have that MTU.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.request(netlink::update_link(message))
            .during(|| format!("set interface {index} to MTU {mtu}"))
    }

    /// Gives the interface an address, without duplicate address detection.
    ///
    /// # Errors
    /// When it is there already, or the family is not.
    pub fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        self.request(netlink::request(message, NLM_F_CREATE | NLM_F_EXCL))
            .during(|| format!("add address {address}"))
    }

    /// Takes an address from the interface.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_address(&self, index: u32, address: IpNet) -> Result<(), NetError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.request(netlink::request(message, 0))
            .during(|| format!("remove address {address}"))
    }

    /// Routes everything of the gateway's family by `gateway`, in place of what was.
    ///
    /// # Errors
    /// When the gateway is not on a link.
    pub fn default_route(&self, gateway: IpAddr) -> Result<(), NetError> {
        let message = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(gateway)
                .build(),
        };
        let message = RouteNetlinkMessage::NewRoute(message);
        self.request(netlink::request(message, NLM_F_CREATE | NLM_F_REPLACE))
            .during(|| format!("route by {gateway}"))
    }

    /// Says for good under which MAC a neighbour on the link `index` is found.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn add_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetError> {
        self.request(netlink::set_neighbour(index, address, Mac(mac)))
            .during(|| format!("add neighbour {address}"))
    }

    fn link(&self, message: LinkMessage) -> io::Result<LinkMessage> {
        let request = netlink::request(RouteNetlinkMessage::GetLink(message), 0);
        let mut found = None;
        self.exchange(request, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(link);
            }
        })?;
        found.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn request(&self, request: Request) -> io::Result<()> {
        self.exchange(request, drop)
    }

    fn exchange(
        &self,
        request: Request,
        answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket
            .exchange(vec![request], answer)?
            .into_iter()
            .collect()
    }
}

fn bridge_port_state(attribute: &LinkAttribute) -> Option<BridgePortState> {
    let LinkAttribute::LinkInfo(infos) = attribute else {
        return None;
    };
    infos.iter().find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.iter().find_map(|entry| match entry {
                InfoBridgePort::State(state) => Some(*state),
                _ => None,
            })
        }
        _ => None,
    })
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build();
            // We alone give addresses here: waiting a second for an objection gains nothing.
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    }
}
