//! The benchmark of the userspace engine, side by side with others: throughput, processor time, small
//! datagrams, latency and memory; then weft alone with many peers, and with pods behind both ends.
//!
//! `.ci/tools && cargo bench -p weft-tests --bench tunnel [-- --rounds N] [--only weft,wireguard-go]`

mod contestant;
mod figures;
mod load;
mod pressure;
mod scale;
mod transport;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use weft_router::demo::net::enter;
use weft_tests::bench::exit;
use weft_tests::tools::target;

use contestant::{ALL, Contestant};
use figures::{Rounds, measure, report};
use world::Pair;

const ROUNDS: usize = 5;
const DIR: &str = "/run/weft-lab/bench";
/// Thousands of datagrams a second with which the first search begins.
const GUESS: f64 = 15.0;

fn main() -> ExitCode {
    // Ours is started from this very executable, by name.
    match std::env::args().next().as_deref() {
        Some("weft") => return weft_router::cli::main(),
        Some(contestant::OWN_TRANSPORT) => {
            weft_mesh::tunnel::userspace::use_transport(transport::make);
            return weft_router::cli::main();
        }
        _ => {}
    }
    exit(bench())
}

/// What is asked for.
struct Arguments {
    rounds: usize,
    who: Vec<Contestant>,
}

impl Arguments {
    /// `--bench` is what cargo adds.
    fn parse() -> Result<Self> {
        let mut this = Self {
            rounds: ROUNDS,
            who: ALL.to_vec(),
        };
        let mut rest = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = rest.next() {
            let value = rest
                .next()
                .with_context(|| format!("{word} wants a value"))?;
            match &*word {
                "--rounds" => this.rounds = usize::max(value.parse().context("--rounds")?, 1),
                "--only" => {
                    let named = |name| ALL.into_iter().find(|who| who.name() == name);
                    this.who = value
                        .split(',')
                        .map(|name| named(name).with_context(|| format!("there is no {name}")))
                        .collect::<Result<_>>()?;
                }
                other => bail!("{other} is not known here; --rounds N and --only NAMES are"),
            }
        }
        Ok(this)
    }
}

fn bench() -> Result<bool> {
    let arguments = Arguments::parse()?;
    let target = target()?;
    let tools = target.join("tools");
    enter("weft-lab")?;
    let pairs = pairs(&arguments.who, &tools)?;
    let mut seen: Rounds = pairs
        .iter()
        .map(|pair| (pair.contestant, Vec::new()))
        .collect();
    let mut guesses = vec![[GUESS; 2]; pairs.len()];
    for round in 0..arguments.rounds {
        for at in 0..pairs.len() {
            // Nobody is always behind the same other.
            let at = (at + round) % pairs.len();
            eprintln!("round {}: {}", round + 1, pairs[at].contestant.name());
            let figures = measure(&pairs[at], &mut guesses[at])
                .with_context(|| pairs[at].contestant.name())?;
            seen[at].1.push(figures);
        }
    }
    let (met, figures) = report(&seen);
    drop(pairs);
    let ours = arguments.who.contains(&Contestant::Weft);
    let (rounds, dir) = (arguments.rounds, Path::new(DIR));
    let ((scales, scaled), (holds, pressed)) = match ours {
        true => (
            scale::measure(rounds, dir, &tools)?,
            pressure::measure(rounds, dir, &tools)?,
        ),
        false => Default::default(),
    };
    let file: PathBuf = target.join("tunnel.json");
    let all = json!({ "rounds": rounds, "figures": figures, "scale": scaled, "pressure": pressed, "transport": transport::compare() });
    std::fs::write(&file, serde_json::to_string_pretty(&all)?)?;
    println!("\nall of it, round by round: {}", file.display());
    Ok(met && (!ours || scales && holds))
}

/// All that can be started, each between ends of its own. Names those that are missing.
fn pairs(who: &[Contestant], tools: &Path) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (number, contestant) in (1..).zip(who) {
        let missing = contestant
            .programs()
            .iter()
            .find(|name| !tools.join(name).is_file());
        if let Some(missing) = missing {
            println!(
                "missing: {} ({missing} is not in {}; run .ci/tools)",
                contestant.name(),
                tools.display()
            );
            continue;
        }
        pairs.push(Pair::new(*contestant, number, Path::new(DIR), tools)?);
    }
    Ok(pairs)
}
