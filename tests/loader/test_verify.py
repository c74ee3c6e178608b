"""`verify`: a table that is right is equal; whatever is wrong with it is found; what is not certain is said."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcloader.demo.dms_writer import DmsSettings
from cdcloader.lake.snapshot import DataFile
from cdcloader.loader.steps import Outcome
from cdcloader.loader.verify import as_json, verify

BUDGET = 512 << 20
LONG = pytest.mark.timeout(900)


def row(number, name="x"):
    return {"id": number, "name": name}


def check(world, *, record=None, **options):
    return verify(world.loader().context, record or world.record(), budget_bytes=BUDGET, **options)


def assert_equal(world):
    for quick in (False, True):
        found = check(world, quick=quick)
        assert found.equal, as_json(found, show_keys=True)
        assert found.reader == "delta-rs"
    return found


def assert_different(world, *, quick, **counts):
    found = check(world)
    assert (found.verified, found.equal) == (True, False), found
    told = {name: getattr(found.difference, name) for name in ("missing", "surplus", "changed", "duplicates")}
    assert told == {"missing": 0, "surplus": 0, "changed": 0, "duplicates": 0} | counts
    assert check(world, quick=True).equal is not quick
    return found


def loaded(world):
    """A LOAD of three rows and a CDC file with each op."""
    world.load([row(1, "loaded"), row(2, "loaded"), row(3, "loaded")])
    world.later()
    world.cdc([("U", row(1, "changed")), ("D", row(2)), ("I", row(4, "new")), ("U", row(4, "newer"))])
    world.later()
    assert world.run().outcome is Outcome.IDLE
    return world


def test_a_table_after_every_op_is_equal(world):
    """LOAD rows, I, U, D, and several changes of one key amount to what the loader wrote."""
    found = assert_equal(loaded(world))
    assert (found.files, found.rows_in, found.difference.expected, found.version) == (2, 7, 3, 1)
    assert found.watermark.endswith(".parquet")


def test_a_table_that_is_not_there_cannot_be_verified(world):
    """Without a target there is nothing to compare, and the hint says what to do."""
    world.load([row(1)])
    found = verify(world.loader().context, None, budget_bytes=BUDGET)
    assert (found.verified, found.equal, found.version) == (False, False, None)
    assert "no target" in found.reason
    assert "run" in found.hint


def test_nothing_is_written(world):
    """Verifying takes no lease, and leaves raw, lake and record byte for byte as they were."""
    loaded(world)

    def everything():
        files = {path: path.stat().st_mtime_ns for path in world.root.rglob("*") if path.is_file()}
        return files, world.record()

    before = everything()
    assert_equal(world)
    assert everything() == before


def test_late_repeated_and_replaced_files_end_up_equal(world):
    """A replay in the middle of a history, the same changes sent twice, and a replaced file: still its history."""
    loaded(world)
    late = world.now
    world.later()
    again = [("U", row(3, "newer")), ("I", row(9))]
    world.cdc(again)
    world.later()
    world.run()
    world.cdc([("U", row(3, "older")), ("D", row(9)), ("I", row(5, "late"))], at=late, visible=world.now)
    world.later()
    world.cdc(again)
    world.later()
    world.run()
    assert_equal(world)
    at = world.later()
    world.cdc([("U", row(1, "first"))], at=at)
    world.later()
    world.run()
    world.cdc([("U", row(1, "second"))], at=at, visible=world.now)
    world.run()
    assert_equal(world)


def test_what_a_replaced_file_takes_back_is_found(world):
    """A replaced file is applied again, but a change that it no longer holds is not undone: verify finds it."""
    loaded(world)
    at = world.now
    world.cdc([("U", row(1, "first")), ("U", row(3, "first"))], at=at)
    world.later()
    world.run()
    world.cdc([("U", row(1, "second"))], at=at, visible=world.now)
    world.run()
    assert_different(world, quick=False, changed=1)


def test_a_file_below_the_look_back_is_missed_and_told(world):
    """What came later than the look-back was never applied: a difference, with the file's name in a note."""
    loaded(world)
    early = world.now
    world.later(4 * 3600)
    world.cdc([("I", row(6))])
    world.later()
    world.run()
    assert_equal(world)
    name = world.cdc([("I", row(7))], at=early, visible=world.now)
    assert world.run().outcome is Outcome.IDLE
    found = assert_different(world, quick=True, missing=1)
    assert any("never applied" in note and name in note for note in found.notes)


