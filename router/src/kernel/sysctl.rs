//! Sysctls: read, set with their old value kept, put back.
//!
//! The paths below /proc/sys/net are those of the namespace of the thread that opens them. In a
//! container /proc/sys is read-only, so the variable WEFT_PROC_SYS may name another mount of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tracing::{info, warn};
use weft_mesh::keystore::{self, Mode};

use crate::host::Observed;

/// Where the sysctls are, once for the process.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| root(std::env::var_os("WEFT_PROC_SYS")));
/// Below the state directory: the values before ours, by path.
const FILE: &str = "sysctl.json";

pub const IP_FORWARD: &str = "net/ipv4/ip_forward";
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// "1" too where the kernel has no IPv6 at all.
pub const IPV6_DISABLED: &str = "net/ipv6/conf/all/disable_ipv6";

/// What forwarding needs, for `Desired::sysctls`.
///
/// A host that forwards ignores router advertisements unless its links' `accept_ra` is 2, and so
/// would lose the default route that it has from them: each link whose value is 1 and which has
/// such a route (as [`Observed`] then lists it) gets 2.
pub fn forwarding(observed: &Observed) -> BTreeMap<String, String> {
    let mut wanted = BTreeMap::from([(IP_FORWARD.to_owned(), "1".to_owned())]);
    if !ipv6_disabled(observed) {
        wanted.insert(IPV6_FORWARDING.to_owned(), "1".to_owned());
        for key in observed.sysctls.keys().filter(|key| is_accept_ra(key)) {
            wanted.insert(key.clone(), "2".to_owned());
        }
    }
    wanted
}

/// Whether the host has no use for IPv6.
pub fn ipv6_disabled(observed: &Observed) -> bool {
    observed
        .sysctls
        .get(IPV6_DISABLED)
        .is_some_and(|value| value != "0")
}

/// Whether the host uses IPv6, asked now.
pub fn has_ipv6() -> bool {
    read(IPV6_DISABLED).is_ok_and(|value| value == "0")
}

fn is_accept_ra(key: &str) -> bool {
    key.starts_with("net/ipv6/conf/") && key.ends_with("/accept_ra")
}

/// The path of a link's `accept_ra`.
pub(crate) fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

/// Those we look at. `ra_links` have a default route from a router advertisement.
pub(crate) fn observe(ra_links: &[String]) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for key in [IP_FORWARD, IPV6_FORWARDING] {
        if let Ok(value) = read(key) {
            seen.insert(key.to_owned(), value);
        }
    }
    let disabled = read(IPV6_DISABLED).unwrap_or_else(|_| "1".to_owned());
    seen.insert(IPV6_DISABLED.to_owned(), disabled);
    for key in ra_links.iter().map(|link| accept_ra(link)) {
        match read(&key).as_deref() {
            Ok(value @ ("1" | "2")) => seen.insert(key, value.to_owned()),
            _ => None,
        };
    }
    seen
}

/// The old values, on disk.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
}

impl Kept {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
        }
    }

    /// Sets one, its old value written down first: whatever happens after, it can be put back.
    pub(crate) fn set(&self, key: &str, value: &str) -> io::Result<()> {
        let old = read(key)?;
        if old == value {
            return Ok(());
        }
        let mut kept = self.load()?;
        if !kept.contains_key(key) {
            kept.insert(key.to_owned(), old.clone());
            self.save(&kept)?;
        }
        fs::write(ROOT.join(key), value)?;
        info!(sysctl = %key.replace('/', "."), %old, new = %value, "sysctl set");
        Ok(())
    }

    /// Puts every old value back and forgets them; returns what failed. Nothing kept is no error.
    pub(crate) fn restore(&self) -> Vec<(String, io::Error)> {
        let kept = match self.load() {
            Ok(kept) => kept,
            Err(error) => return vec![(self.path.display().to_string(), error)],
        };
        let mut failures = Vec::new();
        // Forwarding first: a host that forwards takes no advertisements with accept_ra 1.
        let (then, first): (Vec<_>, Vec<_>) = kept.iter().partition(|(key, _)| is_accept_ra(key));
        for (key, old) in first.into_iter().chain(then) {
            match fs::write(ROOT.join(key), old) {
                Ok(()) => info!(sysctl = %key.replace('/', "."), value = %old, "sysctl put back"),
                // A link that is gone took its sysctls along.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failures.push((key.clone(), error)),
            }
        }
        if failures.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    failures.push((self.path.display().to_string(), error));
                }
                _ => {}
            }
        }
        failures
    }

    fn load(&self) -> io::Result<BTreeMap<String, String>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let kept: BTreeMap<String, String> =
            serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(path = %self.path.display(), %error, "old sysctl values are unreadable");
                BTreeMap::new()
            });
        // Only what this module can have written: the file is no way to write elsewhere.
        Ok(kept
            .into_iter()
            .filter(|(key, _)| key.starts_with("net/") && !key.contains(".."))
            .collect())
    }

    fn save(&self, kept: &BTreeMap<String, String>) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        keystore::ensure_directory(directory).map_err(io::Error::other)?;
        let text = serde_json::to_vec_pretty(kept)?;
        keystore::write(&self.path, &text, Mode::Public).map_err(io::Error::other)
    }
}

fn root(variable: Option<OsString>) -> PathBuf {
    match variable {
        Some(path) if !path.is_empty() => path.into(),
        _ => "/proc/sys".into(),
    }
}

pub(crate) fn read(key: &str) -> io::Result<String> {
    Ok(fs::read_to_string(ROOT.join(key))?.trim().to_owned())
}

pub(crate) fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(ROOT.join(key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_another_mount_of_the_sysctls() {
        assert_eq!(root(None), Path::new("/proc/sys"));
        assert_eq!(root(Some("".into())), Path::new("/proc/sys"));
        assert_eq!(root(Some("/host/sys".into())), Path::new("/host/sys"));
    }
}
