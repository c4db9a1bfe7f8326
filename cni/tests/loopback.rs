//! The plugin `loopback` as a CRI runtime runs it: the real binary by that name, no agent there.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

/// Prints what the plugin says to each verb of the life of a container.
const LIFE: &str = r#"
set -e
unshare --net cat "$1/fifo" & pod=$!
exec 9>"$1/fifo"
export CNI_NETNS=/proc/$pod/ns/net CNI_CONTAINERID=c1 CNI_IFNAME=lo CNI_PATH="$1"
until [ "$(readlink $CNI_NETNS)" != "$(readlink /proc/self/ns/net)" ]; do :; done
say() { CNI_COMMAND=$1 "$dir/loopback" <<<"$conf" || echo failed; echo ---; }
dir=$1 conf='{"cniVersion":"1.0.0","name":"cni-loopback","type":"loopback"}'
say CHECK; say ADD; say CHECK; say DEL; say CHECK
exec 9>&-
wait $pod
say DEL; say ADD; say VERSION
"#;

#[test]
fn lo_is_up_from_add_to_del_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_BIN_EXE_weft-cni"), dir.path().join("loopback")).unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "bash", "-c", LIFE, "bash"])
        .arg(dir.path())
        .output()
        .expect("unshare of util-linux");
    let text = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    let said: Vec<&str> = text.split("---\n").map(str::trim).collect();
    let json = |at: usize| -> Value {
        let line = said[at].lines().next().unwrap();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {text}\n{why}"))
    };
    assert_eq!(json(0)["code"], 102, "down before: {text}\n{why}");
    let result = json(1);
    let lo = &result["interfaces"][0];
    assert_eq!(
        (&lo["name"], &lo["mac"]),
        (&json!("lo"), &json!("00:00:00:00:00:00"))
    );
    let addresses: Vec<_> = result["ips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| &ip["address"])
        .collect();
    assert!(addresses.contains(&&json!("127.0.0.1/8")), "{result}");
    assert!(
        result["ips"]
            .as_array()
            .unwrap()
            .iter()
            .all(|ip| ip["interface"] == 0)
    );
    assert_eq!((said[2], said[3]), ("", ""), "up after ADD: {text}\n{why}");
    assert_eq!(json(4)["code"], 102, "down after DEL: {text}");
    assert_eq!(said[5], "", "a DEL of what is gone: {text}");
    assert_eq!(json(6)["code"], 3, "an ADD to what is gone: {text}");
    assert_eq!(json(7)["supportedVersions"][3], "1.1.0");
}
