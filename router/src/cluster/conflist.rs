//! The network's configuration among those of the runtime: written once this node can carry pods,
//! and never beside another network's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_cni::confdir::{self, PutBack, TakeOver};
use weft_cni::conflist::{self, Conflist, FILE, Installed};

/// How often somebody else's doings there are looked for.
const LOOK: Duration = Duration::from_secs(10);

/// Where and how it is written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) take_over: TakeOver,
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
        let socket = self.socket.as_path();
        let conflist = Conflist {
            name: "weft".into(),
            socket: (socket != Path::new(crate::config::SOCKET)).then(|| socket.to_owned()),
            mtu: None,
            behind: Vec::new(),
        };
        let taken = confdir::take(&self.directory, &conflist, self.take_over)
            .map_err(|error| format!("the network's configuration: {error}"))?;
        for network in taken.moved {
            let file = self.directory.join(network.file);
            info!(file = %file.display(), "taken over; it is renamed until `weft cleanup`");
        }
        if taken.installed == Installed::Written {
            info!(file = %self.directory.join(FILE).display(), "the runtime may attach pods");
        }
        Ok(())
    }
}

/// Gives others their names back and takes ours away; what failed does not keep it from the rest.
pub(crate) fn restore(directory: &Path) -> PutBack {
    let mut back = confdir::put_back(directory);
    if let Err(error) = conflist::remove(directory) {
        back.failed.push(error);
    }
    back
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_networks_file_is_refused_by_name_or_taken_over_and_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("10-other.conflist");
        let text = r#"{"name": "other", "plugins": [{"type": "bridge"}]}"#;
        std::fs::write(&other, text).unwrap();
        let place = |take_over| Place {
            directory: dir.path().to_owned(),
            socket: crate::config::SOCKET.into(),
            take_over,
        };
        let why = place(TakeOver::Refuse).install().unwrap_err();
        assert!(
            why.contains("10-other.conflist") && why.contains("take-over"),
            "{why}"
        );
        assert!(!dir.path().join(FILE).exists());
        place(TakeOver::MoveAside).install().unwrap();
        assert!(dir.path().join(FILE).exists() && !other.exists());
        let back = restore(dir.path());
        assert!(back.restored.len() == 1 && back.failed.is_empty());
        assert!(!dir.path().join(FILE).exists() && other.exists());
    }
}
