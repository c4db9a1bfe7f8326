//! `weft cleanup`: takes off this host everything that bears weft's mark, with or without an agent.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::kernel::Linux;

#[derive(Debug, clap::Args)]
pub(super) struct CleanupArgs {
    /// Where the agent kept its state [default: /var/lib/weft]; sysctls are put back from there
    #[arg(
        long,
        env = "WEFT_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/weft"
    )]
    state_dir: PathBuf,

    /// Where the runtime looks for its networks: ours is removed, others' get their names back
    #[arg(
        long,
        env = "WEFT_CNI_CONF_DIR",
        value_name = "DIR",
        default_value = "/etc/cni/net.d"
    )]
    cni_conf_dir: PathBuf,

    /// Remove the state as well: the node's identity, keys and leases
    #[arg(long)]
    state: bool,
}

pub(super) fn run(args: &CleanupArgs, socket: &Path) -> anyhow::Result<()> {
    if UnixStream::connect(socket).is_ok() {
        bail!(
            "an agent runs at {}: end it first with `weft down`",
            socket.display()
        );
    }
    for line in crate::cluster::restore(&args.cni_conf_dir)? {
        println!("{line}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let cleaned = runtime.block_on(async { Linux::open(&args.state_dir)?.cleanup().await })?;
    for line in &cleaned.done {
        println!("{line}");
    }
    for (what, error) in &cleaned.failed {
        eprintln!("weft: {what}: {error}");
    }
    if !cleaned.failed.is_empty() {
        bail!("{} things could not be taken away", cleaned.failed.len());
    }
    if args.state && args.state_dir.exists() {
        std::fs::remove_dir_all(&args.state_dir)
            .with_context(|| format!("remove {}", args.state_dir.display()))?;
        println!("removed {}", args.state_dir.display());
    }
    Ok(())
}
