//! Files that are there whole or not at all. Not for power loss: nothing is synced.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files being written bear this prefix. A reader passes them by; an owner of the directory may
/// sweep them away.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Puts a file in place by a rename, mode as given, whatever stood there before.
///
/// # Errors
/// With the file's name in it; the old file stands then as it was.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = beside(path)?;
    let written = put(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        // What is left of it only takes up room; the error that counts is the first.
        let _ = fs::remove_file(&temporary);
        named("write", path, &e)
    })
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// With the file's name in it; `InvalidData` when it is longer.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?
            .take(most + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let text = format!("longer than {most} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(bytes)
    };
    read().map_err(|e| named("read", path, &e))
}

/// Removes a file; one that is not there is as good as removed.
///
/// # Errors
/// With the file's name in it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(named("remove", path, &e)),
        _ => Ok(()),
    }
}

/// The same error, saying what was done to which file.
pub(crate) fn named(act: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{act} {}: {error}", path.display()))
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        let text = format!("{} names no file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let name = format!(
        "{TEMPORARY}{}-{}",
        std::process::id(),
        name.to_string_lossy()
    );
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = write(&path, b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_written_read_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"two");
        assert!(read(&path, 2).is_err());
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path, 3).is_err());
    }
}
