//! The versions of the CNI specification that we speak.

use std::fmt;

use serde_json::{Value, json};

use crate::{Error, code};

/// A version of the specification, the older the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpecVersion {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl SpecVersion {
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub const NEWEST: Self = Self::V1_1_0;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with this text.
    ///
    /// # Errors
    /// [`code::INCOMPATIBLE_VERSION`], with those that we speak.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|each| each.as_str() == text);
        found.ok_or_else(|| {
            let known: Vec<_> = Self::ALL.map(Self::as_str).into();
            let msg = format!("cniVersion {text:?} is not supported");
            Error::new(code::INCOMPATIBLE_VERSION, msg)
                .with_details(format!("supported: {}", known.join(", ")))
        })
    }

    /// The answer to VERSION.
    pub fn answer(cni_version: &str) -> Value {
        json!({
            "cniVersion": cni_version,
            "supportedVersions": Self::ALL.map(Self::as_str),
        })
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_ordered_and_survive_their_text() {
        assert!(SpecVersion::ALL.is_sorted());
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(version.as_str()), Ok(version));
        }
        for bad in ["", "0.1.0", "0.2.0", "0.3.0", "1.1", "2.0.0"] {
            let error = SpecVersion::parse(bad).unwrap_err();
            assert_eq!(error.code, code::INCOMPATIBLE_VERSION);
            assert_eq!(error.details, "supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0");
        }
    }
}
