//! The connections there are: at most one to each run of a member, used both ways.
//!
//! Two runs of one member at once are a machine that went down without a word and is back, or two
//! machines with one identity. Both stay connected: what they hear of each other then tells.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::channel::Role;
use super::message::Message;
use super::record::Instance;
use crate::NodeId;

/// Messages that wait for one peer; more are dropped, and the next comparison repairs that.
const QUEUE: usize = 256;
/// Connections in all.
const MAX_CONNECTIONS: usize = 1024;
/// Runs of one member that are connected at once.
const MOST_RUNS: usize = 2;
/// Two connections younger than this are two nodes that dialled each other at once.
const SIMULTANEOUS: Duration = Duration::from_secs(10);
/// More outbound connections than this are too many in a large mesh; the oldest ends.
const MOST_OUTBOUND: usize = 16;

#[derive(Debug)]
pub(super) struct Conn {
    serial: u64,
    outbox: mpsc::Sender<Message>,
    stop: Arc<Notify>,
    pub(super) role: Role,
    since: Instant,
    pub(super) address: SocketAddr,
}

/// A connection to enter.
#[derive(Debug)]
pub(super) struct Entering {
    pub(super) id: NodeId,
    pub(super) role: Role,
    pub(super) instance: Instance,
    pub(super) address: SocketAddr,
}

/// What the connection's task works with.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) serial: u64,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) stop: Arc<Notify>,
}

#[derive(Debug)]
pub(super) struct Conns {
    own: NodeId,
    by_run: BTreeMap<(NodeId, Instance), Conn>,
    next: u64,
    closed: bool,
}

impl Conns {
    pub(super) fn new(own: NodeId) -> Self {
        Self {
            own,
            by_run: BTreeMap::new(),
            next: 0,
            closed: false,
        }
    }

    /// Enters a connection, in place of an older one to the same member; `None` if the older is
    /// the better.
    pub(super) fn enter(&mut self, new: Entering, now: Instant) -> Option<Entered> {
        if self.closed {
            return None;
        }
        let run = (new.id, new.instance);
        if let Some(old) = self.by_run.get(&run) {
            // Both ends keep the one that the lower identity dialled.
            let best = if self.own < new.id {
                Role::Initiator
            } else {
                Role::Responder
            };
            let at_once = now.saturating_duration_since(old.since) < SIMULTANEOUS;
            if at_once && old.role == best && new.role != best {
                return None;
            }
            old.stop.notify_one();
        } else if self.by_run.len() >= MAX_CONNECTIONS {
            return None;
        } else {
            let runs = self.of(new.id).count();
            if runs > MOST_RUNS {
                // One is still ending for the last that came.
                return None;
            }
            let oldest = self.of(new.id).min_by_key(|conn| conn.serial);
            if let (MOST_RUNS, Some(oldest)) = (runs, oldest) {
                oldest.stop.notify_one();
            }
        }
        let (outbox, inbox) = mpsc::channel(QUEUE);
        let stop = Arc::new(Notify::new());
        let serial = self.next;
        self.next += 1;
        let conn = Conn {
            serial,
            outbox,
            stop: Arc::clone(&stop),
            role: new.role,
            since: now,
            address: new.address,
        };
        self.by_run.insert(run, conn);
        self.trim();
        Some(Entered {
            serial,
            inbox,
            stop,
        })
    }

    /// Strikes a connection that ended; whether it was the last of the member.
    pub(super) fn leave(&mut self, id: NodeId, serial: u64) -> bool {
        let run = self.runs(id).find(|(_, conn)| conn.serial == serial);
        let Some(run) = run.map(|(run, _)| *run) else {
            return false;
        };
        self.by_run.remove(&run);
        !self.is_connected(id)
    }

    /// Whether the message is on its way; false when it had to be dropped.
    pub(super) fn send(&self, to: NodeId, message: &Message) -> bool {
        self.of(to)
            .fold(None, |sent, conn| {
                let ok = conn.outbox.try_send(message.clone()).is_ok();
                Some(ok || sent.unwrap_or_default())
            })
            .unwrap_or(true)
    }

