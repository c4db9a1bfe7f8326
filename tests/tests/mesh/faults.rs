//! A disk that does not do what it should.

use std::fs;

use anyhow::Result;
use weft_tests::lab::{Lab, LabNode, ensure};

use crate::support::{PATIENCE, id, ranges, refused, says, weft_up};

/// Mounts a file system of memory on a node's state directory, where the node alone sees it.
fn mount_state(node: &LabNode, options: &str) -> Result<String> {
    let state = node.machine().state_dir();
    fs::create_dir_all(&state)?;
    let state = state.display().to_string();
    node.run(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", &state])?;
    Ok(state)
}

pub(super) fn a_read_only_state_directory_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let a = lab.node("a")?;
    let state = mount_state(&a, "ro")?;
    let said = refused(&mut weft_up(&a, &["--name", "a", "--state-dir", &state]))?;
    says(
        &said,
        &[
            &state,
            "Read-only",
            "must be on a file system that can be written",
        ],
    )
}

pub(super) fn a_full_disk_refuses_clearly_and_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let (mut a, mut b) = (lab.node("a")?, lab.node("b")?);
    a.up(&[])?;
    let state = mount_state(&b, "size=512k,mode=0700")?;
    let filler = format!("{state}/filler");
    let fill = |node: &LabNode| {
        // It ends with an error, being out of space: that is what it is for.
        node.run(&[
            "sh",
            "-c",
            &format!("dd if=/dev/zero of={filler} bs=4k 2>/dev/null || true"),
        ])
    };
    fill(&b)?;
    let said = refused(&mut weft_up(&b, &["--name", "b", "--state-dir", &state]))?;
    says(&said, &[&state, "No space left", "free some space there"])?;
    b.run(&["rm", &filler])?;

    b.join(&a)?;
    b.wait_established(1, PATIENCE)?;
    let (before, held) = (id(&b)?, ranges(&b)?);
    fill(&b)?;
    let said = format!(
        "{:#}",
        b.weft(&["token", "create"])
            .err()
            .unwrap_or_else(|| anyhow::anyhow!("a token was made on a full disk"))
    );
    says(&said, &["No space left", "free some space there"])?;
    let refusal = b
        .pod("late")
        .err()
        .map(|e| format!("{e:#}"))
        .unwrap_or_default();
    says(&refusal, &["No space left"])?;
    b.wait_established(1, PATIENCE)?;
    b.kill()?;
    b.run(&["rm", &filler])?;
    b.up(&[])?;
    b.wait_established(1, PATIENCE)?;
    ensure(
        (id(&b)?, ranges(&b)?) == (before, held),
        "the full disk cost the identity or the range",
    )?;
    b.pod("web").map(drop)
}

pub(super) fn a_corrupt_roster_is_set_aside_and_told_again() -> Result<()> {
    let lab = Lab::new()?;
    let mut nodes = lab.mesh(&["a", "b"])?;
    let held = ranges(&nodes[1])?;
    nodes[1].kill()?;
    let state = nodes[1].machine().state_dir();
    fs::write(
        state.join("roster.json"),
        b"[{\"body\": \xff\x00 half of someth",
    )?;
    nodes[1].up(&[])?;
    nodes[1].wait_established(1, PATIENCE)?;
    ensure(
        state.join("roster.json.bad").exists(),
        "nothing was set aside",
    )?;
    ensure(ranges(&nodes[1])? == held, "the range is another")
}

pub(super) fn a_truncated_identity_is_refused_with_what_to_do() -> Result<()> {
    let lab = Lab::new()?;
    let mut a = lab.node("a")?;
    a.up(&[])?;
    a.kill()?;
    let key = a.machine().state_dir().join("identity.key");
    let whole = fs::read(&key)?;
    fs::write(&key, &whole[..7])?;
    let state = a.machine().state_dir().display().to_string();
    let said = refused(&mut weft_up(&a, &["--name", "a", "--state-dir", &state]))?;
    says(
        &said,
        &["identity.key", "7 bytes", "restore it from a backup"],
    )?;
    ensure(fs::read(&key)? == whole[..7], "the file was changed")?;
    fs::write(&key, &whole)?;
    a.up(&[])
}
