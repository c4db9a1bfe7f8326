//! A mesh that is cut in two.

use std::time::{Duration, Instant};

use anyhow::Result;
use weft_tests::lab::{Lab, always, ensure};

use crate::support::{DEATH, PATIENCE, names, wait_name, wait_no_names};

/// Long enough for every backoff to be at its longest.
const LONG: Duration = Duration::from_secs(16);
/// The longest wait between two tries of a dial, and a handshake.
const HEALED: Duration = Duration::from_secs(8);

pub(super) fn both_sides_of_a_partition_go_on_and_become_one_again() -> Result<()> {
    let lab = Lab::new()?;
    let nodes = lab.mesh(&["a", "b", "c"])?;
    let [a, b, c] = &nodes[..] else {
        unreachable!("three names were given")
    };
    let _old = c.pod("old")?;
    wait_name(a, "old", PATIENCE)?;

    lab.partition(&[a, b], &[c])?;
    let cut = Instant::now();
    let left = a.pod("left")?;
    let right = c.pod("right")?;
    wait_name(b, "left", PATIENCE)?;
    for node in [a, b] {
        wait_no_names(node, &["old", "right", "c"], DEATH)?;
    }
    wait_no_names(c, &["left", "a", "b"], DEATH)?;
    println!("the names were gone after {:?}", cut.elapsed());
    always(
        "the halves stay apart and go on",
        LONG.saturating_sub(cut.elapsed()),
        || {
            ensure(a.established()? == ["b"], "a is not connected to b alone")?;
            let known = names(c)?;
            ensure(known == ["c", "old", "right"], format!("{known:?}"))
        },
    )?;

    lab.heal()?;
    let healed = Instant::now();
    for node in [a, b, c] {
        node.wait_established(2, HEALED)?;
    }
    println!("the mesh was one again after {:?}", healed.elapsed());
    for node in [a, b, c] {
        for name in ["old", "left", "right"] {
            wait_name(node, name, HEALED)?;
        }
    }
    left.ping(right.v4()?)?;
    left.ping(right.v6()?)
}
