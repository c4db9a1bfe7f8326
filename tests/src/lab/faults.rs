//! Faults on the underlay, by rules on its bridge: partitions and loss. And programs run for tests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Lab, LabNode, ensure};
use crate::runner::skip;

/// What is wrong with the underlay now; the rules are always made from the whole of it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Pairs of groups of bridge ports with nothing between them.
    partitions: Vec<(Vec<String>, Vec<String>)>,
    /// Of each port, the share of frames lost each way, percent.
    loss: BTreeMap<String, u8>,
}

impl Lab {
    /// Lets nothing pass between two groups of nodes, until [`Lab::heal`].
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn partition(&self, one: &[&LabNode], other: &[&LabNode]) -> Result<()> {
        let ports = |nodes: &[&LabNode]| {
            nodes
                .iter()
                .map(|node| node.port().bridge_port.clone())
                .collect()
        };
        self.faults
            .borrow_mut()
            .partitions
            .push((ports(one), ports(other)));
        self.apply()
    }

    /// Ends every partition.
    ///
    /// # Errors
    /// As [`Lab::partition`].
    pub fn heal(&self) -> Result<()> {
        self.faults.borrow_mut().partitions.clear();
        self.apply()
    }

    /// Loses `percent` of the frames to a node, and as many of those from it; 0 ends it.
    ///
    /// # Errors
    /// As [`Lab::partition`].
    pub fn lose(&self, node: &LabNode, percent: u8) -> Result<()> {
        ensure(percent <= 100, "more than all cannot be lost")?;
        self.faults
            .borrow_mut()
            .loss
            .insert(node.port().bridge_port.clone(), percent);
        self.apply()
    }

    /// Pulls a node's cable.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn unplug(&self, node: &LabNode) -> Result<()> {
        Ok(self.netns.netlink().down(node.port().bridge_index)?)
    }

    /// Puts a node's cable back.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn plug(&self, node: &LabNode) -> Result<()> {
        Ok(self.netns.netlink().up(node.port().bridge_index)?)
    }

    fn apply(&self) -> Result<()> {
        have("nft")?;
        let rules = rules(&self.faults.borrow());
        nft(self.netns.command("nft"), &rules)
    }
}

/// The whole table, made anew in one transaction.
fn rules(faults: &Faults) -> String {
    let mut text =
        "table bridge faults\ndelete table bridge faults\ntable bridge faults {\n\tchain pass {\n\
                    \t\ttype filter hook forward priority 0; policy accept;\n"
            .to_owned();
    let set = |ports: &[String]| {
        let quoted: Vec<String> = ports.iter().map(|port| format!("\"{port}\"")).collect();
        format!("{{ {} }}", quoted.join(", "))
    };
    for (one, other) in &faults.partitions {
        let (one, other) = (set(one), set(other));
        let _ = writeln!(text, "\t\tiifname {one} oifname {other} drop");
        let _ = writeln!(text, "\t\tiifname {other} oifname {one} drop");
    }
    for (port, percent) in faults.loss.iter().filter(|(_, percent)| **percent > 0) {
        for way in ["iifname", "oifname"] {
            let _ = writeln!(
                text,
                "\t\t{way} \"{port}\" numgen random mod 100 < {percent} drop"
            );
        }
    }
    text.push_str("\t}\n}\n");
    text
}

/// Feeds a rule set to `nft`.
pub(super) fn nft(mut command: Command, rules: &str) -> Result<()> {
    let mut child = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).context("write to nft")?;
    }
    let output = child.wait_with_output().context("wait for nft")?;
    if !output.status.success() {
        bail!(
            "nft refused:\n{rules}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Runs a command, whose words are for the error; what it printed.
///
/// # Errors
/// When it fails, with what it printed.
pub fn printed(command: &mut Command, words: &[&str]) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| words.join(" "))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{text}{errors}", words.join(" "), output.status);
    }
    Ok(text)
}

/// Skips the test where the program is not installed.
///
/// # Errors
/// Then, with the reason.
pub fn have(program: &str) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|folder| std::path::Path::new(folder).join(program).is_file());
    if found {
        return Ok(());
    }
    skip(format!("{program} is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_made_from_the_whole_state() {
        let faults = Faults {
            partitions: vec![(vec!["wanp2".into()], vec!["wanp3".into(), "wanp4".into()])],
            loss: [("wanp2".into(), 5), ("wanp3".into(), 0)].into(),
        };
        let text = rules(&faults);
        assert!(
            text.contains("iifname { \"wanp2\" } oifname { \"wanp3\", \"wanp4\" } drop"),
            "{text}"
        );
        assert!(
            text.contains("oifname \"wanp2\" numgen random mod 100 < 5 drop"),
            "{text}"
        );
        assert!(!text.contains("< 0"), "{text}");
    }
}
