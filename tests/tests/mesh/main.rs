//! Nodes become one mesh and stay one: joining, restarts, partitions, forgetting, faults.

mod claims;
mod faults;
mod joining;
mod leaving;
mod partition;
mod restart;
mod settings;
mod support;

use claims::{
    a_cloned_disk_is_named_on_every_node, of_two_claims_on_a_range_one_wins_and_the_other_moves,
    two_nodes_of_one_name_are_both_named_and_keep_their_ranges,
};
use faults::{
    a_corrupt_roster_is_set_aside_and_told_again, a_full_disk_refuses_clearly_and_loses_nothing,
    a_read_only_state_directory_is_refused, a_truncated_identity_is_refused_with_what_to_do,
};
use joining::{
    a_damaged_join_line_is_refused_without_showing_its_secret, a_node_told_one_peer_finds_all,
    a_rotated_token_admits_nobody_new_and_keeps_who_is_known,
    a_wrong_token_or_host_is_shown_with_its_error_and_the_next_try,
    nodes_find_each_other_over_an_ipv6_underlay,
};
use leaving::{
    a_forgotten_node_is_gone_everywhere_and_stays_out,
    names_of_a_dead_node_vanish_and_come_back_with_it, names_vanish_at_once_at_a_goodbye,
    the_range_of_a_forgotten_node_is_given_to_the_next,
};
use partition::both_sides_of_a_partition_go_on_and_become_one_again;
use restart::{
    a_mesh_killed_whole_comes_back_without_a_join_line,
    a_new_wireguard_key_is_taken_over_everywhere,
    a_node_that_was_away_comes_back_by_a_peer_it_did_not_join_by,
};
use settings::{
    a_bad_setting_is_named_with_its_file_and_what_is_allowed,
    a_flag_overrides_the_environment_and_that_the_file, a_second_agent_on_one_socket_is_refused,
    a_second_agent_on_one_state_directory_is_refused, without_an_agent_the_command_line_says_so,
};
use weft_tests::lab_tests;

lab_tests!(
    a_node_told_one_peer_finds_all,
    nodes_find_each_other_over_an_ipv6_underlay,
    a_rotated_token_admits_nobody_new_and_keeps_who_is_known,
    a_wrong_token_or_host_is_shown_with_its_error_and_the_next_try,
    a_damaged_join_line_is_refused_without_showing_its_secret,
    a_mesh_killed_whole_comes_back_without_a_join_line,
    a_node_that_was_away_comes_back_by_a_peer_it_did_not_join_by,
    a_new_wireguard_key_is_taken_over_everywhere,
    both_sides_of_a_partition_go_on_and_become_one_again,
    a_forgotten_node_is_gone_everywhere_and_stays_out,
    the_range_of_a_forgotten_node_is_given_to_the_next,
    names_of_a_dead_node_vanish_and_come_back_with_it,
    names_vanish_at_once_at_a_goodbye,
    a_cloned_disk_is_named_on_every_node,
    two_nodes_of_one_name_are_both_named_and_keep_their_ranges,
    of_two_claims_on_a_range_one_wins_and_the_other_moves,
    a_read_only_state_directory_is_refused,
    a_full_disk_refuses_clearly_and_loses_nothing,
    a_corrupt_roster_is_set_aside_and_told_again,
    a_truncated_identity_is_refused_with_what_to_do,
    a_bad_setting_is_named_with_its_file_and_what_is_allowed,
    a_flag_overrides_the_environment_and_that_the_file,
    a_second_agent_on_one_state_directory_is_refused,
    a_second_agent_on_one_socket_is_refused,
    without_an_agent_the_command_line_says_so,
);
