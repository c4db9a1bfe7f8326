//! The real binary as a runtime runs it, against an agent that is a thread of this test.

mod stage;

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use weft_cni::api::{AddReply, Address, CniRequest, Dns, Empty, Route};
use weft_cni::{Error, code};

use stage::{Stage, receive};

fn reply() -> AddReply {
    AddReply {
        host_ifname: "weft3a1f".into(),
        host_mac: "02:00:00:00:00:01".into(),
        mac: "02:00:00:00:00:02".into(),
        mtu: 1420,
        addresses: vec![Address {
            address: "10.32.7.2/32".parse().unwrap(),
            gateway: "169.254.1.1".parse().unwrap(),
        }],
        routes: vec![Route {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: Some("169.254.1.1".parse().unwrap()),
        }],
        dns: Dns::default(),
    }
}

fn inode(path: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn an_add_hands_the_namespace_over_and_prints_the_result() {
    let stage = Stage::new();
    let requests = stage.answering(|| Ok(reply()));
    let outcome = stage.run("ADD", "1.0.0", json!({"mtu": 1400}));
    assert!(outcome.success, "{outcome:?}");
    assert_eq!(
        outcome.json(),
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "weft3a1f", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": stage.pod.netns()}],
            "ips": [{"address": "10.32.7.2/32", "gateway": "169.254.1.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
            "dns": {},
        })
    );
    let (CniRequest::Add(add), Some(fd)) = requests.recv().unwrap() else {
        panic!("no ADD, or no descriptor");
    };
    assert_eq!(add.attachment.to_string(), "eth0 of container c1");
    assert_eq!(add.name.as_deref(), Some("web"));
    assert_eq!(add.namespace.as_deref(), Some("prod"));
    assert_eq!((add.network.as_str(), add.mtu), ("weft", Some(1400)));
    let theirs = rustix::fs::fstat(&fd).unwrap().st_ino;
    assert_eq!(theirs, inode(&stage.pod.netns()));
}

#[test]
fn an_add_in_each_version_is_understood() {
    let stage = Stage::new();
    let _requests = stage.answering(|| Ok(reply()));
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let result = stage.run("ADD", version, json!({})).json();
        assert_eq!(result["cniVersion"], version);
        let old = version.starts_with('0');
        assert_eq!(result["ips"][0].get("version").is_some(), old, "{version}");
        let mtu = result["interfaces"][1].get("mtu").is_some();
        assert_eq!(mtu, version == "1.1.0", "{version}");
    }
    assert_eq!(stage.run("ADD", "0.2.0", json!({})).code(), 1);
}

#[test]
fn the_other_verbs_say_nothing_when_all_is_well() {
    let stage = Stage::new();
    let requests = stage.answering(|| Ok(Empty {}));
    let prev = json!({
        "interfaces": [{"name": "eth0", "sandbox": stage.pod.netns()}],
        "ips": [{"address": "10.32.7.2/32", "interface": 0}],
    });
    let mut said = Vec::new();
    for (verb, rest) in [
        ("DEL", json!({})),
        ("CHECK", json!({"prevResult": prev})),
        (
            "GC",
            json!({"cni.dev/valid-attachments": [{"containerID": "c9", "ifname": "eth0"}]}),
        ),
        ("STATUS", json!({})),
    ] {
        let outcome = stage.run(verb, "1.1.0", rest);
        assert!(outcome.silent(), "{verb}: {outcome:?}");
        let (request, fd) = requests.recv().unwrap();
        assert_eq!(fd.is_some(), verb == "CHECK");
        said.push(serde_json::to_value(request).unwrap());
    }
    let attachment = json!({"container_id": "c1", "ifname": "eth0"});
    let netns = stage.pod.netns();
    assert_eq!(
        Value::from(said),
        json!([
            {"DEL": {"attachment": attachment, "network": "weft", "netns_path": netns}},
            {"CHECK": {
                "attachment": attachment, "network": "weft", "netns_path": netns,
                "expected": {
                    "mac": null, "mtu": null,
                    "addresses": ["10.32.7.2/32"], "routes": []}}},
            {"GC": {"network": "weft", "valid": [{"container_id": "c9", "ifname": "eth0"}]}},
            {"STATUS": {"network": "weft"}},
        ])
    );
    assert_eq!(stage.notes(), []);
}

#[test]
fn verbs_are_refused_in_versions_and_configurations_that_lack_them() {
    let stage = Stage::new();
    let _requests = stage.answering(|| Ok(Empty {}));
    let valid = json!({"cni.dev/valid-attachments": []});
    for (verb, version, rest, number) in [
        (
            "CHECK",
            "0.3.1",
            json!({"prevResult": {}}),
            code::INCOMPATIBLE_VERSION,
        ),
        ("CHECK", "1.0.0", json!({}), code::INVALID_CONFIG),
        ("GC", "1.0.0", valid.clone(), code::INCOMPATIBLE_VERSION),
        ("GC", "1.1.0", json!({}), code::INVALID_CONFIG),
        ("STATUS", "1.0.0", json!({}), code::INCOMPATIBLE_VERSION),
        ("NONSENSE", "1.0.0", json!({}), code::INVALID_ENVIRONMENT),
        ("ADD", "1.0.0", json!({"mtu": "big"}), code::INVALID_CONFIG),
    ] {
        assert_eq!(stage.run(verb, version, rest).code(), number, "{verb}");
    }
    assert_eq!(stage.run_raw("ADD", b"{").code(), code::DECODE);
    let long = vec![b' '; (1 << 20) + 1];
    assert_eq!(stage.run_raw("ADD", &long).code(), code::INVALID_CONFIG);
}

