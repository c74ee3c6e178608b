"""The config: what is read, what wins over what, and how each fault is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from cdcloader.config import Config, Csv, DynamoDBState, Http, MemoryState, SQLiteState, load_config
from cdcloader.config.environment import models_in
from cdcloader.config.expansion import key_of, table_of, wants
from cdcloader.config.models import BeforeImage
from cdcloader.errors import ConfigError

EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"
SMALLEST: dict[str, Any] = {
    "raw": "s3://bucket/raw",
    "lake": "s3://bucket/lake",
    "state": {"kind": "memory"},
    "tables": [{"source": "sales/orders", "primary_key": ["id"]}],
}


def write(folder: Path, config: dict[str, Any] | str) -> Path:
    path = folder / "config.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    return path


def load(folder: Path, environ: dict[str, str] | None = None, **changes: Any) -> Config:
    return load_config(write(folder, {**SMALLEST, **changes}), environ or {})


def faults(folder: Path, config: dict[str, Any] | str, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, config), environ or {})
    return dict(fault.split(": ", 1) for fault in caught.value.faults)


def table_faults(folder: Path, **keys: Any) -> dict[str, str]:
    table = {"source": "sales/orders", "primary_key": ["id"], **keys}
    return faults(folder, {**SMALLEST, "tables": [table]})


def test_the_smallest_config_gets_every_default(tmp_path: Path) -> None:
    """Only the places, the state and a table with its key must be stated."""
    config = load(tmp_path)
    assert config.http == Http(host="0.0.0.0", port=9108)
    assert (config.poll_interval_seconds, config.max_parallel_tables, config.memory_budget_mb) == (60, 4, None)
    assert (config.lease_seconds, config.look_back_seconds) == (60, 3600)
    assert (config.full_load.quiet_seconds, config.full_load.overlap_seconds) == (300, 300)
    assert (config.batch.max_files, config.batch.max_bytes) == (500, 1024**3)
    [table] = config.tables
    assert (table.source, table.target, table.primary_key) == ("sales/orders", "sales/orders", ("id",))
    assert (table.partition_by, table.sequence_by, table.columns, table.keep_columns) == ((), (), {}, ())
    assert table.csv == Csv(header="auto", delimiter=",", quote='"', null_values=("",), no_supplemental_value=None)
    assert (table.timestamps, table.timestamp_column, table.write_mode) == ("utc", None, "auto")


def test_the_example_is_valid_and_states_the_defaults() -> None:
    """config.example.yaml loads, and what it says about defaults is true."""
    config = load_config(EXAMPLE, {})
    example, plain = config.exact
    assert config.state == DynamoDBState()
    assert (config.http, config.tables[0].csv) == (Http(), Csv())
    same = {"partition_by", "sequence_by", "csv", "timestamps", "timestamp_column", "keep_columns", "write_mode"}
    assert example.model_dump(include=same) == plain.model_dump(include=same)
    assert plain.primary_key is None
    fields = Config.model_fields
    assert all(getattr(config, name) == field.default for name, field in fields.items() if not field.is_required())


def test_the_example_names_every_key_of_the_models() -> None:
    """No key can be added without a line in config.example.yaml."""
    text = EXAMPLE.read_text()

    def names(model: type[BaseModel]) -> set[str]:
        inner = [found for field in model.model_fields.values() for found in models_in(field.annotation)]
        return set(model.model_fields).union(*(names(found) for found in inner))

    assert {name for name in names(Config) if f"{name}:" not in text} == set()


def test_models_are_frozen(tmp_path: Path) -> None:
    """Nobody changes the config behind another's back."""
    with pytest.raises(ValidationError):
        load(tmp_path).raw = "elsewhere"  # type: ignore[misc]


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    """One run shows all there is to mend, each with its place."""
    config = {
        "lake": 5,
        "state": {"kind": "sqlite"},
        "batch": {"max_files": 0},
        "poll_interval_seconds": True,
        "max_parallel_tables": 1.5,
        "tables": [{"source": "a/b"}, "c/d", {"primary_key": None, "colums": {}}],
    }
    found = faults(tmp_path, config)
    assert found == {
        "raw": "is missing; it is the place that DMS writes to",
        "lake": "should be text, got 5; put it in quotes",
        "state.path": "is missing",
        "poll_interval_seconds": "should be a number, got true",
        "max_parallel_tables": "should be a whole number, got 1.5",
        "batch.max_files": "should be at least 1, got 0",
        "tables[0].primary_key": "is missing; name the key's columns, or write null for an insert-only table",
        "tables[1]": "should be a mapping of keys to values, got 'c/d'",
        "tables[2].source": "is missing",
        "tables[2].colums": found["tables[2].colums"],
    }
    assert found["tables[2].colums"].startswith("there is no such key; did you mean 'columns'? the keys here are ")


