//! Flows that connection tracking remembers (`linux/netfilter/nfnetlink_conntrack.h`), forgotten
//! where a port of the host leads elsewhere than it did: a UDP flow keeps its first destination for
//! as long as packets come.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::nft::{Attributes, Message, Nftnetlink};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// Of `struct nfgenmsg`.
const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Forgets the UDP flows to these ports of these addresses. The rest, and a flow that ends
/// meanwhile, is no matter.
pub(crate) fn forget_udp(
    netlink: &mut Nftnetlink,
    ports: &BTreeSet<u16>,
    addresses: &BTreeSet<IpAddr>,
) -> io::Result<()> {
    let dump = libc::NLM_F_DUMP as u16;
    let all = message(GET, dump, 0).request();
    let stale = netlink.dump(&all, |flow| {
        let attributes = flow.attributes(HEADER);
        let (address, port) = udp_destination(attributes.nested(TUPLE_ORIGINAL))?;
        (ports.contains(&port) && addresses.contains(&address)).then_some(())?;
        let mut request = message(DELETE, 0, *flow.body.first()?);
        request = request.attr(TUPLE_ORIGINAL | NESTED, attributes.find(TUPLE_ORIGINAL)?);
        for kind in [ID, ZONE] {
            if let Some(value) = attributes.find(kind) {
                request = request.attr(kind, value);
            }
        }
        Some(request.request())
    })?;
    for outcome in netlink.transact(stale)? {
        match outcome {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn message(kind: u16, flags: u16, family: u8) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &[family, 0, 0, 0])
}

/// Where the first packet of a UDP flow was sent to.
fn udp_destination(tuple: Attributes<'_>) -> Option<(IpAddr, u16)> {
    let (ip, transport) = (tuple.nested(1), tuple.nested(2));
    let is_udp = transport.find(1)? == [libc::IPPROTO_UDP as u8];
    let port: [u8; 2] = transport.find(3)?.try_into().ok()?;
    let v4 = || <[u8; 4]>::try_from(ip.find(2)?).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(ip.find(4)?).ok().map(IpAddr::from);
    let address = v4().or_else(v6)?;
    is_udp.then_some((address, u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tuple(protocol: u8) -> Message {
        Message::new(0, 0, &[])
            .nest(1 | NESTED, |m| {
                m.attr(1, &[10, 0, 0, 1]).attr(2, &[192, 0, 2, 1])
            })
            .nest(2 | NESTED, |m| {
                m.attr(1, &[protocol]).attr(2, &[1, 2]).attr(3, &[0, 53])
            })
    }

    #[test]
    fn the_destination_of_a_udp_flow_is_read() {
        let wanted = Some(("192.0.2.1".parse().unwrap(), 53));
        assert_eq!(udp_destination(tuple(17).attributes(0)), wanted);
        assert_eq!(udp_destination(tuple(6).attributes(0)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = udp_destination(Message::new(0, 0, &bytes).attributes(0));
        }
    }
}
