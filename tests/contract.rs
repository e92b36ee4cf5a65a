//! The contract of [`Store`](profilestore::store::Store): a named case for each promise of its documentation,
//! for every stack.
//!
//! What only an engine of its own can bring about is tested beside that engine: survival of a crash, damaged
//! bytes, a failed write, a full queue.

mod common;

#[path = "contract/changes.rs"]
mod changes;
#[path = "contract/commits.rs"]
mod commits;
#[path = "contract/conditions.rs"]
mod conditions;
#[path = "contract/counters.rs"]
mod counters;
#[path = "contract/holds.rs"]
mod holds;
#[path = "contract/life.rs"]
mod life;
#[path = "contract/order.rs"]
mod order;
#[path = "contract/pages.rs"]
mod pages;
#[path = "contract/reads.rs"]
mod reads;
#[path = "contract/requests.rs"]
mod requests;
#[path = "contract/upkeep.rs"]
mod upkeep;

/// The suite for one stack: a module of tests that call the cases with the stack's type.
macro_rules! contract {
    ($module:ident, $stack:ty) => {
        mod $module {
            use crate::common::stacks;

            contract! { @cases $stack;
                reads {
                    an_absent_profile_is_none,
                    each_id_has_its_answer_in_the_order_of_the_ids,
                    a_read_after_a_commit_shows_it_by_every_method,
                    what_a_commit_returns_is_what_reads_show,
                    whoever_has_seen_a_version_never_sees_an_older_one,
                    a_dropped_read_leaves_nothing_behind,
                }
                commits {
                    writes_are_decided_in_order_each_against_those_before_it,
                    an_atomic_commit_is_all_or_nothing,
                    an_atomic_commit_names_the_first_refused_write,
                    an_atomic_commit_refuses_two_writes_of_one_profile,
                    a_commit_of_too_many_writes_is_refused_and_changes_nothing,
                    a_commit_that_is_too_large_is_refused_and_changes_nothing,
                    an_import_decides_each_write_by_itself,
                    a_commit_of_nothing_is_made,
                    a_put_that_changes_nothing_keeps_its_etag,
                    an_update_that_changes_nothing_keeps_its_etag,
                    every_change_brings_a_new_etag_and_a_larger_revision,
                    revisions_grow_over_a_delete,
                    the_create_time_stays_until_the_profile_is_deleted,
                    update_time_never_goes_back_whatever_the_clock_does,
                    a_commit_whose_future_is_dropped_is_made_as_a_whole_or_not_at_all,
                }
                requests {
                    a_repeated_request_is_not_made_again,
                    a_repetition_shows_the_profile_as_it_now_is,
                    a_repeated_delete_shows_nothing_of_what_was_made_since,
                    a_request_id_of_another_request_is_refused,
                    a_refused_request_is_not_remembered,
                    a_request_that_found_nothing_to_do_is_remembered,
                    a_repetition_is_about_the_ids_that_were_made_first,
                    requests_are_remembered_over_a_restart,
                    a_request_is_forgotten_after_ten_minutes,
                    a_request_is_forgotten_when_a_million_others_were_made,
                    of_simultaneous_repetitions_one_is_made,
                }
                conditions {
                    must_be_absent_creates_only,
                    must_exist_changes_only,
                    must_match_takes_the_current_etag_only,
                    must_match_if_present_lets_absence_pass,
                    an_etag_of_a_former_life_of_a_profile_does_not_match,
                    deleting_what_is_absent_is_no_change,
                    an_update_sees_the_current_profile_or_its_absence,
                    an_update_that_refuses_changes_nothing,
                    unique_email_refuses_the_second_profile_of_an_address,
                    unique_email_holds_within_one_commit,
                    unique_email_lets_a_profile_keep_its_own_address,
                    unique_email_lets_an_address_move_in_one_atomic_commit,
                    without_unique_email_profiles_share_an_address,
                }
                order {
                    all_profiles_come_in_the_order_of_their_ids,
                    labels_are_compared_whole,
                    order_is_label_by_label,
                    a_domain_excludes_its_subdomains,
                    within_a_domain_order_is_local_part_then_id,
                    an_email_finds_exactly_its_profiles_in_the_order_of_ids,
                    a_profile_without_an_email_is_found_by_id_only,
                    a_changed_email_moves_the_profile,
                    domains_come_label_by_label,
                    the_largest_domains_come_first_and_ties_in_index_order,
                    a_page_of_domains_goes_on_after_its_cursor,
                }
                pages {
                    a_page_is_bounded_by_bytes_and_count,
                    a_page_holds_at_least_one_record,
                    without_a_cursor_the_scope_is_exhausted,
                    a_profile_that_stays_in_its_place_is_met_exactly_once,
                    a_record_on_a_page_is_current_and_in_the_scope,
                    a_cursor_survives_deletes,
                    a_cursor_survives_a_restart,
                    a_cursor_of_another_scope_is_refused,
                    a_cursor_that_nobody_made_is_refused,
                }
                changes {
                    changes_come_in_the_order_of_their_commits,
                    a_change_says_what_became_of_the_profile,
                    pages_of_changes_are_bounded_and_have_no_gap,
                    a_page_of_changes_ends_at_the_position_asked_for,
                    a_change_keeps_the_trace_of_its_commit,
                    a_position_is_good_over_a_restart,
                    a_position_that_this_store_did_not_make_is_refused,
                    the_head_wakes_those_who_wait_for_changes,
                    a_change_is_never_ahead_of_reads_nor_reads_of_the_head,
                }
                holds {
                    a_hold_is_where_its_name_was_moved_to_last,
                    a_released_hold_is_gone,
                    a_hold_holds_over_a_restart,
                    a_hold_that_is_refused_stays_where_it_was,
                    there_are_only_so_many_holds,
                }
                counters {
                    counters_follow_every_change,
                    counters_of_a_refused_commit_stay,
                    an_email_is_counted,
                    the_status_knows_the_number_of_profiles,
                    a_sound_store_has_no_problems,
                }
                life {
                    a_commit_survives_a_restart,
                    etags_and_times_go_on_after_a_restart,
                    after_closing_every_method_says_so,
                    a_second_close_does_nothing,
                    the_state_is_watched_until_closing,
                    close_makes_the_commits_that_were_accepted,
                }
                upkeep {
                    one_check_goes_on_at_a_time,
                    a_backup_is_one_at_a_time_or_there_are_none,
                }
            }
        }
    };
    (@cases $stack:ty; $($file:ident { $($case:ident,)+ })+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$file::$case::<$stack>().await;
            }
        )+)+
    };
}

contract!(memory, stacks::Memory);
contract!(cached_memory, stacks::CachedMemory);
contract!(sled, stacks::Sled);
contract!(cached_sled, stacks::CachedSled);
