//! Honest nodes: joining, restarts, partitions, clones, goodbyes by others.

use super::*;
use crate::Endpoint;
use crate::discovery::gossip::keyring::KeyState;
use crate::discovery::gossip::message::Refusal;

#[test]
fn twenty_nodes_that_all_know_one_converge_in_less_than_two_seconds() {
    let mut sim = Sim::of(20, "10.32.0.0/12");
    for n in 1..20 {
        sim.connect(0, n);
    }
    // The others are dialled as soon as they are heard of.
    sim.run(Duration::from_millis(50));
    sim.connect_all(&all(20));
    let time = sim.until("all see all", |sim| sim.converged(&all(20)));
    assert!(time < Duration::from_secs(2), "{time:?}");
    sim.until("all agree", Sim::agreed);
    sim.run(Duration::from_secs(3));
    assert!((1..20).all(|n| sim.grants(n) == 7));
    // Nothing is said then but the comparisons.
    let before = sim.sent;
    sim.run(Duration::from_secs(10));
    let each = (sim.sent - before) as f64 / 20.0 / 10.0;
    assert!(each < 1.3, "{each} messages a second a node");
}

#[test]
fn fifty_nodes_in_a_sparse_mesh_agree_within_seconds() {
    let mut sim = Sim::of(50, "10.32.0.0/12");
    for n in 0..50 {
        for step in [1, 7, 19] {
            sim.connect(n, (n + step) % 50);
        }
    }
    let time = sim.until("all see all", |sim| sim.converged(&all(50)));
    assert!(time < Duration::from_secs(5), "{time:?}");
    sim.until("all agree", Sim::agreed);
}

#[test]
fn a_crowded_pool_gives_each_its_own_and_says_when_it_is_full() {
    let mut sim = Sim::of(17, "10.32.0.0/20");
    sim.connect_all(&all(17));
    sim.until("sixteen hold a share", |sim| {
        (0..17).filter(|n| sim.held(*n).is_some()).count() == 16
    });
    sim.until("the last knows that there is none", |sim| {
        let full = |core: &Core| core.claim_state() == ClaimState::Full;
        sim.cores.iter().filter(|core| full(core)).count() == 1
    });
    let out = (0..17).find(|n| sim.held(*n).is_none()).unwrap();
    let gone = (1..17).find(|n| *n != out).unwrap();
    let name = format!("n{gone}");
    let now = sim.now;
    sim.cores[0].forget(&name, now).unwrap();
    sim.flush(0);
    sim.until("a forgotten node's share is taken", |sim| {
        sim.held(out).is_some()
    });
    assert!(sim.cores[gone].is_forgotten());
}

#[test]
fn both_sides_of_a_healed_partition_pick_one_winner_of_each_share() {
    // Small, so that both sides take the same shares.
    let mut sim = Sim::of(16, "10.32.0.0/20");
    let sides = [all(8), (8..16).collect::<Vec<_>>()];
    for side in &sides {
        sim.connect_all(side);
    }
    sim.until("each side is whole", |sim| {
        sides.iter().all(|side| sim.converged(side))
    });
    sim.run(Duration::from_secs(1));
    let before: Vec<_> = (0..16).map(|n| sim.held(n).unwrap()).collect();
    let distinct: BTreeSet<_> = before.iter().collect();
    assert!(distinct.len() < 16, "the sides must clash for this test");
    sim.connect(3, 10);
    sim.run(Duration::from_millis(200));
    sim.connect_all(&all(16));
    let time = sim.until("all see all", |sim| sim.converged(&all(16)));
    assert!(time < Duration::from_secs(6), "{time:?}");
    sim.until("all agree", Sim::agreed);
    // Of two that held one share, one still has it.
    for slot in distinct {
        let still = (0..16).filter(|n| before[*n] == *slot && sim.held(*n) == Some(*slot));
        assert_eq!(still.count(), 1, "share {slot}");
    }
    assert_eq!(sim.held(0), Some(before[0]), "the founder never loses");
}

