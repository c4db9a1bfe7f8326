//! The directory of networks (`/etc/cni/net.d`), which we share with other plugins: which of them
//! stand in our way, and moving those aside and putting them back. Deciding is pure; [`take`] and
//! [`put_back`] touch the disk.

mod network;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::atomic;
use crate::conflist::{self, Conflist, Installed};

pub use network::{Kind, Network, obstacles, survey};

/// What a moved file's name ends with: runtimes take no such file.
pub const MOVED: &str = ".replaced-by-weft";
/// Files that we look at; a directory of networks has a handful.
const MOST_FILES: usize = 256;
/// Bytes of one of them.
const MOST_BYTES: u64 = 1 << 20;

/// What to do about networks that stand in our way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    Refuse,
    MoveAside,
}

/// What [`take`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    pub installed: Installed,
    /// By the names that they had.
    pub moved: Vec<Network>,
}

/// Why our network is not in the directory.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another plugin's networks, of which there is one at least. Nothing was written.
    #[error(
        "{}: {}; remove what made it from this node, or set `take-over`, which moves it aside \
         until `weft cleanup` puts it back",
        dir.display(),
        network::sentence(networks)
    )]
    InTheWay {
        dir: PathBuf,
        networks: Vec<Network>,
    },
    /// Names the file.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Puts our network into the directory, so that a runtime takes it for its pods. Does nothing where
/// all is as it should be, so it may be called again and again.
///
/// # Errors
/// [`TakeError`] names each file that is in the way, or the one that could not be read or written.
pub fn take(dir: &Path, conflist: &Conflist, take_over: TakeOver) -> Result<Taken, TakeError> {
    let networks = obstacles(survey(read(dir)?));
    if !networks.is_empty() && take_over == TakeOver::Refuse {
        return Err(TakeError::InTheWay {
            dir: dir.to_owned(),
            networks,
        });
    }
    // Ours first: a runtime that finds no network between the two says that the node is not ready.
    let installed = conflist::install(dir, conflist)?;
    for network in &networks {
        let from = dir.join(&network.file);
        let to = dir.join(format!("{}{MOVED}", network.file));
        // One that was moved before and is there again replaces the older.
        fs::rename(&from, to).map_err(|e| atomic::named("move aside", &from, &e))?;
    }
    Ok(Taken {
        installed,
        moved: networks,
    })
}

/// What [`put_back`] did.
#[derive(Debug, Default)]
pub struct PutBack {
    /// By the names that they have again.
    pub restored: Vec<String>,
    /// With the file's name in each.
    pub failed: Vec<io::Error>,
}

/// Puts back what [`take`] moved aside; to be called before ours is removed, so that a runtime
/// always finds a network. A directory that is not there has none.
pub fn put_back(dir: &Path) -> PutBack {
    let mut done = PutBack::default();
    let names = match names(dir) {
        Ok(names) => names,
        Err(error) => {
            done.failed.push(error);
            return done;
        }
    };
    for moved in names {
        let Some(name) = moved.strip_suffix(MOVED) else {
            continue;
        };
        let (from, to) = (dir.join(&moved), dir.join(name));
        match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => done.restored.push(name.to_owned()),
            Err(error) => {
                let act = format!("put back {name} from");
                done.failed.push(atomic::named(&act, &from, &error.into()));
            }
        }
    }
    done
}

/// The files that a runtime looks at, each with its text or why it could not be read.
fn read(dir: &Path) -> io::Result<Vec<(String, io::Result<Vec<u8>>)>> {
    let looked_at = names(dir)?
        .into_iter()
        .filter(|name| network::looked_at(name));
    Ok(looked_at
        .map(|name| {
            let text = atomic::read(&dir.join(&name), MOST_BYTES);
            (name, text)
        })
        .collect())
}

/// Sorted, as runtimes sort them.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(atomic::named("read", dir, &error)),
    };
    let mut names = Vec::new();
    for entry in entries.take(MOST_FILES) {
        let entry = entry.map_err(|e| atomic::named("read", dir, &e))?;
        // A name that is not UTF-8 is none that anybody gives to a network.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
