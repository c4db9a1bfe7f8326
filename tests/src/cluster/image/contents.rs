//! What is in each image: programs of this machine with the libraries that they ask for, and
//! binaries that we built.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::tar::Tar;
use super::{Image, Layer, WEFT};
use crate::cluster::program;

/// Under which names upstream's suite asks for a shell and for its tools.
const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1";
const TOOLS: [&str; 2] = [
    "registry.k8s.io/e2e-test-images/agnhost:2.56",
    "registry.k8s.io/e2e-test-images/jessie-dnsutils:1.7",
];
/// What the suite runs in those, besides agnhost itself, and this machine's names for it. The rest is
/// busybox, whose `nc` is too small a one.
const PROGRAMS: [(&str, &str); 7] = [
    ("bash", "bash"),
    ("curl", "curl"),
    ("dig", "dig"),
    ("getent", "getent"),
    ("ip", "ip"),
    ("nc", "nc.openbsd"),
    ("ss", "ss"),
];
/// Of the pod's sandbox; the runtime's configuration names it.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10.1";
/// The cluster's DNS server; its manifest names it.
const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.15.0";

/// Busybox under the name of each of its programs, and what every root file system has.
///
/// # Errors
/// When there is no static busybox.
pub fn base() -> Result<Arc<Layer>> {
    let busybox = program("busybox")?;
    if !libraries(&busybox)?.is_empty() {
        bail!("busybox is not static: install the package busybox-static");
    }
    let listed = Command::new(&busybox).arg("--list").output()?;
    let names = String::from_utf8(listed.stdout).context("the names of busybox's programs")?;
    Layer::new(|tar| {
        for folder in ["etc", "dev", "proc", "sys", "run", "var", "usr/bin"] {
            tar.folder(folder)?;
        }
        tar.shared_folder("tmp")?;
        tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
        tar.file("etc/group", 0o644, b"root:x:0:\n")?;
        tar.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
        tar.file("bin/busybox", 0o755, &fs::read(&busybox)?)?;
        for name in names.lines().filter(|name| *name != "busybox") {
            tar.link(&format!("bin/{name}"), "busybox")?;
        }
        Ok(())
    })
}

/// The sandbox's image and the plain shell's: nothing but the base.
pub fn pause(base: &Arc<Layer>) -> Vec<Image> {
    let image = |name: &str, command: &[&str]| Image {
        names: vec![name.to_owned()],
        layers: vec![Arc::clone(base)],
        entrypoint: Vec::new(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
    };
    vec![
        // Until it is killed, as a sandbox's process always is.
        image(PAUSE, &["/bin/sleep", "2147483647"]),
        image(BUSYBOX, &["sh"]),
    ]
}

/// The suite's own program, the tools that it runs by name, and the certificate, out of the folder
/// `porter`, with which it serves HTTPS.
///
/// # Errors
/// When one of the programs is missing on this machine.
pub fn agnhost(base: &Arc<Layer>, agnhost: &Path, porter: &Path) -> Result<Image> {
    let tools = Layer::new(|tar| {
        let mut all = BTreeSet::new();
        for (name, own) in PROGRAMS {
            let file = program(own)?;
            all.extend(libraries(&file)?);
            tar.file(&format!("usr/bin/{name}"), 0o755, &fs::read(&file)?)?;
        }
        // Busybox's shell runs its own `nc`, `ip` and the like, whatever the path says.
        for name in ["sh", "bash"] {
            tar.link(&format!("bin/{name}"), "/usr/bin/bash")?;
        }
        for library in all {
            put(tar, &library)?;
        }
        for name in ["localhost.crt", "localhost.key"] {
            tar.file(name, 0o644, &fs::read(porter.join(name))?)?;
        }
        Ok(())
    })?;
    let agnhost = binary("agnhost", agnhost)?;
    Ok(Image {
        names: TOOLS.map(ToOwned::to_owned).into(),
        layers: vec![Arc::clone(base), tools, agnhost],
        entrypoint: vec!["/agnhost".to_owned()],
        command: vec!["pause".to_owned()],
    })
}

/// The cluster's DNS server.
///
/// # Errors
/// When it was not built.
pub fn coredns(coredns: &Path) -> Result<Image> {
    Ok(Image {
        names: vec![COREDNS.to_owned()],
        layers: vec![binary("coredns", coredns)?],
        entrypoint: vec!["/coredns".to_owned()],
        command: Vec::new(),
    })
}

/// Weft's own image: its two programs and nothing else.
///
/// # Errors
/// When one of them is missing, or is not static.
pub fn weft(weft: &Path, plugin: &Path) -> Result<Image> {
    for file in [weft, plugin] {
        if !libraries(file)?.is_empty() {
            bail!("{} is not static", file.display());
        }
    }
    let layer = Layer::new(|tar| {
        for (name, file) in [("weft", weft), ("weft-cni", plugin)] {
            let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
            tar.file(name, 0o755, &bytes)?;
        }
        Ok(())
    })?;
    Ok(Image {
        names: vec![WEFT.to_owned()],
        layers: vec![layer],
        entrypoint: vec!["/weft".to_owned()],
        command: Vec::new(),
    })
}

fn binary(name: &str, file: &Path) -> Result<Arc<Layer>> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Layer::new(|tar| Ok(tar.file(name, 0o755, &bytes)?))
}

/// A library, at the path by which programs ask for it.
fn put(tar: &mut Tar<Vec<u8>>, library: &Path) -> Result<()> {
    let bytes = fs::read(library).with_context(|| format!("read {}", library.display()))?;
    let path = library.strip_prefix("/").unwrap_or(library);
    let path = path.to_str().context("a library's name")?;
    Ok(tar.file(path, 0o755, &bytes)?)
}

/// The libraries that the loader finds for a program; none, if it is static.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all = text.lines().filter(|line| !line.contains("statically"));
    let paths = all.flat_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}
