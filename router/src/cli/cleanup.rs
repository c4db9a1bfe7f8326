//! `weft cleanup`: takes off this host everything that bears weft's mark, with or without an agent.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::host::MESH_LINK;
use crate::kernel::Linux;

/// `/var/run/wireguard` by the name that a link to `/run` does not lead out of `--root`.
const SOCKETS: &str = "/run/wireguard";

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

    /// Where `weft install` put the plugin
    #[arg(
        long,
        env = "WEFT_CNI_BIN_DIR",
        value_name = "DIR",
        default_value = "/opt/cni/bin"
    )]
    cni_bin_dir: PathBuf,

    /// Where the host's files are seen, for a container that has them elsewhere
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// Remove the state as well: the node's identity, keys and leases
    #[arg(long)]
    state: bool,
}

pub(super) fn run(args: &CleanupArgs, socket: &Path) -> anyhow::Result<()> {
    let on_host = |path: &Path| args.root.join(path.strip_prefix("/").unwrap_or(path));
    let socket = on_host(socket);
    if UnixStream::connect(&socket).is_ok() {
        bail!(
            "an agent runs at {}: end it first, with `weft down` or, in Kubernetes, by deleting its \
             DaemonSet",
            socket.display()
        );
    }
    let mut done = Vec::new();
    let mut failed = Vec::new();

    // No runtime shall call what is about to go.
    let conf_dir = on_host(&args.cni_conf_dir);
    let networks = crate::cluster::restore(&conf_dir);
    for name in networks.restored {
        done.push(format!("put back {}", conf_dir.join(name).display()));
    }
    failed.extend(networks.failed.iter().map(ToString::to_string));
    let bin_dir = on_host(&args.cni_bin_dir);
    match super::install::remove(&bin_dir) {
        Ok(true) => done.push(format!("removed weft-cni from {}", bin_dir.display())),
        Ok(false) => {}
        Err(error) => failed.push(format!(
            "remove weft-cni from {}: {error}",
            bin_dir.display()
        )),
    }

    let sockets = on_host(Path::new(SOCKETS));
    if remove_tunnel_socket(&sockets) {
        done.push(format!("removed {}/{MESH_LINK}.sock", sockets.display()));
    }

    let state_dir = on_host(&args.state_dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let cleaned = runtime.block_on(async { Linux::open(&state_dir)?.cleanup().await })?;
    done.extend(cleaned.done);
    failed.extend(
        cleaned
            .failed
            .iter()
            .map(|(what, error)| format!("{what}: {error}")),
    );
    for line in &done {
        println!("{line}");
    }
    for line in &failed {
        eprintln!("weft: {line}");
    }
    if !failed.is_empty() {
        bail!("{} things could not be taken away", failed.len());
    }
    if args.state && state_dir.exists() {
        std::fs::remove_dir_all(&state_dir)
            .with_context(|| format!("remove {}", state_dir.display()))?;
        println!("removed {}", state_dir.display());
    }
    Ok(())
}

/// Whether the socket that `wg show` asks was left there, by an agent that was killed. The directory
/// goes with it where no other engine has a socket in it.
fn remove_tunnel_socket(dir: &Path) -> bool {
    let removed = std::fs::remove_file(dir.join(format!("{MESH_LINK}.sock"))).is_ok();
    // It is not ours alone, and mostly not empty where it is not.
    let _ = std::fs::remove_dir(dir);
    removed
}
