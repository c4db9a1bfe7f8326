//! What a CNI call fails with: the specification's code, a message and its details.
//! The same type travels from the agent to the plugin and from the plugin to the runtime.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The codes of the CNI specification (1.1.0, section 5, "Error") and, from 100, our own.
pub mod code {
    /// The configuration's `cniVersion` is not one that we speak.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The configuration asks for something that this plugin does not do.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or gone; the runtime need not clean it up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    /// What should be JSON of a known shape is not.
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIG: u32 = 7;
    /// It may work later; the runtime should call again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS only: an ADD would fail now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Ours: a fault of weft's own.
    pub const INTERNAL: u32 = 100;
    /// Ours: the container has this interface already.
    pub const ALREADY_ATTACHED: u32 = 101;
    /// Ours: CHECK found the container's network other than it should be.
    pub const CHECK_FAILED: u32 = 102;
    /// Ours: plugin and agent do not understand each other.
    pub const PROTOCOL: u32 = 103;
}

/// A failed call, as it is shown to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// One of [`code`].
    pub code: u32,
    /// One line: what failed.
    pub msg: String,
    /// What else helps, such as what to do; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same error with more to read.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The object that the specification wants on standard output.
    pub fn to_json(&self, cni_version: &str) -> Value {
        let mut object = json!({
            "cniVersion": cni_version,
            "code": self.code,
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            object["details"] = Value::from(self.details.as_str());
        }
        object
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, " ({})", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_object_of_the_specification() {
        let error = Error::new(code::TRY_AGAIN, "the agent is away");
        assert_eq!(
            error.to_json("1.0.0").to_string(),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"the agent is away"}"#
        );
        assert_eq!(
            error.with_details("start it").to_json("1.0.0").to_string(),
            r#"{"cniVersion":"1.0.0","code":11,"details":"start it","msg":"the agent is away"}"#
        );
    }
}