def test_a_yaml_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    """Nobody has to know that the file was read into a text first."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "raw: x\nlake: [\n"), {})
    assert 'in "config.yaml", line 3' in str(caught.value)
    assert "unicode" not in str(caught.value)
    assert caught.value.hint == "docs/configuration.md explains every key"


def test_the_error_text_holds_the_file_and_every_fault(tmp_path: Path) -> None:
    """Whoever prints the error alone has told everything."""
    path = write(tmp_path, {**SMALLEST, "lease_seconds": 0, "look_back_seconds": -1})
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert str(caught.value) == (
        f"{path}: the config has 2 faults:\n"
        "  lease_seconds: should be more than 0, got 0\n"
        "  look_back_seconds: should be at least 0, got -1"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a mapping"),
        ("- a\n- b\n", "not a mapping"),
        ("raw: [", "not YAML"),
        ("raw: x\n---\nraw: y\n", "not YAML"),
        ("raw: &a [*a]\n", "not YAML"),
        ("raw: 2026-99-99\n", "not YAML"),
        ("state: {kind: sqlite, path: ${X}}\n", "not YAML"),
    ],
)
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, text: str, what: str) -> None:
    """What is no YAML mapping is told with the file's name and a hint."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=what) as caught:
        load_config(path, {"X": "x"})
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are told as such."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name, what in (("missing", "no such config file"), (".", "cannot be read"), ("binary", "cannot be read")):
        with pytest.raises(ConfigError, match=what):
            load_config(tmp_path / name, {})


def test_a_key_stated_twice_is_a_fault(tmp_path: Path) -> None:
    """YAML would silently keep the last of two equal keys."""
    text = yaml.safe_dump(SMALLEST) + "batch:\n  max_files: 1\n  max_files: 2\nraw: ./other\n"
    found = faults(tmp_path, text)
    assert set(found) == {"batch.max_files", "raw"}
    assert found["batch.max_files"].startswith("is stated twice, the second time in line ")


def test_keys_that_yaml_reads_as_no_text_are_faults(tmp_path: Path) -> None:
    """`on:` and `5:` are told, with the cure."""
    assert faults(tmp_path, yaml.safe_dump(SMALLEST) + "on: 1\n")["[1]"] == "keys should be text; put true in quotes"
    assert table_faults(tmp_path, columns={5: "long"})["tables[0].columns[5]"].endswith("put it in quotes")


# Places and names


def test_places_are_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 prefixes lose their last slash; local ones become absolute, from the working directory or a file:// URL."""
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, raw="s3://bucket/a/b/", lake="./lake/", state={"kind": "sqlite", "path": "state/x.db"})
    assert (config.raw, config.lake) == ("s3://bucket/a/b", str(tmp_path / "lake"))
    assert config.state == SQLiteState(path=str(tmp_path / "state" / "x.db"))
    assert load(tmp_path, raw="s3://bucket/", lake="file:///srv/my%20lake").lake == "/srv/my lake"


@pytest.mark.parametrize(
    "raw", ["", "s3://", "s3:///x", "s3://b/../x", "s3://b//x", "gs://b/x", "s3a://b", "file://x/y", 5, None]
)
def test_places_that_are_none_are_faults(tmp_path: Path, raw: Any) -> None:
    """Raw is s3://bucket/prefix or a local folder."""
    assert set(faults(tmp_path, {**SMALLEST, "raw": raw})) == {"raw"}