#[test]
fn a_restart_keeps_the_share_and_is_news_everywhere() {
    let mut sim = Sim::of(3, "10.32.0.0/12");
    sim.connect_all(&all(3));
    sim.until("all see all", |sim| sim.converged(&all(3)));
    let slot = sim.held(2);
    sim.cut(0, 2);
    sim.cut(1, 2);
    let mut again = setup(2, "10.32.0.0/12");
    again.instance = Instance::from_bytes([9; 16]);
    again.kept = sim.kept[2];
    again.kept.generation += 1;
    again.me.endpoints = vec!["198.51.100.7:6783".parse().unwrap()];
    sim.cores[2] = Core::new(again, sim.now);
    sim.flush(2);
    assert_eq!(sim.held(2), slot);
    sim.connect_all(&all(3));
    let id = sim.ids[2];
    let time = sim.until("the new address is heard", |sim| {
        let member = &sim.cores[1].roster.members[&id];
        member.endpoints == ["198.51.100.7:6783".parse::<Endpoint>().unwrap()]
    });
    assert!(time < Duration::from_millis(100), "{time:?}");
    assert!(sim.cores[1].standing().problems.is_empty());
}

#[test]
fn a_backup_that_was_restored_goes_on_above_what_others_heard() {
    let mut sim = Sim::of(2, "10.32.0.0/12");
    sim.connect(0, 1);
    sim.until("all see all", |sim| sim.converged(&all(2)));
    sim.cut(0, 1);
    // It ran often since the backup.
    let later = sim.forge(&identity(1), |body| {
        body.name = "n1".parse().unwrap();
        body.stamp.instance = Instance::from_bytes([77; 16]);
    });
    let from = sim.ids[1];
    sim.tell(0, from, later).unwrap();
    sim.connect(0, 1);
    sim.until("heard again", |sim| {
        let theirs = sim.cores[0].records[&sim.ids[1]].signed.stamp;
        theirs.generation == 100 && sim.cores[0].roster.members[&sim.ids[1]].pod_cidrs.len() == 2
    });
    assert_eq!(sim.kept[1].generation, 100);
    assert!(sim.cores[1].standing().problems.is_empty());
}

/// Whether `core` names the two machines of [`clones`].
fn names_clones(core: &Core) -> bool {
    let problems = core.standing().problems;
    let text = problems.iter().find(|p| p.kind == ProblemKind::Cloned);
    text.is_some_and(|p| p.text.contains("198.51.100.9") && p.text.contains("192.0.2.3"))
}

/// Three nodes, and a machine with the identity of the last that started later.
fn clones(of: Kept) -> (Sim, usize) {
    let mut sim = Sim::of(3, "10.32.0.0/12");
    let mut clone = setup(2, "10.32.0.0/12");
    clone.instance = Instance::from_bytes([200; 16]);
    clone.me.endpoints = vec!["198.51.100.9:6783".parse().unwrap()];
    clone.kept = of;
    let clone = sim.add(clone);
    (sim, clone)
}

#[test]
fn two_machines_with_one_identity_are_named_everywhere_and_stop_fighting() {
    let (mut sim, clone) = clones(Kept {
        generation: 1,
        slot: None,
    });
    sim.connect(0, 1);
    sim.connect(0, 2);
    sim.connect(1, clone);
    let all_name = |sim: &Sim| sim.cores.iter().all(names_clones);
    let time = sim.until("all name them", all_name);
    assert!(time < Duration::from_secs(5), "{time:?}");
    sim.run(Duration::from_secs(2));
    let kept = sim.kept.clone();
    sim.run(Duration::from_secs(60));
    let more = |n: usize| sim.kept[n].generation - kept[n].generation;
    assert!(more(2) + more(clone) <= 6, "one answer to each in 30 s");
    assert!(kept[2].generation < 20);
}

#[test]
fn two_machines_with_one_identity_that_meet_at_one_node_are_named_in_seconds() {
    for (generation, pause) in [(1, 0), (2, 0), (2, 700), (2, 1300), (7, 0), (9, 2900)] {
        let (mut sim, clone) = clones(Kept {
            generation,
            slot: None,
        });
        sim.connect(0, 1);
        sim.connect(0, 2);
        sim.run(Duration::from_millis(pause));
        sim.connect(0, clone);
        let time = sim.until("all name them", |sim| sim.cores.iter().all(names_clones));
        assert!(time < Duration::from_secs(5), "{generation}: {time:?}");
    }
}

