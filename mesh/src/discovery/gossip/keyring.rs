//! The mesh's secrets: which let new nodes in, and which only those already known.
//!
//! A keyring is merged, never replaced: entries only ever appear or retire, so all members come
//! to the same one whatever the order. When it is full the oldest go, retired ones first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::text::hash;
use super::token::{KeyId, Secret};

/// The most secrets that a mesh keeps.
pub const MAX_KEYS: usize = 16;

/// What a secret is still good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Lets new nodes in.
    Active,
    /// Lets only nodes in that the mesh knows: those that were away when it was retired.
    Retired,
}

/// A secret of the mesh without the secret, for screens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    pub id: KeyId,
    /// Seconds since 1970.
    pub created: u64,
    pub state: KeyState,
}

/// An entry as it is stored and told to other members, inside the sealed channel only.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(with = "secret_text")]
    secret: Secret,
    created: u64,
    state: KeyState,
}

#[derive(Clone, Default)]
pub(super) struct Keyring {
    entries: BTreeMap<KeyId, Entry>,
}

impl Entry {
    /// Makes it no younger than `latest`, in seconds since 1970.
    pub(super) fn cap(&mut self, latest: u64) {
        self.created = self.created.min(latest);
    }
}

impl Keyring {
    pub(super) fn add(&mut self, secret: Secret, created: u64) -> KeyId {
        let id = secret.id();
        self.merge(vec![Entry {
            secret,
            created,
            state: KeyState::Active,
        }]);
        id
    }

    pub(super) fn retire_all_but(&mut self, keep: KeyId) {
        for (id, entry) in &mut self.entries {
            if *id != keep {
                entry.state = KeyState::Retired;
            }
        }
    }

    /// Takes over what `entries` say; whether that changed anything.
    pub(super) fn merge(&mut self, entries: Vec<Entry>) -> bool {
        let before = self.digest();
        for entry in entries.into_iter().take(2 * MAX_KEYS) {
            let id = entry.secret.id();
            let known = self.entries.entry(id).or_insert_with(|| entry.clone());
            known.state = known.state.max(entry.state);
            known.created = known.created.max(entry.created);
        }
        while self.entries.len() > MAX_KEYS {
            // Those that still let nodes in stay as long as there are others.
            let mut all = self.newest_first();
            all.sort_by_key(|(_, entry)| entry.state);
            let Some(oldest) = all.last().map(|(id, _)| **id) else {
                break;
            };
            self.entries.remove(&oldest);
        }
        self.digest() != before
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.values().cloned().collect()
    }

    pub(super) fn get(&self, id: KeyId) -> Option<(&Secret, KeyState)> {
        self.entries.get(&id).map(|e| (&e.secret, e.state))
    }

    /// The secret that this node gives out and dials with first: the newest active one.
    pub(super) fn current(&self) -> Option<&Secret> {
        self.secrets().next()
    }

    /// The secrets to dial with, the likeliest to be known first.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let mut all = self.newest_first();
        all.sort_by_key(|(_, entry)| entry.state);
        all.into_iter().map(|(_, entry)| &entry.secret)
    }

    pub(super) fn list(&self) -> Vec<KeyInfo> {
        self.newest_first()
            .into_iter()
            .map(|(id, entry)| KeyInfo {
                id: *id,
                created: entry.created,
                state: entry.state,
            })
            .collect()
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let mut text = Vec::new();
        for (id, entry) in &self.entries {
            text.extend_from_slice(id.as_bytes());
            text.extend_from_slice(&entry.created.to_be_bytes());
            text.push(u8::from(entry.state == KeyState::Retired));
        }
        hash(&[&text])
    }

    fn newest_first(&self) -> Vec<(&KeyId, &Entry)> {
        let mut all: Vec<_> = self.entries.iter().collect();
        all.sort_by_key(|(id, entry)| std::cmp::Reverse((entry.created, **id)));
        all
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({}, {:?})", self.secret.id(), self.state)
    }
}

