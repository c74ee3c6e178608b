"""The next step for a source, as DESIGN section 3 has it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcloader.source.actions import (
    AppendLate,
    Batch,
    Blocked,
    FullLoad,
    Limits,
    Nothing,
    Progress,
    Replay,
    Truncate,
    Wait,
)
from cdcloader.source.names import Kind, RawFile, position_of_name, position_of_time, time_of_position
from cdcloader.source.plan import list_from, make_plan, needs_full_listing, pending_files, without_skipped
from cdcloader.source.truncation import is_emptied, with_truncation

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits(max_files=500, max_bytes=1 << 30, quiet_seconds=300, overlap_seconds=300)
NEVER = Progress(0, 0, 0, {}, 0, None, None, 0, full_load_date_edited=False)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def load(number, modified, etag="e"):
    name = f"LOAD{number:08X}.csv"
    return RawFile(f"s/t/{name}", name, Kind.LOAD, "csv", False, 0, number, 100, etag, at(modified))


def cdc(written, *, suffix="csv", size=10, etag="e", modified=None):
    time = at(written)
    name = f"{time:%Y%m%d-%H%M%S}{time.microsecond // 1000:03d}.{suffix}"
    modified_at = at(written if modified is None else modified)
    return RawFile(f"s/t/{name}", name, Kind.CDC, "csv", False, position_of_name(name), 0, size, etag, modified_at)


def marker(modified):
    return RawFile("s/t/FULL_LOAD_COMPLETE", "FULL_LOAD_COMPLETE", Kind.MARKER, "", False, 0, 0, 0, "m", at(modified))


def loaded(first=0, newest=0, files=1, **changes):
    """A table whose full load had `files` files with these LastModified, and no CDC file yet."""
    progress = replace(
        NEVER, generation=1, full_load_date=at(int(first)), full_load_newest=at(newest), full_load_files=files
    )
    return replace(progress, **changes)


def streamed(*applied, base=None, **changes):
    """The same table after these CDC files."""
    progress = base or loaded()
    ledger = {file.name: file.etag for file in applied}
    position = max((file.position for file in applied), default=progress.position)
    return replace(progress, **{"ledger": {**progress.ledger, **ledger}, "position": position, **changes})


def replayed(progress, replay):
    """What the loader makes of a Replay: the next generation."""
    return replace(
        progress,
        generation=progress.generation + 1,
        position=replay.from_position,
        floor=replay.floor,
        ledger=replay.ledger,
        ledger_from=replay.ledger_from,
    )


def plan(files, progress, *, keyed=True, now=100_000, limits=LIMITS):
    return make_plan(files, progress, limits, keyed=keyed, now=at(now))


def action(files, progress, **options):
    return plan(files, progress, **options).action


# ---- full load ------------------------------------------------------------------------------------------


def test_empty_source_is_nothing():
    """A source without files needs nothing."""
    assert plan([], NEVER) == plan([marker(0)], NEVER)
    assert action([], NEVER) == Nothing()


def test_first_full_load_takes_all_load_files_and_skips_no_change():
    """The first full load takes every LOAD file, and every CDC file will follow, whatever its age."""
    loads = [load(number, number) for number in (1, 10, 16)]
    old = cdc(-90_000)
    found = plan([old, *reversed(loads)], NEVER)
    assert isinstance(found.action, FullLoad)
    assert found.action.files == tuple(loads)
    assert (found.action.floor, found.action.reload, found.action.leftovers) == (0, False, ())
    assert (found.action.first_modified, found.action.newest) == (at(1), at(16))
    assert (found.backlog_files, found.backlog_bytes, found.oldest_unapplied) == (1, 10, at(-90_000))


def test_cdc_without_load_streams_at_once():
    """The full load of an empty table is empty: its changes are applied without waiting."""
    assert action([cdc(1)], NEVER, now=1) == Batch((cdc(1),), more=False)


@pytest.mark.parametrize(
    ("proof", "says"),
    [(cdc(31), "20260301-120031000.csv"), (marker(30), "FULL_LOAD_COMPLETE"), (marker(99), "FULL_LOAD_COMPLETE")],
)
def test_set_is_complete_by_proof(proof, says):
    """A later CDC file or a marker completes the set at once, and the reason names it."""
    found = action([load(1, 0), load(2, 30), proof], NEVER, now=31)
    assert isinstance(found, FullLoad)
    assert says in found.reason


@pytest.mark.parametrize("other", [cdc(29), cdc(30), marker(29)])
def test_incomplete_set_waits(other):
    """Without proof the set waits until nothing has come for the quiet time, and says what it waits for."""
    loads = (load(1, 0), load(2, 30))
    found = action([*loads, other], NEVER, now=130)
    assert isinstance(found, Wait)
    assert (found.until, found.files) == (at(330), loads)
    assert "2 LOAD files" in found.reason
    assert "200 s" in found.reason
    assert "full_load.quiet_seconds: set it to 0 for files that you copied" in found.reason
    assert "; 1 LOAD file so far" in action([load(1, 0)], NEVER, now=30).reason
    assert isinstance(action([*loads, other], NEVER, now=329.9), Wait)
    assert isinstance(action([*loads, other], NEVER, now=330), FullLoad)


def test_loaded_set_is_not_loaded_again():
    """The same LOAD files, or fewer of them, are no reason to load again."""
    progress = loaded(first=0.5, newest=7.25, files=3)
    loads = [load(1, 0.5), load(2, 7.25), load(3, 3)]
    assert action(loads, progress) == Nothing()
    assert action(loads[:1], progress) == Nothing()
    assert action([], progress) == Nothing()


def test_reload_takes_the_new_files_and_leaves_the_old():
    """When DMS loads again, only the files written since make the set; changes before it are skipped."""
    progress = loaded(first=0, newest=5, files=3)
    files = [load(1, 5000), load(2, 5003), load(3, 5), cdc(100), cdc(4701), cdc(6000)]
    found = plan(files, progress)
    assert found.action.files == (files[0], files[1])
    assert found.action.leftovers == (files[2],)
    assert found.action.reload
    assert found.action.floor == position_of_time(at(4700))
    assert (found.backlog_files, found.oldest_unapplied) == (2, at(4701))
    again = loaded(first=5000, newest=5003, files=found.action.files_in_window, floor=found.action.floor)
    assert action(files, again).files == (files[4], files[5])


def test_a_microsecond_newer_is_a_reload():
    """A local file written again within the same second is a reload."""
    assert action([load(1, 0.000001)], loaded(first=0, newest=0)).reload


def test_reload_of_a_copied_prefix_skips_nothing():
    """Where LastModified is not the time in the names, no change may be skipped by it."""
    files = [load(1, 90_000), cdc(100, modified=90_000), cdc(90_100)]
    assert action(files, loaded()).floor == 0


def test_incomplete_reload_holds_back_the_changes():
    """While DMS writes a new full load, the table stands still."""
    found = action([load(1, 5000), cdc(4000)], loaded(), now=5001)
    assert isinstance(found, Wait)


@pytest.mark.parametrize("modified", [30, 4])
def test_a_joining_file_reloads_the_whole_set(modified):
    """A LOAD file that appears in a loaded set, whenever it was written, reloads the set without older files."""
    progress = loaded(first=2, newest=9, files=2)
    files = [load(1, 2), load(2, 9), load(3, modified), load(4, 1)]
    found = action(files, progress)
    assert found.files == tuple(files[:3])
    assert found.leftovers == (files[3],)
    assert found.reload
    assert "joined" in found.reason
    newest = max(9, modified)
    assert action(files, loaded(first=2, newest=newest, files=found.files_in_window)) == Nothing()


def test_leftovers_of_the_same_second_do_not_join():
    """A leftover written in the second in which the new set begins does not count as joining it."""
    progress = loaded(first=0.1, newest=0.2, files=2)
    files = [load(1, 0.5), load(2, 0.2)]
    found = action(files, progress)
    assert (found.files, found.leftovers) == ((files[0],), (files[1],))
    assert action(files, loaded(first=0.5, newest=0.5, files=found.files_in_window)) == Nothing()


def test_a_load_file_written_again_under_its_name_reloads():
    """The first one makes a new set, without what it leaves behind; a later one reloads all files of its set."""
    progress = loaded(first=0, newest=5, files=3)
    first_again = action([load(1, 5000, etag="new"), load(2, 3), load(3, 5)], progress)
    assert ([file.etag for file in first_again.files], len(first_again.leftovers)) == (["new"], 2)
    files = [load(1, 0), load(2, 5000, etag="new"), load(3, 5)]
    assert action(files, progress).files == tuple(files)
    assert "joined" in action(files, progress).reason


def test_a_reload_whose_files_come_one_by_one_ends_with_all_of_them():
    """While the leftovers of the old set are overwritten one after the other, each look takes what is new by then."""
    progress = loaded(first=0, newest=5, files=3)
    one = action([load(1, 5000), load(2, 3), load(3, 5)], progress)
    progress = loaded(first=5000, newest=5000, files=one.files_in_window)
    files = [load(1, 5000), load(2, 5400), load(3, 5)]
    two = action(files, progress)
    assert (two.files, two.leftovers) == (tuple(files[:2]), (files[2],))
    progress = loaded(first=5000, newest=5400, files=two.files_in_window)
    files = [load(1, 5000), load(2, 5400), load(3, 5800)]
    assert action(files, progress).files == tuple(files)


def test_an_earlier_full_load_date_reloads():
    """An operator who sets LastFullLoadDate back gets the full load again."""
    progress = loaded(first=100, newest=105, files=2)
    edited = replace(progress, full_load_date=at(-3600), full_load_date_edited=True)
    files = [load(1, 100), load(2, 105)]
    assert action(files, edited).files == tuple(files)
    assert action(files, edited).reload
    assert action(files, edited).reason.startswith("an operator set LastFullLoadDate to 2026-03-01 11:00:00")
    again = [load(1, 500), load(2, 505)]
    assert action(again, progress).reason.startswith("DMS loaded the table again")


def test_a_later_full_load_date_prevents_a_reload():
    """An operator who sets LastFullLoadDate after the LOAD files keeps them from being loaded, to the second."""
    files = [load(1, 500.9), load(2, 500.2)]
    base = loaded(first=100, newest=105, files=2, full_load_date_edited=True)
    assert action(files, replace(base, full_load_date=at(500))) == Nothing()
    assert action(files, replace(base, full_load_date=at(499))).files == tuple(files)


def test_a_full_load_date_amid_the_set_loads_nothing_in_part():
    """An edited date between the files of the loaded set never reloads a part of it."""
    files = [load(1, 100), load(2, 105)]
    edited = loaded(first=102, newest=105, files=2, full_load_date_edited=True)
    assert action(files, edited) == Nothing()
    assert action([*files, load(3, 400)], edited).files == (*files, load(3, 400))


def test_state_of_the_walkthrough():
    """A record with LastFullLoadDate alone compares the first LOAD file in whole seconds."""
    imported = replace(loaded(first=100, files=0), full_load_newest=None)
    assert action([load(1, 100.7)], imported) == Nothing()
    assert action([load(1, 101)], imported).reload
    assert action([load(1, 100), load(2, 130)], imported).files == (load(1, 100), load(2, 130))


def test_reload_asks_for_the_full_listing():
    """Only a due full load needs more than the window of the listing."""
    progress = streamed(cdc(8000), ledger_from=cdc(4400).position)
    assert not needs_full_listing([load(1, 0), cdc(8000), cdc(8001)], progress)
    assert needs_full_listing([load(1, 9000), cdc(8000)], progress)
    assert not needs_full_listing([load(1, 0)], NEVER)


# ---- changes --------------------------------------------------------------------------------------------


def test_zero_byte_files_are_part_of_a_batch():
    """An empty CDC file moves the watermark like any other."""
    assert action([cdc(1, size=0)], loaded()) == Batch((cdc(1, size=0),), more=False)


def test_files_up_to_the_floor_are_skipped():
    """CDC files at or below the floor are neither applied nor late."""
    files = [cdc(1), cdc(2), cdc(3)]
    found = plan(files, loaded(floor=files[1].position))
    assert found.action == Batch((files[2],), more=False)
    assert found.backlog_files == 1
    assert action(files, streamed(files[2], base=loaded(floor=files[1].position))) == Nothing()


@pytest.mark.parametrize(
    ("limits", "count"),
    [({"max_files": 2}, 2), ({"max_bytes": 35}, 3), ({"max_bytes": 1}, 1), ({"max_files": 4, "max_bytes": 40}, 4)],
)
def test_batches_are_bounded(limits, count):
    """A batch stops at max_files or max_bytes, and holds at least one file."""
    files = [cdc(number) for number in range(5)]
    assert action(files, loaded(), limits=replace(LIMITS, **limits)) == Batch(tuple(files[:count]), more=True)


def test_a_position_is_never_split():
    """Files of one position go together even where they are more than the limit."""
    files = [cdc(1), cdc(2, suffix="csv"), cdc(2, suffix="csv.gz"), cdc(3)]
    two = replace(LIMITS, max_files=2)
    assert action(files, loaded(), limits=two).files == (files[0],)
    assert action(files, streamed(files[0]), limits=replace(LIMITS, max_files=1)).files == (files[1], files[2])


def test_late_file_replays_a_table_with_a_key():
    """A file behind the watermark starts a new generation just below it, which then applies all files after it."""
    files = [cdc(1), cdc(2), cdc(3)]
    progress = streamed(files[0], files[2])
    found = plan(files, progress)
    assert found.action.from_position == files[1].position - 1
    assert (found.action.late, found.action.replaced) == ((files[1],), ())
    assert files[1].name in found.action.reason
    assert (found.backlog_files, found.newest_position) == (1, files[2].position)
    fresh = replayed(progress, found.action)
    assert fresh.ledger == {files[0].name: "e"}
    assert action(files, fresh) == Batch((files[1], files[2]), more=False)


def test_a_file_that_comes_later_than_a_late_one_is_not_lost():
    """A replay does not make the loader forget the files before its start."""
    files = [cdc(1), cdc(2), cdc(3)]
    progress = streamed(files[2])
    progress = replayed(progress, action(files[1:], progress))
    progress = streamed(files[1], files[2], base=progress)
    assert action(files, progress).late == (files[0],)


def test_replaced_file_replays_a_table_with_a_key():
    """A file with another ETag than the one that was applied is applied again with all that follow."""
    files = [cdc(1), cdc(2, etag="new"), cdc(3)]
    found = action(files, streamed(cdc(1), cdc(2), cdc(3)))
    assert (found.from_position, found.replaced) == (files[1].position - 1, (files[1],))


def test_late_at_the_watermark():
    """A file of the watermark's own position that the ledger lacks is late."""
    files = [cdc(1, suffix="csv"), cdc(1, suffix="csv.gz")]
    found = action(files, streamed(files[0]))
    assert (found.from_position, found.late) == (files[0].position - 1, (files[1],))


