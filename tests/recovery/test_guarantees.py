"""docs/guarantees.md names the tests that show what it says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists():
    """A line of the page is worth what its test is: each `folder/test_file.py::test_name` is one."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    missing = []
    for file, name in named:
        path = ROOT / "tests" / file
        if not path.is_file() or f"\ndef {name}(" not in path.read_text(encoding="utf-8"):
            missing.append(f"{file}::{name}")
    assert missing == []


def test_the_figures_have_their_place():
    """`make soak` writes its figures between these marks, which stand there once."""
    assert PAGE.count("<!-- soak -->") == PAGE.count("<!-- /soak -->") == 1
    assert PAGE.index("<!-- soak -->") < PAGE.index("<!-- /soak -->")