def test_what_is_newer_than_the_version_is_left_out(world):
    """Files behind the watermark's, late ones that wait, and a reload that waits do not disturb."""
    loaded(world)
    early = world.now
    world.later()
    world.cdc([("I", row(6))])
    world.later()
    world.run()
    world.later()
    world.cdc([("D", row(1))])
    assert_equal(world)
    world.cdc([("D", row(3))], at=early, visible=world.now)
    found = assert_equal(world)
    assert any("came late" in note for note in found.notes)


def test_an_older_version_is_compared_with_its_own_history(world):
    """`--table-version`: the files up to that version's watermark, whatever came after."""
    loaded(world)
    for number in range(3):
        world.later()
        world.cdc([("U", row(1, f"v{number}")), ("I", row(10 + number))])
        world.later()
        world.run()
    for version in range(5):
        found = check(world, version=version)
        assert (found.equal, found.version) == (True, version), found
    assert "99" in check(world, version=99).reason


def test_a_loader_may_commit_meanwhile(world):
    """The version is pinned: commits that land while the raw files are read change nothing."""
    loaded(world)
    context = world.loader().context
    real, went = context.raw.open_reader, []

    def opened(key, **options):
        if not went:
            went.append(key)
            world.later()
            world.cdc([("D", row(1)), ("I", row(8))])
            world.later()
            world.run(world.loader("daemon"))
        return real(key, **options)

    context.raw.open_reader = opened
    context.raw.read = lambda key, **_options: opened(key).read()
    found = verify(context, world.record(), budget_bytes=BUDGET)
    assert went
    assert (found.equal, found.version) == (True, 1), found
    assert check(world).version == 2


def test_a_reload_begins_anew(world):
    """After a reload only its LOAD files count, leftovers do not, and CDC files that it contains are skipped."""
    world.load([row(1)], number=1)
    world.load([row(2)], number=2)
    world.later()
    world.cdc([("I", row(3))])
    world.later(400)
    world.run()
    world.later(7200)
    world.load([row(10)], number=1)
    world.later(60)
    world.cdc([("I", row(11))])
    world.later(400)
    world.run()
    assert world.rows() == [(10, "x"), (11, "x")]
    found = assert_equal(world)
    assert found.files == 2


def test_a_rewind_and_a_pass_over_are_known(world):
    """LastIncrementalFile set back applies again what stays equal; set forward, what it left out is no loss."""
    loaded(world)
    names = [world.cdc([("U", row(1, f"v{n}")), ("I", row(20 + n))], at=world.later()) for n in range(3)]
    world.later()
    world.run()
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file=record.path + names[0]))
    world.run()
    assert world.record().generation == 2
    assert_equal(world)
    passed = world.cdc([("I", row(30))], at=world.later())
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file=record.path + passed))
    world.run()
    world.cdc([("I", row(31))], at=world.later())
    world.later()
    world.run()
    assert 30 not in world.frame()["id"].to_list()
    found = assert_equal(world)
    assert any("passed over" in note and passed in note for note in found.notes)


def test_half_a_replay_cannot_be_verified(world):
    """While files are applied again the table is no state of the history, and that is said."""
    loaded(world)
    names = [world.cdc([("U", row(1, f"v{n}"))], at=world.later()) for n in range(3)]
    world.later()
    world.run()
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file=record.path + names[0]))
    world.limits = replace(world.limits, max_files=1)
    loader = world.loader()
    for _ in range(2):
        loader.step()
    loader.release()
    assert world.frame().filter(id=1)["name"].item() == "v1"
    found = check(world)
    assert not found.verified
    assert "applied again" in found.reason
    world.run()
    assert_equal(world)


