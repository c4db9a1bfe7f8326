//! Programs that no distribution packages, as `.ci/tools` builds them.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::runner::skip;

/// Where the program of that name is; skips the test where it was not built.
///
/// # Errors
/// Then, with the reason.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = target()?.join("tools").join(name);
    if !path.is_file() {
        return skip(format!(
            "{} is missing; run .ci/tools {name}",
            path.display()
        ))?;
    }
    Ok(path)
}

/// The directory that cargo builds into.
///
/// # Errors
/// When this program does not lie in it.
pub fn target() -> Result<PathBuf> {
    // A test lies in `target/debug/deps`, a benchmark in `target/release/deps`.
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).context("no target directory")?;
    Ok(target.to_owned())
}
