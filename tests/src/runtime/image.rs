//! The one image of the lab's containers, made by hand: there is no registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::ensure;
use anyhow::{Context, Result};
use serde_json::json;

/// Its name.
pub const IMAGE: &str = "localhost/busybox:1";
/// What its web server has to show.
pub const PAGE: &str = "from the other node's container";

/// An image of busybox alone, as `docker save` would write it.
pub(super) fn image() -> Result<PathBuf> {
    let dir = PathBuf::from("/run/weft-lab/image");
    let rootfs = dir.join("rootfs");
    for folder in ["bin", "www", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox"))?;
    fs::write(rootfs.join("www/index.html"), PAGE)?;
    let tar = |file: &str, from: &Path, words: &[&str]| {
        let mut command = Command::new("tar");
        command
            .arg("-cf")
            .arg(dir.join(file))
            .arg("-C")
            .arg(from)
            .args(words);
        checked(&mut command)
    };
    tar("layer.tar", &rootfs, &["."])?;
    let sum = checked(Command::new("sha256sum").arg(dir.join("layer.tar")))?;
    let sum = sum.split_whitespace().next().context("no sum")?;
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/busybox", "sleep", "600"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{sum}")] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    tar(
        "image.tar",
        &dir,
        &["manifest.json", "config.json", "layer.tar"],
    )?;
    Ok(dir.join("image.tar"))
}

/// What a command printed; where it failed, its errors.
pub(super) fn checked(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure(
        output.status.success(),
        format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
