//! Frames of every kind, and what each is.

use super::*;

fn watch() -> Watch {
    Watch {
        port: 6783,
        pools: vec![
            "10.32.0.0/12".parse().unwrap(),
            "fd00:7ef7::/48".parse().unwrap(),
        ],
        secrets: vec![b"the page".to_vec()],
        hosts: Hosts::Silent,
    }
}

fn v4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.to_be_bytes());
    datagram.extend(to.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

const A: [u8; 4] = [198, 18, 0, 2];
const B: [u8; 4] = [198, 18, 0, 3];
const POD: [u8; 4] = [10, 32, 1, 2];

fn check(bytes: &[u8], segment: Option<usize>, want: &str) {
    let class = classify(Frame { bytes, segment }, &watch());
    let text = match class {
        Class::Plaintext(what) => format!("plaintext: {what}"),
        other => format!("{other:?}"),
    };
    assert_eq!(text, want);
}

fn sealed(kind: u8, length: usize) -> Vec<u8> {
    let mut message = vec![0xa7; length];
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message
}

#[test]
fn a_wireguard_message_is_known_by_type_and_length() {
    let of = |payload: &[u8]| frame(ETH_IPV4, &v4(A, B, UDP, &udp(6783, 6783, payload)));
    check(&of(&sealed(1, 148)), None, "WireGuard");
    check(&of(&sealed(2, 92)), None, "WireGuard");
    check(&of(&sealed(3, 64)), None, "WireGuard");
    check(&of(&sealed(4, 32)), None, "WireGuard");
    let not = "plaintext: UDP 6783 that is not WireGuard's";
    check(&of(&sealed(1, 149)), None, not);
    check(&of(&sealed(5, 148)), None, not);
    check(&of(&sealed(4, 31)), None, not);
    check(&of(b""), None, not);
}

#[test]
fn each_segment_of_a_large_send_is_looked_at() {
    let mut two = sealed(4, 96);
    two.extend(sealed(4, 64));
    let good = frame(ETH_IPV4, &v4(A, B, UDP, &udp(6783, 6783, &two)));
    check(&good, Some(96), "WireGuard");
    two[96] = b'G';
    let bad = frame(ETH_IPV4, &v4(A, B, UDP, &udp(6783, 6783, &two)));
    check(
        &bad,
        Some(96),
        "plaintext: UDP 6783 that is not WireGuard's",
    );
}

#[test]
fn an_address_of_the_mesh_is_plaintext_wherever_it_stands() {
    let ping = frame(ETH_IPV4, &v4(POD, B, ICMP, &[8; 16]));
    check(&ping, None, "plaintext: ICMP with an address of the mesh");
    let sealed = frame(ETH_IPV4, &v4(A, POD, UDP, &udp(6783, 6783, &sealed(4, 64))));
    check(&sealed, None, "plaintext: UDP with an address of the mesh");
    let mut ask = [0; 28];
    ask[24..28].copy_from_slice(&POD);
    check(
        &frame(ETH_ARP, &ask),
        None,
        "plaintext: ARP for an address of the mesh",
    );
    check(&frame(ETH_ARP, &[0; 28]), None, "Noise");
}

#[test]
fn control_that_is_text_is_not_sealed() {
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x1a, 0x7f, 0x90, 0x00]);
    segment[12] = 0x50;
    let of = |payload: &[u8]| {
        let mut whole = segment.clone();
        whole.extend(payload);
        frame(ETH_IPV4, &v4(A, B, TCP, &whole))
    };
    check(&of(b""), None, "Control");
    let noise: Vec<u8> = (0..200u8).map(|n| n.wrapping_mul(97)).collect();
    check(&of(&noise), None, "Control");
    check(
        &of(&[b'{'; 60]),
        None,
        "plaintext: TCP 6783 that carries text",
    );
}

#[test]
fn an_error_is_as_harmless_as_what_it_quotes() {
    let of = |inner: &[u8]| {
        let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
        error.extend(inner);
        frame(ETH_IPV4, &v4(B, A, ICMP, &error))
    };
    check(&of(&v4(A, B, UDP, &udp(6783, 6783, b""))), None, "Noise");
    check(
        &of(&v4(A, B, UDP, &udp(40000, 53, b""))),
        None,
        "plaintext: UDP 40000 to 53",
    );
    check(
        &of(&v4(A, POD, TCP, &[0; 8])),
        None,
        "plaintext: TCP with an address of the mesh",
    );
}

#[test]
fn hosts_with_business_of_their_own_are_noise_and_a_pod_is_not() {
    let watch = Watch {
        hosts: Hosts::Ignored,
        ..watch()
    };
    let class = |source, destination, protocol, payload: &[u8]| {
        let bytes = frame(ETH_IPV4, &v4(source, destination, protocol, payload));
        let frame = Frame {
            bytes: &bytes,
            segment: None,
        };
        classify(frame, &watch)
    };
    let dns = udp(40000, 53, b"");
    assert_eq!(class(A, B, UDP, &dns), Class::Noise);
    assert_eq!(class(A, B, ICMP, &[8; 16]), Class::Noise);
    assert!(matches!(class(A, POD, UDP, &dns), Class::Plaintext(_)));
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    error.extend(v4(A, POD, ICMP, &[8; 16]));
    assert!(matches!(class(B, A, ICMP, &error), Class::Plaintext(_)));
}

#[test]
fn a_secret_is_found_inside_anything() {
    let mut message = sealed(4, 64);
    message[20..28].copy_from_slice(b"the page");
    let whole = frame(ETH_IPV4, &v4(A, B, UDP, &udp(6783, 6783, &message)));
    check(&whole, None, "plaintext: bytes that were to be sealed");
}

proptest::proptest! {
    #[test]
    fn a_secret_is_found_where_the_slow_way_finds_it(
        bytes in proptest::collection::vec(0u8..3, 0..60),
        secret in proptest::collection::vec(0u8..3, 1..4),
    ) {
        let slow = bytes.windows(secret.len()).any(|window| window == &secret[..]);
        proptest::prop_assert_eq!(contains(&bytes, &secret), slow);
    }

    #[test]
    fn no_frame_breaks_it(mut bytes in proptest::collection::vec(0u8.., 0..200), kind in 0usize..4,
                          segment in proptest::option::of(0usize..100)) {
        if bytes.len() > 14 {
            let kinds = [ETH_IPV4, ETH_IPV6, ETH_ARP, 1];
            bytes[12..14].copy_from_slice(&kinds[kind].to_be_bytes());
            bytes[14] = [0x45, 0x60, 0x4f, 0][kind];
        }
        classify(Frame { bytes: &bytes, segment }, &watch());
    }
}