def test_late_file_is_appended_alone_without_a_key():
    """Without a key a late file is appended before new ones, within the limits, and then is known."""
    files = [cdc(1), cdc(2), cdc(3), cdc(4), cdc(5)]
    progress = streamed(files[3])
    found = action(files, progress, keyed=False, limits=replace(LIMITS, max_files=2))
    assert isinstance(found, AppendLate)
    assert found.files == (files[0], files[1])
    rest = streamed(files[0], files[1], base=progress, position=progress.position)
    assert action(files, rest, keyed=False).files == (files[2],)
    done = streamed(files[2], base=rest, position=progress.position)
    assert action(files, done, keyed=False) == Batch((files[4],), more=False)


def test_replaced_file_blocks_a_table_without_a_key():
    """Without a key a replaced file needs an operator, and the message says what to do."""
    found = action([cdc(1, etag="new"), cdc(2)], streamed(cdc(1)), keyed=False)
    assert isinstance(found, Blocked)
    assert found.file == cdc(1, etag="new")
    assert "LastFullLoadDate" in found.hint
    assert "reload" in found.hint


def test_files_before_the_ledger_count_as_applied():
    """What lies before the ledger's window is not late: the ledger forgot it, the table did not."""
    files = [cdc(1), cdc(5), cdc(9)]
    progress = replace(streamed(files[1], files[2]), ledger_from=files[1].position)
    assert action(files, progress) == Nothing()
    assert list_from(progress) == files[1].position


