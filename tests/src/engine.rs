//! Userspace engines of WireGuard, ours and others', on nodes: how each is started, and what `wg` gives
//! all of them alike.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use weft_router::demo::net::Node;

use crate::lab::printed;
use crate::tools::target;

/// Whose engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Weft,
    WireguardGo,
    Boringtun,
    Gotatun,
}

impl Engine {
    /// What `.ci/tools` builds of it; nothing for ours, which every test and benchmark is when it is
    /// called `weft`.
    #[must_use]
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Weft => None,
            Self::WireguardGo => Some("wireguard"),
            Self::Boringtun => Some("boringtun-cli"),
            Self::Gotatun => Some("gotatun"),
        }
    }

    /// It on a node, in the foreground, with the link `wg0`.
    ///
    /// # Errors
    /// When this program does not know where it lies.
    pub fn command(self, node: &Node) -> Result<Command> {
        let mut command = match self.program() {
            Some(program) => node.command(target()?.join("tools").join(program)),
            None => node.command(std::env::current_exe()?),
        };
        match self {
            Self::Weft => command.arg0("weft").args(["tunnel", "-f", "wg0"]),
            Self::WireguardGo => command.args(["-f", "wg0"]),
            Self::Boringtun | Self::Gotatun => {
                command.args(["-f", "wg0", "--disable-drop-privileges"])
            }
        };
        Ok(command)
    }
}

/// Gives the device of a node's engine a key of its own; its public key.
///
/// # Errors
/// When `wg` fails.
pub fn make_key(node: &Node) -> Result<String> {
    let file = node.dir().join("key");
    let genkey = ["wg", "genkey"];
    fs::write(&file, printed(node.command("wg").arg("genkey"), &genkey)?)?;
    let path = file.display().to_string();
    let set = ["wg", "set", "wg0", "private-key", &path];
    printed(node.command("wg").args(&set[1..]), &set)?;
    // Not every engine tells its own.
    let mut derive = node.command("wg");
    let derived = derive
        .arg("pubkey")
        .stdin(fs::File::open(&file)?)
        .output()?;
    Ok(String::from_utf8(derived.stdout)?.trim().to_owned())
}

/// Initiations of nobody to a device, each another, with a right first MAC.
///
/// # Errors
/// When `key` is not a public key as `wg` writes it.
pub fn initiations(key: &str, count: u8) -> Result<Vec<Vec<u8>>> {
    let key = data_encoding::BASE64.decode(key.as_bytes())?;
    let key: [u8; 32] = key.try_into().ok().context("no key")?;
    let make = |number: u8| {
        let secret = StaticSecret::from([number; 32]);
        let there = PublicKey::from(key);
        let mut engine = Tunn::new(secret, there, None, None, number.into(), None);
        match engine.format_handshake_initiation(&mut [0; 256], true) {
            TunnResult::WriteToNetwork(initiation) => Ok(initiation.to_vec()),
            other => bail!("no initiation: {other:?}"),
        }
    };
    (1..=count).map(make).collect()
}
