//! What is measured of each, round by round, and the table of it.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::bench::median;

use super::contestant::Contestant;
use super::load::{flood, highest, pings, tcp};
use super::world::Pair;

/// One row of the table.
pub(super) struct Figure {
    pub(super) name: &'static str,
    unit: &'static str,
    /// Whether more of it is better.
    more: bool,
    against: Against,
    /// What weft's ratio has to reach, and what it is after.
    floor: Option<f64>,
    goal: Option<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Against {
    WireguardGo,
    BestOther,
    /// A bound of weft's own figure.
    Itself,
    Nobody,
}

const fn figure(
    name: &'static str,
    unit: &'static str,
    more: bool,
    against: Against,
    targets: [f64; 2],
) -> Figure {
    Figure {
        name,
        unit,
        more,
        against,
        floor: Some(targets[0]),
        goal: Some(targets[1]),
    }
}

const fn beside(name: &'static str, unit: &'static str) -> Figure {
    Figure {
        name,
        unit,
        more: true,
        against: Against::Nobody,
        floor: None,
        goal: None,
    }
}

use Against::{BestOther, Itself, WireguardGo};

/// In the order of the rows.
pub(super) const FIGURES: [Figure; 14] = [
    figure(
        "TCP, 1 stream, there",
        "Gb/s",
        true,
        WireguardGo,
        [1.35, 1.6],
    ),
    figure(
        "TCP, 1 stream, back",
        "Gb/s",
        true,
        WireguardGo,
        [1.35, 1.6],
    ),
    figure(
        "TCP, 4 streams, there",
        "Gb/s",
        true,
        WireguardGo,
        [1.35, 1.6],
    ),
    figure(
        "TCP, 4 streams, back",
        "Gb/s",
        true,
        WireguardGo,
        [1.35, 1.6],
    ),
    figure(
        "CPU of both engines",
        "s/GB",
        false,
        WireguardGo,
        [0.72, 0.6],
    ),
    figure(
        "UDP 64 B, 1 flow, 1 % lost",
        "kpps",
        true,
        BestOther,
        [1.5, 2.0],
    ),
    figure(
        "UDP 64 B, 64 flows, 1 % lost",
        "kpps",
        true,
        BestOther,
        [1.5, 2.0],
    ),
    figure(
        "UDP 64 B, flood, delivered",
        "kpps",
        true,
        BestOther,
        [1.3, 1.8],
    ),
    beside("of that, late", "%"),
    figure("ping p50, idle", "ms", false, BestOther, [1.0, 0.8]),
    figure(
        "ping p99, 4 TCP streams",
        "ms",
        false,
        WireguardGo,
        [1.0, 1.0],
    ),
    beside("ping p99, idle", "ms"),
    figure("resident, larger end", "MB", false, Itself, [48.0, 32.0]),
    beside("CPU, 1 stream there", "s/GB"),
];

/// All figures of one contestant and round, in the order of [`FIGURES`]; `guesses` are the rates that
/// it carried before.
pub(super) fn measure(pair: &Pair, guesses: &mut [f64; 2]) -> Result<[f64; FIGURES.len()]> {
    let [a, b] = &pair.ends;
    let (p50, idle_p99) = pings(a, b, 200, 0.005)?;
    let there = tcp(pair, (a, b), 1, false)?;
    let back = tcp(pair, (b, a), 1, false)?;
    let four_there = tcp(pair, (a, b), 4, false)?;
    let four_back = tcp(pair, (b, a), 4, false)?;
    let pinged = tcp(pair, (a, b), 4, true)?;
    let resident = pair.resident()? as f64 / 1e6;
    let mut rates = [0.0; 2];
    for (at, flows) in [(0, 1), (1, 64)] {
        rates[at] = highest((a, b), flows, guesses[at])?;
        // From below, or the first trial of the next round says nothing.
        guesses[at] = f64::max(rates[at] * 0.85, 4.0);
    }
    let flooded = flood((a, b), 1)?;
    let all = [there, back, four_there, four_back];
    Ok([
        there.gbps,
        back.gbps,
        four_there.gbps,
        four_back.gbps,
        all.iter().map(|seen| seen.cpu).sum::<f64>() / all.len() as f64,
        rates[0],
        rates[1],
        flooded.kpps(),
        flooded.late as f64 / flooded.received.max(1) as f64 * 100.0,
        p50,
        pinged.ping_p99.unwrap_or_default(),
        idle_p99,
        resident,
        there.cpu,
    ])
}

/// Every round's figures of each contestant.
pub(super) type Rounds = Vec<(Contestant, Vec<[f64; FIGURES.len()]>)>;

/// Prints the table; whether every floor is reached, and all of it as JSON.
pub(super) fn report(rounds: &Rounds) -> (bool, Value) {
    let names = rounds.iter().map(|(who, _)| who.name());
    let head: Vec<&str> = ["figure", "unit"].into_iter().chain(names).collect();
    println!("| {} | ratio | floor | goal |", head.join(" | "));
    println!("|{}", "---|".repeat(head.len() + 3));
    let (mut good, mut rows) = (true, Vec::new());
    for (at, figure) in FIGURES.iter().enumerate() {
        let medians: Vec<(Contestant, f64)> = rounds
            .iter()
            .map(|(who, rounds)| {
                (
                    *who,
                    median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>()),
                )
            })
            .collect();
        let ratio = ratio(figure, &medians);
        let cells: Vec<String> = medians
            .iter()
            .map(|(who, value)| match (who, figure.name) {
                (
                    Contestant::Veth,
                    "CPU of both engines" | "CPU, 1 stream there" | "resident, larger end",
                ) => "–".to_owned(),
                _ => short(*value),
            })
            .collect();
        let met = |target: f64| {
            ratio.is_none_or(|ratio| {
                if figure.more {
                    ratio >= target
                } else {
                    ratio <= target
                }
            })
        };
        good &= figure.floor.is_none_or(met);
        let target = |target: Option<f64>| {
            target.map_or(String::new(), |target| {
                format!("{target}{}", if met(target) { "" } else { " missed" })
            })
        };
        let shown = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        println!(
            "| {} | {} | {} | {shown} | {} | {} |",
            figure.name,
            figure.unit,
            cells.join(" | "),
            target(figure.floor),
            target(figure.goal),
        );
        let values: BTreeMap<&str, Value> = rounds
            .iter()
            .map(|(who, rounds)| {
                let each: Vec<f64> = rounds.iter().map(|round| round[at]).collect();
                (
                    who.name(),
                    json!({ "median": median(&each), "rounds": each }),
                )
            })
            .collect();
        rows.push(json!({
            "figure": figure.name, "unit": figure.unit, "ratio": ratio,
            "floor": figure.floor, "goal": figure.goal, "contestants": values,
        }));
    }
    (good, Value::Array(rows))
}

fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Weft's figure against whom it is measured by, where both are there.
fn ratio(figure: &Figure, medians: &[(Contestant, f64)]) -> Option<f64> {
    let of = |wanted| {
        medians
            .iter()
            .find(|(who, _)| *who == wanted)
            .map(|(_, value)| *value)
    };
    let ours = of(Contestant::Weft)?;
    let others = medians
        .iter()
        .filter(|(who, _)| {
            !matches!(
                who,
                Contestant::Weft | Contestant::OwnTransport | Contestant::Veth
            )
        })
        .map(|(_, value)| *value);
    match figure.against {
        Against::WireguardGo => Some(ours / of(Contestant::WireguardGo)?),
        Against::BestOther if figure.more => Some(ours / others.reduce(f64::max)?),
        Against::BestOther => Some(ours / others.reduce(f64::min)?),
        Against::Itself => Some(ours),
        Against::Nobody => None,
    }
}