def test_quarantined_rows_are_not_expected(make_world):
    """Rows that the loader rejects are rejected here too: text that does not parse, NULL keys, unknown Ops."""
    world = make_world(columns=(("id", "long"), ("n", "long")), dms=DmsSettings(format="csv", header=True))
    world.put("LOAD00000001.csv", b"id,n\n1,1\n2,two\n,3\n")
    world.later()
    world.put("20260301-120100000.csv", b"Op,id,n\nI,5,5\nX,6,6\nU,1,no\nD,2,\n")
    world.later()
    world.run()
    assert world.record().rows_quarantined == 4
    found = assert_equal(world)
    assert (found.rows_in, found.difference.actual) == (7, 2)


TYPED = (
    ("a", "long"),
    ("b", "string"),
    ("amount", "decimal(18,4)"),
    ("at", "timestamp"),
    ("day", "date"),
    ("ratio", "double"),
    ("flag", "boolean"),
    ("part", "string"),
)


def typed(a, b, amount, part="p", **more):
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    rest = {"at": at, "day": at.date(), "ratio": 0.1, "flag": None, "part": part}
    return {"a": a, "b": b, "amount": Decimal(amount), **rest, **more}


@pytest.mark.parametrize("options", [{}, {"timestamps": "naive"}, {"write_mode": "copy_on_write"}], ids=str)
def test_types_keys_and_partitions_compare_exactly(make_world, options):
    """Composite keys, decimals, moments, dates, NaN and NULL, rows that move between partitions with odd names."""
    world = make_world(columns=TYPED, key=("a", "b"), partition_by=("part",), **options)
    world.load([typed(1, "x", "1.0001"), typed(1, "y", "2"), typed(2, "x", "-3.5", part="q r/é=%")])
    world.later()
    moved = typed(1, "y", "2.0001", part=None, ratio=float("nan"))
    world.cdc([("U", moved), ("I", typed(3, "z", "9999999.9999", flag=True, ratio=None)), ("D", typed(2, "x", "0"))])
    world.later()
    world.run()
    assert_equal(world)
    DeltaTable(world.path).update(updates={"amount": "amount + 0.0001"}, predicate="a = 1 and b = 'y'")
    found = assert_different(world, quick=False, changed=1)
    assert found.difference.columns == {"amount": 1}


def test_columns_that_came_later_are_compared(make_world):
    """A column that the table got in the middle of its history is NULL in what came before."""
    world = make_world()
    loaded(world)
    world.columns = (*world.columns, ("more", "long"))
    world.cdc([("I", {"id": 50, "name": "n", "more": 7})])
    world.later()
    world.run()
    assert world.frame().columns == ["id", "name", "more"]
    assert_equal(world)


def test_the_order_by_sequence_holds_within_a_batch(make_world):
    """With `sequence_by` the highest of a batch wins, and the last batch of all: as the commits tell."""
    columns = (("id", "long"), ("v", "string"), ("AR_H_CHANGE_SEQ", "string"))
    for together in (True, False):
        world = make_world(
            columns=columns, sequence_by=("AR_H_CHANGE_SEQ",), dms=DmsSettings(format="csv", header=True)
        )
        world.load([{"id": 1, "v": "load", "AR_H_CHANGE_SEQ": ""}])
        for value, number in (("high", "2"), ("low", "1")):
            world.later()
            world.cdc([("U", {"id": 1, "v": value, "AR_H_CHANGE_SEQ": number * 35})])
            if not together:
                world.later()
                world.run()
        world.later()
        world.run()
        assert world.frame()["v"].to_list() == ["high" if together else "low"]
        assert_equal(world)


