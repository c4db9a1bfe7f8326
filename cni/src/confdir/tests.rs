use proptest::prelude::*;

use super::*;

const FLANNEL: &str = r#"{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true}}, {"type": "portmap"}]}"#;
const CRIO: &str = r#"{"name": "crio", "plugins": [{"type": "bridge", "bridge": "cni0"}]}"#;

fn ours() -> Conflist {
    Conflist {
        name: "weft".into(),
        socket: None,
        mtu: None,
        behind: Vec::new(),
    }
}

fn kinds(files: &[(&str, &str)]) -> Vec<Kind> {
    let files = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), Ok(text.as_bytes().to_vec())));
    let networks = survey(files.collect());
    networks.into_iter().map(|network| network.kind).collect()
}

fn in_the_way(files: &[(&str, &str)]) -> Vec<String> {
    let files = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), Ok(text.as_bytes().to_vec())));
    obstacles(survey(files.collect()))
        .into_iter()
        .map(|network| network.file)
        .collect()
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn each_file_is_known_for_what_it_is() {
    let flannel = Kind::Other {
        network: "cbr0".into(),
        plugins: vec!["flannel".into(), "portmap".into()],
    };
    let ours = ours().render();
    for (name, text, want) in [
        ("10-flannel.conflist", FLANNEL, flannel),
        ("05-weft.conflist", ours.as_str(), Kind::Ours),
        (
            "99-loopback.conf",
            r#"{"type": "loopback"}"#,
            Kind::Loopback,
        ),
        ("100-crio-bridge.conflist", CRIO, Kind::Stock),
        (
            "87-podman-bridge.conflist",
            r#"{"name": "x", "plugins": [{"type": "bridge", "bridge": "cni-podman0"}]}"#,
            Kind::Stock,
        ),
        (
            "nerdctl-bridge.conflist",
            r#"{"name": "bridge", "nerdctlID": "1", "plugins": [{"type": "bridge"}]}"#,
            Kind::Stock,
        ),
        ("00-multus.conf", r#"{"type": "multus-shim"}"#, Kind::Meta),
    ] {
        assert_eq!(kinds(&[(name, text)]), [want], "{name}");
    }
    for (name, text) in [
        ("a.conf", ""),
        ("a.conf", "{}"),
        ("a.conflist", r#"{"type": "ptp"}"#),
        ("a.conflist", r#"{"plugins": []}"#),
        ("a.json", "[1]"),
    ] {
        let kind = kinds(&[(name, text)]);
        assert!(
            matches!(kind[..], [Kind::Broken { .. }]),
            "{text}: {kind:?}"
        );
    }
}

#[test]
fn files_that_no_runtime_looks_at_are_nothing_to_us() {
    let names = [
        "10-a.conflist.bak",
        "README",
        "10-flannel.conflist.replaced-by-weft",
    ];
    for name in names {
        assert_eq!(kinds(&[(name, FLANNEL)]), []);
    }
}

#[test]
fn another_cluster_network_is_in_the_way_wherever_it_sorts() {
    for name in ["00-a.conflist", "10-flannel.conflist", "99-z.conflist"] {
        assert_eq!(in_the_way(&[(name, FLANNEL)]), [name]);
    }
}

#[test]
fn what_a_host_has_anyway_is_in_the_way_only_before_ours() {
    for (text, extension) in [
        (CRIO, "conflist"),
        ("broken", "conf"),
        (r#"{"type": "loopback"}"#, "conf"),
    ] {
        let (before, behind) = (format!("00-a.{extension}"), format!("99-a.{extension}"));
        assert_eq!(
            in_the_way(&[(&before, text), (&behind, text)]),
            [before.as_str()]
        );
    }
    assert!(in_the_way(&[("00-multus.conf", r#"{"type": "multus"}"#)]).is_empty());
}

#[test]
fn another_network_is_refused_by_name_and_nothing_is_written() {
    let dir = directory(&[("10-flannel.conflist", FLANNEL), ("99-loopback.conf", "{}")]);
    let error = take(dir.path(), &ours(), TakeOver::Refuse)
        .unwrap_err()
        .to_string();
    let path = dir.path().display().to_string();
    for want in [
        path.as_str(),
        "10-flannel.conflist",
        "cbr0",
        "flannel, portmap",
        "take-over",
        "remove",
    ] {
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(
        names(dir.path()).unwrap(),
        ["10-flannel.conflist", "99-loopback.conf"]
    );
}

#[test]
fn it_is_moved_aside_when_asked_and_comes_back_as_it_was() {
    let files = [
        ("04-a.conf", "broken"),
        ("10-flannel.conflist", FLANNEL),
        ("99-crio.conflist", CRIO),
    ];
    let dir = directory(&files);
    let taken = take(dir.path(), &ours(), TakeOver::MoveAside).unwrap();
    assert_eq!(taken.installed, Installed::Written);
    let moved: Vec<_> = taken
        .moved
        .iter()
        .map(|network| network.file.as_str())
        .collect();
    assert_eq!(moved, ["04-a.conf", "10-flannel.conflist"]);
    let again = take(dir.path(), &ours(), TakeOver::MoveAside).unwrap();
    assert_eq!(
        (again.installed, again.moved),
        (Installed::AsItWas, Vec::new())
    );

    let back = put_back(dir.path());
    assert_eq!(back.restored, ["04-a.conf", "10-flannel.conflist"]);
    assert!(back.failed.is_empty(), "{:?}", back.failed);
    conflist::remove(dir.path()).unwrap();
    for (name, text) in files {
        assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), text);
    }
    assert_eq!(names(dir.path()).unwrap().len(), files.len());
}

#[test]
fn what_somebody_wrote_again_is_not_overwritten_by_the_old() {
    let dir = directory(&[("10-flannel.conflist", FLANNEL)]);
    take(dir.path(), &ours(), TakeOver::MoveAside).unwrap();
    fs::write(dir.path().join("10-flannel.conflist"), CRIO).unwrap();
    let back = put_back(dir.path());
    assert!(back.restored.is_empty());
    let error = back.failed[0].to_string();
    assert!(
        error.contains("10-flannel.conflist.replaced-by-weft"),
        "{error}"
    );
    let text = fs::read_to_string(dir.path().join("10-flannel.conflist")).unwrap();
    assert_eq!(text, CRIO);
}

#[test]
fn a_directory_that_is_not_there_is_made_and_has_nothing_to_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let net_d = dir.path().join("cni/net.d");
    let back = put_back(&net_d);
    assert!(back.restored.is_empty() && back.failed.is_empty());
    take(&net_d, &ours(), TakeOver::Refuse).unwrap();
    assert_eq!(names(&net_d).unwrap(), [conflist::FILE]);
}

#[test]
fn what_cannot_be_read_is_broken_and_behind_ours_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("90-directory.conf")).unwrap();
    fs::write(
        dir.path().join("91-long.conf"),
        vec![b' '; MOST_BYTES as usize + 1],
    )
    .unwrap();
    take(dir.path(), &ours(), TakeOver::Refuse).unwrap();
}

proptest! {
    #[test]
    fn no_file_panics_us_or_fills_a_log(name in "[a-z0-9-]{1,9}\\.(conf|conflist|json)", text: Vec<u8>) {
        let networks = survey(vec![(name, Ok(text))]);
        let sentence = network::sentence(&networks);
        prop_assert!(sentence.len() < 9000);
    }

    #[test]
    fn no_plugin_named_in_a_file_fills_a_log(types: Vec<String>, network: String) {
        let plugins: Vec<_> = types.iter().map(|each| serde_json::json!({"type": each})).collect();
        let text = serde_json::json!({"name": network, "plugins": plugins}).to_string();
        let networks = survey(vec![("10-a.conflist".into(), Ok(text.into_bytes()))]);
        let sentence = network::sentence(&networks);
        prop_assert!(sentence.len() < 9000 && !sentence.contains(char::is_control));
    }
}
