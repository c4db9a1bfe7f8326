//! `weft tunnel`: the userspace WireGuard engine alone, configured by `wg`, in the place of
//! wireguard-go or boringtun-cli. As `weft-tunnel` it is what `wg-quick` calls.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use weft_mesh::tunnel::userspace::{Access, SOCKETS, UserspaceTunnel};

use super::up::filter;

/// The name by which this command is called alone.
pub(super) const NAME: &str = "weft-tunnel";
/// Tells the process in the background that somebody waits for a byte on its output.
const WAITS: &str = "WEFT_TUNNEL_WAITS";

#[derive(Debug, clap::Args)]
pub(super) struct TunnelArgs {
    /// The network interface to make; it goes with the process, and the process with it
    #[arg(value_name = "IFNAME")]
    link: String,

    /// Stay in the foreground; otherwise the command returns once socket and interface are there
    #[arg(short, long)]
    foreground: bool,

    /// Where the socket IFNAME.sock is made, by which `wg` configures the interface
    #[arg(long, value_name = "DIR", default_value = SOCKETS)]
    sockets: PathBuf,

    /// What is logged: error, warn, info, debug or trace, or a filter by module
    #[arg(long, env = "WEFT_LOG", value_name = "LEVEL", default_value = "warn")]
    log: String,
}

/// The arguments, for a process that is called by [`NAME`].
pub(super) fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    arguments.insert(1, "tunnel".into());
    arguments
}

pub(super) fn run(args: &TunnelArgs) -> anyhow::Result<ExitCode> {
    if args.foreground {
        return foreground(args);
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("weft")
        .args(["tunnel", "--foreground", "--log", &args.log, "--sockets"])
        .arg(&args.sockets)
        .arg(&args.link)
        .env(WAITS, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("start in the background")?;
    let mut ready = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut ready)?;
    }
    if !ready.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why.
    let status = child.wait()?;
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn foreground(args: &TunnelArgs) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(filter(&args.log)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let tunnel = UserspaceTunnel::open_for_process(&args.link)?;
    tunnel.listen()?;
    let socket = tunnel
        .serve(&args.sockets, Access::ReadWrite)
        .with_context(|| format!("make the socket of {} in {:?}", args.link, args.sockets))?;
    if std::env::var_os(WAITS).is_some() {
        detach()?;
    } else {
        eprintln!(
            "{} is there; configure it by wg(8), socket {socket:?}",
            args.link
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let tunnel = Arc::new(tunnel);
    let watched = Arc::clone(&tunnel);
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let deleted = tokio::task::spawn_blocking(move || watched.wait_deleted());
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = deleted => {}
        }
        anyhow::Ok(())
    })?;
    // The thread that waits for the link's end holds the tunnel, so it is not dropped by itself.
    tunnel.stop_serving();
    runtime.shutdown_background();
    std::process::exit(0)
}

/// Leaves the terminal, and lets whoever waits go on.
fn detach() -> anyhow::Result<()> {
    // Refused to the leader of a group, which this process is not.
    rustix::process::setsid().context("leave the session")?;
    let mut output = std::io::stdout();
    if output
        .write_all(b"\n")
        .and_then(|()| output.flush())
        .is_err()
    {
        bail!("whoever started this has gone");
    }
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
