//! Flows that connection tracking remembers (`linux/netfilter/nfnetlink_conntrack.h`), forgotten
//! where a port of the host leads elsewhere than it did: a UDP flow keeps its first destination for
//! as long as packets come.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::nft::{Attributes, Message, Nftnetlink};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// Of `struct nfgenmsg`.
const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Where UDP ports of the host lead now; one that leads nowhere any more has nothing.
pub type Targets = BTreeMap<u16, BTreeSet<SocketAddr>>;

/// Forgets the UDP flows to these ports of the host's `addresses` that go elsewhere. A flow that
/// ends meanwhile is no matter.
pub(crate) fn forget_udp(
    netlink: &mut Nftnetlink,
    targets: &Targets,
    addresses: &BTreeSet<IpAddr>,
) -> io::Result<()> {
    let dump = libc::NLM_F_DUMP as u16;
    let all = message(GET, dump, 0).request();
    let stale = netlink.dump(&all, |flow| {
        let attributes = flow.attributes(HEADER);
        let to = udp_end(attributes.nested(TUPLE_ORIGINAL), End::Destination)?;
        let answers = udp_end(attributes.nested(TUPLE_REPLY), End::Source)?;
        let wanted = targets.get(&to.port())?;
        let is_stale = addresses.contains(&to.ip()) && !wanted.contains(&answers);
        is_stale.then_some(())?;
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

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// One end of a UDP flow, as the packets of one direction have it.
fn udp_end(tuple: Attributes<'_>, end: End) -> Option<SocketAddr> {
    let (ip, transport) = (tuple.nested(1), tuple.nested(2));
    let (v4, v6, port) = match end {
        End::Source => (1, 3, 2),
        End::Destination => (2, 4, 3),
    };
    let is_udp = transport.find(1)? == [libc::IPPROTO_UDP as u8];
    let port: [u8; 2] = transport.find(port)?.try_into().ok()?;
    let v4 = || <[u8; 4]>::try_from(ip.find(v4)?).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(ip.find(v6)?).ok().map(IpAddr::from);
    let address = v4().or_else(v6)?;
    is_udp.then_some(SocketAddr::new(address, u16::from_be_bytes(port)))
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
    fn both_ends_of_a_udp_flow_are_read() {
        let end = |protocol, end| udp_end(tuple(protocol).attributes(0), end);
        let read = |text: &str| Some(text.parse().unwrap());
        assert_eq!(end(17, End::Destination), read("192.0.2.1:53"));
        assert_eq!(end(17, End::Source), read("10.0.0.1:258"));
        assert_eq!(end(6, End::Source), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for end in [End::Source, End::Destination] {
                let _ = udp_end(Message::new(0, 0, &bytes).attributes(0), end);
            }
        }
    }
}
