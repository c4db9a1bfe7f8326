//! The corpora of what a member or a stranger says: tokens, first flights, messages, records.

use super::channel::{self, FLIGHT, PRELUDE};
use super::message::Message;
use super::params::{FoundingParams, MeshParams};
use super::record::{Body, Record, Rules, Signed};
use super::token::{Secret, Token};
use crate::corpus::{each_variant, files};
use crate::identity::Identity;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn rules(founder: &Identity) -> Rules {
    let params = MeshParams::found(founder.id(), FoundingParams::default(), [1; 16]).unwrap();
    Rules {
        params,
        allow_loopback: false,
    }
}

/// Only a file whose name says so is accepted, and each of those is.
fn judged(part: &str, accepts: impl Fn(&[u8]) -> bool) {
    for input in files(ROOT, part) {
        let expected = input.name.starts_with("good-");
        assert_eq!(accepts(&input.bytes), expected, "{part}/{}", input.name);
    }
}

#[test]
fn no_token_of_the_corpus_does_harm() {
    let read = |bytes: &[u8]| str::from_utf8(bytes).is_ok_and(|text| text.parse::<Token>().is_ok());
    judged("token", read);
    each_variant(ROOT, "token", |bytes| {
        if let Ok(text) = str::from_utf8(bytes)
            && let Ok(token) = text.parse::<Token>()
        {
            assert_eq!(token.reveal(), text, "one token, one text");
        }
    });
}

#[tokio::test]
async fn no_first_flight_of_the_corpus_gets_a_byte() {
    let rules = rules(&Identity::from_bytes(&[1; 32]));
    let mut flights = Vec::new();
    each_variant(ROOT, "first-flight", |bytes| flights.push(bytes.to_vec()));
    for bytes in flights {
        if let Some(Ok(prelude)) = bytes.get(..PRELUDE).map(TryInto::try_into) {
            channel::parse_prelude(prelude);
        }
        let mut answered = Vec::new();
        let stream = tokio::io::join(bytes.as_slice(), &mut answered);
        // Whichever key is named is known here: more is read.
        let secret = |_| Some(Secret::from_bytes([9; 32]));
        let outcome = channel::respond(stream, rules.params.id(), secret, |_| true).await;
        assert!(outcome.is_err());
        drop(outcome);
        assert_eq!(
            answered.len(),
            0,
            "of {} bytes, {FLIGHT} is a flight",
            bytes.len()
        );
    }
}

#[test]
fn no_message_of_the_corpus_does_harm() {
    let rules = rules(&Identity::from_bytes(&[1; 32]));
    judged("message", |bytes| Message::decode(bytes).is_ok());
    each_variant(ROOT, "message", |bytes| match Message::decode(bytes) {
        Ok(Message::Records { records }) => records.into_iter().for_each(|signed| {
            assert!(Record::open(signed, &rules, None).is_err());
        }),
        Ok(Message::GrantPlease { record }) => {
            assert!(Record::open(record, &rules, None).is_err());
        }
        Ok(Message::Tombstones { tombstones, .. }) => tombstones.iter().for_each(|tombstone| {
            assert!(!tombstone.is_valid(rules.params.id()));
        }),
        Ok(Message::Params { text }) => drop(MeshParams::decode(&text)),
        // What was read is written, and read again.
        Ok(message) => assert!(Message::decode(&message.encode()).is_ok()),
        Err(_) => {}
    });
}

/// A member may sign whatever it likes.
#[test]
fn no_signed_record_of_the_corpus_does_harm() {
    let mallory = Identity::from_bytes(&[66; 32]);
    let rules = rules(&mallory);
    let open = |bytes: &[u8]| {
        let text = str::from_utf8(bytes).ok()?;
        let body: Option<Body> = serde_json::from_str(text).ok();
        let signed = Signed::sign_text(text.to_owned(), body?.stamp, &mallory, rules.params.id());
        Record::open(signed, &rules, None).ok()
    };
    judged("record", |bytes| open(bytes).is_some());
    each_variant(ROOT, "record", |bytes| {
        if let Some(record) = open(bytes) {
            let endpoints = &record.body.endpoints;
            assert!(
                endpoints
                    .iter()
                    .all(|endpoint| rules.allows_endpoint(endpoint))
            );
        }
    });
}

#[test]
fn no_parameters_of_the_corpus_do_harm() {
    let decode = |bytes: &[u8]| MeshParams::decode(str::from_utf8(bytes).ok()?).ok();
    judged("params", |bytes| decode(bytes).is_some());
    each_variant(ROOT, "params", |bytes| {
        if let Some(params) = decode(bytes) {
            let last = params.slots().checked_sub(1).expect("a mesh has shares");
            assert!(params.ranges(last).is_some());
            assert!(params.ranges(params.slots()).is_none());
        }
    });
}
