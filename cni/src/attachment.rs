//! Which interface of which container: the key of everything that CNI does, checked as the
//! specification asks, so that it can be printed, hashed and put into a rule as it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a container's or an interface's name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNameError {
    #[error(
        "a container id is 1 to 256 letters, digits, '_', '.' and '-', the first a letter or digit"
    )]
    ContainerId,
    #[error(
        "an interface name is 1 to 15 bytes without '/', ':', spaces or control characters, and neither '.' nor '..'"
    )]
    IfName,
}

/// A container's id, as the runtime names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The name of an interface inside the container (`eth0`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    pub container_id: ContainerId,
    pub ifname: IfName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

/// The letters that the specification allows in a container's id and in a network's name.
pub(crate) fn is_cni_word(text: &str) -> bool {
    text.as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric)
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl TryFrom<String> for ContainerId {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        // The specification has no upper bound; real ids are 64 hex digits.
        if text.len() <= 256 && is_cni_word(&text) {
            Ok(Self(text))
        } else {
            Err(ParseNameError::ContainerId)
        }
    }
}

impl TryFrom<String> for IfName {
    type Error = ParseNameError;

    fn try_from(text: String) -> Result<Self, ParseNameError> {
        let legal = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text
                .chars()
                .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if legal {
            Ok(Self(text))
        } else {
            Err(ParseNameError::IfName)
        }
    }
}

macro_rules! word {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.0
            }
        }

        impl FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

word!(ContainerId);
word!(IfName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_those_of_the_specification() {
        let long = "a".repeat(257);
        for bad in ["", "-a", ".a", "_a", "a/b", "a b", "ä", "a\n", &long] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        for good in ["a", "0", "default-web", "a.b_c-d", &long[1..]] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn interface_names_are_those_that_linux_takes() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\0",
            "a234567890123456",
        ] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
        for good in ["e", "eth0", "a23456789012345", "eth0.100", "ü"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn an_attachment_is_refused_with_a_bad_name_inside() {
        let parse = serde_json::from_str::<Attachment>;
        assert!(parse(r#"{"container_id":"a","ifname":"eth0"}"#).is_ok());
        assert!(parse(r#"{"container_id":"a","ifname":"../x"}"#).is_err());
        assert!(parse(r#"{"container_id":"","ifname":"eth0"}"#).is_err());
    }
}
