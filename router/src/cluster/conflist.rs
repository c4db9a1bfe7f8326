//! The network's configuration among those of the runtime: written once this node can carry pods,
//! and never beside another network's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};
use weft_cni::conflist::{self, Conflist, FILE, Installed};

/// What a file that we took over from is called from then on.
const REPLACED: &str = ".replaced-by-weft";
/// How often somebody else's doings there are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// A longer file is no network's configuration.
const MAX_FILE: u64 = 1 << 20;

/// Where and how it is written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) take_over: bool,
}

/// Keeps it there once `unready` has said that there is nothing in the way. `refused` is told why
/// it is not there.
pub(super) async fn keep(
    place: Place,
    mut unready: watch::Receiver<Option<String>>,
    refused: watch::Sender<Option<String>>,
) {
    if unready.wait_for(Option::is_none).await.is_err() {
        return;
    }
    loop {
        let there = place.clone();
        let installed = tokio::task::spawn_blocking(move || there.install()).await;
        let why = installed.ok().and_then(Result::err);
        refused.send_if_modified(|old| {
            let changed = *old != why;
            if let (true, Some(why)) = (changed, &why) {
                warn!("{why}");
            }
            *old = why;
            changed
        });
        tokio::time::sleep(LOOK).await;
    }
}

impl Place {
    /// # Errors
    /// Why it is not there, and what to do, in words.
    fn install(&self) -> Result<(), String> {
        let said = |error: io::Error| format!("the network's configuration: {error}");
        for other in others(&self.directory).map_err(said)? {
            if !self.take_over {
                return Err(format!(
                    "{} is another network's: remove that network and its file, or set take-over \
                     and weft renames the file and puts it back at `weft cleanup`",
                    other.display()
                ));
            }
            let mut replaced = other.clone().into_os_string();
            replaced.push(REPLACED);
            fs::rename(&other, &replaced).map_err(said)?;
            info!(file = %other.display(), "taken over; it is renamed until `weft cleanup`");
        }
        let socket = self.socket.as_path();
        let conflist = Conflist {
            name: "weft".into(),
            socket: (socket != Path::new(crate::config::SOCKET)).then(|| socket.to_owned()),
            mtu: None,
            behind: Vec::new(),
        };
        if conflist::install(&self.directory, &conflist).map_err(said)? == Installed::Written {
            info!(file = %self.directory.join(FILE).display(), "the runtime may attach pods");
        }
        Ok(())
    }
}

/// Takes ours away and gives others their names back; returns what was done, in words.
///
/// # Errors
/// When the directory refuses.
pub(crate) fn restore(directory: &Path) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    let ours = directory.join(FILE);
    if ours.exists() {
        conflist::remove(directory)?;
        done.push(format!("removed {}", ours.display()));
    }
    for path in files(directory)? {
        let text = path.to_string_lossy();
        let Some(name) = text.strip_suffix(REPLACED) else {
            continue;
        };
        if !Path::new(name).exists() {
            fs::rename(&path, name)?;
            done.push(format!("put back {name}"));
        }
    }
    Ok(done)
}

/// The configurations of other networks, sorted.
fn others(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut others = files(directory)?;
    others.retain(|path| {
        let extension = path.extension().and_then(|e| e.to_str());
        let name = path.file_name();
        matches!(extension, Some("conf" | "conflist" | "json"))
            && name.is_some_and(|name| name != FILE)
            && !is_loopback(path)
    });
    Ok(others)
}

/// Every pod has its loopback, whatever its network is.
fn is_loopback(path: &Path) -> bool {
    let small = fs::metadata(path).is_ok_and(|m| m.len() <= MAX_FILE);
    let text = if small { fs::read(path).ok() } else { None };
    let Some(Ok(config)) = text.map(|text| serde_json::from_slice::<Value>(&text)) else {
        return false;
    };
    let is_loopback = |plugin: &Value| plugin["type"] == "loopback";
    match config["plugins"].as_array() {
        Some(plugins) => !plugins.is_empty() && plugins.iter().all(is_loopback),
        None => is_loopback(&config),
    }
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let text = format!("read {}: {error}", directory.display());
            return Err(io::Error::new(error.kind(), text));
        }
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: &Path, take_over: bool) -> Place {
        Place {
            directory: directory.to_owned(),
            socket: crate::config::SOCKET.into(),
            take_over,
        }
    }

    #[test]
    fn another_networks_file_is_refused_by_name_or_taken_over_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("10-other.conflist");
        let loopback = dir.path().join("99-loopback.conf");
        fs::write(
            &other,
            r#"{"name": "other", "plugins": [{"type": "bridge"}]}"#,
        )
        .unwrap();
        fs::write(&loopback, r#"{"type": "loopback"}"#).unwrap();
        let why = place(dir.path(), false).install().unwrap_err();
        assert!(
            why.contains("10-other.conflist") && why.contains("take-over"),
            "{why}"
        );
        assert!(!dir.path().join(FILE).exists());
        place(dir.path(), true).install().unwrap();
        assert!(dir.path().join(FILE).exists() && !other.exists() && loopback.exists());
        place(dir.path(), false).install().unwrap();
        assert_eq!(restore(dir.path()).unwrap().len(), 2);
        assert!(!dir.path().join(FILE).exists() && other.exists());
        assert!(restore(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_directory_that_is_not_there_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("etc/cni/net.d");
        assert!(restore(&inner).unwrap().is_empty());
        place(&inner, false).install().unwrap();
        assert!(inner.join(FILE).exists());
    }
}
