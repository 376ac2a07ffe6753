"""The rules, each with the mistake of leaving it out, and with the tests that find that.

They are those of ``docs/design/changes.md``, in its order: which parent, which way, which rule for each file, which
pages of a file.
"""

from __future__ import annotations

from tests.rules.planting import Plant

_RULES = "tests/pg/test_incremental_rules.py::"
_BASICS = "tests/pg/test_incremental.py::"
_EVERY_CHANGE = f"{_RULES}test_no_kind_of_change_is_missed"

PARENT = (
    Plant(
        rule="a parent is of the same system",
        module="pghaven.backup.parent",
        old="if identifier != needs.system_identifier:",
        new="if False:",
        found_by=("test_backup_of_something_else_is_refused",),
    ),
    Plant(
        rule="a parent is of the same major version",
        module="pghaven.backup.parent",
        old="if major != needs.major:",
        new="if False:",
        found_by=("test_backup_of_something_else_is_refused",),
    ),
    Plant(
        rule="a parent has the same checksum state",
        module="pghaven.backup.parent",
        old='if summary["data_checksums"] is not needs.data_checksums:',
        new="if False:",
        found_by=(
            "test_backup_of_something_else_is_refused",
            "test_backup_that_does_not_say_enough_is_refused",
            "test_backup_that_says_what_cannot_be_is_refused",
            "test_checksums_switched_off_since_are_refused_too",
        ),
        servers=(f"{_RULES}test_checksums_switched_on_make_the_next_backup_a_full_one",),
    ),
    Plant(
        rule="a parent has WAL segments of the same size",
        module="pghaven.backup.parent",
        old="if segment_size != needs.wal_segment_size:",
        new="if False:",
        found_by=("test_backup_of_something_else_is_refused",),
    ),
    Plant(
        rule="a parent is committed",
        module="pghaven.backup.parent",
        old="if entry.state is not BackupState.COMMITTED:",
        new="if False:",
        found_by=(
            "test_newest_usable_backup_is_chosen_and_newer_ones_have_their_reasons",
            "test_only_committed_backups_are_built_on",
        ),
    ),
    Plant(
        rule="a parent is of a timeline that led here",
        module="pghaven.backup.parent",
        old="if not history.includes(timeline):",
        new="if False:",
        found_by=("test_parent_lies_on_the_path_that_led_here",),
    ),
    Plant(
        rule="a parent ends before its timeline was left",
        module="pghaven.backup.parent",
        old="if not history.contains_end(timeline, stop_lsn):",
        new="if False:",
        found_by=(
            "test_a_refused_newest_backup_does_not_hide_an_older_one_on_this_history",
            "test_parent_lies_on_the_path_that_led_here",
            "test_timeline_that_was_left_again_before_it_began_holds_no_parent",
        ),
        servers=(
            f"{_RULES}test_backup_of_a_future_that_was_undone_is_not_built_on",
            f"{_RULES}test_backup_of_a_primary_that_failed_is_not_built_on_past_the_fork",
        ),
    ),
    Plant(
        rule="a parent ends before the new backup starts",
        module="pghaven.backup.parent",
        old="if stop_lsn > needs.start_lsn:",
        new="if False:",
        found_by=(
            "test_backup_that_a_lagging_standby_has_not_reached_is_refused",
            "test_newest_usable_backup_is_chosen_and_newer_ones_have_their_reasons",
            "test_parent_lies_on_the_path_that_led_here",
        ),
    ),
    Plant(
        rule="a parent was not found damaged",
        module="pghaven.backup.origin",
        old="if found.verdict is not Verdict.DAMAGED or found.at is None:",
        new="if True:",
        found_by=(),
        servers=(f"{_BASICS}test_a_backup_that_was_found_damaged_is_passed_over_for_an_older_one",),
    ),
    Plant(
        rule="a parent has all its packs",
        module="pghaven.backup.origin",
        old="if sizes.get(name, 0) < pack.size_bytes:",
        new="if False:",
        found_by=(),
        servers=(f"{_BASICS}test_a_damaged_backup_is_not_built_on",),
    ),
    Plant(
        rule="a parent is there to stay once it is announced",
        module="pghaven.backup.origin",
        old="if entry.state not in (BackupState.COMMITTED, BackupState.RETIRED):",
        new="if False:",
        found_by=("test_a_parent_that_is_being_removed_is_given_up",),
    ),
)