    /// Sends what is waiting and `message`, then ends the member's connections.
    pub(super) fn part(&mut self, from: NodeId, message: &Message) {
        let runs: Vec<_> = self.runs(from).map(|(run, _)| *run).collect();
        for run in runs {
            if let Some(conn) = self.by_run.remove(&run) {
                let _ = conn.outbox.try_send(message.clone());
            }
        }
    }

    /// Lets every connection send what is waiting and end, and takes no more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.by_run.clear();
    }

    pub(super) fn is_connected(&self, id: NodeId) -> bool {
        self.of(id).next().is_some()
    }

    /// Whether this very run of the node is connected.
    pub(super) fn is_connected_to(&self, id: NodeId, instance: Instance) -> bool {
        self.by_run.contains_key(&(id, instance))
    }

    pub(super) fn outbound(&self) -> usize {
        let outbound = |c: &&Conn| c.role == Role::Initiator;
        self.by_run.values().filter(outbound).count()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&NodeId, &Conn)> {
        self.by_run.iter().map(|((id, _), conn)| (id, conn))
    }

    fn runs(&self, id: NodeId) -> impl Iterator<Item = (&(NodeId, Instance), &Conn)> {
        self.by_run
            .range((id, Instance::from_bytes([0; 16]))..=(id, Instance::from_bytes([0xff; 16])))
    }

    fn of(&self, id: NodeId) -> impl Iterator<Item = &Conn> {
        self.runs(id).map(|(_, conn)| conn)
    }

    fn trim(&mut self) {
        if self.by_run.len() <= 32 || self.outbound() <= MOST_OUTBOUND {
            return;
        }
        let outbound = |c: &&Conn| c.role == Role::Initiator;
        let oldest = self
            .by_run
            .values()
            .filter(outbound)
            .min_by_key(|c| c.serial);
        if let Some(conn) = oldest {
            conn.stop.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entering(role: Role, instance: u8) -> Entering {
        Entering {
            id: NodeId::from_bytes([5; 32]),
            role,
            instance: Instance::from_bytes([instance; 16]),
            address: "192.0.2.1:1".parse().unwrap(),
        }
    }

    #[test]
    fn of_two_dials_at_once_both_ends_keep_that_of_the_lower_identity() {
        let now = Instant::now();
        for (own, kept) in [(1, Role::Initiator), (9, Role::Responder)] {
            for order in [
                [Role::Initiator, Role::Responder],
                [Role::Responder, Role::Initiator],
            ] {
                let mut conns = Conns::new(NodeId::from_bytes([own; 32]));
                for role in order {
                    conns.enter(entering(role, 1), now);
                }
                assert_eq!(conns.by_run.values().next().unwrap().role, kept);
            }
        }
    }

    #[test]
    fn two_runs_of_a_node_are_both_connected_and_a_third_ends_the_oldest() {
        let now = Instant::now();
        let id = NodeId::from_bytes([5; 32]);
        let mut conns = Conns::new(NodeId::from_bytes([1; 32]));
        let mut enter = |run| conns.enter(entering(Role::Initiator, run), now).unwrap();
        let (mut old, mut new) = (enter(1), enter(2));
        assert!(conns.send(id, &Message::Ping));
        assert!(old.inbox.try_recv().is_ok() && new.inbox.try_recv().is_ok());
        conns.enter(entering(Role::Responder, 3), now).unwrap();
        let told = |entered: &Entered| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let notified = std::pin::pin!(entered.stop.notified());
            notified.poll(&mut context).is_ready()
        };
        assert!(told(&old) && !told(&new));
        let fourth = conns.enter(entering(Role::Responder, 4), now);
        assert!(fourth.is_none(), "one has not ended yet");
        assert!(!conns.leave(id, old.serial), "others of it are connected");
        assert!(conns.is_connected(id));
    }
}