def test_full_load_comes_before_late_files():
    """A reload replaces the table, so it is not preceded by a replay."""
    found = action([load(1, 9000), cdc(1), cdc(2)], streamed(cdc(2)))
    assert isinstance(found, FullLoad)


# ---- properties -----------------------------------------------------------------------------------------

SIZES = st.integers(0, 50)
STREAMS = st.lists(
    st.builds(cdc, st.integers(0, 40), suffix=st.sampled_from(["csv", "csv.gz", "parquet"]), size=SIZES),
    unique_by=lambda file: file.name,
    max_size=30,
)
LIMITS_DRAWN = st.builds(
    Limits, st.integers(1, 7), st.integers(1, 120), quiet_seconds=st.just(300.0), overlap_seconds=st.just(300.0)
)


@given(STREAMS, LIMITS_DRAWN, st.booleans(), st.randoms(use_true_random=False))
def test_batches_make_the_stream(files, limits, keyed, random):
    """Batches, applied one after the other, are the sorted files; no position is split; then there is nothing."""
    progress, done = loaded(), []
    while isinstance(step := action(files, progress, keyed=keyed, limits=limits), Batch):
        assert not done or done[-1].position < step.files[0].position
        done += step.files
        assert step.more == (len(done) < len(files))
        progress = streamed(*step.files, base=progress)
        random.shuffle(files)
    assert step == Nothing()
    assert done == sorted(files, key=lambda file: (file.position, file.name))


