//! What a person must settle, found by discovery.

/// Something that is wrong and that a person must settle, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub kind: ProblemKind,
    /// Names the nodes and addresses concerned.
    pub text: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Two live nodes have one identity.
    Cloned,
    /// Two nodes claim one range.
    RangeClash,
    /// A node's range overlaps with something that is no node's.
    RangeOverlap,
    /// Two nodes have one name.
    NameClash,
    /// Two nodes have one WireGuard key.
    KeyClash,
    /// A node serves a name that is another node's.
    ServedNameClash,
    /// Every share of the pool is held.
    PoolFull,
    /// What this node announced of itself cannot be told on.
    Announcement,
    /// Something that a node says of itself is not believed.
    PeerRefused,
    /// The Kubernetes API forbids something that this node needs.
    Permission,
    /// The Kubernetes API does not answer.
    Api,
    /// The state directory cannot be written.
    Storage,
    /// The mesh has forgotten this node.
    Forgotten,
}
