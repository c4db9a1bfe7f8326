//! Upstream's own programs, built once from their Go modules (`tests/kubernetes/`) and kept: the
//! cluster is the real thing, and so is the suite that tests it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::image::{self, Layer};
use super::{program, root};

/// In whose folder `bin` they are kept, unless the variable says otherwise.
const DEFAULT: &str = "target/kubernetes";
const VARIABLE: &str = "WEFT_KUBERNETES_DIR";
/// What the modules' versions are, as the programs say it themselves.
const VERSION: &str = "v1.34.4";

/// What one program is built from.
struct Source {
    name: &'static str,
    /// Below `tests/kubernetes`.
    module: &'static str,
    package: &'static str,
    kind: Kind,
}

enum Kind {
    Program,
    /// The test binary of its package.
    Suite,
}

const fn kubernetes(name: &'static str, package: &'static str) -> Source {
    Source {
        name,
        module: ".",
        package,
        kind: Kind::Program,
    }
}

/// In the order in which they are built: what is needed first comes first.
const SOURCES: [Source; 9] = [
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    kubernetes(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    kubernetes("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    kubernetes("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
    Source {
        name: "coredns",
        module: "coredns",
        package: "github.com/coredns/coredns",
        kind: Kind::Program,
    },
    Source {
        name: "e2e.test",
        module: ".",
        package: "k8s.io/kubernetes/test/e2e",
        kind: Kind::Suite,
    },
];

/// The folder with the programs, whole.
#[derive(Clone, Debug)]
pub struct Upstream(PathBuf);

impl Upstream {
    /// Finds what was built, or builds what is missing: minutes, the first time. Says each step.
    ///
    /// # Errors
    /// When there is no Go, a module cannot be had, or the disk is full.
    pub fn ready(mut say: impl FnMut(&str)) -> Result<Self> {
        let dir = std::env::var_os(VARIABLE).map_or_else(|| root().join(DEFAULT), PathBuf::from);
        let this = Self(std::path::absolute(dir)?.join("bin"));
        fs::create_dir_all(&this.0).with_context(|| format!("create {}", this.0.display()))?;
        let stamp = stamp()?;
        for source in &SOURCES {
            this.build(source, &stamp, &mut say)?;
        }
        this.images(&stamp, &mut say)?;
        Ok(this)
    }

    /// Where the programs are.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Where the program of this name is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The archive of the images that every node has.
    pub fn archive(&self) -> PathBuf {
        self.0.join("images.tar")
    }

    fn build(&self, source: &Source, stamp: &str, say: &mut impl FnMut(&str)) -> Result<()> {
        let out = self.program(source.name);
        if self.is_of(source.name, stamp) && out.exists() {
            return Ok(());
        }
        say(&format!("building {} …", source.name));
        let started = Instant::now();
        let unfinished = out.with_extension("unfinished");
        let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={VERSION}");
        let go = program("go").context("Kubernetes is built by Go, 1.26 or newer")?;
        let mut command = Command::new(go);
        match source.kind {
            Kind::Program => command.arg("build"),
            Kind::Suite => command.args(["test", "-c"]),
        };
        let status = command
            .args(["-trimpath", "-ldflags", &flags, "-o"])
            .arg(&unfinished)
            .arg(source.package)
            .current_dir(root().join("tests/kubernetes").join(source.module))
            .env("CGO_ENABLED", "0")
            .status()
            .context("run go")?;
        ensure!(status.success(), "go could not build {}", source.name);
        fs::rename(&unfinished, &out)?;
        self.mark(source.name, stamp)?;
        say(&format!(
            "built {} in {} s",
            source.name,
            started.elapsed().as_secs()
        ));
        Ok(())
    }

    fn images(&self, stamp: &str, say: &mut impl FnMut(&str)) -> Result<()> {
        // What is in the images is said by this very program, so a new one makes them anew.
        let stamp = format!("{stamp} {}", image::RECIPE);
        if self.is_of("images.tar", &stamp) && self.archive().exists() {
            return Ok(());
        }
        say("making the images …");
        let base: Arc<Layer> = image::base()?;
        let mut images = image::pause(&base);
        images.push(image::agnhost(
            &base,
            &self.program("agnhost"),
            &source_of("k8s.io/kubernetes/test/images/agnhost/porter")?,
        )?);
        images.push(image::coredns(&self.program("coredns"))?);
        image::write(&images, &self.archive())?;
        self.mark("images.tar", &stamp)
    }

    fn is_of(&self, name: &str, stamp: &str) -> bool {
        fs::read_to_string(self.stamp_of(name)).is_ok_and(|found| found == stamp)
    }

    fn mark(&self, name: &str, stamp: &str) -> Result<()> {
        Ok(fs::write(self.stamp_of(name), stamp)?)
    }

    fn stamp_of(&self, name: &str) -> PathBuf {
        self.0.join(format!(".{name}.stamp"))
    }
}

/// Where the source of a package of Kubernetes lies.
fn source_of(package: &str) -> Result<PathBuf> {
    let output = Command::new(program("go")?)
        .args(["list", "-f", "{{.Dir}}", package])
        .current_dir(root().join("tests/kubernetes"))
        .output()
        .context("run go")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "go list {package}: {said}");
    let dir = String::from_utf8(output.stdout).context("the name of a folder")?;
    Ok(dir.trim_end().into())
}

/// Says what the programs are made of: other modules, another stamp.
fn stamp() -> Result<String> {
    let mut hash = Sha256::new();
    for file in ["go.mod", "go.sum", "coredns/go.mod", "coredns/go.sum"] {
        let path: PathBuf = Path::new("tests/kubernetes").join(file);
        let bytes = fs::read(root().join(&path));
        hash.update(bytes.with_context(|| format!("read {}", path.display()))?);
    }
    let Some(first) = hash.finalize().first_chunk::<8>().copied() else {
        bail!("a hash has 32 bytes");
    };
    Ok(format!("{VERSION} {:016x}", u64::from_be_bytes(first)))
}