@given(
    STREAMS, st.lists(st.tuples(st.integers(1, 4), st.integers(-50, 50)), max_size=4), st.randoms(use_true_random=False)
)
def test_the_order_of_the_listing_does_not_matter(changes, loads, random):
    """The same files in any order make the same plan."""
    files = [*changes, *{number: load(number, modified) for number, modified in loads}.values(), marker(3)]
    shuffled = random.sample(files, len(files))
    for progress in (NEVER, loaded(), streamed(cdc(7)), loaded(full_load_date_edited=True)):
        for keyed in (True, False):
            assert plan(files, progress, keyed=keyed, now=60) == plan(shuffled, progress, keyed=keyed, now=60)


@given(STREAMS, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.data())
def test_the_short_listing_makes_the_same_plan(files, watermark, ledger_from, floor, data):
    """What lies below list_from changes nothing in the plan but by a full load, which asks for all."""
    known = data.draw(st.lists(st.sampled_from(files), unique_by=lambda file: file.name) if files else st.just([]))
    progress = replace(
        streamed(*known),
        position=cdc(watermark).position,
        ledger_from=cdc(ledger_from).position,
        floor=cdc(floor).position,
    )
    # A ledger never holds files from before its own window.
    ledger = {f.name: f.etag for f in known if f.position >= progress.ledger_from}
    progress = replace(progress, ledger=ledger)
    short = [file for file in files if file.position >= list_from(progress)]
    assert action(short, progress) == action(files, progress)
    assert plan(short, progress).backlog_files == plan(files, progress).backlog_files