#[test]
fn a_forgotten_node_does_not_come_back_by_anybody() {
    let mut sim = Sim::of(5, "10.32.0.0/12");
    sim.connect_all(&all(5));
    sim.until("all see all", |sim| sim.converged(&all(5)));
    // One is away meanwhile and still has the record.
    for n in 0..4 {
        sim.cut(n, 4);
    }
    let gone = sim.ids[2];
    let now = sim.now;
    sim.cores[1].forget("n2", now).unwrap();
    sim.flush(1);
    sim.until("dropped", |sim| {
        [0, 1, 3]
            .iter()
            .all(|n| !sim.cores[*n].records.contains_key(&gone))
    });
    assert!(sim.cores[2].is_forgotten() && sim.cores[2].roster.members.is_empty());
    sim.connect(4, 0);
    sim.until("told", |sim| !sim.cores[4].records.contains_key(&gone));
    sim.run(Duration::from_secs(5));
    assert!(
        [0, 1, 3, 4]
            .iter()
            .all(|n| !sim.cores[*n].records.contains_key(&gone))
    );
    let refused = sim.cores[0].admit(gone, KeyState::Active);
    assert!(refused.is_err_and(|r| matches!(*r, Refusal::Forgotten(_))));
    // By a key that nobody knows any more, too.
    assert!(
        sim.cores[0]
            .admit(identity(77).id(), KeyState::Retired)
            .is_err()
    );
    assert!(
        sim.cores[0]
            .admit(identity(77).id(), KeyState::Active)
            .is_ok()
    );
}

#[test]
fn keys_that_are_rotated_reach_everybody() {
    let mut sim = Sim::of(6, "10.32.0.0/12");
    for n in 1..6 {
        sim.connect(n - 1, n);
    }
    let mut keyring = sim.cores[0].keyring().clone();
    let new = keyring.add(Secret::from_bytes([6; 32]), 2);
    keyring.retire_all_but(new);
    sim.cores[0].merge_keys(keyring.entries());
    sim.flush(0);
    sim.until("everywhere", |sim| {
        sim.cores.iter().all(|core| {
            let current = core.keyring().current().unwrap();
            current.id() == new
        })
    });
}

#[test]
fn a_claim_whose_share_cannot_be_kept_on_disk_is_not_final() {
    let now = Instant::now();
    let mut core = Core::new(setup(0, "10.32.0.0/12"), now);
    core.tick(now + WAIT);
    let kept = core
        .take_effects()
        .into_iter()
        .find_map(|effect| match effect {
            Effect::Save(kept) => Some(kept),
            _ => None,
        });
    core.saved(kept.unwrap(), Err("disk full".into()), now + WAIT);
    let own = core.standing();
    assert!(own.claim.ranges().is_empty());
    assert_eq!(own.problems[0].kind, ProblemKind::Storage);
    assert_eq!(own.problems[0].text, "disk full");
}

#[test]
fn what_others_would_refuse_is_not_told_and_is_named() {
    let now = Instant::now();
    let mut core = Core::new(setup(0, "10.32.0.0/12"), now);
    let mut me = announcement(0);
    me.endpoints.push("10.32.0.1:6783".parse().unwrap());
    core.announce(me, now);
    let own = core.standing();
    assert!(own.problems[0].text.contains("10.32.0.1:6783"), "{own:?}");
    let record = &core.records[&core.id];
    assert_eq!(record.body.endpoints.len(), 1);
}

#[test]
fn a_node_that_lost_its_name_goes_by_the_one_that_all_others_use() {
    let mut sim = Sim::of(3, "10.32.0.0/12");
    sim.connect_all(&all(3));
    sim.until("all see all", |sim| sim.converged(&all(3)));
    let mut me = announcement(2);
    me.name = "n1".parse().unwrap();
    let now = sim.now;
    sim.cores[2].announce(me, now);
    sim.flush(2);
    sim.run(Duration::from_secs(1));
    let name = sim.cores[2].standing().name;
    assert_ne!(name.as_str(), "n1");
    assert_eq!(name, sim.cores[0].roster.members[&sim.ids[2]].name);
    assert_eq!(sim.cores[1].standing().name.as_str(), "n1");
}

#[test]
fn a_run_that_is_ahead_and_says_nothing_more_is_overtaken_in_the_end() {
    let mut sim = Sim::of(2, "10.32.0.0/12");
    sim.connect(0, 1);
    sim.until("all see all", |sim| sim.converged(&all(2)));
    sim.cut(0, 1);
    let from = sim.ids[0];
    let mut hear = |generation, pause| {
        let other = sim.forge(&identity(1), |body| {
            body.stamp.generation = generation;
            body.stamp.instance = Instance::from_bytes([77; 16]);
        });
        sim.now += pause;
        sim.tell(1, from, other).unwrap();
        sim.kept[1].generation
    };
    assert_eq!(hear(50, STEP), 51);
    assert_eq!(hear(60, STEP), 61);
    assert_eq!(hear(70, STEP), 61, "that one lives");
    assert_eq!(hear(70, Duration::from_secs(29)), 61);
    assert_eq!(hear(70, Duration::from_secs(1)), 71);
}
