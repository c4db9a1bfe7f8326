//! Weft against itself: with many peers, and with pods behind both ends.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::bench::median;

use super::contestant::Contestant;
use super::load::tcp;
use super::world::Pair;

/// What is measured against two nodes alone, and what of their throughput it is to keep.
const CASES: [(&str, f64, f64); 4] = [
    ("two nodes", 1.0, 1.0),
    ("50 peers", 0.9, 0.95),
    ("1,000 peers", 0.9, 0.95),
    ("pods behind both", 0.85, 0.95),
];
/// Above the numbers of the contestants.
const FIRST: u8 = 20;

/// Prints the table; whether every floor is reached, and all of it as JSON.
pub(super) fn measure(rounds: usize, base: &Path, tools: &Path) -> Result<(bool, Value)> {
    let mut pairs = Vec::new();
    for number in 0..CASES.len() as u8 {
        pairs.push(Pair::new(Contestant::Weft, FIRST + number, base, tools)?);
    }
    pairs[1].add_peers(49)?;
    pairs[2].add_peers(999)?;
    pairs[3].put_pods(FIRST)?;
    let mut seen = vec![[Vec::new(), Vec::new()]; CASES.len()];
    for round in 0..rounds {
        for at in 0..pairs.len() {
            let at = (at + round) % pairs.len();
            let [a, b] = &pairs[at].ends;
            seen[at][0].push(tcp(&pairs[at], (a, b), 1, false)?.gbps);
            seen[at][1].push(tcp(&pairs[at], (a, b), 4, false)?.gbps);
        }
    }
    println!("\n| weft, Gb/s | 1 stream | ratio | 4 streams | ratio | floor | goal |");
    println!("|---|---|---|---|---|---|---|");
    let medians: Vec<[f64; 2]> = seen
        .iter()
        .map(|seen| [0, 1].map(|at| median(&seen[at])))
        .collect();
    let (mut good, mut rows) = (true, Vec::new());
    for (at, (name, floor, goal)) in CASES.into_iter().enumerate() {
        let [one, four] = medians[at];
        let ratios = [one / medians[0][0], four / medians[0][1]];
        good &= ratios.iter().all(|ratio| *ratio >= floor);
        println!(
            "| {name} | {one:.2} | {:.2} | {four:.2} | {:.2} | {floor} | {goal} |",
            ratios[0], ratios[1]
        );
        rows.push(
            json!({ "case": name, "one": seen[at][0], "four": seen[at][1], "ratios": ratios }),
        );
    }
    Ok((good, Value::Array(rows)))
}