@given(STREAMS, st.data())
def test_every_file_reaches_a_keyed_table_after_its_predecessors(files, data):
    """However files come late, replays apply every one of them at its place in the order."""
    progress, seen, applied = loaded(), [], []
    for file in data.draw(st.permutations(files)):
        seen.append(file)
        while not isinstance(step := action(seen, progress), Nothing):
            if isinstance(step, Replay):
                progress = replayed(progress, step)
                applied = [old for old in applied if old.position <= step.from_position]
            else:
                progress = streamed(*step.files, base=progress)
                applied += step.files
    assert applied == sorted(files, key=lambda file: (file.position, file.name))


def test_a_skipped_file_is_out_of_every_plan_under_its_etag_alone():
    """It is neither new, nor late, nor part of a full load; under another ETag the same name is another file."""
    files = [load(1, 0), load(2, 0), cdc(10), cdc(20)]
    skipped = {files[1].name: "e", files[2].name: "e"}
    left = without_skipped(files, skipped)
    assert left == [files[0], files[3]]
    assert action(left, NEVER).files == (files[0],)
    progress = streamed(files[3], base=loaded(files=1))
    assert action(left, progress) == Nothing()
    again = cdc(10, etag="mended")
    assert action(without_skipped([*files, again], skipped), progress).late == (again,)


@pytest.mark.parametrize("ledger", [True, False])
def test_pending_files_are_those_that_a_plan_is_about(ledger):
    """What may be skipped: the files of a due load, and CDC files that came late, were replaced, or are new."""
    first, late, replaced, new = cdc(10), cdc(15), cdc(20, etag="new"), cdc(30)
    progress = streamed(first, cdc(20)) if ledger else NEVER
    found = pending_files([load(1, 0), first, late, replaced, new], progress)
    assert set(found) == ({late, replaced, new} if ledger else {load(1, 0), first, late, replaced, new})


