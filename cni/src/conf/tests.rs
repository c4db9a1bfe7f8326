use proptest::prelude::*;

use super::*;

fn with(rest: &str) -> Result<NetConf, Error> {
    parse(format!(r#"{{"cniVersion":"1.0.0","name":"weft","type":"weft-cni"{rest}}}"#).as_bytes())
}

#[test]
fn the_shortest_configuration_has_defaults() {
    assert_eq!(
        with("").unwrap(),
        NetConf {
            version: SpecVersion::V1_0_0,
            name: "weft".into(),
            socket: "/run/weft/weft.sock".into(),
            mtu: None,
            dns: Dns::default(),
            workload: None,
            ports: Vec::new(),
            prev_result: None,
            valid_attachments: None,
        }
    );
}

#[test]
fn every_key_of_ours_is_read_and_others_are_let_be() {
    let conf = with(
        r#","socket":"/tmp/s","mtu":1400,"ipam":{},"ipMasq":true,"capabilities":{"mac":true},
        "runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":81}],"mac":"x"},"somebody's":{"own":[1]},
        "dns":{"nameservers":["10.32.0.1"],"search":["a.b"]},
        "args":{"cni":{"labels":[]},"weft":{"name":"web"}},
        "prevResult":{"ips":[{"address":"10.32.0.2/32"}]},
        "cni.dev/valid-attachments":[
            {"containerID":"c1","ifname":"eth0"},
            {"containerID":"not ours","ifname":"eth0"}]"#,
    )
    .unwrap();
    assert_eq!(conf.socket, PathBuf::from("/tmp/s"));
    assert_eq!(conf.mtu, Some(1400));
    assert_eq!(conf.ports[0].to_string(), "tcp 80");
    assert_eq!(conf.dns.search, ["a.b"]);
    assert_eq!(conf.workload.as_deref(), Some("web"));
    assert_eq!(conf.prev_result.unwrap().ips.len(), 1);
    let valid = conf.valid_attachments.unwrap();
    assert_eq!(valid.len(), 1);
    assert_eq!(valid[0].container_id.as_str(), "c1");
}

#[test]
fn null_is_absent() {
    let nothing = with(
        r#","socket":null,"mtu":null,"ipam":null,"dns":null,"args":null,"prevResult":null,
        "cni.dev/valid-attachments":null"#,
    );
    assert_eq!(nothing, with(""));
}

#[test]
fn a_wrong_key_is_named_with_what_is_allowed() {
    for (rest, key) in [
        (r#","socket":7"#, "socket"),
        (r#","socket":"relative""#, "socket"),
        (r#","socket":"/\u0000""#, "socket"),
        (r#","mtu":"1400""#, "mtu"),
        (r#","mtu":100"#, "mtu"),
        (r#","mtu":-1"#, "mtu"),
        (r#","mtu":65536"#, "mtu"),
        (r#","dns":{"nameservers":["no address"]}"#, "dns"),
        (r#","args":[]"#, "args"),
        (r#","args":{"weft":[]}"#, "args.weft.name"),
        (r#","args":{"weft":{"name":7}}"#, "args.weft.name"),
        (
            r#","cni.dev/valid-attachments":{}"#,
            "cni.dev/valid-attachments",
        ),
        (
            r#","cni.dev/valid-attachments":[{"ifname":"eth0"}]"#,
            "cni.dev/valid-attachments",
        ),
    ] {
        let error = with(rest).unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG, "{rest}");
        let start = format!("the network configuration's {key:?} is wrong: allowed is ");
        assert!(error.msg.starts_with(&start), "{error}");
    }
}

#[test]
fn what_is_wrong_as_a_whole_has_the_specifications_code() {
    for (text, number) in [
        ("", code::DECODE),
        ("{", code::DECODE),
        ("[]", code::DECODE),
        ("{}", code::INCOMPATIBLE_VERSION),
        (r#"{"cniVersion":7}"#, code::INVALID_CONFIG),
        (
            r#"{"cniVersion":"0.2.0","name":"weft"}"#,
            code::INCOMPATIBLE_VERSION,
        ),
        (r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG),
        (
            r#"{"cniVersion":"1.0.0","name":"../x"}"#,
            code::INVALID_CONFIG,
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"weft","ipam":{"type":"host-local"}}"#,
            code::UNSUPPORTED_FIELD,
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"weft","prevResult":7}"#,
            code::DECODE,
        ),
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap_err().code, number, "{text}");
    }
}

#[test]
fn the_version_is_found_in_what_is_wrong_otherwise() {
    assert_eq!(
        version_text(br#"{"cniVersion":"0.4.0","name":7}"#).as_deref(),
        Some("0.4.0")
    );
    assert_eq!(version_text(b""), None);
}

/// JSON of any shape, under keys that mean something.
fn json() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "cniVersion",
        "name",
        "mtu",
        "socket",
        "dns",
        "args",
        "weft",
        "prevResult",
        "ips",
        "cni.dev/valid-attachments",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "[a-z0-9./]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("\"1.0.0\"".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        let pair =
            (keys.clone(), inner.clone()).prop_map(|(key, value)| format!("{key:?}:{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec(pair, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&bytes);
        let _ = version_text(&bytes);
    }

    #[test]
    fn random_json_does_no_harm(text in json(), rest in json()) {
        let _ = parse(text.as_bytes());
        let _ = with(&format!(r#","prevResult":{text},"args":{rest}"#));
        let _ = with(&format!(r#","dns":{text},"cni.dev/valid-attachments":{rest}"#));
    }
}