@pytest.mark.parametrize(
    ("raw", "lake"),
    [
        ("s3://b/x", "s3://b/x/"),
        ("s3://b/x", "s3://b/x/y"),
        ("s3://b/x/y", "s3://b/x"),
        ("s3://b", "s3://b/x"),
        ("/srv/x", "file:///srv/x"),
        ("/srv/x", "/srv/y/../x/lake"),
    ],
)
def test_raw_and_lake_lie_apart(tmp_path: Path, raw: str, lake: str) -> None:
    """A lake in raw would be read as a source, and raw in the lake be vacuumed."""
    assert "raw and lake should lie apart" in faults(tmp_path, {**SMALLEST, "raw": raw, "lake": lake})["lake"]


def test_a_symbolic_link_does_not_hide_that_raw_and_lake_are_one(tmp_path: Path) -> None:
    """The real places are compared."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    assert set(
        faults(tmp_path, {**SMALLEST, "raw": str(tmp_path / "raw"), "lake": str(tmp_path / "link" / "lake")})
    ) == {"lake"}


def test_places_that_only_begin_alike_lie_apart(tmp_path: Path) -> None:
    """`raw` and `raw-lake` are two prefixes."""
    assert load(tmp_path, raw="s3://b/raw", lake="s3://b/raw-lake").lake == "s3://b/raw-lake"


def test_table_names_lose_their_outer_slashes(tmp_path: Path) -> None:
    """`/a/b/` and `a/b` are one source; deeper paths are welcome."""
    tables = [{"source": "/a/b/", "primary_key": None}, {"source": "a/c/d", "target": "x/", "primary_key": None}]
    config = load(tmp_path, tables=tables)
    assert [(table.source, table.target) for table in config.tables] == [("a/b", "a/b"), ("a/c/d", "x")]


@pytest.mark.parametrize("name", ["", "/", "../x", "a/../b", "a//b", "./a", "s3://b/x", "a\\b", "a\nb", 7, None])
def test_source_names_that_leave_their_prefix_are_faults(tmp_path: Path, name: Any) -> None:
    """A source is a folder under raw and nothing else; its target is then not complained of as well."""
    assert set(table_faults(tmp_path, source=name)) == {"tables[0].source"}


@pytest.mark.parametrize("name", ["_quarantine", "_x/y", "a/_delta_log", "../x", ""])
def test_targets_in_the_loaders_own_folders_are_faults(tmp_path: Path, name: str) -> None:
    """Quarantine and Delta logs cannot be overwritten by a table."""
    assert set(table_faults(tmp_path, target=name)) == {"tables[0].target"}


def test_tables_share_no_source_and_no_target(tmp_path: Path) -> None:
    """Equal and nested sources or targets are told, each once."""
    names = [("a/b", None), ("/a/b", None), ("a/c", "a/b"), ("a/b/c", "z"), ("d/e", "z/y")]
    tables = [{"source": source, "primary_key": None} | ({"target": to} if to else {}) for source, to in names]
    assert faults(tmp_path, {**SMALLEST, "tables": tables}) == {
        "tables[1].source": "'a/b' is the source of tables[0] already",
        "tables[2].target": "'a/b' is the target of tables[0] already",
        "tables[3].source": "'a/b/c' lies inside the source of tables[0]",
        "tables[4].target": "'z/y' lies inside the target of tables[3]",
    }


def test_table_finds_by_source(tmp_path: Path) -> None:
    """An unknown source is answered with those that there are."""
    config = load(tmp_path)
    assert config.table("/sales/orders") is config.tables[0]
    with pytest.raises(ConfigError, match=r"no table has the source 'x'.*the sources are sales/orders"):
        config.table("x")


# Patterns


def test_an_entry_may_be_a_pattern(tmp_path: Path) -> None:
    """Its folders become tables with its keys, each with its own target and key; what is excluded does not."""
    entry = {
        "source": "sales/*",
        "target": "crm/{schema}_{table}",
        "primary_key": "id",
        "primary_keys": {"orders": ["order_id"], "line_*": ["order_id", "line"], "sales/l*": None},
        "exclude": ["tmp_*", "sales/log"],
        "partition_by": "day",
    }
    config = load(tmp_path, tables=[entry, {"source": "hr/x", "primary_key": None}])
    [pattern], [exact] = config.patterns, config.exact
    assert (pattern.source, exact.source) == ("sales/*", "hr/x")
    wanted = ["sales/orders", "sales/log", "sales/tmp_1", "hr/orders", "sales/a/b", "sales"]
    assert [name for name in wanted if wants(pattern, name)] == ["sales/orders"]
    table = table_of(pattern, "sales/orders")
    assert (table.source, table.target, table.primary_key) == ("sales/orders", "crm/sales_orders", ("order_id",))
    assert (table.partition_by, table.exclude, table.primary_keys, table.is_pattern) == (("day",), (), {}, False)
    keys = {name: key_of(pattern, f"sales/{name}") for name in ("line_1", "lines", "Orders")}
    assert keys == {"line_1": ("order_id", "line"), "lines": None, "Orders": ("id",)}


def test_a_pattern_follows_its_folders_names(tmp_path: Path) -> None:
    """Without a target the lake looks like raw; a name that is not for tables is refused when it is met."""
    [pattern] = load(tmp_path, tables=[{"source": "*/*", "primary_key": None}]).patterns
    assert table_of(pattern, "a/b").target == "a/b"
    for name in ("_a/b", "a/.b", "a/%20"):
        with pytest.raises(ValueError, match="target"):
            table_of(pattern, name)


@pytest.mark.parametrize(
    ("keys", "place", "message"),
    [
        ({"source": "sales/*", "target": "all"}, "target", "one target 'all'; write {table}"),
        ({"source": "sales/*", "target": "{name}"}, "target", "placeholders {schema} and {table}, and no others"),
        ({"exclude": ["x"]}, "exclude", "goes with a pattern"),
        ({"primary_keys": {"x": "id"}}, "primary_keys", "goes with a pattern"),
        ({"source": "sales/*", "primary_keys": {"x": []}}, "primary_keys.x", "is empty; write null"),
    ],
)
def test_faults_of_patterns(tmp_path: Path, keys: dict[str, Any], place: str, message: str) -> None:
    """What could never work, or only goes with a pattern, is told before anything is listed."""
    assert message in table_faults(tmp_path, **keys)[f"tables[0].{place}"]


def test_patterns_clash_with_nothing_before_they_are_looked_at(tmp_path: Path) -> None:
    """An exact entry may stand beside a pattern that names it too; only the same pattern twice is a mistake."""
    tables = [{"source": "a/*", "primary_key": None}, {"source": "a/b", "target": "a/*/x", "primary_key": None}]
    assert len(load(tmp_path, tables=tables).tables) == 2
    twice = [tables[0], {**tables[0], "target": "{table}"}]
    assert set(faults(tmp_path, {**SMALLEST, "tables": twice})) == {"tables[1].source"}


# Tables


@pytest.mark.parametrize(("stated", "read"), [(["a", "b"], ("a", "b")), ("id", ("id",)), (None, None)])
def test_a_primary_key_is_a_list_a_column_or_null(tmp_path: Path, stated: Any, read: tuple[str, ...] | None) -> None:
    """One column needs no brackets; null is a choice of its own."""
    assert load(tmp_path, tables=[{"source": "a/b", "primary_key": stated}]).tables[0].primary_key == read


@pytest.mark.parametrize("stated", [[], [""], ["a", "a"], [None], 5, {}])
def test_a_primary_key_without_columns_is_a_fault(tmp_path: Path, stated: Any) -> None:
    """An empty list is not taken for insert-only."""
    [(place, message)] = table_faults(tmp_path, primary_key=stated).items()
    assert place.startswith("tables[0].primary_key")
    assert stated != [] or message == "is empty; write null for an insert-only table"


def test_column_types_are_normalised(tmp_path: Path) -> None:
    """Types are kept as Delta spells them; an unknown one is told by its column."""
    tables = [{"source": "a/b", "primary_key": None, "columns": {"a": " LONG", "b": "Decimal( 12, 2 )"}}]
    assert load(tmp_path, tables=tables).tables[0].columns == {"a": "long", "b": "decimal(12,2)"}
    assert "unknown type 'strng'" in table_faults(tmp_path, columns={"a": "strng"})["tables[0].columns.a"]


@pytest.mark.parametrize(
    ("csv", "place", "message"),
    [
        ({"delimiter": "|\n|"}, "delimiter", "no line end"),
        ({"delimiter": ""}, "delimiter", "is empty"),
        ({"encoding": "latin-1"}, "encoding", "'latin-1' is not read; cdcloader reads utf-8"),
        ({"delimiter": "||", "row_delimiter": "||||"}, "row_delimiter", "cannot be told apart"),
        ({"delimiter": "||", "quote": "|"}, "quote", "cannot be told apart"),
        ({"row_delimiter": "'\n", "quote": "'"}, "quote", "cannot be told apart"),
        ({"quote": "\n"}, "quote", "one ASCII character"),
        ({"delimiter": "'", "quote": "'"}, "quote", "cannot be told apart"),
        ({"delimiter": '"'}, "quote", "cannot be told apart"),
        ({"header": "maybe"}, "header", "none of auto, true, false"),
        ({"null_values": [None]}, "null_values[0]", "put it in quotes"),
        ({"no_supplemental_value": ""}, "no_supplemental_value", "would be NULL too"),
        ({"no_supplemental_value": "NULL", "null_values": ["", "NULL"]}, "no_supplemental_value", "would be NULL too"),
        ({"delimter": ";"}, "delimter", "did you mean 'delimiter'"),
    ],
)
def test_csv_settings_that_cannot_be_are_faults(tmp_path: Path, csv: Any, place: str, message: str) -> None:
    """Each is told with what it should be."""
    assert message in table_faults(tmp_path, csv=csv)[f"tables[0].csv.{place}"]


def test_csv_settings_are_read(tmp_path: Path) -> None:
    """Null switches quoting off; a substituted header is still a flag."""
    csv = {"quote": None, "delimiter": "\t", "header": "${HEADER}", "null_values": "NULL"}
    read = load(tmp_path, {"HEADER": "true"}, tables=[{"source": "a/b", "primary_key": None, "csv": csv}])
    assert read.tables[0].csv == Csv(header=True, delimiter="\t", quote=None, null_values=("NULL",))
    csv = {"delimiter": "~\u00a7~", "row_delimiter": "\r\n", "encoding": "UTF8"}
    read = load(tmp_path, tables=[{"source": "a/b", "primary_key": None, "csv": csv}])
    assert read.tables[0].csv == Csv(delimiter="~\u00a7~", row_delimiter="\r\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"write_mode": "cow"}, "none of auto, merge_on_read, copy_on_write"),
        ({"timestamps": "native"}, "did you mean naive?"),
        ({"partition_by": {"a": 1}}, "should be a list"),
        ({"csv": "auto"}, "should be a mapping of keys to values"),
        ({"timezone": "Europe/Berlino"}, "there is no time zone 'Europe/Berlino'"),
        ({"timezone": "../etc/passwd"}, "is no time zone"),
        ({"timezone": ""}, "is no time zone"),
        ({"timezone": "Antarctica/Troll"}, "have DMS use UTC"),
        ({"layout": "(?P<kind>x"}, "is no regular expression"),
        ({"layout": "(?P<knd>x)"}, "has the group 'knd'; the groups are kind, load, cdc"),
        ({"layout": "(?P<kind>x)(?P<date>[0-9]{8})"}, "tells no order of CDC files"),
        ({"cdc_path": "../x"}, "should be a folder, relative to raw"),
    ],
)
def test_table_settings_that_cannot_be_are_faults(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    """Each is told with what it should be."""
    assert message in table_faults(tmp_path, **keys)[f"tables[0].{next(iter(keys))}"]


def test_defaults_serve_every_table(tmp_path: Path) -> None:
    """A table's own keys win; csv and columns are merged key by key."""
    config = load(
        tmp_path,
        defaults={"primary_key": "id", "csv": {"delimiter": ";", "header": True}, "columns": {"a": "long"}},
        tables=[
            {"source": "a/b"},
            {"source": "a/c", "primary_key": None, "csv": {"header": False}, "columns": {"b": "date"}},
        ],
    )
    first, second = config.tables
    assert (first.primary_key, first.csv, first.columns) == (("id",), Csv(delimiter=";", header=True), {"a": "long"})
    assert (second.primary_key, second.csv) == (None, Csv(delimiter=";", header=False))
    assert second.columns == {"a": "long", "b": "date"}


