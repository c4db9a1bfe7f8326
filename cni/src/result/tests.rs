use super::*;

fn sample() -> AddResult {
    let route = |dst: &str, gw: &str| {
        ResultRoute::from(Route {
            dst: dst.parse().unwrap(),
            gw: Some(gw.parse().unwrap()),
        })
    };
    let ip = |address: &str, gateway: &str| Ip {
        address: address.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        interface: Some(1),
    };
    AddResult {
        interfaces: vec![
            Interface {
                name: "weft3a1f".into(),
                mac: Some("02:00:00:00:00:01".into()),
                mtu: Some(1420),
                ..Interface::default()
            },
            Interface {
                name: "eth0".into(),
                mac: Some("02:00:00:00:00:02".into()),
                mtu: Some(1420),
                sandbox: Some("/run/netns/c1".into()),
                ..Interface::default()
            },
        ],
        ips: vec![
            ip("10.32.7.2/32", "169.254.1.1"),
            ip("fd00:7::2/128", "fe80::1"),
        ],
        routes: vec![
            route("0.0.0.0/0", "169.254.1.1"),
            ResultRoute {
                mtu: Some(1400),
                priority: Some(5),
                ..route("::/0", "fe80::1")
            },
        ],
        dns: Dns {
            nameservers: vec!["10.32.7.1".parse().unwrap()],
            search: vec!["weft.local".into()],
            ..Dns::default()
        },
    }
}

const OLD: &str = r#"{
  "cniVersion": "VERSION",
  "dns": {"nameservers": ["10.32.7.1"], "search": ["weft.local"]},
  "interfaces": [
    {"mac": "02:00:00:00:00:01", "name": "weft3a1f"},
    {"mac": "02:00:00:00:00:02", "name": "eth0", "sandbox": "/run/netns/c1"}],
  "ips": [
    {"address": "10.32.7.2/32", "gateway": "169.254.1.1", "interface": 1, "version": "4"},
    {"address": "fd00:7::2/128", "gateway": "fe80::1", "interface": 1, "version": "6"}],
  "routes": [
    {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
    {"dst": "::/0", "gw": "fe80::1"}]
}"#;

const V1_0: &str = r#"{
  "cniVersion": "1.0.0",
  "dns": {"nameservers": ["10.32.7.1"], "search": ["weft.local"]},
  "interfaces": [
    {"mac": "02:00:00:00:00:01", "name": "weft3a1f"},
    {"mac": "02:00:00:00:00:02", "name": "eth0", "sandbox": "/run/netns/c1"}],
  "ips": [
    {"address": "10.32.7.2/32", "gateway": "169.254.1.1", "interface": 1},
    {"address": "fd00:7::2/128", "gateway": "fe80::1", "interface": 1}],
  "routes": [
    {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
    {"dst": "::/0", "gw": "fe80::1"}]
}"#;

const V1_1: &str = r#"{
  "cniVersion": "1.1.0",
  "dns": {"nameservers": ["10.32.7.1"], "search": ["weft.local"]},
  "interfaces": [
    {"mac": "02:00:00:00:00:01", "mtu": 1420, "name": "weft3a1f"},
    {"mac": "02:00:00:00:00:02", "mtu": 1420, "name": "eth0", "sandbox": "/run/netns/c1"}],
  "ips": [
    {"address": "10.32.7.2/32", "gateway": "169.254.1.1", "interface": 1},
    {"address": "fd00:7::2/128", "gateway": "fe80::1", "interface": 1}],
  "routes": [
    {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
    {"dst": "::/0", "gw": "fe80::1", "mtu": 1400, "priority": 5}]
}"#;

#[test]
fn a_result_is_the_object_of_each_version() {
    for (version, golden) in [
        (SpecVersion::V0_3_1, OLD.replace("VERSION", "0.3.1")),
        (SpecVersion::V0_4_0, OLD.replace("VERSION", "0.4.0")),
        (SpecVersion::V1_0_0, V1_0.to_owned()),
        (SpecVersion::V1_1_0, V1_1.to_owned()),
    ] {
        let golden: Value = serde_json::from_str(&golden).unwrap();
        assert_eq!(sample().to_json(version), golden, "{version}");
    }
}

#[test]
fn a_result_of_each_version_is_read_back() {
    for version in SpecVersion::ALL {
        let back = AddResult::parse(&sample().to_json(version)).unwrap();
        let text = |result: &AddResult| result.to_json(version);
        assert_eq!(text(&back), text(&sample()));
        // What a version cannot say is lost, nothing else.
        assert_eq!(back == sample(), version == SpecVersion::V1_1_0);
    }
}

#[test]
fn what_go_leaves_out_or_writes_as_null_is_empty() {
    for text in [
        "{}",
        r#"{"interfaces":null,"ips":null,"routes":null,"dns":null,"cniVersion":"0.4.0"}"#,
        r#"{"unknown":1,"dns":{}}"#,
    ] {
        let value = serde_json::from_str(text).unwrap();
        assert_eq!(AddResult::parse(&value), Ok(AddResult::default()), "{text}");
    }
}

#[test]
fn a_result_that_makes_no_sense_is_refused() {
    let many = format!(
        r#"{{"interfaces":[{}{{"name":"x"}}]}}"#,
        r#"{"name":"x"},"#.repeat(MOST)
    );
    for text in [
        "[]",
        "7",
        r#"{"ips":[{"address":"10.0.0.1"}]}"#,
        r#"{"ips":[{"address":"10.0.0.1/32","interface":0}]}"#,
        r#"{"ips":[{"address":"10.0.0.1/32","interface":-1}]}"#,
        r#"{"interfaces":[{"mac":"x"}]}"#,
        r#"{"routes":[{"gw":"10.0.0.1"}]}"#,
        &many,
    ] {
        let value = serde_json::from_str(text).unwrap();
        let error = AddResult::parse(&value).unwrap_err();
        assert_eq!(error.code, code::DECODE);
        assert!(error.msg.starts_with("prevResult: "), "{error}");
    }
}

#[test]
fn a_result_behind_another_keeps_its_addresses_on_its_interfaces() {
    let mut both = AddResult {
        interfaces: vec![Interface::default()],
        ..AddResult::default()
    };
    both.extend(sample());
    assert_eq!(both.interfaces.len(), 3);
    assert!(both.ips.iter().all(|ip| ip.interface == Some(2)));
    assert_eq!(both.dns, sample().dns);
}
