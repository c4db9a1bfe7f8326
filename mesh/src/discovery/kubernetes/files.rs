//! What is kept on disk: what the API said last, and every range that anybody has held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::judge::Past;
use super::object::{Advert, Claim, Created, Node};
use super::range::is_for_pods;
use super::wire::WeftNodeSpec;
use super::world::{MAX_OBJECTS, World};
use crate::NodeName;
use crate::keystore::{self, Mode, StoreError};

const FILE: &str = "kubernetes.json";
/// Far beyond what the most objects take.
const MAX_FILE: u64 = 64 << 20;
/// More ranges of the past are joined where they touch, and else forgotten, the last first.
pub(super) const MAX_HELD: usize = 8192;

#[derive(Debug)]
pub(super) struct Files(PathBuf);

#[derive(Default, Serialize, Deserialize)]
struct Saved {
    /// Whose this is: a disk may be copied.
    name: Option<NodeName>,
    /// This node's ranges.
    own: Vec<IpNet>,
    /// What anybody has ever held.
    held: BTreeSet<IpNet>,
    nodes: BTreeMap<NodeName, Node>,
    adverts: BTreeMap<NodeName, SavedAdvert>,
    claims: BTreeMap<String, Claim>,
}

#[derive(Serialize, Deserialize)]
struct SavedAdvert {
    created: Created,
    owner: String,
    spec: WeftNodeSpec,
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        Self(directory.join(FILE))
    }

    /// What was saved, each part checked as if the API had said it. A file that is none is named in
    /// the log and counts as empty: the API says everything again.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn load(&self, me: &NodeName) -> Result<(World, Past), StoreError> {
        let Some(bytes) = keystore::read(&self.0, MAX_FILE)? else {
            return Ok(Default::default());
        };
        let mut saved: Saved = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            warn!(%error, file = %self.0.display(), "not what was written there; the API says it anew");
            Saved::default()
        });
        let is_mine = saved.name.as_ref() == Some(me);
        saved.own.retain(|range| is_mine && is_for_pods(range));
        saved.held.retain(is_for_pods);
        let nodes = saved.nodes.into_iter().take(MAX_OBJECTS);
        let adverts = saved.adverts.into_iter().take(MAX_OBJECTS);
        let world = World {
            nodes: nodes
                .map(|(name, mut node)| {
                    node.ranges.retain(is_for_pods);
                    (name, node)
                })
                .collect(),
            adverts: adverts
                .map(
                    |(
                        name,
                        SavedAdvert {
                            created,
                            owner,
                            spec,
                        },
                    )| {
                        let told = Advert::open(&name, created, owner, spec);
                        (name, told)
                    },
                )
                .collect(),
            claims: saved
                .claims
                .into_iter()
                .take(MAX_OBJECTS)
                .map(|(name, claim)| (name, Ok(claim)))
                .collect(),
        };
        let past = Past {
            own: saved.own,
            held: saved.held.into_iter().take(MAX_HELD).collect(),
        };
        Ok((world, past))
    }

    /// Bytes of what to keep.
    ///
    /// # Errors
    /// Never in truth: all of it can be written.
    pub(super) fn encode(me: &NodeName, world: &World, past: &Past) -> serde_json::Result<Vec<u8>> {
        let adverts = world.adverts.iter().filter_map(|(name, told)| {
            let advert = told.as_ref().ok()?;
            let saved = SavedAdvert {
                created: advert.created.clone(),
                owner: advert.owner.clone(),
                spec: advert.spec.clone(),
            };
            Some((name.clone(), saved))
        });
        let claims = world.claims.iter();
        let claims = claims.filter_map(|(name, claim)| Some((name.clone(), claim.clone().ok()?)));
        serde_json::to_vec(&Saved {
            name: Some(me.clone()),
            own: past.own.clone(),
            held: past.held.clone(),
            nodes: world.nodes.clone(),
            adverts: adverts.collect(),
            claims: claims.collect(),
        })
    }

    /// # Errors
    /// When the disk refuses; the old content is there then.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), StoreError> {
        keystore::write(&self.0, bytes, Mode::Private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past() -> Past {
        let net = |text: &str| text.parse().unwrap();
        Past {
            own: vec![net("10.244.1.0/24")],
            held: [net("10.244.1.0/24"), net("10.244.2.0/24")].into(),
        }
    }

    #[test]
    fn what_was_kept_is_read_back_but_for_the_ranges_of_another_node() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(files.load(&a).unwrap(), Default::default());
        let bytes = Files::encode(&a, &World::default(), &past()).unwrap();
        files.write(&bytes).unwrap();
        assert_eq!(files.load(&a).unwrap().1, past());
        let (_, copied) = files.load(&b).unwrap();
        assert!(copied.own.is_empty() && copied.held == past().held);
    }

    #[test]
    fn a_damaged_file_counts_as_none_and_nonsense_in_one_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let me = "a".parse().unwrap();
        for damaged in ["", "{", "[]", r#"{"own": 7}"#, "\0"] {
            files.write(damaged.as_bytes()).unwrap();
            assert_eq!(files.load(&me).unwrap(), Default::default(), "{damaged}");
        }
        let nonsense = r#"{"name":"a","own":["0.0.0.0/0"],"held":["0.0.0.0/0","10.9.0.0/24"],
            "nodes":{"b":{"uid":"u","created":"","ranges":["::/0"]}},
            "adverts":{"b":{"created":"","owner":"u","spec":{"identity":"","publicKey":"","endpoints":[],"signature":""}}},
            "claims":{}}"#;
        files.write(nonsense.as_bytes()).unwrap();
        let (world, past) = files.load(&me).unwrap();
        assert!(past.own.is_empty() && past.held.len() == 1);
        assert!(world.nodes.values().all(|node| node.ranges.is_empty()));
        assert!(world.adverts.values().all(Result::is_err));
    }
}