WAYS = (
    Plant(
        rule="pages are not judged by LSN over a time of minimal WAL",
        module="pghaven.backup.origin",
        old="if self._has_run(facts):\n            return True",
        new="if True:\n            return True",
        found_by=(),
        servers=(f"{_RULES}test_time_of_minimal_wal_makes_the_next_backup_a_full_one",),
    ),
    Plant(
        rule="a start at level minimal is a dip",
        module="pghaven.backup.waldip",
        old="if change is not None and change.wal_level == WAL_LEVEL_MINIMAL and change.start_lsn >= search.start_lsn:",
        new="if change is None and change:",
        found_by=(
            "test_change_that_reaches_into_the_next_segment_is_read",
            "test_segment_of_a_switch_is_taken_from_the_timeline_that_goes_on",
            "test_standbys_last_segment_is_looked_at_up_to_the_start",
            "test_start_at_level_minimal_is_found_in_every_segment",
            "test_what_was_before_the_parent_or_comes_after_the_start_does_not_count",
        ),
        servers=(f"{_RULES}test_time_of_minimal_wal_makes_the_next_backup_a_full_one",),
    ),
    Plant(
        rule="WAL that is missing may have been minimal",
        module="pghaven.backup.waldip",
        old='return f"wal_level may have been minimal since: {error.message}"',
        new="return None",
        found_by=(
            "test_damaged_segment_counts_against_the_parent",
            "test_last_segment_is_waited_for_but_not_for_ever",
            "test_missing_segment_counts_against_the_parent",
            "test_segment_in_which_a_primarys_backup_starts_is_not_needed",
            "test_segment_of_another_cluster_counts_against_the_parent",
        ),
    ),
    Plant(
        rule="a server that was started since may have had a dip",
        module="pghaven.backup.waldip",
        old="return facts.started + margin < started and stopped <= facts.probed",
        new="return stopped <= facts.probed",
        found_by=(
            "test_parent_of_this_boot_was_timed_by_the_same_clock",
            "test_server_that_was_started_since_or_about_then_may_have_had_one",
        ),
        servers=(f"{_RULES}test_time_of_minimal_wal_makes_the_next_backup_a_full_one",),
    ),
    Plant(
        rule="a clock that was put back proves nothing of a dip",
        module="pghaven.backup.waldip",
        old="return facts.started + margin < started and stopped <= facts.probed",
        new="return facts.started + margin < started",
        found_by=("test_clock_that_was_put_back_proves_nothing",),
    ),
    Plant(
        rule="summaries leave no gap",
        module="pghaven.server.summaries",
        old="if summary.start_lsn > covered:",
        new="if False:",
        found_by=("test_any_gap_is_told_and_nothing_is_chosen",),
        servers=(f"{_RULES}test_gap_in_the_summaries_is_noticed",),
    ),
    Plant(
        rule="summaries reach to the end of the way",
        module="pghaven.server.summaries",
        old="if covered < leg.end_lsn:",
        new="if False:",
        found_by=("test_any_gap_is_told_and_nothing_is_chosen",),
    ),
    Plant(
        rule="summaries of another timeline tell nothing",
        module="pghaven.server.summaries",
        old="return self.timeline == leg.timeline and self.start_lsn",
        new="return self.start_lsn",
        found_by=(
            "test_any_gap_is_told_and_nothing_is_chosen",
            "test_old_timelines_summary_that_begins_where_it_was_left_is_another_future",
            "test_old_timelines_summary_that_reaches_beyond_its_end_covers_the_rest_of_it",
            "test_summaries_that_only_touch_the_way_are_left_out",
        ),
    ),
    Plant(
        rule="the summarizer is waited for",
        module="pghaven.backup.origin",
        old="        if answer is None:\n            answer = wait_for_summaries(",
        new="        if answer is not None:\n            answer = wait_for_summaries(",
        found_by=(),
        servers=(f"{_RULES}test_summarizer_that_is_behind_is_waited_for",),
    ),
    Plant(
        rule="summaries of faulty versions are not relied on",
        module="pghaven.server.summaries",
        old="if fault is not None:",
        new="if False:",
        found_by=("test_versions_with_known_faults_are_not_relied_on",),
    ),
    Plant(
        rule="summaries that are switched off are not relied on",
        module="pghaven.server.summaries",
        old='if facts.settings.get("summarize_wal") != "on":',
        new="if False:",
        found_by=("test_servers_without_summaries_say_why",),
    ),
    Plant(
        rule="a database that moves while it is copied fails the backup",
        module="pghaven.backup.checks",
        old="    if moved:\n",
        new="    if False:\n",
        found_by=(),
        servers=(f"{_RULES}test_database_that_moves_while_it_is_copied_fails_the_backup",),
    ),
)

