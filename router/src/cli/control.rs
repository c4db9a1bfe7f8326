//! `weft down`, `forget`, `token` and `dns`: one question to the agent each.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;

use crate::control::{ControlReply, ControlRequest, ask};

#[derive(Debug, clap::Args)]
pub(super) struct ForgetArgs {
    /// The node's name, or the start of its identity
    node: String,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum TokenCommand {
    /// Make another token and print its join line
    Create,
    /// List the tokens, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new token and let no other admit anybody new; known nodes come back all the same
    Rotate,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum DnsCommand {
    /// Print the addresses of a name, as this node's server answers them
    Lookup {
        /// In the mesh's domain, or whole
        name: String,
    },
}

pub(super) fn down(socket: &Path) -> anyhow::Result<()> {
    ask(socket, &ControlRequest::Down)?;
    Ok(())
}

pub(super) fn forget(args: &ForgetArgs, socket: &Path) -> anyhow::Result<()> {
    match ask(
        socket,
        &ControlRequest::Forget {
            who: args.node.clone(),
        },
    )? {
        ControlReply::Forgotten { name, id } => println!("forgot {name} ({id})"),
        other => bail!("the agent answered something else: {other:?}"),
    }
    Ok(())
}

pub(super) fn token(command: &TokenCommand, socket: &Path) -> anyhow::Result<()> {
    let request = match command {
        TokenCommand::Create => ControlRequest::TokenCreate,
        TokenCommand::List { .. } => ControlRequest::TokenList,
        TokenCommand::Rotate => ControlRequest::TokenRotate,
    };
    match ask(socket, &request)? {
        ControlReply::Token { join } => println!("weft up --join {join}"),
        ControlReply::Tokens { tokens } if matches!(command, TokenCommand::List { json: true }) => {
            println!("{}", serde_json::to_string_pretty(&tokens)?);
        }
        ControlReply::Tokens { tokens } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.unwrap_or_default().as_secs();
            println!("{:<18} {:<8} CREATED", "TOKEN", "STATE");
            for token in tokens {
                let age = ago(now.saturating_sub(token.created));
                println!("{:<18} {:<8} {age}", token.id, token.state);
            }
        }
        other => bail!("the agent answered something else: {other:?}"),
    }
    Ok(())
}

pub(super) fn dns(command: &DnsCommand, socket: &Path) -> anyhow::Result<()> {
    let DnsCommand::Lookup { name } = command;
    match ask(socket, &ControlRequest::DnsLookup { name: name.clone() })? {
        ControlReply::Addresses { addresses } if addresses.is_empty() => {
            bail!("{name}: no such name")
        }
        ControlReply::Addresses { addresses } => {
            for address in addresses {
                println!("{address}");
            }
        }
        other => bail!("the agent answered something else: {other:?}"),
    }
    Ok(())
}

/// An age in the largest unit that fits.
fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_the_largest_unit_that_fits() {
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(ago);
        let wanted = ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"];
        assert_eq!(ages, wanted.map(|age| format!("{age} ago")));
    }
}
