//! What every store promises to the relay: one list of cases, run by each store's harness.
//!
//! A case is a generic function over [`harness::Harness`], in a file per promise. A store joins
//! by a module that implements the harness and calls `every_case!` once (and
//! `every_concurrent_case!` if it lets several transactions write at once).

/// One `#[tokio::test]` per case, in modules named like the files of the cases.
macro_rules! cases {
    ($harness:ty: $($module:ident { $($case:ident,)* })*) => {$(
        mod $module {$(
            #[tokio::test]
            async fn $case() {
                Box::pin(crate::conformance::$module::$case::<$harness>()).await;
            }
        )*}
    )*};
}

/// The list. A case that is not in it never runs, and the compiler says so.
macro_rules! every_case {
    ($harness:ty) => {
        cases! { $harness:
            messages {
                messages_come_back_byte_for_byte_with_all_headers,
                appended_messages_come_back_like_those_of_applications,
                rolled_back_messages_never_appear,
                recent_shows_the_newest_or_those_above_a_position,
            }
            windows {
                window_holds_exactly_what_committed_between_two_ticks,
                no_tick_is_taken_without_a_message,
                ticks_are_numbered_consecutively_and_two_tickers_agree,
                tickers_that_tick_at_once_lose_and_repeat_nothing,
                interrupted_window_is_resumed_at_its_place,
                no_window_follows_the_newest_tick,
                tick_with_another_id_is_rewound,
                tick_that_is_missing_is_rewound,
            }
            pages {
                big_window_is_paged_in_order_without_gaps_or_repeats,
                page_keeps_its_byte_limit_and_an_oversize_message_stands_alone,
                filter_selects_exact_topics_and_prefixes,
                pages_without_a_match_move_on,
                settled_reach_never_covers_what_commits_later,
            }
            subscriptions {
                settled_place_is_what_the_next_holder_acquires,
                settled_tick_is_what_the_next_holder_acquires,
                stale_settle_is_fenced_after_takeover,
                place_of_another_incarnation_cannot_be_settled,
                release_clears_the_holder_under_its_own_epoch_only,
                subscription_from_now_skips_what_was_committed_before,
                subscription_from_the_beginning_gets_everything,
                reconciling_again_keeps_the_place_and_updates_the_filter,
                unknown_subscription_is_named,
                status_counts_what_matches_and_is_not_settled,
                status_tells_of_slots_and_dead_tuples_where_there_are_any,
            }
            leases {
                lease_keeps_others_out_until_it_runs_out,
                released_subscription_is_taken_at_once,
                halt_holds_under_an_epoch_that_went_back_and_not_under_a_later_one,
                reserved_subscription_is_asked_of_its_holder,
                renewal_prolongs_what_is_held_and_nothing_else,
                renewal_tells_of_the_relays_that_are_alive,
            }
            aside {
                what_is_set_aside_comes_back_as_it_was_written,
                due_messages_come_byte_for_byte_and_those_that_wait_do_not,
                key_is_due_behind_the_dead_letter_that_held_it,
                status_tells_for_how_long_something_is_set_aside,
                nothing_is_set_aside_under_an_older_epoch,
                one_key_is_read_alone,
                views_tell_what_is_parked_and_dead,
            }
            operations {
                r14_dead_letters_are_listed_by_every_condition,
                r14_replayed_dead_letters_are_due_with_all_their_attempts,
                replay_keeps_to_its_rate,
                r14_discarded_dead_letter_lets_its_key_go_on,
                r14_published_messages_are_replayed_to_this_and_another_subscription,
                r14_replay_goes_on_behind_its_last_piece_up_to_where_it_began,
                scheduled_message_is_cancelled_by_hand,
                of_scheduled_messages_with_one_id_the_one_that_was_seen_is_cancelled,
                erased_message_keeps_its_place_and_says_so,
                paused_subscription_says_so,
                rewound_subscription_gets_again_what_it_had,
                subscription_is_rewound_once_it_is_handed_over,
                rewind_never_moves_a_place_forward,
                removed_subscription_leaves_nothing,
                removal_by_force_takes_the_subscription_from_its_holder,
                r19_written_topics_are_told_with_their_counts,
                r10b_compatibility_view_counts_what_is_not_processed,
            }
            oversight {
                r14_pages_of_dead_letters_hold_each_once_in_both_orders,
                r14_dead_letters_whose_reasons_differ_in_numbers_fall_together,
                r14_reasons_are_grouped_alike_everywhere,
                audit_trail_is_read_by_every_condition_and_page_by_page,
                relays_and_workers_are_told_with_what_they_have,
                r39_census_counts_jobs_entities_and_commands,
            }
            background {
                r14_operation_replays_what_was_dead_when_it_began_and_each_once,
                operation_of_a_killed_runner_goes_on_with_the_next_and_never_with_both,
                operation_that_is_given_up_is_taken_up_at_once,
                cancelled_operation_ends_before_its_next_piece,
                operation_discards_what_its_filter_means,
                operation_keeps_to_its_rate,
                rate_holds_within_a_piece,
                r14_operation_replays_messages_of_the_log_in_pieces,
                operation_that_cannot_go_on_says_why,
                r14_replay_fails_whose_source_or_target_was_removed,
                operations_are_bounded_and_listed_page_by_page,
            }
            entities {
                machines_and_their_entities_are_told,
                entities_of_organizations_come_in_one_order,
                contracts_are_told_page_by_page_and_one_by_one,
            }
            scheduled {
                due_messages_are_moved_in_due_order_and_others_wait,
                moved_message_comes_byte_for_byte_with_its_id,
                chunks_say_that_more_is_due,
                cancelled_message_never_arrives_unless_the_cancel_is_rolled_back,
                r4_scheduled_message_keeps_its_token,
                moves_at_once_lose_repeat_and_reorder_nothing,
                views_tell_what_is_scheduled,
            }
            sweeping {
                sweep_keeps_what_a_parked_key_needs,
                sweep_keeps_what_a_lagging_subscription_needs,
                sweep_empties_what_every_subscription_has_passed,
                sweep_keeps_messages_for_the_retention_time,
                sweep_without_subscriptions_deletes_nothing,
                log_above_its_size_loses_the_oldest_published_messages_first,
                log_above_its_size_keeps_what_is_pinned_and_names_who_pins_it,
                positions_and_ticks_go_on_after_everything_was_swept,
            }
            tokens {
                r4_appended_messages_with_one_token_are_written_once,
                r4_token_is_kept_for_its_time_and_then_forgotten,
            }
            inbox {
                r28_handled_message_is_remembered_for_its_time_and_then_forgotten,
                row_of_an_inbox_that_is_out_of_bounds_is_refused_by_the_database,
            }
            jobs {
                job_is_submitted_with_its_message,
                twins_by_token_or_by_unique_key_are_one_job,
                r27_job_goes_from_created_over_queued_and_running_to_completed,
                jobs_are_listed_by_every_filter_page_by_page,
                page_of_jobs_looks_at_a_limited_number_and_says_where_to_go_on,
                r28_each_message_begins_its_job_once,
                failed_attempt_is_followed_by_another_message,
                snoozed_job_comes_back_and_the_attempt_does_not_count,
                jobs_of_a_key_run_one_after_the_other_in_their_order,
                retried_job_does_not_run_beside_a_later_one_of_its_key,
                lost_worker_gives_back_what_it_has,
                renewed_worker_keeps_what_it_has_and_learns_what_to_stop,
                cancelled_job_never_runs_and_a_retried_one_does,
                dry_runs_say_what_would_be_and_change_nothing,
                r27_what_keeps_a_job_waiting_is_found_and_mended,
                r27_job_that_its_queue_has_lost_is_found_while_workers_are_busy,
                random_lives_take_legal_steps_only,
            }
            browse {
                every_filter_finds_what_it_names_and_nothing_else,
                messages_are_found_by_the_time_at_which_they_were_written,
                pages_hold_every_message_once_while_others_arrive,
                state_is_the_worst_over_all_subscriptions,
                timeline_tells_what_each_subscription_has_done,
                copies_of_what_the_log_has_forgotten_are_found,
                random_filters_find_what_a_look_at_everything_finds,
            }
            contracts {
                r31_pushed_contracts_come_back_byte_for_byte_and_only_where_something_is_new,
                r31_pushed_contract_never_changes,
                r31_contracts_are_pushed_together_or_not_at_all,
                one_of_several_pushes_at_once_defines_a_version,
                removed_contract_is_noticed_and_noted,
                contract_out_of_bounds_is_refused_by_name,
                contracts_are_bounded_together,
            }
            incidents {
                incident_is_told_by_one_and_ends_with_the_telling_of_its_end,
                what_its_teller_has_left_untold_is_anothers_to_tell,
                incident_is_known_to_hold_as_long_as_somebody_sees_it,
                what_could_not_be_told_is_anybodys_to_tell_at_once,
                incident_that_nobody_was_told_of_is_forgotten_at_its_end,
            }
            views {
                published_at_is_null_until_every_matching_subscription_has_settled,
                message_that_no_subscription_matches_is_never_published,
                messages_before_a_subscriptions_start_are_not_its_own,
            }
            migrations {
                schema_is_missing_until_it_is_migrated,
                migrating_twice_changes_nothing,
                four_processes_migrate_at_once,
                newer_schema_is_refused,
            }
            random {
                random_schedules_lose_repeat_and_reorder_nothing,
            }
        }
    };
}

/// Cases for stores that let several transactions write at once.
#[cfg(feature = "postgres")]
macro_rules! every_concurrent_case {
    ($harness:ty) => {
        cases! { $harness:
            concurrent {
                long_transaction_delays_only_its_own_messages,
                message_that_commits_late_stands_at_its_position,
            }
        }
    };
}

#[cfg(feature = "postgres")]
mod aside;
mod background;
mod browse;
mod concurrent;
mod contracts;
mod entities;
mod harness;
mod inbox;
mod incidents;
mod jobs;
mod leases;
mod messages;
mod migrations;
mod operations;
mod oversight;
mod pages;
mod random;
mod reader;
mod scheduled;
mod subscriptions;
mod sweeping;
mod tokens;
mod views;
mod windows;

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
