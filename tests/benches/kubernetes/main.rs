//! The benchmark of weft in a cluster: how fast one gets its network, how fast a node comes and what
//! was broken is mended, and what an agent of a thousand nodes costs. Needs root, and what the lab's
//! cluster needs.
//!
//! `cargo bench -p weft-tests --bench kubernetes [-- start | scale]`. The plugin's figure is the
//! benchmark `cni`'s.

mod cluster;
mod figures;
mod scale;
#[path = "../mesh/usage.rs"]
mod usage;

use std::process::ExitCode;

use anyhow::{Result, bail};
use weft_tests::cluster::keeper;

use self::figures::{Figure, table};

type Measure = fn() -> Result<Vec<Figure>>;

fn main() -> ExitCode {
    if let Some(code) = keeper::main() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [first] if first == scale::RESPONDER => scale::respond().map(|()| ExitCode::SUCCESS),
        rest => chosen(rest),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what is named, or everything. `--bench` is what cargo adds.
fn chosen(arguments: &[String]) -> Result<ExitCode> {
    let names: Vec<&str> = arguments
        .iter()
        .map(|argument| &**argument)
        .filter(|argument| *argument != "--bench")
        .collect();
    let known: [(&str, Measure); 2] = [("start", cluster::measure), ("scale", scale::measure)];
    if let Some(other) = names
        .iter()
        .find(|name| known.iter().all(|(known, _)| known != *name))
    {
        bail!("{other} is not known here; start and scale are");
    }
    let mut figures = Vec::new();
    for (name, measure) in known {
        if names.is_empty() || names.contains(&name) {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            eprintln!("{name}, load {}", load.trim());
            figures.extend(measure()?);
        }
    }
    let (text, good) = table(&figures);
    println!("{text}");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