#[test]
fn version_needs_nothing() {
    let stage = Stage::new();
    for (input, version) in [(&b""[..], "1.1.0"), (br#"{"cniVersion":"0.4.0"}"#, "0.4.0")] {
        let outcome = stage.run_raw("VERSION", input);
        assert!(outcome.success);
        let supported = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        assert_eq!(
            outcome.json(),
            json!({"cniVersion": version, "supportedVersions": supported})
        );
    }
}

#[test]
fn without_an_agent_each_verb_says_what_is_to_be_done() {
    let stage = Stage::new();
    let outcome = stage.run("ADD", "1.1.0", json!({}));
    assert_eq!(outcome.code(), code::TRY_AGAIN);
    let error = outcome.json();
    let socket = stage.socket();
    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains(socket.to_str().unwrap())
    );
    assert!(
        error["details"]
            .as_str()
            .unwrap()
            .contains("start the agent")
    );
    let prev = json!({"prevResult": {}});
    assert_eq!(stage.run("CHECK", "1.1.0", prev).code(), code::TRY_AGAIN);
    let valid = json!({"cni.dev/valid-attachments": []});
    assert_eq!(stage.run("GC", "1.1.0", valid).code(), code::TRY_AGAIN);
    assert_eq!(
        stage.run("STATUS", "1.1.0", json!({})).code(),
        code::NOT_AVAILABLE
    );
    assert_eq!(stage.notes(), []);
}

#[test]
fn a_del_without_an_agent_leaves_one_note_and_succeeds() {
    let stage = Stage::new();
    for _ in 0..2 {
        assert!(stage.run("DEL", "1.0.0", json!({})).silent());
    }
    let notes = stage.notes();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].del.attachment.to_string(), "eth0 of container c1");
    assert_eq!(notes[0].del.network, "weft");
    assert_eq!(notes[0].del.netns_path, Some(stage.pod.netns()));
}

#[test]
fn a_del_that_can_leave_no_note_says_so() {
    let stage = Stage::new();
    std::fs::write(stage.dir.path().join("pending-del"), b"").unwrap();
    let outcome = stage.run("DEL", "1.0.0", json!({}));
    assert_eq!(outcome.code(), code::IO);
    assert!(outcome.stdout.contains("pending-del"), "{outcome:?}");
}

#[test]
fn the_agents_error_reaches_the_runtime_as_it_is() {
    let stage = Stage::new();
    let full = "range 10.32.7.0/24 is full: 253 of 253 addresses in use";
    let _requests = stage.answering(move || Err::<Empty, _>(Error::new(code::TRY_AGAIN, full)));
    let outcome = stage.run("ADD", "1.0.0", json!({}));
    assert_eq!(outcome.code(), code::TRY_AGAIN);
    assert_eq!(outcome.json()["msg"], full);
    let status = stage.run("STATUS", "1.1.0", json!({}));
    assert_eq!(status.code(), code::NOT_AVAILABLE);
    assert_eq!(status.json()["msg"], full);
    assert_eq!(stage.run("DEL", "1.0.0", json!({})).code(), code::TRY_AGAIN);
    assert_eq!(stage.notes(), []);
}

#[test]
fn an_agent_that_breaks_off_or_talks_nonsense_is_no_answer() {
    let nonsense: [(&[u8], u32); 6] = [
        (b"", code::TRY_AGAIN),
        (b"\0\0", code::TRY_AGAIN),
        (b"\0\0\0\x30{\"v\":1,\"o", code::TRY_AGAIN),
        (b"\xff\xff\xff\xff", code::TRY_AGAIN),
        (b"\0\0\0\x04null", code::PROTOCOL),
        (b"\0\0\0\x07{\"v\":9}", code::PROTOCOL),
    ];
    for (bytes, number) in nonsense {
        let stage = Stage::new();
        stage.agent(move |stream| {
            receive(&stream);
            (&stream).write_all(bytes).unwrap();
        });
        let outcome = stage.run("ADD", "1.0.0", json!({}));
        assert_eq!(outcome.code(), number, "{bytes:?}: {outcome:?}");
        assert!(stage.run("DEL", "1.0.0", json!({})).silent(), "{bytes:?}");
        assert_eq!(stage.notes().len(), 1, "{bytes:?}");
    }
}

#[test]
fn an_agent_that_hangs_up_unread_is_no_answer() {
    let stage = Stage::new();
    stage.agent(drop);
    assert_eq!(stage.run("ADD", "1.0.0", json!({})).code(), code::TRY_AGAIN);
    assert!(stage.run("DEL", "1.0.0", json!({})).silent());
    assert_eq!(stage.notes().len(), 1);
}

#[test]
fn a_namespace_that_is_gone_fails_add_and_check_but_not_del() {
    let mut stage = Stage::new();
    let requests = stage.answering(|| Ok(Empty {}));
    stage.pod.0.kill().unwrap();
    stage.pod.0.wait().unwrap();
    assert!(!Path::new(&stage.pod.netns()).exists());
    assert_eq!(
        stage.run("ADD", "1.0.0", json!({})).code(),
        code::UNKNOWN_CONTAINER
    );
    let prev = json!({"prevResult": {}});
    assert_eq!(
        stage.run("CHECK", "1.0.0", prev).code(),
        code::UNKNOWN_CONTAINER
    );
    assert!(stage.run("DEL", "1.0.0", json!({})).silent());
    assert!(matches!(
        requests.recv().unwrap(),
        (CniRequest::Del(_), None)
    ));
}
