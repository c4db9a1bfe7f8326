//! What weft does to a host: routes, addresses, firewall, sysctls. Put back when somebody takes
//! them, gone after cleanup, and never a packet of the pool in the clear.

mod closed;
mod guest;
mod overlap;
mod ports;
mod reach;
mod routes;
mod sockets;
mod support;

use closed::{
    a_forged_packet_from_the_underlay_is_dropped_and_counted,
    a_neighbour_outside_of_the_mesh_cannot_reach_a_pod, no_packet_of_the_pool_is_ever_in_the_clear,
};
use guest::{
    a_firewall_in_the_way_is_named_until_it_is_gone, an_idle_agent_costs_little,
    cleanup_leaves_the_host_as_it_was,
};
use overlap::{
    a_founder_refuses_a_pool_that_the_host_uses,
    a_joiner_does_not_mind_what_uses_another_meshs_pool,
    a_joiner_refuses_a_pool_that_the_host_uses,
};
use ports::{
    a_port_of_the_host_leads_to_its_pod,
    the_host_is_answered_by_far_pods_whatever_address_it_sends_by,
};
use reach::{
    a_host_without_ipv6_works_and_says_so, a_pod_reaches_outside_by_its_nodes_address,
    the_host_and_pods_reach_each_other_both_ways,
};
use routes::{
    a_deleted_device_is_made_anew, every_peers_ranges_are_routed_with_their_mtu_and_source,
    what_somebody_takes_away_is_back_within_2_s,
};
use weft_tests::lab_tests;

lab_tests!(
    every_peers_ranges_are_routed_with_their_mtu_and_source,
    what_somebody_takes_away_is_back_within_2_s,
    a_deleted_device_is_made_anew,
    no_packet_of_the_pool_is_ever_in_the_clear,
    the_host_and_pods_reach_each_other_both_ways,
    a_pod_reaches_outside_by_its_nodes_address,
    the_host_is_answered_by_far_pods_whatever_address_it_sends_by,
    a_port_of_the_host_leads_to_its_pod,
    a_forged_packet_from_the_underlay_is_dropped_and_counted,
    a_neighbour_outside_of_the_mesh_cannot_reach_a_pod,
    a_founder_refuses_a_pool_that_the_host_uses,
    a_joiner_refuses_a_pool_that_the_host_uses,
    a_joiner_does_not_mind_what_uses_another_meshs_pool,
    a_firewall_in_the_way_is_named_until_it_is_gone,
    cleanup_leaves_the_host_as_it_was,
    a_host_without_ipv6_works_and_says_so,
    an_idle_agent_costs_little,
);
