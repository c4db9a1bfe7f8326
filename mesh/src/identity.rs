//! A node's identity: an Ed25519 key. What it signs can be checked by whoever knows its [`NodeId`].

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::NodeId;

/// A node's private identity: zeroed on drop, never displayed or serialised.
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// A new identity from the operating system's random source.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(Self::from_bytes(&seed))
    }

    /// Takes 32 bytes as an Ed25519 seed (RFC 8032 section 5.1.5).
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self {
            key: SigningKey::from_bytes(seed),
        }
    }

    pub fn id(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// Signs the concatenation of `parts`. The first names what is signed, so that no signature
    /// can be taken for another kind; at most one part may be of variable length, the last.
    pub fn sign(&self, parts: &[&[u8]]) -> Signature {
        Signature(self.key.sign(&parts.concat()).to_bytes())
    }

    /// The seed, for the key file only.
    pub(crate) fn expose(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id().short())
    }
}

/// An Ed25519 signature, written in base64url.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// Why a signature's text was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a signature is 64 bytes in base64url")]
pub struct ParseSignatureError;

impl Signature {
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// Whether `id` signed the concatenation of `parts`. Strict: no two encodings of one
    /// signature and no weak key pass (RFC 8032 section 8.4).
    pub fn is_by(&self, id: NodeId, parts: &[&[u8]]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(id.as_bytes()) else {
            return false;
        };
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        key.verify_strict(&parts.concat(), &signature).is_ok()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

impl FromStr for Signature {
    type Err = ParseSignatureError;

    fn from_str(text: &str) -> Result<Self, ParseSignatureError> {
        let bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| ParseSignatureError)?;
        bytes.try_into().map(Self).map_err(|_| ParseSignatureError)
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_signer_and_its_words_only() {
        let (a, b) = (
            Identity::from_bytes(&[1; 32]),
            Identity::from_bytes(&[2; 32]),
        );
        let signature = a.sign(&[b"weft test", b"words"]);
        assert!(signature.is_by(a.id(), &[b"weft test", b"words"]));
        assert!(!signature.is_by(a.id(), &[b"weft test", b"other"]));
        assert!(!signature.is_by(b.id(), &[b"weft test", b"words"]));
        let weak = NodeId::from_bytes([0; 32]);
        assert!(!Signature::from_bytes([0; 64]).is_by(weak, &[b"anything"]));
    }

    #[test]
    fn the_identity_is_that_of_rfc_8032_test_1() {
        let seed = data_encoding::HEXLOWER
            .decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap();
        let identity = Identity::from_bytes(&seed.try_into().unwrap());
        assert_eq!(
            data_encoding::HEXLOWER.encode(identity.id().as_bytes()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }
}