def test_a_fault_in_defaults_is_told_once(tmp_path: Path) -> None:
    """It is not repeated for each table that takes it over."""
    config = {
        **SMALLEST,
        "defaults": {"timestamps": "x", "csv": {"quote": "xx"}, "target": "t"},
        "tables": [{"source": "a/b", "primary_key": None}, {"source": "c", "primary_key": None, "timestamps": "y"}],
    }
    found = faults(tmp_path, config)
    assert set(found) == {"defaults.timestamps", "defaults.csv.quote", "defaults.target", "tables[1].timestamps"}


def test_an_empty_defaults_section_is_none(tmp_path: Path) -> None:
    """All its keys may be commented out."""
    assert load(tmp_path, defaults=None).tables[0].write_mode == "auto"


def test_a_config_without_tables_is_a_fault(tmp_path: Path) -> None:
    """There would be nothing to do."""
    assert faults(tmp_path, {**SMALLEST, "tables": []}) == {"tables": "is empty; list at least one"}


# State and the rest


def test_each_kind_of_state_has_its_keys(tmp_path: Path) -> None:
    """A key of another kind is unknown."""
    assert load(tmp_path, state={"kind": "dynamodb"}).state == DynamoDBState(table="DMSCDC_Controller")
    assert load(tmp_path).state == MemoryState()
    found = faults(tmp_path, {**SMALLEST, "state": {"kind": "dynamodb", "path": "x"}})
    assert found == {"state.path": "there is no such key; the keys here are kind, table"}
    assert faults(tmp_path, {**SMALLEST, "state": {"table": "x"}}) == {
        "state": "its kind is missing; it is one of dynamodb, sqlite, memory"
    }
    assert set(faults(tmp_path, {**SMALLEST, "state": {"kind": "sqlite", "path": ":memory:"}})) == {"state.path"}


