//! Members that lie, and bytes that mean nothing.

use super::*;
use crate::discovery::gossip::message::Digest;
use crate::discovery::gossip::record::Claim;
use crate::discovery::gossip::text::hash;
use crate::{Endpoint, ServedName};

#[test]
fn a_member_speaks_only_for_itself_and_only_for_what_is_its_own() {
    let mut sim = Sim::of(4, "10.32.0.0/12");
    sim.connect_all(&all(4));
    sim.until("all see all", |sim| sim.converged(&all(4)));
    sim.run(Duration::from_secs(1));
    let mallory = identity(3);
    let id = mallory.id();
    let refused = |sim: &mut Sim, what: &str, counter: &str, record: Signed| {
        let before = sim.cores[0].roster();
        let counted = |sim: &Sim| sim.cores[0].counters.get(counter).copied().unwrap_or(0);
        let count = counted(sim);
        let checkable = counter.ends_with("size") || counter.ends_with("signature");
        assert_eq!(sim.tell(0, id, record).is_err(), checkable, "{what}");
        assert_eq!(counted(sim), count + 1, "{what}");
        assert_eq!(*before, *sim.cores[0].roster(), "{what}");
    };

    // Another's record: changed, or signed by itself under the other's name.
    let mut forged = sim.cores[0].records[&sim.ids[1]].signed.clone();
    forged.stamp.version += 1;
    forged.body = forged.body.replace("\"n1\"", "\"n9\"");
    refused(&mut sim, "changed", "records refused: signature", forged);
    let mut forged = sim.forge(&mallory, |_| {});
    forged.id = sim.ids[1];
    refused(
        &mut sim,
        "for another",
        "records refused: signature",
        forged,
    );

    // The unsigned stamp alone.
    let mut replay = sim.cores[0].records[&sim.ids[1]].signed.clone();
    replay.stamp.version += 5;
    refused(&mut sim, "stamp", "records refused: malformed", replay);

    let endpoints = [
        "10.32.0.9:1",
        "127.0.0.1:1",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "192.0.2.1:0",
    ];
    let inside = format!("[{}]:1", sim.cores[0].params().ula.addr());
    for endpoint in endpoints
        .iter()
        .copied()
        .chain([inside.as_str(), "[::ffff:10.32.0.9]:1"])
    {
        let endpoint: Endpoint = endpoint.parse().unwrap();
        let record = sim.forge(&mallory, |body| body.endpoints = vec![endpoint.clone()]);
        let what = endpoint.to_string();
        refused(&mut sim, &what, "records refused: endpoint", record);
    }
    let beyond = Claim {
        slot: 4096,
        settled: true,
    };
    let record = sim.forge(&mallory, |body| body.claim = Some(beyond));
    refused(&mut sim, "no share", "records refused: range", record);

    let own = Claim {
        slot: sim.held(3).unwrap(),
        settled: true,
    };
    let theirs = sim.cores[0].roster.members[&sim.ids[1]].pod_cidrs[0].addr();
    let record = sim.forge(&mallory, |body| {
        body.claim = Some(own);
        body.names = vec![ServedName {
            name: "web".into(),
            addresses: vec![theirs],
        }];
    });
    refused(&mut sim, "address", "records refused: address", record);

    // A grant that was another's.
    let grants = sim.cores[0].records[&sim.ids[1]].body.grants.clone();
    let taken = Claim {
        slot: sim.held(1).unwrap(),
        settled: true,
    };
    let record = sim.forge(&mallory, |body| {
        body.claim = Some(taken);
        body.grants = grants;
    });
    refused(&mut sim, "grant", "records refused: grant", record);

    let large = sim.forge(&mallory, |body| {
        let name = |n| ServedName {
            name: format!("{n}.{}", "x".repeat(60)),
            addresses: Vec::new(),
        };
        body.claim = Some(own);
        body.names = (0..1024).map(name).collect();
    });
    refused(&mut sim, "size", "records refused: size", large);
    // An old one of its own is no abuse; it is passed over.
    let old = sim.cores[0].records[&id].signed.clone();
    sim.tell(0, id, old).unwrap();
}