mod secret_text {
    use data_encoding::BASE64URL_NOPAD;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Secret, Zeroize, Zeroizing};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(BASE64URL_NOPAD.encode(secret.expose())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Secret, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        let refuse = || serde::de::Error::custom("a secret is 32 bytes in base64url");
        let mut bytes = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| refuse())?;
        let secret = <[u8; 32]>::try_from(bytes.as_slice()).map(Secret::from_bytes);
        bytes.zeroize();
        secret.map_err(|_| refuse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> Secret {
        Secret::from_bytes([n; 32])
    }

    #[test]
    fn a_clock_that_is_a_year_off_locks_nobody_out() {
        const DAY: u64 = 86_400;
        let (now, year) = (2_000 * DAY, 365 * DAY);
        let mut right = Keyring::default();
        right.add(secret(1), now);
        let new = right.add(secret(2), now + 1);
        right.retire_all_but(new);
        for clock in [now - year, now + year] {
            // What it hears is no younger than a day from its now.
            let mut wrong = Keyring::default();
            let mut heard = right.entries();
            heard.iter_mut().for_each(|entry| entry.cap(clock + DAY));
            wrong.merge(heard);
            assert_eq!(wrong.current().map(Secret::id), Some(new));
            // Its own rotation counts everywhere, and theirs after it there.
            let newest = wrong.list()[0].created + 1;
            let own = wrong.add(secret(3), clock.max(newest));
            wrong.retire_all_but(own);
            let mut others = right.clone();
            let mut heard = wrong.entries();
            heard.iter_mut().for_each(|entry| entry.cap(now + DAY));
            others.merge(heard);
            assert_eq!(others.current().map(Secret::id), Some(own));
            let newest = others.list()[0].created + 1;
            let last = others.add(secret(4), now.max(newest));
            others.retire_all_but(last);
            let mut heard = others.entries();
            heard.iter_mut().for_each(|entry| entry.cap(clock + DAY));
            wrong.merge(heard);
            for keyring in [&wrong, &others] {
                assert_eq!(keyring.current().map(Secret::id), Some(last));
            }
        }
    }

    #[test]
    fn keyrings_merge_to_the_same_in_any_order_and_retired_wins() {
        let mut a = Keyring::default();
        let old = a.add(secret(1), 10);
        let mut b = a.clone();
        let new = b.add(secret(2), 20);
        b.retire_all_but(new);
        let third = a.add(secret(3), 15);
        let (from_a, from_b) = (a.entries(), b.entries());
        assert!(a.merge(from_b));
        assert!(b.merge(from_a));
        assert_eq!(a.digest(), b.digest());
        let state = |id| a.get(id).unwrap().1;
        assert_eq!(state(old), KeyState::Retired);
        assert_eq!(state(new), KeyState::Active);
        assert_eq!(state(third), KeyState::Active);
        assert_eq!(a.current().unwrap().id(), new);
        assert_eq!(a.secrets().last().unwrap().id(), old);
    }

    #[test]
    fn a_full_keyring_drops_the_oldest() {
        let mut ring = Keyring::default();
        let first = ring.add(secret(0), 1);
        for n in 1..=16 {
            ring.add(secret(n), 1 + u64::from(n));
        }
        assert_eq!(ring.list().len(), MAX_KEYS);
        assert!(ring.get(first).is_none());
    }

    #[test]
    fn a_full_keyring_drops_retired_secrets_before_those_that_let_nodes_in() {
        let mut ring = Keyring::default();
        let first = ring.add(secret(0), 1);
        let retired = ring.add(secret(1), 100);
        ring.merge(vec![Entry {
            secret: secret(1),
            created: 100,
            state: KeyState::Retired,
        }]);
        for n in 2..=16 {
            ring.add(secret(n), 1 + u64::from(n));
        }
        assert!(ring.get(retired).is_none());
        assert!(ring.get(first).is_some());
    }

    #[test]
    fn a_secret_from_the_far_future_is_taken_for_one_of_a_day_ahead() {
        let mut entry = Entry {
            secret: secret(1),
            created: u64::MAX,
            state: KeyState::Active,
        };
        entry.cap(500);
        let mut ring = Keyring::default();
        ring.merge(vec![entry]);
        assert_eq!(ring.list()[0].created, 500);
    }

    #[test]
    fn a_keyring_survives_its_json() {
        let mut ring = Keyring::default();
        ring.add(secret(5), 9);
        let json = serde_json::to_string(&ring.entries()).unwrap();
        let mut back = Keyring::default();
        back.merge(serde_json::from_str(&json).unwrap());
        assert_eq!(ring.digest(), back.digest());
    }
}