def test_http_null_switches_the_server_off(tmp_path: Path) -> None:
    """Without the key it is on."""
    assert load(tmp_path, http=None).http is None
    assert load(tmp_path, http={"port": 0}).http == Http(port=0)
    assert set(faults(tmp_path, {**SMALLEST, "http": {"port": 65536}})) == {"http.port"}


# The environment


def test_variables_are_substituted_in_texts(tmp_path: Path) -> None:
    """`${NAME}` anywhere in a text; `:-` serves when the variable is unset or empty."""
    environ = {"BUCKET": "b", "EMPTY": "", "PORT": "81"}
    config = load(
        tmp_path, environ, raw="s3://${BUCKET}/${X:-raw}", lake="s3://b/${EMPTY:-lake}", http={"port": "${PORT}"}
    )
    assert (config.raw, config.lake, config.http) == ("s3://b/raw", "s3://b/lake", Http(port=81))


def test_variables_that_cannot_be_substituted_are_faults(tmp_path: Path) -> None:
    """A missing variable is told once, and not also as a bad number."""
    found = faults(tmp_path, {**SMALLEST, "raw": "s3://${1X}", "http": {"port": "${PORT}"}})
    assert set(found) == {"raw", "http.port"}
    assert found["http.port"] == "the environment variable PORT is not set; set it, or write ${PORT:-default}"