def test_a_table_without_a_key_is_compared_as_a_bag(make_world):
    """Insert-only: equal rows count as often as they came; late files are appended; a rewind doubles, which is told."""
    world = make_world(key=None)
    world.load([row(1), row(1)])
    world.later()
    world.cdc([("I", row(1)), ("I", row(2)), ("U", row(2))])
    late = world.later()
    world.later()
    world.cdc([("I", row(3))])
    world.later()
    world.run()
    world.cdc([("I", row(4))], at=late, visible=world.now)
    world.run()
    found = assert_equal(world)
    assert found.difference.actual == 6
    record = world.record()
    world.store.update(record, replace(record, last_incremental_file=record.path + "0.parquet"))
    world.run()
    found = assert_different(world, quick=True, surplus=4)
    assert any("more than once" in note for note in found.notes)


def append(world, rows):
    write_deltalake(world.path, pl.DataFrame(rows).to_arrow(), mode="append")


TAMPERED = {
    "a row removed": (lambda w: DeltaTable(w.path).delete("id = 3"), True, {"missing": 1}),
    "a row changed": (
        lambda w: DeltaTable(w.path).update(updates={"name": "'other'"}, predicate="id = 3"),
        False,
        {"changed": 1},
    ),
    "a value nulled": (
        lambda w: DeltaTable(w.path).update(updates={"name": "null"}, predicate="id = 3"),
        False,
        {"changed": 1},
    ),
    "a row doubled": (lambda w: append(w, [row(3, "loaded")]), True, {"duplicates": 1}),
    "a row too many": (lambda w: append(w, [row(77)]), True, {"surplus": 1}),
    "a key replaced": (
        lambda w: DeltaTable(w.path).update(updates={"id": "78"}, predicate="id = 3"),
        True,
        {"missing": 1, "surplus": 1},
    ),
}


@pytest.mark.parametrize("tampered", TAMPERED)
def test_what_was_done_to_the_table_is_found(world, tampered):
    """A row that is changed, removed, added or doubled is found; --quick sees all but values outside the key."""
    loaded(world)
    tamper, quick, counts = TAMPERED[tampered]
    tamper(world)
    assert_different(world, quick=quick, **counts)


def test_keys_are_told_only_when_asked_for(world):
    """The result for programs holds no value of a row unless keys are asked for; at most ten, of all kinds."""
    loaded(world)
    append(world, [row(1000 + n, "secret") for n in range(20)])
    found = check(world)
    quiet = as_json(found, show_keys=False)
    assert "keys" not in quiet
    assert "secret" not in str(quiet)
    told = as_json(found, show_keys=True)
    assert len(told["keys"]) == 10
    assert all(int(key[0]) >= 1000 for key in told["keys"])


def test_a_lost_vector_is_found(world):
    """A deletion vector that vanished from the log: the dead row is back, and is found."""
    world.table = world.table.model_copy(update={"write_mode": "merge_on_read"})
    world.load([row(n) for n in range(100)])
    world.later()
    world.cdc([("D", row(7))])
    world.later()
    world.run()
    assert_equal(world)
    base = world.loader().context.log.snapshot()
    (marked,) = (file for file in base.files.values() if file.vector)
    bare = DataFile(marked.path, marked.partition_values, marked.size, marked.modification_time, marked.stats)
    commit = world.root / "lake" / "s" / "t" / "_delta_log" / f"{base.version + 1:020d}.json"
    commit.write_text("\n".join(map(json.dumps, [marked.remove(0), bare.add()])))
    assert_different(world, quick=True, surplus=1)


def test_a_file_that_was_removed_from_raw_is_no_guess(world):
    """Raw files that a lifecycle rule deleted: cannot be verified, with their number and what to do."""
    loaded(world)
    (cdc,) = world.raw.glob("2026*")
    content = cdc.read_bytes()
    cdc.unlink()
    for quick in (False, True):
        found = check(world, quick=quick)
        assert not found.verified
        assert "1 is gone from raw" in found.reason
        assert cdc.name in found.reason
        assert "lifecycle" in found.hint
    world.put(cdc.name, content)
    assert_equal(world)
    (load,) = world.raw.glob("LOAD*")
    load.unlink()
    found = check(world)
    assert "of the 1 LOAD files" in found.reason
    assert "reload" in found.hint


