//! Weft's own programs as they are shipped: static, and so fit for an image of nothing else.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::image::{self, Image};
use super::options::Profile;
use super::root;

/// The programs, built.
#[derive(Clone, Debug)]
pub struct Built {
    pub weft: PathBuf,
    pub plugin: PathBuf,
}

/// Builds weft for this machine's processor, linked with nothing that an image would need as well.
///
/// # Errors
/// When cargo fails.
pub fn build(profile: Profile) -> Result<Built> {
    // The C library that has a static form everywhere Rust's is.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--target", &target])
        .args(["-p", "weft-router", "-p", "weft-cni", "--bins"])
        .current_dir(root())
        // In place of the user's own, or the programs would differ from machine to machine.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let folder = match profile {
        Profile::Release => {
            command.arg("--release");
            "release"
        }
        Profile::Dev => "debug",
    };
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "cargo could not build weft's programs");
    let out = target_dir().join(target).join(folder);
    Ok(Built {
        weft: out.join("weft"),
        plugin: out.join("weft-cni"),
    })
}

impl Built {
    /// The image of them.
    ///
    /// # Errors
    /// When one is missing, or is not static.
    pub fn image(&self) -> Result<Image> {
        image::weft(&self.weft, &self.plugin)
    }
}

fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
