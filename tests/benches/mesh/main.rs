//! The benchmark of the mesh: how fast many nodes become one, how fast one comes or comes back, and
//! what an idle agent costs. Each round is a process of its own, in namespaces of its own.
//!
//! `cargo bench -p weft-tests --bench mesh [-- --rounds N]`

mod figures;
mod round;
mod usage;

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use weft_router::demo::net::enter;

use self::figures::{Figures, table};

const ROUNDS: usize = 3;
/// The first argument of a round's own process.
const ONE: &str = "--weft-one-round";

fn main() -> ExitCode {
    // The lab starts agents from this very executable, by name.
    if std::env::args().next().is_some_and(|name| name == "weft") {
        return weft_router::cli::main();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match &arguments[..] {
        [first] if first == ONE => one(),
        rest => rounds(rest).and_then(all),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// How many rounds are asked for. `--bench` is what cargo adds.
fn rounds(arguments: &[String]) -> Result<usize> {
    let mut rest = arguments.iter().filter(|argument| *argument != "--bench");
    match (rest.next().map(String::as_str), rest.next()) {
        (None, _) => Ok(ROUNDS),
        (Some("--rounds"), Some(number)) => {
            let number = number.parse().context("--rounds")?;
            Ok(usize::max(number, 1))
        }
        (Some(other), _) => bail!("{other} is not known here; --rounds N is"),
    }
}

fn one() -> Result<ExitCode> {
    enter("weft-lab")?;
    let figures = round::measure()?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(ExitCode::SUCCESS)
}

fn all(rounds: usize) -> Result<ExitCode> {
    let mut measured = Vec::new();
    for round in 1..=rounds {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        eprintln!("round {round} of {rounds}, load {}", load.trim());
        let output = Command::new("/proc/self/exe")
            .arg(ONE)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("start a round")?;
        if !output.status.success() {
            bail!("round {round}: {}", output.status);
        }
        let figures: Figures = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("what round {round} printed"))?;
        measured.push(figures);
    }
    let (text, good) = table(&measured);
    println!("{text}");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
