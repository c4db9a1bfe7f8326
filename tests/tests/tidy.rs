//! The repository's rules as tests: who may import whom, what pure code may not touch, how long a
//! file may be, and under which licences our dependencies come.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The file without comments and without its tests, so that a word in prose is no import.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
    shipped
        .lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn files_with(crates: &[&str], words: &[&str]) -> Vec<String> {
    let root = root();
    let files = crates
        .iter()
        .flat_map(|c| rust_files(&root.join(c).join("src")));
    files
        .filter(|file| {
            let code = code(file);
            words.iter().any(|word| code.contains(word))
        })
        .map(|file| file.strip_prefix(&root).unwrap().display().to_string())
        .collect()
}

#[test]
fn mesh_dns_and_cni_import_neither_one_another_nor_the_router() {
    let leaves = ["mesh", "dns", "cni"];
    for leaf in leaves {
        let manifest = fs::read_to_string(root().join(leaf).join("Cargo.toml")).unwrap();
        for other in leaves.iter().chain(&["router"]).filter(|o| **o != leaf) {
            assert!(
                !manifest.contains(&format!("weft-{other}")),
                "{leaf} depends on {other}"
            );
        }
    }
}

#[test]
fn pure_files_touch_no_clock_no_socket_and_no_disk() {
    let pure = [
        "mesh/src/diff.rs",
        "mesh/src/endpoint.rs",
        "mesh/src/probe.rs",
        "mesh/src/member.rs",
        "mesh/src/discovery/kubernetes/claim.rs",
        "mesh/src/discovery/kubernetes/holders.rs",
        "mesh/src/discovery/kubernetes/judge.rs",
        "mesh/src/discovery/kubernetes/object.rs",
        "mesh/src/discovery/kubernetes/range.rs",
        "mesh/src/discovery/kubernetes/world.rs",
        "router/src/desired.rs",
        "router/src/plan.rs",
        "router/src/overlap.rs",
        "dns/src/zone.rs",
        "dns/src/answer.rs",
        "dns/src/cache.rs",
        "cni/src/ipam/pool.rs",
    ];
    let banned = [
        "Instant::now",
        "SystemTime::now",
        "tokio::",
        "std::fs",
        "UdpSocket",
        "TcpStream",
    ];
    for file in pure {
        let code = code(&root().join(file));
        for word in banned {
            assert!(!code.contains(word), "{file} is pure, yet says {word}");
        }
    }
}

#[test]
fn only_the_kernel_layers_open_netlink() {
    let found = files_with(
        &["mesh", "router", "dns", "cni"],
        &[
            "netlink_sys::",
            "rtnetlink::new_connection",
            "AddressFamily::NETLINK",
        ],
    );
    for file in &found {
        assert!(
            file.starts_with("router/src/kernel/")
                || file.starts_with("mesh/src/tunnel/kernel")
                || file.starts_with("router/src/demo/net")
                // The plugin of that name, a process of its own in a container's namespace.
                || file == "cni/src/loopback.rs",
            "{file} opens netlink"
        );
    }
    assert!(
        !found.is_empty(),
        "the rule looks for words that nobody uses any more"
    );
}

#[test]
fn only_discovery_and_the_agents_cluster_part_speak_to_the_kubernetes_api() {
    let found = files_with(&["mesh", "router", "dns", "cni"], &["kube::"]);
    for file in &found {
        assert!(
            file.starts_with("mesh/src/discovery/kubernetes/")
                || file.starts_with("router/src/cluster/"),
            "{file} speaks to the Kubernetes API"
        );
    }
    assert!(
        !found.is_empty(),
        "the rule looks for a word that nobody uses"
    );
}

#[test]
fn a_private_key_is_exposed_to_its_files_and_tunnels_alone() {
    for file in files_with(&["mesh"], &[".expose()", ".secret()"]) {
        // Gossip exposes the mesh's secret to its handshake by the same word.
        let gossip = "mesh/src/discovery/gossip/";
        let allowed = [
            "mesh/src/keystore",
            "mesh/src/key.rs",
            "mesh/src/tunnel/",
            gossip,
        ];
        assert!(
            allowed.iter().any(|a| file.starts_with(a)),
            "{file} takes a private key's bytes"
        );
    }
}

#[test]
fn a_file_is_short_enough_to_be_one_idea() {
    let root = root();
    let mut lengths = Vec::new();
    for folder in ["mesh/src", "router/src", "dns/src", "cni/src", "tests/src"] {
        for file in rust_files(&root.join(folder)) {
            if file.to_string_lossy().contains("tests") && file.ends_with("tests.rs") {
                continue;
            }
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            lengths.push(lines);
            assert!(
                lines <= 500,
                "{} has {lines} lines; split it by concept",
                file.display()
            );
        }
    }
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= 220, "the median file has {median} lines");
}

/// Licences that Apache-2.0 software may be shipped with. An expression passes if one of its `OR`
/// arms consists of these.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "0BSD",
    "Apache-2.0 WITH LLVM-exception",
    "BSL-1.0",
];

fn is_allowed(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    flat.split(" OR ").any(|arm| {
        arm.split(" AND ")
            .all(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn every_dependency_has_a_licence_that_we_may_ship() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        // What is never built for Linux is never shipped.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let refused: BTreeSet<String> = packages
        .iter()
        .filter(|p| !is_allowed(p["license"].as_str().unwrap_or_default()))
        .map(|p| format!("{} {}: {}", p["name"], p["version"], p["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(
        packages.len() > 50,
        "the tree cannot be this small: {}",
        packages.len()
    );
}

#[test]
fn the_licence_rule_itself_can_refuse() {
    assert!(is_allowed("MIT OR Apache-2.0") && is_allowed("MIT/Apache-2.0"));
    assert!(is_allowed("GPL-3.0 OR MIT") && is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!is_allowed("GPL-3.0") && !is_allowed("MPL-2.0") && !is_allowed(""));
}
