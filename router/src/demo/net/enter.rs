//! Going into namespaces of our own, as root or as an ordinary user, before any thread starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::UnshareFlags;

use super::{During, NetError};

/// Everything that we build lives below this directory, on a tmpfs that only we see.
const RUN: &str = "/run";

/// With whose rights the namespaces were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The rights over the network that the process already had.
    Root,
    /// Those of a user namespace of our own.
    UserNamespace,
}

/// The namespaces of this process, now its own.
#[derive(Debug)]
pub struct Entered {
    pub privilege: Privilege,
    /// A directory on a private tmpfs, gone with the last process that sees it.
    pub dir: PathBuf,
}

/// Moves this process into a network and a mount namespace of its own, inside a user namespace
/// where it has not the rights otherwise; hides `/run`, `/etc/weft`, `/var/lib/weft` and the host's
/// resolvers from it.
///
/// To be called once, while the process has one thread: a user namespace can be entered by no other.
///
/// # Errors
/// [`NetError::Refused`] says which setting of the machine forbids it.
pub fn enter(name: &str) -> Result<Entered, NetError> {
    let threads = fs::read_dir("/proc/self/task")
        .during(|| "read /proc/self/task".to_owned())?
        .count();
    if threads != 1 {
        return Err(NetError::Refused(format!(
            "namespaces must be entered by a process of one thread, and this one has {threads}"
        )));
    }
    let privilege = unshare_network()?;
    // The device belongs to whoever owns the file, not to the namespace.
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| NetError::Refused(why_no_tun(&error, privilege)))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|errno| match (errno, privilege) {
        (Errno::PERM | Errno::ACCESS, Privilege::UserNamespace) => {
            NetError::Refused(why_no_user_namespace(errno))
        }
        _ => NetError::io("make the mounts private", errno),
    })?;
    let dir = hide_the_host(name)?;
    Ok(Entered { privilege, dir })
}

fn unshare_network() -> Result<Privilege, NetError> {
    let ours = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    match unshare(ours) {
        Ok(()) => return Ok(Privilege::Root),
        Err(Errno::PERM) => {}
        Err(errno) => return Err(NetError::io("make a network namespace", errno)),
    }
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(ours | UnshareFlags::NEWUSER)
        .map_err(|errno| NetError::Refused(why_no_user_namespace(errno)))?;
    // user_namespaces(7): without this a process that has no rights outside may not map its group.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    Ok(Privilege::UserNamespace)
}

/// Mounts an empty tmpfs where the host's own state would be seen, and makes our directory in it.
fn hide_the_host(name: &str) -> Result<PathBuf, NetError> {
    let resolv = Path::new("/etc/resolv.conf");
    let resolv_target = fs::read_link(resolv).map(|target| Path::new("/etc").join(target));
    tmpfs(RUN)?;
    // Shared, so that a namespace named later is seen by the nodes made before.
    mount_change(RUN, MountPropagationFlags::SHARED).during(|| format!("share {RUN}"))?;
    for host in ["/etc/weft", "/var/lib/weft"] {
        if Path::new(host).is_dir() {
            tmpfs(host)?;
        }
    }
    let dir = Path::new(RUN).join(name);
    for made in [
        &dir,
        Path::new("/run/netns"),
        Path::new("/run/weft"),
        Path::new("/run/wireguard"),
        Path::new("/run/lock"),
    ] {
        fs::create_dir_all(made).during(|| format!("make {}", made.display()))?;
    }
    // Nobody answers there (RFC 5737): what is not in the mesh has no name.
    let ours = dir.join("resolv.conf");
    write(&ours, "nameserver 192.0.2.53\n")?;
    if resolv.exists() {
        mount_bind(&ours, resolv).during(|| "hide /etc/resolv.conf".to_owned())?;
    } else if let Ok(target) = resolv_target {
        // A link into the /run that is now hidden, as systemd-resolved makes it.
        link_target(&ours, &normal(&target))?;
    }
    Ok(dir)
}

fn link_target(ours: &Path, target: &Path) -> Result<(), NetError> {
    if !target.starts_with(RUN) {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).during(|| format!("make {}", parent.display()))?;
    }
    fs::copy(ours, target)
        .map(drop)
        .during(|| format!("write {}", target.display()))
}

/// The path without its `..`, which a hidden directory no longer lets the kernel follow.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn tmpfs(on: &str) -> Result<(), NetError> {
    mount(
        "weft",
        on,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=0755",
    )
    .during(|| format!("mount a tmpfs on {on}"))
}

pub(super) fn write(path: impl AsRef<Path>, text: &str) -> Result<(), NetError> {
    let path = path.as_ref();
    fs::write(path, text).during(|| format!("write {}", path.display()))
}

/// `unshare` of what concerns namespaces only.
#[allow(unsafe_code)]
pub(super) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: only CLONE_FILES can take a descriptor from under another thread, and no caller asks
    // for it.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn why_no_user_namespace(errno: Errno) -> String {
    let setting = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let is = |path: &str, value: &str| setting(path).is_ok_and(|now| now == value);
    let reason = if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "kernel.unprivileged_userns_clone is 0"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "user.max_user_namespaces is 0"
    } else if is(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "kernel.apparmor_restrict_unprivileged_userns is 1"
    } else if errno == Errno::PERM {
        "a container's seccomp filter or a security module forbids them"
    } else {
        return format!(
            "this user may not make a user namespace ({}); run it as root",
            io::Error::from(errno)
        );
    };
    format!("this user may not make a user namespace: {reason}; change that or run it as root")
}

fn why_no_tun(error: &io::Error, privilege: Privilege) -> String {
    match (error.kind(), privilege) {
        (io::ErrorKind::NotFound, _) => {
            "there is no /dev/net/tun: load the kernel's module tun, or give the container the device"
                .to_owned()
        }
        (io::ErrorKind::PermissionDenied, Privilege::UserNamespace) => {
            "this user may not open /dev/net/tun: most systems give it mode 0666 \
             (`chmod 0666 /dev/net/tun`), else run it as root"
                .to_owned()
        }
        _ => format!("open /dev/net/tun: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_etc_is_followed_without_the_kernel() {
        let check = |link: &str, want: &str| {
            assert_eq!(normal(&Path::new("/etc").join(link)), Path::new(want));
        };
        check(
            "../run/systemd/resolve/stub-resolv.conf",
            "/run/systemd/resolve/stub-resolv.conf",
        );
        check("/run/resolv.conf", "/run/resolv.conf");
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test runner's own threads are enough.
        let error = enter("weft-test").unwrap_err().to_string();
        assert!(error.contains("one thread"), "{error}");
    }

    #[test]
    fn a_missing_tun_device_is_named() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert!(why_no_tun(&missing, Privilege::Root).contains("/dev/net/tun"));
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(why_no_tun(&denied, Privilege::UserNamespace).contains("0666"));
    }
}
