//! What a round measures, what each figure may be at most, and the table of them all.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use weft_tests::bench::median;

/// The figures of one round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) full_mesh_s: f64,
    pub(crate) join_s: f64,
    pub(crate) back_s: f64,
    /// Of the agent that takes most.
    pub(crate) resident_mb: f64,
    /// Of the agent that takes most.
    pub(crate) core_percent: f64,
    /// What the busiest node puts into the tunnel each second, probes and answers.
    pub(crate) packets_a_second: f64,
}

struct Row {
    what: &'static str,
    unit: &'static str,
    most: f64,
    of: fn(&Figures) -> f64,
}

const ROWS: [Row; 6] = [
    Row {
        what: "20 nodes: last start to full mesh",
        unit: "s",
        most: 5.0,
        of: |figures| figures.full_mesh_s,
    },
    Row {
        what: "a 21st node: start to all reached",
        unit: "s",
        most: 2.0,
        of: |figures| figures.join_s,
    },
    Row {
        what: "a killed node: start to reachable by name",
        unit: "s",
        most: 2.0,
        of: |figures| figures.back_s,
    },
    Row {
        what: "idle agent, 20 peers: resident",
        unit: "MB",
        most: 30.0,
        of: |figures| figures.resident_mb,
    },
    Row {
        what: "idle agent, 20 peers: of a core",
        unit: "%",
        most: 1.0,
        of: |figures| figures.core_percent,
    },
    Row {
        what: "idle node, 20 peers: probes and answers sent",
        unit: "/s",
        most: 100.0,
        of: |figures| figures.packets_a_second,
    },
];

/// The table, and whether every median is within its bound.
pub(crate) fn table(rounds: &[Figures]) -> (String, bool) {
    let mut text = format!(
        "{:<46}{:>8}{:>9}     rounds\n",
        "figure", "at most", "median"
    );
    let mut good = true;
    for row in &ROWS {
        let values: Vec<f64> = rounds.iter().map(row.of).collect();
        let middle = median(&values);
        let kept = middle <= row.most;
        good &= kept;
        let each: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<46}{:>5} {:<2}{middle:>6.2} {:<2} {} {}",
            row.what,
            row.most,
            row.unit,
            row.unit,
            if kept { "   " } else { "OVER" },
            each.join("  "),
        );
    }
    (text, good)
}
