//! The join token: which mesh, and a secret that lets one in. As text it is what one pastes.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::params::MeshId;
use super::text::{hex_bytes, short_hash};

const PREFIX: &str = "weft1.";
const BODY: usize = 16 + 32;
const CHECKSUM: usize = 4;

hex_bytes!(
    /// Which secret of a keyring: a hash of it, so it says nothing of it.
    pub KeyId, 8, "a key id is 16 hexadecimal digits"
);

impl KeyId {
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

/// A secret that lets nodes in: zeroed on drop, never displayed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(*bytes))
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn id(&self) -> KeyId {
        KeyId::from_bytes(short_hash(&[b"weft key id", &self.0]))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a node needs to join: the mesh's id and a secret of its keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub mesh: MeshId,
    pub secret: Secret,
}

/// Why a token was refused. None of the messages repeats any of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseTokenError {
    #[error("a token begins with 'weft1.'")]
    Prefix,
    #[error("character {0} of the token is not one of A-Z, a-z, 0-9, '-' and '_'")]
    Character(usize),
    #[error("a token has {wanted} characters and this one {found}: was a part lost in copying?")]
    Length { found: usize, wanted: usize },
    #[error("the token's checksum is wrong: a character was changed in copying")]
    Checksum,
}

impl Token {
    /// The token as text. It is the secret: for the one who runs this node, never for a log.
    pub fn reveal(&self) -> String {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BODY + CHECKSUM));
        bytes.extend_from_slice(self.mesh.as_bytes());
        bytes.extend_from_slice(self.secret.expose());
        let sum: [u8; CHECKSUM] = short_hash(&[b"weft token v1", &bytes]);
        bytes.extend_from_slice(&sum);
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let body = text.strip_prefix(PREFIX).ok_or(ParseTokenError::Prefix)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if let Some(at) = body.chars().position(|c| !legal(c)) {
            return Err(ParseTokenError::Character(PREFIX.len() + at + 1));
        }
        let wanted = BASE64URL_NOPAD.encode_len(BODY + CHECKSUM);
        if body.len() != wanted {
            return Err(ParseTokenError::Length {
                found: text.len(),
                wanted: PREFIX.len() + wanted,
            });
        }
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| ParseTokenError::Checksum)?;
        let (body, sum) = bytes.split_at(BODY);
        if short_hash::<CHECKSUM>(&[b"weft token v1", body]) != sum {
            return Err(ParseTokenError::Checksum);
        }
        let mut mesh = [0; 16];
        let mut secret = Zeroizing::new([0; 32]);
        mesh.copy_from_slice(&body[..16]);
        secret.copy_from_slice(&body[16..]);
        Ok(Self {
            mesh: MeshId::from_bytes(mesh),
            secret: Secret(*secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            mesh: MeshId::from_bytes([3; 16]),
            secret: Secret([4; 32]),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_hides_in_debug() {
        let text = token().reveal();
        assert_eq!(text.parse(), Ok(token()));
        assert!(format!("{:?}", token()).contains("Secret(..)"));
    }

    #[test]
    fn a_malformed_token_says_what_is_wrong() {
        let text = token().reveal();
        let parse = |t: &str| t.parse::<Token>().unwrap_err();
        assert_eq!(parse("weft2.abc"), ParseTokenError::Prefix);
        assert_eq!(parse("weft1.a b"), ParseTokenError::Character(8));
        assert!(matches!(
            parse(&text[..40]),
            ParseTokenError::Length { found: 40, .. }
        ));
        let other = if text.as_bytes()[20] == b'A' {
            "B"
        } else {
            "A"
        };
        let changed = format!("{}{other}{}", &text[..20], &text[21..]);
        assert_eq!(parse(&changed), ParseTokenError::Checksum);
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "(weft1\\.)?\\PC{0,90}") {
            let _ = text.parse::<Token>();
        }
    }
}