#[test]
fn a_held_range_name_and_key_stay_whatever_a_single_member_claims() {
    let mut sim = Sim::of(4, "10.32.0.0/12");
    sim.connect_all(&all(4));
    sim.until("all see all", |sim| sim.converged(&all(4)));
    sim.run(Duration::from_secs(1));
    let victim = sim.ids[1];
    let before = sim.cores[0].roster.members[&victim].clone();
    // Identities until one hashes lower than the victim in every tie.
    let slot = sim.held(1).unwrap();
    for n in 100..140 {
        let mallory = identity(n);
        let record = sim.forge(&mallory, |body| {
            body.name = before.name.clone();
            body.key = before.public_key;
            body.claim = Some(Claim {
                slot,
                settled: true,
            });
        });
        // Told by a member, as if it had joined.
        let from = sim.ids[3];
        sim.tell(0, from, record).unwrap();
        sim.run(Duration::from_millis(50));
    }
    sim.run(Duration::from_secs(2));
    assert_eq!(sim.cores[0].roster.members[&victim], before);
    assert_eq!(sim.held(1), Some(slot));
    let own = sim.cores[1].standing();
    let clash = |kind| own.problems.iter().any(|p| p.kind == kind);
    assert!(clash(ProblemKind::RangeClash) && clash(ProblemKind::KeyClash));
    // None of them is in any roster: a key has one owner.
    assert_eq!(sim.cores[0].roster.members.len(), 3);
}

/// Whether `a`'s hash for `what` is the lower one, which wins where nothing else decides.
fn is_lower(what: &[u8], a: NodeId, b: NodeId) -> bool {
    hash(&[what, a.as_bytes()]) < hash(&[what, b.as_bytes()])
}

#[test]
fn a_share_that_was_given_up_is_not_taken_back_with_the_grants_of_old() {
    let mut sim = Sim::of(4, "10.32.0.0/12");
    sim.connect_all(&all(4));
    sim.until("all see all", |sim| sim.converged(&all(4)));
    sim.run(Duration::from_secs(1));
    let mallory = identity(3);
    let (slot, old) = (sim.held(3).unwrap(), sim.grants(3));
    assert_eq!(old, 3);
    let grants = sim.cores[3].records[&mallory.id()].body.grants.clone();
    (0..3).for_each(|n| sim.cut(n, 3));
    // It moves on.
    let claim = |slot| Claim {
        slot,
        settled: true,
    };
    let record = sim.forge(&mallory, |body| body.claim = Some(claim(slot + 1)));
    for n in 0..3 {
        sim.tell(n, mallory.id(), record.clone()).unwrap();
    }
    // Somebody else takes the share, and loses by hash.
    let bytes = slot.to_be_bytes();
    let loses = |n: &usize| is_lower(&bytes, mallory.id(), identity(*n).id());
    let mut setup = setup((10..).find(loses).unwrap(), "10.32.0.0/12");
    setup.kept.slot = Some(slot);
    let victim = sim.add(setup);
    sim.connect_all(&[0, 1, 2, victim]);
    sim.until("granted", |sim| sim.grants(victim) == 3);
    sim.run(Duration::from_secs(1));
    // Back it comes.
    let record = sim.forge(&mallory, |body| {
        body.claim = Some(claim(slot));
        body.grants = grants;
        body.stamp.generation = 100;
    });
    for n in [0, 1, 2, victim] {
        sim.tell(n, mallory.id(), record.clone()).unwrap();
    }
    sim.run(Duration::from_secs(2));
    assert_eq!(sim.held(victim), Some(slot));
    let id = sim.ids[victim];
    for core in &sim.cores[..3] {
        assert_eq!(core.roster.members[&id].pod_cidrs.len(), 2);
        assert!(core.roster.members[&mallory.id()].pod_cidrs.is_empty());
    }
}