def test_a_changed_raw_file_is_told(world):
    """A raw file that was replaced after it was applied is compared as it is now, and named."""
    loaded(world)
    at = world.now
    world.cdc([("I", row(40))], at=at)
    world.later(4 * 3600)
    world.cdc([("I", row(41))])
    world.later()
    world.run()
    world.cdc([("I", row(42))], at=at, visible=world.now)
    assert world.run().outcome is Outcome.IDLE
    found = assert_different(world, quick=True, missing=1, surplus=1)
    assert any("replaced" in note for note in found.notes)


def test_a_cleaned_log_is_no_guess_either(world):
    """With the old commits gone, what is still certain is compared, and what is not is said."""
    loaded(world)
    for number in range(4):
        world.later()
        world.cdc([("U", row(1, f"v{number}"))])
        world.later()
        world.run()
    DeltaTable(world.path).create_checkpoint()
    log = world.root / "lake" / "s" / "t" / "_delta_log"
    for version in range(4):
        (log / f"{version:020d}.json").unlink()
    found = assert_equal(world)
    assert any("no longer goes back" in note for note in found.notes)
    for file in log.glob("*.json"):
        file.unlink()
    assert_equal(world)
    found = verify(world.loader().context, None, budget_bytes=BUDGET)
    assert not found.verified
    assert "state record" in found.reason


def test_a_cleaned_log_without_a_full_load_cannot_be_verified(world):
    """Nothing tells how many CDC files there were once the commits that named them are gone."""
    for number in range(3):
        world.cdc([("I", row(number))])
        world.later()
        world.run()
    assert_equal(world)
    DeltaTable(world.path).create_checkpoint()
    log = world.root / "lake" / "s" / "t" / "_delta_log"
    (log / f"{0:020d}.json").unlink()
    found = check(world)
    assert not found.verified
    assert "no longer tells" in found.reason


def test_skipped_files_are_left_out(world):
    """A file that an operator had the loader skip is no loss, also where only the log remembers that."""
    loaded(world)
    name = world.cdc([("I", row(60))])
    world.later()
    world.cdc([("I", row(61))])
    world.later()
    (etag,) = (item.etag for item in world.loader().context.raw.list("s/t/") if item.key.endswith(name))
    record = world.record()
    world.store.update(record, replace(record, skipped_files={name: etag}))
    world.run()
    assert 60 not in world.frame()["id"].to_list()
    assert name in assert_equal(world).notes[0]
    assert verify(world.loader().context, None, budget_bytes=BUDGET).equal


@pytest.mark.parametrize("key", [("id",), None])
def test_after_a_truncate_only_what_followed_counts(make_world, key):
    """`on_source_truncate: truncate`: the emptied table is equal, and so is what comes after."""
    world = make_world(on_source_truncate="truncate", key=key)
    world.load([row(1), row(2)])
    world.later()
    world.cdc([("I", row(3))])
    world.later()
    world.run()
    for file in world.raw.iterdir():
        file.unlink()
    assert "LOAD files" in check(world).reason
    loader = world.loader()
    for seconds in (60, 400):
        world.later(seconds)
        world.run(loader)
    assert world.rows() == []
    assert_equal(world)
    world.cdc([("I", row(4))])
    world.later()
    world.run()
    assert world.rows() == [(4, "x")]
    assert_equal(world)


def test_an_insert_only_history_before_any_load(world):
    """A source without LOAD files is compared with its CDC files alone; empty files count for nothing."""
    world.cdc([("I", row(1)), ("I", row(2))])
    world.later()
    world.put("20260301-120030000.parquet", b"")
    world.later()
    world.cdc([("D", row(1))])
    world.later()
    world.run()
    assert_equal(world)


