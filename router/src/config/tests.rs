//! Settings together: which place wins, what is refused and how that is said.

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Settings, String> {
    Settings::from_toml(text, Path::new("/etc/weft/weft.toml")).map_err(|e| e.to_string())
}

#[test]
fn a_bad_file_is_refused_naming_the_file_the_key_and_what_is_allowed() {
    let check = |text: &str, wants: &[&str]| {
        let error = parse(text).unwrap_err();
        for want in wants.iter().chain(&["/etc/weft/weft.toml"]) {
            assert!(error.contains(want), "{want:?} is not in: {error}");
        }
    };
    check("prot = 1", &["prot", "unknown field", "`port`"]);
    check("port = 0", &["port = 0", "from 1 to 65535"]);
    check(
        "port = 'x'",
        &["port = 'x'", "whole number from 1 to 65535"],
    );
    check("node-prefix = 30", &["node-prefix = 30", "from 17 to 28"]);
    check(
        "tunnel = 'fast'",
        &["tunnel = 'fast'", "auto", "kernel", "userspace"],
    );
    check("name = 'a_b'", &["name = 'a_b'", "DNS name"]);
    check(
        "underlay-mtu = 100",
        &["underlay-mtu = 100", "from 1340 to 65535"],
    );
    check(
        "dns-upstream = ['x']",
        &["dns-upstream = ['x']", "IP or IP:PORT"],
    );
    check("dns-domain = '-'", &["dns-domain = '-'", "no domain"]);
    check("pool = '10.0.0.0/99'", &["pool = '10.0.0.0/99'"]);
    check("port = ", &["line 1"]);
}

fn build(settings: Settings, join: Option<&str>) -> Result<Config, String> {
    Config::build(settings, "Host_1.example.com", SOCKET.into(), join).map_err(|e| e.to_string())
}

#[test]
fn flags_win_over_the_file_and_that_over_the_defaults() {
    let file = parse("port = 7000\ntunnel = 'userspace'\nname = 'file'").unwrap();
    let flags = Settings {
        name: Some("flag".parse().unwrap()),
        ..Settings::default()
    };
    let config = build(flags.over(file), None).unwrap();
    assert_eq!((config.name.as_str(), config.port), ("flag", 7000));
    assert_eq!(config.tunnel.to_string(), "userspace");
    assert_eq!(config.pool.to_string(), "10.32.0.0/12");
    assert_eq!(
        build(Settings::default(), None).unwrap().name.as_str(),
        "host-1"
    );
}

#[test]
fn a_bad_join_line_is_refused_without_showing_the_secret() {
    for line in [
        "weft1.SECRET",
        "weft1.SECRET@host",
        "@host",
        "weft1.SECRET@",
        "",
    ] {
        let error = build(Settings::default(), Some(line)).unwrap_err();
        assert!(
            error.starts_with("join") && !error.contains("SECRET"),
            "{error}"
        );
    }
}

#[test]
fn a_pool_with_too_few_or_too_many_shares_is_refused() {
    let with = |pool: &str, node_prefix| {
        let settings = Settings {
            pool: Some(pool.parse().unwrap()),
            node_prefix: Some(node_prefix),
            ..Settings::default()
        };
        build(settings, None)
    };
    assert!(with("10.0.0.0/8", 24).is_ok());
    assert!(with("10.0.0.0/8", 25).unwrap_err().contains("/9 to /24"));
    assert!(with("10.0.0.0/24", 24).unwrap_err().contains("shares"));
}

#[test]
fn what_is_refused_after_the_places_were_merged_names_them() {
    let check = |text: &str, wants: &[&str]| {
        let error = build(parse(text).unwrap(), None).unwrap_err();
        for want in wants {
            assert!(error.contains(want), "{want:?} is not in: {error}");
        }
    };
    check(
        "pool = '10.33.1.5/12'",
        &[
            "10.33.1.5/12",
            "10.32.0.0/12",
            "--pool",
            "WEFT_POOL",
            "`pool`",
        ],
    );
    check("name = 'a.b'", &["a.b", "one DNS label", "WEFT_NAME"]);
    check(
        "kubernetes = true\ncluster-cidr = ['10.0.0.1/8']",
        &["10.0.0.0/8", "WEFT_CLUSTER_CIDR"],
    );
    check(
        "kubernetes = true\npool6 = 'fd00::/40'",
        &["fd00::/40", "/48 to /63"],
    );
    check(
        "endpoint = ['a b']",
        &["a b", "--endpoint", "WEFT_ENDPOINT", "`endpoint`"],
    );
}

#[test]
fn a_node_of_a_cluster_has_its_nodes_name_and_no_join_line() {
    let settings = || parse("kubernetes = true\nname = 'node-1.example.com'").unwrap();
    let config = build(settings(), None).unwrap();
    assert_eq!(config.name.as_str(), "node-1.example.com");
    let kubernetes = config.kubernetes.unwrap();
    assert!(kubernetes.cluster_cidr.is_empty() && !kubernetes.take_over);
    let by_host = build(parse("kubernetes = true").unwrap(), None).unwrap();
    assert_eq!(by_host.name.as_str(), "host-1.example.com");
    let error = build(settings(), Some("weft1.SECRET@host")).unwrap_err();
    assert!(
        error.contains("--kubernetes") && !error.contains("SECRET"),
        "{error}"
    );
}