STAMPS = (
    Plant(
        rule="a file of another size was touched",
        module="pghaven.backup.untouched",
        old="np.equal(files.size, then.size)",
        new="np.equal(files.size, files.size)",
        found_by=("test_file_of_another_size_is_opened",),
    ),
    Plant(
        rule="a file with another time was touched",
        module="pghaven.backup.untouched",
        old="untouched &= files.mtime_ns == then.mtime_ns",
        new="untouched &= True",
        found_by=("test_file_with_another_time_than_the_parent_saw_is_opened",),
    ),
    Plant(
        rule="a file written shortly before the parent may have been touched in it",
        module="pghaven.backup.untouched",
        old="to_ns(parent_started) - MARGIN_SECONDS * 10**9",
        new="to_ns(parent_started)",
        found_by=(
            "test_file_whose_inode_changed_later_is_opened_whatever_its_time_says",
            "test_file_written_in_the_margin_before_the_parent_is_opened",
        ),
    ),
    Plant(
        rule="a file whose inode changed later was touched",
        module="pghaven.backup.untouched",
        old="untouched &= changed_ns < to_ns",
        new="untouched &= files.mtime_ns < to_ns",
        found_by=(
            "test_file_whose_inode_changed_later_is_opened_whatever_its_time_says",
            "test_files_written_without_changing_size_are_opened",
        ),
    ),
    Plant(
        rule="time stamps of another boot or host prove nothing",
        module="pghaven.backup.untouched",
        old="if boot_of(intent.boot_id) != boot_of(host.boot_id):",
        new="if False:",
        found_by=("test_time_stamps_are_distrusted_with_a_reason",),
    ),
    Plant(
        rule="a clock that was put back proves nothing of files",
        module="pghaven.backup.untouched",
        old="if host.now < parent_end:",
        new="if False:",
        found_by=("test_time_stamps_are_distrusted_with_a_reason",),
    ),
    Plant(
        rule="time stamps that are yet to come prove nothing",
        module="pghaven.backup.untouched",
        old="if host.newest_ns > to_ns(host.now) + MARGIN_SECONDS * 10**9:",
        new="if False:",
        found_by=("test_time_stamps_are_distrusted_with_a_reason",),
    ),
)

