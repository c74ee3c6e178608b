"""The docs say everything that a user can set, call or watch, and their examples work."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from cdcloader.cli import app
from cdcloader.config import load_config
from cdcloader.config.faults import models_in
from cdcloader.config.models import FileConfig, Model, Table, TableDefaults
from cdcloader.logs import BOUND_KEYS, BOUND_PREFIXES
from cdcloader.metrics import Metrics

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def first_cells(page: str) -> set[str]:
    """The code words in the first column of a page's tables."""
    cells = (line.split("|")[1] for line in text_of(page).splitlines() if line.startswith("| "))
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def keys_of(model: type[Model], above: str = "") -> set[str]:
    """Every key of the config as configuration.md writes it: `batch.max_files`; a table's keys without a prefix."""
    found = set()
    for name, field in model.model_fields.items():
        found.add(above + name)
        for inner in models_in(field.annotation):
            if inner is Table:
                found |= {f"tables[].{key}" for key in Table.model_fields if key not in TableDefaults.model_fields}
            found |= keys_of(inner, "" if issubclass(inner, TableDefaults) else f"{above}{name}.")
    return found - (Table.model_fields.keys() - TableDefaults.model_fields.keys())


def blocks(language: str) -> list[Any]:
    found = []
    for page in PAGES:
        texts = [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]
        found += [pytest.param(body, id=f"{page.stem}-{number}") for number, body in enumerate(texts)]
    return found


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def test_every_config_key_is_described():
    """A key that the models know has its row in docs/configuration.md, and a row there is a key."""
    described = {key for key in first_cells("docs/configuration.md") if re.fullmatch(r"[a-z_.\[\]]+", key)}
    assert described == keys_of(FileConfig)


def test_every_config_key_is_in_the_example():
    """config.example.yaml shows every key of the models (the sections of the other kinds of state in comments)."""
    example = text_of("config.example.yaml")
    missing = {key for key in keys_of(FileConfig) if not re.search(rf"\b{key.rpartition('.')[2]}:", example)}
    assert missing == set()


def test_the_config_defaults_are_those_described():
    """A plain default in docs/configuration.md is the one that the models have."""
    rows = [line.split("|")[1:4] for line in text_of("docs/configuration.md").splitlines() if line.startswith("| `")]
    stated = {key.strip(" `"): default.strip() for key, _, default in rows}
    for model, above in ((FileConfig, ""), *((m, f"{n}.") for n, m in sections())):
        for name, field in model.model_fields.items():
            if isinstance(field.default, int | str) and not isinstance(field.default, bool) and name != "kind":
                assert stated[above + name].strip("`") == str(field.default)


def sections() -> list[tuple[str, type[Model]]]:
    tables = {name: field for name, field in TableDefaults.model_fields.items() if models_in(field.annotation)}
    fields = {name: field for name, field in FileConfig.model_fields.items() if name not in ("tables", "defaults")}
    return [(name, model) for name, field in (fields | tables).items() for model in models_in(field.annotation)]


def test_every_command_and_option_is_described():
    """What the CLI offers stands in docs/operating.md: each command, and each option with its short form."""
    page = text_of("docs/operating.md")
    command = typer.main.get_command(app)
    offered = {f"`cdcloader {name}`" for name in command.commands}
    for inner in command.commands.values():
        options = [o for param in inner.params for o in param.opts if param.param_type_name == "option"]
        offered |= {f"`{option}`" for option in options}
    assert {name for name in offered if name not in page} == set()


def test_every_described_command_exists():
    """No command is promised that is not there."""
    named = {name for page in PAGES for name in re.findall(r"`(?:\S*/)?cdcloader (\w+)", page.read_text("utf-8"))}
    assert named <= set(typer.main.get_command(app).commands)


def test_every_metric_is_described():
    """Each metric that is exported has its row in docs/operating.md, and each row is exported."""
    described = {name for name in first_cells("docs/operating.md") if name.startswith("cdcloader_")}
    registry = CollectorRegistry()
    Metrics(registry)
    suffix = {"counter": "_total", "info": "_info"}
    exported = {family.name + suffix.get(family.type, "") for family in registry.collect()}
    assert described == {name for name in exported if name.startswith("cdcloader_")}


