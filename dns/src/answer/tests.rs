//! Questions and what the zone says to them, as tables.

use super::*;
use crate::zone::{Place, ZoneBuilder};

fn zone() -> Zone {
    let mut builder = ZoneBuilder::new("weft.local")
        .unwrap()
        .serial(7)
        .ranges([
            "10.32.0.0/12".parse().unwrap(),
            "fd57::/48".parse().unwrap(),
        ])
        .servers(["10.32.0.1".parse().unwrap()]);
    let adds: [(&str, &[&str], Place); 6] = [
        ("web", &["10.32.0.2", "fd57::2"], Place::Local),
        ("web", &["10.33.0.2", "10.34.0.2"], Place::Remote),
        ("db.prod", &["10.33.0.9"], Place::Remote),
        ("alias", &["10.33.0.9"], Place::Remote),
        ("six", &["fd57::6"], Place::Remote),
        ("host", &["192.0.2.7"], Place::Remote),
    ];
    for (name, addresses, place) in adds {
        let addresses: Vec<_> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        builder.add(name, &addresses, place).unwrap();
    }
    builder.build()
}

fn query(name: &str, kind: &str) -> Query {
    let kind = match kind.strip_prefix("TYPE") {
        Some(code) => RecordType::from(code.parse::<u16>().unwrap()),
        None => kind.parse().unwrap(),
    };
    Query::query(Name::from_ascii(name).unwrap(), kind)
}

fn text(answer: &Answer) -> String {
    match answer {
        Answer::Records(records) => {
            let data: Vec<_> = records.iter().map(|it| it.data.to_string()).collect();
            data.join(" ")
        }
        Answer::NoData(soa) => format!("nodata {}", soa.name),
        Answer::NxDomain(soa) => format!("nxdomain {}", soa.name),
        Answer::Refused => "refused".into(),
        Answer::NotOurs => "not ours".into(),
    }
}

#[test]
fn the_zone_answers_as_the_standards_say() {
    let cases = [
        ("web.weft.local.", "A", "10.32.0.2 10.33.0.2 10.34.0.2"),
        ("WEB.Weft.LOCAL.", "A", "10.32.0.2 10.33.0.2 10.34.0.2"),
        ("web.weft.local.", "AAAA", "fd57::2"),
        ("web.weft.local.", "ANY", "10.32.0.2 10.33.0.2 10.34.0.2"),
        ("six.weft.local.", "ANY", "fd57::6"),
        // A name with addresses of the other family only.
        ("db.prod.weft.local.", "AAAA", "nodata weft.local."),
        ("six.weft.local.", "A", "nodata weft.local."),
        // Types that no name of ours has, known and unknown.
        ("web.weft.local.", "MX", "nodata weft.local."),
        ("web.weft.local.", "CNAME", "nodata weft.local."),
        ("web.weft.local.", "HTTPS", "nodata weft.local."),
        ("web.weft.local.", "TYPE65280", "nodata weft.local."),
        ("web.weft.local.", "SOA", "nodata weft.local."),
        // An empty non-terminal exists.
        ("prod.weft.local.", "A", "nodata weft.local."),
        ("prod.weft.local.", "ANY", "nodata weft.local."),
        ("nobody.weft.local.", "A", "nxdomain weft.local."),
        ("below.web.weft.local.", "A", "nxdomain weft.local."),
        ("*.weft.local.", "A", "nxdomain weft.local."),
        // The top of the zone.
        ("weft.local.", "A", "nodata weft.local."),
        ("weft.local.", "NS", "ns.dns.weft.local."),
        (
            "weft.local.",
            "SOA",
            "ns.dns.weft.local. hostmaster.weft.local. 7 7200 1800 86400 5",
        ),
        (
            "weft.local.",
            "ANY",
            "ns.dns.weft.local. hostmaster.weft.local. 7 7200 1800 86400 5",
        ),
        ("ns.dns.weft.local.", "A", "10.32.0.1"),
        ("dns.weft.local.", "A", "nodata weft.local."),
        // Other names, near and far.
        ("local.", "A", "not ours"),
        (".", "NS", "not ours"),
        ("xweft.local.", "A", "not ours"),
        ("web.weft.local.example.", "A", "not ours"),
    ];
    let zone = zone();
    for (name, kind, want) in cases {
        let got = text(&answer(&zone, &query(name, kind), 0));
        assert_eq!(got, want, "{name} {kind}");
    }
}

