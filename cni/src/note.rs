//! A DEL left for an agent that was away: one small file an attachment, beside the agent's socket.
//! The plugin leaves it, the agent settles it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::DelRequest;
use crate::{Attachment, SinceBoot, atomic};

const SUFFIX: &str = ".json";
/// A note's bytes at most; a real one has a few hundred.
const LONGEST: u64 = 16 << 10;

/// A DEL that the agent still has to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub del: DelRequest,
    /// When it was left. A lease made later is another one's.
    pub left: SinceBoot,
}

/// Where notes to the agent with this socket lie: `pending-del` beside it.
pub fn dir(socket: &Path) -> PathBuf {
    socket.with_file_name("pending-del")
}

/// Leaves a note; an earlier one for the same attachment is replaced. Makes the directory, mode
/// 0700, if it is not there.
///
/// # Errors
/// When the note cannot be written; the file is named.
pub fn leave(dir: &Path, del: &DelRequest, now: SinceBoot) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| atomic::named("make", dir, &e))?;
    let note = Note {
        del: del.clone(),
        left: now,
    };
    atomic::write(
        &path(dir, &del.attachment),
        &serde_json::to_vec(&note)?,
        0o600,
    )
}

/// The note for one attachment. To be asked before each ADD, since the container may have come
/// back while the agent was away.
///
/// # Errors
/// When it cannot be read or is no note.
pub fn find(dir: &Path, attachment: &Attachment) -> io::Result<Option<Note>> {
    match read(&path(dir, attachment)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// At most `most` notes, oldest first. A file that is no note is removed: nothing can be done for
/// it, and GC finds what it stood for.
///
/// # Errors
/// When the directory cannot be read; one that is not there has no notes.
pub fn list(dir: &Path, most: usize) -> io::Result<Vec<Note>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| atomic::named("read", dir, &e))?,
    };
    let mut notes = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| atomic::named("read", dir, &e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(atomic::TEMPORARY) || !name.ends_with(SUFFIX) {
            continue;
        }
        match read(&path) {
            Ok(note) => notes.push(note),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => atomic::remove(&path)?,
            // Settled by another hand in between.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        if notes.len() == most {
            break;
        }
    }
    notes.sort_by(|a, b| (a.left, &a.del.attachment).cmp(&(b.left, &b.del.attachment)));
    Ok(notes)
}

/// Takes a note away once its DEL is done.
///
/// # Errors
/// When the file cannot be removed; it is named.
pub fn remove(dir: &Path, attachment: &Attachment) -> io::Result<()> {
    atomic::remove(&path(dir, attachment))
}

fn read(path: &Path) -> io::Result<Note> {
    let bytes = atomic::read(path, LONGEST)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let text = format!("{}: not a note: {e}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// A name of one length, whatever the container's id.
fn path(dir: &Path, attachment: &Attachment) -> PathBuf {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id.as_str());
    hash.update([0]);
    hash.update(attachment.ifname.as_str());
    let mut name = String::new();
    for byte in &hash.finalize()[..16] {
        name.push_str(&format!("{byte:02x}"));
    }
    dir.join(name + SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn del(id: &str) -> DelRequest {
        DelRequest {
            attachment: Attachment {
                container_id: id.parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            network: "weft".into(),
            netns_path: None,
        }
    }

    #[test]
    fn a_note_is_left_found_listed_and_removed() {
        let run = tempfile::tempdir().unwrap();
        let dir = dir(&run.path().join("weft.sock"));
        assert_eq!(list(&dir, 9).unwrap(), []);
        leave(&dir, &del("b"), SinceBoot(1)).unwrap();
        leave(&dir, &del("a"), SinceBoot(2)).unwrap();
        leave(&dir, &del("a"), SinceBoot(3)).unwrap();
        let notes = list(&dir, 9).unwrap();
        let seen: Vec<_> = notes
            .iter()
            .map(|n| (n.del.attachment.container_id.as_str(), n.left.0))
            .collect();
        assert_eq!(seen, [("b", 1), ("a", 3)]);
        assert_eq!(list(&dir, 1).unwrap().len(), 1);
        let key = del("a").attachment;
        assert_eq!(find(&dir, &key).unwrap().unwrap(), notes[1]);
        remove(&dir, &key).unwrap();
        remove(&dir, &key).unwrap();
        assert_eq!(find(&dir, &key).unwrap(), None);
        assert_eq!(list(&dir, 9).unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_note_is_swept_and_what_is_being_written_is_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00.json"), b"{").unwrap();
        fs::write(dir.path().join(".tmp-1-00.json"), b"{").unwrap();
        assert_eq!(list(dir.path(), 9).unwrap(), []);
        assert!(!dir.path().join("00.json").exists());
        assert!(dir.path().join(".tmp-1-00.json").exists());
    }

    #[test]
    fn a_note_that_cannot_be_left_names_its_file() {
        let run = tempfile::tempdir().unwrap();
        let file = run.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = leave(&file.join("pending-del"), &del("a"), SinceBoot(1)).unwrap_err();
        assert!(error.to_string().contains("pending-del"), "{error}");
    }
}