def test_a_large_table_is_compared_part_by_part(world, monkeypatch):
    """With a budget of next to nothing rows go to disk by parts and shares: the same result, right and wrong."""
    monkeypatch.setattr("cdcloader.loader.verify._RUNNING_BYTES", 0)
    monkeypatch.setattr("cdcloader.loader.verify._PART_BYTES_MIN", 0)
    world.load([row(n, f"name {n}") for n in range(5000)])
    for step in range(3):
        world.later()
        world.cdc([("U", row(n, f"step {step}")) for n in range(step, 5000, 3)])
    world.later()
    world.run()
    context, record = world.loader().context, world.record()
    for quick in (False, True):
        found = verify(context, record, budget_bytes=200_000, quick=quick)
        assert found.equal, found
    DeltaTable(world.path).update(updates={"name": "'x'"}, predicate="id % 1000 = 1")
    found = verify(world.loader().context, record, budget_bytes=200_000)
    assert (found.difference.changed, found.difference.expected) == (5, 5000)


def test_what_delta_rs_cannot_read_is_read_by_the_loader(world, monkeypatch):
    """The result says which reader was used; a data file that is gone is a reason, not a crash."""
    loaded(world)

    def refuses(*_args, **_options):
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr("cdcloader.loader.readback.DeltaTable", refuses)
        found = check(world)
        assert (found.equal, found.reader) == (True, "cdcloader")
    for file in world.root.glob("lake/s/t/*.parquet"):
        file.unlink()
    found = check(world)
    assert not found.verified
    assert "cannot be read" in found.reason


def test_a_changed_key_in_the_config_is_said(world):
    """Another key or partitioning than the target was built with cannot be compared."""
    loaded(world)
    world.table = world.table.model_copy(update={"primary_key": ("name",)})
    found = check(world)
    assert not found.verified
    assert "primary_key" in found.reason


def a_mutation(frame, key, data):
    """The table with one thing wrong with it: a row gone, doubled, added, or with another value; and what that is."""
    frame = frame.sort(key) if key else frame.sort(frame.columns)
    kinds = ["add"] + (["remove", "double", "change"] if frame.height else [])
    kind = data.draw(st.sampled_from(kinds))
    at = data.draw(st.integers(0, max(0, frame.height - 1)))
    if kind == "remove":
        return pl.concat([frame.head(at), frame.slice(at + 1)]), kind
    if kind == "double":
        return pl.concat([frame, frame.slice(at, 1)]), kind
    if kind == "add":
        return pl.concat([frame, pl.DataFrame([{**dict.fromkeys(frame.columns), "id": 99}], schema=frame.schema)]), kind
    name = data.draw(st.sampled_from([name for name in frame.columns if name not in key]))
    old = frame[name][at]
    other = {pl.String: "another", pl.Int64: 77, pl.Float64: 7.5}.get(frame.schema[name].base_type())
    value = data.draw(st.sampled_from([other, None] if old is not None else [other]))
    mark = pl.int_range(pl.len()) == at
    return frame.with_columns(pl.when(mark).then(pl.lit(value, frame.schema[name])).otherwise(name).alias(name)), kind


@pytest.mark.parametrize(
    "examples", [pytest.param(15, id="some"), pytest.param(150, id="many", marks=[pytest.mark.slow, LONG])]
)
def test_random_histories_are_equal_and_random_mutations_are_not(world_class, tmp_path_factory, examples):
    """Whatever history the loader applies, in whatever steps: equal. One thing wrong with the table: not equal."""
    columns = (("id", "long"), ("k", "string"), ("n", "long"), ("r", "double"), ("p", "string"))
    value = {
        "n": st.none() | st.integers(0, 5),
        "r": st.none() | st.floats(width=32),
        "p": st.sampled_from([None, "a b"]),
    }
    rows = st.fixed_dictionaries({"id": st.integers(0, 6), "k": st.sampled_from("xy"), **value})

    @settings(max_examples=examples, deadline=None)
    @given(data=st.data())
    def proves(data):
        key = data.draw(st.sampled_from([("id",), ("id", "k"), None]))
        world = world_class(
            tmp_path_factory.mktemp("w"),
            columns=columns,
            key=key,
            partition_by=data.draw(st.sampled_from([(), ("p",)])),
            write_mode=data.draw(st.sampled_from(["auto", "merge_on_read", "copy_on_write"])),
        )
        a_history(world, rows, data)
        if not DeltaTable.is_deltatable(world.path):
            return
        assert_equal(world)
        frame, kind = a_mutation(world.frame(), key or (), data)
        write_deltalake(world.path, frame.to_arrow(), mode="overwrite")
        found = check(world)
        assert (found.verified, found.equal) == (True, False), kind
        assert check(world, quick=True).equal is (kind == "change")

    proves()


