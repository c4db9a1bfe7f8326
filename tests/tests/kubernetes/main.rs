//! Weft in a real cluster: installed as its users install it, looked at from its pods.

mod e2e;
mod pods;

use weft_tests::cluster_tests;

use e2e::{
    upstreams_suite_of_datagrams_passes, upstreams_suite_of_pods_and_ports_passes,
    upstreams_suite_of_services_passes,
};
use pods::{pods_of_all_nodes_reach_one_another, the_underlay_sees_no_pod};

cluster_tests!(
    pods_of_all_nodes_reach_one_another,
    the_underlay_sees_no_pod,
    upstreams_suite_of_services_passes,
    upstreams_suite_of_pods_and_ports_passes,
    upstreams_suite_of_datagrams_passes,
);