#[test]
fn reverse_names_of_the_ranges_are_ours_to_the_last() {
    let six = "0.0.0.0.0.0.0.0.0.0.7.5.d.f.ip6.arpa.";
    let apex6 = "0.0.0.0.0.0.0.0.7.5.d.f.ip6.arpa.";
    let ptr6 = format!("6.{}0.0.0.0.0.0.0.0.0.{six}", "0.".repeat(8));
    let cases = [
        ("2.0.32.10.in-addr.arpa.", "PTR", "web.weft.local."),
        ("2.0.32.10.IN-ADDR.arpa.", "ANY", "web.weft.local."),
        ("2.0.32.10.in-addr.arpa.", "A", "nodata 32.10.in-addr.arpa."),
        // Every name of a shared address.
        (
            "9.0.33.10.in-addr.arpa.",
            "PTR",
            "alias.weft.local. db.prod.weft.local.",
        ),
        (
            "77.0.32.10.in-addr.arpa.",
            "PTR",
            "nxdomain 32.10.in-addr.arpa.",
        ),
        (
            "x.2.0.32.10.in-addr.arpa.",
            "PTR",
            "nxdomain 32.10.in-addr.arpa.",
        ),
        (
            "02.0.32.10.in-addr.arpa.",
            "PTR",
            "nxdomain 32.10.in-addr.arpa.",
        ),
        // Between the top of the zone and an address.
        ("0.32.10.in-addr.arpa.", "PTR", "nodata 32.10.in-addr.arpa."),
        (
            "9.32.10.in-addr.arpa.",
            "PTR",
            "nxdomain 32.10.in-addr.arpa.",
        ),
        ("40.10.in-addr.arpa.", "PTR", "nodata 40.10.in-addr.arpa."),
        ("40.10.in-addr.arpa.", "NS", "ns.dns.weft.local."),
        // An address of the zone outside its ranges, and its neighbour.
        ("7.2.0.192.in-addr.arpa.", "PTR", "host.weft.local."),
        ("8.2.0.192.in-addr.arpa.", "PTR", "not ours"),
        ("10.in-addr.arpa.", "SOA", "not ours"),
        ("1.1.1.1.in-addr.arpa.", "PTR", "not ours"),
        (&ptr6, "PTR", "six.weft.local."),
        (six, "PTR", "nodata 0.0.0.0.0.0.0.0.7.5.d.f.ip6.arpa."),
        (apex6, "NS", "ns.dns.weft.local."),
    ];
    let zone = zone();
    for (name, kind, want) in cases {
        let got = text(&answer(&zone, &query(name, kind), 0));
        assert_eq!(got, want, "{name} {kind}");
    }
}

#[test]
fn this_nodes_addresses_stay_first_while_each_group_rotates() {
    let mut builder = ZoneBuilder::new("weft.local").unwrap();
    let here = ["10.32.0.1".parse().unwrap(), "10.32.0.2".parse().unwrap()];
    let there = ["10.33.0.1", "10.33.0.2", "10.33.0.3"].map(|it| it.parse().unwrap());
    builder.add("web", &there, Place::Remote).unwrap();
    builder.add("web", &here, Place::Local).unwrap();
    let zone = builder.build();
    let order = |turn| text(&answer(&zone, &query("web.weft.local.", "A"), turn));
    assert_eq!(
        order(0),
        "10.32.0.1 10.32.0.2 10.33.0.1 10.33.0.2 10.33.0.3"
    );
    assert_eq!(
        order(1),
        "10.32.0.2 10.32.0.1 10.33.0.2 10.33.0.3 10.33.0.1"
    );
    assert_eq!(
        order(2),
        "10.32.0.1 10.32.0.2 10.33.0.3 10.33.0.1 10.33.0.2"
    );
    assert_eq!(order(6), order(0));
    assert_eq!(order(usize::MAX).len(), order(0).len());
}

#[test]
fn our_names_have_no_other_class() {
    let zone = zone();
    for (name, class, want) in [
        ("web.weft.local.", DNSClass::CH, "refused"),
        ("9.0.33.10.in-addr.arpa.", DNSClass::HS, "refused"),
        ("six.weft.local.", DNSClass::ANY, "fd57::6"),
        ("version.bind.", DNSClass::CH, "not ours"),
    ] {
        let mut query = query(name, "AAAA");
        query.set_query_class(class);
        assert_eq!(text(&answer(&zone, &query, 0)), want, "{name} {class}");
    }
}

#[test]
fn more_addresses_than_a_message_holds_are_cut_to_a_rotating_part() {
    let mut builder = ZoneBuilder::new("weft.local").unwrap();
    let many: Vec<IpAddr> = (0..9000u32)
        .map(|at| IpAddr::from((0x0a20_0000 + at).to_be_bytes()))
        .collect();
    builder.add("many", &many, Place::Remote).unwrap();
    let zone = builder.build();
    let first = |turn| match answer(&zone, &query("many.weft.local.", "A"), turn) {
        Answer::Records(records) => {
            assert!(records.len() > 1000 && records.len() < 9000);
            records[0].data.to_string()
        }
        other => panic!("{other:?}"),
    };
    assert_ne!(first(0), first(1));
}
