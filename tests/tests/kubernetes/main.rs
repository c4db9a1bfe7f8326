//! Weft in a real cluster: installed as its users install it, looked at from its pods.

mod admin;
mod claims;
mod e2e;
mod faults;
mod install;
mod model;
mod nodes;
mod outside;
mod services;
mod space;
mod walk;
mod webhook;
mod whole;

use weft_tests::cluster_tests;

use admin::{
    a_firewall_in_the_way_is_named_until_it_is_gone,
    a_link_over_the_nodes_range_is_named_until_it_is_gone,
    a_missing_capability_is_named_until_it_is_given,
    a_missing_permission_is_named_until_it_is_given,
    a_node_that_is_given_anothers_range_or_lies_is_named_and_gets_nothing,
    a_port_that_is_taken_is_named_until_it_is_free, an_administrator_sees_the_mesh_by_kubectl,
    another_networks_file_is_named_until_it_is_gone,
};
use claims::nodes_of_a_cluster_without_ranges_claim_their_own;
use e2e::{
    upstreams_suite_of_datagrams_passes, upstreams_suite_of_pods_and_ports_passes,
    upstreams_suite_of_services_passes,
};
use faults::{
    an_older_copy_of_the_store_is_overtaken_by_what_the_nodes_know,
    daemons_killed_while_pods_come_and_go_lose_nothing, many_pods_of_all_nodes_come_and_go_at_once,
    without_the_api_server_pods_keep_their_network_and_others_get_one,
};
use install::{
    agents_are_replaced_one_by_one_and_pods_keep_what_they_have,
    weft_is_taken_away_without_a_trace_and_comes_again,
};
use model::{
    containers_of_a_pod_share_localhost_and_address, hosts_and_pods_of_all_nodes_reach_one_another,
    pods_of_all_nodes_reach_one_another_and_see_who_asks,
    what_leaves_the_cluster_has_the_nodes_address,
};
use nodes::{
    a_copied_disk_becomes_a_node_of_its_own,
    a_node_comes_is_drained_and_deleted_and_comes_again_with_another_key,
    a_rebooted_node_has_its_pods_back_and_no_address_twice,
};
use services::{
    a_client_stays_with_the_pod_that_it_had,
    a_node_port_leads_in_from_outside_and_can_keep_the_clients_address,
    a_port_of_the_host_leads_to_its_pod, a_service_is_reached_by_pods_hosts_and_itself,
    sctp_goes_as_far_as_the_kernel_has_it,
};
use walk::a_walk_by_hand_finds_what_courses_say;
use webhook::the_api_server_asks_a_webhook_on_another_node;

cluster_tests!(
    containers_of_a_pod_share_localhost_and_address,
    pods_of_all_nodes_reach_one_another_and_see_who_asks,
    hosts_and_pods_of_all_nodes_reach_one_another,
    what_leaves_the_cluster_has_the_nodes_address,
    a_service_is_reached_by_pods_hosts_and_itself,
    a_node_port_leads_in_from_outside_and_can_keep_the_clients_address,
    a_port_of_the_host_leads_to_its_pod,
    a_client_stays_with_the_pod_that_it_had,
    sctp_goes_as_far_as_the_kernel_has_it,
    the_api_server_asks_a_webhook_on_another_node,
    a_walk_by_hand_finds_what_courses_say,
    upstreams_suite_of_services_passes,
    upstreams_suite_of_pods_and_ports_passes,
    upstreams_suite_of_datagrams_passes;
    alone:
    an_administrator_sees_the_mesh_by_kubectl,
    a_missing_permission_is_named_until_it_is_given,
    a_missing_capability_is_named_until_it_is_given,
    a_port_that_is_taken_is_named_until_it_is_free,
    a_firewall_in_the_way_is_named_until_it_is_gone,
    another_networks_file_is_named_until_it_is_gone,
    a_node_that_is_given_anothers_range_or_lies_is_named_and_gets_nothing,
    a_link_over_the_nodes_range_is_named_until_it_is_gone,
    daemons_killed_while_pods_come_and_go_lose_nothing,
    many_pods_of_all_nodes_come_and_go_at_once,
    without_the_api_server_pods_keep_their_network_and_others_get_one,
    an_older_copy_of_the_store_is_overtaken_by_what_the_nodes_know,
    a_node_comes_is_drained_and_deleted_and_comes_again_with_another_key,
    a_rebooted_node_has_its_pods_back_and_no_address_twice,
    a_copied_disk_becomes_a_node_of_its_own,
    nodes_of_a_cluster_without_ranges_claim_their_own,
    agents_are_replaced_one_by_one_and_pods_keep_what_they_have,
    weft_is_taken_away_without_a_trace_and_comes_again,
);
