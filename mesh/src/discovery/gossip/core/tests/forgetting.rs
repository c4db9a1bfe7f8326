//! Who may forget whom, and that all agree on it whatever the order in which things are heard.

use super::*;
use crate::discovery::gossip::message::Statement;
use crate::discovery::gossip::tombstone::Tombstone;

impl Sim {
    fn tombstone(&self, id: NodeId, by: &Identity) -> Message {
        Message::Tombstones {
            tombstones: vec![Tombstone::sign(id, by, self.cores[0].params().id())],
            signers: Vec::new(),
        }
    }

    fn hear(&mut self, to: usize, from: usize, message: Message) {
        let (from, now) = (self.ids[from], self.now);
        self.cores[to].receive(from, message, now).unwrap();
        self.flush(to);
    }

    fn knows(&self, n: usize, id: NodeId) -> bool {
        self.cores[n].records.contains_key(&id)
    }

    fn forget(&mut self, by: usize, gone: usize) {
        let (id, now) = (self.ids[gone].to_string(), self.now);
        if self.cores[by].forget(&id, now).is_ok() {
            self.flush(by);
        }
    }

    /// What a node does that starts again with what it kept on disk.
    fn restart(&mut self, n: usize) {
        let mut again = setup(n, "10.32.0.0/12");
        let old = &self.cores[n];
        again.kept = self.kept[n];
        again.kept.generation += 1;
        again.instance = Instance::from_bytes([n as u8 + 100; 16]);
        again.tombstones = old.tombstones.clone();
        let open = |signed| Record::open(signed, &old.rules, None).ok();
        again.records = old.kept_records().into_iter().filter_map(open).collect();
        let peers: Vec<_> = (0..self.cores.len())
            .filter(|p| self.links.contains(&(n.min(*p), n.max(*p))))
            .collect();
        peers.iter().for_each(|p| self.cut(n, *p));
        self.cores[n] = Core::new(again, self.now);
        self.flush(n);
        peers.iter().for_each(|p| self.connect(n, *p));
    }
}

#[test]
fn a_tombstone_of_a_signer_that_nobody_knows_removes_nobody() {
    let mut sim = Sim::of(4, "10.32.0.0/12");
    sim.connect_all(&all(4));
    sim.until("all see all", |sim| sim.converged(&all(4)));
    let (victim, stranger) = (sim.ids[1], identity(9));
    let before = sim.cores[0].roster();
    let tombstone = sim.tombstone(victim, &stranger);
    sim.hear(0, 3, tombstone.clone());
    sim.run(Duration::from_secs(3));
    assert!((0..4).all(|n| sim.knows(n, victim)));
    assert_eq!(*before, *sim.cores[0].roster());
    let counted = sim.cores[0].counters["tombstones passed over: unknown signer"];
    assert_eq!(counted, 1, "nobody tells it on");

    // The victim itself does not believe it from whoever turns it away either.
    let Message::Tombstones { tombstones, .. } = tombstone else {
        unreachable!("it was made above");
    };
    let statement = Statement {
        tombstone: tombstones[0].clone(),
        by_name: None,
        signer: None,
    };
    let now = sim.now;
    sim.cores[1].told_forgotten(statement.clone(), now);
    assert!(!sim.cores[1].is_forgotten());
    let record = sim.forge(&stranger, |_| {});
    let signer = Some(record);
    let statement = Statement {
        signer,
        ..statement
    };
    sim.cores[1].told_forgotten(statement, now);
    assert!(sim.cores[1].is_forgotten(), "a member's word counts");
}

#[test]
fn a_tombstone_and_its_signers_record_end_alike_in_either_order() {
    let mut sim = Sim::of(4, "10.32.0.0/12");
    sim.connect_all(&all(4));
    sim.until("all see all", |sim| sim.converged(&all(4)));
    let (victim, member) = (sim.ids[1], identity(9));
    let record = sim.forge(&member, |_| {});
    let tombstone = sim.tombstone(victim, &member);
    // One hears the one first, one the other.
    sim.cut(0, 2);
    let from = sim.ids[3];
    sim.tell(0, from, record).unwrap();
    sim.hear(0, 3, tombstone.clone());
    assert!(!sim.knows(0, victim));
    sim.hear(2, 3, tombstone);
    sim.connect(0, 2);
    sim.until("all agree", |sim| {
        (0..4).all(|n| n == 1 || !sim.knows(n, victim)) && sim.cores[1].is_forgotten()
    });
    sim.cut(0, 1);
    sim.until("all sums are one", |sim| {
        let sums: BTreeSet<_> = [0, 2, 3].iter().map(|n| sim.cores[*n].sum()).collect();
        sums.len() == 1
    });
}

