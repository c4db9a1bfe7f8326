//! A mesh of many cores in one process, on a clock that only the tests move.

mod forgetting;
mod liars;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::PublicKey;
use crate::discovery::ProblemKind;
use crate::discovery::gossip::own::ClaimState;
use crate::discovery::gossip::params::FoundingParams;
use crate::discovery::gossip::record::{Body, Signed};
use crate::discovery::gossip::token::Secret;

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
        engine: None,
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
