//! Pods and containers as runtimes and people attach them: the plugin's verbs, chains, faults.

mod chain;
mod faults;
mod hand;
mod moves;
mod support;
mod verbs;

use chain::{bandwidth_works_behind_us, portmap_and_tuning_work_behind_us};
use faults::{
    a_del_without_an_agent_is_settled_when_it_is_back, a_full_disk_stops_adds_and_no_del,
    a_plugin_killed_at_any_moment_leaks_nothing,
    an_agent_killed_at_any_moment_loses_and_leaks_nothing, twenty_adds_at_once_are_all_done,
};
use hand::{
    a_container_attached_by_hand_has_a_name_everywhere_until_detached,
    a_containers_end_withdraws_its_name, attaching_while_links_come_and_go_loses_nobody,
    two_containers_of_one_name_are_both_answered,
    what_cannot_be_attached_is_refused_with_the_reason,
};
use moves::a_move_that_was_cut_short_is_finished_at_the_next_start;
use verbs::{
    a_full_range_is_a_clear_error_and_the_next_del_frees_one,
    a_node_without_a_final_range_says_so_and_attaches_nothing,
    a_pod_looks_as_its_result_says_in_every_version,
    a_second_add_is_refused_and_a_second_del_is_not, check_names_each_thing_that_is_wrong,
    gc_takes_what_is_not_valid_and_leaves_other_networks,
};
use weft_tests::lab_tests;

lab_tests!(
    a_pod_looks_as_its_result_says_in_every_version,
    a_second_add_is_refused_and_a_second_del_is_not,
    check_names_each_thing_that_is_wrong,
    gc_takes_what_is_not_valid_and_leaves_other_networks,
    a_node_without_a_final_range_says_so_and_attaches_nothing,
    a_full_range_is_a_clear_error_and_the_next_del_frees_one,
    portmap_and_tuning_work_behind_us,
    bandwidth_works_behind_us,
    a_container_attached_by_hand_has_a_name_everywhere_until_detached,
    two_containers_of_one_name_are_both_answered,
    a_containers_end_withdraws_its_name,
    what_cannot_be_attached_is_refused_with_the_reason,
    attaching_while_links_come_and_go_loses_nobody,
    a_del_without_an_agent_is_settled_when_it_is_back,
    a_full_disk_stops_adds_and_no_del,
    a_move_that_was_cut_short_is_finished_at_the_next_start,
    an_agent_killed_at_any_moment_loses_and_leaks_nothing,
    a_plugin_killed_at_any_moment_leaks_nothing,
    twenty_adds_at_once_are_all_done,
);
