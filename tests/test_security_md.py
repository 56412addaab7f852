"""SECURITY.md claims nothing without a test: each that it names exists, and each claim names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TESTS = re.findall(r"^([0-9]+)\. `(tests/[\w/]+\.py)::(test_\w+)`$", TEXT, re.MULTILINE)
CLAIMS = TEXT.partition("\n## The tests\n")[0]


@pytest.mark.parametrize(("path", "name"), [(path, name) for _, path, name in TESTS], ids=[n for n, _, _ in TESTS])
def test_each_test_that_it_names_exists(path: str, name: str) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, functions)}


def test_each_number_in_it_is_a_test_and_each_test_is_referred_to() -> None:
    said: set[int] = set()
    for group in re.findall(r"\[([0-9,\s-]+)\]", CLAIMS):
        for part in group.split(","):
            first, _, last = part.partition("-")
            said |= set(range(int(first), int(last or first) + 1))
    assert said == {int(number) for number, _, _ in TESTS}
    assert [int(number) for number, _, _ in TESTS] == list(range(1, len(TESTS) + 1))
    assert TEXT.count("tests/") == len(TESTS) + 1  # and the file that sees to it


def test_it_stays_at_two_pages_of_claims() -> None:
    assert len(CLAIMS.splitlines()) <= 110
    assert max(map(len, CLAIMS.splitlines())) <= 120
