//! `weft up`: the agent.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::agent::{Agent, Renewed};
use crate::config::{CONFIG_FILE, Config, Settings};

/// A node that has to make itself new keys again and again does so no faster than this.
const RENEWED: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    /// Join a mesh: what another node's `weft up` or `weft token create` printed
    #[arg(
        long,
        env = "WEFT_JOIN",
        value_name = "TOKEN@HOST[:PORT][,HOST...]",
        hide_env_values = true
    )]
    join: Option<String>,

    /// The settings file; its keys are this command's flags without the dashes [default:
    /// /etc/weft/weft.toml, where it is there]
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// What is logged: error, warn, info, debug or trace, or a filter by module
    #[arg(long, env = "WEFT_LOG", value_name = "LEVEL", default_value = "info")]
    log: String,

    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: UpArgs, socket: &Path) -> anyhow::Result<()> {
    let filter = filter(&args.log)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let file = Settings::from_file(
        args.config.as_deref().unwrap_or(Path::new(CONFIG_FILE)),
        args.config.is_some(),
    )?;
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy();
    let settings = args.settings.over(file);
    let config = Config::build(settings, &hostname, socket.to_owned(), args.join.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        loop {
            match Agent::start(config.clone()).await?.run().await {
                Err(error) if error.is::<Renewed>() => tokio::time::sleep(RENEWED).await,
                ended => return ended,
            }
        }
    });
    // A name that does not resolve must not hold the end up.
    runtime.shutdown_background();
    result
}

/// The log's filter. boringtun calls each peer that is away an error, again and again, and kube each
/// try of a server that is; `weft status` says the same once, so they are heard only where they are
/// asked for by name.
pub(super) fn filter(log: &str) -> anyhow::Result<EnvFilter> {
    let loud = ["boringtun", "kube_client"];
    let quiet = loud.iter().filter(|name| !log.contains(*name));
    let quiet: String = quiet.map(|name| format!(",{name}=off")).collect();
    EnvFilter::try_new(format!("{log}{quiet}"))
        .with_context(|| format!("--log {log:?}: error, warn, info, debug or trace"))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn the_engine_is_quiet_unless_it_is_asked_for() {
        assert!(
            filter("info")
                .unwrap()
                .to_string()
                .contains("boringtun=off")
        );
        assert!(
            filter("boringtun=debug")
                .unwrap()
                .to_string()
                .contains("boringtun=debug")
        );
        assert!(filter("a=b=c").is_err());
    }
}
