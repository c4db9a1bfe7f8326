//! `weft install`: puts the CNI plugin where the container runtime looks for plugins, and the
//! plugin `loopback`, which a CRI runtime wants beside any network, where there is none. The
//! network that tells the runtime to use it is the agent's to write, once it can serve.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use rustix::fs::{FlockOperation, flock};

const PLUGIN: &str = "weft-cni";
/// Being written. A runtime takes no plugin of this name, and one run at a time writes it.
const UNFINISHED: &str = ".weft-cni.new";
/// A link to the plugin, by which ours is known from another's, and goes with each new one.
const LOOPBACK: &str = "loopback";
const MODE: u32 = 0o755;

#[derive(Debug, clap::Args)]
pub(super) struct InstallArgs {
    /// Where the container runtime looks for plugins; it must exist
    #[arg(
        long,
        env = "WEFT_CNI_BIN_DIR",
        value_name = "DIR",
        default_value = "/opt/cni/bin"
    )]
    bin_dir: PathBuf,

    /// The plugin to put there [default: weft-cni beside this program]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

pub(super) fn run(args: &InstallArgs) -> anyhow::Result<()> {
    let plugin = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => std::env::current_exe()
            .context("find this program")?
            .with_file_name(PLUGIN),
    };
    let bytes = fs::read(&plugin).with_context(|| format!("read {}", plugin.display()))?;
    let target = args.bin_dir.join(PLUGIN);
    match install(&args.bin_dir, &bytes).map_err(|error| explain(&args.bin_dir, &bytes, error))? {
        Installed::Written => println!("installed {}", target.display()),
        Installed::AsItWas => println!("{} is there already", target.display()),
    }
    let loopback = args.bin_dir.join(LOOPBACK);
    if link_loopback(&args.bin_dir).with_context(|| format!("link {}", loopback.display()))? {
        println!("installed {}", loopback.display());
    }
    Ok(())
}