def test_pending_files_of_a_loaded_table_without_news():
    """Nothing waits, so nothing can be skipped."""
    assert pending_files([load(1, 0), cdc(10)], streamed(cdc(10))) == []


@pytest.mark.parametrize(
    ("files", "emptied"),
    [
        ([], True),
        ([cdc(100)], True),
        ([marker(50)], True),
        ([load(1, 0)], False),
        ([load(1, 5000)], False),
        ([cdc(20)], False),
        ([cdc(15)], False),
        ([cdc(15), cdc(100)], False),
    ],
)
def test_an_emptied_source_is_one_without_any_file_that_was_applied(files, emptied):
    """LOAD files, old or new, and CDC files at or behind the watermark speak against it; newer changes do not."""
    assert is_emptied(files, streamed(cdc(10), cdc(20))) is emptied


def test_a_table_that_no_file_is_known_of_is_not_emptied():
    """After a truncate, and before the first load, an empty folder says nothing."""
    assert not is_emptied([], NEVER)
    assert not is_emptied([], replace(streamed(cdc(10)), ledger={}, full_load_files=0))
    assert is_emptied([], loaded())
    assert is_emptied([], replace(streamed(cdc(10)), full_load_files=0))


def test_a_truncate_waits_for_quiet_or_for_changes_behind_it():
    """An empty folder may be a task that starts again; changes prove that it is not; a load is left to its own rule."""
    progress = streamed(cdc(10))
    for files, now, kind in (
        ([], 299, Wait),
        ([], 300, Truncate),
        ([cdc(100)], 101, Truncate),
    ):
        found = with_truncation(make_plan(files, progress, LIMITS, keyed=True, now=at(now)), at(0), LIMITS, at(now))
        assert isinstance(found.action, kind)
        assert found.backlog_files == len(files)
    load_due = make_plan([load(1, 5000)], progress, LIMITS, keyed=True, now=at(5001))
    assert with_truncation(load_due, at(0), LIMITS, at(5001)) == load_due


def test_times_of_the_test_files_are_their_positions():
    """The builder of this module's files names them by their time."""
    assert time_of_position(cdc(1.5).position) == at(1.5)


# ---- segments, folders, layouts ---------------------------------------------------------------------------


def segment(group, number, modified, etag="a"):
    name = f"{group}LOAD{number:08X}.csv"
    return replace(load(number, modified, etag), key=f"s/t/{name}", name=name, group=group)


def segmented(*, first=0.0, newest=0.0, files=1, layout="folders"):
    return replace(loaded(first=first, newest=newest, files=files), full_load_layout=layout)


def test_segments_make_one_load():
    """The counters of segments begin anew in each folder, and all are one set, by folder and number."""
    files = [segment("b/", 1, 3), segment("a/", 2, 2), segment("a/", 1, 9)]
    found = action(files, NEVER)
    assert [file.name for file in found.files] == ["a/LOAD00000001.csv", "a/LOAD00000002.csv", "b/LOAD00000001.csv"]


@pytest.mark.parametrize("again", ["a/", "b/"])
def test_a_reload_of_segments_begins_with_any_of_them(again):
    """Segments are written side by side: whichever comes first makes a reload, and the others join it as they come."""
    progress = segmented(first=0, newest=5, files=3)
    old = {("a/", 1): 0, ("a/", 2): 5, ("b/", 1): 3}
    now = {**old, (again, 1): 5000}
    found = action([segment(*place, at_) for place, at_ in now.items()], progress)
    assert [file.name for file in found.files] == [f"{again}LOAD00000001.csv"]
    progress = segmented(first=5000, newest=5000, files=found.files_in_window)
    now = {**now, ("a/", 1): max(now["a/", 1], 5400), ("b/", 1): max(now["b/", 1], 5500)}
    files = [segment(*place, at_) for place, at_ in now.items()]
    found = action(files, progress)
    assert {file.name for file in found.files} == {"a/LOAD00000001.csv", "b/LOAD00000001.csv"}
    assert [file.name for file in found.leftovers] == ["a/LOAD00000002.csv"]
    done = segmented(
        first=found.first_modified.timestamp() - at(0).timestamp(), newest=5500, files=found.files_in_window
    )
    assert action(files, done) == Nothing()