#[test]
fn two_that_forgot_each_other_are_forgotten_by_who_comes_later_too() {
    let mut sim = Sim::of(6, "10.32.0.0/12");
    sim.connect_all(&all(6));
    sim.until("all see all", |sim| sim.converged(&all(6)));
    sim.run(Duration::from_secs(2));
    // A partition, and a person on each side who cleans up.
    for (a, b) in (0..3).flat_map(|a| (3..6).map(move |b| (a, b))) {
        sim.cut(a, b);
    }
    sim.forget(1, 4);
    sim.forget(4, 1);
    sim.run(Duration::from_secs(1));
    sim.connect(0, 3);
    sim.connect(2, 5);
    let gone = [sim.ids[1], sim.ids[4]];
    let stay = [0, 2, 3, 5];
    let forgot = |sim: &Sim, n: usize| gone.iter().all(|id| sim.cores[n].tombstones.contains(*id));
    sim.until("both are forgotten", |sim| {
        stay.iter().all(|n| forgot(sim, *n))
    });
    // The only one that tells the newcomer has started again since.
    sim.restart(0);
    let late = sim.add(setup(6, "10.32.0.0/12"));
    sim.connect(0, late);
    sim.until("the newcomer agrees", |sim| {
        forgot(sim, late) && sim.cores[late].sum() == sim.cores[0].sum()
    });
    assert!(gone.iter().all(|id| !sim.knows(late, *id)));
    // And whoever hears it from the newcomer.
    sim.restart(late);
    let last = sim.add(setup(7, "10.32.0.0/12"));
    sim.connect(late, last);
    sim.until("the last agrees", |sim| {
        forgot(sim, last) && sim.cores[last].sum() == sim.cores[0].sum()
    });
}

#[test]
fn all_that_are_left_agree_whoever_forgot_whom_in_whatever_parts() {
    for seed in 1..30_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let mut sim = Sim::of(7, "10.32.0.0/12");
        sim.connect_all(&all(7));
        sim.until("all see all", |sim| sim.converged(&all(7)));
        let side: Vec<_> = (0..7).map(|_| roll(3)).collect();
        for (a, b) in (0..7).flat_map(|a| (a + 1..7).map(move |b| (a, b))) {
            if side[a] != side[b] {
                sim.cut(a, b);
            }
        }
        for _ in 0..6 {
            let (by, gone) = (roll(6), 1 + roll(6));
            if by != gone {
                sim.forget(by, gone);
            }
            if roll(2) == 0 {
                sim.run(STEP * roll(10) as u32);
            }
        }
        if roll(2) == 0 {
            sim.restart(roll(6));
        }
        // Whoever is not forgotten where it looks meets again, one after the other.
        let met = |sim: &Sim, a: usize, b: usize| {
            !sim.cores[a].tombstones.contains(sim.ids[b])
                && !sim.cores[b].tombstones.contains(sim.ids[a])
                && !sim.cores[a].is_forgotten()
                && !sim.cores[b].is_forgotten()
        };
        for _ in 0..3 {
            for (a, b) in (0..7).flat_map(|a| (a + 1..7).map(move |b| (a, b))) {
                if met(&sim, a, b) {
                    sim.connect(a, b);
                    sim.run(STEP * roll(4) as u32);
                }
            }
            sim.run(Duration::from_secs(4));
        }
        let late = sim.add(setup(7, "10.32.0.0/12"));
        let left: Vec<_> = (0..7).filter(|n| !sim.cores[*n].is_forgotten()).collect();
        let Some(first) = left.iter().copied().find(|n| met(&sim, *n, late)) else {
            continue;
        };
        sim.connect(first, late);
        sim.run(Duration::from_secs(6));
        let group: Vec<_> = left
            .iter()
            .copied()
            .filter(|n| met(&sim, first, *n))
            .collect();
        for n in group.iter().chain([&late]) {
            let [a, b] = [first, *n].map(|n| {
                let core = &sim.cores[n];
                let records: Vec<_> = core.records.keys().copied().collect();
                let stones: Vec<_> = core.tombstones.all().map(|t| (t.id, t.by)).collect();
                (records, stones)
            });
            assert_eq!(a, b, "seed {seed}: {first} and {n}");
        }
    }
}
