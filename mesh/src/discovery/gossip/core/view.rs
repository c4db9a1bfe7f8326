//! What the agent sees of this node: its standing and its problems.

use super::Core;
use crate::NodeId;
use crate::discovery::gossip::claim::Phase;
use crate::discovery::gossip::own::{ClaimState, Standing};
use crate::discovery::gossip::record::Record;
use crate::discovery::gossip::{ForgetError, rule};
use crate::discovery::{Forgotten, Problem, ProblemKind};

impl Core {
    pub(in super::super) fn standing(&self) -> Standing {
        let mut observed: Vec<_> = self.peers.values().filter_map(|p| p.observed).collect();
        observed.sort();
        observed.dedup();
        observed.truncate(8);
        let forgotten = self.tombstones.get(self.id).map(|t| Forgotten {
            by: t.by,
            by_name: self.name_of(t.by),
        });
        Standing {
            id: self.id,
            params: Some(self.rules.params.clone()),
            name: match self.records.get(&self.id) {
                Some(record) => rule::name_of(record, &self.holders),
                None => self.me.name.clone(),
            },
            claim: self.claim_state(),
            observed,
            problems: self.all_problems(forgotten.as_ref()),
            forgotten,
        }
    }

    pub(super) fn claim_state(&self) -> ClaimState {
        if self.is_forgotten() {
            return ClaimState::Forgotten;
        }
        match (self.claims.phase(), self.claims.lost()) {
            (Phase::Held { slot }, _) => ClaimState::Held {
                slot,
                ranges: self
                    .rules
                    .params
                    .ranges(slot)
                    .map_or_else(Vec::new, Vec::from),
            },
            (Phase::Waiting { slot: next, .. } | Phase::Saving { slot: next }, Some(lost)) => {
                let (slot, winner) = lost;
                ClaimState::Lost { slot, winner, next }
            }
            (Phase::Waiting { slot, .. } | Phase::Saving { slot }, None) => {
                ClaimState::Claiming { slot }
            }
            (Phase::Full, _) => ClaimState::Full,
        }
    }

    fn all_problems(&self, forgotten: Option<&Forgotten>) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        let mut add = |kind, text: String| problems.push(Problem { kind, text });
        for (text, _) in self.clones.values() {
            add(ProblemKind::Cloned, text.clone());
        }
        if let Some(text) = &self.announcement_problem {
            add(ProblemKind::Announcement, text.clone());
        }
        for text in self.storage_problem.iter().chain(&self.unwritten) {
            add(ProblemKind::Storage, text.clone());
        }
        if let Some((slot, winner)) = self.claims.lost() {
            let range = self.rules.params.ranges(slot).map(|r| r[0].to_string());
            let winner = self.name_of(winner).unwrap_or_else(|| winner.short());
            let range = range.unwrap_or_default();
            add(
                ProblemKind::RangeClash,
                format!("this node's range {range} is {winner}'s; another is being claimed"),
            );
        }
        if self.claims.phase() == Phase::Full {
            let slots = self.rules.params.slots();
            add(
                ProblemKind::PoolFull,
                format!(
                    "all {slots} shares of the pool {} are held: forget nodes that are gone",
                    self.rules.params.pool4
                ),
            );
        }
        if let Some(forgotten) = forgotten {
            let by = forgotten.by_name.clone();
            let by = by.unwrap_or_else(|| forgotten.by.short());
            add(
                ProblemKind::Forgotten,
                format!("the mesh has forgotten this node; it was done on {by}"),
            );
        }
        problems.sort();
        problems
    }

    /// The node that a person means by `who`: its name or the beginning of its identity.
    pub(super) fn find(&self, who: &str) -> Result<NodeId, ForgetError> {
        let by_name = |r: &&Record| {
            r.body.name.as_str() == who || rule::name_of(r, &self.holders).as_str() == who
        };
        let prefix = who.to_ascii_lowercase();
        let by_id = |r: &&Record| who.len() >= 4 && r.id().to_string().starts_with(&prefix);
        let mut found: Vec<_> = self.records.values().filter(by_name).collect();
        if found.is_empty() {
            found = self.records.values().filter(by_id).collect();
        }
        match found.as_slice() {
            [] => Err(ForgetError::Unknown(who.to_owned())),
            [one] if one.id() == self.id => Err(ForgetError::Oneself(who.to_owned())),
            [one] => Ok(one.id()),
            many => Err(ForgetError::Ambiguous {
                who: who.to_owned(),
                candidates: many
                    .iter()
                    .take(8)
                    .map(|r| format!("{} ({})", r.body.name, r.id().short()))
                    .collect(),
            }),
        }
    }
}