def test_a_segment_that_comes_late_joins():
    """A new segment beside a set that is there as it was loaded does not replace it."""
    files = [segment("a/", 1, 0), segment("b/", 1, 5000)]
    found = action(files, segmented(first=0, newest=0, files=1))
    assert found.files == tuple(files)
    assert "joined" in found.reason


def test_segments_that_were_cleared_before_a_reload():
    """Where DMS empties the folder first, the new segments are the load, whatever they are called."""
    files = [segment("c/", 1, 5000), segment("d/", 1, 5001)]
    found = action(files, segmented(first=0, newest=5, files=3))
    assert found.files == tuple(files)
    assert found.reason.startswith("DMS loaded the table again")


def test_loads_beside_each_other_block():
    """The table's own folder and a folder of LOAD files each hold the whole table: a first load takes neither."""
    found = action([load(1, 0), segment("old/", 1, -5000)], NEVER)
    assert isinstance(found, Blocked)
    assert "old/LOAD00000001.csv" in found.reason + found.file.name
    assert isinstance(action([load(1, 0), segment("SEGMENT1_", 1, 0)], NEVER), Blocked)
    twice = [load(1, 0), replace(load(1, 9), name="LOAD00000001.parquet")]
    assert "have one number" in action(twice, NEVER).reason


def test_load_files_that_were_moved_aside_block():
    """A copy of loaded files in a folder is newer than the load; it is not loaded, and neither is half of anything."""
    found = action([segment("old/", 1, 5000)], loaded(first=0, newest=5, files=1))
    assert isinstance(found, Blocked)
    assert "moved aside" in found.reason
    edited = replace(loaded(first=-100, newest=5, files=1), full_load_date_edited=True)
    assert isinstance(action([segment("old/", 1, 5000)], edited), FullLoad)
    assert action([segment("old/", 1, 3)], loaded(first=0, newest=5, files=1)) == Nothing()


def test_a_reload_in_segments_leaves_the_single_file():
    """DMS loads in segments what it loaded in one file before: the old file is a leftover."""
    files = [load(1, 0), segment("SEGMENT1_", 1, 5000), segment("SEGMENT2_", 1, 5000)]
    found = action(files, loaded(first=0, newest=0, files=1))
    assert found.files == tuple(files[1:])
    assert found.leftovers == (files[0],)


def test_a_marker_speaks_for_its_folder():
    """FULL_LOAD_COMPLETE in a segment's folder does not complete the others; above them it does."""
    files = [segment("a/", 1, 0), segment("b/", 1, 1)]
    inside = replace(marker(5), name="a/FULL_LOAD_COMPLETE")
    assert isinstance(action([*files, inside], NEVER, now=10), Wait)
    assert isinstance(action([files[0], inside], NEVER, now=10), FullLoad)
    assert isinstance(action([*files, marker(5)], NEVER, now=10), FullLoad)


def test_transactions_of_other_tables_prove_nothing():
    """A file of PreserveTransactions may hold other tables' changes alone, so it completes no load."""
    shared = replace(cdc(99), transactions=True)
    assert isinstance(action([load(1, 0), shared], NEVER, now=100), Wait)


def test_no_batch_mixes_two_kinds_of_files():
    """Files of PreserveTransactions are read in another way, so a batch ends where the kind changes."""
    files = [cdc(1), replace(cdc(2), transactions=True), replace(cdc(3), transactions=True), cdc(4)]
    assert action(files, loaded()) == Batch(tuple(files[:1]), more=True)
    assert action(files, streamed(files[0])) == Batch(tuple(files[1:3]), more=True)
    assert action(files, streamed(*files[:3])) == Batch(tuple(files[3:]), more=False)


def test_a_reload_skips_no_numbered_file():
    """A position that is no time cannot be compared with the time of a reload."""
    files = [load(1, 5000), replace(cdc(100), numbered=True), cdc(4701)]
    assert action(files, loaded()).floor == 0


def test_one_flush_of_two_days_goes_by_day():
    """Changes of two days that were written at once stand in two folders: the day decides, not the folder's text."""
    names = [f"{day}/20260301-120001000.csv" for day in ("31012026", "01022026")]
    files = [replace(cdc(1), name=name) for name in names]
    assert action(files[::-1], loaded()).files == tuple(files)
    assert files[0].position == files[1].position
