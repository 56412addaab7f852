"""The same file in llama.cpp: logits in the same direction, and ours no farther from exact arithmetic than its are.

Both quantise activations, each in its own way: llama.cpp by 256 where weights are of a K type, which is coarser. Rows
with flash attention would differ by 2e-2 more: it is off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from slipstream.runtime_ext.gguf import Gguf

llama_cpp = pytest.importorskip("llama_cpp", reason="the oracle needs llama-cpp-python: make oracle")
np = pytest.importorskip("numpy", reason="the oracle needs numpy: make oracle")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

TOKENS = Random(1).choices(range(1000), k=100)
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M")


def theirs(path: Path) -> Any:
    """The logits after each token, by llama.cpp."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, flash_attn=False, verbose=False
    )
    llama.eval(TOKENS)
    rows = llama.scores[: len(TOKENS)].copy()
    llama.close()
    return rows


def exact(path: Path, models: ModuleType) -> Path:
    """The same model in 32-bit floats, those that its blocks stand for."""
    made = path.with_suffix(".exact")
    with Gguf.open(path) as gguf:
        listed = [(t.name, t.shape, "F32") for t in gguf.tensors.values()]
        floats = (models.dequantise(t.type, gguf.tensor_data(t.name)) for t in gguf.tensors.values())
        models.write(made, dict(gguf.metadata), listed, (iter([models.quantise("F32", one)]) for one in floats))
    return made


def apart(a: Any, b: Any) -> tuple[float, float]:
    """The cosine between two tables of logits, and the root of their mean square difference over b's deviation."""
    cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    return float(cosine), float(np.sqrt(((a - b) ** 2).mean()) / b.std())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_llama_cpp(
    arch: str, kind: str, models: ModuleType, made: Callable[..., Path], ours: Callable[..., tuple[object, Any]]
) -> None:
    """As near as two roundings of activations let them be; and no farther from what is exact than it is."""
    path = made(arch, kind)
    here, there, right = np.array(ours(path, TOKENS)[1]), theirs(path), np.array(ours(exact(path, models), TOKENS)[1])
    (cosine, error), (_, mine), (_, its) = apart(here, there), apart(here, right), apart(there, right)
    print(f"{arch} {kind}: cosine {cosine:.7f}, rms {error:.4f}; off the exact: {mine:.4f}, and llama.cpp {its:.4f}")
    assert cosine > (0.9999 if kind in ("F32", "F16", "BF16") else 0.999)
    assert mine < 1.1 * its + 0.001
