"""How the process is told to keep little memory."""

import os
import subprocess
import sys

import pytest


def run(code, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_package_sets_arenas_before_polars_is_there():
    """Polars' allocator reads its settings once, so the first import of the package makes them, and stays light."""
    code = "import os, sys, cdcloader; print('polars' in sys.modules, 'pyarrow' in sys.modules); import polars; "
    light, settings = run(code + "print(os.environ['_RJEM_MALLOC_CONF'])").splitlines()
    assert light == "False False"
    assert "narenas:" in settings


def test_what_an_operator_has_set_stands():
    """Settings of the allocator in the environment are not changed by ours."""
    code = "import os, cdcloader; print(os.environ['_RJEM_MALLOC_CONF'])"
    assert run(code, _RJEM_MALLOC_CONF="narenas:7") == "narenas:7"


@pytest.mark.parametrize(("budget_mb", "tight"), [(512, True), (2048, False)])
def test_a_tight_budget_is_heard_before_polars_is_there(tmp_path, budget_mb, tight):
    """A command reads its config without Polars, so that a small budget can tell Polars' allocator to keep nothing."""
    config = tmp_path / "cdcloader.yaml"
    config.write_text(
        f"raw: {tmp_path}/raw\nlake: {tmp_path}/lake\nstate: {{kind: memory}}\nmemory_budget_mb: {budget_mb}\n"
        "tables: [{source: s/t, primary_key: [id], columns: {id: long}}]\n"
    )
    code = "import os, sys, pathlib; from cdcloader.cli.app import read_config; "
    code += (
        f"read_config(pathlib.Path({str(config)!r})); print('polars' in sys.modules, os.environ['_RJEM_MALLOC_CONF'])"
    )
    light, settings = run(code).split()
    assert light == "False"
    assert ("dirty_decay_ms:0" in settings) is tight
    assert "narenas:7" in run(code, _RJEM_MALLOC_CONF="narenas:7").split()
    # A process that has imported Polars hands on what Polars has set, which is nobody's wish.
    parent = "import cdcloader, polars, subprocess, sys; "
    _, inherited = run(f"{parent}subprocess.run([sys.executable, '-c', {code!r}], check=True)").split()
    assert ("dirty_decay_ms:0" in inherited) is tight


@pytest.mark.skipif(sys.platform != "linux", reason="the allocators' settings are those of Linux")
def test_a_tight_process_still_works():
    """The settings for small budgets are taken by the libraries that are installed."""
    code = "from cdcloader.allocators import keep_little; keep_little(); import polars as pl; "
    assert run(code + "print(pl.DataFrame({'a': [1]}).to_arrow().num_rows)") == "1"