def test_what_a_variable_holds_is_not_substituted_again(tmp_path: Path) -> None:
    """A value may hold anything."""
    assert load(tmp_path, {"X": "${Y}"}, raw="s3://b/${X}").raw == "s3://b/${Y}"


def test_variables_override_the_file(tmp_path: Path) -> None:
    """`__` goes a level down; numbers are numbers and texts stay texts, whatever they look like."""
    environ = {
        "CDCLOADER_RAW": "/srv/a #1: x",
        "CDCLOADER_STATE__KIND": "dynamodb",
        "CDCLOADER_STATE__TABLE": "2026",
        "CDCLOADER_BATCH__MAX_FILES": "7",
        "CDCLOADER_HTTP": "null",
        "CDCLOADER_DEFAULTS__CSV__QUOTE": "null",
        "CDCLOADER_DEFAULTS__PARTITION_BY": "[day]",
        "CDCLOADERX": "not ours",
    }
    config = load(tmp_path, environ)
    assert (config.raw, config.state, config.http) == ("/srv/a #1: x", DynamoDBState(table="2026"), None)
    assert config.batch.max_files == 7
    assert (config.tables[0].csv.quote, config.tables[0].partition_by) == (None, ("day",))


def test_faults_of_the_environment_name_the_variable(tmp_path: Path) -> None:
    """An operator who never saw the file learns what to set."""
    environ = {
        "CDCLOADER_STATE__TABEL": "x",
        "CDCLOADER_TABLES__0__SOURCE": "x",
        "CDCLOADER_LAKE": "",
        "CDCLOADER_BATCH__MAX_FILES": "many",
        "CDCLOADER_HTTP__PORT": "{",
        "CDCLOADER_ZZZ": "1",
    }
    assert faults(tmp_path, SMALLEST, environ) == {
        "CDCLOADER_HTTP__PORT": "'{' is not a YAML value",
        "CDCLOADER_LAKE": "is empty; unset it, or write null",
        "CDCLOADER_STATE__TABEL": "no setting has this name; did you mean CDCLOADER_STATE__TABLE?",
        "CDCLOADER_TABLES__0__SOURCE": "tables cannot be set by the environment; write ${NAME} in the file instead",
        "CDCLOADER_ZZZ": "no setting has this name",
        "batch.max_files": "should be a whole number, got 'many' (from CDCLOADER_BATCH__MAX_FILES)",
    }