FILES = (
    Plant(
        rule="free space, visibility and status are judged by their contents",
        module="pghaven.backup.changes",
        old="rules[number] = Rule.COMPARE",
        new="rules[number] = Rule.KEEP",
        found_by=(
            "test_other_files_are_judged_by_their_contents",
            "test_page_marked_all_visible_without_a_new_lsn_is_stored",
        ),
        servers=(_EVERY_CHANGE,),
    ),
    Plant(
        rule="an untouched file has the parent's size",
        module="pghaven.backup.changes",
        old="rules[(ground.counterpart >= 0) & ground.untouched & same_size]",
        new="rules[(ground.counterpart >= 0) & ground.untouched]",
        found_by=("test_file_of_another_size_is_not_untouched",),
    ),
    Plant(
        rule="files of a database that was made since are stored whole",
        module="pghaven.backup.changes",
        old="or key[1] in made_anew",
        new="",
        found_by=("test_files_of_a_database_made_since_are_all_stored",),
        servers=(_EVERY_CHANGE,),
    ),
    Plant(
        rule="a database the parent did not know may have been in the making",
        module="pghaven.backup.changes",
        old="if then.get(oid) == row",
        new="if then.get(oid, row) == row",
        found_by=("test_files_of_a_database_made_since_are_all_stored",),
    ),
    Plant(
        rule="a database that is not known now may be in the making",
        module="pghaven.backup.changes",
        old="*(oid for oid, row in now.items() if then.get(oid) == row)}",
        new="*(oid for oid, row in then.items() if now.get(oid, row) == row)}",
        found_by=("test_files_of_a_database_made_since_are_all_stored",),
    ),
    Plant(
        rule="a file shorter than the parent's is stored whole",
        module="pghaven.backup.changes",
        old="if size < known or not whole_blocks",
        new="if not whole_blocks",
        found_by=("test_shorter_file_is_stored_whole",),
    ),
    Plant(
        rule="a file with an odd tail is stored whole",
        module="pghaven.backup.changes",
        old="if size < known or not whole_blocks",
        new="if size < known",
        found_by=("test_file_with_an_odd_tail_is_stored_whole",),
    ),
    Plant(
        rule="blocks behind the parent's end are read whatever summaries say",
        module="pghaven.backup.changes",
        old="parts = [np.arange(known, count, dtype=np.uint32)]",
        new="parts = [np.arange(0, dtype=np.uint32)]",
        found_by=("test_new_pages_that_no_summary_names_are_read",),
    ),
    Plant(
        rule="blocks are counted through all files of a relation",
        module="pghaven.backup.changes",
        old="first = self._listing.first_block[number]",
        new="first = 0",
        found_by=("test_blocks_are_counted_through_all_files_of_a_relation",),
    ),
    Plant(
        rule="pages that the parent has damaged are read again",
        module="pghaven.backup.changes",
        old="        for number, blocks in self._damage.items():\n",
        new="        for number, blocks in {}.items():\n",
        found_by=("test_page_that_the_parent_has_damaged_is_looked_at_again",),
        servers=(f"{_BASICS}test_a_damaged_page_is_told_until_it_is_gone",),
    ),
    Plant(
        rule="other files that the parent has damaged are read again",
        module="pghaven.backup.changes",
        old="rules[list(self._damage)] = Rule.FULL",
        new="pass",
        found_by=("test_page_that_the_parent_has_damaged_is_looked_at_again",),
    ),
    Plant(
        rule="maps stay small",
        module="pghaven.backup.changes",
        old="for number, extent in zip(ours[files].tolist(), extents.tolist(), strict=True):",
        new="for number, extent in ():",
        found_by=("test_extent_in_too_many_pieces_is_stored_whole",),
    ),
    Plant(
        rule="every block from the shortest length on has changed",
        module="pghaven.postgres.changed",
        old="limit = end if self.limit_block is None else min(max(self.limit_block, first), end)",
        new="limit = end",
        found_by=(
            "test_everything_from_a_limit_on_is_read_and_what_is_new",
            "test_one_files_blocks_are_those_in_its_range",
            "test_relation_or_database_that_was_made_anew_has_changed_throughout",
            "test_shortest_length_counts_whichever_summary_says_it",
            "test_truncation_hides_no_change_that_came_before_or_after_it",
        ),
        servers=(_EVERY_CHANGE,),
    ),
    Plant(
        rule="of several lengths the shortest counts",
        module="pghaven.postgres.changed",
        old="min(limit_block, self._limits.get(number, limit_block))",
        new="limit_block",
        found_by=("test_shortest_length_counts_whichever_summary_says_it",),
    ),
    Plant(
        rule="a database that was made has changed throughout",
        module="pghaven.postgres.changed",
        old="if (tablespace_oid, database_oid, _WHOLE_DATABASE) in self._slices:",
        new="if False:",
        found_by=("test_relation_or_database_that_was_made_anew_has_changed_throughout",),
    ),
)

