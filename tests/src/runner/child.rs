//! The process of one test: into the namespaces, then the test.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use weft_router::demo::net::{NetError, enter};

use super::{Skipped, Test};

/// The exit code that says "skipped"; the reason is the last line on standard error.
pub(super) const SKIPPED: u8 = 77;
/// What that line starts with.
pub(super) const REASON: &str = "skipped because ";

pub(super) fn run(tests: &[Test], name: &str) -> ExitCode {
    let Some(test) = tests.iter().find(|test| test.name == name) else {
        eprintln!("there is no test {name}");
        return ExitCode::FAILURE;
    };
    match enter("weft-lab") {
        Ok(_) => {}
        Err(NetError::Refused(reason)) => {
            eprintln!("{REASON}{reason}");
            return ExitCode::from(SKIPPED);
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    match catch_unwind(AssertUnwindSafe(test.run)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => match error.downcast_ref::<Skipped>() {
            Some(Skipped(reason)) => {
                eprintln!("{REASON}{reason}");
                ExitCode::from(SKIPPED)
            }
            None => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        },
        // The panic has printed itself.
        Err(_) => ExitCode::FAILURE,
    }
}
