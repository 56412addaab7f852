"""Logits that were right once, and are the same on every machine, to the last bit.

`LOGITS` are what transformers 5.24 on torch 2.13 makes of the weights (tests/oracle). `BITS` are ours: where arithmetic
changes on purpose they change, and NUMERICS with them, because sessions of before do not go on then.
`python tests/runtime_ext/test_golden.py` writes them anew.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from array import array
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.model import NUMERICS, Model, Session

MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
TOKENS = [(7 * i * i + 3 * i) % 900 for i in range(75)]
ROWS = (0, 20, 74)
"""After which of them logits are looked at."""

LOGITS: dict[str, list[list[tuple[int, float]]]] = {
    "llama": [
        [(772, 5.8004), (615, 5.4992), (942, 5.1763)],
        [(278, 8.1627), (975, 5.5339), (752, 5.3007)],
        [(1009, 6.4374), (148, 6.2209), (415, 5.9399)],
    ],
    "qwen2": [
        [(528, 8.5858), (241, 6.7150), (813, 6.5451)],
        [(650, 6.5001), (487, 5.9383), (958, 5.2349)],
        [(382, 7.1342), (106, 6.5816), (487, 5.4345)],
    ],
    "qwen3": [
        [(1021, 6.0952), (597, 5.4393), (812, 5.1644)],
        [(178, 5.9785), (372, 5.9315), (732, 5.5335)],
        [(34, 5.8997), (118, 5.8142), (429, 5.7618)],
    ],
}
"""By architecture, of 32-bit floats: in each row the three likeliest tokens."""

BITS: dict[tuple[str, str], tuple[str, str]] = {
    ("qwen2", "F32"): ("7b97b68f77e8f717", "8466c8b021d6c73f"),
    ("qwen2", "F16"): ("338d7d628fdb80b0", "bdf932b6351ec502"),
    ("qwen2", "BF16"): ("d481fb0425b77f74", "acbcfd7dd9e5c2c5"),
    ("qwen2", "Q8_0"): ("c3d09f012408113b", "44e99196b7e95ae0"),
    ("qwen2", "Q4_0"): ("11baa699cf43053f", "592d3b6f36ef4597"),
    ("qwen2", "Q5_0"): ("872e9dbbd87fdf47", "25aaa7dc3be19ec8"),
    ("qwen2", "Q5_K"): ("1a771cfc2862312d", "4ae4a37c1f2f6e87"),
    ("qwen2", "Q4_K_M"): ("81537f324aa97521", "2984108643b6d8b6"),
    ("llama", "F32"): ("5892862eb2f92eee", "66326c9969cdee61"),
    ("llama", "Q4_K_M"): ("b3f13cd1bc20fd6d", "fcde8144c8ee99c4"),
    ("qwen3", "F32"): ("fca026e732fd0483", "70b7d2bc66842de3"),
    ("qwen3", "Q8_0"): ("8701df4bd9ae1ae3", "7d86f06479e10346"),
}
"""By architecture and type: the beginnings of the SHA-256 of the file, and of the logits in those rows."""

KV_BITS: dict[tuple[str, str], str] = {
    ("qwen2", "F32"): "b84d0af339039508",
    ("qwen2", "Q4_0"): "72935a3f1eaecebb",
    ("llama", "F32"): "7d3d4a1dfe14fa10",
    ("qwen3", "Q8_0"): "b15ae80791c0e265",
}
"""The same of the logits where keys and values are kept in 8 bits."""


def models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gguf", MAKE)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


def rows(path: Path, kv: Literal["f16", "q8_0"] = "f16") -> list[list[float]]:
    with Gguf.open(path) as gguf:
        session = Session(Model(gguf), len(TOKENS), kv=kv)
    session.advance(TOKENS, wanted=len(TOKENS))
    return [session.logits(row) for row in ROWS]


def bits(path: Path, kv: Literal["f16", "q8_0"] = "f16") -> tuple[str, str]:
    logits = array("f", [value for row in rows(path, kv) for value in row])
    if sys.byteorder == "big":
        logits.byteswap()
    return sha256(path.read_bytes()).hexdigest()[:16], sha256(logits.tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def make() -> ModuleType:
    return models()


@pytest.mark.parametrize("arch", LOGITS)
def test_logits_are_what_transformers_made_of_the_weights(arch: str, make: ModuleType, tmp_path: Path) -> None:
    make.make(tmp_path / "m.gguf", kind="F32", arch=arch)
    for here, there in zip(rows(tmp_path / "m.gguf"), LOGITS[arch], strict=True):
        assert sorted(range(len(here)), key=lambda token: -here[token])[: len(there)] == [token for token, _ in there]
        assert [here[token] for token, _ in there] == pytest.approx([value for _, value in there], abs=2e-4)


@pytest.mark.parametrize(("arch", "kind"), BITS)
def test_bits_are_the_same_everywhere(arch: str, kind: str, make: ModuleType, tmp_path: Path) -> None:
    make.make(tmp_path / "m.gguf", kind=kind, arch=arch)
    file, logits = bits(tmp_path / "m.gguf")
    assert file == BITS[arch, kind][0], "this Python made another file: the logits say nothing"
    assert logits == BITS[arch, kind][1]


@pytest.mark.parametrize(("arch", "kind"), KV_BITS)
def test_bits_are_the_same_everywhere_with_keys_and_values_in_8_bits(
    arch: str, kind: str, make: ModuleType, tmp_path: Path
) -> None:
    make.make(tmp_path / "m.gguf", kind=kind, arch=arch)
    assert bits(tmp_path / "m.gguf", "q8_0")[1] == KV_BITS[arch, kind]


def test_the_table_is_of_these_numerics() -> None:
    assert NUMERICS == 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for arch, kind in BITS:
            models().make(Path(folder, "m.gguf"), kind=kind, arch=arch)
            print(f"    {(arch, kind)}: {bits(Path(folder, 'm.gguf'))},".replace("'", '"'))
        for arch, kind in KV_BITS:
            models().make(Path(folder, "m.gguf"), kind=kind, arch=arch)
            print(f"    {(arch, kind)}: {bits(Path(folder, 'm.gguf'), 'q8_0')[1]!r},".replace("'", '"'))
