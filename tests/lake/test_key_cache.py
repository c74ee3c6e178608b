"""The key cache keeps within its bounds, outlives the process, and makes no trouble when its folder does."""

import io
import json
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from cdcloader import logs
from cdcloader.config import Config
from cdcloader.lake import key_cache, key_folder, key_index
from cdcloader.lake.key_cache import Found, KeyCache
from cdcloader.lake.key_index import NET
from cdcloader.lake.snapshot import DataFile
from cdcloader.wiring import assemble

TABLE = "/lake/s/t"
ROOM = 1 << 30


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def warnings():
    stream = io.StringIO()
    logs.configure(json=True, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.configure()


@pytest.fixture(autouse=True)
def mapped(monkeypatch):
    """Every entry of the disk is mapped, however small."""
    monkeypatch.setattr(key_cache, "_MAPPED_BYTES", 0)


def a_file(name="f.parquet", **partition):
    return DataFile(name, partition, 1, 0, None)


def some_keys(count=100, start=0):
    return pl.DataFrame({"id": range(start, start + count)})


def entries(folder):
    return sorted(folder.glob("*/*.arrow"))


def holds(cache, keys, file=None, table=TABLE):
    """Where the cache has the keys of a file, None where it has not; what it has must be right."""
    known = cache.get(table, file or a_file())
    if known is None:
        return None
    index, found = known
    sought = key_index.physical(keys).with_row_index(NET).select(*keys.columns, NET)
    hits, _ = key_index.find(index, sought)
    assert sorted(hits.positions.tolist()) == list(range(keys.height))
    return found


@pytest.mark.parametrize(
    "keys",
    [
        pl.DataFrame({"id": [1, 2, 3]}),
        pl.DataFrame({"id": [3, 1, 2]}),
        pl.DataFrame({"id": [str(uuid.UUID(int=n << 100)) for n in range(3)]}),
        pl.DataFrame({"a": [1, 1, 2], "b": ["x", "y", "x"]}),
        pl.DataFrame({"a": [2, 1, 1], "b": ["x", "y", "x"]}),
        pl.DataFrame({"id": pl.Series(["1.50", "2.25"]).str.to_decimal(scale=2).cast(pl.Decimal(38, 2))}),
        pl.DataFrame({"id": [b"a", b"b"]}),
        pl.DataFrame({"id": [False, True]}),
        pl.DataFrame({"id": [0.5, 1.5]}),
        pl.DataFrame({"id": pl.Series([1, 2]).cast(pl.Datetime("us", "UTC"))}),
    ],
    ids=lambda keys: str(dict(keys.schema)),
)
def test_an_entry_survives_a_restart(folder, keys):
    """What one process remembered, the next finds in the folder, for every kind of key and order of rows."""
    KeyCache(ROOM, folder, ROOM).remember(TABLE, a_file(), keys)
    again = KeyCache(ROOM, folder, ROOM)
    assert holds(again, keys) is Found.DISK
    assert holds(again, keys) is Found.DISK
    assert holds(again, keys, table="/lake/s/u") is None


def test_small_entries_come_to_memory(folder, monkeypatch):
    """An entry that is not worth a map of its own is kept in memory once it was used, and still is in the folder."""
    monkeypatch.undo()
    KeyCache(ROOM, folder, ROOM).remember(TABLE, a_file(), some_keys())
    again = KeyCache(ROOM, folder, ROOM)
    assert [holds(again, some_keys()) for _ in range(2)] == [Found.DISK, Found.MEMORY]
    assert len(entries(folder)) == 1


def test_without_a_folder_memory_is_all(folder):
    """No folder, no files; entries are in memory, and a partition column is no part of them."""
    cache = KeyCache(ROOM)
    cache.remember(TABLE, a_file(p="x"), some_keys().with_columns(p=pl.lit("x")))
    assert holds(cache, some_keys(), a_file(p="x")) is Found.MEMORY
    assert not folder.exists()


def test_a_remembered_part_does_not_keep_the_whole(folder):
    """A slice of a large frame takes what the slice needs, in memory too."""
    cache = KeyCache(ROOM)
    large = pl.DataFrame({"id": [str(n).zfill(50) for n in range(20_000)]})
    cache.remember(TABLE, a_file(), large.slice(100, 100))
    assert cache.bytes < 20_000
    [(index, _)] = cache._kept.values()
    assert index.frame.to_arrow().nbytes < 20_000


def test_memory_keeps_what_was_used_last():
    """The memory tier stays within its bytes, and the entry that was used longest ago goes first."""
    cache = KeyCache(3 * (800 + 2_048))
    files = [a_file(str(n)) for n in range(4)]
    for file in files[:3]:
        cache.remember(TABLE, file, some_keys())
    assert holds(cache, some_keys(), files[0]) is Found.MEMORY
    cache.remember(TABLE, files[3], some_keys())
    assert [holds(cache, some_keys(), file) is not None for file in files] == [True, False, True, True]
    assert cache.bytes <= cache.memory_bytes
    cache.remember(TABLE, a_file("large"), some_keys(10_000))
    assert cache.get(TABLE, a_file("large")) is None
    assert cache.bytes <= cache.memory_bytes


def test_the_folder_keeps_what_was_used_last(folder, monkeypatch):
    """The disk tier keeps to its bytes, give or take what another process just wrote, and keeps what is used."""
    monkeypatch.setattr(key_folder, "_TOUCH_SECONDS", -1)
    bound = 64 << 10
    first, second = KeyCache(0, folder, bound), KeyCache(0, folder, bound)
    first.remember(TABLE, a_file("used"), some_keys())
    os.utime(entries(folder)[0], (0, 0))
    for n in range(60):
        (first, second)[n % 2].remember(TABLE, a_file(str(n)), some_keys())
        for number, path in enumerate(p for p in entries(folder) if p.stat().st_atime):
            os.utime(path, (1 + number, 1 + number))
        assert holds(first, some_keys(), a_file("used")) is Found.DISK
    blocks = bound // 4_096
    assert blocks // 2 <= len(entries(folder)) <= blocks + 2
    first.remember(TABLE, a_file("large"), some_keys(20_000))
    assert first.get(TABLE, a_file("large")) is None


def test_what_other_versions_and_killed_processes_left_goes_first(folder):
    """Entries of another format and half-written ones count, and are deleted when room is needed; other files stay."""
    (folder / "keys-0-polars-0").mkdir(parents=True)
    old = [folder / "keys-0-polars-0" / name for name in ("a.arrow", "b.part")]
    stays = folder / "spill.arrow"
    for path in (*old, stays):
        path.write_bytes(bytes(20_000))
        os.utime(path, (1, 1))
    cache = KeyCache(0, folder, 24_000)
    cache.remember(TABLE, a_file(), some_keys())
    assert [path.exists() for path in (*old, stays)] == [False, False, True]
    assert holds(cache, some_keys()) is Found.DISK


def damages():
    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def cut(path):
        os.truncate(path, path.stat().st_size // 2)

    def empty(path):
        os.truncate(path, 0)

    def nonsense(path):
        path.write_bytes(b"nonsense" * 1000)

    def lengthen(path):
        path.write_bytes(path.read_bytes() + b"\0")

    def folder_in_its_place(path):
        path.unlink()
        path.mkdir()

    return [flip, cut, empty, nonsense, lengthen, folder_in_its_place]


@pytest.mark.parametrize("damage", damages(), ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("opened", [False, True])
def test_a_damaged_entry_is_forgotten(folder, damage, opened, warnings):
    """A damaged file is never believed, also when it was in use: it is read again, with one warning for all."""
    cache = KeyCache(0, folder, ROOM)
    for name in "ab":
        cache.remember(TABLE, a_file(name), some_keys())
        if opened:
            assert holds(cache, some_keys(), a_file(name)) is Found.DISK
    for path in entries(folder):
        replaced = path.with_suffix(".new")
        replaced.write_bytes(path.read_bytes())
        damage(replaced)
        if replaced.is_dir():
            path.unlink()
        replaced.replace(path)
    assert cache.get(TABLE, a_file("a")) is None
    assert cache.get(TABLE, a_file("b")) is None
    lines = [line["event"] for line in warnings()]
    assert lines.count("an entry of the key cache cannot be used; its keys are read again") == 1
    assert "<refused>" not in str(warnings())
    if damage.__name__ != "folder_in_its_place":
        cache.remember(TABLE, a_file("a"), some_keys())
        assert holds(cache, some_keys(), a_file("a")) is Found.DISK


def test_deleted_entries_are_forgotten(folder, warnings):
    """The folder may be emptied at any time, which is no reason to warn."""
    cache = KeyCache(0, folder, ROOM)
    cache.remember(TABLE, a_file(), some_keys())
    assert holds(cache, some_keys()) is Found.DISK
    for path in entries(folder):
        path.unlink()
    assert cache.get(TABLE, a_file()) is None
    for path in folder.iterdir():
        path.rmdir()
    folder.rmdir()
    cache.remember(TABLE, a_file(), some_keys())
    assert holds(cache, some_keys()) is Found.DISK
    assert warnings() == []


def test_a_full_disk_costs_no_batch(folder, monkeypatch, warnings):
    """Entries that cannot be written are kept in memory, with one warning, and the disk is left alone for a while."""
    tries = []

    def full(path, _index):
        tries.append(path)
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(key_folder, "_store", full)
        cache = KeyCache(ROOM, folder, ROOM)
        for name in "abc":
            cache.remember(TABLE, a_file(name), some_keys())
            assert holds(cache, some_keys(), a_file(name)) is Found.MEMORY
    assert len(tries) == 1
    assert len(warnings()) == 1
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    monkeypatch.setattr(cache._folder, "_paused_until", 0)
    cache.remember(TABLE, a_file("d"), some_keys())
    assert holds(cache, some_keys(), a_file("d")) is Found.DISK


def test_a_folder_that_cannot_be_made_costs_no_batch(tmp_path, warnings):
    """A path that is a file, or below one, leaves memory."""
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        cache = KeyCache(ROOM, folder, ROOM)
        assert cache.get(TABLE, a_file()) is None
        cache.remember(TABLE, a_file(), some_keys())
        assert holds(cache, some_keys()) is Found.MEMORY
    assert len(warnings()) == 2


def test_maps_are_bounded(folder, monkeypatch):
    """However many files are looked into, few are open at a time."""
    monkeypatch.setattr(key_folder, "_MAPS", 4)
    cache = KeyCache(0, folder, ROOM)
    for n in range(20):
        cache.remember(TABLE, a_file(str(n)), some_keys())
        holds(cache, some_keys(), a_file(str(n)))
    assert len(cache._folder._maps) == 4
    assert all(holds(cache, some_keys(), a_file(str(n))) is Found.DISK for n in range(20))


def test_threads_share_a_cache(folder):
    """Tables are loaded side by side: entries come and go in both tiers, and what is found is right."""
    cache = KeyCache(20_000, folder, 100_000)
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        for n in range(60):
            keys = some_keys(50 + (n * 7 + number) % 50)
            cache.remember(f"/lake/{number}", a_file(str(n)), keys)
            for earlier in range(max(0, n - 3), n + 1):
                holds(cache, some_keys(50 + (earlier * 7 + number) % 50), a_file(str(earlier)), f"/lake/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert cache.bytes <= cache.memory_bytes
    assert cache.bytes == sum(size for _, size in cache._kept.values())


@pytest.mark.parametrize("path", [None, "keys"])
def test_one_cache_serves_all_tables_as_configured(tmp_path, path):
    """The config's folder and budget make one cache for every table, whose lookups are counted."""
    (tmp_path / "raw").mkdir()
    config = Config.model_validate(
        {
            "raw": str(tmp_path / "raw"),
            "lake": str(tmp_path / "lake"),
            "state": {"kind": "memory"},
            "memory_budget_mb": 1024,
            "cache": {"path": path and str(tmp_path / path), "max_mb": 1},
            "tables": [{"source": f"s/{name}", "primary_key": ["id"]} for name in "ab"],
        }
    )
    assembly = assemble(config)
    caches = {id(loader.context.keys): loader.context.keys for loader in assembly.loaders}
    assert len(caches) == 1
    [cache] = caches.values()
    assert cache.memory_bytes == 128 << 20
    cache.remember(TABLE, a_file(), some_keys())
    assert holds(cache, some_keys()) is (Found.DISK if path else Found.MEMORY)
    cache.count(Found.READ)
    lookups = 'cdcloader_key_cache_lookups_total{result="%s"}'
    counted = dict(line.rsplit(" ", 1) for line in assembly.metrics.render().decode().splitlines() if line[0] != "#")
    assert [counted[lookups % found] for found in Found] == ["0.0", "0.0", "1.0"]