def a_history(world, rows, data):
    """A LOAD, changes that come in their order or late, a replaced file, a reload; the loader runs now and then.

    A file that replaces another one says all that the other one said: what a file took back, nothing could undo.
    """
    unique = {"unique_by": lambda row: tuple(row[name] for name in world.key)} if world.key else {}
    files = {}
    for _ in range(data.draw(st.integers(1, 6))):
        what = data.draw(st.sampled_from(["changes", "changes", "late", "replaced", "load", "run"]))
        changes = data.draw(st.lists(st.tuples(st.sampled_from("IUD"), rows), max_size=8))
        if what == "load":
            world.later(7200)
            world.load(data.draw(st.lists(rows, max_size=8, **unique)))
            world.later(400)
            files.clear()
        else:
            newest = max(files, default=None)
            at = world.later()
            if newest and what == "late":
                at = newest - timedelta(seconds=30)
            elif newest and what == "replaced" and world.key:
                at = newest
            files[at] = [*files.get(at, ()), *changes]
            world.cdc(files[at], at=at, visible=world.now)
        world.later()
        if what == "run" or data.draw(st.booleans()):
            world.run()
    world.later(400)
    assert world.run().outcome is Outcome.IDLE


@pytest.mark.parametrize("key", [("id",), None])
def test_an_older_version_does_not_miss_what_came_late(make_world, key):
    """The record tells of now: what it knows of the look-back says nothing of the version before the late file."""
    world = make_world(key=key)
    world.cdc([("I", row(1))])
    world.later()
    late = world.now
    world.later()
    world.cdc([("I", row(2))])
    world.later()
    world.run()
    world.cdc([("I", row(3))], at=late, visible=world.now)
    world.later()
    world.run()
    world.later(7200)
    world.cdc([("I", row(4))])
    world.later()
    world.run()
    assert check(world).equal
    found = check(world, version=0)
    assert found.equal, as_json(found, show_keys=True)
    assert any("came late" in note for note in found.notes)


def test_what_is_compared_is_told_as_it_is(make_world):
    """Without a key there is no hash of keys: `--quick` counts rows alone, and says so."""
    world = make_world(key=None)
    world.cdc([("I", row(1))])
    world.later()
    world.run()
    assert as_json(check(world, quick=True), show_keys=False)["compared"] == "counts"
    assert as_json(check(world), show_keys=False)["compared"] == "rows"


def test_text_that_was_a_number_is_explained(make_world):
    """A CSV column that the config turned into text keeps the spelling of old rows; verify says why they differ."""
    columns = (("id", "long"), ("a", "decimal(12,4)"))
    world = make_world(columns=columns, dms=DmsSettings(format="csv", header=True), on_type_change="string")
    world.put("LOAD00000001.csv", b"id,a\n1,1.5\n2,2.25\n")
    world.later(600)
    world.run()
    world.table = world.table.model_copy(update={"columns": {"id": "long", "a": "string"}})
    world.put("20260301-121500000.csv", b"Op,id,a\nU,2,007\n")
    world.later()
    world.run()
    assert world.rows() == [(1, "1.5000"), (2, "007")]
    found = verify(world.loader().context, world.record(), budget_bytes=1 << 30)
    assert found.difference.changed == 1
    assert "'a' was decimal(12,4) and turned into text" in found.notes[0]
