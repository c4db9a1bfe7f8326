//! The command line: one file a command. All but `up`, `tunnel`, `demo` and `cleanup` speak to the agent
//! over its control socket.

mod attach;
mod cleanup;
mod control;
mod install;
mod status;
mod tunnel;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::SOCKET;

/// What `up` ends with when starting it again would change nothing; the systemd unit knows it.
const FORGOTTEN_CODE: u8 = 3;

/// An encrypted mesh network for Kubernetes clusters and edge nodes.
#[derive(Debug, Parser)]
#[command(name = "weft", version, max_term_width = 100)]
struct Cli {
    /// The agent's control socket
    #[arg(long, global = true, env = "WEFT_SOCKET", value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node's agent: make a mesh, join one, or go on with the one of the last run
    Up(Box<up::UpArgs>),
    /// Say goodbye to the mesh and end the agent
    Down,
    /// Show what the agent knows, and what is wrong
    Status(status::StatusArgs),
    /// Give a container or network namespace an interface, addresses and a name
    Attach(attach::AttachArgs),
    /// Take the interface away again
    Detach(attach::DetachArgs),
    /// Remove a node from the mesh for good: its record, key and ranges, everywhere
    Forget(control::ForgetArgs),
    /// The secrets that let nodes join
    #[command(subcommand)]
    Token(control::TokenCommand),
    /// The mesh's names
    #[command(subcommand)]
    Dns(control::DnsCommand),
    /// Run the userspace WireGuard engine alone, configured by `wg`
    Tunnel(tunnel::TunnelArgs),
    /// Show a whole mesh at work in namespaces of its own, touching nothing on this host
    Demo(crate::demo::DemoArgs),
    /// Put the CNI plugin where the container runtime looks for plugins
    Install(install::InstallArgs),
    /// Take everything that weft made off this host: links, routes, firewall table, sysctls
    Cleanup(cleanup::CleanupArgs),
}

/// The `weft` program, from its arguments to its exit code. Must be called before any thread is
/// started: `demo` enters namespaces of its own.
pub fn main() -> ExitCode {
    if weft_cni::plugin::NAMES.into_iter().any(called_as) {
        return weft_cni::plugin::run();
    }
    if let Some(code) = crate::demo::helper() {
        return code;
    }
    let cli = if called_as(tunnel::NAME) {
        Cli::parse_from(tunnel::arguments())
    } else {
        Cli::parse()
    };
    let socket = &cli.socket;
    let result = match cli.command {
        Command::Up(args) => up::run(*args, socket),
        Command::Down => control::down(socket),
        Command::Status(args) => status::run(&args, socket),
        Command::Attach(args) => attach::attach(&args, socket),
        Command::Detach(args) => attach::detach(&args, socket),
        Command::Forget(args) => control::forget(&args, socket),
        Command::Token(command) => control::token(&command, socket),
        Command::Dns(command) => control::dns(&command, socket),
        Command::Tunnel(args) => match tunnel::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Demo(args) => return crate::demo::run(args),
        Command::Install(args) => install::run(&args),
        Command::Cleanup(args) => cleanup::run(&args, socket),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft: {}", sentence(&error));
            match error.is::<crate::agent::Forgotten>() {
                true => ExitCode::from(FORGOTTEN_CODE),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// The error and its causes, each said once: many of our errors name their cause already.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn called_as(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|program| {
        PathBuf::from(program)
            .file_name()
            .is_some_and(|file| file == name)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn a_cause_is_said_once() {
        use anyhow::Context as _;
        let inner = anyhow::anyhow!("no such file");
        let told = Err::<(), _>(inner)
            .context("read a: no such file")
            .context("start");
        assert_eq!(
            super::sentence(&told.unwrap_err()),
            "start: read a: no such file"
        );
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
