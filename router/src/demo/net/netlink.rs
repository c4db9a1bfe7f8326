//! A blocking route netlink socket in one namespace, for the few requests that building takes.
//!
//! A socket stays in the namespace it was opened in. The agent's own netlink is not here.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoPortData, InfoVeth, LinkAttribute, LinkInfo,
    LinkMessage, State,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{During, NetError};

/// A route netlink socket, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: Socket,
    sequence: u32,
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
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().during(|| "open netlink".to_owned())?;
        Ok(Self {
            inner: Mutex::new(Inner {
                socket,
                sequence: 0,
            }),
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
        self.create(message)
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
        self.create(message)
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
        self.set(message)
            .during(|| format!("put interface {index} on the bridge"))
    }

    /// Sets the interface up.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn up(&self, index: u32) -> Result<(), NetError> {
        self.set(LinkUnspec::new_with_index(index).up().build())
            .during(|| format!("set interface {index} up"))
    }

    /// Sets the interface down.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn down(&self, index: u32) -> Result<(), NetError> {
        self.set(LinkUnspec::new_with_index(index).down().build())
            .during(|| format!("set interface {index} down"))
    }

    /// Sets the interface's MTU, in bytes.
    ///
    /// # Errors
    /// When there is no such interface, or it cannot have that MTU.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetError> {
        self.set(LinkUnspec::new_with_index(index).mtu(mtu).build())
            .during(|| format!("set interface {index} to MTU {mtu}"))
    }

    /// Gives the interface an address, without duplicate address detection.
    ///
    /// # Errors
    /// When it is there already, or the family is not.
    pub fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetError> {
        let message = RouteNetlinkMessage::NewAddress(address_message(index, address));
        self.request(message, NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .during(|| format!("add address {address}"))
    }

    /// Takes an address from the interface.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_address(&self, index: u32, address: IpNet) -> Result<(), NetError> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.request(message, 0)
            .map(drop)
            .during(|| format!("remove address {address}"))
    }

    /// Routes everything of the gateway's family by `gateway`, in place of what was.
    ///
    /// # Errors
    /// When the gateway is not on a link.
    pub fn default_route(&self, gateway: IpAddr) -> Result<(), NetError> {
        let message: RouteMessage = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .gateway(gateway)
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .gateway(gateway)
                .build(),
        };
        self.request(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
        .during(|| format!("route by {gateway}"))
    }

    /// Says for good under which MAC a neighbour on the link `index` is found.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn add_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetError> {
        let mut message = NeighbourMessage::default();
        let (family, destination) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        message.header.family = family;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(destination),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
        .during(|| format!("add neighbour {address}"))
    }

    fn link(&self, message: LinkMessage) -> io::Result<LinkMessage> {
        match self.request(RouteNetlinkMessage::GetLink(message), 0)? {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn create(&self, message: LinkMessage) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewLink(message);
        self.request(message, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    fn set(&self, message: LinkMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
    }

    /// Sends one request and waits for the kernel's acknowledgement; the object that came before it.
    fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.sequence = inner.sequence.wrapping_add(1);
        let sequence = inner.sequence;
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.header.sequence_number = sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        inner.socket.send(&bytes, 0)?;
        let mut object = None;
        loop {
            let (answer, _) = inner.socket.recv_from_full()?;
            let mut rest = &answer[..];
            while rest.len() >= 16 {
                let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                // Netlink rounds each message up to four bytes.
                let length = (parsed.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(16)..).unwrap_or_default();
                if parsed.header.sequence_number != sequence {
                    continue;
                }
                match parsed.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(object),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(found) => object = Some(found),
                    _ => {}
                }
            }
        }
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
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
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
