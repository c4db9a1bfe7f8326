//! The kinds of objects that say who is in the mesh.

use super::object::{Advert, Claim, Claimed, Node, Told};
use super::watch::Kind;
use super::wire::{Meta, NodeWire, OwnWire, WeftNodeSpec, WeftRangeSpec};
use super::world::{Change, Update};
use crate::NodeName;

pub(super) struct Nodes;
pub(super) struct WeftNodes;
pub(super) struct WeftRanges;

impl Kind for Nodes {
    const PLURAL: &'static str = "nodes";
    const PATH: &'static str = "/api/v1/nodes";
    type Wire = NodeWire;
    type Key = NodeName;
    type Cut = Node;
    type News = Change;

    fn meta(wire: &NodeWire) -> &Meta {
        &wire.metadata
    }

    fn cut(wire: NodeWire) -> Option<(NodeName, Node)> {
        Node::cut(wire)
    }

    fn news(update: Update<NodeName, Node>) -> Change {
        Change::Nodes(update)
    }

    fn aside(wire: &NodeWire, me: &NodeName) -> Option<Change> {
        let mine = wire.metadata.name == me.as_str();
        mine.then(|| Change::Conditions(wire.status.conditions.clone()))
    }
}

impl Kind for WeftNodes {
    const PLURAL: &'static str = "weftnodes";
    const PATH: &'static str = "/apis/weft.dev/v1alpha1/weftnodes";
    type Wire = OwnWire<WeftNodeSpec>;
    type Key = NodeName;
    type Cut = Told;
    type News = Change;

    fn meta(wire: &Self::Wire) -> &Meta {
        &wire.metadata
    }

    fn cut(wire: Self::Wire) -> Option<(NodeName, Told)> {
        Advert::cut(wire)
    }

    fn news(update: Update<NodeName, Told>) -> Change {
        Change::Adverts(update)
    }
}

impl Kind for WeftRanges {
    const PLURAL: &'static str = "weftranges";
    const PATH: &'static str = "/apis/weft.dev/v1alpha1/weftranges";
    type Wire = OwnWire<WeftRangeSpec>;
    type Key = String;
    type Cut = Claimed;
    type News = Change;

    fn meta(wire: &Self::Wire) -> &Meta {
        &wire.metadata
    }

    fn cut(wire: Self::Wire) -> Option<(String, Claimed)> {
        Claim::cut(wire)
    }

    fn news(update: Update<String, Claimed>) -> Change {
        Change::Claims(update)
    }
}
