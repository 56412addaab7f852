"""Small models with random weights, as files, and what this engine makes of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.model import Model, Session

MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"

Maker = Callable[..., Path]


@pytest.fixture(scope="session")
def models() -> ModuleType:
    """The program that makes them."""
    spec = importlib.util.spec_from_file_location("make_gguf", MAKE)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def made(models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Makes a tiny model file of an architecture and a type; `more` is metadata beside what belongs to it."""
    folder = tmp_path_factory.mktemp("models")

    def make(arch: str, kind: str, more: dict[str, Any] | None = None, factors: bool = False) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}-{arch}-{kind}.gguf"
        models.make(path, kind=kind, arch=arch, rope_freqs=factors)
        if more:
            with Gguf.open(path) as gguf:
                listed = [(t.name, t.shape, t.type) for t in gguf.tensors.values()]
                data = [iter([bytes(gguf.tensor_data(name))]) for name in gguf.tensors]
                models.write(path.with_suffix(".more"), dict(gguf.metadata) | more, listed, iter(data))
            path = path.with_suffix(".more")
        return path

    return make


@pytest.fixture(scope="session")
def ours() -> Callable[[Path, list[int]], tuple[Session, list[list[float]]]]:
    """A session of this engine that took tokens in, and its logits after each."""

    def compute(path: Path, tokens: list[int]) -> tuple[Session, list[list[float]]]:
        with Gguf.open(path) as gguf:
            session = Session(Model(gguf), len(tokens))
        session.advance(tokens, wanted=len(tokens))
        return session, [session.logits(row) for row in range(len(tokens))]

    return compute
