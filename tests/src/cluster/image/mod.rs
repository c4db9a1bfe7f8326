//! Container images made without a registry and without Docker, in one archive that `ctr images
//! import`, `docker load` and `podman load` all read: an OCI image layout that also has Docker's
//! `manifest.json`.

mod contents;
mod tar;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) use contents::PAUSE;
pub use contents::{agnhost, base, coredns, pause, weft};
use tar::Tar;

/// Other contents of the images, another number: they are made once and kept.
pub(crate) const RECIPE: u32 = 4;
/// Under which name weft's own image is known.
pub const WEFT: &str = "ghcr.io/weft-mesh/weft:v0.1.0";

/// A layer: an archive of files, and its digest.
#[derive(Debug)]
pub struct Layer {
    tar: Vec<u8>,
    digest: String,
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full names with tags; it is the same image under each.
    pub names: Vec<String>,
    pub layers: Vec<Arc<Layer>>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
}

impl Layer {
    /// A layer of what `fill` puts in.
    fn new(fill: impl FnOnce(&mut Tar<Vec<u8>>) -> Result<()>) -> Result<Arc<Self>> {
        let mut tar = Tar::new(Vec::new());
        fill(&mut tar)?;
        let tar = tar.finish()?;
        let digest = digest(&tar);
        Ok(Arc::new(Self { tar, digest }))
    }
}

impl Image {
    /// The bytes of its layers, which are not compressed.
    pub fn size(&self) -> usize {
        self.layers.iter().map(|layer| layer.tar.len()).sum()
    }

    fn config(&self) -> Value {
        let digests: Vec<&str> = self.layers.iter().map(|layer| &*layer.digest).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin:/"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": digests },
        })
    }

    fn manifest(&self, config: &[u8]) -> Value {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer.digest,
                    "size": layer.tar.len(),
                })
            })
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(config),
                "size": config.len(),
            },
            "layers": layers,
        })
    }
}

/// Writes the images into one archive; a layer that several share is there once.
///
/// # Errors
/// When the file cannot be written.
pub fn write(images: &[Image], file: &Path) -> Result<()> {
    // In place at once or not at all: an interrupted run leaves no half of an archive.
    let unfinished = file.with_extension("unfinished");
    let out = fs::File::create(&unfinished)
        .with_context(|| format!("create {}", unfinished.display()))?;
    archive(images, out).with_context(|| format!("write {}", unfinished.display()))?;
    fs::rename(&unfinished, file).with_context(|| format!("write {}", file.display()))
}

fn archive(images: &[Image], out: fs::File) -> io::Result<()> {
    let mut small: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut layers: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let mut index = Vec::new();
    let mut docker = Vec::new();
    for image in images {
        let config = image.config().to_string().into_bytes();
        let manifest = image.manifest(&config).to_string().into_bytes();
        for name in &image.names {
            index.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(&manifest),
                "size": manifest.len(),
                "platform": { "architecture": architecture(), "os": "linux" },
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rsplit(':').next(),
                },
            }));
        }
        let paths: Vec<String> = image.layers.iter().map(|l| blob(&l.digest)).collect();
        docker.push(json!({
            "Config": blob(&digest(&config)),
            "RepoTags": image.names,
            "Layers": paths,
        }));
        small.insert(digest(&config), config);
        small.insert(digest(&manifest), manifest);
        layers.extend(image.layers.iter().map(|l| (&*l.digest, &*l.tar)));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": index,
    });
    let mut tar = Tar::new(BufWriter::new(out));
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file("index.json", 0o644, index.to_string().as_bytes())?;
    let docker = Value::from(docker).to_string();
    tar.file("manifest.json", 0o644, docker.as_bytes())?;
    let small = small.iter().map(|(digest, bytes)| (&**digest, &**bytes));
    for (digest, bytes) in small.chain(layers) {
        tar.file(&blob(digest), 0o644, bytes)?;
    }
    tar.finish()?;
    Ok(())
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// This machine's, in the words of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