def test_every_described_log_key_is_bound():
    """The keys of the wide line in docs/operating.md are keys that a log line may bind."""
    wide = text_of("docs/operating.md").partition("Each batch has one wide line")[2].partition("Other lines")[0]
    rows = [line.split("|")[1] for line in wide.splitlines() if line.startswith("| `")]
    keys = {key for cell in rows for key in re.findall(r"`(\w+)`", cell)}
    assert len(keys) > 20
    known = BOUND_KEYS | {"event", "level", "logger", "timestamp"}
    assert {key for key in keys if key not in known and not key.startswith(BOUND_PREFIXES)} == set()


def test_every_make_target_is_real():
    """A make target that the docs name is one."""
    named = {name for page in PAGES for name in re.findall(r"[` ]make (\w+)(?:`|  )", page.read_text("utf-8"))}
    assert {"demo", "test", "venv"} <= named
    assert named <= set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_resolves(page):
    """A relative link leads to a file of the project, and its anchor to a heading there."""
    plain = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", plain):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("body", blocks("yaml"))
def test_every_config_in_the_docs_is_valid(tmp_path, monkeypatch, body):
    """Each YAML block of the docs is a whole config, and it loads."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "cdcloader.yaml"
    file.write_text(body, encoding="utf-8")
    assert load_config(file, {}).tables


def test_the_variables_in_the_docs_are_settings(tmp_path):
    """The environment variables that docs/configuration.md shows override what they say."""
    shown = re.findall(r"^    (CDCLOADER_\w+)=(.*)$", text_of("docs/configuration.md"), re.MULTILINE)
    file = tmp_path / "cdcloader.yaml"
    tables = [{"source": "sales/orders", "primary_key": "id"}]
    places = {"raw": str(tmp_path / "raw"), "lake": str(tmp_path / "lake")}
    file.write_text(yaml.safe_dump({**places, "state": {"kind": "dynamodb"}, "tables": tables}), encoding="utf-8")
    config = load_config(file, dict(shown))
    assert config.http is None
    assert config.full_load.quiet_seconds == 0
    assert config.tables[0].csv.delimiter == ";"
    assert config.state.table == "Staging_Controller"


def test_the_variable_for_the_config_file_is_no_setting(tmp_path, monkeypatch):
    """CDCLOADER_CONFIG names the file, as the docs say, and is not taken for a key of it."""
    file = tmp_path / "mine.yaml"
    file.write_text(blocks("yaml")[0].values[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["validate"], env={"CDCLOADER_CONFIG": str(file)})
    assert (done.exit_code, "mine.yaml: valid" in done.output) == (0, True), done.output


@pytest.mark.parametrize("body", blocks("python"))
def test_every_program_in_the_docs_compiles(body):
    """Each Python block of the docs is Python."""
    compile(inspect.cleandoc(body), "docs", "exec")


def test_the_docs_name_no_machine():
    """No page holds a path of a developer's machine."""
    for page in PAGES:
        assert re.findall(r"(?<![\w.<])/(?:home|root|tmp|work|Users)/", page.read_text(encoding="utf-8")) == [], page


def test_the_settings_of_dms_are_spelled_as_its_api_has_them():
    """docs/dms.md names every setting of an S3 endpoint, and none that there is not."""
    page = text_of("docs/dms.md")
    members = set(botocore.session.get_session().get_service_model("dms").shape_for("S3Settings").members)
    named = set(re.findall(r"`((?:[A-Z][a-z0-9]+){2,})`", page)) - {"S3Settings"}
    of_tasks = {"HandleSourceTableAltered", "TargetTablePrepMode"}
    assert named - members == of_tasks
    assert members - named - set(re.findall(r"`(\w+)`", page)) == {"ServiceAccessRoleArn"}


def test_the_keys_beside_the_settings_of_dms_are_keys():
    """Each word in the last column of docs/dms.md is a key of the config, a command, or a link."""
    rows = [line.split(" | ") for line in text_of("docs/dms.md").splitlines() if line.startswith("| ")]
    words = {word for row in rows if len(row) == 3 for word in re.findall(r"`([\w.]+)", row[2])}
    assert words - keys_of(FileConfig) - {"source", "resume"} == set()
