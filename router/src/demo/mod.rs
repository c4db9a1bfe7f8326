//! `weft demo`: a whole mesh at work in namespaces of its own, and the namespaces it builds.
//!
//! The lab of the tests builds on the same parts.

pub mod capture;
mod machine;
pub mod net;
pub mod page;

pub use machine::Machine;
pub use page::helper;

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
