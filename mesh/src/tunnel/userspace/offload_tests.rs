//! A super-packet that is cut comes together again, and nothing else does.

use proptest::prelude::*;

use super::checksum::{TCP, UDP, addresses, fold, pseudo, set_ipv4_header, sum};
use super::coalesce::{Batch, Offloads};
use super::segment::{Malformed, Segments, finish};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, Vnet};

const ALL: Offloads = Offloads {
    tcp: true,
    udp: true,
};

/// Which packet is made.
#[derive(Clone, Debug)]
struct Flow {
    v6: bool,
    protocol: u8,
    port: u16,
    ttl: u8,
    class: u8,
    flags: u8,
}

const FLOW: Flow = Flow {
    v6: false,
    protocol: TCP,
    port: 5000,
    ttl: 64,
    class: 0,
    flags: 0x10,
};

/// A packet with its checksums, whose payload starts at byte `from` of the flow.
fn packet(flow: &Flow, from: u32, payload: &[u8]) -> Vec<u8> {
    let mut transport = flow.port.to_be_bytes().to_vec();
    transport.extend([0, 80]);
    if flow.protocol == TCP {
        transport.extend(from.to_be_bytes());
        transport.extend([0, 0, 0, 9, 0x80, flow.flags, 1, 0, 0, 0, 0, 0]);
        transport.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        transport.extend(((8 + payload.len()) as u16).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend(payload);
    let length = transport.len();
    let mut packet = if flow.v6 {
        let mut header = vec![0x60, flow.class << 4, 0, 0];
        header.extend((length as u16).to_be_bytes());
        header.extend([flow.protocol, flow.ttl]);
        header.extend([[0xfd; 16], [0xfe; 16]].concat());
        header
    } else {
        let mut header = vec![0x45, flow.class];
        header.extend(((20 + length) as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, flow.ttl, flow.protocol, 0, 0]);
        header.extend([10, 32, 1, 1, 10, 32, 2, 1]);
        set_ipv4_header(&mut header);
        header
    };
    let at = packet.len();
    packet.extend(transport);
    let field = at + if flow.protocol == TCP { 16 } else { 6 };
    let checksum = !fold(sum(
        &packet[at..],
        pseudo(addresses(&packet), flow.protocol, length),
    ));
    packet[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
    packet
}

/// What the host hands over for a payload that it leaves to be cut at `size`.
fn super_packet(flow: &Flow, payload: &[u8], size: u16) -> (Vnet, Vec<u8>) {
    let packet = packet(flow, 77, payload);
    let transport = if flow.v6 { 40 } else { 20 };
    let vnet = Vnet {
        flags: NEEDS_CSUM,
        gso_type: match (flow.protocol, flow.v6) {
            (UDP, _) => GSO_UDP_L4,
            (_, false) => GSO_TCPV4,
            (_, true) => GSO_TCPV6,
        },
        hdr_len: 0,
        gso_size: size,
        csum_start: transport,
        csum_offset: if flow.protocol == TCP { 16 } else { 6 },
    };
    (vnet, packet)
}

fn cut(vnet: Vnet, packet: &[u8]) -> Vec<Vec<u8>> {
    let segments = Segments::of(vnet, packet).unwrap().unwrap();
    let mut cut = Vec::new();
    for number in 0..segments.count() {
        let mut out = vec![0xee; segments.longest()];
        let len = segments.write(number, &mut out);
        out.truncate(len);
        cut.push(out);
    }
    cut
}

/// What is written to the host for the packets: headers, and packets or super-packets.
fn joined(packets: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>)> {
    let mut arena = Vec::new();
    let mut batch = Batch::default();
    let mut places = Vec::new();
    for packet in packets {
        places.push((arena.len(), packet.len()));
        arena.extend(packet);
    }
    for (start, len) in places {
        batch.push(&arena, start, len, ALL);
    }
    let mut writes = Vec::new();
    for number in 0..batch.writes() {
        let write = batch.write(number, &mut arena);
        let mut packet = Vec::new();
        for (start, len) in write.pieces() {
            packet.extend(&arena[start..start + len]);
        }
        writes.push((write.vnet, packet));
    }
    writes
}

fn flows() -> impl Strategy<Value = Flow> {
    (any::<bool>(), any::<bool>(), 1_u16..5).prop_map(|(v6, tcp, port)| Flow {
        v6,
        protocol: if tcp { TCP } else { UDP },
        port,
        ..FLOW
    })
}

proptest! {
    #[test]
    fn what_is_cut_is_what_would_have_been_sent_and_comes_together_again(
        flow in flows(),
        payload in prop::collection::vec(any::<u8>(), 2..9000),
        size in 400_u16..1400,
    ) {
        let (vnet, whole) = super_packet(&flow, &payload, size);
        let pieces = cut(vnet, &whole);
        let wanted: Vec<Vec<u8>> = payload
            .chunks(size.into())
            .enumerate()
            .map(|(n, part)| {
                let mut one = packet(&flow, 77 + n as u32 * u32::from(size), part);
                if !flow.v6 {
                    one[4..6].copy_from_slice(&(n as u16).to_be_bytes());
                    set_ipv4_header(&mut one[..20]);
                }
                one
            })
            .collect();
        prop_assert_eq!(&pieces, &wanted);
        let writes = joined(&pieces);
        prop_assert_eq!(writes.len(), 1);
        let (again, packet) = &writes[0];
        if pieces.len() == 1 {
            prop_assert_eq!(packet, &pieces[0]);
        } else {
            prop_assert_eq!(cut(*again, packet), pieces);
        }
    }

    #[test]
    fn interleaved_flows_keep_every_packet_and_each_its_order(
        flow_and_len in prop::collection::vec((flows(), 1_usize..700), 1..80),
    ) {
        let mut sent = std::collections::HashMap::<_, u32>::new();
        let mut packets = Vec::new();
        for (flow, len) in flow_and_len {
            let from = sent.entry((flow.v6, flow.protocol, flow.port)).or_default();
            packets.push(packet(&flow, *from, &vec![*from as u8; len]));
            *from += len as u32;
        }
        let mut out = Vec::new();
        for (vnet, packet) in joined(&packets) {
            match Segments::of(vnet, &packet).unwrap() {
                None => out.push(packet),
                Some(_) => out.extend(cut(vnet, &packet)),
            }
        }
        // The numbers of IPv4 are the cut's own where nothing may be fragmented.
        for packet in out.iter_mut().filter(|packet| packet[0] >> 4 == 4) {
            packet[4..6].fill(0);
            set_ipv4_header(&mut packet[..20]);
        }
        let key = |packet: &[u8]| {
            let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
            (packet[0] >> 4, packet[9], packet[6], packet[at..at + 2].to_vec())
        };
        for packet in &packets {
            let one = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|other| key(other) == key(packet)).cloned().collect()
            };
            prop_assert_eq!(one(&out), one(&packets));
        }
        prop_assert_eq!(out.len(), packets.len());
    }

    #[test]
    fn no_header_of_the_host_panics_the_cutter(
        header in any::<[u8; 10]>(),
        bytes in prop::collection::vec(any::<u8>(), 1..200),
    ) {
        let vnet = Vnet::read(header);
        prop_assert_eq!(vnet.bytes(), header);
        if let Ok(Some(segments)) = Segments::of(vnet, &bytes) {
            let mut out = vec![0; segments.longest()];
            for number in 0..segments.count() {
                segments.write(number, &mut out);
            }
        }
        let _ = finish(vnet, &mut bytes.clone());
        let _ = joined(&[bytes]);
    }
}

/// Whether the second packet joins the first.
fn join(first: &[u8], second: &[u8]) -> bool {
    joined(&[first.to_vec(), second.to_vec()]).len() == 1
}

#[test]
fn only_what_a_cut_would_give_back_is_joined() {
    let first = packet(&FLOW, 0, &[1; 500]);
    let second = |flow: &Flow| packet(flow, 500, &[2; 500]);
    assert!(join(&first, &second(&FLOW)));
    assert!(
        join(
            &first,
            &second(&Flow {
                flags: 0x18,
                ..FLOW
            })
        ),
        "a push ends"
    );
    for other in [
        Flow { port: 5001, ..FLOW },
        Flow { ttl: 63, ..FLOW },
        Flow { class: 1, ..FLOW },
        Flow {
            class: 0xb8,
            ..FLOW
        },
        Flow {
            flags: 0x90,
            ..FLOW
        },
        Flow {
            flags: 0x11,
            ..FLOW
        },
        Flow {
            flags: 0x12,
            ..FLOW
        },
    ] {
        assert!(!join(&first, &second(&other)), "{other:?}");
    }
    assert!(!join(&first, &packet(&FLOW, 501, &[2; 500])), "a gap");
    assert!(
        !join(&first, &packet(&FLOW, 500, &[2; 501])),
        "a longer one"
    );
    assert!(!join(
        &packet(
            &Flow {
                flags: 0x18,
                ..FLOW
            },
            0,
            &[1; 500]
        ),
        &second(&FLOW)
    ));
    let mut wrong = second(&FLOW);
    wrong[100] ^= 1;
    assert!(!join(&first, &wrong), "a wrong checksum of the second");
    let mut wrong = first.clone();
    wrong[100] ^= 1;
    assert!(
        !join(&wrong, &second(&FLOW)),
        "a wrong checksum of the first"
    );
    let mut fragment = second(&FLOW);
    fragment[6] = 0x20;
    set_ipv4_header(&mut fragment[..20]);
    assert!(!join(&first, &fragment), "a fragment");
    let udp = Flow {
        protocol: UDP,
        ..FLOW
    };
    let mut bare = packet(&udp, 0, &[2; 500]);
    bare[26..28].fill(0);
    assert!(!join(&bare, &bare), "UDP without a checksum");
}

#[test]
fn a_checksum_that_the_host_left_out_is_made() {
    let udp = Flow {
        protocol: UDP,
        ..FLOW
    };
    for flow in [FLOW, udp] {
        let whole = packet(&flow, 0, &[3; 333]);
        let field = if flow.protocol == TCP { 36 } else { 26 };
        let mut partial = whole.clone();
        let sum = fold(pseudo(addresses(&whole), flow.protocol, whole.len() - 20));
        partial[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            csum_start: 20,
            csum_offset: field as u16 - 20,
            ..Vnet::default()
        };
        finish(vnet, &mut partial).unwrap();
        assert_eq!(partial, whole);
        let beyond = Vnet {
            csum_start: 400,
            ..vnet
        };
        assert_eq!(finish(beyond, &mut partial), Err(Malformed));
    }
}

#[test]
fn the_flags_that_a_network_device_moves_are_where_it_puts_them() {
    let flow = Flow {
        flags: 0x10 | 0x80 | 0x08 | 0x01,
        ..FLOW
    };
    let (vnet, whole) = super_packet(&flow, &[0; 1000], 400);
    let vnet = Vnet {
        gso_type: vnet.gso_type | super::vnet::GSO_ECN,
        ..vnet
    };
    let flags: Vec<u8> = cut(vnet, &whole).iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
}

#[test]
fn nothing_goes_past_a_fragment() {
    for v6 in [false, true] {
        let flow = Flow {
            protocol: UDP,
            v6,
            ..FLOW
        };
        let whole = |byte: u8| packet(&flow, 0, &[byte; 100]);
        let mut fragment = whole(2);
        if v6 {
            fragment[6] = 44;
        } else {
            fragment[6] = 0x20;
            set_ipv4_header(&mut fragment[..20]);
        }
        let packets = [whole(1), fragment, whole(3)];
        let written: Vec<Vec<u8>> = joined(&packets)
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect();
        assert_eq!(written, packets, "IPv6: {v6}");
    }
}

#[test]
fn a_packet_whose_header_is_damaged_is_not_made_whole() {
    let flow = Flow {
        protocol: UDP,
        ..FLOW
    };
    let good = || packet(&flow, 0, &[1; 100]);
    let mut bad = good();
    bad[10] ^= 0xff;
    let packets = [good(), bad, good()];
    let writes = joined(&packets);
    assert!(
        writes.iter().any(|(_, bytes)| *bytes == packets[1]),
        "{writes:?}"
    );
}