def test_an_override_of_a_section_that_is_none_is_no_crash(tmp_path: Path) -> None:
    """The bad section is told."""
    environ = {"CDCLOADER_BATCH__MAX_FILES": "1", "CDCLOADER_DEFAULTS__CSV__QUOTE": "x"}
    config = {**SMALLEST, "batch": "x", "defaults": [1], "tables": {"a": 1}}
    assert set(faults(tmp_path, config, environ)) == {"batch", "defaults", "tables"}


@pytest.mark.parametrize(
    ("rules", "place", "message"),
    [
        ({"rename": {"id": "key"}}, "rename", "primary_key names 'id', which is renamed: write its new name there"),
        ({"columns": {"a": "long"}, "rename": {"A": "b"}}, "rename", "columns names 'a', which is renamed"),
        ({"rename": {"a": "x", "b": "X"}}, "rename", "the new name 'X' stands there twice"),
        ({"rename": {"a": "x", "A": "y"}}, "rename", "the old name 'A' stands there twice"),
        ({"rename": {"a": "__x"}}, "rename", "'__x' begins with __"),
        ({"drop": ["ID"]}, "drop", "'id' is needed by primary_key"),
        ({"partition_by": ["day"], "drop": ["day"]}, "drop", "'day' is needed by partition_by"),
        ({"cast": {"a": "text"}}, "cast.a", "unknown type 'text'"),
        ({"derive": {"id": "a"}}, "derive", "'id' is in primary_key"),
        ({"cast": {"d": "long"}, "derive": {"d": "a"}}, "derive", "'d' is in cast too"),
        ({"rename": {"a": "d"}, "derive": {"d": "a"}}, "derive", "'d' is a new name under rename too"),
        ({"mask": {"id": None}}, "mask", "'id' is in primary_key; null would make all keys one"),
        ({"drop": ["a"], "mask": {"a": "sha256"}}, "mask", "'a' is in drop too"),
        ({"mask": {"a": "md5"}}, "mask.a", "'md5' is none of sha256, null"),
        ({"filter": ""}, "filter", "is empty"),
    ],
)
def test_column_rules_that_do_not_go_together(tmp_path: Path, rules: dict[str, Any], place: str, message: str) -> None:
    """A rule that would break the key, or contradicts another one, is told at its own place."""
    found = table_faults(tmp_path, **rules)
    assert list(found) == [f"tables[0].{place}"]
    assert message in found[f"tables[0].{place}"]


