"""The fuzzers' targets hold for their seeds and for some hundred changes to them, without the fuzzer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

HERE = Path(__file__).parent
TARGETS = sorted({path.stem for path in HERE.glob("*.py")} - {"mutate", "run", "test_corpus"})
CHANGES = 300


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", HERE / f"{name}.py")
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_for_changes_to_them(name: str) -> None:
    target, mutated, draw = module(name), module("mutate").mutated, Random(name)
    inputs = list(target.seeds())
    for data in inputs:
        target.check(data)
    for _ in range(CHANGES):
        inputs.append(mutated(draw.choice(inputs), draw))
        target.check(inputs[-1])


def test_a_change_is_the_same_for_the_same_seed() -> None:
    mutated, data = module("mutate").mutated, module("wire").seeds()[-1]
    assert mutated(data, Random(7)) == mutated(data, Random(7)) != data
