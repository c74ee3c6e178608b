"""The budget follows the memory that this process may take: that of its control group, or the machine's."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cdcloader.cli import app
from cdcloader.config import memory_limit
from cdcloader.config.memory_limit import budget_mb, budget_warning, cgroup_limit_bytes, default_budget_mb

GIB = 1 << 30
UNLIMITED = "9223372036854771712"


def tree(root, files):
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({}, None, id="no control groups at all"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"}, GIB, id="a container"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/memory.max": "7",
            },
            7,
            id="the limit stands above",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "9", "sys/fs/cgroup/a/memory.max": "7"},
            7,
            id="the tighter one above counts",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/memory.max": f"{GIB}\n"},
            GIB,
            id="a path of the host's",
        ),
        pytest.param(
            {"proc/self/cgroup": "4:memory:/docker/ab\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}"},
            GIB,
            id="version 1 in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "9:cpu,memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "5",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
            },
            5,
            id="version 1 with two controllers",
        ),
        pytest.param(
            {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED},
            None,
            id="version 1 without a limit",
        ),
        pytest.param(
            {"proc/self/cgroup": "4:memory:/\n0::/u\n", "sys/fs/cgroup/unified/u/memory.max": "3"},
            3,
            id="both versions",
        ),
        pytest.param({"proc/self/cgroup": "nonsense\n\n:::\n0:", "sys/fs/cgroup/memory.max": "x"}, None, id="nonsense"),
    ],
)
def test_the_limit_is_found(tmp_path, files, limit):
    """The least limit of the process's own group and those above it, whatever the layout of the tree."""
    assert cgroup_limit_bytes(tree(tmp_path, files)) == limit


@pytest.mark.parametrize(
    ("limit_mb", "budget"), [(100, 256), (400, 300), (2048, 1536), (5461, 4095), (8192, 4096), (1 << 20, 4096)]
)
def test_the_default_is_three_quarters(tmp_path, monkeypatch, limit_mb, budget):
    """Three quarters of the limit, 256 MiB at least and 4096 at most."""
    monkeypatch.setattr(memory_limit, "_physical_bytes", lambda: 1 << 50)
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(limit_mb << 20)}
    assert default_budget_mb(tree(tmp_path, files)) == budget


def test_the_machine_bounds_a_limit_that_it_cannot_keep(tmp_path, monkeypatch):
    """A limit above what the machine has is none."""
    monkeypatch.setattr(memory_limit, "_physical_bytes", lambda: GIB)
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(64 * GIB)}
    assert default_budget_mb(tree(tmp_path, files)) == 768
    assert default_budget_mb(tmp_path / "nothing") == 768


def test_a_budget_that_does_not_fit_is_told(tmp_path, monkeypatch):
    """A stated budget holds as it is, with a warning where the process would be killed for it."""
    monkeypatch.setattr(memory_limit, "_physical_bytes", lambda: GIB)
    assert budget_mb(5000) == 5000
    assert budget_warning(1024, tmp_path) == ""
    assert budget_warning(None, tmp_path) == ""
    assert budget_warning(1025, tmp_path).startswith("memory_budget_mb is 1025, but this process may take 1024 MiB")
    assert budget_warning(256, tmp_path) == ""
    assert "keeps to no less than 256" in budget_warning(255, tmp_path)


def test_validate_says_the_budget(tmp_path):
    """What the budget comes to is seen before anything runs."""
    config = tmp_path / "c.yaml"
    text = f"raw: {tmp_path}/raw\nlake: {tmp_path}/lake\nstate: {{kind: memory}}\n"
    config.write_text(f"{text}tables: [{{source: s/t, primary_key: id}}]\n")
    done = CliRunner().invoke(app, ["validate", "--config", str(config)])
    assert (done.exit_code, f"memory budget: {default_budget_mb()} MiB" in done.output) == (0, True)
    config.write_text(f"{text}memory_budget_mb: 99999999\ntables: [{{source: s/t, primary_key: id}}]\n")
    done = CliRunner().invoke(app, ["validate", "--config", str(config)])
    assert done.exit_code == 0
    assert "memory_budget_mb is 99999999, but this process may take" in done.output