/// Whether it was missing. What stands there, also a link that leads nowhere, is somebody's.
fn link_loopback(dir: &Path) -> io::Result<bool> {
    match symlink(PLUGIN, dir.join(LOOPBACK)) {
        Ok(()) => {
            File::open(dir)?.sync_all()?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the plugin away, and `loopback` where it is ours; says whether the plugin was there.
pub(super) fn remove(dir: &Path) -> io::Result<bool> {
    let loopback = dir.join(LOOPBACK);
    if fs::read_link(&loopback).is_ok_and(|to| to == Path::new(PLUGIN)) {
        fs::remove_file(&loopback)?;
    }
    match fs::remove_file(dir.join(PLUGIN)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Installed {
    Written,
    /// It stood there as it should be.
    AsItWas,
}

/// By a rename: a runtime finds the old plugin or the new one, a running one runs on, and power
/// loss leaves one of both whole.
fn install(dir: &Path, bytes: &[u8]) -> io::Result<Installed> {
    let directory = File::open(dir)?;
    // Let go by the descriptor's end. The directory itself, since a lock file would stay behind.
    flock(&directory, FlockOperation::LockExclusive)?;
    let target = dir.join(PLUGIN);
    if is_there(&target, bytes) {
        return Ok(Installed::AsItWas);
    }
    let unfinished = dir.join(UNFINISHED);
    let written = write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &target));
    if let Err(error) = written {
        // What is left of it only takes up room; the error that counts is the first.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    directory.sync_all()?;
    Ok(Installed::Written)
}

fn is_there(target: &Path, bytes: &[u8]) -> bool {
    fs::symlink_metadata(target).is_ok_and(|found| {
        found.is_file() && found.mode() & 0o7777 == MODE && found.len() == bytes.len() as u64
    }) && fs::read(target).is_ok_and(|present| present == bytes)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an earlier run left when it was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    // The mode above is less the umask.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What somebody can do about it.
fn explain(dir: &Path, bytes: &[u8], error: io::Error) -> anyhow::Error {
    const NAME_IT: &str = "name the directory where this node's runtime looks for plugins (--bin-dir, or the chart's value cni.binDir)";
    let advice = match error.kind() {
        io::ErrorKind::NotFound => format!("it does not exist: {NAME_IT}"),
        io::ErrorKind::NotADirectory => format!("it is no directory: {NAME_IT}"),
        io::ErrorKind::ReadOnlyFilesystem => format!("it is read-only: {NAME_IT}"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let need = bytes.len().div_ceil(1 << 20);
            format!("it is full: free {need} MiB there")
        }
        io::ErrorKind::PermissionDenied => {
            "it may not be written to: run this as root, and look whether SELinux or AppArmor forbids it".to_owned()
        }
        io::ErrorKind::IsADirectory => {
            format!("a directory named {PLUGIN} stands there: remove it")
        }
        _ => return anyhow!(error).context(format!("put {PLUGIN} into {}", dir.display())),
    };
    anyhow!(error).context(format!("put {PLUGIN} into {}: {advice}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_plugin_is_written_once_and_again_only_when_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join(PLUGIN);
        assert_eq!(install(dir.path(), b"one").unwrap(), Installed::Written);
        let first = fs::metadata(&target).unwrap();
        assert_eq!(first.mode() & 0o7777, MODE);
        assert_eq!(install(dir.path(), b"one").unwrap(), Installed::AsItWas);
        assert_eq!(fs::metadata(&target).unwrap().ino(), first.ino());
        assert_eq!(install(dir.path(), b"two").unwrap(), Installed::Written);
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert_eq!(names(dir.path()), [PLUGIN]);
        assert!(remove(dir.path()).unwrap());
        assert!(!remove(dir.path()).unwrap());
    }

    #[test]
    fn loopback_is_linked_where_none_is_and_anothers_is_let_be() {
        let dir = tempfile::tempdir().unwrap();
        let loopback = dir.path().join(LOOPBACK);
        install(dir.path(), b"one").unwrap();
        assert!(link_loopback(dir.path()).unwrap());
        assert!(!link_loopback(dir.path()).unwrap());
        assert_eq!(fs::read(&loopback).unwrap(), b"one");
        assert!(remove(dir.path()).unwrap());
        assert!(names(dir.path()).is_empty());
        for theirs in ["/usr/lib/cni/loopback", "missing"] {
            symlink(theirs, &loopback).unwrap();
            assert!(!link_loopback(dir.path()).unwrap());
            remove(dir.path()).unwrap();
            assert_eq!(fs::read_link(&loopback).unwrap(), Path::new(theirs));
            fs::remove_file(&loopback).unwrap();
        }
        fs::write(&loopback, b"theirs").unwrap();
        assert!(!link_loopback(dir.path()).unwrap());
        remove(dir.path()).unwrap();
        assert_eq!(fs::read(&loopback).unwrap(), b"theirs");
    }

    #[test]
    fn a_plugin_that_cannot_be_run_is_put_right() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join(PLUGIN);
        fs::write(&target, b"one").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(install(dir.path(), b"one").unwrap(), Installed::Written);
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, MODE);
    }

    #[test]
    fn what_a_killed_run_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(UNFINISHED), b"ha").unwrap();
        assert_eq!(install(dir.path(), b"one").unwrap(), Installed::Written);
        assert_eq!(names(dir.path()), [PLUGIN]);
    }

    #[test]
    fn a_plugin_that_runs_is_replaced_and_runs_on() {
        let dir = tempfile::tempdir().unwrap();
        let sleep = fs::canonicalize("/bin/sleep").unwrap();
        install(dir.path(), &fs::read(sleep).unwrap()).unwrap();
        let mut running = std::process::Command::new(dir.path().join(PLUGIN))
            .arg("60")
            .spawn()
            .unwrap();
        let replaced = install(dir.path(), b"#!/bin/sh\n");
        let still_there = running.try_wait();
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(replaced.unwrap(), Installed::Written);
        assert_eq!(still_there.unwrap(), None);
    }

    #[test]
    fn many_at_once_leave_one_whole_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<Vec<u8>> = (0..8).map(|n| vec![n; 1 << 20]).collect();
        std::thread::scope(|scope| {
            for bytes in &contents {
                scope.spawn(|| install(dir.path(), bytes).unwrap());
            }
        });
        let present = fs::read(dir.path().join(PLUGIN)).unwrap();
        assert!(contents.contains(&present));
        assert_eq!(names(dir.path()), [PLUGIN]);
    }

    #[test]
    fn each_obstacle_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let taken = dir.path().join("taken");
        fs::create_dir_all(taken.join(PLUGIN)).unwrap();
        for (bin_dir, wants) in [
            (dir.path().join("missing"), "does not exist: name"),
            (file, "is no directory: name"),
            (taken.clone(), "a directory named weft-cni"),
        ] {
            let error = explain(&bin_dir, b"x", install(&bin_dir, b"x").unwrap_err());
            let text = format!("{error:#}");
            assert!(text.contains(wants), "{text}");
            assert!(text.contains(&bin_dir.display().to_string()), "{text}");
        }
        assert_eq!(names(&taken), [PLUGIN], "nothing is left of a failed run");
        for (kind, wants) in [
            (io::ErrorKind::ReadOnlyFilesystem, "cni.binDir"),
            (io::ErrorKind::StorageFull, "free 1 MiB"),
            (io::ErrorKind::PermissionDenied, "SELinux"),
        ] {
            let text = explain(Path::new("/opt"), b"x", kind.into()).to_string();
            assert!(text.contains(wants), "{text}");
        }
    }
}