PAGES = (
    Plant(
        rule="a page with a later LSN is stored",
        module="pghaven.postgres.page",
        old="np.greater_equal(lsns, np.uint64(max(since, 1) - 1))",
        new="np.greater(lsns, np.uint64(max(since, 1) - 1))",
        found_by=(
            "test_judging_pages_leaves_them_alone_wherever_they_lie",
            "test_page_with_a_later_lsn_or_none_is_stored",
            "test_pages_from_the_parents_start_on_are_stored_and_those_before_it_are_not",
            "test_pages_without_an_lsn_are_stored",
            "test_real_pages_are_judged_by_nothing_but_their_lsn",
        ),
    ),
    Plant(
        rule="a page without an LSN is stored",
        module="pghaven.postgres.page",
        old="    np.subtract(lsns, 1, out=lsns)\n",
        new="    np.subtract(np.maximum(lsns, 1), 1, out=lsns)\n",
        found_by=(
            "test_page_with_a_later_lsn_or_none_is_stored",
            "test_pages_without_an_lsn_are_stored",
        ),
    ),
    Plant(
        rule="a page with an impossible header is stored",
        module="pghaven.postgres.page",
        old="np.logical_or(store, is_insane, out=store)",
        new="pass",
        found_by=("test_an_old_lsn_proves_nothing_when_the_header_is_not_sane",),
    ),
    Plant(
        rule="a page whose checksum stays wrong is stored",
        module="pghaven.backup.pipeline",
        old="        mask[bad] = True\n",
        new="",
        found_by=("test_page_that_stays_bad_is_stored_by_a_scan_whatever_its_lsn",),
    ),
    Plant(
        rule="pages behind the parent's end are stored whatever their LSN",
        module="pghaven.backup.pipeline",
        old="changed |= blocks >= scan.known_bytes // block_size",
        new="pass",
        found_by=(
            "test_file_of_another_size_is_not_untouched",
            "test_pages_beyond_the_parents_end_are_stored_whatever_their_lsn",
        ),
    ),
    Plant(
        rule="pages that were marked all-visible without an LSN are stored",
        module="pghaven.backup.pipeline",
        old="if scan.unlogged_marks:",
        new="if False:",
        found_by=(
            "test_marks_in_every_file_of_a_relation_hang_on_its_one_map",
            "test_page_marked_all_visible_without_a_new_lsn_is_stored",
        ),
        servers=(
            f"{_RULES}test_marks_of_a_vacuum_are_not_missed_without_checksums",
            f"{_RULES}test_checksums_that_were_off_for_a_while_hide_no_marks",
        ),
    ),
    Plant(
        rule="checksums that were off for a while may hide marks",
        module="pghaven.backup.origin",
        old="return self._has_run(facts) and (facts.data_checksums",
        new="return (facts.data_checksums",
        found_by=(),
        servers=(f"{_RULES}test_checksums_that_were_off_for_a_while_hide_no_marks",),
    ),
    Plant(
        rule="marks in every file of a relation hang on its one map",
        module="pghaven.backup.changes",
        old='node = self._listing.names[number].partition(b".")[0]\n        return (',
        new="node = self._listing.names[number]\n        return (",
        found_by=("test_marks_in_every_file_of_a_relation_hang_on_its_one_map",),
    ),
    Plant(
        rule="the root of a GiST index that was sorted is stored",
        module="pghaven.backup.pipeline",
        old="if count and pages.block == 0:",
        new="if False:",
        found_by=("test_root_of_a_sorted_gist_index_is_stored_although_its_lsn_is_none",),
        servers=(f"{_RULES}test_root_of_a_gist_index_that_was_being_built_is_not_missed",),
        version=15,
    ),
    Plant(
        rule="zeros that were pages become zeros",
        module="pghaven.backup.pipeline",
        old="reading.pieces.add(pages.number, offset, count * block_size, _NOWHERE)",
        new="pass",
        found_by=("test_page_that_became_zeros_is_zeros",),
    ),
    Plant(
        rule="a page that fails its checksum is read again",
        module="pghaven.backup.pagecheck",
        old="for _ in range(_REREADS):",
        new="for _ in range(0):",
        found_by=(
            "test_page_caught_half_written_is_taken_as_it_is_when_read_again",
            "test_page_is_read_again_until_it_is_whole",
            "test_page_that_is_gone_when_it_is_read_again_is_nobodys_damage",
        ),
    ),
    Plant(
        rule="a page that stays bad and is older than the backup is damaged",
        module="pghaven.backup.damage",
        old="if start <= page.lsn <= stop:",
        new="if page.lsn <= stop:",
        found_by=("test_page_of_another_time_is_damaged_and_told",),
        servers=(f"{_BASICS}test_a_damaged_page_is_told_until_it_is_gone",),
    ),
    Plant(
        rule="a page that is torn while it is written is no damage",
        module="pghaven.backup.damage",
        old="if start <= page.lsn <= stop:",
        new="if False:",
        found_by=("test_page_that_was_being_written_while_the_backup_ran_is_no_damage",),
    ),
)

PLANTS = (*PARENT, *WAYS, *STAMPS, *FILES, *PAGES)