def test_column_rules(tmp_path: Path) -> None:
    """Rules in `defaults` are merged into those of a table; YAML's null masks as the word does; swaps are renames."""
    rules = {"rename": {"a": "b", "b": "a"}, "mask": {"id": "sha256", "phone": None}, "cast": {"n": "DECIMAL( 5, 2 )"}}
    table = {"source": "s/t", "primary_key": ["id"], **rules}
    config = load(tmp_path, defaults={"mask": {"email": "null"}, "filter": "x > 1"}, tables=[table])
    assert config.tables[0].mask == {"email": "null", "id": "sha256", "phone": "null"}
    assert config.tables[0].cast == {"n": "decimal(5,2)"}
    assert (config.tables[0].rename, config.tables[0].filter) == ({"a": "b", "b": "a"}, "x > 1")


def test_masks_of_one_table_and_of_many(tmp_path: Path) -> None:
    """What `defaults` or a pattern masks need not be in each table; what an entry of its own masks must be."""
    mask = {"email": None, "phone": "sha256"}
    entries = [{"source": source, "primary_key": ["id"], "mask": mask} for source in ("s/t", "s/*")]
    config = load(tmp_path, defaults={"mask": {"email": "null", "name": "null"}}, tables=entries)
    assert config.tables[0].own_masks == ("phone",)
    assert table_of(config.tables[1], "s/x").own_masks == ()


def test_partial_rows_need_a_key_and_other_columns(tmp_path: Path) -> None:
    """What has no effect, or none that could be meant, is a fault; a default may be taken back."""
    keep = {"partial_updates": "keep"}
    assert "no primary_key" in table_faults(tmp_path, **keep, primary_key=None)["tables[0].partial_updates"]
    columns = {"partial_columns": ["id", "v"]}
    assert "never kept" in table_faults(tmp_path, **keep, **columns)["tables[0].partial_columns"]
    assert "without partial_updates: keep" in table_faults(tmp_path, **columns)["tables[0].partial_columns"]
    tables = [
        {"source": "a/b", "primary_key": ["id"], "partial_columns": "v"},
        {"source": "a/c", "primary_key": None, "partial_updates": "overwrite"},
    ]
    read = load(tmp_path, defaults=keep, tables=tables)
    assert [table.partial_updates for table in read.tables] == ["keep", "overwrite"]
    assert read.tables[0].partial_columns == ("v",)


def test_before_images_have_a_name_or_are_switched_off(tmp_path: Path) -> None:
    """A prefix and a suffix that are both empty would make every column one."""
    faulty = table_faults(tmp_path, before_image={"prefix": ""})
    assert "before_image: null" in faulty["tables[0].before_image.suffix"]
    tables = [
        {"source": "a/b", "primary_key": ["id"], "before_image": {"prefix": "", "suffix": "_OLD"}},
        {"source": "a/c", "primary_key": ["id"], "before_image": None},
    ]
    images = [table.before_image for table in load(tmp_path, tables=tables).tables]
    assert images == [BeforeImage(prefix="", suffix="_OLD"), None]
