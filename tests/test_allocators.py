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


@pytest.mark.skipif(sys.platform != "linux", reason="the allocators' settings are those of Linux")
def test_a_tight_process_still_works():
    """The settings for small budgets are taken by the libraries that are installed."""
    code = "from cdcloader.allocators import keep_little; keep_little(); import polars as pl; "
    assert run(code + "print(pl.DataFrame({'a': [1]}).to_arrow().num_rows)") == "1"
