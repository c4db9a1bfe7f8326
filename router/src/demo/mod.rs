//! `weft demo`: a whole mesh at work in namespaces of its own, and the namespaces it builds.
//!
//! The lab of the tests builds on the same parts.

pub mod capture;
mod lookup;
mod machine;
pub mod net;
pub mod page;
mod script;
mod stage;
mod steps;

use std::process::ExitCode;
use std::thread;

pub use lookup::lookup;
pub use machine::Machine;
pub use page::helper;
pub use steps::{Report, Step};

use stage::Stage;
use steps::{Steps, Telling};

/// Show a whole mesh at work in namespaces of its own, touching nothing on this host
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DemoArgs {
    /// How many nodes, 2 to 50
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=50))]
    nodes: u8,

    /// Leave it standing until Ctrl-C, and say how to look around
    #[arg(long)]
    keep: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Why a step could not be done, as a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StepError(pub String);

impl StepError {
    /// For `map_err`: names what was being done.
    pub fn io(act: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self(format!("{act}: {error}"))
    }
}

impl From<net::NetError> for StepError {
    fn from(error: net::NetError) -> Self {
        Self(error.to_string())
    }
}

/// Runs the demo. To be called while the process has one thread.
pub fn run(args: DemoArgs) -> ExitCode {
    let telling = if args.json {
        Telling::Json
    } else {
        Telling::Lines
    };
    let mut steps = Steps::new(telling);
    let mut stage = Stage::default();
    let played = script::play(&mut stage, &mut steps, usize::from(args.nodes));
    if played.is_err() {
        eprint!("{}", stage.logs());
    }
    let standing = args.keep && played.is_ok();
    let cleaned = if standing {
        Ok(())
    } else {
        script::clean_up(&mut stage, &mut steps)
    };
    steps.report.ok = played.and(cleaned).is_ok();
    let ok = steps.report.ok;
    match telling {
        Telling::Json => match serde_json::to_string(&steps.report) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("weft: {error}"),
        },
        Telling::Lines => println!("\n{}", script::summary(&steps.report, args.nodes)),
    }
    if standing {
        eprintln!("\n{}", stage.ways_in());
        // Ctrl-C ends this process, and with it the agents, the namespaces and all that is in them.
        loop {
            thread::park();
        }
    }
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
