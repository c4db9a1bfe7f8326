//! Weft in a real cluster: installed as its users install it, looked at from its pods.

mod pods;

use weft_tests::cluster_tests;

use pods::{pods_of_all_nodes_reach_one_another, the_underlay_sees_no_pod};

cluster_tests!(
    pods_of_all_nodes_reach_one_another,
    the_underlay_sees_no_pod,
);
