//! What a file in the directory of networks is, and whether it stands in our way. Pure.

use std::io;

use serde_json::Value;

use crate::conflist::FILE;

/// Characters of a name out of a file that we repeat.
const MOST_CHARS: usize = 64;

/// A file that a runtime looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name in the directory.
    pub file: String,
    pub kind: Kind,
}

/// Whose network it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, under whatever name.
    Ours,
    /// `lo` alone, which runtimes see to themselves.
    Loopback,
    /// What a container engine ships for containers of this host alone: CRI-O's, Podman's, nerdctl's.
    Stock,
    /// Multus, which calls the next network's plugin, and so ours.
    Meta,
    /// Another plugin's: its name, and the plugins that it calls.
    Other {
        network: String,
        plugins: Vec<String>,
    },
    /// No network at all, and why.
    Broken { why: String },
}

/// Whether a runtime looks at a file of this name (containerd and CRI-O: by the extension).
pub(super) fn looked_at(name: &str) -> bool {
    [".conf", ".conflist", ".json"]
        .iter()
        .any(|extension| name.ends_with(extension))
}

/// What the files of a directory are, in the order in which runtimes sort them: the first is the
/// pods' (containerd: and if it is broken, there is none; CRI-O passes it by).
pub fn survey(files: Vec<(String, io::Result<Vec<u8>>)>) -> Vec<Network> {
    let mut networks: Vec<_> = files
        .into_iter()
        .filter(|(file, _)| looked_at(file))
        .map(|(file, text)| {
            let kind = match text {
                Ok(text) => kind(&file, &text),
                Err(error) => broken(error),
            };
            Network { file, kind }
        })
        .collect();
    networks.sort_by(|a, b| a.file.cmp(&b.file));
    networks
}

/// Those that stand in our way: what a runtime would take instead of ours, and any other cluster
/// network even behind ours, since ours would push it out without a word and leave its pods where
/// they are.
pub fn obstacles(networks: Vec<Network>) -> Vec<Network> {
    networks
        .into_iter()
        .filter(|network| match network.kind {
            Kind::Ours | Kind::Meta => false,
            Kind::Other { .. } => true,
            Kind::Loopback | Kind::Stock | Kind::Broken { .. } => network.file.as_str() < FILE,
        })
        .collect()
}

/// What they are, for a person.
pub(super) fn sentence(networks: &[Network]) -> String {
    let clauses: Vec<_> = networks
        .iter()
        .map(|Network { file, kind }| match kind {
            Kind::Other { network, plugins } => {
                let plugins = plugins.join(", ");
                format!("{file} is another plugin's (network {network}, by {plugins})")
            }
            Kind::Broken { why } => format!("{file} is no network, yet sorts before ours ({why})"),
            _ => format!("{file} sorts before ours"),
        })
        .collect();
    clauses.join("; ")
}

fn kind(file: &str, text: &[u8]) -> Kind {
    let value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => return broken(error),
    };
    let plugins: Vec<&Value> = match value.get("plugins").and_then(Value::as_array) {
        Some(plugins) if file.ends_with(".conflist") => plugins.iter().collect(),
        _ if file.ends_with(".conflist") => return broken("it lists no plugins"),
        _ => vec![&value],
    };
    let types: Vec<&str> = plugins
        .iter()
        .filter_map(|plugin| plugin.get("type")?.as_str())
        .collect();
    let network = value.get("name").and_then(Value::as_str).unwrap_or("");
    match types.as_slice() {
        [] => broken("it names no plugin"),
        types if types.contains(&"weft-cni") => Kind::Ours,
        ["loopback"] => Kind::Loopback,
        [first, ..] if first.starts_with("multus") => Kind::Meta,
        _ if is_stock(&value, network, plugins[0]) => Kind::Stock,
        types => Kind::Other {
            network: word(network),
            plugins: types.iter().take(8).map(|each| word(each)).collect(),
        },
    }
}

fn is_stock(value: &Value, network: &str, first: &Value) -> bool {
    let bridge = first.get("bridge").and_then(Value::as_str).unwrap_or("");
    ["crio", "podman"].contains(&network)
        || bridge.starts_with("cni-podman")
        || value.get("nerdctlID").is_some()
}

fn broken(why: impl ToString) -> Kind {
    Kind::Broken {
        why: word(&why.to_string()),
    }
}

/// Out of a file that anybody may have written, into a log.
fn word(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MOST_CHARS)
        .collect()
}
