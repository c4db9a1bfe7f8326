//! A mesh of many cores in one process, on a clock that only the tests move.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::discovery::gossip::message::Digest;
use crate::discovery::gossip::params::FoundingParams;
use crate::discovery::gossip::record::{Body, Claim, Signed};
use crate::discovery::gossip::token::Secret;
use crate::{Endpoint, PublicKey, ServedName};

const WAIT: Duration = Duration::from_millis(500);
const HOP: Duration = Duration::from_millis(5);
const STEP: Duration = Duration::from_millis(5);

/// Nodes are numbers from 0, the founder; every pair that is not cut is connected.
struct Sim {
    now: Instant,
    cores: Vec<Core>,
    ids: Vec<NodeId>,
    kept: Vec<Kept>,
    links: BTreeSet<(usize, usize)>,
    wire: BTreeMap<(Instant, u64), (usize, usize, Message)>,
    sent: u64,
}

fn identity(n: usize) -> Arc<Identity> {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    Arc::new(Identity::from_bytes(&seed))
}

fn rules(pool: &str) -> Rules {
    let founding = FoundingParams {
        pool4: pool.parse().unwrap(),
        node_prefix4: 24,
    };
    Rules {
        params: MeshParams::found(identity(0).id(), founding, [1; 16]).unwrap(),
        allow_loopback: false,
    }
}