#[test]
fn a_member_does_not_take_the_key_of_another() {
    let mut sim = Sim::of(6, "10.32.0.0/12");
    sim.connect_all(&all(6));
    sim.until("all see all", |sim| sim.converged(&all(6)));
    // A changed key is granted anew, and the share stays meanwhile.
    let slots: Vec<_> = (0..6).map(|n| sim.held(n)).collect();
    let mut me = announcement(1);
    let ids = sim.ids.clone();
    let thief = |key: &[u8; 32]| (2..6).find(|n| is_lower(key, ids[*n], ids[1]));
    let key = (50..).map(|n| [n; 32]).find(|key| thief(key).is_some());
    let key = key.unwrap();
    me.public_key = PublicKey::from_bytes(key);
    let thief = thief(&key).unwrap();
    let now = sim.now;
    sim.cores[1].announce(me.clone(), now);
    sim.flush(1);
    sim.run(Duration::from_secs(8));
    let key = me.public_key;
    let granted = |sim: &Sim| {
        let grants = &sim.cores[0].records[&sim.ids[1]].body.grants;
        grants.iter().filter(|g| g.covers.key == Some(key)).count()
    };
    assert_eq!(granted(&sim), 5);
    assert_eq!(slots, (0..6).map(|n| sim.held(n)).collect::<Vec<_>>());
    let mut me = announcement(thief);
    me.public_key = key;
    sim.cores[thief].announce(me, now);
    sim.flush(thief);
    sim.run(Duration::from_secs(8));
    let (victim, thief) = (sim.ids[1], sim.ids[thief]);
    for core in [&sim.cores[0], &sim.cores[2], &sim.cores[3]] {
        if core.id != thief {
            assert_eq!(core.roster.members[&victim].public_key, key);
            assert!(!core.roster.members.contains_key(&thief));
        }
    }
}

#[test]
fn a_peer_is_granted_one_thing_a_second_and_the_same_again_is_no_news() {
    let mut sim = Sim::of(2, "10.32.0.0/12");
    sim.connect(0, 1);
    sim.until("all see all", |sim| sim.converged(&all(2)));
    sim.run(Duration::from_secs(2));
    let from = sim.ids[1];
    let please = Message::GrantPlease {
        record: sim.cores[0].records[&from].signed.clone(),
    };
    let now = sim.now;
    for _ in 0..20 {
        sim.cores[0].receive(from, please.clone(), now).unwrap();
    }
    let effects = sim.cores[0].take_effects();
    let grants: Vec<_> = effects
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Grant(_, Message::Granted { grant }, _) => Some(grant),
            _ => None,
        })
        .collect();
    assert_eq!(grants.len(), 1);
    let before = sim.cores[1].records[&from].signed.stamp;
    let granter = sim.ids[0];
    let grant = grants[0].clone();
    sim.cores[1]
        .receive(granter, Message::Granted { grant }, now)
        .unwrap();
    sim.run(Duration::from_secs(1));
    assert_eq!(sim.cores[1].records[&from].signed.stamp, before);
}

#[test]
fn a_digest_of_a_stranger_is_answered_with_no_more_than_there_is() {
    let mut sim = Sim::of(2, "10.32.0.0/12");
    sim.connect(0, 1);
    sim.until("all see all", |sim| sim.converged(&all(2)));
    let mine = sim.cores[0].digest(true);
    let empty = Digest {
        records: BTreeMap::new(),
        ..mine
    };
    let (from, now) = (sim.ids[1], sim.now);
    sim.cores[0]
        .receive(from, Message::Digest(empty), now)
        .unwrap();
    let effects = sim.cores[0].take_effects();
    assert_eq!(effects.len(), 1, "{effects:?}");
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_body_panics_the_record(text in "\\PC{0,200}", member in any::<bool>()) {
            let rules = rules("10.32.0.0/12");
            let body = setup(1, "10.32.0.0/12");
            let core = Core::new(body, Instant::now());
            let mut signed = core.records[&core.id].signed.clone();
            let at = text.len() % signed.body.len();
            if member && signed.body.is_char_boundary(at) {
                signed.body.insert_str(at, &text);
            } else {
                signed.body = text.clone();
            }
            // Its signature is wrong, and what is inside must not panic either.
            prop_assert!(text.is_empty() || Record::open(signed.clone(), &rules, None).is_err());
            let _ = serde_json::from_str::<Body>(&signed.body);
        }
    }
}
