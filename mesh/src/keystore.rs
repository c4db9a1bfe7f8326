//! Files that survive power loss, and the two key files of a node among them.
//!
//! A file is either its old content or its new, whole. A key file that is there but not as it was
//! written is refused and never made anew: a new key would be another node.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::PrivateKey;
use crate::identity::Identity;

/// Who may read a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 0600
    Private,
    /// 0644
    Public,
}

/// Why a state file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{act} {}: {source}{}", .path.display(), hint(.source))]
    Io {
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} can be read by others (mode {mode:04o}): chmod 600 it, or, if others may have copied it, \
         move it away and join as a new node", .path.display()
    )]
    Permissions { path: PathBuf, mode: u32 },
    #[error(
        "{} is not a key: {found} bytes where {wanted} are written; restore it from a backup, or \
         move it away and join as a new node", .path.display()
    )]
    Truncated {
        path: PathBuf,
        found: usize,
        wanted: usize,
    },
    #[error("{} is not what was written there: {reason}", .path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl StoreError {
    pub(crate) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { act, path, source }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            " (the state directory must be on a file system that can be written)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (free some space there)",
        io::ErrorKind::PermissionDenied => " (it must belong to the user who runs weft)",
        _ => "",
    }
}

/// Makes `directory` and its parents, 0700, if they are not there.
///
/// # Errors
/// When one of them cannot be made.
pub fn ensure_directory(directory: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(StoreError::io("make directory", directory))
}

/// Replaces the file at `path` by `bytes`, so that a crash or power loss at any moment leaves the
/// old content or the new.
///
/// # Errors
/// When a step fails; the old content is there then.
pub fn write(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), StoreError> {
    let directory = parent(path);
    let temporary = temporary(path);
    let written = write_temporary(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(StoreError::io("replace", path)));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename is on disk only when its directory is.
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(StoreError::io("sync directory", directory))
}

/// The file's content, or `None` where there is no file. Refuses more than `limit` bytes.
///
/// # Errors
/// When it cannot be read or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            reason: format!("more than {limit} bytes"),
        });
    }
    Ok(Some(bytes))
}

/// The node's identity, from `identity.key` in `directory`; made there, once, if it is not.
///
/// # Errors
/// When the file cannot be read, is not a whole key, or others can read it.
pub fn identity(directory: &Path) -> Result<Identity, StoreError> {
    let path = directory.join("identity.key");
    if let Some(bytes) = read_key(&path)? {
        return Ok(Identity::from_bytes(&bytes));
    }
    let identity = Identity::generate().map_err(StoreError::Random)?;
    ensure_directory(directory)?;
    write(&path, identity.expose().as_slice(), Mode::Private)?;
    Ok(identity)
}

/// The node's WireGuard key, from `wireguard.key` in `directory`; made there, once, if it is not.
///
/// # Errors
/// As [`identity`].
pub fn wireguard(directory: &Path) -> Result<PrivateKey, StoreError> {
    let path = directory.join("wireguard.key");
    if let Some(bytes) = read_key(&path)? {
        return Ok(PrivateKey::from_bytes(*bytes));
    }
    let key = PrivateKey::generate().map_err(StoreError::Random)?;
    ensure_directory(directory)?;
    write(&path, key.expose(), Mode::Private)?;
    Ok(key)
}

/// Makes a new identity and a new key in the place of those that are in `directory`.
///
/// # Errors
/// When one cannot be written; then there may be a new identity with the old key.
pub fn renew(directory: &Path) -> Result<(), StoreError> {
    let identity = Identity::generate().map_err(StoreError::Random)?;
    let key = PrivateKey::generate().map_err(StoreError::Random)?;
    let path = |name| directory.join(name);
    write(
        &path("identity.key"),
        identity.expose().as_slice(),
        Mode::Private,
    )?;
    write(&path("wireguard.key"), key.expose(), Mode::Private)
}

/// Refuses a secret file that others can read.
pub(crate) fn check_private(path: &Path) -> Result<(), StoreError> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.mode() & 0o7777,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(StoreError::io("look at", path)(e)),
    };
    if mode & 0o077 != 0 {
        return Err(StoreError::Permissions {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn read_key(path: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, StoreError> {
    check_private(path)?;
    let Some(bytes) = read(path, 1024)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| StoreError::Truncated {
        path: path.to_owned(),
        found: bytes.len(),
        wanted: 32,
    })?;
    Ok(Some(Zeroizing::new(key)))
}

fn write_temporary(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), StoreError> {
    // One that a crash left may have another mode, and the mode is given only when it is made.
    let _ = fs::remove_file(path);
    let bits = match mode {
        Mode::Private => 0o600,
        Mode::Public => 0o644,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(bits)
        .open(path)
        .map_err(StoreError::io("create", path))?;
    file.write_all(bytes)
        .map_err(StoreError::io("write", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = identity(dir.path()).unwrap().id();
        assert_eq!(identity(dir.path()).unwrap().id(), first);
        let key = wireguard(dir.path()).unwrap().public_key();
        assert_eq!(wireguard(dir.path()).unwrap().public_key(), key);
        for name in ["identity.key", "wireguard.key"] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_truncated_key_is_refused_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        write(&path, b"short", Mode::Private).unwrap();
        let error = identity(dir.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Truncated { found: 5, .. }),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"short");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        wireguard(dir.path()).unwrap();
        let path = dir.path().join("wireguard.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = wireguard(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("0640") && text.contains("chmod 600"),
            "{text}"
        );
    }

    #[test]
    fn a_write_replaces_the_whole_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(dir.path().join("x.new"), b"left by a crash").unwrap();
        write(&path, b"one", Mode::Public).unwrap();
        write(&path, b"two", Mode::Public).unwrap();
        assert_eq!(read(&path, 10).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read(&path, 2).is_err());
    }

    #[test]
    fn an_error_names_the_file_and_the_act() {
        let error = write(Path::new("/proc/weft/x"), b"", Mode::Public).unwrap_err();
        assert!(
            error.to_string().starts_with("create /proc/weft/x.new: "),
            "{error}"
        );
    }
}