fn announcement(n: usize) -> Announcement {
    let mut key = [3; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    Announcement {
        name: format!("n{n}").parse().unwrap(),
        public_key: PublicKey::from_bytes(key),
        endpoints: vec![format!("192.0.2.{}:6783", n % 250 + 1).parse().unwrap()],
        names: Vec::new(),
        away: false,
    }
}

fn setup(n: usize, pool: &str) -> Setup {
    let mut keyring = Keyring::default();
    keyring.add(Secret::from_bytes([5; 32]), 1);
    let mut instance = [0; 16];
    instance[..8].copy_from_slice(&n.to_be_bytes());
    Setup {
        identity: identity(n),
        rules: rules(pool),
        claim_wait: WAIT,
        me: announcement(n),
        instance: Instance::from_bytes(instance),
        kept: Kept {
            generation: 1,
            slot: None,
        },
        records: Vec::new(),
        tombstones: Tombstones::default(),
        keyring,
        book: Book::default(),
        seed: n as u64 + 1,
    }
}

impl Sim {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            cores: Vec::new(),
            ids: Vec::new(),
            kept: Vec::new(),
            links: BTreeSet::new(),
            wire: BTreeMap::new(),
            sent: 0,
        }
    }

    fn of(number: usize, pool: &str) -> Self {
        let mut sim = Self::new();
        for n in 0..number {
            sim.add(setup(n, pool));
        }
        sim
    }

    fn add(&mut self, setup: Setup) -> usize {
        self.ids.push(setup.identity.id());
        self.kept.push(setup.kept);
        self.cores.push(Core::new(setup, self.now));
        let n = self.cores.len() - 1;
        self.flush(n);
        n
    }

    fn connect(&mut self, a: usize, b: usize) {
        if a != b && self.links.insert((a.min(b), a.max(b))) {
            let (ida, idb) = (self.ids[a], self.ids[b]);
            self.cores[a].connected(idb, None, self.now);
            self.cores[b].connected(ida, None, self.now);
            self.flush(a);
            self.flush(b);
        }
    }

    fn connect_all(&mut self, nodes: &[usize]) {
        for (at, a) in nodes.iter().enumerate() {
            for b in &nodes[at + 1..] {
                self.connect(*a, *b);
            }
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            let (ida, idb) = (self.ids[a], self.ids[b]);
            self.cores[a].disconnected(idb);
            self.cores[b].disconnected(ida);
        }
    }

    /// Does what the world does with the effects of core `n`.
    fn flush(&mut self, n: usize) {
        loop {
            let effects = self.cores[n].take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Save(kept) => {
                        self.kept[n] = kept;
                        self.cores[n].saved(kept, Ok(()), self.now);
                    }
                    Effect::Send(to, message) | Effect::Grant(to, message, _) => {
                        self.send(n, to, message);
                    }
                    Effect::Part(to, message) => {
                        self.send(n, to, message);
                        if let Some(peer) = self.ids.iter().position(|id| *id == to) {
                            self.links.remove(&(n.min(peer), n.max(peer)));
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: NodeId, message: Message) {
        // As it would go over a wire.
        let message = Message::decode(&message.encode()).unwrap();
        for to in (0..self.ids.len()).filter(|n| self.ids[*n] == to) {
            if self.links.contains(&(from.min(to), from.max(to))) {
                self.sent += 1;
                let at = (self.now + HOP, self.sent);
                self.wire.insert(at, (from, to, message.clone()));
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let (from, to, message) = entry.remove();
            let linked = self.links.contains(&(from.min(to), from.max(to)));
            if linked || matches!(message, Message::Refused(_)) {
                let id = self.ids[from];
                self.cores[to].receive(id, message, self.now).unwrap();
                self.flush(to);
            }
        }
        for n in 0..self.cores.len() {
            if self.cores[n].deadline() <= self.now {
                self.cores[n].tick(self.now);
                self.flush(n);
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
            self.check();
        }
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let begun = self.now;
        while !condition(self) {
            self.step();
            self.check();
            assert!(self.now - begun < Duration::from_secs(60), "never: {what}");
        }
        self.now - begun
    }

    /// No roster, with its own node's range, ever shows two owners of a range.
    fn check(&self) {
        for core in &self.cores {
            let mut ranges = BTreeSet::new();
            let own = core.claim_state().ranges().to_vec();
            let others = core.roster.members.values().flat_map(|m| &m.pod_cidrs);
            for range in others.chain(&own) {
                assert!(ranges.insert(*range), "two owners of {range}");
            }
            let names: BTreeSet<_> = core.roster.members.values().map(|m| &m.name).collect();
            assert_eq!(names.len(), core.roster.members.len());
        }
    }

    fn held(&self, n: usize) -> Option<u32> {
        match self.cores[n].claim_state() {
            ClaimState::Held { slot, .. } => Some(slot),
            _ => None,
        }
    }

    /// All of `nodes` hold ranges and see each other so.
    fn converged(&self, nodes: &[usize]) -> bool {
        nodes.iter().all(|n| {
            let members = &self.cores[*n].roster.members;
            let whole = members.values().filter(|m| m.pod_cidrs.len() == 2).count();
            self.held(*n).is_some() && whole == nodes.len() - 1
        })
    }

    fn agreed(&self) -> bool {
        let sums: BTreeSet<_> = self.cores.iter().map(Core::sum).collect();
        sums.len() == 1
    }

    fn grants(&self, n: usize) -> usize {
        self.cores[n].records[&self.ids[n]].body.grants.len()
    }

    /// What `from` would never say: a record it makes up, signed by itself.
    fn forge(&self, from: &Identity, change: impl FnOnce(&mut Body)) -> Signed {
        let mut body = self.cores[0].records[&self.ids[1]].body.clone();
        body.name = "mallory".parse().unwrap();
        body.key = PublicKey::from_bytes([66; 32]);
        body.grants.clear();
        body.claim = None;
        body.stamp.generation = 99;
        change(&mut body);
        Signed::sign(&body, from, self.cores[0].params().id()).unwrap()
    }

    fn tell(&mut self, to: usize, from: NodeId, record: Signed) -> Result<(), Abuse> {
        let message = Message::Records {
            records: vec![record],
        };
        let result = self.cores[to].receive(from, message, self.now);
        self.flush(to);
        result
    }
}

fn all(number: usize) -> Vec<usize> {
    (0..number).collect()
}

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
    assert!(sim.cores[1].own().problems.is_empty());
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
    assert!(sim.cores[1].own().problems.is_empty());
}

#[test]
fn two_machines_with_one_identity_are_named_everywhere_and_stop_fighting() {
    let mut sim = Sim::of(3, "10.32.0.0/12");
    let mut clone = setup(2, "10.32.0.0/12");
    clone.instance = Instance::from_bytes([200; 16]);
    clone.me.endpoints = vec!["198.51.100.9:6783".parse().unwrap()];
    let clone = sim.add(clone);
    sim.connect(0, 1);
    sim.connect(0, 2);
    sim.connect(1, clone);
    let cloned = |core: &Core| {
        let problems = core.own().problems;
        let text = problems.iter().find(|p| p.kind == ProblemKind::Cloned);
        text.is_some_and(|p| p.text.contains("198.51.100.9") && p.text.contains("192.0.2.3"))
    };
    // Its links come and go, as two with one name in one mesh do.
    for _ in 0..20 {
        sim.run(Duration::from_secs(1));
    }
    assert!(cloned(&sim.cores[2]) && cloned(&sim.cores[clone]));
    assert!(cloned(&sim.cores[0]) && cloned(&sim.cores[1]));
    let kept = sim.kept.clone();
    sim.run(Duration::from_secs(30));
    assert_eq!(sim.kept, kept, "no more bumps");
    assert!(kept[2].generation < 20);
}

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
        assert!(sim.tell(0, id, record).is_err(), "{what}");
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
    let own = sim.cores[1].own();
    let clash = |kind| own.problems.iter().any(|p| p.kind == kind);
    assert!(clash(ProblemKind::RangeClash) && clash(ProblemKind::KeyClash));
    // None of them is in any roster: a key has one owner.
    assert_eq!(sim.cores[0].roster.members.len(), 3);
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
    assert!(refused.is_err_and(|r| matches!(*r, Refusal::Forgotten { .. })));
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
    let new = sim.cores[0].change_keys(|keyring| {
        let id = keyring.add(Secret::from_bytes([6; 32]), 2);
        keyring.retire_all_but(id);
        id
    });
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
    let own = core.own();
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
    let own = core.own();
    assert!(own.problems[0].text.contains("10.32.0.1:6783"), "{own:?}");
    let record = &core.records[&core.id];
    assert_eq!(record.body.endpoints.len(), 1);
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
