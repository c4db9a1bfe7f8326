//! Runs the tests of a file that needs namespaces, in the place of Rust's own runner.
//!
//! Each test is a process of its own: it enters its namespaces before any thread starts, its end
//! ends all that it started, and one that hangs can be killed. Arguments and output are those of
//! Rust's runner, as far as cargo and people use them.

mod arguments;
mod child;
mod report;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use arguments::{Arguments, Mode};

/// How long a test may take before it is killed, and one that waits for a timer of minutes.
const LIMIT: Duration = Duration::from_secs(120);
const LONG_LIMIT: Duration = Duration::from_secs(300);
/// The first argument of a test's own process; the second is its name.
const ONE: &str = "--weft-one-test";

/// What a test returns: an error fails it, unless it is a [`Skipped`].
pub type Outcome = anyhow::Result<()>;

/// A test that cannot run here, and why.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// Says that this test cannot run here, to be returned from it.
///
/// # Errors
/// Always: that is what it is for.
pub fn skip<T>(reason: impl Into<String>) -> anyhow::Result<T> {
    Err(Skipped(reason.into()).into())
}

/// A test and its name.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    pub name: &'static str,
    pub run: fn() -> Outcome,
    /// Whether no other test may run meanwhile.
    pub alone: bool,
    /// When it is killed.
    pub limit: Duration,
}

impl Test {
    /// One that may run beside others.
    #[must_use]
    pub const fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Self {
            name,
            run,
            alone: false,
            limit: LIMIT,
        }
    }

    /// No other may run meanwhile.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    /// It waits for minutes, and does next to nothing meanwhile.
    #[must_use]
    pub const fn long(self) -> Self {
        Self {
            limit: LONG_LIMIT,
            ..self
        }
    }
}

/// Makes the `main` of a file of tests: `lab_tests!(one_function, another; long: third)`, where those
/// that are long wait for minutes, and do next to nothing meanwhile.
#[macro_export]
macro_rules! lab_tests {
    ($($test:ident),* $(,)? $(; long: $($long:ident),* $(,)?)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::runner::main(&[
                // First, so that the others run beside them.
                $($($crate::runner::Test::new(stringify!($long), $long).long(),)*)?
                $($crate::runner::Test::new(stringify!($test), $test),)*
            ])
        }
    };
}

/// Makes the `main` of a file of tests that share a cluster, which each opens by
/// [`crate::cluster::of_tests`]: `cluster_tests!(one_function, another; alone: third)`, where those
/// that are alone take from the cluster what the others need, and so run when no other does.
#[macro_export]
macro_rules! cluster_tests {
    ($($test:ident),* $(,)?; alone: $($alone:ident),* $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            let tests = [
                $($crate::runner::Test::new(stringify!($test), $test),)*
                $($crate::runner::Test::new(stringify!($alone), $alone).alone(),)*
            ];
            $crate::runner::main_in(&tests, $crate::cluster::for_tests)
        }
    };
}

/// Runs what the arguments ask for. To be called first thing in `main`.
pub fn main(tests: &[Test]) -> ExitCode {
    main_in(tests, || Ok(()))
}

/// The same, with something that `make` makes before the first test and that is dropped after the
/// last.
pub fn main_in<World>(tests: &[Test], make: impl FnOnce() -> anyhow::Result<World>) -> ExitCode {
    // The lab starts agents, plugins and pods' programs from this very executable, by name.
    let program = std::env::args().next().unwrap_or_default();
    let called = Path::new(&program)
        .file_name()
        .and_then(|name| name.to_str());
    let plugins = weft_cni::plugin::NAMES;
    if called
        .is_some_and(|name| name == "weft" || name.starts_with("weft-") || plugins.contains(&name))
    {
        return weft_router::cli::main();
    }
    // Nor is a cluster's keeper a test.
    if let Some(code) = crate::cluster::keeper::main() {
        return code;
    }
    let rest: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name] = &rest[..]
        && first == ONE
    {
        return child::run(tests, name);
    }
    let arguments = match Arguments::parse(&rest) {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<Test> = tests
        .iter()
        .filter(|test| arguments.chooses(test.name))
        .copied()
        .collect();
    match arguments.mode {
        Mode::List => {
            for test in &chosen {
                println!("{}: test", test.name);
            }
            println!("\n{} tests, 0 benchmarks", chosen.len());
            ExitCode::SUCCESS
        }
        Mode::Run => {
            let world = (!chosen.is_empty()).then(make).transpose();
            match world {
                Ok(_world) => report::run(&chosen, tests.len() - chosen.len(), &arguments),
                Err(error) => {
                    eprintln!("error: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
