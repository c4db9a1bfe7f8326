use std::fs;

use super::*;

/// Plugins that write down how they were called and answer with a canned object.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn plugin(&self, name: &str, rest: &str) {
        let path = self.0.path().join(name);
        let log = self.0.path().join("log");
        let script = format!(
            "#!/bin/sh\n\
             echo \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS\" >> {log}\n\
             cat >> {log}; echo >> {log}\n{rest}\n",
            log = log.display()
        );
        // Not written by this process: a fork of another test would hold it open for writing, and
        // to run it would fail with ETXTBSY.
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = install.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        assert!(install.wait().unwrap().success());
    }

    fn network(&self, plugins: Value) -> Network {
        let list = json!({
            "cniVersion": "1.0.0",
            "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
            "name": "net",
            "plugins": plugins,
        });
        Network::parse(&list.to_string(), "1.1.0", &[self.0.path().to_owned()]).unwrap()
    }

    /// The calls since the last time, each with its configuration.
    fn calls(&self) -> Vec<(String, Value)> {
        let path = self.0.path().join("log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        let lines: Vec<&str> = text.lines().collect();
        let pair = |pair: &[&str]| {
            (
                pair[0].trim().to_owned(),
                serde_json::from_str(pair[1]).unwrap(),
            )
        };
        lines.chunks(2).map(pair).collect()
    }
}

fn container() -> Container {
    let mut container = Container::new("c1", "/run/netns/c1");
    container.args.insert("K".to_owned(), "v".to_owned());
    let ports = json!([{"hostPort": 80, "containerPort": 80}]);
    container
        .capabilities
        .insert("portMappings".to_owned(), ports);
    container
}

#[test]
fn each_plugin_gets_the_result_of_the_one_before_and_del_goes_backwards() {
    let stage = Stage::new();
    stage.plugin("one", r#"[ $CNI_COMMAND = ADD ] && echo '{"r":1}'; exit 0"#);
    stage.plugin("two", r#"[ $CNI_COMMAND = ADD ] && echo '{"r":2}'; exit 0"#);
    let network = stage.network(json!([
        {"type": "one", "mtu": 9},
        {"type": "two", "capabilities": {"portMappings": true, "mac": true}},
    ]));
    let result = network.add(&container()).unwrap();
    assert_eq!(result, json!({"r": 2}));
    let ports = &container().capabilities["portMappings"];
    let call = |plugin: &str, verb: &str| format!("{plugin} {verb} c1 /run/netns/c1 eth0 K=v");
    let one = json!({"cniVersion": "1.1.0", "name": "net", "type": "one", "mtu": 9});
    let two = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "two",
        "runtimeConfig": {"portMappings": ports},
    });
    let behind = |conf: &Value, prev: Value| {
        let mut conf = conf.clone();
        conf["prevResult"] = prev;
        conf
    };
    let calls = stage.calls();
    assert_eq!(calls[0], (call("one", "ADD"), one.clone()));
    assert_eq!(
        calls[1],
        (call("two", "ADD"), behind(&two, json!({"r": 1})))
    );
    network.check(&container(), &result).unwrap();
    network.del(&container(), Some(&result)).unwrap();
    let last =
        |plugin: &str, verb: &str, conf: &Value| (call(plugin, verb), behind(conf, result.clone()));
    assert_eq!(
        stage.calls(),
        [
            last("one", "CHECK", &one),
            last("two", "CHECK", &two),
            last("two", "DEL", &two),
            last("one", "DEL", &one),
        ]
    );
}

#[test]
fn gc_status_and_version_know_no_container() {
    let stage = Stage::new();
    stage.plugin(
        "one",
        r#"[ $CNI_COMMAND = VERSION ] && echo '{"supportedVersions":["1.1.0"]}'; exit 0"#,
    );
    let network = stage.network(json!([{"type": "one"}]));
    network.gc(&[("c1", "eth0")]).unwrap();
    network.status().unwrap();
    assert_eq!(network.versions().unwrap(), [["1.1.0"]]);
    let calls = stage.calls();
    let said: Vec<&str> = calls.iter().map(|(call, _)| call.as_str()).collect();
    assert_eq!(said, ["one GC", "one STATUS", "one VERSION"]);
    assert_eq!(
        calls[0].1["cni.dev/valid-attachments"],
        json!([{"containerID": "c1", "ifname": "eth0"}])
    );
}

#[test]
fn a_plugin_that_fails_stops_the_chain() {
    let stage = Stage::new();
    stage.plugin("one", r#"echo '{"code":11,"msg":"later"}'; exit 1"#);
    stage.plugin("two", "echo chatter");
    stage.plugin("three", "echo >&2 dead; exit 3");
    let fails = |plugin: &str| {
        let network = stage.network(json!([{"type": plugin}, {"type": "one"}]));
        network.add(&container()).unwrap_err()
    };
    assert_eq!(fails("one").code(), Some(11));
    assert_eq!(stage.calls().len(), 1);
    assert!(matches!(fails("two"), Failure::Broken { .. }));
    assert!(fails("three").to_string().contains("dead"));
    assert!(fails("none").to_string().contains("not found in CNI_PATH"));
}

#[test]
fn the_best_version_is_one_that_both_know() {
    let version = |list: Value, newest| {
        Network::parse(&list.to_string(), newest, &[]).map(|network| network.version)
    };
    let list = json!({
        "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "1.10.0"],
        "name": "n", "plugins": [],
    });
    assert_eq!(version(list.clone(), "1.1.0").unwrap(), "1.1.0");
    assert_eq!(version(list.clone(), "1.9.0").unwrap(), "1.1.0");
    assert_eq!(version(list.clone(), "1.10.0").unwrap(), "1.10.0");
    assert_eq!(version(list.clone(), "1.0.0").unwrap(), "1.0.0");
    assert!(version(list, "0.3.1").is_err());
}
