//! A cluster whose controller manager gives no node a range: weft's claims do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use weft_tests::cluster::{Cluster, Dns, Lifetime, Options, Profile, Ranges, of_tests};
use weft_tests::lab::{ensure, eventually};

use super::model::reach;
use super::nodes::Guest;
use super::space::{PATIENCE, nodes};
use super::whole::whole;

/// The claims: whose each range is.
fn claims(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let objects = cluster.get(&["weftranges"])?;
    let items = objects["items"].as_array().context("no list")?;
    items
        .iter()
        .map(|claim| {
            let [range, node] = [&claim["spec"]["range"], &claim["spec"]["node"]];
            let text = range.as_str().zip(node.as_str());
            let (range, node) = text.with_context(|| format!("{claim}"))?;
            Ok((range.to_owned(), node.to_owned()))
        })
        .collect()
}

/// Waits until each node has one claim, and nobody else has any.
fn one_each(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let nodes: BTreeSet<String> = nodes(cluster)?.into_iter().collect();
    eventually("each node has one claim", PATIENCE, || {
        let claims = claims(cluster)?;
        let holders: BTreeSet<String> = claims.values().cloned().collect();
        ensure(
            holders == nodes && claims.len() == nodes.len(),
            format!("{nodes:?} claim {claims:?}"),
        )?;
        Ok(claims)
    })
}

pub(super) fn nodes_of_a_cluster_without_ranges_claim_their_own() -> Result<()> {
    // Where the tests' own cluster can't be, this one can't.
    of_tests()?;
    let options = Options {
        nodes: 2,
        dns: Dns::None,
        ranges: Ranges::Weft,
        profile: Profile::Dev,
        ..Options::default()
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("claims");
    let cluster = Cluster::up(&dir, options, Lifetime::Owner, &mut |_| {})?;
    reach(&cluster, "claims")?;
    let before = one_each(&cluster)?;
    for node in nodes(&cluster)? {
        let given = cluster.get(&["node", &node])?["spec"]["podCIDRs"].clone();
        ensure(given.is_null(), format!("{node} was given {given}"))?;
    }

    // Who goes for good gives its range back; who comes has one that nobody else holds.
    let guest = Guest::comes(&cluster, "node-3")?;
    let with_guest = one_each(&cluster)?;
    ensure(
        before
            .iter()
            .all(|(range, node)| with_guest.get(range) == Some(node)),
        format!("{before:?} became {with_guest:?}"),
    )?;
    reach(&cluster, "more")?;
    guest.leaves()?;
    let after = one_each(&cluster)?;
    ensure(after == before, format!("{before:?} became {after:?}"))?;
    whole(&cluster)
}
