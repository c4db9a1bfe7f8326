//! `image OUT.tar`: weft's container image where there is no Docker, as `docker load`, `podman load`
//! and `ctr images import` read it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use weft_tests::cluster::image::{WEFT, write};
use weft_tests::cluster::{Profile, build};

/// Build weft's programs and make a container image of them and nothing else
#[derive(Parser)]
#[command(name = "image")]
struct Arguments {
    /// The archive to write
    out: PathBuf,

    /// How the programs are built
    #[arg(long, default_value = "release")]
    profile: Profile,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let image = build(arguments.profile)?.image()?;
    let megabytes = image.size() as f64 / 1e6;
    write(&[image], &arguments.out)?;
    println!("{WEFT} in {}: {megabytes:.1} MB", arguments.out.display());
    Ok(())
}
