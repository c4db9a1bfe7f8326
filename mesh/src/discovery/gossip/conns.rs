//! The connections there are: at most one to each member, used both ways.

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
    instance: Instance,
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
    by_id: BTreeMap<NodeId, Conn>,
    next: u64,
    closed: bool,
}

impl Conns {
    pub(super) fn new(own: NodeId) -> Self {
        Self {
            own,
            by_id: BTreeMap::new(),
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
        if let Some(old) = self.by_id.get(&new.id) {
            // Both ends keep the one that the lower identity dialled.
            let best = if self.own < new.id {
                Role::Initiator
            } else {
                Role::Responder
            };
            let at_once = now.saturating_duration_since(old.since) < SIMULTANEOUS;
            if old.instance == new.instance && at_once && old.role == best && new.role != best {
                return None;
            }
            old.stop.notify_one();
        } else if self.by_id.len() >= MAX_CONNECTIONS {
            return None;
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
            instance: new.instance,
            address: new.address,
        };
        self.by_id.insert(new.id, conn);
        self.trim();
        Some(Entered {
            serial,
            inbox,
            stop,
        })
    }

    /// Strikes a connection that ended; whether it was the one in use.
    pub(super) fn leave(&mut self, id: NodeId, serial: u64) -> bool {
        let current = self.by_id.get(&id).is_some_and(|c| c.serial == serial);
        if current {
            self.by_id.remove(&id);
        }
        current
    }

    /// Whether the message is on its way; false when it had to be dropped.
    pub(super) fn send(&self, to: NodeId, message: Message) -> bool {
        match self.by_id.get(&to) {
            Some(conn) => conn.outbox.try_send(message).is_ok(),
            None => true,
        }
    }

    /// Sends what is waiting and `message`, then ends the connection.
    pub(super) fn part(&mut self, from: NodeId, message: Message) {
        if let Some(conn) = self.by_id.remove(&from) {
            let _ = conn.outbox.try_send(message);
        }
    }

    /// Lets every connection send what is waiting and end, and takes no more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.by_id.clear();
    }

    pub(super) fn is_connected(&self, id: NodeId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Whether this very run of the node is connected.
    pub(super) fn is_connected_to(&self, id: NodeId, instance: Instance) -> bool {
        self.by_id.get(&id).is_some_and(|c| c.instance == instance)
    }

    pub(super) fn outbound(&self) -> usize {
        let outbound = |c: &&Conn| c.role == Role::Initiator;
        self.by_id.values().filter(outbound).count()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&NodeId, &Conn)> {
        self.by_id.iter()
    }

    fn trim(&mut self) {
        if self.by_id.len() <= 32 || self.outbound() <= MOST_OUTBOUND {
            return;
        }
        let outbound = |(_, c): &(&NodeId, &Conn)| c.role == Role::Initiator;
        let oldest = self
            .by_id
            .iter()
            .filter(outbound)
            .min_by_key(|(_, c)| c.serial);
        if let Some((_, conn)) = oldest {
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
                assert_eq!(conns.by_id.values().next().unwrap().role, kept);
            }
        }
    }

    #[test]
    fn a_node_that_started_again_replaces_its_old_connection() {
        let now = Instant::now();
        let mut conns = Conns::new(NodeId::from_bytes([1; 32]));
        let old = conns.enter(entering(Role::Initiator, 1), now).unwrap();
        let new = conns.enter(entering(Role::Responder, 2), now).unwrap();
        assert!(!conns.leave(NodeId::from_bytes([5; 32]), old.serial));
        assert!(conns.leave(NodeId::from_bytes([5; 32]), new.serial));
    }
}
