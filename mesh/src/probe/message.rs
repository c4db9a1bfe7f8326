//! What a probe and its answer look like.

/// The length of a message.
pub const LENGTH: usize = 24;

const MAGIC: [u8; 4] = *b"weft";
const VERSION: u8 = 1;

/// A message of 24 bytes: `weft`, version, kind, two zeros, the nonce in network order, eight
/// zeros that a later version may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Probe(u64),
    /// The probe's nonce, sent back.
    Answer(u64),
}

impl Message {
    pub fn encode(self) -> [u8; LENGTH] {
        let (kind, nonce) = match self {
            Self::Probe(nonce) => (1, nonce),
            Self::Answer(nonce) => (2, nonce),
        };
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = kind;
        bytes[8..16].copy_from_slice(&nonce.to_be_bytes());
        bytes
    }

    /// None for what is no message of ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let nonce = u64::from_be_bytes(bytes[8..16].try_into().ok()?);
        if bytes[..4] != MAGIC || bytes[4] != VERSION {
            return None;
        }
        match bytes[5] {
            1 => Some(Self::Probe(nonce)),
            2 => Some(Self::Answer(nonce)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_survives_its_bytes() {
        for message in [Message::Probe(7), Message::Answer(u64::MAX)] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        let bytes = Message::Probe(0x0102_0304_0506_0708).encode();
        assert_eq!(
            bytes,
            *b"weft\x01\x01\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\0"
        );
    }

    #[test]
    fn no_datagram_of_the_corpus_is_taken_for_another() {
        crate::corpus::each_variant(env!("CARGO_MANIFEST_DIR"), "probe", |bytes| {
            if let Some(message) = Message::decode(bytes) {
                // Two zeros and the eight at the end are a later version's to fill.
                let ours = message.encode();
                assert_eq!((&ours[..6], &ours[8..16]), (&bytes[..6], &bytes[8..16]));
            }
        });
    }

    proptest! {
        #[test]
        fn only_messages_are_read_as_messages(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(Message::decode(&bytes).is_none() || bytes.starts_with(b"weft\x01"));
        }

        #[test]
        fn whatever_follows_the_magic_is_read_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 5..40),
        ) {
            bytes[..5].copy_from_slice(b"weft\x01");
            let read = Message::decode(&bytes);
            prop_assert_eq!(read.is_some(), bytes.len() == LENGTH && matches!(bytes[5], 1 | 2));
        }
    }
}
